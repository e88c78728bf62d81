package hypervisor_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// state is what a packet is to connection tracking.
type state int

const (
	untracked   state = iota // it opens no connection and belongs to none
	isNew                    // it opens one, or goes on with one that nobody answered yet
	established              // of a connection that was answered, or an error about one
	invalid
)

// connection is who began to talk to whom.
type connection struct {
	between
	answered bool
	syn      bool // it began with a SYN
}

// between is the two ends of an exchange as one of them writes it. Ports are 0
// where the protocol has none; for ICMPv6 both are the identifier, and the
// protocol holds kind and code.
type between struct {
	protocol     int
	src, dst     netip.Addr
	sport, dport uint16
}

func (b between) reversed() between {
	return between{b.protocol, b.dst, b.src, b.dport, b.sport}
}

// track finds the connection of a whole packet, or begins one. It is added to
// the list only once a packet of it came out somewhere.
func (w *twin) track(p reading) (state, *connection) {
	if p.ethertype != ethIPv6 || p.dst.IsMulticast() {
		return untracked, nil
	}
	if p.offset > 0 || p.innerUpper == nil {
		return invalid, nil
	}
	p.protocol, p.upper = p.inner, p.innerUpper
	b := between{protocol: p.protocol, src: p.src, dst: p.dst}
	opens, answers := true, true
	var flags byte
	switch p.protocol {
	case noNext, unknown:
		return invalid, nil
	case tcp:
		if len(p.upper) < 20 || len(p.upper) < int(p.upper[12]>>4)*4 || p.upper[12]>>4 < 5 || !p.checksumHolds() {
			return invalid, nil
		}
		b.sport, b.dport = p.sport(), p.dport()
		// A SYN begins; a bare ACK goes on with what began before this host
		// listened.
		const fin, rst = 0x01, 0x04
		flags = p.upper[13] & (fin | syn | rst | ack)
		opens = flags == syn || flags == ack
	case udp:
		if len(p.upper) < 8 || int(port(p.upper[4:])) > len(p.upper) || port(p.upper[4:]) < 8 || !p.checksumHolds() {
			return invalid, nil
		}
		b.sport, b.dport = p.sport(), p.dport()
	case icmp6:
		if len(p.upper) < 8 || !p.checksumHolds() {
			return invalid, nil
		}
		kind, code := p.upper[0], int(p.upper[1])
		switch kind {
		case 1, 2, 3, 4:
			return w.related(p)
		case 128, 129: // RFC 4443 section 4: each with its identifier
			b.protocol, opens = icmp6|code<<8, kind == 128
		case 139, 140: // RFC 4620 section 4
			b.protocol, opens = icmp6|code<<8|1<<16, kind == 139
		case 130, 131, 132, 133, 134, 135, 136, 143: // MLD and ND
			return untracked, nil
		default:
			return invalid, nil
		}
		answers = !opens
		b.sport = port(p.upper[4:])
		b.dport = b.sport
	}
	for _, c := range w.connections {
		switch {
		case b == c.reversed() && answers:
			c.answered = true
			return established, c
		case b == c.between && opens && c.answered, b == c.between && p.protocol == tcp && c.answered:
			return established, c
		case b == c.between && c.syn && flags == ack:
			return invalid, nil // the SYN was not answered
		case b == c.between && opens:
			return isNew, c
		}
	}
	if !opens {
		return invalid, nil
	}
	return isNew, &connection{between: b, syn: flags == syn}
}

// checksumHolds reports whether the checksum is right; UDP may leave it out.
func (p reading) checksumHolds() bool {
	at := map[int]int{tcp: 16, udp: 6, icmp6: 2}[p.protocol]
	if p.protocol == udp && port(p.upper[6:]) == 0 {
		return true
	}
	again := slices.Clone(p.upper)
	checksum(again, byte(p.protocol), p.src.As16(), p.dst.As16())
	a, b := port(again[at:]), port(p.upper[at:])
	return a == b || a == 0xffff && b == 0 || a == 0 && b == 0xffff
}

// related judges an ICMPv6 error by the packet that it quotes (RFC 4443 section
// 3): it belongs to that packet's connection if it goes to who sent it.
func (w *twin) related(p reading) (state, *connection) {
	quoted := p.upper[8:]
	if len(quoted) < 48 {
		return invalid, nil
	}
	// The twin's own packets are quoted without extension headers.
	b := between{protocol: int(quoted[6]), src: netip.AddrFrom16([16]byte(quoted[8:24])), dst: netip.AddrFrom16([16]byte(quoted[24:40]))}
	switch b.protocol {
	case tcp, udp:
		b.sport, b.dport = binary.BigEndian.Uint16(quoted[40:]), binary.BigEndian.Uint16(quoted[42:])
	case icmp6:
		b.protocol |= int(quoted[41]) << 8
		b.sport = binary.BigEndian.Uint16(quoted[44:])
		b.dport = b.sport
	}
	for _, c := range w.connections {
		if b == c.between || b == c.reversed() {
			if p.dst != b.src {
				return invalid, nil
			}
			return established, c
		}
	}
	return invalid, nil
}
