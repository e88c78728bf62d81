package dhcpd

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// worker answers what arrives at one of the kernel's sockets, a batch at a time,
// with memory that it uses again for each: it allocates nothing for a packet.
type worker struct {
	server  *Server
	at      netip.AddrPort
	in      *receiver
	send    sender
	packets []packet
	replies []reply
	out     []byte
	query   query
	budget  budget
	tally   *tally
}

// outSize is room for the replies of a batch, in octets: all of them of a usual
// size, or some of the largest.
const outSize = 1 << 20

func (s *Server) newWorker(fd int, at netip.AddrPort) *worker {
	return &worker{
		server:  s,
		at:      at,
		in:      newReceiver(fd),
		send:    sender{fd: fd},
		packets: make([]packet, 0, batchSize),
		replies: make([]reply, 0, batchSize),
		out:     make([]byte, outSize),
		tally:   s.counts.newTally(),
	}
}

// serve answers until the context ends.
func (w *worker) serve(ctx context.Context) error {
	for {
		n, err := w.in.receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("dhcp6: reading at %s: %w", w.at, err)
		}
		w.packets = w.packets[:0]
		for i := range n {
			w.packets = w.in.appendPackets(w.packets, i)
		}
		w.answer(w.packets)
	}
}

// query is one packet and what became of it. It is used again for the next.
type query struct {
	dhcp6.Query
	client dhcp6.Client
	found  found
}

// moment is what a batch is answered from.
type moment struct {
	at     time.Duration
	record *snapshot
	self   dhcp6.Server
	silent dhcp6.Reason // why nobody is answered, or Answered
	queued bool         // whether more packets wait
	wall   time.Time    // only if what is seen of clients is told
}

func (s *Server) moment() moment {
	m := moment{at: s.clock(), record: s.index.current.Load()}
	age, ever := s.unconfirmed(m.at)
	switch {
	case m.record == nil || m.record.serverID == nil || !ever:
		m.silent = dhcp6.NotReady
	case age > sixacre.MaxStale:
		m.silent = dhcp6.Stale
	default:
		m.self = dhcp6.Server{DUID: m.record.serverID, Behind: age > fresh}
	}
	if s.index.seen.on.Load() {
		m.wall = time.Now()
	}
	return m
}

// answer answers the packets. Where one gets no answer it counts the reason and,
// now and then, logs it.
func (w *worker) answer(packets []packet) {
	m := w.server.moment()
	m.queued = len(packets) >= batchSize
	// On a port of its own a server is asked only by who was told of it: what
	// RFC 9915 section 7.2 says of ports does not bind such a relay, and the port
	// that it sends from is the only one known of it.
	standard := w.at.Port() == dhcp6.ServerPort
	used := 0
	for i := range packets {
		p := &packets[i]
		if len(w.replies) == batchSize || used+dhcp6.MaxPayload > len(w.out) {
			w.flush()
			used = 0
		}
		payload, why := w.respond(w.out[used:used], &m, p)
		if why != dhcp6.Answered {
			w.tally.silences[why].Add(1)
			w.server.logSilence(why, &w.query, p.source())
			continue
		}
		used += len(payload)
		w.tally.replies[w.query.Type].Add(1)
		if w.query.client.Mismatch {
			w.tally.mismatches.Add(1)
		}
		if w.query.Effect == sixacre.Declines {
			w.tally.declines.Add(1)
		}
		r := reply{payload: payload, to: *p.from, from: replyFrom(p.to)}
		if standard {
			setPort(&r.to, w.query.ReplyPort(port(p.from)))
		}
		w.replies = append(w.replies, r)
	}
	w.flush()
}

// respond appends the answer to a packet to dst.
func (w *worker) respond(dst []byte, m *moment, p *packet) ([]byte, dhcp6.Reason) {
	q := &w.query
	q.client = dhcp6.Client{}
	if why := q.Parse(p.payload); why != dhcp6.Answered {
		return nil, why
	}
	if m.silent != dhcp6.Answered {
		return nil, m.silent
	}
	var why dhcp6.Reason
	if q.client, why = m.record.pods.Locate(&q.Query, netip.AddrFrom16(p.from.Addr)); why != dhcp6.Answered {
		return nil, why
	}
	k := key{m.record.numbers[q.client.N], q.client.MAC}
	if !w.budget.relays.take(m.at, p.from.Addr, m.queued) {
		return nil, dhcp6.NoisyRelay
	}
	if !w.budget.clients.take(m.at, k) {
		return nil, dhcp6.NoisyClient
	}
	nic, known := m.record.nics.get(k, &q.client.Pod.Pod, &q.found)
	answer, why := dhcp6.Respond(dst, &q.Query, m.self, q.client.Pod, nic)
	if why == dhcp6.Answered && known && !m.wall.IsZero() {
		relay := p.from.Addr
		if n := len(q.Relays); n > 1 {
			relay = q.Relays[n-2].Peer.As16()
		}
		w.server.index.seen.note(q, k, netip.AddrFrom16(relay), m.wall)
	}
	return answer, why
}

// flush sends the replies that there are.
func (w *worker) flush() {
	if len(w.replies) == 0 {
		return
	}
	w.send.send(w.replies, w.failed)
	w.replies = w.replies[:0]
}

func (w *worker) failed(r *reply, err error) {
	w.tally.sendErrors.Add(1)
	if suppressed, ok := w.server.counts.errorLogs.take(); ok {
		to := netip.AddrPortFrom(netip.AddrFrom16(r.to.Addr), port(&r.to))
		w.server.log.Warn("dhcp6: reply not sent", "to", to, "error", err, "suppressed", suppressed)
	}
}
