package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batch      = 512     // messages that the generator makes before it sends them
	maxTrain   = 64      // messages in one send with UDP_SEGMENT
	ringSize   = 1 << 20 // questions whose answers are remembered; a power of two below 2^24
	bufferSize = 2048
	queueLimit = 256 << 20 // octets that a socket may hold, the kernel's own overhead included
)

// load is what the generator sends.
type load struct {
	question
	relays  int // how many it comes from
	train   int // how many messages come from a relay before one from the next
	unknown int // percentage from clients that nobody knows
	// joined says that a train goes to the kernel as one message (UDP_SEGMENT). That
	// is cheap, but a server that has UDP_GRO set gets it as one too, as if a network
	// card had joined it, which is worth a lot to it.
	joined bool
	// leave says that answers to queued requests are read only when the server is
	// done: it may be on the generator's own processor too.
	leave bool
}

// generator plays the relays. It is one thread and one socket.
type generator struct {
	fd    int
	crowd *crowd

	transaction uint32
	clients     [ringSize]int64 // by transaction: who asked, or nobody
	asked       [ringSize]time.Duration
	share       int // of unknown clients, carried over between messages

	received  []mmsghdr
	buffers   [][]byte
	peers     []unix.RawSockaddrInet6
	latencies []time.Duration
}

const nobody = -1

func newGenerator(known int) (*generator, error) {
	fd, err := udpSocket(netip.IPv6Unspecified())
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueLimit); err != nil {
		return nil, fmt.Errorf("the generator's receive buffer: %w", err)
	}
	g := &generator{fd: fd, crowd: newCrowd(known)}
	g.received, g.buffers, g.peers = receiveBatch(batch, bufferSize)
	return g, nil
}

// receiveBatch makes n messages with a buffer of that size and room for a peer
// each.
func receiveBatch(n, size int) ([]mmsghdr, [][]byte, []unix.RawSockaddrInet6) {
	m, buffers, peers := make([]mmsghdr, n), make([][]byte, n), make([]unix.RawSockaddrInet6, n)
	vectors := make([]unix.Iovec, n)
	for i := range m {
		buffers[i] = make([]byte, size)
		vectors[i].Base = &buffers[i][0]
		vectors[i].SetLen(size)
		m[i].Iov = &vectors[i]
		m[i].SetIovlen(1)
		m[i].Name, m[i].Namelen = (*byte)(unsafe.Pointer(&peers[i])), unix.SizeofSockaddrInet6
	}
	return m, buffers, peers
}

// sender sends one load to one server.
type sender struct {
	*generator
	load
	template *template
	buffer   []byte
	parts    []mmsghdr // of the buffer: messages, or trains of them
	vectors  []unix.Iovec
	part     int      // messages in one
	controls [][]byte // by relay
	to       *unix.RawSockaddrInet6
	turn     int    // of the last client: it says which relay its messages come from, always
	sent     uint32 // messages
}

func (g *generator) sender(l load, to netip.AddrPort) *sender {
	s := &sender{generator: g, load: l, template: l.template(), to: sockaddr(to.Addr(), to.Port())}
	s.buffer = make([]byte, 0, batch*len(s.template.b))
	s.part = 1
	if l.joined {
		s.part = l.train
	}
	s.parts = make([]mmsghdr, (batch+s.part-1)/s.part)
	s.vectors = make([]unix.Iovec, len(s.parts))
	for n := range l.relays {
		control := sourceControl(nil, relayAddr(n))
		if l.joined {
			control = segmentControl(control, len(s.template.b))
		}
		s.controls = append(s.controls, control)
	}
	for i := range s.parts {
		t := &s.parts[i]
		t.Name, t.Namelen = (*byte)(unsafe.Pointer(s.to)), uint32(unsafe.Sizeof(*s.to))
		t.Iov = &s.vectors[i]
		t.SetIovlen(1)
	}
	return s
}

// send asks n questions, at most a batch, and returns how many of them a server
// should answer.
func (s *sender) send(n int, now time.Duration) (known int, err error) {
	s.buffer = s.buffer[:0]
	size, parts := len(s.template.b), 0
	for i := range n {
		client := uint64(0)
		if s.share += s.unknown; s.share >= 100 {
			s.share -= 100
			client = s.crowd.stranger()
		} else {
			client, s.turn = s.crowd.known()
			known++
		}
		s.transaction = (s.transaction + 1) % ringSize
		s.clients[s.transaction], s.asked[s.transaction] = int64(client), now
		if client >= maxClients {
			s.clients[s.transaction] = nobody
		}
		start := len(s.buffer)
		s.buffer = s.template.fill(s.buffer, client, s.transaction)
		if i%s.part > 0 {
			s.vectors[parts-1].SetLen(size * (1 + i%s.part))
			continue
		}
		s.vectors[parts].Base = &s.buffer[start]
		s.vectors[parts].SetLen(size)
		m, control := &s.parts[parts], s.controls[s.turn/s.train%s.relays]
		m.Control = &control[0]
		m.SetControllen(len(control))
		parts++
	}
	s.sent += uint32(n)
	return known, sendAll(s.fd, s.parts[:parts])
}

// receive takes the answers that have come and has one of every so many judged.
// The first that is wrong is returned as an error, of a server that errs only
// counted. Where all are judged, answers to an earlier sender are left out, and
// now, if not nil, tells the time that each took.
func (s *sender) receive(v *server, every int, now func() time.Duration) (n int, err error) {
	for {
		got, err := recvmmsg(s.fd, s.received, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EAGAIN:
			return n, nil
		case err != nil:
			return n, err
		}
		for i := range got {
			if s.peers[i].Addr != s.to.Addr {
				continue // another server's, which is late
			}
			if n++; n%every != 0 {
				continue
			}
			answer := s.buffers[i][:s.received[i].n]
			transaction, err := s.template.transactionOf(answer)
			if err != nil {
				return n, err
			}
			if every == 1 && (s.transaction-transaction)%ringSize >= s.sent {
				n--
				continue
			}
			client := s.clients[transaction%ringSize]
			if client == nobody {
				return n, fmt.Errorf("an unknown client got an answer, or a client two: %x", answer)
			}
			if now != nil {
				s.latencies = append(s.latencies, now()-s.asked[transaction%ringSize])
			}
			if every == 1 {
				s.clients[transaction%ringSize] = nobody
			}
			if err := v.right(s.question, uint64(client), answer); err != nil {
				if !v.errs {
					return n, err
				}
				v.wrong++
			}
		}
		if got < len(s.received) {
			return n, nil
		}
	}
}

// quantile returns the latency that the share q of all stay below.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// latency is what the questions of a paced run took.
type latency struct {
	p50, p99, p999  time.Duration
	sent, lost      int
	generator, busy time.Duration // CPU time of the generator and of the server
}

// paced asks at a rate for a while. The generator never sleeps, so that it is
// never late.
func (s *sender) paced(v *server, rate int, d time.Duration) (latency, error) {
	start := time.Now()
	now := func() time.Duration { return time.Since(start) }
	s.latencies = slices.Grow(s.latencies[:0], int(float64(rate)*d.Seconds())+batch)
	own, busy := ownCPU(), v.cpu()
	var l latency
	known, replies, total := 0, 0, int(float64(rate)*d.Seconds())
	for l.sent < total {
		at := now()
		if due := min(int(at.Seconds()*float64(rate)), total) - l.sent; due > 0 {
			n := min(due, batch)
			k, err := s.send(n, at)
			if err != nil {
				return l, err
			}
			l.sent, known = l.sent+n, known+k
		}
		n, err := s.receive(v, 1, now)
		if err != nil {
			return l, err
		}
		replies += n
	}
	for deadline := now() + patience/2; replies < known && now() < deadline; {
		n, err := s.receive(v, 1, now)
		if err != nil {
			return l, err
		}
		replies += n
	}
	l.lost, l.generator, l.busy = known-replies, ownCPU()-own, v.cpu()-busy
	slices.Sort(s.latencies)
	l.p50, l.p99, l.p999 = quantile(s.latencies, .5), quantile(s.latencies, .99), quantile(s.latencies, .999)
	return l, nil
}
