package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// tally is what a run of queued requests came to.
type tally struct {
	handled int           // messages answered, or taken where no answer is due
	lost    int           // answers that are missing
	cpu     time.Duration // of the server, what the kernel did in its name included
	wall    time.Duration // from the first message's being served to the last answer's being seen
}

func (t tally) perCPUSecond() float64 { return float64(t.handled) / t.cpu.Seconds() }
func (t tally) perSecond() float64    { return float64(t.handled) / t.wall.Seconds() }

// poll is how often the generator looks whether a held-up server has caught up.
// It sleeps meanwhile, so that no answer has to wake it: that would be charged to
// the server, and a router's port is not woken either.
const poll = 500 * time.Microsecond

// sample is how many answers of a run without pace come for one that is judged.
const sample = 16

// patience is how long a server may show no progress before what is missing
// counts as lost.
const patience = 2 * time.Second

// prelude brings the server into the state that it has under such a load: what it
// keeps of a moment ago, such as who sent how much in the last tenth of a second,
// and what the processor's caches hold is of the measurement before.
func (s *sender) prelude(v *server, depth int) error {
	const some, settling = 64, 150 * time.Millisecond
	if _, err := s.backlog(v, some, 1); err != nil {
		return err
	}
	time.Sleep(settling)
	_, err := s.backlog(v, depth, 1)
	return err
}

// backlog holds the server up, queues requests in its socket, lets it go, and
// measures what it takes to deal with them: it never has to wait for the
// generator, which sleeps meanwhile. It does so with depth requests at a time
// until the server has had as much CPU time as wanted.
func (s *sender) backlog(v *server, depth int, want time.Duration) (tally, error) {
	var t tally
	for t.cpu < want {
		known, err := s.queue(v, depth)
		if err != nil {
			return t, err
		}
		cpu, start := v.cpu(), time.Now()
		if err := v.release(); err != nil {
			return t, err
		}
		replies, done, err := s.await(v, known)
		if err != nil {
			return t, err
		}
		t.wall += done.Sub(start)
		t.cpu += v.cpu() - cpu
		t.handled += replies + depth - known
		t.lost += known - replies
		if known > 0 && replies == 0 {
			return t, fmt.Errorf("%s answers nothing", v.name)
		}
	}
	return t, nil
}

// newcomers is how many clients may be new to sixacre at a time: it remembers no
// more than it can tell the store of.
const newcomers = 1 << 11

// introduce has every known client ask once, by the relay that the load gives it.
func (b *bench) introduce(ctx context.Context, v *server, l load) error {
	l.joined, l.unknown = l.train > 1, 0
	s := b.sender(l, v.at)
	for range (b.known + newcomers - 1) / newcomers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := s.backlog(v, newcomers, 1); err != nil {
			return err
		}
	}
	return nil
}

// queue holds the server up and sends it n messages. It returns how many of them
// it should answer.
func (s *sender) queue(v *server, n int) (known int, err error) {
	if err := v.hold(); err != nil {
		return 0, err
	}
	_, before, err := v.waiting()
	for sent := 0; sent < n && err == nil; sent += batch {
		var k int
		k, err = s.send(min(batch, n-sent), 0)
		known += k
	}
	if err != nil {
		return 0, err
	}
	_, after, err := v.waiting()
	if after != before {
		return 0, fmt.Errorf("%s: %d of %d requests did not fit into its socket", v.name, after-before, n)
	}
	return known, err
}

// await waits until the server has dealt with all that is queued, and returns
// how many answers came and when the last did.
func (s *sender) await(v *server, known int) (replies int, done time.Time, err error) {
	done = time.Now()
	var queued, answers uint32 // octets in the server's sockets and in the generator's
	for {
		if err := unix.Nanosleep(&unix.Timespec{Nsec: int64(poll)}, nil); err != nil && err != unix.EINTR {
			return replies, done, err
		}
		left, _, err := v.waiting()
		if err != nil {
			return replies, done, err
		}
		arrived, _, err := memInfo(s.fd)
		if err != nil {
			return replies, done, err
		}
		changed := arrived != answers
		if changed || left != queued {
			done = time.Now()
		}
		queued, answers = left, arrived
		if !s.leave || left == 0 && !changed {
			n, err := s.receive(v, sample, nil)
			if err != nil {
				return replies, done, err
			}
			replies, answers = replies+n, 0
		}
		if left == 0 && replies >= known || time.Since(done) > patience {
			return replies, done, nil
		}
	}
}

// flat asks as fast as the generator and the server can for a while, with at
// most window questions unanswered, so that none that is to be answered is lost in
// a full socket. Of unknown clients' messages it takes those for dealt with that
// the socket took.
func (s *sender) flat(v *server, window int, d time.Duration) (tally, error) {
	var t tally
	_, dropped, err := v.waiting()
	if err != nil {
		return t, err
	}
	start, cpu := time.Now(), v.cpu()
	known, strangers, replies, given := 0, 0, 0, 0 // given up, of those known
	progress := start
	for {
		at := time.Since(start)
		n, err := s.receive(v, sample, nil)
		if err != nil {
			return t, err
		}
		if n > 0 {
			progress, replies = time.Now(), replies+n
		}
		open := known - replies - given
		if at < d && open < window {
			const n = batch / 4
			k, err := s.send(n, at)
			if err != nil {
				return t, err
			}
			known, strangers = known+k, strangers+n-k
			continue
		}
		if open > 0 && time.Since(progress) > patience/2 {
			given += open
		}
		left, drops, err := v.waiting()
		if err != nil {
			return t, err
		}
		if at > d && (open <= 0 && left == 0 || at > d+patience) {
			t.handled, t.lost = replies+max(0, strangers-int(drops-dropped)), known-replies
			t.wall, t.cpu = time.Since(start), v.cpu()-cpu
			return t, nil
		}
	}
}

// spread is the median of some figures, the lowest and the highest.
type spread struct{ median, low, high float64 }

func spreadOf(figures []float64) spread {
	sorted := slices.Sorted(slices.Values(figures))
	n := len(sorted)
	if n == 0 {
		return spread{}
	}
	return spread{(sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[0], sorted[n-1]}
}

// ratios divides the figures of each round by another's of the same round.
func ratios(a, b []float64) []float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = a[i] / b[i]
	}
	return out
}

// ownCPU is the CPU time of this process.
func ownCPU() time.Duration { return clock(unix.CLOCK_PROCESS_CPUTIME_ID) }

func clock(id int32) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
