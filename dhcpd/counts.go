package dhcpd

import (
	"encoding/hex"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// counts are the server's metrics.
type counts struct {
	mu      sync.Mutex
	tallies []*tally

	logs      [dhcp6.NumReasons]logBudget
	errorLogs logBudget
}

// tally is one worker's own counters: nobody else writes to them, so that no
// processor waits for another's cache.
type tally struct {
	replies    [dhcp6.InformationRequest + 1]atomic.Uint64
	silences   [dhcp6.NumReasons]atomic.Uint64
	mismatches atomic.Uint64
	declines   atomic.Uint64
	sendErrors atomic.Uint64
	_          [64]byte
}

func (c *counts) newTally() *tally {
	t := &tally{}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tallies = append(c.tallies, t)
	return t
}

var (
	repliesDesc = prometheus.NewDesc("sixacre_dhcp6_replies_total",
		"Queries answered, by the type of the client's message.", []string{"query"}, nil)
	silencesDesc = prometheus.NewDesc("sixacre_dhcp6_silences_total",
		"Packets that got no answer, by reason.", []string{"reason"}, nil)
	mismatchesDesc = prometheus.NewDesc("sixacre_dhcp6_duid_mismatches_total",
		"Queries answered whose DUID carries another MAC than the one that the relay inserted.", nil, nil)
	declinesDesc = prometheus.NewDesc("sixacre_dhcp6_declines_total",
		"Declines of the NIC's own address: another on the link has it.", nil, nil)
	sendErrorsDesc = prometheus.NewDesc("sixacre_dhcp6_send_errors_total",
		"Replies that the kernel did not take.", nil, nil)
)

// Describe is for [prometheus.Collector].
func (c *counts) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{repliesDesc, silencesDesc, mismatchesDesc, declinesDesc, sendErrorsDesc} {
		ch <- d
	}
}

// Collect is for [prometheus.Collector].
func (c *counts) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := func(desc *prometheus.Desc, of func(*tally) *atomic.Uint64, labels ...string) {
		var n uint64
		for _, t := range c.tallies {
			n += of(t).Load()
		}
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
	}
	for i := range dhcp6.InformationRequest + 1 {
		switch i {
		case dhcp6.Solicit, dhcp6.Request, dhcp6.Confirm, dhcp6.Renew, dhcp6.Rebind, dhcp6.Release, dhcp6.Decline, dhcp6.InformationRequest:
			sum(repliesDesc, func(t *tally) *atomic.Uint64 { return &t.replies[i] }, i.String())
		}
	}
	for i := range dhcp6.NumReasons {
		if why := dhcp6.Reason(i); why != dhcp6.Answered {
			sum(silencesDesc, func(t *tally) *atomic.Uint64 { return &t.silences[i] }, why.String())
		}
	}
	sum(mismatchesDesc, func(t *tally) *atomic.Uint64 { return &t.mismatches })
	sum(declinesDesc, func(t *tally) *atomic.Uint64 { return &t.declines })
	sum(sendErrorsDesc, func(t *tally) *atomic.Uint64 { return &t.sendErrors })
}

// logBudget keeps a flood of packets from becoming a flood of log lines.
type logBudget struct {
	limit      *rate.Limiter
	suppressed atomic.Int64
}

// take reports whether a line may be written, and how many were not since the
// last one.
func (l *logBudget) take() (suppressed int64, ok bool) {
	if !l.limit.Allow() {
		l.suppressed.Add(1)
		return 0, false
	}
	return l.suppressed.Swap(0), true
}

func newCounts(reg prometheus.Registerer, s *Server) *counts {
	c := &counts{}
	for why := range c.logs {
		c.logs[why].limit = rate.NewLimiter(1, 10)
	}
	c.errorLogs.limit = rate.NewLimiter(1, 10)
	reg.MustRegister(c,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sixacre_dhcp6_nics",
			Help: "NICs that the server knows.",
		}, func() float64 {
			if now := s.index.current.Load(); now != nil {
				return float64(now.nics.nics.Load())
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sixacre_dhcp6_sightings",
			Help: "Clients that the server has heard, once for each relay that brought their messages.",
		}, func() float64 { return float64(s.index.seen.count()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "sixacre_dhcp6_sightings_missed_total",
			Help: "Messages with news of a client that the store was too slow to take; the client's next one tells them.",
		}, func() float64 { return float64(s.index.seen.missed.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sixacre_dhcp6_unconfirmed_seconds",
			Help: "Time since the store's revision was last confirmed; -1 if it never was.",
		}, func() float64 {
			age, ever := s.Unconfirmed()
			if !ever {
				return -1
			}
			return age.Seconds()
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sixacre_dhcp6_ready",
			Help: "1 if the server answers, 0 if it is silent because it does not know or cannot confirm the record.",
		}, func() float64 {
			if s.Ready() != nil {
				return 0
			}
			return 1
		}))
	return c
}

// logSilence says why a packet got no answer: staleness once, anything else up
// to ten times in a row and then once a second.
func (s *Server) logSilence(q *query, source netip.AddrPort) {
	if q.why == dhcp6.Stale {
		if !s.silent.Swap(true) {
			s.log.Error("dhcp6: silent: the store could not be reached for too long", "limit", sixacre.MaxStale)
		}
		return
	}
	suppressed, ok := s.counts.logs[q.why].take()
	if !ok {
		return
	}
	attrs := []any{"reason", q.why.String(), "source", source.String()}
	if q.Type != 0 {
		attrs = append(attrs, "query", q.Type.String())
	}
	if q.client.Pod != nil {
		attrs = append(attrs, "pod", q.client.Pod.Name, "mac", q.client.MAC.String(), "peer", q.client.Peer.String())
	} else if len(q.Relays) > 0 {
		innermost := q.Relays[len(q.Relays)-1]
		attrs = append(attrs, "link", innermost.Link.String(), "peer", innermost.Peer.String())
	}
	if q.ClientID != nil {
		attrs = append(attrs, "duid", hex.EncodeToString(q.ClientID))
	}
	if suppressed > 0 {
		attrs = append(attrs, "suppressed", suppressed)
	}
	s.log.Warn("dhcp6: no answer", attrs...)
}

// notSent counts a reply that the kernel did not take and, now and then, logs it.
func (s *Server) notSent(t *tally, r *reply, err error) {
	t.sendErrors.Add(1)
	if suppressed, ok := s.counts.errorLogs.take(); ok {
		to := netip.AddrPortFrom(netip.AddrFrom16(r.to.Addr), port(&r.to))
		s.log.Warn("dhcp6: reply not sent", "to", to, "error", err, "suppressed", suppressed)
	}
}
