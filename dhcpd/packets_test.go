package dhcpd

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// forward is a relay's message with a Solicit.
func forward(t *testing.T, mac sixacre.MAC) *dhcpv6.RelayMessage {
	t.Helper()
	relayed, err := dhcpv6.EncapsulateRelay(solicit(t, mac), dhcpv6.MessageTypeRelayForward, net.ParseIP("2001:db8:100:1::1"), net.ParseIP("fe80::1"))
	if err != nil {
		t.Fatal(err)
	}
	relayed.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, mac[:]))
	return relayed
}

// A relay is held to its share only while packets wait.
func TestRelayIsHeldToItsShare(t *testing.T) {
	s := newServer()
	// So many that they do not all share the noisy one's cell by chance.
	quiet := []netip.Addr{netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::3"), netip.MustParseAddr("2001:db8::4")}
	pod := pod1
	pod.Relays = append(slices.Clone(pod.Relays), quiet...)
	s.Apply(true, put(pod, serverID), 1)
	s.Confirm(0, 1)
	flood := make([]packet, 2*relayShare)
	for i := range flood {
		mac := sixacre.MAC{6, 0, 0, 2, byte(i >> 8), byte(i)}
		flood[i] = packet{payload: forward(t, mac).ToBytes(), from: &unix.RawSockaddrInet6{Addr: pod1.Relays[0].As16()}}
	}
	for _, waiting := range []int{batchSize, batchSize - 1} {
		w := s.newWorker(-1, s.at, nil)
		for _, relay := range quiet {
			w.answer([]packet{{payload: forward(t, mac2).ToBytes(), from: &unix.RawSockaddrInet6{Addr: relay.As16()}}})
		}
		for packets := range slices.Chunk(flood, waiting) {
			w.answer(packets)
		}
		n := w.tally.silences[dhcp6.NoisyRelay].Load()
		if held := n > 0; held != (waiting == batchSize) {
			t.Errorf("with %d packets at a time, %d of %d were too many", waiting, n, len(flood))
		}
	}
}

// The relay that a client is seen by is the one that saw it, not one of those
// that passed its message on.
func TestSeenByTheInnermostRelay(t *testing.T) {
	s := newServer()
	outer, middle, inner := netip.IPv6Loopback(), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::3")
	pod := pod1
	pod.Relays = []netip.Addr{outer, middle, inner}
	s.Apply(true, put(pod, serverID), 1)
	s.Confirm(0, 1)
	s.index.seen.on.Store(true)
	w := s.newWorker(-1, s.at, nil)
	now := s.moment()
	message := forward(t, mac1)
	for _, step := range []struct{ source, wraps netip.Addr }{{inner, inner}, {middle, inner}, {outer, middle}} {
		if step.source != inner {
			var err error
			if message, err = dhcpv6.EncapsulateRelay(message, dhcpv6.MessageTypeRelayForward, net.IPv6zero, step.wraps.AsSlice()); err != nil {
				t.Fatal(err)
			}
		}
		q := &w.queries[0]
		w.locate(&now, &packet{payload: message.ToBytes(), from: &unix.RawSockaddrInet6{Addr: step.source.As16()}}, q)
		if q.why != dhcp6.Answered || q.relay != inner {
			t.Errorf("through %s: %s, seen by %s", step.source, q.why, q.relay)
		}
	}
}

// The log says of a packet nothing that an earlier one said.
func TestLogOfOnePacketAlone(t *testing.T) {
	s := newServer()
	s.Apply(true, put(pod1, serverID), 1)
	s.Confirm(0, 1)
	w := s.newWorker(-1, s.at, nil)
	from := &unix.RawSockaddrInet6{Addr: pod1.Relays[0].As16()}
	w.answer([]packet{{payload: forward(t, mac1).ToBytes(), from: from}})
	w.answer([]packet{{payload: []byte{byte(dhcp6.Solicit)}, from: from}})
	if s.logs.count("reason=truncated") != 1 || s.logs.count(mac1.String()) != 1 {
		t.Errorf("the log has\n%s", &s.logs.buf)
	}
}

// Replies of a batch that have no room beside one another are sent before others
// take their place.
func TestLargeReplies(t *testing.T) {
	s := newServer()
	s.Apply(true, put(pod1, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 1)
	s.Confirm(0, 1)
	sock, err := Listen(netip.MustParseAddrPort("[::1]:0"))
	if err != nil {
		t.Skipf("no IPv6 on loopback: %v", err)
	}
	defer sock.Close()
	box := newMailbox(t, netip.IPv6Loopback())
	raw, err := box.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var denied error
	if err := raw.Control(func(fd uintptr) {
		denied = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	}); err != nil {
		t.Fatal(err)
	}
	if denied != nil {
		t.Skipf("needs root for a receive buffer that holds all replies: %v", denied)
	}
	const size = 60000
	var packets []packet
	want := map[byte]bool{}
	// More would be more than a client may ask for at once.
	for i := range byte(2 * outSize / size / 4 * 4) {
		mac := mac1
		mac[5] = 100 + i/4
		if i%4 == 0 {
			s.Apply(false, put(instance("i-"+mac.String(), mac)), 2)
		}
		relayed := forward(t, mac)
		relayed.AddOption(dhcpv6.OptInterfaceID(bytes.Repeat([]byte{i}, size)))
		packets = append(packets, packet{payload: relayed.ToBytes(), from: &box.at})
		want[i] = true
	}
	s.newWorker(sock.fds[0], sock.at, nil).answer(packets)
	for _, b := range box.take(t, len(packets)) {
		reply, err := dhcpv6.RelayMessageFromBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		id := reply.Options.InterfaceID()
		if len(id) != size || !want[id[0]] || bytes.Count(id, id[:1]) != size {
			t.Fatalf("got an interface-id of %d octets, %x…", len(id), id[:1])
		}
		delete(want, id[0])
	}
}

// A flood of packets is no flood of log lines.
func TestLogsAreBounded(t *testing.T) {
	s := newServer()
	s.Apply(true, put(pod1, serverID), 1)
	s.Confirm(0, 1)
	w := s.newWorker(-1, s.at, nil)
	r := reply{to: unix.RawSockaddrInet6{Addr: pod1.Relays[0].As16()}}
	for range 10_000 {
		w.answer([]packet{{payload: []byte{byte(dhcp6.Solicit)}, from: &r.to}})
		w.failed(&r, unix.ENETUNREACH)
	}
	for _, line := range []string{"reason=truncated", "reply not sent"} {
		if n := s.logs.count(line); n < 10 || n > 1000 {
			t.Errorf("%d lines of %q", n, line)
		}
	}
	if n := w.tally.silences[dhcp6.Truncated].Load() + w.tally.sendErrors.Load(); n != 20_000 {
		t.Errorf("%d are counted", n)
	}
}
