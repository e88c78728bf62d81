package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// frame is an Ethernet frame with an IPv6 packet.
type frame []byte

const (
	ethernetSize = 14
	ipv6Size     = 40
	udpSize      = 8

	protoTCP  = 6
	protoUDP  = 17
	protoICMP = 58
)

// ICMPv6 types (RFC 4443, RFC 4861).
const (
	icmpUnreachable = 1
	icmpEchoRequest = 128
	icmpRouterSol   = 133
	icmpRouterAdv   = 134
	icmpNeighborAdv = 136
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

// packet builds the frame, with the checksum of the upper layer in place.
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

	at := map[byte]int{protoTCP: 16, protoUDP: 6, protoICMP: 2}[proto]
	upper := f[ethernetSize+ipv6Size:]
	copy(upper[at:], []byte{0, 0})
	sum := uint32(len(payload)) + uint32(proto)
	for _, part := range [][]byte{src[:], dst[:], upper} {
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
	checksum := ^uint16(sum)
	if checksum == 0 && proto == protoUDP {
		checksum = 0xffff // 0 would mean that there is none (RFC 8200 section 8.1)
	}
	binary.BigEndian.PutUint16(upper[at:], checksum)
	return f
}

func (h ip6) udp(src, dst uint16, data []byte) frame {
	p := binary.BigEndian.AppendUint16(nil, src)
	p = binary.BigEndian.AppendUint16(p, dst)
	p = binary.BigEndian.AppendUint16(p, uint16(udpSize+len(data)))
	return h.packet(protoUDP, append(append(p, 0, 0), data...))
}

// syn is the first segment of a TCP connection.
func (h ip6) syn(src, dst uint16, sequence uint32) frame {
	p := binary.BigEndian.AppendUint16(nil, src)
	p = binary.BigEndian.AppendUint16(p, dst)
	p = binary.BigEndian.AppendUint32(p, sequence)
	return h.packet(protoTCP, append(p, 0, 0, 0, 0, 5<<4, 0x02, 0xff, 0xff, 0, 0, 0, 0))
}

func (h ip6) icmp(typ byte, body []byte) frame {
	return h.packet(protoICMP, append([]byte{typ, 0, 0, 0}, body...))
}

// echo is an echo request that carries the token.
func (h ip6) echo(token []byte) frame {
	return h.icmp(icmpEchoRequest, append([]byte{0x6a, 0xc2, 0, 1}, token...))
}

// neighbor messages are worth nothing without it (RFC 4861 section 7.1).
func (h ip6) onLink() ip6 {
	h.hopLimit = 255
	return h
}

// routerAdvertisement makes its sender everybody's default router
// (RFC 4861 section 4.2).
func (h ip6) routerAdvertisement() frame {
	return h.onLink().icmp(icmpRouterAdv, []byte{64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0})
}

// routerSolicitation asks for one (RFC 4861 section 4.1).
func (h ip6) routerSolicitation() frame {
	return h.onLink().icmp(icmpRouterSol, []byte{0, 0, 0, 0})
}

// neighborAdvertisement says that the target is at the MAC (RFC 4861 section
// 4.4), to override what the receiver knows.
func (h ip6) neighborAdvertisement(target netip.Addr, mac string) frame {
	t := target.As16()
	body := append([]byte{0x20, 0, 0, 0}, t[:]...)
	return h.onLink().icmp(icmpNeighborAdv, append(append(body, 2, 1), mustMAC(mac)...))
}

func mustMAC(s string) net.HardwareAddr {
	mac, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return mac
}
