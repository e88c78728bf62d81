package dhcpd

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

const (
	// maxInquiries is how many leasequeries may wait at a socket.
	maxInquiries = 64
	// maxInquiriesOf is how many of them may be of one source, the one that is being
	// answered included: what one router asks keeps the others waiting no longer than
	// that takes.
	maxInquiriesOf = 2
)

// inquiry is a LEASEQUERY that came in a datagram of its own.
type inquiry struct {
	query  []byte
	source netip.AddrPort
	reply  reply // what there is of it
}

// inquiries are leasequeries that wait for a goroutine of their own: they ask the
// store.
type inquiries struct {
	queue chan inquiry

	mu sync.Mutex
	of map[netip.Addr]int // by source
}

func newInquiries() *inquiries {
	return &inquiries{queue: make(chan inquiry, maxInquiries), of: map[netip.Addr]int{}}
}

// add has the packet wait its turn, if there is room.
func (i *inquiries) add(p *packet) bool {
	source := p.source()
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.queue) == maxInquiries || i.of[source.Addr()] == maxInquiriesOf {
		return false
	}
	i.of[source.Addr()]++
	i.queue <- inquiry{slices.Clone(p.payload), source, reply{to: *p.from, from: replyFrom(p.to)}}
	return true
}

// done makes room for the next of the source.
func (i *inquiries) done(source netip.Addr) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.of[source]--; i.of[source] == 0 {
		delete(i.of, source)
	}
}

// inquire answers leasequeries until the context ends.
func (s *Server) inquire(ctx context.Context, fd int, inquiries *inquiries) {
	out := sender{fd: fd}
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-inquiries.queue:
			l.reply.payload = s.answerLeasequery(ctx, l.query, l.source)
			inquiries.done(l.source.Addr())
			if l.reply.payload == nil {
				continue
			}
			if err := out.one(&l.reply); err != nil {
				s.notSent(s.leasequery.tally, &l.reply, err)
			}
		}
	}
}
