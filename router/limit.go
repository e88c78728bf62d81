package router

import (
	"time"

	"github.com/sixacre/sixacre"
)

// What one MAC may have relayed. A client that starts sends three or four
// messages and retransmits after a second (RFC 9915 section 7.6); the burst
// leaves room for several starts in a row.
const (
	limitRate  = 10 // messages a second
	limitBurst = 40
	limitMACs  = 8192 // known at once
)

// limiter is a token bucket per MAC in bounded memory. The zero value is ready
// for use.
type limiter struct {
	buckets map[sixacre.MAC]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

// allow takes a token of the MAC's and reports whether there was one.
func (l *limiter) allow(mac sixacre.MAC, now time.Time) bool {
	b, known := l.buckets[mac]
	if !known {
		l.makeRoom(now)
		b = bucket{limitBurst, now}
	}
	b.tokens = min(limitBurst, b.tokens+now.Sub(b.at).Seconds()*limitRate)
	b.at = now
	ok := b.tokens >= 1
	if ok {
		b.tokens--
	}
	l.buckets[mac] = b
	return ok
}

// makeRoom forgets the MACs whose buckets are full again, which changes nothing,
// and if they are too few, any others: a quarter at a time, so that a flood of
// made-up MACs does not cost a search for each.
func (l *limiter) makeRoom(now time.Time) {
	if l.buckets == nil {
		l.buckets = map[sixacre.MAC]bucket{}
	}
	if len(l.buckets) < limitMACs {
		return
	}
	for mac, b := range l.buckets {
		if b.tokens+now.Sub(b.at).Seconds()*limitRate >= limitBurst {
			delete(l.buckets, mac)
		}
	}
	for mac := range l.buckets {
		if len(l.buckets) <= limitMACs*3/4 {
			break
		}
		delete(l.buckets, mac)
	}
}
