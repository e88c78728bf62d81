package hypervisor_test

import (
	"testing"

	"github.com/sixacre/sixacre"
)

const (
	router   = "fe80::fe"
	outside  = "2001:db8:ffff::1"
	own1     = "2001:db8:100:1:400:ff:fe00:1" // guest1's address
	own2     = "2001:db8:100:1:400:ff:fe00:2"
	ll1      = "fe80::400:ff:fe00:1"
	ll2      = "fe80::400:ff:fe00:2"
	prefix1  = "2001:db8:4000:10::5" // in guest1's prefix
	prefix1z = "2001:db8:4000:1f:ffff::"
	prefix2  = "2001:db8:4000:20::5"
)

var (
	mac1    = []byte{6, 0, 0, 0, 0, 1}
	mac2    = []byte{6, 0, 0, 0, 0, 2}
	macWire = []byte{2, 0, 0, 0, 0, 0xfe}
)

// TestFromTap sends what a guest may and may not send, each for real, and sees
// at the wire what passed.
func TestFromTap(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1, "default"), instance(2, "default")}})

	hello := udpTo(5000, 6000, 'h', 'i')
	echo := icmp(128, 0, "00010001")
	solicit := []byte{1, 0xaa, 0xbb, 0xcc}
	send := func(p packet) packet {
		if p.srcMAC == nil {
			p.srcMAC = mac1
		}
		return p
	}
	for _, c := range []struct {
		name string
		pass bool
		p    packet
	}{
		{"its address", true, packet{src: own1, dst: outside, next: udp, payload: hello}},
		{"its prefix, first /64", true, packet{src: prefix1, dst: outside, next: udp, payload: hello}},
		{"its prefix, last /64", true, packet{src: prefix1z, dst: outside, next: tcp, payload: tcpTo(5000, 80, syn, 1, 0)}},
		{"another protocol", true, packet{src: own1, dst: outside, next: 47, payload: []byte{0, 0, 0x86, 0xdd}}},
		{"another's MAC", false, packet{srcMAC: mac2, src: own2, dst: outside, next: udp, payload: hello}},
		{"a MAC that nobody has", false, packet{srcMAC: []byte{6, 9, 9, 9, 9, 9}, src: own1, dst: outside, next: udp, payload: hello}},
		{"another's address", false, packet{src: own2, dst: outside, next: udp, payload: hello}},
		{"an address of the link that nobody has", false, packet{src: "2001:db8:100:1::77", dst: outside, next: udp, payload: hello}},
		{"another's prefix", false, packet{src: prefix2, dst: outside, next: udp, payload: hello}},
		{"an address of the world", false, packet{src: outside, dst: "2001:db8:ffff::2", next: udp, payload: hello}},
		{"another's link-local", false, packet{src: ll2, dst: router, next: icmp6, payload: echo}},

		{"link-local: echo", true, packet{src: ll1, dst: router, next: icmp6, payload: echo}},
		{"link-local: udp", false, packet{src: ll1, dst: router, next: udp, payload: hello}},
		{"link-local: tcp", false, packet{src: ll1, dst: router, next: tcp, payload: tcpTo(5000, 22, syn, 1, 0)}},
		{"to link-local: tcp", false, packet{src: own1, dst: router, next: tcp, payload: tcpTo(5000, 22, syn, 1, 0)}},
		{"to all nodes: udp", false, packet{src: own1, dst: "ff02::1", next: udp, payload: hello}},

		{"DHCPv6 solicit", true, packet{src: ll1, dst: "ff02::1:2", hops: 1, next: udp, payload: udpTo(546, 547, solicit...)}},
		{"DHCPv6 advertise", false, packet{src: ll1, dst: "ff02::1:2", next: udp, payload: udpTo(546, 547, 2, 1, 2, 3)}},
		{"DHCPv6 relay-forw as a client", false, packet{src: ll1, dst: "ff02::1:2", next: udp, payload: udpTo(546, 547, 12, 0, 0, 0)}},
		{"DHCPv6 relay-forw from 547", false, packet{src: ll1, dst: "ff02::1:2", next: udp, payload: udpTo(547, 547, 12, 0, 0, 0)}},
		{"DHCPv6 relay-forw to the server", false, packet{src: own1, dst: outside, next: udp, payload: udpTo(547, 547, 12, 0, 0, 0)}},
		{"DHCPv6 relay-forw to the server from any port", false, packet{src: own1, dst: outside, next: udp, payload: udpTo(5000, 547, 12, 0, 0, 0)}},
		{"DHCPv6 relay-forw from its prefix", false, packet{src: prefix1, dst: outside, next: udp, payload: udpTo(5000, 547, 12, 0, 0, 0)}},
		{"DHCPv6 to all servers", false, packet{src: own1, dst: "ff05::1:3", next: udp, payload: udpTo(546, 547, 12, 0, 0, 0)}},
		{"DHCPv6 to all servers from link-local", false, packet{src: ll1, dst: "ff05::1:3", next: udp, payload: udpTo(546, 547, solicit...)}},
		{"DHCPv6 solicit from a global address", false, packet{src: own1, dst: "ff02::1:2", next: udp, payload: udpTo(546, 547, solicit...)}},
		{"tcp to 547", false, packet{src: own1, dst: outside, next: tcp, payload: tcpTo(5000, 547, syn, 1, 0)}},
		{"tcp to 548", true, packet{src: own1, dst: outside, next: tcp, payload: tcpTo(5000, 548, syn, 1, 0)}},
		{"DHCPv6 reply", false, packet{src: ll1, dst: ll2, dstMAC: mac2, next: udp, payload: udpTo(547, 546, 7, 1, 2, 3)}},
		{"DHCPv6 reply from its address", false, packet{src: own1, dst: own2, next: udp, payload: udpTo(547, 546, 7, 1, 2, 3)}},
		{"from the port of DHCPv6 servers", false, packet{src: own1, dst: outside, next: udp, payload: udpTo(547, 5000, 7, 1, 2, 3)}},
		{"DHCPv6 relay-forw behind a destination option", false, packet{src: own1, dst: outside, next: udp,
			ext: []byte{udp, 0, 1, 4, 0, 0, 0, 0}, extNext: destOpts, payload: udpTo(5000, 547, 12, 0, 0, 0)}},
		{"udp behind a destination option", true, packet{src: own1, dst: outside, next: udp,
			ext: []byte{udp, 0, 1, 4, 0, 0, 0, 0}, extNext: destOpts, payload: hello}},

		{"DAD for its address", true, packet{src: "::", dst: "ff02::1:ff00:1", hops: 255, next: icmp6, payload: ns(own1, nil)}},
		{"DAD for another's address", false, packet{src: "::", dst: "ff02::1:ff00:2", hops: 255, next: icmp6, payload: ns(own2, nil)}},
		{"DAD with a nonce (RFC 7527)", true, packet{src: "::", dst: "ff02::1:ff00:1", hops: 255, next: icmp6, payload: append(ns(own1, nil), 14, 1, 1, 2, 3, 4, 5, 6)}},
		{"DAD with a nonce for another's address", false, packet{src: "::", dst: "ff02::1:ff00:2", hops: 255, next: icmp6, payload: append(ns(own2, nil), 14, 1, 1, 2, 3, 4, 5, 6)}},
		{"udp from :: to the world", false, packet{src: "::", dst: outside, next: udp, payload: hello}},
		{"RS from ::", true, packet{src: "::", dst: "ff02::2", hops: 255, next: icmp6, payload: icmp(133, 0, "00000000")}},
		{"udp from ::", false, packet{src: "::", dst: "ff02::1:2", next: udp, payload: udpTo(546, 547, solicit...)}},
		{"MLD report from ::", true, packet{src: "::", dst: "ff02::16", hops: 1, next: icmp6,
			ext: []byte{icmp6, 0, 5, 2, 0, 0, 1, 0}, extNext: hopByHop, payload: icmp(143, 0, "00000001 04000000"+addressHex("ff02::1:ff00:1"))}},
		{"MLD query", false, packet{src: ll1, dst: "ff02::1", hops: 1, next: icmp6,
			ext: []byte{icmp6, 0, 5, 2, 0, 0, 1, 0}, extNext: hopByHop, payload: icmp(130, 0, "00000000"+addressHex("::"))}},
		{"MLD report from off the link", false, packet{src: ll1, dst: "ff02::16", hops: 64, next: icmp6,
			ext: []byte{icmp6, 0, 5, 2, 0, 0, 1, 0}, extNext: hopByHop, payload: icmp(143, 0, "00000001 04000000"+addressHex("ff02::1:ff00:1"))}},

		{"NS", true, packet{src: ll1, dst: "ff02::1:ff00:fe", hops: 255, next: icmp6, payload: ns(router, mac1)}},
		{"NS without its MAC (unicast)", true, packet{src: ll1, dst: router, hops: 255, next: icmp6, payload: ns(router, nil)}},
		{"NS without its MAC and with hop limit 64", false, packet{src: ll1, dst: router, hops: 64, next: icmp6, payload: ns(router, nil)}},
		{"NS with another's MAC", false, packet{src: ll1, dst: "ff02::1:ff00:fe", hops: 255, next: icmp6, payload: ns(router, mac2)}},
		{"NS with hop limit 64", false, packet{src: ll1, dst: "ff02::1:ff00:fe", hops: 64, next: icmp6, payload: ns(router, mac1)}},
		{"NA for its address", true, packet{src: own1, dst: "ff02::1", hops: 255, next: icmp6, payload: na(own1, mac1)}},
		{"NA for its link-local", true, packet{src: ll1, dst: router, hops: 255, next: icmp6, payload: na(ll1, nil)}},
		{"NA for another's address", false, packet{src: own1, dst: "ff02::1", hops: 255, next: icmp6, payload: na(own2, mac1)}},
		{"NA for the router", false, packet{src: ll1, dst: "ff02::1", hops: 255, next: icmp6, payload: na(router, mac1)}},
		{"NA with another's MAC", false, packet{src: own1, dst: "ff02::1", hops: 255, next: icmp6, payload: na(own1, mac2)}},
		{"NA with hop limit 64", false, packet{src: own1, dst: "ff02::1", hops: 64, next: icmp6, payload: na(own1, mac1)}},
		{"RS", true, packet{src: ll1, dst: "ff02::2", hops: 255, next: icmp6, payload: icmp(133, 0, "00000000 0101 060000000001")}},
		{"RS without its MAC", true, packet{src: ll1, dst: "ff02::2", hops: 255, next: icmp6, payload: icmp(133, 0, "00000000")}},
		{"RS without its MAC and with hop limit 64", false, packet{src: ll1, dst: "ff02::2", hops: 64, next: icmp6, payload: icmp(133, 0, "00000000")}},
		{"RS with another's MAC", false, packet{src: ll1, dst: "ff02::2", hops: 255, next: icmp6, payload: icmp(133, 0, "00000000 0101 060000000002")}},
		{"RA", false, packet{src: ll1, dst: "ff02::1", hops: 255, next: icmp6, payload: icmp(134, 0, "40000708 00000000 00000000")}},
		{"RA behind a destination option", false, packet{src: ll1, dst: "ff02::1", hops: 255, next: icmp6,
			ext: []byte{icmp6, 0, 1, 4, 0, 0, 0, 0}, extNext: destOpts, payload: icmp(134, 0, "40000708 00000000 00000000")}},
		{"redirect", false, packet{src: ll1, dst: own2, hops: 255, next: icmp6, payload: icmp(137, 0, "00000000"+addressHex(ll1)+addressHex(outside))}},
		{"router renumbering", false, packet{src: own1, dst: outside, next: icmp6, payload: icmp(138, 0, "00000000")}},
		{"node information", false, packet{src: own1, dst: outside, next: icmp6, payload: icmp(139, 0, "00000000")}},
		{"packet too big", true, packet{src: own1, dst: outside, next: icmp6, payload: icmp(2, 0, "00000500")}},
		{"routing header type 0", false, packet{src: own1, dst: outside, next: udp,
			ext: append([]byte{udp, 2, 0, 1, 0, 0, 0, 0}, make([]byte, 16)...), extNext: routing, payload: hello}},
		{"a header chain that ends nowhere", false, packet{src: own1, dst: outside, next: destOpts, payload: nil,
			ext: []byte{destOpts, 0, 1, 4, 0, 0, 0, 0}, extNext: destOpts}},
	} {
		if got := h.passes("guest1", "wire", send(c.p).frame()); got != c.pass {
			t.Errorf("%s: passed %t, want %t", c.name, got, c.pass)
		}
	}

	for _, c := range []struct {
		name string
		pass bool
		head []byte
	}{
		{"IPv4", true, append(append([]byte{2, 0, 0, 0, 0, 0xfe}, mac1...), 0x08, 0x00)},
		{"IPv4 with another's MAC", false, append(append([]byte{2, 0, 0, 0, 0, 0xfe}, mac2...), 0x08, 0x00)},
		{"VLAN tag", false, append(append([]byte{2, 0, 0, 0, 0, 0xfe}, mac1...), 0x81, 0x00, 0, 5, 0x86, 0xdd)},
		{"802.3", false, append(append([]byte{2, 0, 0, 0, 0, 0xfe}, mac1...), 0, 46)},
		{"another ethertype", false, append(append([]byte{2, 0, 0, 0, 0, 0xfe}, mac1...), 0x88, 0xcc)},
	} {
		frame := append(c.head, make([]byte, 60-len(c.head))...)
		if got := h.passes("guest1", "wire", frame); got != c.pass {
			t.Errorf("%s: passed %t, want %t", c.name, got, c.pass)
		}
	}
}
