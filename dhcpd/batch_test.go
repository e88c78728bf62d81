package dhcpd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mailbox is a socket that the test reads.
type mailbox struct {
	*net.UDPConn
	at unix.RawSockaddrInet6
}

func newMailbox(t *testing.T, a netip.Addr) mailbox {
	t.Helper()
	conn, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		t.Skipf("no IPv6 on loopback: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetReadBuffer(4 << 20); err != nil {
		t.Fatal(err)
	}
	m := mailbox{UDPConn: conn, at: unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: a.As16()}}
	setPort(&m.at, conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	return m
}

// take reads as many packets as are expected.
func (m mailbox) take(t *testing.T, n int) [][]byte {
	t.Helper()
	if err := m.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var got [][]byte
	for range n {
		b := make([]byte, 1<<16)
		n, err := m.Read(b)
		if err != nil {
			t.Fatalf("after %d packets: %v", len(got), err)
		}
		got = append(got, b[:n])
	}
	return got
}

// Each reply gets to its own destination, whole, however they are grouped on the
// way to the kernel.
func TestSenderKeepsRepliesApart(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	boxes := []mailbox{newMailbox(t, netip.IPv6Loopback()), newMailbox(t, netip.IPv6Loopback()), newMailbox(t, netip.IPv6Loopback())}
	sock, err := Listen(netip.MustParseAddrPort("[::1]:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	out := sender{fd: sock.fds[0]}
	for round := range 200 {
		var replies []reply
		want := make([]map[string]int, len(boxes))
		for i := range want {
			want[i] = map[string]int{}
		}
		for range 1 + random.IntN(batchSize) {
			to := random.IntN(len(boxes))
			payload := make([]byte, []int{100, 101, 1400, 9000}[random.IntN(4)])
			binary.NativeEndian.PutUint64(payload, random.Uint64())
			r := reply{payload: payload, to: boxes[to].at}
			if random.IntN(2) == 0 {
				one := netip.IPv6Loopback().As16()
				copy(r.from[:], one[:])
			}
			replies = append(replies, r)
			want[to][string(payload)]++
		}
		out.send(replies, func(_ *reply, err error) { t.Errorf("round %d: %v", round, err) })
		for i, box := range boxes {
			n := 0
			for _, times := range want[i] {
				n += times
			}
			for _, b := range box.take(t, n) {
				if want[i][string(b)]--; want[i][string(b)] < 0 {
					t.Fatalf("round %d: a packet of %d octets that was not sent there", round, len(b))
				}
			}
		}
	}
}

// Replies that are longer than a packet on their way cannot be cut by the kernel:
// they go one by one, in fragments.
func TestSenderPastTheMTU(t *testing.T) {
	inNamespace(t)
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetMTU(lo, 1280)
	}
	if err != nil {
		t.Fatal(err)
	}
	box := newMailbox(t, netip.IPv6Loopback())
	sock, err := Listen(netip.MustParseAddrPort("[::1]:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	out := sender{fd: sock.fds[0]}
	nowhere := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: netip.MustParseAddr("2001:db8::1").As16(), Port: box.at.Port}
	var replies []reply
	for i := range 12 {
		r := reply{payload: bytes.Repeat([]byte{byte(i)}, 1400), to: box.at}
		if i%3 == 2 {
			r.to = nowhere // has no route
		}
		replies = append(replies, r)
	}
	replies = append(replies, reply{payload: make([]byte, 1), to: nowhere}) // alone of its length
	failures := 0
	out.send(replies, func(r *reply, err error) {
		if r.to != nowhere {
			t.Error(err)
		}
		failures++
	})
	if failures != 5 {
		t.Errorf("%d failures of 5", failures)
	}
	for _, b := range box.take(t, 8) {
		if len(b) != 1400 || bytes.Count(b, b[:1]) != 1400 || b[0]%3 == 2 {
			t.Errorf("%d octets of %d", len(b), b[0])
		}
	}
}

// deafLink moves the test to a network namespace with a link on which nobody answers
// neighbour solicitations, and returns the address of the ith on it.
func deafLink(t *testing.T) (neighbour func(i int) [16]byte) {
	t.Helper()
	here := netip.MustParsePrefix("fd00:1::1/64")
	inNamespace(t)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "here"}, PeerName: "there"}
	err := netlink.LinkAdd(veth)
	for _, name := range []string{"here", "there"} {
		var link netlink.Link
		if err == nil {
			link, err = netlink.LinkByName(name)
		}
		if err == nil && name == "here" {
			err = netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: here.Addr().AsSlice(), Mask: net.CIDRMask(here.Bits(), 128)}, Flags: unix.IFA_F_NODAD})
		}
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
	}
	if err == nil {
		// They are looked for until the test ends.
		err = os.WriteFile("/proc/sys/net/ipv6/neigh/here/mcast_solicit", []byte("1000000"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool { _, err := netlink.RouteGet(net.ParseIP("fd00:1::2")); return err == nil })
	return func(i int) [16]byte {
		a := here.Addr().As16()
		a[15] = byte(2 + i)
		return a
	}
}

// Relays on the server's link that do not answer neighbour solicitations hold up
// nobody else's replies.
func TestUnreachableNeighboursHoldUpNobody(t *testing.T) {
	neighbour := deafLink(t)
	box := newMailbox(t, netip.IPv6Loopback())
	sock, err := Listen(netip.MustParseAddrPort("[::]:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	absent := func(i int) unix.RawSockaddrInet6 {
		return unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: neighbour(i % 4), Port: box.at.Port}
	}
	const rounds = 20
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		out := sender{fd: sock.fds[0]}
		for range rounds {
			replies := []reply{{payload: make([]byte, 100), to: box.at}}
			for i := range batchSize - 1 {
				replies = append(replies, reply{payload: make([]byte, 1000+i), to: absent(i)})
			}
			out.send(replies, func(r *reply, err error) { t.Error(err) })
		}
	}()
	box.take(t, rounds)
	<-sent
}

// Where the kernel has no room for what cannot be sent yet, the sender gives up.
func TestSenderDoesNotWaitForEver(t *testing.T) {
	neighbour := deafLink(t)
	sock, err := Listen(netip.MustParseAddrPort("[::]:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	if err := unix.SetsockoptInt(sock.fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil { // as little as may be
		t.Fatal(err)
	}
	var replies []reply
	for i := range batchSize {
		replies = append(replies, reply{payload: make([]byte, 1000+i/2), to: unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: neighbour(i / 2), Port: 1}})
	}
	failed := make(chan int)
	go func() {
		n := 0
		(&sender{fd: sock.fds[0]}).send(replies, func(_ *reply, err error) { n++ })
		failed <- n
	}()
	select {
	case n := <-failed:
		if n == 0 {
			t.Error("all were sent")
		}
	case <-time.After(patience):
		t.Error("it still waits")
	}
}

// Packets that the kernel hands over as one are read as what they were.
func TestReceiverTakesTrainsApart(t *testing.T) {
	sock, err := Listen(netip.MustParseAddrPort("[::]:0"))
	if err != nil {
		t.Skipf("no IPv6 on loopback: %v", err)
	}
	defer sock.Close()
	box := newMailbox(t, netip.IPv6Loopback())
	to := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: netip.IPv6Loopback().As16()}
	setPort(&to, sock.at.Port())
	raw, err := box.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	var replies []reply
	for i := range batchSize {
		payload := []byte(fmt.Sprintf("%0*d", 100+i/40, i)) // some a little longer
		want[string(payload)] = true
		replies = append(replies, reply{payload: payload, to: to})
	}
	if err := raw.Control(func(fd uintptr) {
		(&sender{fd: int(fd)}).send(replies, func(_ *reply, err error) { t.Error(err) })
	}); err != nil {
		t.Fatal(err)
	}
	// Which of the kernel's sockets has them is its own affair.
	fds := make([]unix.PollFd, len(sock.fds))
	for i, fd := range sock.fds {
		fds[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	for len(want) > 0 {
		if n, err := unix.Poll(fds, int(patience.Milliseconds())); n == 0 || err != nil && err != unix.EINTR {
			t.Fatalf("%d packets did not come: %v", len(want), err)
		}
		for _, ready := range fds {
			if ready.Revents == 0 {
				continue
			}
			in := newReceiver(int(ready.Fd))
			n, err := in.receive()
			if err != nil {
				t.Fatal(err)
			}
			var packets []packet
			for i := range n {
				packets = in.appendPackets(packets, i)
			}
			for _, p := range packets {
				if !want[string(p.payload)] {
					t.Fatalf("got %q", p.payload)
				}
				delete(want, string(p.payload))
				if p.source().Port() != port(&box.at) || netip.AddrFrom16([16]byte(p.to[:16])) != netip.IPv6Loopback() {
					t.Errorf("from %s to %v", p.source(), p.to)
				}
			}
		}
	}
}

// What goes to another place, comes from another address or has another length
// is another message to the kernel.
func TestTrainsAreOfOneKind(t *testing.T) {
	a := reply{payload: make([]byte, 100), to: unix.RawSockaddrInet6{Addr: netip.MustParseAddr("fe80::1").As16(), Port: 1, Scope_id: 1}}
	a.from[0], a.from[16] = 0xfe, 1
	kinds := []reply{a, a, a, a, a, a, a}
	kinds[1].payload = a.payload[:99]
	kinds[2].to.Addr[15] = 2
	kinds[3].to.Port = 2
	kinds[4].to.Scope_id = 2
	kinds[5].from[15] = 1
	kinds[6].from[16] = 2
	var s sender
	if n := s.group(slices.Concat(kinds, kinds)); n != len(kinds) {
		t.Errorf("%d trains of %d kinds", n, len(kinds))
	}
	for i := range kinds {
		if s.trains[i].size != 2 || s.of[i] != uint8(i) || s.of[len(kinds)+i] != uint8(i) {
			t.Errorf("train %d has %d: %v", i, s.trains[i].size, s.of[:2*len(kinds)])
		}
	}
	large := reply{payload: make([]byte, 20000), to: a.to}
	if n := s.group([]reply{large, large, large, large, large}); n != 2 || s.trains[0].size != 3 || s.trains[1].size != 2 {
		t.Errorf("%d trains, the first of %d", n, s.trains[0].size)
	}
}

func TestReplyFrom(t *testing.T) {
	for _, test := range []struct {
		sentTo string
		on     byte // interface
		from   string
		by     byte
	}{
		{"2001:db8::1", 3, "2001:db8::1", 0}, // through whichever interface leads there
		{"fe80::1", 3, "fe80::1", 3},
		{"ff05::1:3", 3, "::", 0}, // nobody sends from there
		{"::", 0, "::", 0},
	} {
		var to, want pktinfo
		a, from := netip.MustParseAddr(test.sentTo).As16(), netip.MustParseAddr(test.from).As16()
		copy(to[:], a[:])
		copy(want[:], from[:])
		binary.NativeEndian.PutUint32(to[16:], uint32(test.on))
		binary.NativeEndian.PutUint32(want[16:], uint32(test.by))
		if got := replyFrom(to); got != want {
			t.Errorf("asked at %s: from %v, expected %v", test.sentTo, got, want)
		}
	}
}
