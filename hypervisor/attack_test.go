package hypervisor_test

import (
	"strings"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/rtnl"
)

// Attacks by several packets, of which each alone looks harmless: they would have
// connection tracking know a connection that no rule allowed.

var allNodesMAC = []byte{0x33, 0x33, 0, 0, 0, 1}

// TestForgedByTheWire: a machine on the link makes the guest's closed port look as
// if the guest itself had opened the connection.
func TestForgedByTheWire(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1), instance(2)}})
	bridge := h.addressHost()
	for name, c := range map[string]struct{ forged, attack packet }{
		"in a multicast frame": {
			packet{srcMAC: macWire, dstMAC: allNodesMAC, src: own1, dst: outside, next: udp, payload: udpTo(22, 5555, 'x')},
			toGuest1(outside, own1, 64, udp, udpTo(5555, 22, 'y')),
		},
		"to the host": {
			packet{srcMAC: macWire, dstMAC: bridge.HardwareAddr, src: own1, dst: hostAddress, next: udp, payload: udpTo(22, 5556, 'x')},
			toGuest1(hostAddress, own1, 64, udp, udpTo(5556, 22, 'y')),
		},
	} {
		h.passes("wire", "guest1", c.forged.frame())
		if h.passes("wire", "guest1", c.attack.frame()) {
			t.Errorf("%s: it opened a closed port", name)
		}
	}
	h.passes("wire", "guest1", packet{srcMAC: macWire, dstMAC: allNodesMAC, src: own1, dst: own2, next: tcp, payload: tcpTo(22, 5557, syn, 1, 0)}.frame())
	if h.passes("guest2", "guest1", packet{srcMAC: mac2, dstMAC: mac1, src: own2, dst: own1, next: tcp, payload: tcpTo(5557, 22, syn, 9, 0)}.frame()) {
		t.Error("it opened a closed port to another guest")
	}
}

// TestForgedAnswer: a guest opens a connection to its neighbour by way of the
// router, where the neighbour's rules stop it, and an accomplice answers in the
// neighbour's name.
func TestForgedAnswer(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1), instance(2)}})
	direct := packet{srcMAC: mac2, dstMAC: mac1, src: own2, dst: own1, next: udp, payload: udpTo(5555, 22, 'x')}
	out := direct
	out.dstMAC = macWire
	h.deliver([]delivery{
		{"directly", false, "guest2", "guest1", direct},
		{"by way of the router", true, "guest2", "wire", out},
		{"and back", false, "wire", "guest1", toGuest1(own2, own1, 64, udp, udpTo(5555, 22, 'x'))},
		{"the forged answer", false, "wire", "guest2", packet{srcMAC: macWire, dstMAC: mac2, src: own1, dst: own2, next: udp, payload: udpTo(22, 5555, 'y')}},
		{"directly, after the answer", false, "guest2", "guest1", direct},
	})
}

// TestByWayOfTheRouter: guests of one host reach each other's prefixes through
// their router, as their rules say.
func TestByWayOfTheRouter(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{
		Instances: []sixacre.Instance{instance(1), instance(2, "web")},
		Groups:    []sixacre.Group{groupOf(t, "web", "in tcp ports=80")},
	})
	const prefix2 = "2001:db8:4000:20::5"
	p := func(from, to []byte, src, dst string, sport, dport uint16, flags byte, seq, acked uint32) packet {
		return packet{srcMAC: from, dstMAC: to, src: src, dst: dst, next: tcp, payload: tcpTo(sport, dport, flags, seq, acked)}
	}
	h.deliver([]delivery{
		{"SYN straight", true, "guest1", "guest2", p(mac1, mac2, prefix1, own2, 4000, 80, syn, 1, 0)},
		{"SYN-ACK to the router", true, "guest2", "wire", p(mac2, macWire, own2, prefix1, 80, 4000, synAck, 9, 2)},
		{"and back", true, "wire", "guest1", p(macWire, mac1, own2, prefix1, 80, 4000, synAck, 9, 2)},
		{"ACK straight", true, "guest1", "guest2", p(mac1, mac2, prefix1, own2, 4000, 80, ack, 2, 10)},

		{"SYN to the router", true, "guest1", "wire", p(mac1, macWire, own1, prefix2, 4001, 80, syn, 1, 0)},
		{"and back", true, "wire", "guest2", p(macWire, mac2, own1, prefix2, 4001, 80, syn, 1, 0)},
		{"SYN-ACK to the router", true, "guest2", "wire", p(mac2, macWire, prefix2, own1, 80, 4001, synAck, 9, 2)},
		{"and back", true, "wire", "guest1", p(macWire, mac1, prefix2, own1, 80, 4001, synAck, 9, 2)},
		{"ACK to the router", true, "guest1", "wire", p(mac1, macWire, own1, prefix2, 4001, 80, ack, 2, 10)},
		{"and back", true, "wire", "guest2", p(macWire, mac2, own1, prefix2, 4001, 80, ack, 2, 10)},

		{"SYN for a closed port to the router", true, "guest1", "wire", p(mac1, macWire, own1, prefix2, 4002, 81, syn, 1, 0)},
		{"and back", false, "wire", "guest2", p(macWire, mac2, own1, prefix2, 4002, 81, syn, 1, 0)},
	})
}

// TestForgedMAC: a frame from the wire with a guest's MAC does not take its place
// behind the tap.
func TestForgedMAC(t *testing.T) {
	h := newHost(t, rtnl.Links{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1), instance(2)}})
	h.until("the barrier up", func() bool { return strings.Contains(sh(t, `bridge -d link show dev tap1`), "locked on") })
	hello := packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(5000, 6000, 'x')}
	h.ends["wire"].send(packet{srcMAC: mac1, dstMAC: allNodesMAC, src: own1, dst: outside, next: udp, payload: udpTo(5000, 6000, 'x')}.frame())
	h.drain()
	h.ends["guest1"].send(hello.frame())
	if h.ends["wire"].receive(5e9) == nil {
		t.Error("the guest is cut off")
	}
	if table := sh(t, "bridge fdb show br br0"); !strings.Contains(table, "06:00:00:00:00:01 dev tap1") {
		t.Errorf("the bridge takes the guest to be elsewhere:\n%s", table)
	}
}

// TestEveryProtocolCounts: connections of protocols without ports, and of packets
// that end with their headers, are limited too.
func TestEveryProtocolCounts(t *testing.T) {
	defer func(was int) { manyOf.Connections = was }(manyOf.Connections)
	manyOf.Connections = 4
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1)}})
	passed := 0
	for _, src := range []string{"1", "2", "3", "4", "5", "6", "7", "8"} {
		if h.passes("guest1", "wire", packet{srcMAC: mac1, src: "2001:db8:4000:10::" + src, dst: outside, next: 253, payload: nil}.frame()) {
			passed++
		}
	}
	if passed != 4 {
		t.Errorf("%d connections, want 4", passed)
	}
}
