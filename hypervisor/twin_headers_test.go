package hypervisor_test

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// header is an extension header without the octet that says what follows it.
type header struct {
	kind byte
	rest string
}

var (
	routerAlert   = header{hopByHop, "00 05020000 0100"}
	jumbo         = header{hopByHop, "00 c2040001 0000"}
	padding       = header{destOpts, "00 0104 00000000"}
	longPadding   = header{destOpts, "03 011c" + fmt.Sprintf("%056x", 0)}
	segments      = header{routing, "02 04 00 00000000" + addressHex(outside)} // RFC 8754
	sourceRoute   = header{routing, "02 00 01 00000000" + addressHex(outside)} // RFC 5095
	authenticated = header{authentication, "04 0000 00001000 00000001 000000000000000000000000"}
	atomic        = header{fragment, "00 0000 0000a70c"} // RFC 6946
	middle        = header{fragment, "00 0008 0000a70d"}
)

// behind puts extension headers before the packet's payload.
func (p packet) behind(headers ...header) packet {
	next := p.next
	p.ext = nil
	for _, h := range slices.Backward(headers) {
		p.ext = slices.Concat([]byte{next}, octets(h.rest), p.ext)
		next = h.kind
	}
	p.extNext = next
	return p
}

// cut makes fragments of all that follows the fixed header, each as long as
// told, a multiple of 8 octets; the last is the rest.
func (p packet) cut(lengths ...int) [][]byte {
	trains++
	data, first := p.data()
	var out [][]byte
	at := 0
	for _, n := range lengths {
		out = append(out, p.piece(first, at, true, data[at:at+n]))
		at += n
	}
	return append(out, p.piece(first, at, false, data[at:]))
}

// data returns what follows the fixed header, and what it begins with.
func (p packet) data() ([]byte, byte) {
	if len(p.ext) > 0 {
		return p.frame()[54:], p.extNext
	}
	return p.frame()[54:], p.next
}

// piece is one fragment of the train that was begun last.
func (p packet) piece(first byte, offset int, more bool, data []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{first, 0, byte(offset >> 8), byte(offset)}, trains)
	if more {
		head[3] |= 1
	}
	p.ext, p.extNext = append(head, data...), fragment
	p.payload, p.next = nil, noNext
	return p.frame()
}

// in puts the frame's packet behind other octets than its ethertype.
func in(header string, frame []byte) []byte {
	return slices.Concat(frame[:12], octets(header), frame[14:])
}

// extended puts one to three extension headers before the payload, behind the
// Router Alert that MLD has.
func (m *maker) extended(p packet) (string, packet) {
	trains++
	id := fmt.Sprintf("%08x", trains)
	all := []header{
		routerAlert, jumbo, {hopByHop, "00 0104 00000000"},
		padding, padding, {destOpts, "01 010c 000000000000000000000000"}, {destOpts, "00 0000 00000000"},
		segments, sourceRoute, {routing, "00 00 00 00000000"}, {routing, "00 04 00 00000000"}, {routing, "02 02 01 00000000" + addressHex(outside)},
		{fragment, "00 0000" + id}, {fragment, "00 0001" + id}, {fragment, "00 0009" + id},
		authenticated, authenticated,
	}
	var headers []header
	if len(p.ext) > 0 {
		headers = append(headers, routerAlert)
	}
	name := ""
	for range 1 + m.chance(3) {
		h := pick(m.chance, all...)
		if h.kind == hopByHop && len(headers) > 0 {
			continue
		}
		headers = append(headers, h)
		name += fmt.Sprintf(" behind header %d %.5s", h.kind, h.rest)
	}
	return name, p.behind(headers...)
}

// fragmented cuts a packet into fragments, in order or not, sometimes with one
// too many or too few.
func (m *maker) fragmented(p packet) (string, [][]byte) {
	if m.oneIn(2) { // or else most have one full fragment
		p.payload = append(slices.Clone(p.payload), make([]byte, 8*m.chance(40))...)
		if p.next == udp && len(p.payload) >= 8 {
			binary.BigEndian.PutUint16(p.payload[4:], uint16(len(p.payload)))
		}
	}
	whole := p.frame()[54:]
	first := p.next
	var apart []byte // headers before the Fragment header
	if len(p.ext) > 0 {
		first = p.extNext
		if first == hopByHop {
			octets := (int(p.ext[1]) + 1) * 8
			apart, first, whole = whole[:octets], whole[0], whole[octets:]
		}
	}
	var cuts []int
	for at := 8; at < len(whole); at += 8 {
		if m.oneIn(1 + len(whole)/16) {
			cuts = append(cuts, at)
		}
	}
	cuts = append(cuts, len(whole))
	q := p
	q.payload, q.next = nil, noNext
	trains++
	part := func(from, to int, more bool, next byte) []byte {
		head := binary.BigEndian.AppendUint32([]byte{next, 0, byte(from >> 8), byte(from & 0xf8)}, trains)
		if more {
			head[3] |= 1
		}
		q.ext, q.extNext = append(slices.Concat(apart, head), whole[from:to]...), fragment
		if len(apart) > 0 {
			q.ext[0], q.extNext = fragment, hopByHop
		}
		return q.frame()
	}
	var frames [][]byte
	start := 0
	for _, end := range cuts {
		frames = append(frames, part(start, end, end < len(whole), first))
		start = end
	}
	name := fmt.Sprintf(" in %d fragments", len(frames))
	switch m.chance(8) {
	case 0:
		slices.Reverse(frames)
		name += ", the last first"
	case 1:
		i := m.chance(len(frames))
		frames = slices.Insert(frames, i, frames[i])
		name += ", one twice"
	case 2:
		i := m.chance(len(frames))
		frames = slices.Delete(frames, i, i+1)
		name += ", one missing"
	case 3:
		if len(whole) >= 24 {
			frames = slices.Insert(frames, m.chance(len(frames)+1), part(8, 16, true, first))
			name += ", one within others"
		}
	case 4:
		if len(cuts) > 1 && cuts[0] >= 8 && len(whole) >= cuts[0]+8 {
			frames = slices.Insert(frames, m.chance(len(frames)+1), part(cuts[0]-8, min(cuts[0]+8, len(whole)&^7), true, first))
			name += ", one across a cut"
		}
	case 5:
		if len(frames) > 1 {
			frames[len(frames)-1] = part(cuts[len(cuts)-2], len(whole), false, pick(m.chance, byte(tcp), udp, icmp6, destOpts))
			name += ", the last of another protocol"
		}
	}
	return name, frames
}
