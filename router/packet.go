package router

import (
	"encoding/binary"
	"net/netip"
)

const (
	ipHeader    = 40 // RFC 8200 section 3
	udpHeader   = 8  // RFC 768
	protocolUDP = 17
	hopLimit    = 255 // of what the router sends; replies stay on the link
)

// packet is a UDP datagram over IPv6 without extension headers.
type packet struct {
	src, dst netip.AddrPort
	payload  []byte
}

// parsePacket reads an IPv6 packet from its header on. Octets after the end
// that the header gives are the padding of a short frame. With summed the
// checksum is not looked at: the kernel vouches for it, or it was never filled
// in because the packet has not left the machine.
func parsePacket(b []byte, summed bool) (packet, error) {
	if len(b) < ipHeader+udpHeader || b[0]>>4 != 6 {
		return packet{}, dropTruncated
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < udpHeader || ipHeader+length > len(b) {
		return packet{}, dropTruncated
	}
	if b[6] != protocolUDP {
		return packet{}, dropNotDHCP
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	udp := b[ipHeader : ipHeader+length]
	if int(binary.BigEndian.Uint16(udp[4:])) != length {
		return packet{}, dropTruncated
	}
	// A checksum of zero is no checksum, and not allowed here (RFC 8200 section 8.1).
	if !summed && (binary.BigEndian.Uint16(udp[6:]) == 0 || checksum(src, dst, udp) != 0) {
		return packet{}, dropChecksum
	}
	return packet{
		src:     netip.AddrPortFrom(src, binary.BigEndian.Uint16(udp)),
		dst:     netip.AddrPortFrom(dst, binary.BigEndian.Uint16(udp[2:])),
		payload: udp[udpHeader:],
	}, nil
}

// append writes the packet from its IPv6 header on. The payload is at most
// 65,527 octets long.
func (p packet) append(b []byte) []byte {
	length := udpHeader + len(p.payload)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(b, protocolUDP, hopLimit)
	src, dst := p.src.Addr().As16(), p.dst.Addr().As16()
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	at := len(b)
	b = binary.BigEndian.AppendUint16(b, p.src.Port())
	b = binary.BigEndian.AppendUint16(b, p.dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(b, 0, 0)
	b = append(b, p.payload...)
	sum := checksum(p.src.Addr(), p.dst.Addr(), b[at:])
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[at+6:], sum)
	return b
}

// checksum returns the UDP checksum over the pseudo-header and the datagram
// (RFC 8200 section 8.1); over a datagram that carries its own it is zero.
func checksum(src, dst netip.Addr, udp []byte) uint16 {
	sum := uint32(len(udp)) + protocolUDP
	add := func(b []byte) {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	s, d := src.As16(), dst.As16()
	add(s[:])
	add(d[:])
	add(udp)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
