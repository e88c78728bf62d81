package dhcpd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
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
	queries [batchSize]query
	found   found
	budget  budget
	tally   *tally
	touched uint64
	// inquiries are leasequeries, which wait for a goroutine of their own.
	inquiries *inquiries
}

// outSize is room for the replies of a batch, in octets: all of them of a usual
// size, or some of the largest.
const outSize = 1 << 20

func (s *Server) newWorker(fd int, at netip.AddrPort, inquiries *inquiries) *worker {
	return &worker{
		server:    s,
		inquiries: inquiries,
		at:        at,
		in:        newReceiver(fd),
		send:      sender{fd: fd},
		packets:   make([]packet, 0, batchSize),
		replies:   make([]reply, 0, batchSize),
		out:       make([]byte, outSize),
		tally:     s.counts.newTally(),
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
		w.answer(w.divert(w.packets))
	}
}

// divert takes the leasequeries of relays out of the packets and has them wait
// their turn.
func (w *worker) divert(packets []packet) []packet {
	record := w.server.index.current.Load()
	if w.server.leasequery.leases == nil || record == nil {
		return packets
	}
	return slices.DeleteFunc(packets, func(p packet) bool {
		if len(p.payload) == 0 || dhcp6.MessageType(p.payload[0]) != dhcp6.Leasequery {
			return false
		}
		why := dhcp6.Answered
		switch {
		case !record.pods.IsRelay(p.source().Addr()):
			why = dhcp6.UntrustedRelay
		case len(p.payload) > maxBulkQuery:
			why = dhcp6.BadOption
		case !w.inquiries.add(&p):
			why = dhcp6.NoisyRelay
		}
		if why != dhcp6.Answered {
			w.tally.silences[why].Add(1)
		}
		return true
	})
}

// query is one packet and what became of it. It is used again for another.
type query struct {
	dhcp6.Query
	why      dhcp6.Reason // why there is no answer, or Answered
	client   dhcp6.Client
	relay    netip.Addr // that the client's message came to
	key      key
	hash     uint64 // of the key
	bucket   bucket // in which the NIC is
	sighting uint64 // id of what was seen of the client by the relay
}

// moment is what a batch is answered from.
type moment struct {
	at     time.Duration
	record *snapshot
	self   dhcp6.Server
	silent dhcp6.Reason // why nobody is answered, or Answered
	queued bool         // whether more packets wait
	wall   time.Time    // zero unless what is seen of clients is told
}

// seen reports whether what is seen of clients is told.
func (m *moment) seen() bool { return !m.wall.IsZero() }

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
	w.budget.clients.begin(m.at)
	for len(packets) > 0 {
		n := min(len(packets), batchSize)
		w.batch(&m, packets[:n])
		packets = packets[n:]
	}
}

func (w *worker) batch(m *moment, packets []packet) {
	for i := range packets {
		w.locate(m, &packets[i], &w.queries[i])
	}
	w.touch(m, w.queries[:len(packets)])
	// On a port of its own a server is asked only by who was told of it: what
	// RFC 9915 section 7.2 says of ports does not bind such a relay, and the port
	// that it sends from is the only one known of it.
	standard := w.at.Port() == dhcp6.ServerPort
	used := 0
	for i := range packets {
		p, q := &packets[i], &w.queries[i]
		if used+dhcp6.MaxPayload > len(w.out) {
			w.flush()
			used = 0
		}
		var payload []byte
		if q.why == dhcp6.Answered {
			payload, q.why = w.respond(w.out[used:used], m, q)
		}
		if q.why != dhcp6.Answered {
			w.tally.silences[q.why].Add(1)
			w.server.logSilence(q, p.source())
			continue
		}
		used += len(payload)
		w.tally.replies[q.Type].Add(1)
		if q.client.Mismatch {
			w.tally.mismatches.Add(1)
		}
		if q.Effect == sixacre.Declines {
			w.tally.declines.Add(1)
		}
		r := reply{payload: payload, to: *p.from, from: replyFrom(p.to)}
		if standard {
			setPort(&r.to, q.ReplyPort(port(p.from)))
		}
		w.replies = append(w.replies, r)
	}
	w.flush()
}

// locate reads a packet and finds out whom it speaks for.
func (w *worker) locate(m *moment, p *packet, q *query) {
	q.client, q.bucket = dhcp6.Client{}, nil
	if q.why = q.Parse(p.payload); q.why != dhcp6.Answered {
		return
	}
	if q.why = m.silent; q.why != dhcp6.Answered {
		return
	}
	source := netip.AddrFrom16(p.from.Addr)
	if q.client, q.why = m.record.pods.Locate(&q.Query, source); q.why != dhcp6.Answered {
		return
	}
	q.key = key{m.record.numbers[q.client.N], q.client.MAC}
	// The client first: what it asks too much must not use up the share of those
	// behind the same relay.
	switch {
	case !w.budget.clients.take(q.key):
		q.why = dhcp6.NoisyClient
		return
	case !w.budget.relays.take(m.at, p.from.Addr, m.queued):
		q.why = dhcp6.NoisyRelay
		return
	}
	q.hash = m.record.nics.hash(q.key)
	if m.seen() {
		q.relay = source
		if n := len(q.Relays); n > 1 {
			q.relay = q.Relays[n-2].Peer
		}
		q.sighting = w.server.index.seen.id(q.key, q.relay)
	}
}

// touch reads a little of all that the batch is about to look up. With a million
// of NICs each lookup waits for memory some times over; here they all wait at the
// same time.
func (w *worker) touch(m *moment, queries []query) {
	for i := range queries {
		if q := &queries[i]; q.why == dhcp6.Answered {
			q.bucket = *m.record.nics.bucketOf(q.hash).Load()
		}
	}
	slots := *w.server.index.seen.slots.Load()
	for i := range queries {
		q := &queries[i]
		if len(q.bucket) > 0 {
			w.touched += q.bucket[q.bucket.start(q.hash)].key
		}
		if m.seen() && q.why == dhcp6.Answered {
			w.touched += slots[place(q.sighting, len(slots))].id.Load()
		}
	}
}

// respond appends the answer to a query to dst.
func (w *worker) respond(dst []byte, m *moment, q *query) ([]byte, dhcp6.Reason) {
	nic, known := q.bucket.get(q.hash, q.key, &q.client.Pod.Pod, &w.found)
	answer, why := dhcp6.Respond(dst, &q.Query, m.self, q.client.Pod, nic)
	if why == dhcp6.Answered && known && m.seen() {
		w.server.index.seen.note(q, nic.Address, m.wall)
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

func (w *worker) failed(r *reply, err error) { w.server.notSent(w.tally, r, err) }
