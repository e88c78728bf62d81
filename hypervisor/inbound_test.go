package hypervisor_test

import (
	"encoding/hex"
	"testing"
	"time"

	"github.com/sixacre/sixacre"
)

// toGuest1 is a packet from the wire.
func toGuest1(src, dst string, hops, next byte, payload []byte) packet {
	p := packet{srcMAC: macWire, src: src, dst: dst, hops: hops, next: next, payload: payload}
	if dst[:2] != "ff" {
		p.dstMAC = mac1
	}
	return p
}

type delivery struct {
	name     string
	pass     bool
	from, to string
	p        packet
}

func (h *host) deliver(cases []delivery) {
	h.Helper()
	for _, c := range cases {
		if got := h.passes(c.from, c.to, c.p.frame()); got != c.pass {
			h.Errorf("%s: passed %t, want %t", c.name, got, c.pass)
		}
	}
}

// TestToTap sends what may and may not reach a guest that has no rules.
func TestToTap(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1, "default"), instance(2, "default")}})

	quote := func(src string) []byte { // an error about a packet that src sent
		return icmp(1, 4, "00000000 60000000 0008 11 40"+addressHex(src)+addressHex(outside)+"1388 1770 0008 0000")
	}
	wire := func(name string, pass bool, src, dst string, hops, next byte, payload []byte) delivery {
		return delivery{name, pass, "wire", "guest1", toGuest1(src, dst, hops, next, payload)}
	}
	h.deliver([]delivery{
		wire("tcp that nobody asked for", false, outside, own1, 64, tcp, tcpTo(80, 5000, syn, 1, 0)),
		wire("udp that nobody asked for", false, outside, prefix1, 64, udp, udpTo(53, 5000, 'x')),
		wire("echo request", true, outside, own1, 64, icmp6, icmp(128, 0, "00010001")),
		wire("echo request to its prefix", true, outside, prefix1, 64, icmp6, icmp(128, 0, "00010002")),
		wire("echo reply that nobody asked for", false, outside, own1, 64, icmp6, icmp(129, 0, "00030003")),
		wire("RA", true, router, "ff02::1", 255, icmp6, icmp(134, 0, "40000708 00000000 00000000")),
		wire("RA from off the link", false, router, "ff02::1", 64, icmp6, icmp(134, 0, "40000708 00000000 00000000")),
		wire("RA from a global address", false, outside, "ff02::1", 255, icmp6, icmp(134, 0, "40000708 00000000 00000000")),
		wire("redirect", false, router, own1, 255, icmp6, icmp(137, 0, "00000000"+addressHex(router)+addressHex(outside))),
		wire("NS for it", true, router, "ff02::1:ff00:1", 255, icmp6, ns(own1, macWire)),
		wire("NS for another", false, router, "ff02::1:ff00:2", 255, icmp6, ns(own2, macWire)),
		wire("NS from off the link", false, router, "ff02::1:ff00:1", 64, icmp6, ns(own1, macWire)),
		wire("NA", true, router, ll1, 255, icmp6, na(router, macWire)),
		wire("NA from off the link", false, router, ll1, 64, icmp6, na(router, macWire)),
		wire("MLD query", true, router, "ff02::1", 1, icmp6, icmp(130, 0, "00000000"+addressHex("::"))),
		wire("another's MLD report", false, "fe80::77", "ff02::16", 1, icmp6, icmp(143, 0, "00000000")),
		wire("DHCPv6 reply", true, router, ll1, 64, udp, udpTo(547, 546, 7, 1, 2, 3)),
		wire("DHCPv6 reply from off the link", false, outside, ll1, 64, udp, udpTo(547, 546, 7, 1, 2, 3)),
		wire("another's DHCPv6 solicit", false, "fe80::77", "ff02::1:2", 1, udp, udpTo(546, 547, 1, 1, 2, 3)),
		wire("udp from link-local", false, router, ll1, 64, udp, udpTo(5000, 5001, 'x')),
		wire("error about its packet", true, outside, own1, 64, icmp6, quote(own1)),
		wire("error about its prefix's packet", true, outside, prefix1, 64, icmp6, quote(prefix1)),
		wire("error about another's packet", false, outside, own1, 64, icmp6, quote(own2)),
		wire("node information query", false, outside, own1, 64, icmp6, icmp(139, 0, "00000000")),
	})

	t.Run("in other frames", func(t *testing.T) {
		ping := toGuest1(outside, own1, 64, icmp6, icmp(128, 0, "00040004")).frame()
		for _, c := range []struct {
			name   string
			pass   bool
			header string // instead of the ethertype, whose packet is what a guest may get
		}{
			{"IPv6", true, "\x86\xdd"},
			{"IPv4", true, "\x08\x00"},
			{"priority tag", false, "\x81\x00\xe0\x00\x86\xdd"},
			{"VLAN tag", false, "\x81\x00\x00\x05\x86\xdd"},
			{"provider tag", false, "\x88\xa8\x00\x00\x81\x00\x00\x00\x86\xdd"},
			{"priority tag of IPv4", false, "\x81\x00\xe0\x00\x08\x00"},
			{"802.3", false, "\x00\x40"},
			{"another ethertype", false, "\x88\xb5"},
		} {
			frame := append(append(append([]byte(nil), ping[:12]...), c.header...), ping[14:]...)
			if got := h.passes("wire", "guest1", frame); got != c.pass {
				t.Errorf("%s: passed %t, want %t", c.name, got, c.pass)
			}
		}
	})

	t.Run("answers to what it asked", func(t *testing.T) {
		ask := packet{srcMAC: mac1, src: prefix1, dst: outside, next: tcp, payload: tcpTo(4000, 80, syn, 7, 0)}
		answer := toGuest1(outside, prefix1, 64, tcp, tcpTo(80, 4000, synAck, 9, 8))
		h.deliver([]delivery{
			{"before asking", false, "wire", "guest1", answer},
			{"asking", true, "guest1", "wire", ask},
			{"the answer", true, "wire", "guest1", answer},
			{"going on", true, "guest1", "wire", packet{srcMAC: mac1, src: prefix1, dst: outside, next: tcp, payload: tcpTo(4000, 80, ack, 8, 10)}},
			{"the same connection with another's MAC", false, "guest1", "wire", packet{srcMAC: mac2, src: prefix1, dst: outside, next: tcp, payload: tcpTo(4000, 80, ack, 8, 10)}},
			{"the same connection with routing header type 0", false, "guest1", "wire", packet{srcMAC: mac1, src: prefix1, dst: outside, next: tcp, payload: tcpTo(4000, 80, ack, 8, 10),
				ext: append([]byte{tcp, 2, 0, 1, 0, 0, 0, 0}, make([]byte, 16)...), extNext: routing}},
			{"the same connection with a destination option", true, "guest1", "wire", packet{srcMAC: mac1, src: prefix1, dst: outside, next: tcp, payload: tcpTo(4000, 80, ack, 8, 10),
				ext: []byte{tcp, 0, 1, 4, 0, 0, 0, 0}, extNext: destOpts}},
			{"another port", false, "wire", "guest1", toGuest1(outside, prefix1, 64, tcp, tcpTo(81, 4000, synAck, 9, 8))},
		})
	})

	t.Run("a redirect is no answer", func(t *testing.T) {
		ask := packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(4002, 53, []byte("question")...)}
		redirected := "0408000000000000" + hex.EncodeToString(ask.frame()[14:]) // RFC 4861 section 4.6.3
		h.deliver([]delivery{
			{"asking", true, "guest1", "wire", ask},
			{"the answer", true, "wire", "guest1", toGuest1(outside, own1, 64, udp, udpTo(53, 4002, 'a'))},
			wire("an error about it", true, router, own1, 64, icmp6, icmp(1, 0, "00000000"+hex.EncodeToString(ask.frame()[14:]))),
			wire("a redirect of it", false, router, own1, 255, icmp6, icmp(137, 0, "00000000"+addressHex(router)+addressHex(outside)+redirected)),
		})
	})

	t.Run("established spares nobody the source check", func(t *testing.T) {
		h.deliver([]delivery{
			{"asking", true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(4001, 53, 'q')}},
			{"the answer", true, "wire", "guest1", toGuest1(outside, own1, 64, udp, udpTo(53, 4001, 'a'))},
		})
		// That very packet again, from a tap without a NIC, and from another NIC's.
		for _, guest := range []string{"guest2", "guest3"} {
			h.drain()
			h.ends[guest].send(packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(4001, 53, 'q')}.frame())
			h.ends[guest].send(packet{srcMAC: macOf(guest), src: own1, dst: outside, next: udp, payload: udpTo(4001, 53, 'q')}.frame())
			if h.ends["wire"].receive(50*time.Millisecond) != nil {
				t.Errorf("%s sent into guest1's connection", guest)
			}
		}
	})
}

// TestGroups is the rules of security groups: the allowed, and its neighbour
// that is not.
func TestGroups(t *testing.T) {
	h := newHost(t, filterAlone{})
	one, two, three := instance(1, "web", "app"), instance(2, "strict"), instance(3, "app")
	app := sixacre.Members{Group: "app"}
	for _, i := range []sixacre.Instance{one, three} {
		app.Addresses = append(app.Addresses, i.NICs[0].Address)
		app.Prefixes = append(app.Prefixes, i.NICs[0].Prefixes...)
	}
	h.follow(sixacre.View{
		Instances: []sixacre.Instance{one, two, three},
		Groups: []sixacre.Group{
			groupOf(t, "app", "in udp ports=7000 remote=group:app", "in udp ports=7500 remote=group:app prefixes"),
			groupOf(t, "strict", "out tcp ports=443", "out udp ports=53 remote=2001:db8:ffff::1", "in udp"),
			groupOf(t, "web", "in tcp ports=80,8000-8999", "in tcp ports=22 remote=2001:db8:ffff::/48",
				"in tcp ports=9000-9500 remote=2001:db8:ffff::/48", "in 47", "in icmpv6 type=139/0 remote=2001:db8:ffff::/48"),
		},
		Members: []sixacre.Members{app},
	})
	const elsewhere = "2001:db8:eeee::1"
	const own3, prefix3 = "2001:db8:100:1:400:ff:fe00:3", "2001:db8:4000:30::5"
	open := func(port uint16) []byte { return tcpTo(5000+port, port, syn, 1, 0) }
	wire := func(name string, pass bool, src string, next byte, payload []byte) delivery {
		return delivery{name, pass, "wire", "guest1", toGuest1(src, own1, 64, next, payload)}
	}
	h.deliver([]delivery{
		wire("a port", true, elsewhere, tcp, open(80)),
		wire("the port above", false, elsewhere, tcp, open(81)),
		wire("the port of the other protocol", false, elsewhere, udp, udpTo(5000, 80, 'x')),
		wire("a range's first", true, elsewhere, tcp, open(8000)),
		wire("a range's last", true, elsewhere, tcp, open(8999)),
		wire("below a range", false, elsewhere, tcp, open(7999)),
		wire("above a range, from elsewhere", false, elsewhere, tcp, open(9000)),
		wire("above a range, from the remote prefix", true, outside, tcp, open(9000)),
		wire("from the remote prefix", true, outside, tcp, open(22)),
		wire("from outside of the remote prefix", false, elsewhere, tcp, open(22)),
		wire("a protocol by number", true, elsewhere, 47, []byte{0, 0, 0x86, 0xdd}),
		wire("another protocol", false, elsewhere, 50, make([]byte, 16)),
		wire("an ICMPv6 type and code", true, outside, icmp6, icmp(139, 0, "00000000")),
		wire("another code", false, outside, icmp6, icmp(139, 1, "00000000")),
		wire("that type from elsewhere", false, elsewhere, icmp6, icmp(139, 0, "00000000")),
	})

	guest := func(name string, pass bool, from, to, src, dst string, next byte, payload []byte) delivery {
		p := packet{srcMAC: macOf(from), dstMAC: macOf(to), src: src, dst: dst, next: next, payload: payload}
		return delivery{name, pass, from, to, p}
	}
	h.deliver([]delivery{
		guest("a member of the remote group", true, "guest3", "guest1", own3, own1, udp, udpTo(5000, 7000, 'x')),
		guest("from a member's prefix", false, "guest3", "guest1", prefix3, own1, udp, udpTo(5001, 7000, 'x')),
		guest("a member, where prefixes count too", true, "guest3", "guest1", own3, own1, udp, udpTo(5000, 7500, 'x')),
		guest("from a member's prefix, where that counts", true, "guest3", "guest1", prefix3, own1, udp, udpTo(5001, 7500, 'x')),
		guest("another port from a member", false, "guest3", "guest1", own3, own1, udp, udpTo(5000, 7001, 'x')),
		wire("from no member", false, elsewhere, udp, udpTo(5000, 7000, 'x')),

		guest("egress by a rule", true, "guest2", "wire", own2, elsewhere, tcp, open(443)),
		guest("egress without a rule", false, "guest2", "wire", own2, elsewhere, tcp, open(80)),
		guest("egress to the remote", true, "guest2", "wire", own2, outside, udp, udpTo(5000, 53, 'x')),
		guest("egress to elsewhere", false, "guest2", "wire", own2, elsewhere, udp, udpTo(5000, 53, 'x')),
		guest("echo without an egress rule", false, "guest2", "wire", own2, elsewhere, icmp6, icmp(128, 0, "00090009")),
		{"ND needs no egress rule", true, "guest2", "wire", packet{srcMAC: mac2, src: ll2, dst: "ff02::1:ff00:fe", hops: 255, next: icmp6, payload: ns(router, mac2)}},
		guest("egress is open without egress rules", true, "guest1", "wire", own1, elsewhere, udp, udpTo(5000, 53, 'x')),
		guest("egress allows, the other guest's ingress does not", false, "guest2", "guest1", own2, own1, tcp, open(443)),
		guest("egress open, ingress allows", true, "guest1", "guest2", own1, own2, udp, udpTo(5000, 4000, 'x')),
	})
}

// TestFragments: fragments pass with their head, are judged together, and open
// no way around the checks (RFC 6980, RFC 7112, RFC 7113).
func TestFragments(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{
		Instances: []sixacre.Instance{instance(1, "web"), instance(2)},
		Groups:    []sixacre.Group{groupOf(t, "web", "in udp ports=1000")},
	})
	long := make([]byte, 1400)
	for _, c := range []struct {
		name     string
		pass     bool
		from, to string
		p        packet
		at       int
	}{
		{"udp", true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(5000, 6000, long...)}, 1240},
		{"udp whose flow label looks like a port of DHCPv6", true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, flow: 547, next: udp, payload: udpTo(5000, 6000, long...)}, 1240},
		{"udp from another's address", false, "guest1", "wire", packet{srcMAC: mac1, src: own2, dst: outside, next: udp, payload: udpTo(5000, 6000, long...)}, 1240},
		{"relay-forw", false, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(5000, 547, long...)}, 1240},
		{"relay-forw with its ports in the tail", false, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp,
			ext: []byte{udp, 0, 1, 4, 0, 0, 0, 0}, extNext: destOpts, payload: udpTo(5000, 547, long...)}, 8},
		{"RA", false, "guest1", "wire", packet{srcMAC: mac1, src: ll1, dst: "ff02::1", hops: 255, next: icmp6, payload: icmp(134, 0, "40000708 00000000 00000000")}, 8},
		{"RA with its type in the tail", false, "guest1", "wire", packet{srcMAC: mac1, src: ll1, dst: "ff02::1", hops: 255, next: icmp6,
			ext: []byte{icmp6, 0, 1, 4, 0, 0, 0, 0}, extNext: destOpts, payload: icmp(134, 0, "40000708 00000000 00000000")}, 8},
		{"NA", false, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: "ff02::1", hops: 255, next: icmp6, payload: na(own1, mac1)}, 16},
		{"MLD report", false, "guest1", "wire", packet{srcMAC: mac1, src: ll1, dst: "ff02::16", hops: 1, next: icmp6, payload: icmp(143, 0, "00000001 04000000"+addressHex("ff02::1:ff00:1"))}, 8},
		{"echo", true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: icmp6, payload: append(icmp(128, 0, "00010001"), long...)}, 1240},
		{"echo from the wire", true, "wire", "guest1", toGuest1(outside, own1, 64, icmp6, append(icmp(128, 0, "00010001"), long...)), 1240},
		{"udp by a rule", true, "wire", "guest1", toGuest1(outside, own1, 64, udp, udpTo(5000, 1000, long...)), 1240},
		{"udp without a rule", false, "wire", "guest1", toGuest1(outside, own1, 64, udp, udpTo(5000, 1001, long...)), 1240},
		{"NS from the wire", false, "wire", "guest1", toGuest1(router, "ff02::1:ff00:1", 255, icmp6, ns(own1, macWire)), 16},
		{"RA from the wire", false, "wire", "guest1", toGuest1(router, "ff02::1", 255, icmp6, icmp(134, 0, "40000708 00000000 00000000")), 8},
	} {
		h.drain()
		for _, f := range c.p.fragments(c.at) {
			h.ends[c.from].send(f)
		}
		octets, whole := 0, len(c.p.ext)+len(c.p.payload)
		within := 50 * time.Millisecond
		if c.pass {
			within = 5 * time.Second
		}
		for octets < whole {
			f := h.ends[c.to].receive(within)
			if f == nil {
				break
			}
			octets += len(f) - 14 - 40 - 8
		}
		if c.pass && octets != whole {
			t.Errorf("%s: %d of %d octets arrived", c.name, octets, whole)
		}
		if !c.pass && octets > 0 {
			t.Errorf("%s: %d octets arrived", c.name, octets)
		}
	}
}

// TestAllAllowed: a group that allows everything from everybody opens nothing
// that is not for guests at all.
func TestAllAllowed(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{
		Instances: []sixacre.Instance{instance(1, "all")},
		Groups:    []sixacre.Group{groupOf(t, "all", "in any")},
	})
	wire := func(name string, pass bool, src, dst string, hops, next byte, payload []byte) delivery {
		return delivery{name, pass, "wire", "guest1", toGuest1(src, dst, hops, next, payload)}
	}
	typeZero := toGuest1(outside, own1, 64, udp, udpTo(5001, 6001, 'x'))
	typeZero.ext, typeZero.extNext = append([]byte{udp, 2, 0, 1, 0, 0, 0, 0}, make([]byte, 16)...), routing
	h.deliver([]delivery{
		wire("tcp", true, outside, own1, 64, tcp, tcpTo(5000, 22, syn, 1, 0)),
		wire("tcp of no connection", false, outside, own1, 64, tcp, tcpTo(5001, 23, synAck, 1, 9)),
		wire("udp", true, outside, prefix1, 64, udp, udpTo(5000, 6000, 'x')),
		{"udp with routing header type 0", false, "wire", "guest1", typeZero},
		wire("udp from link-local", false, router, own1, 64, udp, udpTo(5002, 6000, 'x')),
		wire("udp to link-local", false, outside, ll1, 64, udp, udpTo(5003, 6000, 'x')),
		wire("udp to a multicast group", false, outside, "ff05::1:3", 64, udp, udpTo(5004, 6000, 'x')),
		wire("another's DHCPv6 solicit", false, "fe80::77", "ff02::1:2", 1, udp, udpTo(546, 547, 1, 1, 2, 3)),
		wire("an unassigned ICMPv6 type", true, outside, own1, 64, icmp6, icmp(200, 0, "00000000")),
		wire("redirect", false, router, own1, 255, icmp6, icmp(137, 0, "00000000"+addressHex(router)+addressHex(outside))),
		wire("NA from off the link", false, outside, own1, 64, icmp6, na(outside, macWire)),
		wire("error about another's packet", false, outside, own1, 64, icmp6, icmp(1, 4, "00000000 60000000 0008 11 40"+addressHex(own2)+addressHex(outside)+"1388 1770 0008 0000")),
		wire("router renumbering", false, outside, own1, 64, icmp6, icmp(138, 0, "00000000")),
		wire("multicast router advertisement", false, outside, own1, 64, icmp6, icmp(151, 0, "00000000")),
		wire("RA from off the link", false, router, "ff02::1", 64, icmp6, icmp(134, 0, "40000708 00000000 00000000")),
		{"tcp of no connection, outwards", false, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: tcp, payload: tcpTo(5001, 23, synAck, 1, 9)}},
		{"tcp, outwards", true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: tcp, payload: tcpTo(5001, 23, syn, 1, 0)}},
	})
}
