package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// frame is an Ethernet frame, with an IPv6 packet if it is valid.
type frame []byte

const (
	ethernetSize = 14
	ipv6Size     = 40
	udpSize      = 8

	protoTCP  = 6
	protoUDP  = 17
	protoICMP = 58
)

// ICMPv6 types (RFC 4443, RFC 2710, RFC 4861, RFC 2894, RFC 4620, RFC 3810).
const (
	icmpUnreachable  = 1
	icmpTooBig       = 2
	icmpTimeExceeded = 3
	icmpParameter    = 4
	icmpEchoRequest  = 128
	icmpMLDQuery     = 130
	icmpMLDReport    = 131
	icmpRouterSol    = 133
	icmpRouterAdv    = 134
	icmpNeighborSol  = 135
	icmpNeighborAdv  = 136
	icmpRedirect     = 137
	icmpRenumbering  = 138
	icmpNodeQuery    = 139
	icmpNodeReply    = 140
	icmpMLDv2Report  = 143
)

// valid reports whether it is IPv6 without extension headers, long enough for
// the methods below.
func (f frame) valid() bool {
	return len(f) >= ethernetSize+ipv6Size+4 && f[12] == 0x86 && f[13] == 0xdd &&
		len(f) >= ethernetSize+ipv6Size+int(binary.BigEndian.Uint16(f[18:]))
}

func (f frame) proto() int      { return int(f[20]) }
func (f frame) src() netip.Addr { return netip.AddrFrom16([16]byte(f[22:38])) }
func (f frame) dst() netip.Addr { return netip.AddrFrom16([16]byte(f[38:54])) }

// payload is what follows the IPv6 header.
func (f frame) payload() []byte {
	from := ethernetSize + ipv6Size
	return f[from : from+int(binary.BigEndian.Uint16(f[18:]))]
}

func (f frame) isICMP(typ byte) bool { return f.proto() == protoICMP && f.payload()[0] == typ }

// ports returns the ports of a TCP segment or UDP datagram.
func (f frame) ports() (src, dst uint16) {
	return binary.BigEndian.Uint16(f.payload()), binary.BigEndian.Uint16(f.payload()[2:])
}

func (f frame) isUDP(src, dst uint16) bool {
	if f.proto() != protoUDP || len(f.payload()) < udpSize {
		return false
	}
	s, d := f.ports()
	return s == src && d == dst
}

// ip6 is one end to the other: where a frame claims to come from and where it
// goes.
type ip6 struct {
	srcMAC, dstMAC string
	src, dst       netip.Addr
	hopLimit       byte
}

// to returns the same with another destination. A multicast destination has its
// MAC by itself (RFC 2464 section 7).
func (h ip6) to(mac string, dst netip.Addr) ip6 {
	if dst.IsMulticast() {
		b := dst.As16()
		mac = fmt.Sprintf("33:33:%02x:%02x:%02x:%02x", b[12], b[13], b[14], b[15])
	}
	h.dstMAC, h.dst = mac, dst
	return h
}

// packet builds the frame, with the checksum of TCP, UDP and ICMPv6 in place.
func (h ip6) packet(proto byte, payload []byte) frame {
	hop := h.hopLimit
	if hop == 0 {
		hop = 64
	}
	src, dst := h.src.As16(), h.dst.As16()
	f := make(frame, 0, ethernetSize+ipv6Size+len(payload))
	f = append(f, mustMAC(h.dstMAC)...)
	f = append(f, mustMAC(h.srcMAC)...)
	f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(payload)))
	f = append(f, proto, hop)
	f = append(f, src[:]...)
	f = append(f, dst[:]...)
	f = append(f, payload...)

	at, known := map[byte]int{protoTCP: 16, protoUDP: 6, protoICMP: 2}[proto]
	if !known {
		return f
	}
	upper := f[ethernetSize+ipv6Size:]
	copy(upper[at:], []byte{0, 0})
	checksum := ^onesSum(uint32(len(payload))+uint32(proto), src[:], dst[:], upper)
	if checksum == 0 && proto == protoUDP {
		checksum = 0xffff // 0 would mean that there is none (RFC 8200 section 8.1)
	}
	binary.BigEndian.PutUint16(upper[at:], checksum)
	return f
}

// onesSum is the sum of 16-bit words in ones' complement (RFC 1071).
func onesSum(sum uint32, parts ...[]byte) uint16 {
	for _, part := range parts {
		for i := 0; i < len(part); i += 2 {
			word := uint32(part[i]) << 8
			if i+1 < len(part) {
				word |= uint32(part[i+1])
			}
			sum += word
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

func (h ip6) udp(src, dst uint16, data []byte) frame {
	p := binary.BigEndian.AppendUint16(nil, src)
	p = binary.BigEndian.AppendUint16(p, dst)
	p = binary.BigEndian.AppendUint16(p, uint16(udpSize+len(data)))
	return h.packet(protoUDP, append(append(p, 0, 0), data...))
}

// syn is the first segment of a TCP connection.
func (h ip6) syn(src, dst uint16, sequence uint32) frame { return h.tcp(src, dst, sequence, 0x02) }

// later is one in the midst of a connection, with an acknowledgment.
func (h ip6) later(src, dst uint16, sequence uint32) frame { return h.tcp(src, dst, sequence, 0x18) }

func (h ip6) tcp(src, dst uint16, sequence uint32, flags byte) frame {
	p := binary.BigEndian.AppendUint16(nil, src)
	p = binary.BigEndian.AppendUint16(p, dst)
	p = binary.BigEndian.AppendUint32(p, sequence)
	return h.packet(protoTCP, append(p, 0, 0, 0, 0, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0))
}

func (h ip6) icmp(typ byte, body []byte) frame {
	return h.packet(protoICMP, append([]byte{typ, 0, 0, 0}, body...))
}

// echo is an echo request that carries the token.
func (h ip6) echo(token []byte) frame {
	return h.icmp(icmpEchoRequest, append([]byte{0x6a, 0xc2, 0, 1}, token...))
}

// onLink gives the hop limit without which ND messages are worth nothing
// (RFC 4861 section 7.1).
func (h ip6) onLink() ip6 { return h.hops(255) }

// hops returns the same with another hop limit.
func (h ip6) hops(n byte) ip6 {
	h.hopLimit = n
	return h
}

// routerAdvertisement makes its sender everybody's default router
// (RFC 4861 section 4.2).
func (h ip6) routerAdvertisement() frame {
	return h.onLink().icmp(icmpRouterAdv, []byte{64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0})
}

// Options of ND messages (RFC 4861 section 4.6.1).
const (
	sourceMAC = 1
	targetMAC = 2
)

func macOption(kind byte, mac string) []byte { return append([]byte{kind, 1}, mustMAC(mac)...) }

// nd is a message about the target (RFC 4861 sections 4.3, 4.4 and 4.5). Of the
// bits that receivers ignore some are random, to tell two messages apart.
func (h ip6) nd(typ byte, target netip.Addr, options ...[]byte) frame {
	body := append([]byte{0x20}, token()[:3]...)
	body[1] &= 0x1f
	if typ == icmpNeighborSol {
		body[0] = 0
	}
	t := target.As16()
	return h.icmp(typ, slices.Concat(body, t[:], slices.Concat(options...)))
}

// routerSolicitation asks for a Router Advertisement (RFC 4861 section 4.1).
func (h ip6) routerSolicitation(options ...[]byte) frame {
	return h.icmp(icmpRouterSol, slices.Concat(token()[:4], slices.Concat(options...)))
}

// mld is a message of MLDv1 about a group of the link (RFC 2710 section 3).
func (h ip6) mld(typ byte) frame {
	return h.icmp(typ, slices.Concat([]byte{0, 0, 0, 0}, []byte{0xff, 0x02}, token()[:14]))
}

// mldReport joins a group of the link (RFC 3810 section 5.2).
func (h ip6) mldReport() frame {
	return h.to("", allMLDv2Routers).icmp(icmpMLDv2Report, slices.Concat([]byte{0, 0, 0, 1, 4, 0, 0, 0}, []byte{0xff, 0x02}, token()[:14]))
}

// quoting is an ICMPv6 error about a packet (RFC 4443 section 3).
func (h ip6) quoting(typ byte, about frame) frame {
	value := []byte{0, 0, 0, 0}
	if typ == icmpTooBig {
		value = []byte{0, 0, 5, 0} // an MTU of 1280
	}
	return h.icmp(typ, append(value, about[ethernetSize:]...))
}

// extension is an extension header (RFC 8200 section 4) but for its first octet,
// which says what follows it.
type extension struct {
	kind byte
	rest []byte
}

const (
	hopByHop           = 0
	routing            = 43
	fragment           = 44
	destinationOptions = 60
)

var (
	routerAlert = extension{hopByHop, []byte{0, 5, 2, 0, 0, 1, 0}}           // RFC 2711
	padding     = extension{destinationOptions, []byte{0, 1, 4, 0, 0, 0, 0}} // RFC 8200 section 4.2
	tooLong     = extension{destinationOptions, []byte{9, 1, 4, 0, 0, 0, 0}} // longer than what follows
	atomic      = extension{fragment, []byte{0, 0, 0, 0, 0, 0xa7, 0x0c}}     // RFC 6946
	sourceRoute = extension{routing, slices.Concat([]byte{2, 0, 1, 0, 0, 0, 0}, serverAddress.AsSlice())}
	segments    = extension{routing, slices.Concat([]byte{2, 4, 0, 0, 0, 0, 0}, serverAddress.AsSlice())} // RFC 8754
)

// behind puts extension headers before what follows the IPv6 header.
func (f frame) behind(headers ...extension) frame {
	next := f[20]
	var chain []byte
	for _, h := range slices.Backward(headers) {
		chain = slices.Concat([]byte{next}, h.rest, chain)
		next = h.kind
	}
	g := slices.Concat(f[:ethernetSize+ipv6Size], chain, f[ethernetSize+ipv6Size:])
	g[20] = next
	binary.BigEndian.PutUint16(g[18:], uint16(len(g)-ethernetSize-ipv6Size))
	return g
}

// fragments cuts what follows the IPv6 header in two (RFC 8200 section 4.5), the
// first part of a multiple of 8 octets.
func (f frame) fragments(at int) []frame {
	id, first, data := token()[:4], f[20], f[ethernetSize+ipv6Size:]
	piece := func(offset uint16, data []byte) frame {
		p := slices.Concat(f[:ethernetSize+ipv6Size], []byte{first, 0}, binary.BigEndian.AppendUint16(nil, offset), id, data)
		p[20] = fragment
		binary.BigEndian.PutUint16(p[18:], uint16(len(p)-ethernetSize-ipv6Size))
		return p
	}
	return []frame{piece(1, data[:at]), piece(uint16(at), data[at:])}
}

// in puts other octets than the ethertype before the packet, a VLAN tag or more.
func (f frame) in(header ...byte) frame {
	return slices.Concat(f[:12], header, f[ethernetSize:])
}

// other is a frame that holds no IPv6.
func (h ip6) other(ethertype uint16, payload []byte) frame {
	f := slices.Concat(mustMAC(h.dstMAC), mustMAC(h.srcMAC))
	return append(binary.BigEndian.AppendUint16(f, ethertype), payload...)
}

const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeRARP = 0x8035
	typeLLDP = 0x88cc
)

// ipv4 is a datagram from 192.0.2.1 to 192.0.2.2, port 9 to port 9 (RFC 791).
func ipv4(data []byte) []byte {
	b := []byte{0x45, 0, 0, byte(28 + len(data)), 0, 0, 0, 0, 64, protoUDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}
	sum := onesSum(0, b)
	binary.BigEndian.PutUint16(b[10:], ^sum)
	return append(append(b, 0, 9, 0, 9, 0, byte(udpSize+len(data)), 0, 0), data...)
}

func mustMAC(s string) net.HardwareAddr {
	mac, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return mac
}
