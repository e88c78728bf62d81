package dhcpd

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// Leases is what leasequery asks the record for, beyond what the index holds.
type Leases interface {
	// HolderOf returns the MAC of the NIC of the pod that has the address, or holds
	// a prefix which contains it, and whether there is one.
	HolderOf(ctx context.Context, pod sixacre.Pod, address netip.Addr) (sixacre.MAC, bool, error)
	// ClientSeen returns what was last seen of the client behind a NIC, and whether
	// anything was.
	ClientSeen(ctx context.Context, pod string, mac sixacre.MAC) (sixacre.Sighting, bool, error)
	// ClientsSeen returns what was last seen of the clients in a pod whose MACs are
	// greater than one, in the order of their MACs, and of no more than limit.
	ClientsSeen(ctx context.Context, pod string, after sixacre.MAC, limit int) ([]sixacre.Sighting, error)
}

const (
	// storePatience bounds one question to the store.
	storePatience = 10 * time.Second
	// datagramPatience bounds the answer to a LEASEQUERY in a datagram, which its
	// requestor repeats after a second and then less and less often (RFC 5007
	// section 4.1.4).
	datagramPatience = 10 * time.Second
	// seenPage is how many sightings are in memory at once for an answer.
	seenPage = 1000
	// maxLinks is how many links an answer names.
	maxLinks = 1024
)

// leasequery answers relays what leases there are.
type leasequery struct {
	*Server
	leases Leases           // nil where no LEASEQUERY is answered
	now    func() time.Time // the wall clock
	tally  *tally
	logs   logBudget
	bulk   bulk

	queries *prometheus.CounterVec
	clients prometheus.Counter
	closed  *prometheus.CounterVec
}

// AnswerLeasequeries makes the server answer LEASEQUERY messages, which it drops
// otherwise, and count them in reg. It is to be called before Serve. now is the
// wall clock.
func (s *Server) AnswerLeasequeries(reg prometheus.Registerer, leases Leases, now func() time.Time) {
	l := &s.leasequery
	l.leases, l.now, l.bulk.limits = leases, now, bulkDefaults
	l.logs.limit = rate.NewLimiter(1, 10)
	l.queries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sixacre_dhcp6_leasequeries_total",
		Help: "Leasequeries answered, by transport, by what was asked for and by the status that was answered.",
	}, []string{"transport", "by", "status"})
	l.clients = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sixacre_dhcp6_leasequery_clients_total",
		Help: "Clients whose leases leasequeries were told.",
	})
	l.closed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sixacre_dhcp6_bulk_closed_total",
		Help: "Bulk leasequery connections that ended, by reason.",
	}, []string{"reason"})
	reg.MustRegister(l.queries, l.clients, l.closed, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sixacre_dhcp6_bulk_connections",
		Help: "Bulk leasequery connections that are open.",
	}, func() float64 { return float64(l.bulk.count()) }))
}

// answerLeasequery returns the answer to a LEASEQUERY that came in a datagram of
// its own, to be sent to where that came from (RFC 5007 section 4.4.3). Where
// there is none it returns nil, having counted the reason and, now and then,
// logged it.
func (s *Server) answerLeasequery(ctx context.Context, payload []byte, source netip.AddrPort) []byte {
	l := &s.leasequery
	reply, why := l.datagram(ctx, payload, source.Addr())
	if why != dhcp6.Answered {
		l.tally.silences[why].Add(1)
		if suppressed, ok := s.counts.logs[why].take(); ok {
			s.log.Warn("dhcp6: no answer to a leasequery", "reason", why.String(), "source", source.String(), "suppressed", suppressed)
		}
		return nil
	}
	return reply
}

func (l *leasequery) datagram(ctx context.Context, payload []byte, source netip.Addr) ([]byte, dhcp6.Reason) {
	if l.leases == nil {
		return nil, dhcp6.LeasequeryOff
	}
	who, why := l.asker(source)
	if why != dhcp6.Answered {
		return nil, why
	}
	var q dhcp6.LeaseLookup
	if why := q.Parse(payload, who.self.DUID); why != dhcp6.Answered {
		return nil, why
	}
	ctx, cancel := context.WithTimeout(ctx, datagramPatience)
	defer cancel()
	reply := dhcp6.LeaseAnswer{Type: dhcp6.LeasequeryReply, Transaction: q.Transaction, ClientID: q.ClientID, ServerID: who.self.DUID}
	var scope []string
	if q.Type.Bulk() {
		reply.Status, reply.Text = dhcp6.StatusNotAllowed, "over TCP only"
	} else {
		scope, reply.Status, reply.Text = who.scope(&q)
	}
	if reply.Status == dhcp6.StatusSuccess {
		if err := l.find(ctx, source, &q, scope, &reply); err != nil {
			reply.Status, reply.Text = dhcp6.StatusUnspecFail, "cannot be answered in full now"
			reply.Client, reply.Links = nil, nil
			l.failed(err)
		}
	}
	out := reply.Append(nil)
	if len(out) > dhcp6.MaxPayload {
		return nil, dhcp6.TooLong
	}
	l.queries.WithLabelValues("udp", q.Type.String(), reply.Status.String()).Inc()
	if reply.Client != nil {
		l.clients.Inc()
	}
	return out, dhcp6.Answered
}

// find puts the one client that was asked for into the reply, or the links that
// it is on where it is on several (RFC 5007 section 4.4.1). Where several NICs of a
// pod tell the same DUID, clones of one another, it is the one heard last.
func (l *leasequery) find(ctx context.Context, source netip.Addr, q *dhcp6.LeaseLookup, scope []string, reply *dhcp6.LeaseAnswer) error {
	for b, err := range l.bindings(ctx, source, q, scope) {
		if err != nil {
			return err
		}
		if n := len(reply.Links); n == 0 || reply.Links[n-1] != b.link {
			if n == maxLinks {
				continue
			}
			reply.Links = append(reply.Links, b.link)
		}
		if reply.Client == nil || b.data.Last < reply.Client.Last {
			reply.Client = &b.data
		}
	}
	if len(reply.Links) > 1 {
		reply.Client = nil
	} else {
		reply.Links = nil
	}
	return nil
}

// failed logs, now and then, why something was not answered that should have been.
func (l *leasequery) failed(err error) {
	if suppressed, ok := l.logs.take(); ok {
		l.log.Warn("dhcp6: leasequery not answered", "error", err, "suppressed", suppressed)
	}
}

// asker is the relay that asks, at a moment: the record may change while it is
// being told of it.
type asker struct {
	moment
	relay netip.Addr
	pods  []int // of which it is a relay
}

// asker returns whether the source of a packet or connection may ask: only what
// some pod names as its relay, and no NIC has as its address.
func (l *leasequery) asker(source netip.Addr) (asker, dhcp6.Reason) {
	who := asker{moment: l.moment(), relay: source}
	if who.silent != dhcp6.Answered {
		return who, who.silent
	}
	var why dhcp6.Reason
	who.pods, why = who.record.pods.OfRelay(source)
	return who, why
}

// scope returns the names of the pods that the query is about, in order, or what
// its requestor is told instead.
func (w *asker) scope(q *dhcp6.LeaseLookup) ([]string, dhcp6.StatusCode, string) {
	if q.Status != dhcp6.StatusSuccess {
		return nil, q.Status, ""
	}
	// Relays are known by their addresses, which they cannot make up; so each may
	// ask what came through itself, whatever it calls itself.
	if q.Type == dhcp6.QueryByRelayID && !bytes.Equal(q.DUID, q.ClientID) {
		return nil, dhcp6.StatusNotAllowed, "the relay-id is not the requestor's own client-id"
	}
	places, status := q.Scope(w.record.pods, w.pods)
	if status != dhcp6.StatusSuccess {
		return nil, status, "not a link of this relay"
	}
	names := make([]string, len(places))
	for i, n := range places {
		names[i] = w.record.pods.At(n).Name
	}
	slices.Sort(names)
	return names, dhcp6.StatusSuccess, ""
}

// pod returns the pod with the name and the number of it in the index, as long as
// the asker is its relay.
func (w *asker) pod(name string) (*sixacre.Pod, uint32, bool) {
	for _, n := range w.pods {
		if pod := w.record.pods.At(n); pod.Name == name {
			return pod, w.record.numbers[n], true
		}
	}
	return nil, 0, false
}

// binding is what a client has on a link.
type binding struct {
	link netip.Addr
	data dhcp6.ClientData
}

var errNotRelay = errors.New("the asker is not the pod's relay any more")

// bindings looks for what matches the query in the pods and yields it, pod by
// pod. An error is the last that it yields.
func (l *leasequery) bindings(ctx context.Context, source netip.Addr, q *dhcp6.LeaseLookup, pods []string) iter.Seq2[binding, error] {
	return func(yield func(binding, error) bool) {
		for _, pod := range pods {
			for seen, err := range l.seen(ctx, source, q, pod) {
				if err != nil {
					yield(binding{}, err)
					return
				}
				// Whether it may be told, and what the NIC has, is looked up now: a
				// whole pod takes a while.
				who, why := l.asker(source)
				p, number, ours := who.pod(pod)
				if why != dhcp6.Answered || !ours {
					yield(binding{}, errNotRelay)
					return
				}
				if b, ok := l.binding(&who, p, number, &seen, q); ok && !yield(b, nil) {
					return
				}
			}
		}
	}
}

// seen yields what was seen of the clients in a pod that the query may be about.
func (l *leasequery) seen(ctx context.Context, source netip.Addr, q *dhcp6.LeaseLookup, pod string) iter.Seq2[sixacre.Sighting, error] {
	return func(yield func(sixacre.Sighting, error) bool) {
		if q.Type == dhcp6.QueryByAddress || q.Type == dhcp6.QueryByRemoteID {
			ctx, cancel := context.WithTimeout(ctx, storePatience)
			defer cancel()
			who, _ := l.asker(source)
			p, _, ours := who.pod(pod)
			if !ours {
				yield(sixacre.Sighting{}, errNotRelay)
				return
			}
			mac, found := q.MAC(p)
			var err error
			if !found && q.Type == dhcp6.QueryByAddress {
				mac, found, err = l.leases.HolderOf(ctx, *p, q.Address)
			}
			var seen sixacre.Sighting
			if found && err == nil {
				seen, found, err = l.leases.ClientSeen(ctx, pod, mac)
			}
			if found || err != nil {
				yield(seen, err)
			}
			return
		}
		for after := (sixacre.MAC{}); ; {
			page, err := l.page(ctx, pod, after)
			if err != nil {
				yield(sixacre.Sighting{}, err)
				return
			}
			for _, seen := range page {
				if !yield(seen, nil) {
					return
				}
			}
			if len(page) < seenPage {
				return
			}
			after = page[len(page)-1].MAC
		}
	}
}

func (l *leasequery) page(ctx context.Context, pod string, after sixacre.MAC) ([]sixacre.Sighting, error) {
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	return l.leases.ClientsSeen(ctx, pod, after, seenPage)
}

// binding returns what the client that was seen has, if it matches the query and
// has anything: it must have been given a lease that is not over, and its NIC must
// be there. What it has is what the record gives the NIC now.
func (l *leasequery) binding(who *asker, pod *sixacre.Pod, number uint32, seen *sixacre.Sighting, q *dhcp6.LeaseLookup) (binding, bool) {
	switch {
	case seen.Bound.IsZero():
		return binding{}, false
	case q.Type == dhcp6.QueryByClientID && !bytes.Equal(q.DUID, seen.DUID):
		return binding{}, false
	}
	// The way by which the asker itself heard the client, or else the latest.
	var path sixacre.Path
	heard := false
	for i, p := range seen.Paths {
		if i == 0 || p.Relay == who.relay {
			path = p
		}
		heard = heard || p.Relay == who.relay
	}
	if q.Type == dhcp6.QueryByRelayID && !heard {
		return binding{}, false
	}
	var room found
	nic, ok := who.record.nics.get(key{number, seen.MAC}, pod, &room)
	if !ok {
		return binding{}, false
	}
	now := l.now()
	b := binding{link: pod.LinkPrefix.Addr()}
	b.data.ClientID = seen.DUID
	b.data.Last = passed(seen.Time, now)
	if !b.data.Hold(pod, nic, passed(seen.Bound, now)) {
		return binding{}, false
	}
	if q.RelayData && path.Link.IsValid() { // or else the Relay-forward is not kept
		b.data.Relay = dhcp6.RelayData{From: path.Relay, Link: path.Link, Peer: path.Peer, InterfaceID: path.InterfaceID}
	}
	return b, true
}

// passed returns the whole seconds from a time to another, none where a clock
// went back in between or two servers' clocks differ.
func passed(from, to time.Time) sixacre.Seconds {
	n := int64(to.Sub(from) / time.Second)
	return sixacre.Seconds(min(max(n, 0), int64(sixacre.Infinity)))
}
