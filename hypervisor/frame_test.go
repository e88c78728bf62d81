package hypervisor_test

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
)

// packet is an IPv6 packet in an Ethernet frame, as a test spells it.
type packet struct {
	srcMAC, dstMAC []byte
	src, dst       string
	hops           byte   // 64 if 0
	flow           uint32 // flow label
	next           byte   // next header; that of the payload
	ext            []byte // extension headers, before the payload
	extNext        byte   // next header of the fixed header when there are any
	payload        []byte
}

const (
	hopByHop = 0
	tcp      = 6
	udp      = 17
	routing  = 43
	fragment = 44
	icmp6    = 58
	destOpts = 60
)

func (p packet) frame() []byte {
	src, dst := netip.MustParseAddr(p.src).As16(), netip.MustParseAddr(p.dst).As16()
	if p.dstMAC == nil {
		p.dstMAC = multicastMAC(dst)
	}
	if p.hops == 0 {
		p.hops = 64
	}
	payload := append([]byte(nil), p.payload...)
	checksum(payload, p.next, src, dst)
	first := p.next
	if len(p.ext) > 0 {
		first = p.extNext
	}
	f := append(append(append([]byte(nil), p.dstMAC...), p.srcMAC...), 0x86, 0xdd)
	f = binary.BigEndian.AppendUint32(f, 6<<28|p.flow)
	f = binary.BigEndian.AppendUint16(f, uint16(len(p.ext)+len(payload)))
	f = append(f, first, p.hops)
	f = append(append(f, src[:]...), dst[:]...)
	return append(append(f, p.ext...), payload...)
}

func multicastMAC(dst [16]byte) []byte {
	if dst[0] != 0xff {
		return []byte{2, 0, 0, 0, 0, 0xfe}
	}
	return []byte{0x33, 0x33, dst[12], dst[13], dst[14], dst[15]}
}

// checksum fills in the checksum of TCP, UDP or ICMPv6 (RFC 8200 section 8.1).
func checksum(payload []byte, next byte, src, dst [16]byte) {
	at := map[byte]int{tcp: 16, udp: 6, icmp6: 2}[next]
	if at == 0 || len(payload) < at+2 {
		return
	}
	payload[at], payload[at+1] = 0, 0
	sum := uint32(next) + uint32(len(payload))
	for _, b := range [][]byte{src[:], dst[:], payload} {
		for i, c := range b {
			if i%2 == 0 {
				sum += uint32(c) << 8
			} else {
				sum += uint32(c)
			}
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(payload[at:], ^uint16(sum))
}

func udpTo(sport, dport uint16, data ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	return append(append(b, 0, 0), data...)
}

const (
	syn    = 0x02
	synAck = 0x12
	ack    = 0x10
)

func tcpTo(sport, dport uint16, flags byte, seq, acked uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, acked)
	return append(b, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
}

// icmp is an ICMPv6 message: type, code, checksum and the hex digits of the
// rest.
func icmp(typ, code byte, rest string) []byte {
	return append([]byte{typ, code, 0, 0}, octets(rest)...)
}

// octets reads hex digits, with spaces where they help the eye.
func octets(digits string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

func addressHex(a string) string { return hex.EncodeToString(net.ParseIP(a).To16()) }

// ns and na are a Neighbor Solicitation and Advertisement with the link-layer
// address option, if any (RFC 4861 sections 4.3 and 4.4).
func ns(target string, mac []byte) []byte {
	rest := "00000000" + addressHex(target)
	if mac != nil {
		rest += "0101" + hex.EncodeToString(mac)
	}
	return icmp(135, 0, rest)
}

func na(target string, mac []byte) []byte {
	rest := "60000000" + addressHex(target)
	if mac != nil {
		rest += "0201" + hex.EncodeToString(mac)
	}
	return icmp(136, 0, rest)
}

var identifications uint32 = 0x5ac00000

// fragments cuts the packet's payload in two at the offset, a multiple of 8
// octets (RFC 8200 section 4.5). Each call has an identification of its own, so
// that a tail whose head was dropped waits for no other's.
func (p packet) fragments(at int) [2][]byte {
	src, dst := netip.MustParseAddr(p.src).As16(), netip.MustParseAddr(p.dst).As16()
	whole := append(append([]byte(nil), p.ext...), p.payload...)
	checksum(whole[len(p.ext):], p.next, src, dst)
	inner := p.next
	if len(p.ext) > 0 {
		inner = p.extNext
	}
	identifications++
	piece := func(offset int, data []byte, more bool) []byte {
		head := []byte{inner, 0, byte(offset >> 8), byte(offset & 0xf8)}
		head = binary.BigEndian.AppendUint32(head, identifications)
		if more {
			head[3] |= 1
		}
		q := p
		q.ext, q.extNext = append(head, data...), fragment
		q.payload, q.next = nil, 59
		return q.frame()
	}
	return [2][]byte{piece(0, whole[:at], true), piece(at, whole[at:], false)}
}
