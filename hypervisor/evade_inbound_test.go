package hypervisor_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// TestEvadeInbound: what would enter a guest unasked, or as ND from off the link.
func TestEvadeInbound(t *testing.T) {
	var cases []evasion
	add := func(name string, forbidden, permitted [][]byte) {
		cases = append(cases, evasion{name, wire, "guest1", forbidden, permitted})
	}
	ra := toGuest1(router, "ff02::1", 255, icmp6, advertisement.payload)
	far := ra
	far.hops = 254
	add("RA from off the link", one(far), one(ra))
	add("RA in fragments", ra.cut(16), one(ra))
	add("RA in an atomic fragment", one(ra.behind(atomic)), one(ra))
	add("RA in the second fragment", ra.behind(padding).cut(8), one(ra.behind(padding)))
	add("RA from off the link behind options", one(far.behind(padding)), one(ra.behind(padding)))
	for _, h := range []string{"8100 0000 86dd", "8100 e000 86dd", "88a8 0000 86dd", "0050 aaaa03 000000 86dd", "8864 1100 0001 0052 0057"} {
		add("RA in a frame "+h, [][]byte{in(h, ra.frame())}, one(ra))
	}
	neighbour := toGuest1(router, ll1, 255, icmp6, ns(ll1, macWire))
	add("NS in fragments", neighbour.cut(16), one(neighbour))
	add("NS in an atomic fragment", one(neighbour.behind(atomic)), one(neighbour))
	redirect := toGuest1(router, own1, 255, icmp6, icmp(137, 0, "00000000"+addressHex(router)+addressHex(outside)))
	ping := toGuest1(outside, own1, 64, icmp6, icmp(128, 0, fmt.Sprintf("%064x", 7)))
	add("redirect", one(redirect), one(ping))
	add("redirect behind options", one(redirect.behind(padding)), one(ping.behind(padding)))
	add("redirect in fragments", redirect.cut(8), ping.cut(8))
	add("redirect in an atomic fragment", one(redirect.behind(atomic)), one(ping.behind(atomic)))
	for _, kind := range []byte{131, 132, 133, 138, 139, 140, 141, 142, 143, 148, 149, 151, 152, 153, 200} {
		p := toGuest1(router, own1, 255, icmp6, icmp(kind, 0, fmt.Sprintf("%040x", kind)))
		add(fmt.Sprintf("ICMPv6 type %d", kind), one(p), nil)
		add(fmt.Sprintf("ICMPv6 type %d behind options", kind), one(p.behind(padding)), nil)
	}

	// Port 80 is open, port 22 is not.
	open := func(port uint16) packet {
		return toGuest1(outside, own1, 64, tcp, append(tcpTo(uint16(20000+len(cases)), port, syn, 1, 0), make([]byte, 28)...))
	}
	add("tcp", one(open(22)), one(open(80)))
	for _, h := range []struct {
		name    string
		headers []header
	}{
		{"options", []header{routerAlert, padding}}, {"a routing header", []header{segments}}, {"an atomic fragment header", []header{atomic}},
		{"options and an atomic fragment header", []header{padding, atomic}},
	} {
		add("tcp behind "+h.name, one(open(22).behind(h.headers...)), one(open(80).behind(h.headers...)))
	}
	add("tcp behind a routing header of type 0", one(open(80).behind(sourceRoute)), one(open(80).behind(segments)))
	add("tcp in fragments", open(22).cut(24), open(80).cut(24))
	add("tcp in tiny fragments", append(open(22).cut(8, 8), open(80).cut(8, 8)...), nil)
	add("tcp in the second fragment", open(22).behind(padding).cut(8), open(80).behind(padding).cut(40))
	a, b := open(80), open(22)
	b.payload[0], b.payload[1] = a.payload[0], a.payload[1]
	allowed, _ := a.data()
	closed, _ := b.data()
	for name, order := range map[string][]int{"over it": {0, 1, 2}, "before it": {1, 0, 2}, "at last": {2, 0, 1}} {
		trains++
		pieces := [][]byte{a.piece(tcp, 0, true, allowed[:24]), a.piece(tcp, 0, true, closed[:32]), a.piece(tcp, 32, false, allowed[32:])}
		add("tcp to a port that a fragment makes another, "+name, [][]byte{pieces[order[0]], pieces[order[1]], pieces[order[2]]}, nil)
	}
	twice := open(80).cut(24)
	add("tcp in fragments sent twice", append(open(22).cut(24), open(22).cut(24)...), [][]byte{twice[0], twice[0], twice[1]})
	reply := toGuest1(router, ll1, 64, udp, udpTo(547, 546, 7, 1, 2, 3))
	add("DHCPv6 reply behind options", one(reply.behind(padding)), one(reply))
	add("DHCPv6 reply from off the link", one(toGuest1(outside, ll1, 64, udp, udpTo(547, 546, 7, 1, 2, 3))), one(reply))
	add("DHCPv6 reply from another port", one(toGuest1(router, ll1, 64, udp, udpTo(548, 546, 7, 1, 2, 3))), one(reply))
	add("DHCPv6 reply to another port", one(toGuest1(router, ll1, 64, udp, udpTo(547, 545, 7, 1, 2, 3))), one(reply))
	add("no next header", one(toGuest1(outside, own1, 64, noNext, make([]byte, 8))), nil)
	long := ping.behind(jumbo).frame()
	long[18], long[19] = 0, 0
	add("jumbogram", [][]byte{ping.behind(jumbo).frame(), long}, one(ping.behind(routerAlert)))
	evade(t, cases)
}

// TestEvadeLinkPrefix: where a guest may use the whole /64, it uses nothing of
// what others have there, and gets nothing of it.
func TestEvadeLinkPrefix(t *testing.T) {
	const (
		mine    = "2001:db8:100:1:aaaa::1" // no record has it
		relay   = "2001:db8:100:1::5e1a"
		anycast = "2001:db8:100:1::" // the routers' (RFC 4291 section 2.6.1)
	)
	var cases []evasion
	add := func(name, from, to string, forbidden, permitted packet) {
		cases = append(cases, evasion{name, from, to, one(forbidden), one(permitted)})
	}
	web := func(dst string) packet {
		return toGuest1(outside, dst, 64, tcp, tcpTo(uint16(30000+len(cases)), 80, syn, 1, 0))
	}
	about := func(src string) packet { // an error about a packet of that source
		return toGuest1(outside, mine, 64, icmp6, icmp(1, 4, "00000000 60000000 0008 11 40"+addressHex(src)+addressHex(outside)+"1388 1770 0008 0000"))
	}
	asked := func(target string, hops byte) packet {
		return toGuest1(router, "ff02::1:ff00:1", hops, icmp6, ns(target, macWire))
	}
	for _, theirs := range []string{own2, relay, anycast, "2001:db8:100:2::1", prefix2} {
		add("source "+theirs, "guest1", wire, fromGuest1(theirs, outside, 64, udp, question.payload), fromGuest1(mine, outside, 64, udp, question.payload))
		add("NA for "+theirs, "guest1", wire, fromGuest1(mine, "ff02::1", 255, icmp6, na(theirs, mac1)), fromGuest1(mine, "ff02::1", 255, icmp6, na(mine, mac1)))
		add("DAD for "+theirs, "guest1", wire, fromGuest1("::", "ff02::1:ff00:1", 255, icmp6, ns(theirs, nil)), fromGuest1("::", "ff02::1:ff00:1", 255, icmp6, ns(mine, nil)))
		add("a connection to "+theirs, wire, "guest1", web(theirs), web(mine))
		add("an error about a packet of "+theirs, wire, "guest1", about(theirs), about(mine))
		if theirs != own2 { // which guest2 receives
			add("NS for "+theirs, wire, "guest1", asked(theirs, 255), asked(mine, 255))
		}
	}
	add("NS from off the link", wire, "guest1", asked(mine, 64), asked(mine, 255))
	evade(t, cases, func(h *firewall.Host) {
		h.Pods[0].AntiSpoof, h.Pods[0].Relays = sixacre.AntiSpoofLinkPrefix, []netip.Addr{netip.MustParseAddr(relay)}
	})
}

// TestEvadeRules: what no rule opens, were it for everything.
func TestEvadeRules(t *testing.T) {
	var cases []evasion
	add := func(name string, forbidden, permitted packet) {
		cases = append(cases, evasion{name, wire, "guest1", one(forbidden), one(permitted)})
	}
	query := icmp(130, 0, "00000000"+addressHex("::"))
	add("MLD query from off the link", toGuest1(outside, own1, 1, icmp6, query), toGuest1(router, "ff02::1", 1, icmp6, query))
	add("MLD query that came far", toGuest1(router, "ff02::1", 64, icmp6, query), toGuest1(router, "ff02::1", 1, icmp6, query))
	add("RA to its address from off the link", toGuest1(outside, own1, 255, icmp6, advertisement.payload), toGuest1(router, ll1, 255, icmp6, advertisement.payload))
	add("NA that came far", toGuest1(outside, own1, 64, icmp6, na(outside, macWire)), toGuest1(router, own1, 255, icmp6, na(router, macWire)))
	add("NS that came far", toGuest1(outside, own1, 64, icmp6, ns(own1, macWire)), toGuest1(router, own1, 255, icmp6, ns(own1, macWire)))
	anything := toGuest1(outside, own1, 64, 253, make([]byte, 8))
	for _, dst := range []string{own2, prefix2, ll1, "ff05::1:3", "2001:db8:100:1::77"} {
		p := anything
		p.dst = dst
		add("anything to "+dst, p, anything)
	}
	for _, src := range []string{router, "fe80::77"} {
		p := anything
		p.src = src
		add("anything from "+src, p, anything)
	}
	stolen := anything
	stolen.src = own2
	add("anything from guest2's address", stolen, anything)
	stolen.src = prefix2
	add("anything from guest2's prefix", stolen, anything)
	evade(t, cases, func(h *firewall.Host) { h.Groups = []sixacre.Group{groupOf(t, "web", "in any", "in icmpv6")} })
}
