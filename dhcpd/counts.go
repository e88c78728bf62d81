package dhcpd

import (
	"encoding/hex"
	"net/netip"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// counts are the server's metrics. The counters that a packet needs are looked
// up once, here.
type counts struct {
	replies    [dhcp6.InformationRequest + 1]prometheus.Counter
	silences   [dhcp6.NumReasons]prometheus.Counter
	mismatches prometheus.Counter
	sendErrors prometheus.Counter
	logs       [dhcp6.NumReasons]logBudget
	errorLogs  logBudget
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
	c := &counts{
		mismatches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sixacre_dhcp6_duid_mismatches_total",
			Help: "Queries answered whose DUID carries another MAC than the one that the relay inserted.",
		}),
		sendErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sixacre_dhcp6_send_errors_total",
			Help: "Replies that the kernel did not take.",
		}),
	}
	replies := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sixacre_dhcp6_replies_total",
		Help: "Queries answered, by the type of the client's message.",
	}, []string{"query"})
	for t := range c.replies {
		switch t := dhcp6.MessageType(t); t {
		case dhcp6.Solicit, dhcp6.Request, dhcp6.Confirm, dhcp6.Renew, dhcp6.Rebind, dhcp6.Release, dhcp6.Decline, dhcp6.InformationRequest:
			c.replies[t] = replies.WithLabelValues(t.String())
		}
	}
	silences := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sixacre_dhcp6_silences_total",
		Help: "Packets that got no answer, by reason.",
	}, []string{"reason"})
	for why := range c.silences {
		c.logs[why].limit = rate.NewLimiter(1, 10)
		if why := dhcp6.Reason(why); why != dhcp6.Answered {
			c.silences[why] = silences.WithLabelValues(why.String())
		}
	}
	c.errorLogs.limit = rate.NewLimiter(1, 10)
	reg.MustRegister(replies, silences, c.mismatches, c.sendErrors,
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

func (c *counts) reply(t dhcp6.MessageType) { c.replies[t].Inc() }

func (c *counts) silence(why dhcp6.Reason) { c.silences[why].Inc() }

// logSilence says why a packet got no answer: staleness once, anything else up
// to ten times in a row and then once a second.
func (s *Server) logSilence(why dhcp6.Reason, q *query, source netip.AddrPort) {
	if why == dhcp6.Stale {
		if !s.silent.Swap(true) {
			s.log.Error("dhcp6: silent: the store could not be reached for too long", "limit", sixacre.MaxStale)
		}
		return
	}
	suppressed, ok := s.counts.logs[why].take()
	if !ok {
		return
	}
	attrs := []any{"reason", why.String(), "source", source.String()}
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
