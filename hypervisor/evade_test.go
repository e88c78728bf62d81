package hypervisor_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// evasion is a packet that hides what it is, and its twin that hides the same
// way something allowed. Of the forbidden nothing comes out anywhere; the
// permitted arrives whole. Where no packet of that shape is allowed, permitted
// is nil.
type evasion struct {
	name                 string
	from, to             string
	forbidden, permitted [][]byte
}

// evade sends all of them on a host with two guests, and asks the twin as well.
func evade(t *testing.T, cases []evasion, change ...func(*firewall.Host)) {
	l := newLaboratory(t)
	host := l.guests(instance(1, "web").NICs[0], instance(2, "web").NICs[0])
	host.Pods = []sixacre.Pod{pod}
	host.Groups = []sixacre.Group{groupOf(t, "web", "in tcp ports=80", "in udp ports=1000")}
	for _, c := range change {
		c(&host)
	}
	l.apply(host)
	w := &twin{host: host}
	for _, c := range cases {
		for _, frame := range c.forbidden {
			if l.mode == firewall.BridgeConntrack && c.from == wire && read(frame).malformed != "" {
				continue // nobody but the guest looks at that there
			}
			if _, why := w.send(c.from, frame); slices.Contains(reasons(why), passed) {
				t.Errorf("%s: the twin lets %x pass", c.name, frame)
			}
			l.ends[c.from].send(frame)
		}
		for end, frames := range l.received(w) {
			t.Errorf("%s: %s received %x", c.name, end, frames)
		}
		var want []byte
		for _, frame := range c.permitted {
			if whole, why := w.send(c.from, frame); whole != nil {
				if want = whole; why[c.to] != passed {
					t.Errorf("the permitted twin of %s: the policy's twin says %s", c.name, why[c.to])
				}
			}
			l.ends[c.from].send(frame)
		}
		frames := l.received(w)[c.to]
		if l.mode == firewall.BridgeConntrack && slices.ContainsFunc(c.permitted, func(f []byte) bool { return read(f).fragmented }) {
			continue // Linux loses fragments as small as these there
		}
		if c.permitted != nil && (want == nil || string(wholeOf(frames)) != string(want)) {
			t.Errorf("the permitted twin of %s: %s received %x, want %x", c.name, c.to, frames, want)
		}
	}
}

func reasons(why map[string]string) []string {
	var out []string
	for _, reason := range why {
		out = append(out, reason)
	}
	return out
}

// wholeOf puts together what arrived.
func wholeOf(frames [][]byte) []byte {
	var r reassembler
	for _, f := range frames {
		if whole := r.add(read(f)); whole != nil {
			return whole
		}
	}
	return nil
}

func one(p packet) [][]byte { return [][]byte{p.frame()} }

func fromGuest1(src, dst string, hops, next byte, payload []byte) packet {
	return packet{srcMAC: mac1, src: src, dst: dst, hops: hops, next: next, payload: payload}
}

// advertisement is a Router Advertisement of guest1; echoes are what it may send
// in the same guise.
var (
	advertisement = fromGuest1(ll1, "ff02::1", 255, icmp6, icmp(134, 0, "40000708 00000000 00000000 0304 40c0 00015180 00015180 00000000"+addressHex("2001:db8:bad::")))
	linkEcho      = fromGuest1(ll1, router, 255, icmp6, icmp(128, 0, "0001000100000000000000000000000000000000000000000000000000000000"))
	globalEcho    = fromGuest1(own1, outside, 64, icmp6, icmp(128, 0, "0001000200000000000000000000000000000000000000000000000000000000"))
	question      = fromGuest1(own1, outside, 64, udp, udpTo(5000, 6000, make([]byte, 64)...))
)

// TestEvadeRAGuard: a Router Advertisement from a guest, however it is wrapped
// (RFC 6105, RFC 7113, RFC 6980, RFC 7112).
func TestEvadeRAGuard(t *testing.T) {
	var cases []evasion
	add := func(name string, forbidden, permitted [][]byte) {
		cases = append(cases, evasion{name, "guest1", wire, forbidden, permitted})
	}
	add("plain", one(advertisement), one(linkEcho))
	for _, c := range []struct {
		name    string
		headers []header
	}{
		{"hop-by-hop options", []header{routerAlert}},
		{"destination options", []header{padding}},
		{"many destination options", []header{padding, longPadding, padding, padding, padding, longPadding}},
		{"a segment routing header", []header{segments}},
		{"hop-by-hop and destination options and a routing header", []header{routerAlert, padding, segments, padding}},
		{"hop-by-hop options in the wrong place", []header{padding, routerAlert}},
	} {
		add("behind "+c.name, one(advertisement.behind(c.headers...)), one(linkEcho.behind(c.headers...)))
		// In fragments, the chain whole in the first one or not.
		a := advertisement.behind(c.headers...)
		n := len(a.ext)
		add("in fragments behind "+c.name, a.cut(n+8), globalEcho.behind(c.headers...).cut(n+8))
		add("in the second fragment, behind "+c.name, a.cut(n), nil)
		add("behind "+c.name+" that the second fragment goes on with", a.cut(max(8, n-8)), nil)
	}
	add("behind routing header type 0", one(fromGuest1(own1, "ff02::1", 255, icmp6, advertisement.payload).behind(sourceRoute)), nil)
	add("in two fragments", advertisement.cut(16), linkEcho.cut(16))
	add("in tiny fragments", advertisement.cut(8, 8, 8), linkEcho.cut(8, 8, 8))
	backward := func(frames [][]byte) [][]byte { slices.Reverse(frames); return frames }
	add("in fragments, the last first", backward(advertisement.cut(8, 16)), backward(linkEcho.cut(8, 16)))
	add("in an atomic fragment", one(advertisement.behind(atomic)), one(linkEcho.behind(atomic)))
	add("in an atomic fragment behind destination options", one(advertisement.behind(padding, atomic)), one(linkEcho.behind(padding, atomic)))
	add("in two atomic fragments at once", one(advertisement.behind(atomic, atomic)), nil)
	add("in an atomic fragment, destination options, an atomic fragment", one(advertisement.behind(atomic, padding, atomic)), nil)
	add("in a fragment that says it is the middle", one(advertisement.behind(middle)), nil)
	add("in the middle of an atomic fragment", one(advertisement.behind(atomic, middle)), nil)
	add("in the second of two fragments in an atomic one", advertisement.behind(atomic).cut(16), nil)

	// An echo request that an overlapping fragment makes an advertisement.
	trains++
	echo, _ := linkEcho.data()
	ra, _ := advertisement.data()
	add("that overlaps an echo request", [][]byte{
		linkEcho.piece(icmp6, 0, true, echo[:16]), linkEcho.piece(icmp6, 0, true, ra[:24]), linkEcho.piece(icmp6, 24, false, echo[24:]),
	}, nil)
	trains++
	add("with a tail that overlaps an echo request", [][]byte{
		linkEcho.piece(icmp6, 0, true, echo[:16]), linkEcho.piece(icmp6, 8, true, ra[8:24]), linkEcho.piece(icmp6, 24, false, echo[24:]),
	}, nil)
	twice := linkEcho.cut(16)
	add("with fragments sent twice", append(advertisement.cut(16), advertisement.cut(16)...), [][]byte{twice[0], twice[0], twice[1]})
	trains++
	add("whose first fragment comes twice, of two protocols", [][]byte{
		linkEcho.piece(icmp6, 0, true, echo[:16]), linkEcho.piece(destOpts, 0, true, ra[:16]),
	}, nil)

	for _, hops := range []byte{1, 64, 254, 255} {
		p, q := advertisement, linkEcho
		p.hops, q.hops = hops, hops
		add(fmt.Sprintf("with hop limit %d", hops), one(p), one(q))
	}
	for _, kind := range []byte{4, 41, 50, 59, 135, 139, 140, 253} {
		p, q := linkEcho.behind(header{kind, "00 0104 00000000"}), globalEcho.behind(header{kind, "00 0104 00000000"})
		p.payload = advertisement.payload
		if kind == noNext { // nothing that connection tracking could follow
			q = globalEcho
		}
		add(fmt.Sprintf("behind header %d, which is no extension header", kind), one(p), one(q))
	}
	add("behind an Authentication Header", one(advertisement.behind(authenticated)), one(question.behind(authenticated)))
	add("in a jumbogram", one(advertisement.behind(jumbo)), one(linkEcho.behind(routerAlert)))
	long := advertisement.behind(jumbo).frame()
	long[18], long[19] = 0, 0
	add("in a jumbogram with payload length 0", [][]byte{long}, nil)

	frame, allowed := advertisement.frame(), linkEcho.frame()
	for _, h := range []string{
		"8100 0000 86dd", "8100 e000 86dd", "8100 0005 86dd", "88a8 0005 86dd", "88a8 0000 8100 0000 86dd", "9100 0001 86dd", "8100 0001 8100 0002 86dd",
		"0050 aaaa03 000000 86dd", "0050 fefe03", "8864 1100 0001 0052 0057", "8847 000010ff", "8848 000010ff", "86de", "0000", "05dd", "ffff",
	} {
		add("in a frame "+h, [][]byte{in(h, frame)}, [][]byte{allowed})
	}
	for _, version := range []byte{0x40, 0x50, 0x00, 0xf0} {
		f := slices.Clone(frame)
		f[14] = version
		add(fmt.Sprintf("of IP version %d", version>>4), [][]byte{f}, nil)
	}
	add("shorter than it says", [][]byte{frame[:len(frame)-8]}, nil)
	add("with octets behind it", [][]byte{append(slices.Clone(frame), 0, 0, 0, 0)}, [][]byte{append(slices.Clone(allowed), 0, 0, 0, 0)})
	to := func(dst string, mac []byte) packet { p := advertisement; p.dst, p.dstMAC = dst, mac; return p }
	add("to one host", one(to(router, macWire)), one(linkEcho))
	add("to one host by all hosts' MAC", one(to(router, []byte{0x33, 0x33, 0, 0, 0, 1})), nil)
	add("to all by one host's MAC", one(to("ff02::1", macWire)), nil)
	for _, src := range []string{router, ll2, own1, prefix1, "::", "fe80::1"} {
		p := advertisement
		p.src = src
		add("from "+src, one(p), nil)
	}
	evade(t, cases)
}

// TestEvadeND: Neighbor Advertisements and Solicitations for what is not the
// guest's own (RFC 4861, RFC 6980).
func TestEvadeND(t *testing.T) {
	var cases []evasion
	add := func(name string, forbidden, permitted [][]byte) {
		cases = append(cases, evasion{name, "guest1", wire, forbidden, permitted})
	}
	nd := func(src, dst string, payload []byte) packet { return fromGuest1(src, dst, 255, icmp6, payload) }
	flagged := func(flags byte, target string, mac []byte) []byte {
		p := na(target, mac)
		p[4] = flags << 5
		return p
	}
	for flags := range byte(8) {
		add(fmt.Sprintf("NA with flags %03b for another's address", flags), one(nd(own1, "ff02::1", flagged(flags, own2, mac1))), one(nd(own1, "ff02::1", flagged(flags, own1, mac1))))
		add(fmt.Sprintf("NA with flags %03b for the router", flags), one(nd(ll1, router, flagged(flags, router, mac1))), one(nd(ll1, router, flagged(flags, ll1, mac1))))
		add(fmt.Sprintf("NA with flags %03b and another's MAC", flags), one(nd(own1, "ff02::1", flagged(flags, own1, mac2))), nil)
		add(fmt.Sprintf("NA with flags %03b without a MAC for another's address", flags), one(nd(own1, "ff02::1", flagged(flags, own2, nil))), one(nd(own1, "ff02::1", flagged(flags, own1, nil))))
	}
	claim, own := nd(own1, "ff02::1", na(own1, mac1)), nd(own1, "ff02::1", na(own1, mac1))
	claim.payload = na(own2, mac1)
	option := func(p packet, octets ...byte) packet {
		p.payload = append(slices.Clone(p.payload), octets...)
		return p
	}
	other := append([]byte{2, 1}, mac2...)
	nonce := []byte{14, 1, 1, 2, 3, 4, 5, 6}
	add("NA with a second MAC", one(option(own, other...)), one(own))
	bare := nd(own1, "ff02::1", na(own1, nil))
	add("NA with another's MAC behind an option", one(option(option(bare, nonce...), other...)), one(bare))
	add("NA with an option of length 0", one(option(bare, 2, 0, 6, 0, 0, 0, 0, 2)), one(bare))
	add("NA with an option longer than it is", one(option(bare, 2, 2, 6, 0, 0, 0, 0, 2)), one(bare))
	add("NA with the MAC as if it were a NS", one(option(bare, append([]byte{1, 1}, mac1...)...)), one(own))
	for _, p := range []packet{
		own, bare, nd(ll1, router, ns(router, mac1)), nd(ll1, router, ns(router, nil)), nd("::", "ff02::1:ff00:1", ns(ll1, nil)), option(nd("::", "ff02::1:ff00:1", ns(ll1, nil)), nonce...),
		nd(ll1, "ff02::2", icmp(133, 0, "00000000")), nd(ll1, "ff02::2", icmp(133, 0, "00000000 0101 060000000001")), nd("::", "ff02::2", icmp(133, 0, "00000000")),
	} {
		coded := p
		coded.payload = slices.Clone(p.payload)
		coded.payload[1] = 1
		add(fmt.Sprintf("ND type %d of %d octets with code 1", p.payload[0], len(p.payload)), one(coded), one(p))
	}
	for _, hops := range []byte{0, 1, 64, 254} {
		p := own
		p.hops = hops
		if hops == 0 {
			f := p.frame()
			f[21] = 0
			add("NA with hop limit 0", [][]byte{f}, one(own))
			continue
		}
		add(fmt.Sprintf("NA with hop limit %d", hops), one(p), one(own))
	}
	for _, h := range [][]header{{padding}, {routerAlert}, {segments}, {atomic}, {padding, atomic}, {authenticated}} {
		p := claim
		if h[0].kind == authentication { // who holds no key takes none of it
			p = nd(ll1, "ff02::1", claim.payload)
		}
		add(fmt.Sprintf("NA for another's address behind header %d", h[0].kind), one(p.behind(h...)), one(own))
		if h[0].kind != authentication {
			add(fmt.Sprintf("NA for its own address behind header %d", h[0].kind), one(own.behind(h...)), one(own))
		}
	}
	add("NA in fragments", claim.cut(16), globalEcho.cut(16))
	add("NA in fragments for its own address", own.cut(16), globalEcho.cut(16))
	add("NA in tiny fragments", claim.cut(8, 8), globalEcho.cut(8, 8))
	add("NA for an address of its prefix", one(nd(own1, "ff02::1", na(prefix1, mac1))), one(own))
	add("NA with the first half of its address", one(nd(own1, "ff02::1", na("2001:db8:100:1::bad", mac1))), one(own))
	add("NA that ends in its target", one(nd(own1, "ff02::1", na(own1, nil)[:20])), one(bare))
	add("NS in fragments", nd(ll1, router, ns(router, mac1)).cut(16), one(nd(ll1, router, ns(router, mac1))))
	add("NS in an atomic fragment", one(nd(ll1, router, ns(router, mac1)).behind(atomic)), one(nd(ll1, router, ns(router, mac1))))
	add("NS with two MACs", one(option(nd(ll1, router, ns(router, mac1)), append([]byte{1, 1}, mac2...)...)), one(nd(ll1, router, ns(router, mac1))))
	add("NS from another's address", one(nd(own2, router, ns(router, mac1))), one(nd(own1, router, ns(router, mac1))))
	add("DAD for the router", one(nd("::", "ff02::1:ff00:fe", ns(router, nil))), one(nd("::", "ff02::1:ff00:1", ns(ll1, nil))))
	add("DAD with a MAC", one(nd("::", "ff02::1:ff00:1", ns(ll1, mac1))), one(nd("::", "ff02::1:ff00:1", ns(ll1, nil))))
	add("DAD to one host", one(nd("::", router, ns(ll1, nil))), one(nd("::", "ff02::1:ff00:1", ns(ll1, nil))))
	add("DAD with hop limit 64", one(fromGuest1("::", "ff02::1:ff00:1", 64, icmp6, ns(ll1, nil))), one(nd("::", "ff02::1:ff00:1", ns(ll1, nil))))
	add("DAD with a nonce and hop limit 64", one(option(fromGuest1("::", "ff02::1:ff00:1", 64, icmp6, ns(ll1, nil)), nonce...)), one(option(nd("::", "ff02::1:ff00:1", ns(ll1, nil)), nonce...)))
	add("DAD with another option", one(option(nd("::", "ff02::1:ff00:1", ns(ll1, nil)), 14, 2, 3, 4, 5, 6, 7, 8)), one(option(nd("::", "ff02::1:ff00:1", ns(ll1, nil)), nonce...)))
	add("udp from ::", one(fromGuest1("::", outside, 64, udp, question.payload)), one(question))
	add("DAD as UDP", one(fromGuest1("::", "ff02::1:ff00:1", 255, udp, ns(ll1, nil))), one(nd("::", "ff02::1:ff00:1", ns(ll1, nil))))
	add("RS from :: with hop limit 64", one(fromGuest1("::", "ff02::2", 64, icmp6, icmp(133, 0, "00000000"))), one(nd("::", "ff02::2", icmp(133, 0, "00000000"))))
	add("RS from :: to one host", one(nd("::", router, icmp(133, 0, "00000000"))), one(nd("::", "ff02::2", icmp(133, 0, "00000000"))))
	add("RS from :: with a MAC", one(nd("::", "ff02::2", icmp(133, 0, "00000000 0101 060000000001"))), one(nd("::", "ff02::2", icmp(133, 0, "00000000"))))
	add("RS with hop limit 64", one(fromGuest1(ll1, "ff02::2", 64, icmp6, icmp(133, 0, "00000000"))), one(nd(ll1, "ff02::2", icmp(133, 0, "00000000"))))
	add("RS with another's MAC", one(nd(ll1, "ff02::2", icmp(133, 0, "00000000 0101 060000000002"))), one(nd(ll1, "ff02::2", icmp(133, 0, "00000000 0101 060000000001"))))
	add("NS with hop limit 64", one(fromGuest1(ll1, router, 64, icmp6, ns(router, mac1))), one(nd(ll1, router, ns(router, mac1))))
	add("DAD behind options", one(nd("::", "ff02::1:ff00:1", ns(ll1, nil)).behind(padding)), one(nd("::", "ff02::1:ff00:1", ns(ll1, nil))))
	add("RS to one host", one(nd(ll1, router, icmp(133, 0, "00000000"))), one(nd(ll1, "ff02::2", icmp(133, 0, "00000000"))))
	add("RS behind options", one(nd(ll1, "ff02::2", icmp(133, 0, "00000000")).behind(padding)), one(nd(ll1, "ff02::2", icmp(133, 0, "00000000"))))

	redirect := icmp(137, 0, "00000000"+addressHex(ll1)+addressHex(outside))
	add("redirect", one(nd(ll1, router, redirect)), one(linkEcho))
	add("redirect behind options", one(nd(ll1, router, redirect).behind(padding)), one(linkEcho.behind(padding)))
	add("redirect in fragments", nd(ll1, router, redirect).cut(8), linkEcho.cut(8))
	fault := fromGuest1(own1, outside, 64, icmp6, icmp(1, 0, fmt.Sprintf("%080x", 1)))
	add("an error behind routing header type 0", one(fault.behind(sourceRoute)), one(fault.behind(segments)))
	add("an error behind routing header type 0 behind another", one(fault.behind(segments, sourceRoute)), one(fault.behind(segments)))
	add("redirect in an atomic fragment", one(nd(own1, outside, redirect).behind(atomic)), one(globalEcho.behind(atomic)))
	evade(t, cases)
}

// TestEvadeTypes: of all ICMPv6 types in the shape of another, a guest sends
// errors and echoes alone; and of all messages of DHCPv6 those of a client
// (RFC 9915 section 7.3).
func TestEvadeTypes(t *testing.T) {
	shape := func(src, dst string, hops byte, body string) packet {
		return fromGuest1(src, dst, hops, icmp6, icmp(0, 0, body))
	}
	errorsAndEchoes := []byte{1, 2, 3, 4, 128, 129}
	var cases []evasion
	for _, c := range []struct {
		name    string
		p       packet
		allowed []byte
	}{
		{"nothing in particular", shape(ll1, router, 255, "00000000 00000099"), errorsAndEchoes},
		{"DAD", shape("::", "ff02::1:ff00:1", 255, "00000000"+addressHex(ll1)), []byte{135}},
		{"DAD with a nonce", shape("::", "ff02::1:ff00:1", 255, "00000000"+addressHex(ll1)+"0e01010203040506"), []byte{135}},
		{"RS from ::", shape("::", "ff02::2", 255, "00000000"), []byte{133}},
		{"RS", shape(ll1, "ff02::2", 255, "00000000 0101 060000000001"), append([]byte{133}, errorsAndEchoes...)},
		{"NS", shape(ll1, router, 255, "00000000"+addressHex(router)+"0101 060000000001"), append([]byte{135}, errorsAndEchoes...)},
		{"NA", shape(ll1, router, 255, "60000000"+addressHex(ll1)+"0201 060000000001"), append([]byte{136}, errorsAndEchoes...)},
		{"NA without its MAC", shape(ll1, router, 255, "60000000"+addressHex(ll1)), append([]byte{135, 136}, errorsAndEchoes...)},
		{"MLD", shape(ll1, "ff02::16", 1, "00000001 04000000"+addressHex("ff02::1:ff00:1")).behind(routerAlert), append([]byte{131, 132, 143}, errorsAndEchoes...)},
		{"MLD from ::", shape("::", "ff02::16", 1, "00000001 04000000"+addressHex("ff02::1:ff00:1")).behind(routerAlert), []byte{131, 132, 143}},
	} {
		for kind := range 256 {
			if 5 < kind && kind < 127 || 162 < kind && kind < 253 {
				continue // unassigned, one like the other
			}
			p := c.p
			p.payload = slices.Clone(p.payload)
			p.payload[0] = byte(kind)
			e := evasion{name: fmt.Sprintf("ICMPv6 type %d in the shape of %s", kind, c.name), from: "guest1", to: wire, forbidden: one(p)}
			if slices.Contains(c.allowed, byte(kind)) {
				e.forbidden, e.permitted = nil, one(p)
			}
			cases = append(cases, e)
		}
	}
	for kind := range 256 {
		q := fromGuest1(ll1, "ff02::1:2", 1, udp, udpTo(546, 547, byte(kind), 1, 2, 3))
		d := evasion{name: fmt.Sprintf("DHCPv6 type %d", kind), from: "guest1", to: wire, forbidden: one(q)}
		if slices.Contains([]int{1, 3, 4, 5, 6, 8, 9, 11}, kind) {
			d.forbidden, d.permitted = nil, one(q)
		}
		cases = append(cases, d)
	}
	evade(t, cases)
}

// TestEvadeDHCPv6Shield: a guest that plays server or relay (RFC 7610).
func TestEvadeDHCPv6Shield(t *testing.T) {
	var cases []evasion
	add := func(name string, forbidden, permitted [][]byte) {
		cases = append(cases, evasion{name, "guest1", wire, forbidden, permitted})
	}
	relayed := append([]byte{12, 0}, make([]byte, 70)...)
	to := func(src, dst string, sport, dport uint16, data []byte) packet {
		return fromGuest1(src, dst, 64, udp, udpTo(sport, dport, data...))
	}
	solicit := []byte{1, 1, 2, 3}
	client := to(ll1, "ff02::1:2", 546, 547, solicit)
	add("relay-forw as a client", one(to(ll1, "ff02::1:2", 546, 547, relayed)), one(client))
	add("solicit from another port", one(to(ll1, "ff02::1:2", 5000, 547, solicit)), one(client))
	add("solicit to all servers of the site", one(to(ll1, "ff05::1:3", 546, 547, solicit)), one(client))
	add("solicit to one host of the link", one(to(ll1, router, 546, 547, solicit)), one(client))
	add("solicit from a global address", one(to(own1, "ff02::1:2", 546, 547, solicit)), one(client))
	add("solicit behind options", one(client.behind(padding)), one(client))
	add("solicit in fragments", to(ll1, "ff02::1:2", 546, 547, append(solicit, make([]byte, 60)...)).cut(16), one(client))
	add("solicit without a type", one(to(ll1, "ff02::1:2", 546, 547, nil)), one(client))
	for _, src := range []string{own1, prefix1} {
		for _, dport := range []uint16{547, 546} {
			add(fmt.Sprintf("from %s to port %d", src, dport), one(to(src, outside, 5000, dport, relayed)), one(to(src, outside, 5000, 548, relayed)))
			add(fmt.Sprintf("from %s to port %d behind options", src, dport), one(to(src, outside, 5000, dport, relayed).behind(padding)), one(to(src, outside, 5000, 548, relayed).behind(padding)))
			add(fmt.Sprintf("from %s to port %d in fragments", src, dport), to(src, outside, 5000, dport, relayed).cut(24), to(src, outside, 5000, 548, relayed).cut(24))
			add(fmt.Sprintf("from %s to port %d in tiny fragments", src, dport), to(src, outside, 5000, dport, relayed).cut(8), to(src, outside, 5000, 548, relayed).cut(8))
			add(fmt.Sprintf("from %s to port %d in the second fragment", src, dport), to(src, outside, 5000, dport, relayed).behind(longPadding).cut(32), to(src, outside, 5000, 548, relayed).behind(longPadding).cut(40))
			add(fmt.Sprintf("from %s to port %d in an atomic fragment", src, dport), one(to(src, outside, 5000, dport, relayed).behind(atomic)), one(to(src, outside, 5000, 548, relayed).behind(atomic)))
			add(fmt.Sprintf("from %s to port %d behind a routing header", src, dport), one(to(src, outside, 5000, dport, relayed).behind(segments)), one(to(src, outside, 5000, 548, relayed).behind(segments)))
		}
		add("from "+src+" and port 547", one(to(src, outside, 547, 5000, relayed)), one(to(src, outside, 548, 5000, relayed)))
		add("from "+src+" and port 547 in fragments", to(src, outside, 547, 5000, relayed).cut(8), to(src, outside, 548, 5000, relayed).cut(8))
		add("from "+src+" to every relay of the site", one(to(src, "ff05::1:3", 5000, 547, relayed)), one(to(src, "ff05::1:3", 5000, 548, relayed)))
	}
	trains++
	data, _ := to(own1, outside, 5000, 548, relayed).data()
	forged, _ := to(own1, outside, 5000, 547, relayed).data()
	p := to(own1, outside, 5000, 548, relayed)
	add("to a port that an overlapping fragment makes 547", [][]byte{
		p.piece(udp, 0, true, data[:16]), p.piece(udp, 0, true, forged[:24]), p.piece(udp, 24, false, data[24:]),
	}, p.cut(24))
	add("by tcp", one(fromGuest1(own1, outside, 64, tcp, tcpTo(5000, 547, syn, 1, 0))), one(fromGuest1(own1, outside, 64, tcp, tcpTo(5000, 548, syn, 1, 0))))
	add("by tcp in tiny fragments", fromGuest1(own1, outside, 64, tcp, tcpTo(5001, 547, syn, 1, 0)).cut(8), fromGuest1(own1, outside, 64, tcp, append(tcpTo(5001, 548, syn, 1, 0), make([]byte, 20)...)).cut(24))
	evade(t, cases)
}
