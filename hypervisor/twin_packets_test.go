package hypervisor_test

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// chance draws a number from 0 to n-1.
type chance func(n int) int

func (c chance) oneIn(n int) bool { return c(n) == 0 }

func pick[T any](c chance, from ...T) T { return from[c(len(from))] }

// probe is what a test sends from one end: a packet, whole or in fragments, or
// the packets of an exchange, each from its own end.
type probe struct {
	name   string
	frames []sent
}

type sent struct {
	from  string
	frame []byte
}

// maker makes the packets that might pass, or should not, on a host.
type maker struct {
	chance
	host  firewall.Host
	count uint32 // of the probes it made: it is in each frame
	first uint32 // train of its own
}

func newMaker(c chance, h firewall.Host) *maker { return &maker{chance: c, host: h, first: trains + 1} }

// trains numbers fragmented packets: the kernel waits for missing fragments
// longer than one policy lasts.
var trains uint32

// probe makes one more that the twin can judge.
func (m *maker) probe() probe {
	for {
		if p := m.draw(); !m.untold(p) {
			return p
		}
	}
}

// untold reports whether a frame of the probe is one that the twin does not
// judge:
//   - of a protocol whose connections have rules of their own, or of router
//     discovery behind an Authentication Header, which kernels track differently;
//   - a fragment of another policy's train, in the middle of another fragment's
//     packet, whose ports are nowhere, or of an odd length, which every receiver
//     drops (RFC 8200 section 4.5);
//   - with headers that go on behind the packet's end, where the filter may still
//     read them, or say that they do, which kernels see differently;
//   - to the bridge itself;
//   - where nf_conntrack_bridge follows connections, what is malformed, which is of
//     no connection there, and small fragments, which Linux loses.
func (m *maker) untold(p probe) bool {
	return slices.ContainsFunc(p.frames, func(s sent) bool {
		r := read(s.frame)
		switch {
		case slices.Contains([]int{1, 33, 132, 136}, r.inner): // ICMP, DCCP, SCTP, UDP-Lite
			return true
		case r.inner == 47 && len(r.innerUpper) > 1 && r.innerUpper[1]&7 != 0: // PPTP's GRE
			return true
		case r.protocol == authentication && r.inner == icmp6 && len(r.innerUpper) > 0 && r.innerUpper[0] > 150:
			return true
		case r.fragmented && (r.id < m.first || r.id > trains):
			return true
		case r.overrun, r.nested, r.more && (r.offset+len(r.data()))%8 != 0:
			return true
		case len(r.frame) < len(s.frame) && len(r.innerUpper) < 40:
			return true
		case m.host.Mode == firewall.BridgeConntrack && (r.malformed != "" || r.fragmented):
			return true
		}
		return s.frame[0] == 0x01 && s.frame[1] == 0x80 && s.frame[2] == 0xc2
	})
}

func (m *maker) draw() probe {
	m.count++
	switch m.chance(12) {
	case 0:
		return m.otherFrame()
	case 1, 2:
		return m.exchange()
	}
	from := m.from()
	name, p := m.packet(from)
	p.srcMAC = m.srcMAC(from)
	p.flow = m.count
	if p.dstMAC == nil && !netip.MustParseAddr(p.dst).IsMulticast() {
		p.dstMAC = m.dstMAC(p.dst)
	}
	if p.hops == 0 {
		p.hops = pick(m.chance, byte(64), 64, 64, 1, 255, 0xfe)
	}
	if m.oneIn(4) {
		var with string
		with, p = m.extended(p)
		name += with
	}
	if m.oneIn(5) {
		with, frames := m.fragmented(p)
		return probe{name + with, each(from, frames)}
	}
	return probe{name, []sent{{from, p.frame()}}}
}

func each(from string, frames [][]byte) []sent {
	var out []sent
	for _, f := range frames {
		out = append(out, sent{from, f})
	}
	return out
}

func (m *maker) from() string {
	return pick(m.chance, wire, wire, "guest1", "guest1", "guest2", "guest3")
}

func (m *maker) srcMAC(from string) []byte {
	if m.oneIn(15) {
		return pick(m.chance, macWire, macOf("guest1"), macOf("guest2"), []byte{6, 9, 9, 9, 9, 9}, []byte{1, 0, 0, 0, 0, 1})
	}
	return macOf(from)
}

// dstMAC is that of the NIC that has the address, or of the router.
func (m *maker) dstMAC(dst string) []byte {
	if m.oneIn(12) {
		return pick(m.chance, macWire, macOf("guest1"), macOf("guest2"), macOf("guest3"), []byte{6, 9, 9, 9, 9, 9}, []byte{0x33, 0x33, 0, 0, 0, 1})
	}
	w := twin{host: m.host}
	if end := w.holder(netip.MustParseAddr(dst)); end != "" {
		return macOf(end)
	}
	return macWire
}

// mine are addresses that the end may use; a guest's, or those beyond the wire.
func (m *maker) mine(end string) string {
	if end == wire {
		return pick(m.chance, router, outside, outside, "2001:db8:ffff::2", "2001:db8:ffff:1::1", "2001:db8:eeee::1", "2001:db8:5000:10::1", "2001:db8:100:1::5e1a")
	}
	g := (&twin{host: m.host}).guest(end)
	if g == nil {
		return m.address()
	}
	own := []string{g.nic.Address.String(), g.nic.Address.String(), g.nic.LinkLocal.String()}
	if g.nic.LearnedLinkLocal.IsValid() {
		own = append(own, g.nic.LearnedLinkLocal.String())
	}
	for _, q := range g.nic.Prefixes {
		own = append(own, m.within(q), m.within(q))
	}
	if g.pod.AntiSpoof == sixacre.AntiSpoofLinkPrefix {
		own = append(own, m.within(g.pod.LinkPrefix))
	}
	return pick(m.chance, own...)
}

// within is an address of the prefix: the first, the last, or another.
func (m *maker) within(q netip.Prefix) string {
	a := q.Masked().Addr().As16()
	fill := pick(m.chance, byte(0), 0xff, 0x5a)
	for bit := q.Bits(); bit < 128; bit++ {
		a[bit/8] |= fill & (0x80 >> (bit % 8))
	}
	if fill == 0 {
		a[15] = byte(m.chance(3)) // subnet-router anycast sometimes
	}
	return netip.AddrFrom16(a).String()
}

// address is any that means something here, or nearly.
func (m *maker) address() string {
	switch m.chance(8) {
	case 0:
		return m.within(netip.MustParsePrefix("2001:db8:100:1::/64"))
	case 1:
		return pick(m.chance, "fe80::1234", "fe80::400:ff:fe00:9", router, "fe80:0:0:1::1")
	case 2:
		return pick(m.chance, "::", "::1", "fc00::1", "2001:db8:4000:4000::1", "3fff::1")
	default:
		return m.mine(pick(m.chance, wire, "guest1", "guest2", "guest3"))
	}
}

func (m *maker) group() string {
	return pick(m.chance, "ff02::1", "ff02::2", "ff02::16", "ff02::1:2", "ff02::fb", "ff05::1:3", "ff3e::8000:1", "ff02::1:ff00:1", "ff02::1:ff00:2")
}

// addresses are source and destination of a packet from there.
func (m *maker) addresses(from string) (src, dst string) {
	src = m.mine(from)
	switch {
	case m.oneIn(8):
		src = m.address()
	case m.oneIn(30):
		src = "::"
	}
	switch {
	case m.oneIn(10):
		dst = m.group()
	case m.oneIn(8):
		dst = m.address()
	case from == wire:
		dst = m.mine(pick(m.chance, "guest1", "guest1", "guest2", "guest3"))
	default:
		dst = m.mine(pick(m.chance, wire, wire, "guest1", "guest2"))
	}
	return src, dst
}

func (m *maker) port() uint16 {
	return pick(m.chance, 0, 21, 22, 23, 24, 25, 79, 80, 81, 443, 546, 547, 548, 1000, 1500, 2000, 65535, uint16(1024+m.chance(60000)))
}

// packet makes one of any kind, and says which.
func (m *maker) packet(from string) (string, packet) {
	src, dst := m.addresses(from)
	p := packet{src: src, dst: dst}
	switch m.chance(14) {
	case 0, 1, 2:
		flags := pick(m.chance, byte(syn), syn, syn, ack, synAck, 0x04, 0x11, 0x00, 0x03, 0x29)
		p.next, p.payload = tcp, tcpTo(uint16(30000+m.count), m.port(), flags, m.count, 0)
		if flags == ack {
			p.payload = append(p.payload, "data"...)
		}
		return fmt.Sprintf("tcp flags %02x", flags), p
	case 3, 4, 5:
		p.next, p.payload = udp, udpTo(m.port(), m.port(), fmt.Appendf(nil, "%08d", m.count)...)
		return "udp", p
	case 6:
		p.next = pick(m.chance, byte(4), 41, 47, 50, 88, 89, 103, 253, noNext)
		p.payload = fmt.Appendf(nil, "\x00\x00\x86\xdd%08d", m.count)
		return fmt.Sprintf("protocol %d", p.next), p
	case 7:
		p.next, p.payload = icmp6, icmp(pick(m.chance, byte(128), 128, 128, 129), pick(m.chance, byte(0), 0, 0, 1), fmt.Sprintf("%08x", m.count))
		return "echo", p
	case 8:
		return m.icmpError(p)
	case 9:
		p.next, p.payload = icmp6, icmp(byte(m.chance(256)), byte(m.chance(3)), fmt.Sprintf("%016x", m.count))
		return fmt.Sprintf("ICMPv6 type %d", p.payload[0]), p
	case 10:
		return m.dhcp(from, p)
	case 11:
		return m.mld(p)
	default:
		return m.nd(from, p)
	}
}

func (m *maker) icmpError(p packet) (string, packet) {
	quoted := packet{srcMAC: macWire, src: p.dst, dst: m.address(), next: udp, payload: udpTo(m.port(), m.port(), 'q')}
	if m.oneIn(3) {
		quoted.src = m.address()
	}
	f := quoted.frame()[14:]
	if m.oneIn(10) {
		f = f[:m.chance(len(f))]
	}
	kind := pick(m.chance, byte(1), 2, 3, 4)
	p.next, p.payload = icmp6, icmp(kind, byte(m.chance(3)), fmt.Sprintf("%08x%x", m.count, f))
	return fmt.Sprintf("ICMPv6 error %d about a packet of %s", kind, quoted.src), p
}

func (m *maker) dhcp(from string, p packet) (string, packet) {
	sport, dport := uint16(546), uint16(547)
	if from == wire {
		sport, dport, p.dst = 547, 546, m.linkLocal(pick(m.chance, "guest1", "guest2"))
	} else {
		p.src, p.dst = m.linkLocal(from), "ff02::1:2"
	}
	kind := byte(m.chance(14))
	switch m.chance(6) {
	case 0:
		sport = pick(m.chance, 546, 547, uint16(5000))
	case 1:
		dport = pick(m.chance, 546, 547, uint16(548))
	case 2:
		p.src = m.mine(from)
	case 3:
		p.dst = pick(m.chance, "ff02::1:2", "ff05::1:3", m.address())
	}
	p.next, p.payload = udp, udpTo(sport, dport, fmt.Appendf([]byte{kind}, "%07d", m.count)...)
	if m.oneIn(20) {
		p.payload = p.payload[:8]
	}
	return fmt.Sprintf("DHCPv6 type %d from %d to %d", kind, sport, dport), p
}

// linkLocal is one of the end.
func (m *maker) linkLocal(end string) string {
	if g := (&twin{host: m.host}).guest(end); g != nil {
		return pick(m.chance, g.nic.LinkLocals()...).String()
	}
	return router
}

func (m *maker) mld(p packet) (string, packet) {
	kind := pick(m.chance, byte(130), 131, 132, 143)
	p.dst = pick(m.chance, "ff02::16", "ff02::16", "ff02::2", "ff02::1", "ff02::1:ff00:1", p.dst)
	if m.oneIn(5) {
		p.src = "::"
	}
	p.hops = pick(m.chance, byte(1), 1, 1, 1, 64, 255)
	p.next, p.payload = icmp6, icmp(kind, 0, fmt.Sprintf("00000000 %s", addressHex("ff02::1:ff00:1")))
	if !m.oneIn(4) {
		p = p.behind(routerAlert)
	}
	return fmt.Sprintf("MLD type %d", kind), p
}

// nd makes a message of ND, right or with one or two things wrong.
func (m *maker) nd(from string, p packet) (string, packet) {
	kind := pick(m.chance, byte(133), 134, 135, 135, 135, 136, 136, 136, 137)
	target := pick(m.chance, p.src, p.src, p.dst, m.address())
	switch {
	case kind == 135 && from == wire:
		target = p.dst
	case kind == 135 && m.oneIn(3):
		p.src = "::"
	case kind == 133:
		p.dst = "ff02::2"
		if m.oneIn(3) {
			p.src = "::"
		}
	case kind == 134:
		p.dst, target = "ff02::1", ""
	}
	if m.oneIn(8) {
		target = m.address()
	}
	if kind == 135 && !m.oneIn(3) {
		t := netip.MustParseAddr(target).As16()
		p.dst = fmt.Sprintf("ff02::1:ff%02x:%02x%02x", t[13], t[14], t[15])
	}
	p.hops = pick(m.chance, byte(255), 255, 255, 255, 255, 255, 255, 64, 254, 1)
	body := "00000000"
	switch kind {
	case 134:
		body = "40000708 00000000 00000000"
	case 135, 136:
		body += addressHex(target)
	case 137:
		body += addressHex(target) + addressHex(p.dst)
	}
	mac := macOf(from)
	if m.oneIn(8) {
		mac = pick(m.chance, macWire, macOf("guest1"), macOf("guest2"))
	}
	own := hex.EncodeToString(mac)
	options := map[byte][]string{
		133: {"", "", "0101" + own, "0101" + own, "0201" + own},
		134: {"", "0101" + own, "0304 40c0 00015180 00015180 00000000 20010db8010000010000000000000000"},
		135: {"", "", "0101" + own, "0101" + own, "0101" + own, "0201" + own, "0e01010203040506"},
		136: {"", "", "0201" + own, "0201" + own, "0201" + own, "0101" + own},
		137: {"", "0201" + own},
	}[kind]
	option := pick(m.chance, options...)
	switch m.chance(20) {
	case 0:
		option += option
	case 1:
		option += "0e01010203040506"
	case 2:
		option += "00"
	case 3:
		option = "0000000000000000"
	case 4:
		option = "0102" + own + "0000000000000000"
	}
	if p.src == "::" && kind == 135 {
		option = pick(m.chance, "", "", "0e01010203040506", option)
	}
	code := byte(0)
	if m.oneIn(20) {
		code = 1
	}
	p.next, p.payload = icmp6, icmp(kind, code, body+option)
	if kind == 136 {
		p.payload[4] = byte(m.chance(8)) << 5 // router, solicited, override
	}
	if m.oneIn(25) {
		p.payload = p.payload[:4+m.chance(len(p.payload)-4)]
	}
	return fmt.Sprintf("ND type %d", kind), p
}

// exchange is a connection that one end begins and the other answers.
func (m *maker) exchange() probe {
	from := pick(m.chance, wire, "guest1", "guest1", "guest2")
	to := pick(m.chance, wire, "guest1", "guest2")
	if from == to {
		to = wire
		if from == wire {
			to = "guest1"
		}
	}
	a, b := m.mine(from), m.mine(to)
	port, service := uint16(10000+m.count), m.port()
	packetFrom := func(end string, next byte, payload []byte) packet {
		p := packet{srcMAC: macOf(end), dstMAC: macOf(to), src: a, dst: b, flow: m.count, next: next, payload: payload}
		if end == to {
			p.dstMAC, p.src, p.dst = macOf(from), b, a
		}
		return p
	}
	var packets []sent
	add := func(end string, next byte, payload []byte) {
		packets = append(packets, sent{end, packetFrom(end, next, payload).frame()})
	}
	var name string
	switch m.chance(4) {
	case 0:
		name = "a tcp connection"
		add(from, tcp, tcpTo(port, service, syn, 1000, 0))
		add(to, tcp, tcpTo(service, port, synAck, 2000, 1001))
		add(from, tcp, tcpTo(port, service, ack, 1001, 2001))
		add(to, tcp, append(tcpTo(service, port, ack, 2001, 1001), "hello"...))
	case 1:
		name = "udp both ways"
		add(from, udp, udpTo(port, service, 'q'))
		add(to, udp, udpTo(service, port, 'a'))
		add(from, udp, udpTo(port, service, 'Q'))
		add(to, udp, udpTo(service, port+1, 'b'))
	case 2:
		name = "echo and its reply"
		add(from, icmp6, icmp(128, 0, fmt.Sprintf("%04x0001", port)))
		add(to, icmp6, icmp(129, 0, fmt.Sprintf("%04x0001", port)))
		add(to, icmp6, icmp(129, 0, fmt.Sprintf("%04x0001", port+1)))
	case 3:
		name = "protocol 253 both ways"
		add(from, 253, fmt.Appendf(nil, "q%07d", m.count))
		add(to, 253, fmt.Appendf(nil, "a%07d", m.count))
	}
	if m.oneIn(2) {
		quoted := hex.EncodeToString(packets[0].frame[14:])
		add(to, icmp6, icmp(pick(m.chance, byte(1), 2, 3, 4), 0, fmt.Sprintf("%08x", m.count)+quoted))
		if m.oneIn(2) {
			redirected := "00000000" + addressHex(router) + addressHex(b) + fmt.Sprintf("04%02x000000000000", 1+len(quoted)/16) + quoted
			p := packetFrom(to, icmp6, icmp(137, 0, redirected))
			p.hops = 255
			packets = append(packets, sent{to, p.frame()})
		}
	}
	return probe{name + " between " + from + " and " + to, packets}
}

// otherFrame is a frame that is not IPv6, or IPv6 behind something.
func (m *maker) otherFrame() probe {
	from := m.from()
	src, dst := m.addresses(from)
	inner := packet{srcMAC: m.srcMAC(from), dstMAC: pick(m.chance, macWire, macOf("guest1"), macOf("guest2"), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}),
		src: src, dst: dst, flow: m.count, next: udp, payload: udpTo(m.port(), m.port(), 'x')}.frame()
	header := pick(m.chance, "0800", "0800", "0806", "0806", "8100000586dd", "8100e00086dd", "88a8000086dd", "88a80000810000000800", "91000005 86dd",
		"0040", "0032aaaa0300000086dd", "886411000001003c0057", "8035", "88cc", "8847000011ff", "86de", "ffff")
	return probe{"ethertype " + header, []sent{{from, in(header, inner)}}}
}
