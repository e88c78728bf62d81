package hypervisor_test

import (
	"encoding/binary"
	"net/netip"
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
}

// between is the two ends of an exchange as one of them writes it. Ports are 0
// where the protocol has none; for echo both are the identifier.
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
	b := between{protocol: p.protocol, src: p.src, dst: p.dst}
	opens, answers := true, true
	switch p.protocol {
	case noNext:
		return invalid, nil
	case tcp:
		if len(p.upper) < 20 || len(p.upper) < int(p.upper[12]>>4)*4 || p.upper[12]>>4 < 5 || !p.checksumHolds() {
			return invalid, nil
		}
		b.sport, b.dport = p.sport(), p.dport()
		// A SYN begins; a bare ACK goes on with what began before this host
		// listened.
		const fin, rst = 0x01, 0x04
		flags := p.upper[13] & (fin | syn | rst | ack)
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
		switch kind := p.upper[0]; {
		case kind < 128:
			return w.related(p)
		case kind == 128 || kind == 129: // RFC 4443 section 4
			b.sport = port(p.upper[4:])
			b.dport = b.sport
			opens, answers = kind == 128, kind == 129
		case kind == 137:
			return untracked, nil // of whatever it is, it is dropped
		default:
			return untracked, nil
		}
	}
	for _, c := range w.connections {
		switch {
		case b == c.reversed() && answers:
			c.answered = true
			return established, c
		case b == c.between && opens && c.answered, b == c.between && p.protocol == tcp && c.answered:
			return established, c
		case b == c.between && opens:
			return isNew, c
		}
	}
	if !opens {
		return invalid, nil
	}
	return isNew, &connection{between: b}
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
