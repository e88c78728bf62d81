package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// kind is what a packet of a stream is to the filter.
type kind int

const (
	asked    kind = iota // from the guest, over a connection that lasts
	answered             // to it over that connection: nothing else lets it in
	opened               // from it, each a new connection
	entered              // to an open port, each a new connection
	foreignSource
	foreignMAC
	unasked // to a closed port
	kinds
)

var kindNames = [kinds]string{
	"of an established connection", "in answer to it", "of new connections", "of new connections to an open port",
	"from another's address", "from another's MAC", "to a closed port",
}

func (k kind) allowed() bool { return k < foreignSource }

// stream sends one packet of each kind every two milliseconds, between a guest
// and the first router of its pod, and notes what arrives at the other end.
type stream struct {
	atGuest, atRouter *wire
	guest             guest
	to, from          ip6 // as the router and as the guest send
	foreign           ip6 // with another's address
	mark              []byte
	stop              chan struct{}
	once              sync.Once
	sending, reading  sync.WaitGroup

	mu   sync.Mutex
	seen [kinds]tally
	news chan struct{}
}

type tally struct {
	sent, arrived int
	first, last   time.Time // of what arrived
}

// startStream sends from a guest, and as it.
func (l *Lab) startStream(ctx context.Context, g guest) (*stream, error) {
	nic, err := l.nic(ctx, g.name)
	if err != nil {
		return nil, err
	}
	r, other := g.pod.routers[0], guestNamed("i-2")
	s := &stream{
		guest: g, mark: token(), stop: make(chan struct{}), news: make(chan struct{}, 1),
		to:      ip6{srcMAC: r.mac, src: r.outside}.to(g.mac, nic.Address),
		from:    g.self(nic.Address).to(r.mac, r.outside),
		foreign: g.self(other.want).to(r.mac, r.outside),
	}
	if s.atGuest, err = l.attach(g.name, "eth0"); err != nil {
		return nil, err
	}
	if s.atRouter, err = l.attach(r.name, "pod"); err != nil {
		s.atGuest.Close()
		return nil, err
	}
	s.sending.Go(s.send)
	s.reading.Go(func() { s.receive(s.atGuest) })
	s.reading.Go(func() { s.receive(s.atRouter) })
	return s, nil
}

// packet is the nth of a kind.
func (s *stream) packet(k kind, n int) frame {
	const guestPort, outerPort = 42000, 42001
	fresh := uint16(10000 + n%30000)
	data := binary.BigEndian.AppendUint32(append(bytes.Clone(s.mark), byte(k)), uint32(n))
	switch k {
	case asked:
		return s.from.udp(guestPort, outerPort, data)
	case answered:
		return s.to.udp(outerPort, guestPort, data)
	case opened:
		return s.from.udp(fresh, outerPort+1, data)
	case entered:
		return s.to.udp(fresh, openPort, data)
	case foreignSource:
		return s.foreign.udp(fresh, outerPort+1, data)
	case foreignMAC:
		f := s.from
		f.srcMAC = guestNamed("i-2").mac
		return f.udp(fresh, outerPort+1, data)
	}
	return s.to.udp(fresh, closedPort, data)
}

func (s *stream) send() {
	runtime.LockOSThread() // never unlocked: the thread ends with its affinity
	_ = stayOnOneProcessor()
	tick := time.NewTicker(sendEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		for k := range kinds {
			f, w := s.packet(k, n), s.atGuest
			if k == answered || k == entered || k == unasked {
				w = s.atRouter
			}
			if _, err := w.file.Write(f); err == nil {
				s.mu.Lock()
				s.seen[k].sent++
				s.mu.Unlock()
			}
		}
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
	}
}

func (s *stream) receive(w *wire) {
	for {
		f, err := w.next(time.Time{}, func(f frame) bool {
			return f.proto() == protoUDP && len(f.payload()) == udpSize+len(s.mark)+5 && bytes.HasPrefix(f.payload()[udpSize:], s.mark)
		})
		if err != nil || f == nil {
			return
		}
		k, now := kind(f.payload()[udpSize+len(s.mark)]), time.Now()
		s.mu.Lock()
		t := &s.seen[k]
		if t.arrived == 0 {
			t.first = now
		}
		t.arrived++
		t.last = now
		s.mu.Unlock()
		select {
		case s.news <- struct{}{}:
		default:
		}
	}
}

// await returns when what was seen is enough, or with an error after the limit.
func (s *stream) await(limit time.Duration, enough func(*[kinds]tally) bool) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(sendEvery)
	defer tick.Stop()
	for {
		s.mu.Lock()
		ok := enough(&s.seen)
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-s.news:
		case <-tick.C:
		case <-deadline.C:
			s.mu.Lock()
			defer s.mu.Unlock()
			return fmt.Errorf("after %s: of the packets %s", limit, s)
		}
	}
}

// after waits until so many more of each kind are sent.
func (s *stream) after(n int) error {
	s.mu.Lock()
	was := s.seen
	s.mu.Unlock()
	return s.await(answerWithin, func(now *[kinds]tally) bool { return now[kinds-1].sent >= was[kinds-1].sent+n })
}

// flows waits until packets of all kinds that may arrive do.
func (s *stream) flows() error {
	s.mu.Lock()
	was := s.seen
	s.mu.Unlock()
	return s.await(answerWithin, func(now *[kinds]tally) bool {
		for k := range foreignSource {
			if now[k].arrived < was[k].arrived+5 {
				return false
			}
		}
		return true
	})
}

// String says how many of each kind arrived.
func (s *stream) String() string {
	var parts []string
	for k, t := range s.seen {
		parts = append(parts, fmt.Sprintf("%s %d of %d", kindNames[k], t.arrived, t.sent))
	}
	return strings.Join(parts, ", ") + " arrived"
}

// finish stops it and returns how many packets of the allowed kinds were sent and
// lost, and an error that names what arrived and should not have.
func (s *stream) finish() (sent, lost int, err error) {
	s.once.Do(func() {
		close(s.stop)
		s.sending.Wait()
		_ = s.await(time.Second/2, func(now *[kinds]tally) bool {
			for k := range foreignSource {
				if now[k].arrived < now[k].sent {
					return false
				}
			}
			return true
		})
		s.atGuest.file.Close()
		s.atRouter.file.Close()
		s.reading.Wait()
	})
	for k := range kinds {
		t := s.seen[k]
		switch {
		case k.allowed():
			sent, lost = sent+t.sent, lost+t.sent-t.arrived
		case t.arrived > 0:
			err = errors.Join(err, fmt.Errorf("%d of %d packets %s arrived", t.arrived, t.sent, kindNames[k]))
		}
	}
	return sent, lost, err
}

// whole is finish where nothing may have been lost.
func (s *stream) whole() (sent int, err error) {
	sent, lost, err := s.finish()
	if lost > 0 {
		err = errors.Join(err, fmt.Errorf("packets were lost: %s", s))
	}
	return sent, err
}

// end is finish for those who do not count.
func (s *stream) end() { s.finish() }

// stayOnOneProcessor keeps the calling thread on the first that it may run on.
func stayOnOneProcessor() error {
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return err
	}
	for cpu := 0; ; cpu++ {
		if may.IsSet(cpu) {
			one.Set(cpu)
			return unix.SchedSetaffinity(0, &one)
		}
	}
}
