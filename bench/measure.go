package main

import (
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

// backlog holds the server up, queues requests in its socket, lets it go, and
// measures what it takes to deal with them: it never has to wait for the
// generator, which sleeps meanwhile. It does so with depth requests at a time
// until the server has had as much CPU time as wanted.
func (s *sender) backlog(v *server, depth int, want time.Duration) (tally, error) {
	var t tally
	for t.cpu < want {
		if err := v.hold(); err != nil {
			return t, err
		}
		before, err := v.drops()
		if err != nil {
			return t, err
		}
		known, sent := 0, 0
		for sent < depth {
			n := min(batch, depth-sent)
			k, err := s.send(n, 0)
			if err != nil {
				return t, err
			}
			known, sent = known+k, sent+n
		}
		after, err := v.drops()
		switch {
		case err != nil:
			return t, err
		case after != before:
			return t, fmt.Errorf("%s: %d of %d requests did not fit into its socket", v.name, after-before, depth)
		}
		cpu, start := v.cpu(), time.Now()
		if err := v.release(); err != nil {
			return t, err
		}
		replies, progress, last := 0, start, 0
		for {
			n, err := s.receive(v, sample, nil)
			if err != nil {
				return t, err
			}
			replies += n
			if replies > last {
				progress, last = time.Now(), replies
			}
			if replies >= known {
				idle, err := v.idle()
				if err != nil {
					return t, err
				}
				if idle {
					break
				}
			}
			if time.Since(progress) > patience {
				break
			}
			if err := unix.Nanosleep(&unix.Timespec{Nsec: int64(poll)}, nil); err != nil && err != unix.EINTR {
				return t, err
			}
		}
		if replies < known {
			t.wall += progress.Sub(start)
		} else {
			t.wall += time.Since(start)
		}
		t.cpu += v.cpu() - cpu
		t.handled += replies + sent - known
		t.lost += known - replies
		if t.lost > 0 && replies == 0 {
			return t, fmt.Errorf("%s answers nothing", v.name)
		}
	}
	return t, nil
}

// flat asks as fast as the generator and the server can for a while, with at
// most window questions unanswered, so that nothing is lost in a full socket.
func (s *sender) flat(v *server, window int, d time.Duration) (tally, error) {
	var t tally
	start, cpu := time.Now(), v.cpu()
	open, progress := 0, start
	for {
		at := time.Since(start)
		if at > d && open == 0 {
			break
		}
		n, err := s.receive(v, sample, nil)
		if err != nil {
			return t, err
		}
		if n > 0 {
			progress = time.Now()
			open, t.handled = open-n, t.handled+n
		}
		if at < d && open < window {
			k, err := s.send(batch/4, at)
			if err != nil {
				return t, err
			}
			open += k
		}
		if open > 0 && time.Since(progress) > patience/10 {
			t.lost, open = t.lost+open, 0
		}
	}
	t.wall, t.cpu = time.Since(start), v.cpu()-cpu
	return t, nil
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
