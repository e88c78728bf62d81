package dhcpd

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

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
	// Its MAC goes to another instance.
	s.Apply(false, gone(instance("i-1", mac1)), 5)
	s.Apply(false, put(instance("i-2", mac1, "2001:db8:4000:60::/60")), 6)
	if got := r.ask(mac1); !slices.Equal(got, []string{"2001:db8:4000:60::/60"}) {
		t.Fatalf("got %v", got)
	}
	// It changes its MAC: the old one is unknown.
	s.Apply(false, append(gone(instance("i-2", mac1)), put(instance("i-2", mac2, "2001:db8:4000:60::/60"))...), 7)
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

// On port 547 an answer goes to port 547 of the relay, from wherever that sent,
// unless the relay says that it listens where it sends from (RFC 8357).
func TestAnswersThePortThatRelaysListenOn(t *testing.T) {
	server, relayAt := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	inNamespace(t, server, relayAt)
	s := start(t, "[fd00::1]:547")
	pod := pod1
	pod.Relays = []netip.Addr{relayAt}
	s.Apply(true, put(pod, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 1)
	s.Confirm(0, 1)
	open := func(port uint16) *relay {
		conn, err := net.DialUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(relayAt, port)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, 547)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return &relay{t, conn}
	}
	listening, sending := open(547), open(0)
	sending.send(mac1, solicit(t, mac1))
	if m, _ := listening.receive(); len(prefixes(m)) != 1 {
		t.Errorf("got %v", m)
	}
	relayed, err := dhcpv6.EncapsulateRelay(solicit(t, mac1), dhcpv6.MessageTypeRelayForward, net.ParseIP("2001:db8:100:1::1"), net.ParseIP("fe80::1"))
	if err != nil {
		t.Fatal(err)
	}
	relayed.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, mac1[:]))
	relayed.AddOption(dhcpv6.OptRelayPort(0))
	if _, err := sending.conn.Write(relayed.ToBytes()); err != nil {
		t.Fatal(err)
	}
	if m, _ := sending.receive(); len(prefixes(m)) != 1 {
		t.Errorf("got %v", m)
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
	relayed.AddOption(dhcpv6.OptInterfaceID([]byte("eth0")))
	// The replies come back to where nobody reads them.
	sock, err := Listen(netip.MustParseAddrPort("[::1]:0"))
	if err != nil {
		t.Skipf("no IPv6 on loopback: %v", err)
	}
	defer sock.Close()
	w := s.newWorker(sock.fds[0], sock.at, nil)
	from := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: netip.IPv6Loopback().As16()}
	setPort(&from, sock.at.Port())
	packets := make([]packet, 2)
	for i := range packets {
		packets[i] = packet{payload: relayed.ToBytes(), from: &from}
	}
	// What is seen of the client is told first, and no news after.
	seen := s.index.seen
	seen.on.Store(true)
	w.answer(packets)
	for len(seen.queue) > 0 {
		g := <-seen.queue
		seen.remember(&g)
	}
	before := w.tally.replies[dhcp6.Solicit].Load()
	if n := testing.AllocsPerRun(5, func() { w.answer(packets) }); n != 0 {
		t.Errorf("%v allocations for some packets", n)
	}
	if n := w.tally.replies[dhcp6.Solicit].Load() - before; n != 6*2 {
		t.Errorf("%d answers", n)
	}
	if seen.count() != 1 || len(seen.queue) != 0 {
		t.Errorf("%d clients were seen, %d news wait", seen.count(), len(seen.queue))
	}
	if n := w.tally.sendErrors.Load(); n != 0 {
		t.Errorf("%d were not sent", n)
	}
}

// Many relays ask at once while the record changes under them. Each client's
// answer is its own.
func TestConcurrent(t *testing.T) {
	const relays, clients, rounds = 16, 20, 5 // few rounds, so that no client asks too often
	s := start(t, "[::1]:0")
	nouns := []sixacre.Noun{pod1, serverID}
	mac := func(i int) sixacre.MAC { return sixacre.MAC{6, 0, 0, 1, byte(i >> 8), byte(i)} } // of one client behind relay i%relays
	prefix := func(i int) string { return addr.Nth(pod1.Pools[0], uint64(i)).String() }
	for i := range relays * clients {
		nouns = append(nouns, instance("i-"+prefix(i), mac(i), prefix(i)))
	}
	s.Apply(true, put(nouns...), 1)
	s.Confirm(0, 1)
	var asking sync.WaitGroup
	for i := range relays {
		r := newRelay(t, s.at)
		asking.Go(func() {
			for client := i; client < relays*clients*rounds; client += relays {
				client := client % (relays * clients)
				m, err := dhcpv6.NewSolicit(net.HardwareAddr(slices.Clone(mac2[:])), dhcpv6.WithIAPD([4]byte{1}))
				if err != nil {
					t.Error(err)
					return
				}
				relayed, _ := dhcpv6.EncapsulateRelay(m, dhcpv6.MessageTypeRelayForward, net.ParseIP("2001:db8:100:1::1"), net.ParseIP("fe80::1"))
				own := mac(client)
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
				if err != nil || inner.TransactionID != m.TransactionID || !slices.Equal(prefixes(inner), []string{prefix(client)}) {
					t.Errorf("client %d got %v, %v", client, inner, err)
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
				s.Apply(false, put(nouns[2+int(revision)%(relays*clients)], pod1), revision)
			}
			s.Confirm(0, revision)
		}
	})
	asking.Wait()
	close(stop)
	changing.Wait()
	if n := s.count(t, "sixacre_dhcp6_replies_total", dhcp6.Solicit.String()); n != relays*clients*rounds {
		t.Errorf("%v replies counted", n)
	}
	if n := s.count(t, "sixacre_dhcp6_duid_mismatches_total", ""); n != relays*clients*rounds {
		t.Errorf("%v DUIDs with another MAC counted", n)
	}
}

// What counts is the time at which a confirmation was asked for, the revision that
// the index shows, and what the store holds after it was put back to an older state.
func TestConfirmations(t *testing.T) {
	var now time.Duration
	s := New(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), func() time.Duration { return now })
	expect := func(when string, want time.Duration) {
		t.Helper()
		if age, ever := s.Unconfirmed(); !ever || age != want {
			t.Errorf("%s: unconfirmed for %s, %v; expected %s", when, age, ever, want)
		}
	}
	s.Apply(true, put(pod1, serverID), 10)
	s.Confirm(0, 10)
	now = time.Hour
	expect("an hour later", time.Hour)
	s.Confirm(now, 10)
	expect("confirmed again", 0)
	s.Confirm(30*time.Minute, 10)
	expect("an answer that is older", 0)

	s.Apply(false, nil, 9)
	now += time.Minute
	s.Confirm(now, 10)
	expect("after a batch that came late", 0)

	now += time.Minute
	s.Confirm(now, 20)
	s.Apply(true, put(pod1, serverID), 5)
	expect("the store was put back", time.Minute)
	s.Confirm(now, 6)
	expect("and has moved on", time.Minute)
	s.Apply(false, nil, 6)
	expect("and the index with it", 0)
}
