package dhcpd

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

var (
	requestor = sixacre.DUID{0, 3, 0, 1, 6, 0, 0, 0, 0, 0xff}
	farRelay  = netip.MustParseAddr("2001:db8:ffff::1")
	noon      = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
)

// seenClients is what the store holds, in the order of MACs.
type seenClients struct {
	mu      sync.Mutex
	clients []sixacre.Sighting
	holders map[netip.Addr]sixacre.MAC // of addresses and the first of each prefix
	failure error
	asked   func() // called at each page
}

func (s *seenClients) HolderOf(_ context.Context, pod sixacre.Pod, address netip.Addr) (sixacre.MAC, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mac, ok := addr.MAC(address); ok && (pod.LinkPrefix.Contains(address) || address == addr.LinkLocal(mac)) {
		return mac, true, s.failure
	}
	mac, ok := s.holders[netip.PrefixFrom(address, 60).Masked().Addr()]
	return mac, ok, s.failure
}

func (s *seenClients) ClientSeen(_ context.Context, pod string, mac sixacre.MAC) (sixacre.Sighting, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.clients, func(c sixacre.Sighting) bool { return c.Pod == pod && c.MAC == mac })
	if i < 0 {
		return sixacre.Sighting{}, false, s.failure
	}
	return s.clients[i], true, s.failure
}

func (s *seenClients) ClientsSeen(_ context.Context, pod string, after sixacre.MAC, limit int) ([]sixacre.Sighting, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked != nil {
		s.asked()
	}
	var page []sixacre.Sighting
	for _, c := range s.clients {
		if c.Pod == pod && slices.Compare(c.MAC[:], after[:]) > 0 && len(page) < limit {
			page = append(page, c)
		}
	}
	return page, s.failure
}

// bound is a client that was given its leases that long before noon, through the
// relay ::1, and was heard a minute later.
func bound(pod string, mac sixacre.MAC, ago time.Duration) sixacre.Sighting {
	return sixacre.Sighting{
		Pod: pod, MAC: mac, DUID: addr.DUIDLL(mac), Message: "renew",
		Bound: noon.Add(-ago), Time: noon.Add(time.Minute - ago),
		Paths: []sixacre.Path{{
			Relay: netip.IPv6Loopback(), Peer: addr.LinkLocal(mac), Link: netip.MustParseAddr("2001:db8:100:1::1"), InterfaceID: sixacre.Octets("eth0"),
		}},
	}
}

// asked is a server that answers leasequeries, of pods that ::1 is a relay of.
type asked struct {
	*server
	seen *seenClients
}

func ask(t *testing.T, seen *seenClients, nouns ...sixacre.Noun) *asked {
	t.Helper()
	slices.SortFunc(seen.clients, func(a, b sixacre.Sighting) int {
		return cmp.Or(cmp.Compare(a.Pod, b.Pod), slices.Compare(a.MAC[:], b.MAC[:]))
	})
	s := newServer()
	s.AnswerLeasequeries(s.reg, seen, func() time.Time { return noon })
	s.Apply(true, put(append(nouns, serverID)...), 1)
	s.Confirm(0, 1)
	return &asked{s, seen}
}

// datagram asks as ::1 does and returns the answer, or nil.
func (a *asked) datagram(t *testing.T, q dhcp6.LeaseLookup) *dhcp6.LeaseAnswer {
	t.Helper()
	return a.from(t, netip.IPv6Loopback(), q)
}

func (a *asked) from(t *testing.T, source netip.Addr, q dhcp6.LeaseLookup) *dhcp6.LeaseAnswer {
	t.Helper()
	b := a.answerLeasequery(t.Context(), lookup(q), netip.AddrPortFrom(source, 40000))
	if b == nil {
		return nil
	}
	var reply dhcp6.LeaseAnswer
	if why := reply.Parse(b); why != dhcp6.Answered {
		t.Fatal(why)
	}
	if reply.Type != dhcp6.LeasequeryReply || reply.Transaction != [3]byte{1, 2, 3} || string(reply.ClientID) != string(requestor) || string(reply.ServerID) != string(serverID.DUID) {
		t.Fatalf("%+v", reply)
	}
	return &reply
}

// lookup is the query from our requestor.
func lookup(q dhcp6.LeaseLookup) []byte {
	q.ClientID = requestor
	if q.Transaction == [3]byte{} {
		q.Transaction = [3]byte{1, 2, 3}
	}
	if !q.Link.IsValid() {
		q.Link = netip.IPv6Unspecified()
	}
	return q.Append(nil)
}

func byAddress(a string) dhcp6.LeaseLookup {
	return dhcp6.LeaseLookup{Type: dhcp6.QueryByAddress, Address: netip.MustParseAddr(a)}
}

func byClientID(duid []byte) dhcp6.LeaseLookup {
	return dhcp6.LeaseLookup{Type: dhcp6.QueryByClientID, DUID: duid}
}

// told writes an answer down.
func told(a *dhcp6.LeaseAnswer) string {
	if a == nil {
		return "silence"
	}
	var out []string
	if a.Status != dhcp6.StatusSuccess {
		out = append(out, a.Status.String())
	}
	for _, l := range a.Links {
		out = append(out, "link "+l.String())
	}
	if c := a.Client; c != nil {
		out = append(out, fmt.Sprintf("client %x last %d", c.ClientID, c.Last))
		for _, l := range c.Addresses {
			out = append(out, fmt.Sprintf("%s %d/%d", l.Address, l.Preferred, l.Valid))
		}
		for _, l := range c.Prefixes {
			out = append(out, fmt.Sprintf("%s %d/%d", l.Prefix, l.Preferred, l.Valid))
		}
		if c.Relay.From.IsValid() {
			out = append(out, fmt.Sprintf("from %s on %s %q at %s", c.Relay.From, c.Relay.Link, c.Relay.InterfaceID, c.Relay.Peer))
		}
	}
	return strings.Join(out, ", ")
}

// pod2 has ::1 as its relay too, pod3 only another.
func pods() (pod2, pod3 sixacre.Pod) {
	pod2, pod3 = pod1, pod1
	pod2.Name, pod2.LinkPrefix, pod2.Pools = "pod2", netip.MustParsePrefix("2001:db8:100:2::/64"), nil
	pod3.Name, pod3.LinkPrefix, pod3.Relays = "pod3", netip.MustParsePrefix("2001:db8:100:3::/64"), []netip.Addr{farRelay}
	pod3.Pools = []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:6000::/40"), DelegatedLength: 60}}
	return pod2, pod3
}

func on(pod string, i sixacre.Instance) sixacre.Instance {
	i.NICs[0].Pod = pod
	return i
}

func TestLeasequeryInDatagrams(t *testing.T) {
	pod2, pod3 := pods()
	mac := func(n byte) sixacre.MAC { return sixacre.MAC{6, 0, 0, 0, 0, n} }
	pod2.PreferredLifetime, pod2.ValidLifetime = sixacre.Infinity, sixacre.Infinity
	released, endless := bound("pod1", mac(3), time.Hour), bound("pod2", mac(3), time.Hour)
	released.Bound, endless.Bound = time.Time{}, time.Time{}
	clone, elder := bound("pod1", mac(5), 2*time.Hour), bound("pod1", mac(0), 3*time.Hour)
	clone.DUID, elder.DUID = addr.DUIDLL(mac(1)), addr.DUIDLL(mac(1))
	twoWays := bound("pod1", mac(6), time.Hour)
	twoWays.Paths = append([]sixacre.Path{{Relay: farRelay, Peer: netip.MustParseAddr("fe80::6"), Link: netip.IPv6Unspecified()}}, twoWays.Paths...)
	otherWay := bound("pod1", mac(8), time.Hour)
	otherWay.Paths[0] = sixacre.Path{Relay: farRelay, Peer: addr.LinkLocal(mac(8)), Link: netip.IPv6Unspecified()}
	notKept := bound("pod1", mac(10), time.Hour)
	notKept.Paths = append(notKept.Paths, twoWays.Paths[0])
	notKept.Paths[0].Link, notKept.Paths[0].InterfaceID = netip.Addr{}, nil
	seen := &seenClients{
		clients: []sixacre.Sighting{
			bound("pod1", mac(1), time.Hour), bound("pod1", mac(2), 12*time.Hour), released, endless, clone, elder, twoWays, otherWay, notKept,
			bound("pod1", mac(7), time.Hour), bound("pod2", mac(7), time.Hour), bound("pod3", mac(1), time.Hour), bound("pod1", mac(9), time.Hour),
		},
		holders: map[netip.Addr]sixacre.MAC{netip.MustParseAddr("2001:db8:4000:10::"): mac(1), netip.MustParseAddr("2001:db8:6000:10::"): mac(1)},
	}
	a := ask(t, seen, pod1, pod2, pod3,
		instance("i-1", mac(1), "2001:db8:4000:10::/60", "2001:db8:4000:20::/60"), instance("i-2", mac(2), "2001:db8:4000:30::/60"),
		instance("i-3", mac(3)), on("pod2", instance("i-3b", mac(3))), instance("i-0", mac(0)), instance("i-4", mac(4)), instance("i-5", mac(5), "2001:db8:4000:50::/60"), instance("i-6", mac(6)), instance("i-8", mac(8)), instance("i-10", mac(10)),
		instance("i-7", mac(7)), on("pod2", instance("i-7b", mac(7))), on("pod3", instance("i-1c", mac(1), "2001:db8:6000:10::/60")))
	// 4 h preferred and 12 h valid, an hour ago.
	i1 := "client 00030001060000000001 last 3540, 2001:db8:100:1:400:ff:fe00:1 10800/39600, 2001:db8:4000:10::/60 10800/39600, 2001:db8:4000:20::/60 10800/39600"
	relayed := func(q dhcp6.LeaseLookup) dhcp6.LeaseLookup { q.RelayData = true; return q }
	at := func(link string, q dhcp6.LeaseLookup) dhcp6.LeaseLookup { q.Link = netip.MustParseAddr(link); return q }
	for _, test := range []struct {
		what string
		q    dhcp6.LeaseLookup
		want string
	}{
		{"by its address", byAddress("2001:db8:100:1:400:ff:fe00:1"), i1},
		{"by an address in its prefix", byAddress("2001:db8:4000:1f::5"), i1},
		{"by its link-local address", at("2001:db8:100:1::1", byAddress("fe80::400:ff:fe00:1")), i1},
		{"by its link-local address on any link", byAddress("fe80::400:ff:fe00:1"), "NotConfigured"},
		{"by its address on another link", at("2001:db8:100:2::1", byAddress("2001:db8:100:1:400:ff:fe00:1")), ""},
		{"with the relay", relayed(byAddress("2001:db8:4000:10::")), i1 + `, from ::1 on 2001:db8:100:1::1 "eth0" at fe80::400:ff:fe00:1`},
		{"with the asking one of its relays", relayed(byAddress("2001:db8:100:1:400:ff:fe00:6")), `client 00030001060000000006 last 3540, 2001:db8:100:1:400:ff:fe00:6 10800/39600, from ::1 on 2001:db8:100:1::1 "eth0" at fe80::400:ff:fe00:6`},
		{"with another's relay", relayed(byAddress("2001:db8:100:1:400:ff:fe00:8")), `client 00030001060000000008 last 3540, 2001:db8:100:1:400:ff:fe00:8 10800/39600, from 2001:db8:ffff::1 on :: "" at fe80::400:ff:fe00:8`},
		{"with a relay of which nothing more is kept", relayed(byAddress("2001:db8:100:1:400:ff:fe00:a")), "client 0003000106000000000a last 3540, 2001:db8:100:1:400:ff:fe00:a 10800/39600"},
		{"nobody's address", byAddress("2001:db8:100:1::99"), ""},
		{"nobody's prefix", byAddress("2001:db8:4000:40::"), ""},
		{"an address of nowhere", byAddress("2001:db8:7000::1"), "NotConfigured"},
		{"another pod's address", byAddress("2001:db8:100:3:400:ff:fe00:1"), "NotConfigured"},
		{"another pod's prefix", byAddress("2001:db8:6000:10::1"), "NotConfigured"},
		{"a lease that is over", byAddress("2001:db8:100:1:400:ff:fe00:2"), ""},
		{"one released", byAddress("2001:db8:100:1:400:ff:fe00:3"), ""},
		{"one released that would never be over", byAddress("2001:db8:100:2:400:ff:fe00:3"), ""},
		{"one never given", byAddress("2001:db8:100:1:400:ff:fe00:4"), ""},
		{"one of a NIC that is gone", byAddress("2001:db8:100:1:400:ff:fe00:9"), ""},
		{"by the DUID of several NICs, the one heard last", byClientID(addr.DUIDLL(mac(1))), i1},
		{"by a DUID on two links", byClientID(addr.DUIDLL(mac(7))), "link 2001:db8:100:1::, link 2001:db8:100:2::"},
		{"by that DUID on one of them", at("2001:db8:100:2::", byClientID(addr.DUIDLL(mac(7)))), "client 00030001060000000007 last 3540, 2001:db8:100:2:400:ff:fe00:7 4294967295/4294967295"},
		{"by a DUID on another relay's link", at("2001:db8:100:3::", byClientID(addr.DUIDLL(mac(1)))), "NotConfigured"},
		{"by nobody's DUID", byClientID(addr.DUIDLL(mac(99))), ""},
		{"by link", at("2001:db8:100:1::", dhcp6.LeaseLookup{Type: dhcp6.QueryByLinkAddress}), "NotAllowed"},
		{"by relay id", dhcp6.LeaseLookup{Type: dhcp6.QueryByRelayID, DUID: requestor}, "NotAllowed"},
		{"by remote id", dhcp6.LeaseLookup{Type: dhcp6.QueryByRemoteID, RemoteID: make([]byte, 10)}, "NotAllowed"},
		{"by what nobody knows", dhcp6.LeaseLookup{Type: 9}, "UnknownQueryType"},
	} {
		if got := told(a.datagram(t, test.q)); got != test.want {
			t.Errorf("%s:\n%s\nexpected\n%s", test.what, got, test.want)
		}
	}
	seen.failure = errors.New("away")
	if got := told(a.datagram(t, byAddress("2001:db8:100:1:400:ff:fe00:1"))); got != "UnspecFail" {
		t.Errorf("while the store is away: %s", got)
	}
	if got := told(a.datagram(t, byClientID(addr.DUIDLL(mac(1))))); got != "UnspecFail" {
		t.Errorf("while the store is away: %s", got)
	}
	seen.failure = nil
	pages := 0
	seen.asked = func() {
		if pages++; pages == 2 {
			seen.failure = errors.New("away")
		}
	}
	if got := told(a.datagram(t, byClientID(addr.DUIDLL(mac(7))))); got != "UnspecFail" || pages != 2 {
		t.Errorf("when the store goes away: %s", got)
	}
	if n := a.count(t, "sixacre_dhcp6_leasequeries_total", "UnspecFail"); n != 1 {
		t.Errorf("%v counted", n)
	}
}

// Who may not ask hears nothing, and each is counted.
func TestLeasequeryIsForRelays(t *testing.T) {
	query := byAddress("2001:db8:100:1:400:ff:fe00:1")
	silent := func(a *asked, source netip.Addr, why string) {
		t.Helper()
		before := a.count(t, "sixacre_dhcp6_silences_total", why)
		if got := told(a.from(t, source, query)); got != "silence" {
			t.Errorf("%s: %s", why, got)
		}
		if a.count(t, "sixacre_dhcp6_silences_total", why) != before+1 {
			t.Errorf("%s is not counted", why)
		}
	}
	seen := &seenClients{clients: []sixacre.Sighting{bound("pod1", mac1, time.Hour)}}
	a := ask(t, seen, pod1, instance("i-1", mac1))
	if got := told(a.datagram(t, query)); !strings.HasPrefix(got, "client") {
		t.Errorf("a relay: %s", got)
	}
	silent(a, farRelay, "untrusted-relay")
	silent(a, addr.EUI64(pod1.LinkPrefix, mac1), "untrusted-relay")

	// A relay whose address a NIC has, or that lies in a pool, is none.
	guest := addr.EUI64(pod1.LinkPrefix, mac1)
	pod := pod1
	pod.Relays = append(slices.Clone(pod.Relays), guest, netip.MustParseAddr("2001:db8:4000:10::1"))
	a.Apply(false, put(pod), 2)
	silent(a, guest, "guest-as-relay")
	silent(a, netip.MustParseAddr("2001:db8:4000:10::1"), "guest-as-relay")

	other := lookup(query)
	other = dhcp6.AppendOption(other, dhcp6.OptionServerID, requestor)
	if a.answerLeasequery(t.Context(), other, netip.AddrPortFrom(netip.IPv6Loopback(), 1)) != nil || a.count(t, "sixacre_dhcp6_silences_total", "other-server") != 1 {
		t.Error("one for another server was answered")
	}

	a.now.Store(int64(sixacre.MaxStale) + 1)
	silent(a, netip.IPv6Loopback(), "stale")

	// Off by default.
	b := &asked{newServer(), nil}
	b.Apply(true, put(pod1, serverID), 1)
	b.Confirm(0, 1)
	silent(b, netip.IPv6Loopback(), "leasequery-off")
}

// A leasequery is answered to where it came from, whichever port that is, and
// clients between leasequeries are answered as ever. One that somebody relayed is
// dropped.
func TestLeasequeryAtTheSocket(t *testing.T) {
	a := ask(t, &seenClients{clients: []sixacre.Sighting{bound("pod1", mac1, time.Hour)}}, pod1, instance("i-1", mac1, "2001:db8:4000:10::/60"))
	a.serve(t, "[::1]:0")
	r := newRelay(t, a.at)
	query := lookup(byAddress("2001:db8:100:1:400:ff:fe00:1"))
	for range 3 {
		if _, err := r.conn.Write(query); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1<<16)
		_ = r.conn.SetReadDeadline(time.Now().Add(patience))
		n, err := r.conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		var reply dhcp6.LeaseAnswer
		if why := reply.Parse(b[:n]); why != dhcp6.Answered || reply.Client == nil {
			t.Fatalf("%s %+v", why, reply)
		}
		if got := r.ask(mac1); !slices.Equal(got, []string{"2001:db8:4000:10::/60"}) {
			t.Errorf("got %v", got)
		}
	}
	relayed := dhcp6.AppendRelay(nil, dhcp6.RelayForward, 0, netip.MustParseAddr("2001:db8:100:1::1"), netip.MustParseAddr("fe80::1"))
	if _, err := r.conn.Write(dhcp6.AppendOption(relayed, dhcp6.OptionRelayMessage, query)); err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool { return a.count(t, "sixacre_dhcp6_silences_total", "relayed-leasequery") == 1 })

	off := start(t, "[::1]:0")
	off.Apply(true, put(pod1, serverID, instance("i-1", mac1)), 1)
	off.Confirm(0, 1)
	if _, err := newRelay(t, off.at).conn.Write(query); err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool { return off.count(t, "sixacre_dhcp6_silences_total", "leasequery-off") == 1 })
}

// Two leasequeries of one router may wait, however slow the store is, and each is
// answered in its turn: what it asks beyond that takes no other router's place.
func TestLeasequeriesOfOneRouterThatWait(t *testing.T) {
	at1, at2 := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	inNamespace(t, at1, at2)
	pod := pod1
	pod.Relays = []netip.Addr{at1, at2}
	asked, hold := make(chan struct{}, 10), make(chan struct{})
	seen := &seenClients{clients: []sixacre.Sighting{bound("pod1", mac1, time.Hour)}, asked: func() { asked <- struct{}{}; <-hold }}
	a := ask(t, seen, pod, instance("i-1", mac1))
	a.serve(t, "[::]:0")
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release) // or else a failure would never end
	from := func(source netip.Addr) *net.UDPConn {
		conn, err := net.DialUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0)), net.UDPAddrFromAddrPort(a.at))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	one, two := from(at1), from(at2)
	send := func(conn *net.UDPConn, transaction byte) {
		q := byClientID(addr.DUIDLL(mac1))
		q.Transaction = [3]byte{transaction}
		if _, err := conn.Write(lookup(q)); err != nil {
			t.Fatal(err)
		}
	}
	answered := func(conn *net.UDPConn, transaction byte) {
		t.Helper()
		b := make([]byte, 1<<16)
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		n, err := conn.Read(b)
		var reply dhcp6.LeaseAnswer
		if err != nil || reply.Parse(b[:n]) != dhcp6.Answered || reply.Client == nil || reply.Transaction != [3]byte{transaction} {
			t.Fatalf("%v %+v, want the answer to %d", err, reply, transaction)
		}
	}
	for transaction := range byte(5) {
		send(one, 1+transaction)
	}
	wait(t, func() bool { return a.count(t, "sixacre_dhcp6_silences_total", "noisy-relay") == 3 })
	send(two, 6)
	<-asked
	release()
	answered(one, 1)
	answered(one, 2)
	answered(two, 6)
	send(one, 7)
	answered(one, 7)
}

// line is a requestor's connection.
type line struct {
	t *testing.T
	net.Conn
}

// serveBulk serves on loopback and returns how to connect.
func (a *asked) serveBulk(t *testing.T) (dial func() *line) {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 on loopback: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.ServeBulk(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", &a.logs.buf)
		}
	})
	return func() *line {
		t.Helper()
		conn, err := net.Dial("tcp6", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return &line{t, conn}
	}
}

func (l *line) send(messages ...[]byte) {
	l.t.Helper()
	var b []byte
	for _, m := range messages {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...)
	}
	if _, err := l.Write(b); err != nil {
		l.t.Fatal(err)
	}
}

// receive returns the next message, or nil where the server closed the connection.
func (l *line) receive() *dhcp6.LeaseAnswer {
	l.t.Helper()
	b, err := readFrame(l, make([]byte, 1<<16))
	if err == io.EOF || errors.Is(err, net.ErrClosed) {
		return nil
	}
	if err != nil {
		var network net.Error
		if errors.As(err, &network) && network.Timeout() {
			l.t.Fatal("nothing came, nor was the connection closed")
		}
		return nil // reset
	}
	var a dhcp6.LeaseAnswer
	if why := a.Parse(b); why != dhcp6.Answered {
		l.t.Fatal(why)
	}
	return &a
}

// ask sends a query and returns all that belongs to its answer, checked for its
// form (RFC 5460 section 5.2): a reply, which alone says who is who, then data,
// then, only if there was any, the end.
func (l *line) ask(q dhcp6.LeaseLookup) (clients []*dhcp6.ClientData, end dhcp6.StatusCode) {
	l.t.Helper()
	l.send(lookup(q))
	return l.collect(q)
}

func (l *line) collect(q dhcp6.LeaseLookup) (clients []*dhcp6.ClientData, end dhcp6.StatusCode) {
	l.t.Helper()
	xid := [3]byte(lookup(q)[1:])
	first := l.receive()
	if first == nil || first.Type != dhcp6.LeasequeryReply || first.Transaction != xid || string(first.ClientID) != string(requestor) || string(first.ServerID) != string(serverID.DUID) || first.Links != nil {
		l.t.Fatalf("%+v", first)
	}
	if first.Client == nil {
		return nil, first.Status
	}
	for clients = append(clients, first.Client); ; {
		next := l.receive()
		if next == nil || next.Transaction != xid || next.ClientID != nil || next.ServerID != nil {
			l.t.Fatalf("after %d clients: %+v", len(clients), next)
		}
		if next.Type == dhcp6.LeasequeryDone {
			if next.Client != nil {
				l.t.Fatalf("%+v", next)
			}
			return clients, next.Status
		}
		if next.Type != dhcp6.LeasequeryData || next.Client == nil || next.Status != dhcp6.StatusSuccess {
			l.t.Fatalf("%+v", next)
		}
		clients = append(clients, next.Client)
	}
}

func onLink(link string) dhcp6.LeaseLookup {
	return dhcp6.LeaseLookup{Type: dhcp6.QueryByLinkAddress, Link: netip.MustParseAddr(link), RelayData: true}
}

// cloud is a pod with that many clients, each with a prefix.
func cloud(n int) (*seenClients, []sixacre.Noun) {
	seen, nouns := &seenClients{}, []sixacre.Noun{pod1}
	for i := range n {
		mac := sixacre.MAC{6, 0, 0, 0, byte(i >> 8), byte(i)}
		seen.clients = append(seen.clients, bound("pod1", mac, time.Hour))
		nouns = append(nouns, instance(fmt.Sprint("i-", i), mac, addr.Nth(pod1.Pools[0], uint64(i)).String()))
	}
	return seen, nouns
}

// A router that lost its state has all of its routes back with one query: each
// prefix and the next hop to it.
func TestBulkGivesAllRoutesBack(t *testing.T) {
	const n = 2*seenPage + 3
	seen, nouns := cloud(n)
	seen.clients[3].Paths[0].Relay = farRelay
	pod2, pod3 := pods()
	a := ask(t, seen, append(nouns, pod2, pod3)...)
	l := a.serveBulk(t)()
	clients, end := l.ask(onLink("2001:db8:100:1::1"))
	if len(clients) != n || end != dhcp6.StatusSuccess {
		t.Fatalf("%d clients, %s", len(clients), end)
	}
	routes := map[netip.Prefix]netip.Addr{}
	for _, c := range clients {
		for _, p := range c.Prefixes {
			routes[p.Prefix] = c.Relay.Peer
		}
	}
	for i := range n {
		if p := addr.Nth(pod1.Pools[0], uint64(i)); routes[p] != addr.LinkLocal(seen.clients[i].MAC) {
			t.Fatalf("%s via %s", p, routes[p])
		}
	}

	// The connection stays for more, answered one after the other.
	for _, test := range []struct {
		what string
		q    dhcp6.LeaseLookup
		n    int
		end  dhcp6.StatusCode
	}{
		{"a link without clients", onLink("2001:db8:100:2::"), 0, dhcp6.StatusSuccess},
		{"another relay's link", onLink("2001:db8:100:3::"), 0, dhcp6.StatusNotConfigured},
		{"no link", onLink("::"), 0, dhcp6.StatusNotConfigured},
		{"what came through the asker", dhcp6.LeaseLookup{Type: dhcp6.QueryByRelayID, DUID: requestor}, n - 1, dhcp6.StatusSuccess},
		{"what came through somebody else", dhcp6.LeaseLookup{Type: dhcp6.QueryByRelayID, DUID: sixacre.DUID{0, 3, 0, 1, 9, 9}}, 0, dhcp6.StatusNotAllowed},
		{"a remote id", dhcp6.LeaseLookup{Type: dhcp6.QueryByRemoteID, RemoteID: []byte{0, 0, 0, 9, 6, 0, 0, 0, 0, 7}}, 1, dhcp6.StatusSuccess},
		{"nobody's remote id", dhcp6.LeaseLookup{Type: dhcp6.QueryByRemoteID, RemoteID: []byte{0, 0, 0, 9, 6, 0, 0, 9, 9, 9}}, 0, dhcp6.StatusSuccess},
		{"a client", byClientID(addr.DUIDLL(sixacre.MAC{6, 0, 0, 0, 1, 1})), 1, dhcp6.StatusSuccess},
		{"an address", byAddress("2001:db8:100:1:400:ff:fe00:1"), 1, dhcp6.StatusSuccess},
		{"an unknown type", dhcp6.LeaseLookup{Type: 6}, 0, dhcp6.StatusUnknownQueryType},
	} {
		if clients, end := l.ask(test.q); len(clients) != test.n || end != test.end {
			t.Errorf("%s: %d clients, %s", test.what, len(clients), end)
		}
	}

	// Several queries at once, and the requestor has said all that it will.
	first, second := onLink("2001:db8:100:1::"), byClientID(addr.DUIDLL(sixacre.MAC{6}))
	first.Transaction, second.Transaction = [3]byte{7}, [3]byte{8}
	l.send(lookup(first), lookup(second))
	if err := l.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if clients, _ := l.collect(first); len(clients) != n {
		t.Errorf("%d clients", len(clients))
	}
	if clients, _ := l.collect(second); len(clients) != 1 {
		t.Errorf("%d clients", len(clients))
	}
	if rest := l.receive(); rest != nil {
		t.Errorf("%+v", rest)
	}
	wait(t, func() bool { return a.count(t, "sixacre_dhcp6_bulk_connections", "") == 0 })
	if done := a.count(t, "sixacre_dhcp6_bulk_closed_total", "done"); done != 1 {
		t.Errorf("%v connections done", done)
	}
	if told := a.count(t, "sixacre_dhcp6_leasequery_clients_total", ""); told != 3*n+3 {
		t.Errorf("%v clients counted", told)
	}
}

// In bulk a client on several links is told of on each (RFC 5460 section 4), and so
// are clones.
func TestBulkTellsOfEveryLink(t *testing.T) {
	pod2, _ := pods()
	clone := bound("pod1", mac2, time.Hour)
	clone.DUID = addr.DUIDLL(mac1)
	seen := &seenClients{clients: []sixacre.Sighting{bound("pod1", mac1, time.Hour), clone, bound("pod2", mac1, time.Hour)}}
	a := ask(t, seen, pod1, pod2, instance("i-1", mac1), instance("i-2", mac2), on("pod2", instance("i-3", mac1)))
	clients, _ := a.serveBulk(t)().ask(byClientID(addr.DUIDLL(mac1)))
	if len(clients) != 3 {
		t.Errorf("%d clients", len(clients))
	}
}

// What cannot be told to its end is not passed off as whole.
func TestBulkBreaksOff(t *testing.T) {
	seen, nouns := cloud(seenPage + 1)
	a := ask(t, seen, nouns...)
	dial := a.serveBulk(t)
	expect := func(what string, n int) {
		t.Helper()
		l := dial()
		clients, end := l.ask(onLink("2001:db8:100:1::"))
		if len(clients) != n || end != dhcp6.StatusQueryTerminated {
			t.Errorf("%s: %d clients, %s", what, len(clients), end)
		}
		if more := l.receive(); more != nil {
			t.Errorf("%s: the connection stays open: %+v", what, more)
		}
	}
	pages := 0
	seen.asked = func() {
		if pages++; pages == 2 {
			seen.failure = errors.New("away")
		}
	}
	expect("the store goes away", seenPage)
	expect("the store is away", 0)

	seen.failure, pages = nil, 0
	seen.asked = func() {
		if pages++; pages == 2 {
			pod := pod1
			pod.Relays = []netip.Addr{farRelay}
			pod2, _ := pods()
			a.Apply(false, put(pod, pod2), 2)
		}
	}
	expect("the pod gets another relay", seenPage)
}

// What ends a connection, and that each is counted.
func TestBulkIsBounded(t *testing.T) {
	seen, nouns := cloud(3)
	a := ask(t, seen, nouns...)
	dial := a.serveBulk(t)
	closed := func(reason string) float64 { return a.count(t, "sixacre_dhcp6_bulk_closed_total", reason) }
	over := func(l *line, reason string) {
		t.Helper()
		if m := l.receive(); m != nil {
			t.Errorf("%s: %+v", reason, m)
		}
		wait(t, func() bool { return closed(reason) == 1 })
	}
	for reason, b := range map[string][]byte{
		"message-too-long": {0xff, 0xff, 14},
		"unknown-type":     {0, 4, 1, 0, 0, 1},
		"no-client-id":     {0, 4, 14, 0, 0, 1},
		"truncated":        {0, 1, 14},
	} {
		l := dial()
		if _, err := l.Write(b); err != nil {
			t.Fatal(err)
		}
		over(l, reason)
	}
	l := dial()
	if _, err := l.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if err := l.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	over(l, "broken")

	// Two of one relay, not three; and one that left makes room.
	one, two := dial(), dial()
	for _, l := range []*line{one, two} {
		if clients, _ := l.ask(onLink("2001:db8:100:1::")); len(clients) != 3 {
			t.Errorf("%d clients", len(clients))
		}
	}
	over(dial(), "too-many-connections")
	one.Close()
	wait(t, func() bool { return a.count(t, "sixacre_dhcp6_bulk_connections", "") == 1 })
	if clients, _ := dial().ask(onLink("2001:db8:100:1::")); len(clients) != 3 {
		t.Errorf("%d clients", len(clients))
	}

	// Whoever is no relay of any pod is shown the door.
	pod := pod1
	pod.Relays = []netip.Addr{farRelay}
	a.Apply(false, put(pod), 2)
	two.send(lookup(onLink("2001:db8:100:1::")))
	over(two, "untrusted-relay")
	if m := dial().receive(); m != nil {
		t.Errorf("%+v", m)
	}
}

// In all there are no more connections than the limit, whoever's they are.
func TestBulkConnectionsInAll(t *testing.T) {
	b := bulk{limits: bulkDefaults}
	entered := 0
	for i := range 20 {
		if b.enter(netip.AddrFrom16([16]byte{15: byte(i)})) {
			entered++
		}
	}
	if entered != 10 { // RFC 5460 section 5.6
		t.Errorf("%d connections", entered)
	}
	b.leave(netip.AddrFrom16([16]byte{15: 3}))
	if !b.enter(netip.AddrFrom16([16]byte{15: 3})) || b.enter(netip.AddrFrom16([16]byte{15: 3})) {
		t.Error("a place that was left is not taken once")
	}
}

// Who says nothing, and who does not take what was asked for, is given up.
func TestBulkIsNotKeptWaiting(t *testing.T) {
	seen, nouns := cloud(3)
	a := ask(t, seen, nouns...)
	a.leasequery.bulk.limits.stalled = 50 * time.Millisecond
	dial := a.serveBulk(t)
	if m := dial().receive(); m != nil {
		t.Errorf("%+v", m)
	}
	wait(t, func() bool { return a.count(t, "sixacre_dhcp6_bulk_closed_total", "timeout") == 1 })

	slow := dial()
	query := onLink("2001:db8:100:1::")
	var flood []byte
	for range 100_000 { // far more answers than the buffers of both sides hold
		m := lookup(query)
		flood = append(binary.BigEndian.AppendUint16(flood, uint16(len(m))), m...)
	}
	_, _ = slow.Write(flood) // until the server gives up
	wait(t, func() bool { return a.count(t, "sixacre_dhcp6_bulk_connections", "") == 0 })
}
