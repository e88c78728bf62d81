package dhcpd

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

// patience bounds a test that would otherwise wait for ever.
const patience = 10 * time.Second

var (
	pod1 = sixacre.Pod{
		Name:       "pod1",
		LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"),
		Pools:      []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:4000::/40")}},
		Relays:     []netip.Addr{netip.IPv6Loopback()},
		DNS:        []netip.Addr{netip.MustParseAddr("2001:db8::53")},
	}.WithDefaults()
	serverID = sixacre.ServerID{DUID: []byte{0, 2, 0, 0, 0, 1, 42}}
	mac1     = sixacre.MAC{6, 0, 0, 0, 0, 1}
	mac2     = sixacre.MAC{6, 0, 0, 0, 0, 2}
)

func instance(name string, mac sixacre.MAC, prefixes ...string) sixacre.Instance {
	nic := sixacre.NIC{MAC: mac, Pod: "pod1", State: sixacre.Running}
	for _, p := range prefixes {
		nic.Prefixes = append(nic.Prefixes, netip.MustParsePrefix(p))
	}
	return sixacre.Instance{Name: name, NICs: []sixacre.NIC{nic}}
}

// put makes events of nouns.
func put(nouns ...sixacre.Noun) []sixacre.Event {
	var events []sixacre.Event
	for _, n := range nouns {
		events = append(events, sixacre.Event{Key: n.Key(), Noun: n})
	}
	return events
}

func gone(n sixacre.Noun) []sixacre.Event { return []sixacre.Event{{Key: n.Key()}} }

// server is one that serves [::1], with a clock that the test turns.
type server struct {
	*Server
	at   netip.AddrPort
	now  atomic.Int64
	reg  *prometheus.Registry
	logs *logs
}

type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

func start(t *testing.T, listen string) *server {
	t.Helper()
	s := &server{reg: prometheus.NewRegistry(), logs: &logs{}}
	s.Server = New(slog.New(slog.NewTextHandler(s.logs, nil)), s.reg, func() time.Duration { return time.Duration(s.now.Load()) })
	sock, err := Listen(netip.MustParseAddrPort(listen))
	if err != nil {
		t.Skipf("no IPv6 on loopback: %v", err)
	}
	s.at = netip.AddrPortFrom(netip.IPv6Loopback(), sock.Addr().Port())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, sock) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", &s.logs.buf)
		}
	})
	return s
}

// count returns the value of a counter or gauge.
func (s *server) count(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == label })) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s %s", name, label)
	return 0
}

// relay is the other side: a relay that sends from a port of its own (RFC 8357)
// on behalf of clients.
type relay struct {
	t    *testing.T
	conn *net.UDPConn
}

func newRelay(t *testing.T, to netip.AddrPort) *relay {
	t.Helper()
	conn, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(to)) // connected: takes packets from there alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &relay{t, conn}
}

func (r *relay) send(mac sixacre.MAC, m *dhcpv6.Message) {
	r.t.Helper()
	relayed, err := dhcpv6.EncapsulateRelay(m, dhcpv6.MessageTypeRelayForward, net.ParseIP("2001:db8:100:1::1"), addr.LinkLocal(mac).AsSlice())
	if err != nil {
		r.t.Fatal(err)
	}
	relayed.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, mac[:]))
	relayed.AddOption(dhcpv6.OptRelayPort(0))
	if _, err := r.conn.Write(relayed.ToBytes()); err != nil {
		r.t.Fatal(err)
	}
}

// receive returns the next message to a client, with the link-local address that
// the relay would send it to.
func (r *relay) receive() (*dhcpv6.Message, netip.Addr) {
	r.t.Helper()
	b := make([]byte, 1<<16)
	if err := r.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	n, err := r.conn.Read(b)
	if err != nil {
		r.t.Fatal(err)
	}
	reply, err := dhcpv6.RelayMessageFromBytes(b[:n])
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := reply.GetInnerMessage()
	if err != nil {
		r.t.Fatal(err)
	}
	peer, _ := netip.AddrFromSlice(reply.PeerAddr)
	return m, peer
}

func solicit(t *testing.T, mac sixacre.MAC) *dhcpv6.Message {
	t.Helper()
	m, err := dhcpv6.NewSolicit(mac[:], dhcpv6.WithIAPD([4]byte{0, 0, 0, 1}))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// ask sends a Solicit and returns the prefixes of the Advertise, which must be
// the answer to it.
func (r *relay) ask(mac sixacre.MAC) []string {
	r.t.Helper()
	m := solicit(r.t, mac)
	r.send(mac, m)
	got, peer := r.receive()
	if got.TransactionID != m.TransactionID || peer != addr.LinkLocal(mac) {
		r.t.Fatalf("the answer is for transaction %s at %s, asked in %s as %s", got.TransactionID, peer, m.TransactionID, addr.LinkLocal(mac))
	}
	return prefixes(got)
}

func prefixes(m *dhcpv6.Message) []string {
	var out []string
	for _, pd := range m.Options.IAPD() {
		for _, p := range pd.Options.Prefixes() {
			out = append(out, p.Prefix.String())
		}
	}
	return out
}

func TestExchange(t *testing.T) {
	s := start(t, "[::1]:0")
	s.Apply(true, put(instance("i-1", mac1, "2001:db8:4000::/60"), pod1, serverID), 7)
	s.Confirm(0, 7)
	if err := s.Ready(); err != nil {
		t.Fatal(err)
	}
	r := newRelay(t, s.at)
	m := solicit(t, mac1)
	dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer)(m)
	r.send(mac1, m)
	advertise, peer := r.receive()
	if advertise.MessageType != dhcpv6.MessageTypeAdvertise || peer != addr.LinkLocal(mac1) {
		t.Fatalf("to %s: %s", peer, advertise.Summary())
	}
	request, err := dhcpv6.NewRequestFromAdvertise(advertise)
	if err != nil {
		t.Fatal(err)
	}
	r.send(mac1, request)
	reply, _ := r.receive()
	na := reply.Options.OneIANA()
	if reply.MessageType != dhcpv6.MessageTypeReply || reply.TransactionID != request.TransactionID || na == nil ||
		!na.Options.OneAddress().IPv6Addr.Equal(net.ParseIP("2001:db8:100:1:400:ff:fe00:1")) ||
		!slices.Equal(prefixes(reply), []string{"2001:db8:4000::/60"}) ||
		len(reply.Options.DNS()) != 1 || !reply.Options.DNS()[0].Equal(net.ParseIP("2001:db8::53")) {
		t.Fatalf("reply %s", reply.Summary())
	}
	if na.T1 != 2*time.Hour || na.T2 != 3*time.Hour+12*time.Minute {
		t.Errorf("T1 %s, T2 %s of a preferred lifetime of %s", na.T1, na.T2, pod1.PreferredLifetime)
	}
	for _, query := range []string{"solicit", "request"} {
		if n := s.count(t, "sixacre_dhcp6_replies_total", query); n != 1 {
			t.Errorf("%v replies to %s counted", n, query)
		}
	}
}

// A known client's query behind the one that must be met with silence bounds the
// wait for the answer that must not come: one socket answers in order.
func TestSilenceForUnknownClients(t *testing.T) {
	s := start(t, "[::1]:0")
	s.Apply(true, put(pod1, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 1)
	s.Confirm(0, 1)
	r := newRelay(t, s.at)
	r.send(mac2, solicit(t, mac2))
	if got := r.ask(mac1); !slices.Equal(got, []string{"2001:db8:4000::/60"}) {
		t.Errorf("got %v", got)
	}
	if n := s.count(t, "sixacre_dhcp6_silences_total", "unknown-client"); n != 1 {
		t.Errorf("%v unknown clients counted", n)
	}
	if s.logs.count(mac2.String()) != 1 || s.logs.count("reason=unknown-client") != 1 {
		t.Errorf("the log does not say who got nothing and why:\n%s", &s.logs.buf)
	}
}

func TestUpdates(t *testing.T) {
	s := start(t, "[::1]:0")
	s.Apply(true, put(serverID), 1)
	s.Confirm(0, 1)
	r := newRelay(t, s.at)
	silences := func(why string) float64 { return s.count(t, "sixacre_dhcp6_silences_total", why) }

	// The instance is known before its pod is.
	s.Apply(false, put(instance("i-1", mac1, "2001:db8:4000::/60")), 2)
	s.Apply(false, put(pod1), 3)
	if got := r.ask(mac1); !slices.Equal(got, []string{"2001:db8:4000::/60"}) {
		t.Fatalf("got %v", got)
	}
	// Another prefix.
	s.Apply(false, put(instance("i-1", mac1, "2001:db8:4000::/60", "2001:db8:4000:50::/60")), 4)
	if got := r.ask(mac1); !slices.Equal(got, []string{"2001:db8:4000::/60", "2001:db8:4000:50::/60"}) {
		t.Fatalf("got %v", got)
	}
	// Its MAC goes to another instance, and the old instance's end comes late.
	s.Apply(false, put(instance("i-2", mac1, "2001:db8:4000:60::/60")), 5)
	s.Apply(false, gone(instance("i-1", mac1)), 6)
	if got := r.ask(mac1); !slices.Equal(got, []string{"2001:db8:4000:60::/60"}) {
		t.Fatalf("got %v", got)
	}
	// It changes its MAC: the old one is unknown.
	s.Apply(false, put(instance("i-2", mac2, "2001:db8:4000:60::/60")), 7)
	r.send(mac1, solicit(t, mac1))
	if got := r.ask(mac2); !slices.Equal(got, []string{"2001:db8:4000:60::/60"}) {
		t.Fatalf("got %v", got)
	}
	if n := silences("unknown-client"); n != 1 {
		t.Errorf("%v unknown clients", n)
	}
	if n := s.count(t, "sixacre_dhcp6_nics", ""); n != 1 {
		t.Errorf("%v NICs known", n)
	}
	// The relay stops being one.
	without := pod1
	without.Relays = []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	s.Apply(false, put(without), 8)
	r.send(mac2, solicit(t, mac2))
	wait(t, func() bool { return silences("untrusted-relay") == 1 })
	// A full state forgets what it does not hold.
	s.Apply(true, put(pod1, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 9)
	r.send(mac2, solicit(t, mac2))
	if got := r.ask(mac1); !slices.Equal(got, []string{"2001:db8:4000::/60"}) {
		t.Fatalf("got %v", got)
	}
	if n := silences("unknown-client"); n != 2 {
		t.Errorf("%v unknown clients", n)
	}
}

// wait waits for what happens without a word.
func wait(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("it did not happen")
		}
	}
}

func TestSilenceUntilReady(t *testing.T) {
	s := start(t, "[::1]:0")
	r := newRelay(t, s.at)
	silent := 0.0
	mustBeSilent := func(when string) {
		t.Helper()
		if s.Ready() == nil {
			t.Errorf("ready %s", when)
		}
		r.send(mac1, solicit(t, mac1))
		silent++
		wait(t, func() bool { return s.count(t, "sixacre_dhcp6_silences_total", "not-ready") == silent })
	}
	mustBeSilent("before anything is known")
	s.Apply(true, put(pod1, instance("i-1", mac1, "2001:db8:4000::/60")), 5)
	s.Confirm(0, 5)
	mustBeSilent("without a server DUID")
	s.Apply(false, put(serverID), 6)
	if got := r.ask(mac1); !slices.Equal(got, []string{"2001:db8:4000::/60"}) {
		t.Errorf("got %v", got)
	}

	s = start(t, "[::1]:0")
	r, silent = newRelay(t, s.at), 0
	s.Apply(true, put(pod1, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 5)
	mustBeSilent("before the store confirmed")
	s.Confirm(0, 6)
	mustBeSilent("with a store that is further on than the index")
	s.Confirm(0, 7) // does not put the one that waits off
	s.Apply(false, nil, 6)
	if got := r.ask(mac1); !slices.Equal(got, []string{"2001:db8:4000::/60"}) {
		t.Errorf("got %v", got)
	}
}

func TestSilenceWhenStale(t *testing.T) {
	s := start(t, "[::1]:0")
	s.Apply(true, put(pod1, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 5)
	s.Confirm(0, 5)
	r := newRelay(t, s.at)
	s.now.Store(int64(sixacre.MaxStale))
	if got := r.ask(mac1); !slices.Equal(got, []string{"2001:db8:4000::/60"}) {
		t.Errorf("got %v", got)
	}
	s.now.Add(1)
	for range 3 {
		r.send(mac1, solicit(t, mac1))
	}
	wait(t, func() bool { return s.count(t, "sixacre_dhcp6_silences_total", "stale") == 3 })
	if s.Ready() == nil || s.count(t, "sixacre_dhcp6_ready", "") != 0 {
		t.Error("a silent server says that it is ready")
	}
	if n := s.logs.count("level=ERROR"); n != 1 {
		t.Errorf("%d lines of log say so", n)
	}
	// A change that arrives is not a confirmation, nor is an answer that was
	// asked for too long ago.
	s.Apply(false, put(instance("i-1", mac1, "2001:db8:4000:70::/60")), 6)
	s.Confirm(0, 6)
	r.send(mac1, solicit(t, mac1))
	wait(t, func() bool { return s.count(t, "sixacre_dhcp6_silences_total", "stale") == 4 })

	s.Confirm(s.clock(), 6)
	if got := r.ask(mac1); !slices.Equal(got, []string{"2001:db8:4000:70::/60"}) {
		t.Errorf("got %v", got)
	}
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
	if n := s.logs.count("answering again"); n != 1 {
		t.Errorf("%d lines of log say that it answers again", n)
	}
	s.now.Add(int64(sixacre.MaxStale) + 1)
	r.send(mac1, solicit(t, mac1))
	wait(t, func() bool { return s.count(t, "sixacre_dhcp6_silences_total", "stale") == 5 })
	if n := s.logs.count("level=ERROR"); n != 2 {
		t.Errorf("%d lines of log say that it was silent twice", n)
	}
}

// A replica that is cut off may not know of a prefix that another one gave: it
// renews what it knows of and revokes nothing.
func TestRevokesOnlyWhenFresh(t *testing.T) {
	s := start(t, "[::1]:0")
	s.Apply(true, put(pod1, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 5)
	s.Confirm(0, 5)
	r := newRelay(t, s.at)
	rebind := func() []string {
		m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac1[:]}))
		if err != nil {
			t.Fatal(err)
		}
		m.MessageType = dhcpv6.MessageTypeRebind
		var options dhcpv6.Options
		for _, p := range []string{"2001:db8:4000::/60", "2001:db8:4000:990::/60"} {
			_, prefix, _ := net.ParseCIDR(p)
			options.Add(&dhcpv6.OptIAPrefix{Prefix: prefix})
		}
		m.AddOption(&dhcpv6.OptIAPD{Options: dhcpv6.PDOptions{Options: options}})
		r.send(mac1, m)
		reply, _ := r.receive()
		return prefixes(reply)
	}
	s.now.Store(int64(time.Minute))
	if got := rebind(); len(got) != 2 {
		t.Errorf("a minute after a confirmation: %v", got)
	}
	s.now.Add(1)
	if got := rebind(); !slices.Equal(got, []string{"2001:db8:4000::/60"}) {
		t.Errorf("later: %v", got)
	}
}

// A guest whose address a pod names as its relay's would otherwise speak for
// everyone.
func TestGuestIsNoRelay(t *testing.T) {
	s := start(t, "[::1]:0")
	// In a dhcpv6 pod an address may be anything; on loopback there is only one.
	guest := instance("i-9", mac2)
	guest.NICs[0].Pod, guest.NICs[0].Address = "pod2", netip.IPv6Loopback()
	pod2 := sixacre.Pod{Name: "pod2", LinkPrefix: netip.MustParsePrefix("::/64"), Addressing: sixacre.DHCPv6}.WithDefaults()
	refused := func() float64 { return s.count(t, "sixacre_dhcp6_silences_total", "guest-as-relay") }
	s.Apply(true, put(pod1, serverID, guest, instance("i-1", mac1, "2001:db8:4000::/60")), 1)
	s.Confirm(0, 1)
	r := newRelay(t, s.at)
	if got := r.ask(mac1); len(got) != 1 {
		t.Errorf("got %v", got)
	}
	s.Apply(false, put(pod2), 2)
	r.send(mac1, solicit(t, mac1))
	wait(t, func() bool { return refused() == 1 })
	s.Apply(false, gone(guest), 3)
	if got := r.ask(mac1); len(got) != 1 {
		t.Errorf("got %v", got)
	}
	s.Apply(false, put(guest), 4)
	r.send(mac1, solicit(t, mac1))
	wait(t, func() bool { return refused() == 2 })
}

// A server bound to all addresses answers from the one that it was asked at: the
// relay's socket is connected and hears nothing else. Left to itself the kernel
// would answer from the relay's own address, both being on this machine.
func TestAnswersFromTheAddressAsked(t *testing.T) {
	asked, relayAt := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	inNamespace(t, asked, relayAt)
	s := start(t, "[::]:0")
	pod := pod1
	pod.Relays = []netip.Addr{relayAt}
	s.Apply(true, put(pod, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 1)
	s.Confirm(0, 1)
	conn, err := net.DialUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(relayAt, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(asked, s.at.Port())))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := &relay{t, conn}
	if got := r.ask(mac1); len(got) != 1 {
		t.Errorf("got %v", got)
	}
}

// inNamespace moves the test to a network namespace of its own, in which the
// loopback device has the addresses. It ends with the test's thread.
func inNamespace(t *testing.T, addrs ...netip.Addr) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked, so that nothing else runs there
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs root for a network namespace: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	for _, a := range addrs {
		if err == nil {
			err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	// The kernel takes up an address a moment after it was added.
	for _, a := range addrs {
		wait(t, func() bool {
			routes, err := netlink.RouteGet(a.AsSlice())
			return err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
		})
	}
}

func TestNothingIsAllocated(t *testing.T) {
	s := New(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), Uptime)
	s.Apply(true, put(pod1, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 1)
	s.Confirm(Uptime(), 1)
	relayed, err := dhcpv6.EncapsulateRelay(solicit(t, mac1), dhcpv6.MessageTypeRelayForward, net.ParseIP("2001:db8:100:1::1"), net.ParseIP("fe80::1"))
	if err != nil {
		t.Fatal(err)
	}
	relayed.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, mac1[:]))
	payload, out := relayed.ToBytes(), make([]byte, 0, 4096)
	var q query
	source := netip.AddrPortFrom(netip.IPv6Loopback(), dhcp6.ServerPort)
	if s.answer(out, &q, payload, source) == nil {
		t.Fatal("no answer")
	}
	if n := testing.AllocsPerRun(100, func() { s.answer(out, &q, payload, source) }); n != 0 {
		t.Errorf("%v allocations for a packet", n)
	}
}

// Many relays ask at once while the record changes under them. Each client's
// answer is its own.
func TestConcurrent(t *testing.T) {
	const relays, rounds = 16, 100
	s := start(t, "[::1]:0")
	nouns := []sixacre.Noun{pod1, serverID}
	mac := func(i int) sixacre.MAC { return sixacre.MAC{6, 0, 0, 1, 0, byte(i)} }
	prefix := func(i int) string { return addr.Nth(pod1.Pools[0], uint64(i)).String() }
	for i := range relays {
		nouns = append(nouns, instance("i-"+prefix(i), mac(i), prefix(i)))
	}
	s.Apply(true, put(nouns...), 1)
	s.Confirm(0, 1)
	var asking sync.WaitGroup
	for i := range relays {
		r := newRelay(t, s.at)
		asking.Go(func() {
			for range rounds {
				m, err := dhcpv6.NewSolicit(net.HardwareAddr(slices.Clone(mac2[:])), dhcpv6.WithIAPD([4]byte{1}))
				if err != nil {
					t.Error(err)
					return
				}
				relayed, _ := dhcpv6.EncapsulateRelay(m, dhcpv6.MessageTypeRelayForward, net.ParseIP("2001:db8:100:1::1"), net.ParseIP("fe80::1"))
				own := mac(i)
				relayed.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, own[:]))
				relayed.AddOption(dhcpv6.OptRelayPort(0))
				b := make([]byte, 2048)
				_ = r.conn.SetReadDeadline(time.Now().Add(patience))
				if _, err = r.conn.Write(relayed.ToBytes()); err != nil {
					t.Error(err)
					return
				}
				n, err := r.conn.Read(b)
				if err != nil {
					t.Error(err)
					return
				}
				reply, err := dhcpv6.RelayMessageFromBytes(b[:n])
				if err != nil {
					t.Error(err)
					return
				}
				inner, err := reply.GetInnerMessage()
				if err != nil || inner.TransactionID != m.TransactionID || !slices.Equal(prefixes(inner), []string{prefix(i)}) {
					t.Errorf("client %d got %v, %v", i, inner, err)
					return
				}
			}
		})
	}
	stop := make(chan struct{})
	var changing sync.WaitGroup
	changing.Go(func() {
		for revision := int64(2); ; revision++ {
			select {
			case <-stop:
				return
			default:
			}
			full := revision%50 == 0
			if full {
				s.Apply(true, put(nouns...), revision)
			} else {
				s.Apply(false, put(nouns[2+int(revision)%relays], pod1), revision)
			}
			s.Confirm(0, revision)
		}
	})
	asking.Wait()
	close(stop)
	changing.Wait()
	if n := s.count(t, "sixacre_dhcp6_replies_total", dhcp6.Solicit.String()); n != relays*rounds {
		t.Errorf("%v replies counted", n)
	}
	if n := s.count(t, "sixacre_dhcp6_duid_mismatches_total", ""); n != relays*rounds {
		t.Errorf("%v DUIDs with another MAC counted", n)
	}
}
