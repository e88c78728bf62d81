package hypervisor_test

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/sixacre/sixacre"
)

const (
	ethIPv4 = 0x0800
	ethARP  = 0x0806
	ethIPv6 = 0x86dd

	authentication = 51
	noNext         = 59
)

// unknown is the protocol of a fragment that does not say.
const unknown = -1

// reading is a frame as a receiver reads it.
type reading struct {
	frame          []byte // without octets behind the packet
	dstMAC, srcMAC sixacre.MAC
	ethertype      int
	malformed      string // why no receiver takes it; "" if one does

	src, dst     netip.Addr
	hops         byte
	extended     bool // there are extension headers
	overrun      bool // the last one says that it is longer than the packet
	routed       bool // there is a routing header
	sourceRouted bool // the first one is of type 0 or comes right before another

	// What follows the extension headers. An Authentication Header counts as
	// what follows: only who shares a key with the sender takes what is behind
	// (RFC 4302). Connections are known by what is behind.
	protocol, inner   int
	upper, innerUpper []byte // from the upper-layer header on; nil in the middle of a packet

	nested         bool // it is a fragment in the middle of another packet, itself in a fragment
	fragmented     bool
	fragmentHeader int // where in the frame the first one is
	before         int // where the number of that is
	offset         int
	more           bool
	id             uint32
}

// read reads a frame (RFC 8200 sections 3 and 4).
func read(f []byte) reading {
	p := reading{frame: f, dstMAC: sixacre.MAC(f[:6]), srcMAC: sixacre.MAC(f[6:12]), ethertype: int(binary.BigEndian.Uint16(f[12:]))}
	if p.ethertype != ethIPv6 {
		return p
	}
	if len(f) < 54 || f[14]>>4 != 6 {
		p.malformed = "not IPv6"
		return p
	}
	p.src, p.dst, p.hops = netip.AddrFrom16([16]byte(f[22:38])), netip.AddrFrom16([16]byte(f[38:54])), f[21]
	end := 54 + int(binary.BigEndian.Uint16(f[18:]))
	if end > len(f) {
		p.malformed = "shorter than it says"
		return p
	}
	p.frame = f[:end]
	if !p.walk() {
		p.malformed = "its header chain is cut off"
	} else if f[20] == hopByHop && hasJumbo(f[54:end]) {
		p.malformed = "jumbo payload that is not there (RFC 2675)"
	}
	return p
}

var extensions = []byte{hopByHop, routing, fragment, destOpts, authentication}

// walk goes along the extension headers to what follows them, and reports
// whether they are all there. The last may say that it is longer than the packet:
// that is for its receiver to see.
func (p *reading) walk() bool {
	f := p.frame
	at, next, nextAt := 54, f[20], 20
	opaque := -1
	middle, cut := false, false
	for slices.Contains(extensions, next) && !middle {
		p.extended = true
		if cut = len(f) < at+2 || next == fragment && (len(f) < at+4 || !p.fragmented && len(f) < at+8); cut {
			break
		}
		octets := (int(f[at+1]) + 1) * 8
		switch next {
		case authentication:
			octets = (int(f[at+1]) + 2) * 4 // RFC 4302 section 2.2
			if opaque < 0 {
				opaque = at
			}
		case routing:
			p.sourceRouted = p.sourceRouted || !p.routed && (f[at] == routing || len(f) > at+2 && f[at+2] == 0)
			p.routed = true
		case fragment:
			octets = 8
			offset := int(port(f[at+2:]) &^ 7)
			middle = offset > 0
			p.nested = p.fragmented && middle
			if !p.fragmented {
				p.fragmented, p.fragmentHeader, p.before = true, at, nextAt
				p.offset, p.more = offset, f[at+3]&1 != 0
				p.id = binary.BigEndian.Uint32(f[at+4:])
			}
		}
		next, nextAt, at = f[at], at, at+octets
	}
	p.inner, p.overrun = int(next), at > len(f)
	switch {
	case cut, middle && slices.Contains(extensions, next):
		p.inner = unknown
	case !middle:
		p.innerUpper = f[min(at, len(f)):]
	}
	p.protocol, p.upper = p.inner, p.innerUpper
	if opaque >= 0 {
		p.protocol, p.upper = authentication, f[opaque:]
	}
	return !cut || opaque >= 0
}

// hasJumbo reports whether a Hop-by-Hop Options header holds a Jumbo Payload
// option, or options that cannot be told apart.
func hasJumbo(h []byte) bool {
	end := (int(h[1]) + 1) * 8
	if end > len(h) {
		return true
	}
	for o := h[2:end]; len(o) > 0; {
		switch {
		case o[0] == 0:
			o = o[1:]
		case len(o) < 2 || len(o) < 2+int(o[1]) || o[0] == 0xc2:
			return true
		default:
			o = o[2+int(o[1]):]
		}
	}
	return false
}

func (p reading) sport() uint16      { return port(p.upper) }
func (p reading) dport() uint16      { return port(p.upper[2:]) }
func (p reading) target() netip.Addr { return netip.AddrFrom16([16]byte(p.upper[8:24])) }
func (p reading) quoted() netip.Addr { return netip.AddrFrom16([16]byte(p.upper[16:32])) }
func (p reading) icmp(kind byte) bool {
	return p.protocol == icmp6 && len(p.upper) > 0 && p.upper[0] == kind
}
func (p reading) errorOrEcho() bool {
	return p.icmp(1) || p.icmp(2) || p.icmp(3) || p.icmp(4) || p.icmp(128) || p.icmp(129)
}
func (p reading) udp(sport, dport uint16) bool {
	return p.protocol == udp && len(p.upper) >= 4 && p.sport() == sport && p.dport() == dport
}

// reassembler holds the fragments of packets that are not whole (RFC 8200
// section 4.5).
type reassembler []*train

type train struct {
	src, dst netip.Addr
	id       uint32
	pieces   []reading // in the order they came
	runs     []run
}

// run is octets that came in order, one fragment behind the other.
type run struct{ start, end int }

// add takes a packet and returns it, or the packet whose last fragment it is. Of
// overlapping fragments all are forgotten (RFC 5722); what has come already is
// ignored. As in Linux, an atomic fragment is one like others (not as RFC 6946
// asks).
func (r *reassembler) add(p reading) []byte {
	if !p.fragmented {
		return p.frame
	}
	start, end := p.offset, p.offset+len(p.data())
	i := slices.IndexFunc(*r, func(t *train) bool { return t.src == p.src && t.dst == p.dst && t.id == p.id })
	if least, known := map[int]int{tcp: 20, udp: 8, icmp6: 8, noNext: 0, unknown: 0}[p.inner]; p.offset == 0 {
		if !known {
			least = 1
		}
		if len(p.innerUpper) < least {
			return p.frame // without all headers (RFC 7112) Linux waits for no more (RFC 8200 section 4.5)
		}
	}
	if end == start {
		return nil
	}
	if i < 0 {
		*r = append(*r, &train{src: p.src, dst: p.dst, id: p.id})
		i = len(*r) - 1
	}
	t := (*r)[i]
	forget := func() { *r = slices.Delete(*r, i, i+1) }
	if p.more && end%8 != 0 {
		forget()
		return p.frame // Linux leaves it to the receiver to say so (RFC 8200 section 4.5)
	}
	last := -1
	if n := len(t.runs); n > 0 {
		last = t.runs[n-1].end
	}
	for _, q := range t.pieces {
		if !q.more && (end > q.offset+len(q.data()) || !p.more) || !p.more && end < q.offset+len(q.data()) {
			return nil // two ends, or octets behind the end
		}
	}
	switch {
	case start == last:
		t.runs[len(t.runs)-1].end = end
	case start > last:
		t.runs = append(t.runs, run{start, end})
	default:
		for _, q := range t.runs {
			if q.start <= start && end <= q.end {
				return nil // again
			}
			if start < q.end && q.start < end {
				forget()
				return nil
			}
		}
		t.runs = append(t.runs, run{start, end})
		slices.SortFunc(t.runs, func(a, b run) int { return a.start - b.start })
	}
	t.pieces = append(t.pieces, p)
	whole := t.whole()
	if whole != nil {
		forget()
	}
	return whole
}

func (p reading) data() []byte { return p.frame[p.fragmentHeader+8:] }

// whole puts the pieces together, if all are there: the headers of the first one
// before the Fragment header, and what follows that in each.
func (t *train) whole() []byte {
	pieces := slices.Clone(t.pieces)
	slices.SortFunc(pieces, func(a, b reading) int { return a.offset - b.offset })
	first := pieces[0]
	f := slices.Clone(first.frame[:first.fragmentHeader])
	at := 0
	for _, p := range pieces {
		if p.offset != at {
			return nil
		}
		at += len(p.data())
		f = append(f, p.data()...)
	}
	if pieces[len(pieces)-1].more {
		return nil
	}
	f[first.before] = first.frame[first.fragmentHeader]
	binary.BigEndian.PutUint16(f[18:], uint16(len(f)-54))
	return f
}
