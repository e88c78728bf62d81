package hypervisor_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/nft"
)

// The tests of this file are of what the two ways to follow connections have to
// do each on its own: what the host itself sends and routes, fragments, several
// bridges, what the kernel makes of IPv4. lab/vm runs them, and all others, on a
// kernel with nf_conntrack_bridge and on one without.

// TestProbe: the way is the one that the kernel is known to have.
func TestProbe(t *testing.T) {
	if why := cannotRun(); why != "" {
		t.Skip(why)
	}
	mode, err := nft.Probe(t.Context())
	must(t, err)
	switch want := os.Getenv("SIXACRE_TEST_MODE"); {
	case want == "":
		t.Skipf("SIXACRE_TEST_MODE does not say which way this kernel has; found %s", mode)
	case mode.String() != want:
		t.Errorf("connections are followed by %s, want %s", mode, want)
	}
}

const hostAddress, hostLinkLocal = "2001:db8:100:1::aa", "fe80::aa"

// addressHost gives the host addresses on br0, and the MACs of guests, so that it
// need not ask for them.
func (h *host) addressHost() (bridge *net.Interface) {
	h.Helper()
	sh(h, `sysctl -q -w net.ipv6.conf.br0.accept_dad=0 net.ipv6.conf.br0.addr_gen_mode=1 net.ipv6.conf.br0.disable_ipv6=0
		ip addr add `+hostAddress+`/64 dev br0 nodad
		ip addr add `+hostLinkLocal+`/64 dev br0 nodad
		for guest in `+own1+`/06:00:00:00:00:01 `+ll1+`/06:00:00:00:00:01 `+own2+`/06:00:00:00:00:02; do
			ip neigh replace ${guest%/*} lladdr ${guest#*/} dev br0 nud permanent
		done`)
	bridge, err := net.InterfaceByName("br0")
	must(h, err)
	return bridge
}

// echoOf is an echo request or reply (RFC 4443 section 4).
func echoOf(typ byte, id uint16, data string) []byte {
	b := binary.BigEndian.AppendUint16([]byte{typ, 0, 0, 0}, id)
	return append(append(b, 0, 1), data...)
}

// receives waits for the IPv6 packet whose payload behind the fixed header, but
// for its checksum at the offset, is that.
func (e *end) receives(want []byte, sumAt int, within time.Duration) (frame []byte) {
	e.Helper()
	for deadline := time.Now().Add(within); ; {
		f := e.receive(time.Until(deadline))
		if f == nil {
			return nil
		}
		if len(f) < 54+len(want) || f[12] != 0x86 {
			continue
		}
		got := append([]byte(nil), f[54:54+len(want)]...)
		got[sumAt], got[sumAt+1] = want[sumAt], want[sumAt+1]
		if bytes.Equal(got, want) {
			return f
		}
	}
}

// TestEchoWithTheHost: host and guest ping each other, by global and by
// link-local addresses, and each answer belongs to its question.
func TestEchoWithTheHost(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1, "default"), instance(2)}})
	bridge := h.addressHost()
	guest := h.ends["guest1"]
	zone := "%" + strconv.Itoa(bridge.Index) // by its name, package net may take an earlier test's
	for i, c := range []struct{ host, guest, zone string }{
		{hostAddress, own1, ""},
		{hostLinkLocal, ll1, zone},
		{hostAddress, prefix1, ""}, // routed by the host itself
	} {
		if c.guest == prefix1 {
			sh(t, "ip -6 route replace 2001:db8:4000:10::/60 via "+ll1+" dev br0")
		}
		h.drain()
		from := packet{srcMAC: mac1, dstMAC: bridge.HardwareAddr, src: c.guest, dst: c.host, next: icmp6}
		id := uint16(0x100 + i)

		ask := from
		ask.payload = echoOf(128, id, "from the guest")
		guest.send(ask.frame())
		if guest.receives(echoOf(129, id, "from the guest"), 2, 5*time.Second) == nil {
			t.Errorf("%s pings %s: no answer", c.guest, c.host)
		}

		socket, err := net.ListenPacket("ip6:ipv6-icmp", c.host+c.zone)
		must(t, err)
		defer socket.Close()
		to, err := net.ResolveIPAddr("ip6", c.guest+c.zone)
		must(t, err)
		_, err = socket.WriteTo(echoOf(128, id+0x20, "from the host"), to)
		must(t, err)
		if guest.receives(echoOf(128, id+0x20, "from the host"), 2, 5*time.Second) == nil {
			t.Errorf("%s pings %s: it did not receive the question", c.host, c.guest)
			continue
		}
		answer := from
		answer.payload = echoOf(129, id+0x20, "from the host")
		guest.send(answer.frame())
		must(t, socket.SetReadDeadline(time.Now().Add(5*time.Second)))
		for buf := make([]byte, 100); ; {
			n, _, err := socket.ReadFrom(buf)
			if err != nil {
				t.Errorf("%s pings %s: no answer: %s", c.host, c.guest, err)
				break
			}
			if buf[0] == 129 && strings.HasSuffix(string(buf[:n]), "from the host") {
				break
			}
		}
	}
}

// arrives sends the packet at one end, and looks for its payload at another.
func (h *host) arrives(name string, pass bool, from, to string, p packet) {
	h.Helper()
	h.drain()
	h.ends[from].send(p.frame())
	wait := 5 * time.Second
	if !pass {
		wait = 100 * time.Millisecond
	}
	if got := h.ends[to].receives(p.payload, map[byte]int{udp: 6, icmp6: 2}[p.next], wait) != nil; got != pass {
		h.Errorf("%s: passed %t, want %t", name, got, pass)
	}
}

// TestRoutingHost: a host that is its guests' router, with an uplink that is no
// port of their bridge. What it routes is judged as what the bridge carries.
func TestRoutingHost(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{
		Pods:      []sixacre.Pod{{Name: "pod1", LinkPrefix: pod.LinkPrefix, Pools: []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:4000::/40"), DelegatedLength: 60}}}},
		Instances: []sixacre.Instance{instance(1, "web"), instance(2, "strict")},
		Groups:    []sixacre.Group{groupOf(t, "web", "in udp ports=8000"), groupOf(t, "strict", "out udp ports=7000")},
	})
	bridge := h.addressHost()
	sh(t, `ip link add up0 type veth peer name net0
		ip link set up0 up; ip link set net0 up
		sysctl -q -w net.ipv6.conf.up0.accept_dad=0 net.ipv6.conf.up0.disable_ipv6=0 net.ipv6.conf.all.forwarding=1
		ip addr add 2001:db8:200::1/64 dev up0 nodad
		ip neigh replace 2001:db8:200::2 lladdr 02:00:00:00:00:fe dev up0 nud permanent
		ip -6 route add 2001:db8:ffff::/48 via 2001:db8:200::2
		ip -6 route add 2001:db8:4000:10::/60 via `+ll1+` dev br0`)
	t.Cleanup(func() { sh(t, "ip link del up0; sysctl -q -w net.ipv6.conf.all.forwarding=0") })
	uplink, err := net.InterfaceByName("up0")
	must(t, err)
	h.ends["net0"] = newEnd(t, "net0")

	in := func(src, dst string, next byte, payload []byte) packet {
		return packet{srcMAC: macWire, dstMAC: uplink.HardwareAddr, src: src, dst: dst, next: next, payload: payload}
	}
	out := func(n byte, src, dst string, payload []byte) packet {
		return packet{srcMAC: []byte{6, 0, 0, 0, 0, n}, dstMAC: bridge.HardwareAddr, src: src, dst: dst, next: udp, payload: payload}
	}
	for _, guest := range []string{own1, prefix1} {
		t.Log(guest)
		h.arrives("in, by a rule", true, "net0", "guest1", in(outside, guest, udp, udpTo(5000, 8000, 'q')))
		h.arrives("the answer", true, "guest1", "net0", out(1, guest, outside, udpTo(8000, 5000, 'a')))
		h.arrives("going on", true, "net0", "guest1", in(outside, guest, udp, udpTo(5000, 8000, 'r')))
		h.arrives("in, without a rule", false, "net0", "guest1", in(outside, guest, udp, udpTo(5000, 8001, 'q')))
		h.arrives("an answer before the question", false, "net0", "guest1", in(outside, guest, udp, udpTo(53, 4000, 'a')))
		h.arrives("out", true, "guest1", "net0", out(1, guest, outside, udpTo(4000, 53, 'q')))
		h.arrives("its answer", true, "net0", "guest1", in(outside, guest, udp, udpTo(53, 4000, 'b')))
		h.arrives("another's answer", false, "net0", "guest1", in("2001:db8:ffff::2", guest, udp, udpTo(53, 4000, 'b')))
		h.arrives("from another's address", false, "guest1", "net0", out(1, own2, outside, udpTo(4000, 7000, 'q')))
		h.arrives("echo", true, "net0", "guest1", in(outside, guest, icmp6, echoOf(128, 7, "from afar")))
	}
	h.arrives("egress by a rule", true, "guest2", "net0", out(2, own2, outside, udpTo(4000, 7000, 'q')))
	h.arrives("its answer", true, "net0", "guest2", in(outside, own2, udp, udpTo(7000, 4000, 'a')))
	h.arrives("egress without a rule", false, "guest2", "net0", out(2, own2, outside, udpTo(4000, 7001, 'q')))

	// What the router has to say of a guest's packet reaches the guest.
	h.drain()
	last := out(1, own1, outside, udpTo(4001, 53, 'q'))
	last.hops = 1
	h.ends["guest1"].send(last.frame())
	exceeded := append([]byte{3, 0, 0, 0, 0, 0, 0, 0}, last.frame()[14:21]...)
	if h.ends["guest1"].receives(exceeded, 2, 5*time.Second) == nil {
		t.Error("guest1 received no Time Exceeded from the host")
	}
	sh(t, "ip link set up0 mtu 1280")
	big := out(1, own1, outside, udpTo(4001, 53, make([]byte, 1400)...))
	h.ends["guest1"].send(big.frame())
	tooBig := append([]byte{2, 0, 0, 0, 0, 0, 0x05, 0}, big.frame()[14:21]...)
	if h.ends["guest1"].receives(tooBig, 2, 5*time.Second) == nil {
		t.Error("guest1 received no Packet Too Big from the host")
	}
}

// TestGuestToGuest: two guests of one host talk as the rules of both allow, and
// nobody else gets into what they say.
func TestGuestToGuest(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{
		Instances: []sixacre.Instance{instance(1, "asks"), instance(2, "answers"), instance(3, "asks")},
		Groups:    []sixacre.Group{groupOf(t, "asks", "out tcp ports=80"), groupOf(t, "answers", "in tcp ports=80-81", "out udp ports=9")},
	})
	say := func(n, to byte, sport, dport uint16, flags byte, seq, acked uint32) packet {
		return packet{srcMAC: []byte{6, 0, 0, 0, 0, n}, dstMAC: []byte{6, 0, 0, 0, 0, to}, next: tcp,
			src: "2001:db8:100:1:400:ff:fe00:" + string('0'+rune(n)), dst: "2001:db8:100:1:400:ff:fe00:" + string('0'+rune(to)),
			payload: tcpTo(sport, dport, flags, seq, acked)}
	}
	h.deliver([]delivery{
		{"the answer before the question", false, "guest2", "guest1", say(2, 1, 80, 5000, synAck, 7, 2)},
		{"a port that only the other allows", false, "guest1", "guest2", say(1, 2, 5001, 81, syn, 1, 0)},
		{"the question", true, "guest1", "guest2", say(1, 2, 5000, 80, syn, 1, 0)},
		{"the answer", true, "guest2", "guest1", say(2, 1, 80, 5000, synAck, 7, 2)},
		{"and on", true, "guest1", "guest2", say(1, 2, 5000, 80, ack, 2, 8)},
		{"and on", true, "guest2", "guest1", say(2, 1, 80, 5000, ack, 8, 2)},
		{"to another guest", false, "guest2", "guest3", say(2, 3, 80, 5000, synAck, 7, 2)},
		{"a connection of its own", false, "guest2", "guest1", say(2, 1, 6000, 22, syn, 1, 0)},
	})
	forged := say(1, 2, 5000, 80, ack, 2, 8)
	forged.srcMAC = []byte{6, 0, 0, 0, 0, 3}
	h.deliver([]delivery{
		{"a third in their connection", false, "guest3", "guest2", forged},
		{"the wire in their connection, from its own MAC", true, "wire", "guest2", func() packet {
			p := say(1, 2, 5000, 80, ack, 2, 8) // nothing at this host tells it from a router that sends a packet back
			p.srcMAC = macWire
			return p
		}()},
	})
}

// TestTwoBridges: equal addresses on two links are two hosts, and what happens
// on one link opens nothing on the other.
func TestTwoBridges(t *testing.T) {
	h := newHost(t, filterAlone{})
	sh(t, `ip link add br1 type bridge mcast_snooping 0
		ip link set br1 up
		for pair in eth1:wire9 tap9:guest9; do
			ip link add ${pair%:*} type veth peer name ${pair#*:}
			ip link set ${pair%:*} master br1 up
			ip link set ${pair#*:} up
		done`)
	t.Cleanup(func() { sh(t, "for l in eth1 tap9 br1; do ip link del $l; done") })
	for _, name := range []string{"wire9", "guest9"} {
		h.ends[name] = newEnd(t, name)
	}
	twin := instance(1)
	twin.Name = "twin"
	twin.NICs[0].Pod, twin.NICs[0].Device, twin.NICs[0].Prefixes = "pod2", "tap9", nil
	h.follow(sixacre.View{
		Pods:      []sixacre.Pod{pod, {Name: "pod2", LinkPrefix: pod.LinkPrefix, Addressing: sixacre.SLAAC}},
		Instances: []sixacre.Instance{instance(1, "default"), twin},
	})
	question := packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(4000, 53, 'q')}
	answer := toGuest1(outside, own1, 64, udp, udpTo(53, 4000, 'a'))
	ping := packet{srcMAC: mac1, src: ll1, dst: router, next: icmp6, payload: echoOf(128, 1, "q")}
	pong := toGuest1(router, ll1, 64, icmp6, echoOf(129, 1, "q"))
	h.arrives("asking on one link", true, "guest1", "wire", question)
	h.arrives("the answer on the other", false, "wire9", "guest9", answer)
	h.arrives("the answer", true, "wire", "guest1", answer)
	h.arrives("the answer on the other, again", false, "wire9", "guest9", answer)
	h.arrives("ping on one link", true, "guest1", "wire", ping)
	h.arrives("its answer on the other", false, "wire9", "guest9", pong)
	h.arrives("its answer", true, "wire", "guest1", pong)
	h.arrives("asking on the other link", true, "guest9", "wire9", question)
	h.arrives("the answer on the other, now", true, "wire9", "guest9", answer)
}

// TestFragmentsOfThatSize: fragments as senders make them, as long as a link
// allows, arrive whole, however the kernel puts them together in between.
func TestFragmentsOfThatSize(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{
		Instances: []sixacre.Instance{instance(1, "web"), instance(2, "web")},
		Groups:    []sixacre.Group{groupOf(t, "web", "in udp ports=1000")},
	})
	bridge := h.addressHost()
	long := make([]byte, 2400)
	for i := range long {
		long[i] = byte(i >> 3)
	}
	guest2 := packet{srcMAC: mac1, dstMAC: mac2, src: own1, dst: own2, next: udp}
	for _, c := range []struct {
		name     string
		pass     bool
		from, to string
		p        packet
		dport    uint16
		at       int
	}{
		{"out, the smallest MTU", true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp}, 6000, 1232},
		{"out, Ethernet's MTU", true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp}, 6000, 1448},
		{"in, by a rule", true, "wire", "guest1", toGuest1(outside, own1, 64, udp, nil), 1000, 1448},
		{"in, without a rule", false, "wire", "guest1", toGuest1(outside, own1, 64, udp, nil), 1001, 1448},
		{"guest to guest, by a rule", true, "guest1", "guest2", guest2, 1000, 1448},
		{"guest to guest, without a rule", false, "guest1", "guest2", guest2, 1001, 1448},
	} {
		for _, order := range [][]int{{0, 1}, {1, 0}} {
			c.p.payload = udpTo(5000, c.dport, long[:c.at+600]...)
			pieces := c.p.fragments(c.at)
			h.drain()
			for _, i := range order {
				h.ends[c.from].send(pieces[i])
			}
			whole := make([]byte, len(c.p.payload))
			octets, wait := 0, 5*time.Second
			if !c.pass {
				wait = 100 * time.Millisecond
			}
			for octets < len(whole) {
				f := h.ends[c.to].receive(wait)
				if f == nil {
					break
				}
				if f[20] == fragment {
					offset := int(binary.BigEndian.Uint16(f[56:]) &^ 7)
					octets += copy(whole[min(offset, len(whole)):], f[62:])
				}
			}
			if c.pass && (octets != len(whole) || !bytes.Equal(whole[8:], c.p.payload[8:])) || !c.pass && octets > 0 {
				t.Errorf("%s, %v: %d of %d octets arrived; pass is to be %t", c.name, order, octets, len(whole), c.pass)
			}
		}
	}

	// To and from the host itself.
	socket, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("["+hostAddress+"]:7000")))
	must(t, err)
	defer socket.Close()
	p := packet{srcMAC: mac1, dstMAC: bridge.HardwareAddr, src: own1, dst: hostAddress, next: udp, payload: udpTo(1000, 7000, long[:2000]...)}
	for _, piece := range p.fragments(1448) {
		h.ends["guest1"].send(piece)
	}
	must(t, socket.SetReadDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 4000)
	n, from, err := socket.ReadFromUDPAddrPort(buf)
	if err != nil || !bytes.Equal(buf[:n], long[:2000]) {
		t.Errorf("the host received %d octets from %s: %v", n, from, err)
	}
	h.drain()
	_, err = socket.WriteToUDPAddrPort(long, netip.MustParseAddrPort("["+own1+"]:1000"))
	must(t, err)
	for octets := 0; octets < 8+len(long); {
		f := h.ends["guest1"].receive(5 * time.Second)
		if f == nil {
			t.Fatalf("guest1 received %d of %d octets from the host", octets, 8+len(long))
		}
		if f[20] == fragment {
			octets += int(binary.BigEndian.Uint16(f[18:])) - 8
		}
	}
}

// TestIPv4Untouched: IPv4 passes as it came, in fragments or malformed, and
// nobody follows its connections.
func TestIPv4Untouched(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1)}})
	ipv4 := func(change func(head []byte)) []byte {
		head := []byte{0x45, 0, 0, 36, 0, 9, 0, 0, 64, udp, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}
		change(head)
		sum := uint32(0)
		for i := 0; i < len(head); i += 2 {
			sum += uint32(head[i])<<8 | uint32(head[i+1])
		}
		sum = sum&0xffff + sum>>16
		if head[10] == 0 {
			binary.BigEndian.PutUint16(head[10:], ^uint16(sum))
		}
		return append(head, udpTo(5000, 6000, []byte("12345678")...)...)
	}
	for _, c := range []struct {
		name   string
		packet []byte
	}{
		{"whole", ipv4(func([]byte) {})},
		{"first fragment", ipv4(func(b []byte) { b[6] = 0x20 })},
		{"last fragment", ipv4(func(b []byte) { b[7] = 100 })},
		{"wrong checksum", ipv4(func(b []byte) { b[10] = 1 })},
		{"too long", ipv4(func(b []byte) { b[3] = 200 })},
		{"too short", ipv4(func(b []byte) { b[3] = 8 })},
		{"short header", ipv4(func(b []byte) { b[0] = 0x44 })},
		{"version 6", ipv4(func(b []byte) { b[0] = 0x65 })},
		{"nothing", nil},
	} {
		for _, way := range [][2]string{{"wire", "guest1"}, {"guest1", "wire"}} {
			f := append(append([]byte(nil), macOf(way[1])...), macOf(way[0])...)
			f = append(append(f, 0x08, 0x00), c.packet...)
			if !h.passes(way[0], way[1], f) {
				t.Errorf("%s from %s: did not pass", c.name, way[0])
			}
		}
	}
	flows, err := os.ReadFile("/proc/net/nf_conntrack")
	must(t, err)
	if strings.Contains(string(flows), "src=192.0.2.1 dst=192.0.2.2 ") {
		t.Errorf("the kernel follows IPv4's connections:\n%s", flows)
	}
}

// TestConnectionLimit: a guest has as many connections as it may, and gets room
// when some end; others have theirs, and what it has goes on.
func TestConnectionLimit(t *testing.T) {
	const most = 50
	defer func(was firewall.Limits) { manyOf = was }(manyOf)
	manyOf.Connections = most
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{
		Instances: []sixacre.Instance{instance(1, "web"), instance(2, "web")},
		Groups:    []sixacre.Group{groupOf(t, "web", "in udp ports=1000")},
	})
	out := func(sport uint16) bool {
		return h.passes("guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(sport, 53, 'q')}.frame())
	}
	in := func(sport uint16) bool {
		return h.passes("wire", "guest1", toGuest1(outside, own1, 64, udp, udpTo(sport, 1000, 'q')).frame())
	}
	for name, open := range map[string]func(uint16) bool{"opened by it": out, "opened to it": in} {
		passed := 0
		for port := range uint16(most + 20) {
			if open(5000 + port) {
				passed++
			}
		}
		if passed != most {
			t.Errorf("%s: %d connections, want %d", name, passed, most)
		}
		if !open(5000) {
			t.Errorf("%s: one that was there already is refused", name)
		}
	}
	if !h.passes("wire", "guest1", toGuest1(outside, own1, 64, udp, udpTo(53, 5000, 'a')).frame()) {
		t.Error("an answer to guest1 is refused")
	}
	if !h.passes("guest2", "wire", packet{srcMAC: mac2, src: own2, dst: outside, next: udp, payload: udpTo(5000, 53, 'q')}.frame()) {
		t.Error("guest2 is refused because guest1 has too many")
	}

	sh(t, "sysctl -q -w net.netfilter.nf_conntrack_udp_timeout=1")
	t.Cleanup(func() { sh(t, "sysctl -q -w net.netfilter.nf_conntrack_udp_timeout=30") })
	// Those that wait for an answer wait no longer once they are heard of again.
	for port := range uint16(most) {
		out(5000 + port)
	}
	for deadline := time.Now().Add(20 * time.Second); !out(7000); {
		if time.Now().After(deadline) {
			t.Fatal("connections ended and made no room")
		}
	}
}

// TestMalformed: what connection tracking does not look into, since it is not the
// IPv6 that it says it is, opens no connection, whatever the rules allow.
func TestMalformed(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{
		Instances: []sixacre.Instance{instance(1, "all"), instance(2, "all")},
		Groups:    []sixacre.Group{groupOf(t, "all", "in any")},
	})
	for _, c := range []struct {
		name   string
		change func(frame []byte) []byte
		pass   bool
	}{
		{"well formed", func(f []byte) []byte { return f }, true},
		{"version 2", func(f []byte) []byte { f[14] = 0x20; return f }, false},
		{"version 4", func(f []byte) []byte { f[14] = 0x40; return f }, false},
		{"cut short", func(f []byte) []byte { return f[:len(f)-1] }, false},
		{"longer than it is", func(f []byte) []byte { f[18] = 1; return f }, false},
		{"a header alone", func(f []byte) []byte { return f[:54] }, false},
	} {
		for _, to := range [][2]string{{"guest1", "wire"}, {"wire", "guest1"}, {"guest1", "guest2"}} {
			p := packet{srcMAC: macOf(to[0]), dstMAC: macOf(to[1]), src: own1, dst: outside, next: udp, payload: udpTo(5000, 6000, []byte("whatever")...)}
			switch to[1] {
			case "guest1":
				p.src, p.dst = outside, own1
			case "guest2":
				p.dst = own2
			}
			if got := h.passes(to[0], to[1], c.change(p.frame())); got != c.pass {
				t.Errorf("%s, from %s to %s: passed %t, want %t", c.name, to[0], to[1], got, c.pass)
			}
		}
	}
}
