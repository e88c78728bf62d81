// Package dhcpd is the DHCPv6 server: sockets that relays send to, and the index
// of the record that the answers come from. It never allocates anything and
// never asks the store: what an answer says was recorded before.
package dhcpd

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
)

// Server answers DHCPv6 queries from what it is told of the record. It is silent
// until it knows the whole record and the server DUID and the store confirmed
// that, and again whenever the last confirmation is older than
// [sixacre.MaxStale]. Its methods may be called from several goroutines.
type Server struct {
	log    *slog.Logger
	clock  func() time.Duration
	counts *counts
	index  index

	mu        sync.Mutex
	applied   int64        // revision of the store that the index shows
	pending   confirmation // one that the index has not caught up with
	confirmed atomic.Int64 // clock time of the last confirmation, or never
	silent    atomic.Bool  // whether staleness was logged

	leasequery leasequery
}

// fresh is how long after a confirmation the record passes for the newest, so
// that what it does not hold may be revoked. It must be longer than the time
// between two confirmations.
const fresh = time.Minute

// confirmation is that the store had the revision at a time.
type confirmation struct {
	asked    time.Duration
	revision int64
}

const never = -1

// New makes a server that counts in reg. The clock is [Uptime]; tests bring
// their own.
func New(log *slog.Logger, reg prometheus.Registerer, clock func() time.Duration) *Server {
	s := &Server{log: log, clock: clock, index: newIndex()}
	s.confirmed.Store(never)
	s.counts = newCounts(reg, s)
	s.leasequery = leasequery{Server: s, tally: s.counts.newTally()}
	return s
}

// Uptime is the time since the machine was started, suspension included: a
// machine that slept for a week must know that its state is a week old, which
// Go's own monotonic clock does not tell.
func Uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("dhcpd: no CLOCK_BOOTTIME: " + err.Error()) // Linux has had it since 2.6.39
	}
	return time.Duration(t.Nano())
}

// Apply takes up a batch of the record's events, up to a revision of the store.
// full says that the batch holds everything there is.
func (s *Server) Apply(full bool, events []sixacre.Event, revision int64) {
	s.index.apply(full, events)
	s.mu.Lock()
	defer s.mu.Unlock()
	if full {
		s.applied = revision
	} else {
		s.applied = max(s.applied, revision)
	}
	s.settle()
	if full {
		// What was asked of a store that was since put back to an older state
		// will never be reached.
		s.pending = confirmation{}
	}
}

// Confirm says that the store, asked at a time of the server's clock, gave the
// revision as its newest. It counts from that time on, and only once all up to
// that revision was applied: a store that can be reached is no help to an index
// that does not follow it.
func (s *Server) Confirm(asked time.Duration, revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// One that waits is kept, for if each new one took its place, an index that
	// is always a little behind would never be confirmed.
	if s.pending == (confirmation{}) {
		s.pending = confirmation{asked, revision}
		s.settle()
	}
}

// settle takes the pending confirmation if the index shows its revision.
func (s *Server) settle() {
	if s.pending == (confirmation{}) || s.index.current.Load() == nil || s.applied < s.pending.revision {
		return
	}
	s.confirmed.Store(max(s.confirmed.Load(), int64(s.pending.asked)))
	s.pending = confirmation{}
	if s.silent.Load() && s.stale() == nil {
		s.silent.Store(false)
		s.log.Info("dhcp6: answering again: the store confirmed its revision", "revision", s.applied)
	}
}

// Unconfirmed returns for how long the store's revision has not been confirmed,
// and false if it never was.
func (s *Server) Unconfirmed() (time.Duration, bool) { return s.unconfirmed(s.clock()) }

func (s *Server) unconfirmed(now time.Duration) (time.Duration, bool) {
	at := s.confirmed.Load()
	if at == never {
		return 0, false
	}
	return now - time.Duration(at), true
}

var errNeverConfirmed = errors.New("dhcp6: the store has not confirmed its revision yet")

func (s *Server) stale() error {
	age, ever := s.Unconfirmed()
	switch {
	case !ever:
		return errNeverConfirmed
	case age > sixacre.MaxStale:
		return fmt.Errorf("dhcp6: silent: the store has not confirmed its revision for %s, the limit is %s",
			age.Round(time.Second), sixacre.MaxStale)
	}
	return nil
}

// Ready returns why the server does not answer, or nil if it does.
func (s *Server) Ready() error {
	switch now := s.index.current.Load(); {
	case now == nil:
		return errors.New("dhcp6: the record has not been read yet")
	case now.serverID == nil:
		return errors.New("dhcp6: the record has no server DUID yet")
	}
	return s.stale()
}
