package ra

import (
	"net/netip"
	"time"
)

// RFC 4861 section 10.
const (
	initialInterval = 16 * time.Second // MAX_INITIAL_RTR_ADVERT_INTERVAL
	initialCount    = 3                // MAX_INITIAL_RTR_ADVERTISEMENTS
	minDelay        = 3 * time.Second  // MIN_DELAY_BETWEEN_RAS
	maxSolicited    = 500 * time.Millisecond
)

// maxWaiting is how many guests may wait for an advertisement of their own.
const maxWaiting = 256

// schedule says when advertisements are due and to whom. The clock and chance
// are its arguments. Multicast ones are never closer to each other than
// MIN_DELAY_BETWEEN_RAS.
type schedule struct {
	next    time.Time // to all nodes
	last    time.Time
	sent    int // since prompt
	waiting map[netip.Addr]time.Time
}

// prompt makes the next advertisement to all nodes due as soon as allowed, and
// the two after it soon (RFC 4861 section 6.2.4): at the start, and when what is
// advertised has changed.
func (s *schedule) prompt(now time.Time) {
	s.sent = 0
	s.next = s.earliest(now)
}

func (s *schedule) earliest(at time.Time) time.Time {
	if soonest := s.last.Add(minDelay); at.Before(soonest) {
		return soonest
	}
	return at
}

// advertised takes note of an advertisement to all nodes, which answers whoever
// waits, too. part is a random number from 0 to 1.
func (s *schedule) advertised(now time.Time, part float64) {
	s.last = now
	s.sent++
	wait := minInterval + time.Duration(part*float64(MaxInterval-minInterval))
	if s.sent < initialCount {
		wait = min(wait, initialInterval)
	}
	s.next = now.Add(wait)
	clear(s.waiting)
}

// solicited takes note of a Router Solicitation (RFC 4861 section 6.2.6): one
// from an address is answered to it alone, one from :: or from one guest too
// many to all nodes. part is a random number from 0 to 1.
func (s *schedule) solicited(from netip.Addr, now time.Time, part float64) {
	at := now.Add(time.Duration(part * float64(maxSolicited)))
	if !s.next.After(at) {
		return // everyone hears one before that
	}
	_, again := s.waiting[from]
	switch {
	case again:
	case from.IsUnspecified() || len(s.waiting) >= maxWaiting:
		if at = s.earliest(at); at.Before(s.next) {
			s.next = at
		}
	default:
		if s.waiting == nil {
			s.waiting = map[netip.Addr]time.Time{}
		}
		s.waiting[from] = at
	}
}

// due returns who is to be sent an advertisement by now.
func (s *schedule) due(now time.Time) (all bool, each []netip.Addr) {
	if !s.next.After(now) {
		return true, nil
	}
	for a, at := range s.waiting {
		if !at.After(now) {
			each = append(each, a)
			delete(s.waiting, a)
		}
	}
	return false, each
}

// wake returns when due is to be asked again.
func (s *schedule) wake() time.Time {
	at := s.next
	for _, w := range s.waiting {
		if w.Before(at) {
			at = w
		}
	}
	return at
}
