package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/sixacre/sixacre/dhcp6"
)

// arrivals are the ways in which the requests of a run come.
var arrivals = map[string]load{
	"singly":    {relays: 1, train: 1},
	"joined":    {relays: 1, train: maxTrain, joined: true},
	"scattered": {relays: maxRelays, train: 1},
	"spread":    {relays: maxRelays, train: 16, leave: true},
	"unknown":   {relays: 1, train: 1, unknown: 100},
}

func arriving(how string, kind dhcp6.MessageType) load {
	l := arrivals[how]
	l.kind = kind
	return l
}

const (
	updateRate  = 10_000 // reservations changed per second, where some are
	pacedRate   = 5_000  // requests per second of the latencies
	floodShare  = 90     // percentage of unknown clients in a flood
	pacedFor    = 2 * time.Second
	updatesName = "updates"
	floodName   = "flood"
)

// everything is a run of all figures. Each round measures everything once, so that
// what else the machine does befalls all alike; ratios are taken within a round.
type everything struct {
	*bench
	want    time.Duration // CPU time of a server per figure
	servers map[string]*server
	peers   []string // those that are installed

	// What was measured, a figure a round.
	rates          map[string][]float64 // by rateKey
	p50, p99, p999 map[string][]float64 // in microseconds, by server or circumstance
	lost           map[string]int       // answers, likewise
}

func dhcp6Command(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench dhcp6", flag.ExitOnError)
	known := f.Int("reservations", maxClients, "how many clients every server knows")
	rounds := f.Int("rounds", 7, "how often to measure everything")
	limit := f.Duration("limit", 8*time.Minute, "after how long no more rounds are begun")
	quick := f.Bool("quick", false, "a quarter of the reservations, two short rounds: a minute, and rough")
	if err := f.Parse(args); err != nil {
		return err
	}
	want := 300 * time.Millisecond
	if *quick {
		*known, *rounds, want = min(*known, maxClients/4), 2, 150*time.Millisecond
	}
	return on(ctx, *known, 8, func(b *bench) error {
		e := &everything{
			bench: b, want: want, servers: map[string]*server{}, rates: map[string][]float64{},
			p50: map[string][]float64{}, p99: map[string][]float64{}, p999: map[string][]float64{}, lost: map[string]int{},
		}
		return e.run(ctx, *rounds, *limit)
	})
}

func (e *everything) run(ctx context.Context, rounds int, limit time.Duration) error {
	began := time.Now()
	memory, err := e.launchAll(ctx)
	defer func() {
		for _, v := range e.servers {
			v.stop()
		}
	}()
	if err != nil {
		return err
	}
	if memory.seen, err = e.acquaint(ctx); err != nil {
		return err
	}
	done := 0
	for ; done < rounds && (done == 0 || time.Since(began) < limit); done++ {
		fmt.Fprintf(os.Stderr, "bench: round %d of %d after %s\n", done+1, rounds, time.Since(began).Round(time.Second))
		if err := e.round(ctx); err != nil {
			return err
		}
	}
	e.report(os.Stdout, memory, done)
	fmt.Fprintf(os.Stderr, "bench: done after %s\n", time.Since(began).Round(time.Second))
	return nil
}

// memory is what the servers take, in octets.
type memory struct {
	reservations int            // sixacre, for its reservations
	loaded       time.Duration  // and how long it takes to take them up
	seen         int            // and for what it has seen of clients
	others       map[string]int // all of each peer, by name
}

// launchAll starts every server, one after the other. Those that are not installed
// are left out.
func (e *everything) launchAll(ctx context.Context) (memory, error) {
	m := memory{others: map[string]int{}}
	for _, s := range []struct {
		name  string
		cores []int
	}{
		{"sixacre", []int{serverCore}},
		{"sixacre", []int{serverCore, generatorCore}},
		{"echo", []int{serverCore}},
		{"segments", []int{serverCore}},
		{"trains", []int{serverCore}},
		{"kea", []int{serverCore}},
		{"coredhcp", []int{serverCore}},
		{"library", []int{serverCore}},
	} {
		began := time.Now()
		v, err := e.launch(s.name, s.cores...)
		if errors.Is(err, exec.ErrNotFound) {
			fmt.Fprintf(os.Stderr, "bench: without %s\n", err)
			continue
		}
		if err != nil {
			return m, err
		}
		e.servers[v.name] = v
		if v.talks {
			line, err := v.line()
			if err != nil {
				return m, fmt.Errorf("%s: %w", v.name, err)
			}
			var octets, milliseconds int
			if _, err := fmt.Sscan(line, &octets, &milliseconds); err != nil {
				return m, fmt.Errorf("%s said %q: %w", v.name, line, err)
			}
			if v.name == "sixacre" {
				m.reservations, m.loaded = octets, time.Duration(milliseconds)*time.Millisecond
			}
		}
		if err := v.ready(ctx, e.generator, loadTime); err != nil {
			return m, err
		}
		switch s.name {
		case "kea", "coredhcp", "library":
			e.peers = append(e.peers, s.name)
			m.others[s.name] = residentOf(v.process.Pid)
		}
		fmt.Fprintf(os.Stderr, "bench: %s answers after %s\n", v.name, time.Since(began).Round(time.Millisecond))
	}
	return m, nil
}

// round measures everything once.
func (e *everything) round(ctx context.Context) error {
	for _, kind := range []dhcp6.MessageType{dhcp6.Solicit, dhcp6.Request} {
		for _, arrival := range []string{"singly", "joined"} {
			for _, name := range append([]string{"echo", "segments", "sixacre"}, e.peers...) {
				if err := e.rate(ctx, name, arrival, kind); err != nil {
					return err
				}
			}
		}
		if err := e.rate(ctx, "trains", "joined", kind); err != nil {
			return err
		}
		for _, name := range []string{"echo", "sixacre"} {
			if err := e.rate(ctx, name, "scattered", kind); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"sixacre", "sixacre2"} {
		if err := e.rate(ctx, name, "spread", dhcp6.Request); err != nil {
			return err
		}
	}
	if err := e.rate(ctx, "sixacre", "unknown", dhcp6.Solicit); err != nil {
		return err
	}
	for _, name := range append([]string{"echo", "sixacre"}, e.peers...) {
		if err := e.latency(ctx, name, name, pacedRate, 0); err != nil {
			return err
		}
	}
	if err := e.latency(ctx, floodName, "sixacre", pacedRate*100/(100-floodShare), floodShare); err != nil {
		return err
	}
	return e.updating(func() error {
		if err := e.latency(ctx, updatesName, "sixacre", pacedRate, 0); err != nil {
			return err
		}
		return e.rateAs(ctx, updatesName, "sixacre", "singly", dhcp6.Request)
	})
}

// updating runs f while reservations change.
func (e *everything) updating(f func() error) error {
	v := e.servers["sixacre"]
	if _, err := v.ask("update " + strconv.Itoa(updateRate)); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	_, err := v.ask("update 0")
	return err
}

func rateKey(name, arrival string, kind dhcp6.MessageType) string {
	return name + " " + arrival + " " + kind.String()
}

func (e *everything) rate(ctx context.Context, name, arrival string, kind dhcp6.MessageType) error {
	return e.rateAs(ctx, name, name, arrival, kind)
}

// rateAs measures how many messages the server deals with per CPU-second and, for
// the sake of those with two processors, per second.
func (e *everything) rateAs(ctx context.Context, as, name, arrival string, kind dhcp6.MessageType) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v := e.servers[name]
	s := e.sender(arriving(arrival, kind), v.at)
	err := s.prelude(v, depth(name))
	var t tally
	if err == nil {
		t, err = s.backlog(v, depth(name), e.want)
	}
	if err != nil {
		return fmt.Errorf("%s, %s %s: %w", name, arrival, kind, err)
	}
	key := rateKey(as, arrival, kind)
	e.rates[key] = append(e.rates[key], t.perCPUSecond())
	e.rates[key+" wall"] = append(e.rates[key+" wall"], t.perSecond())
	e.lost[as] += t.lost
	return nil
}

// latency measures how long paced Requests take.
func (e *everything) latency(ctx context.Context, as, name string, rate, unknown int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l := arriving("singly", dhcp6.Request)
	l.unknown = unknown
	v := e.servers[name]
	t, err := e.sender(l, v.at).paced(v, rate, pacedFor)
	if err != nil {
		return fmt.Errorf("%s, paced: %w", name, err)
	}
	micro := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	e.p50[as] = append(e.p50[as], micro(t.p50))
	e.p99[as] = append(e.p99[as], micro(t.p99))
	e.p999[as] = append(e.p999[as], micro(t.p999))
	e.lost[as] += t.lost
	return nil
}

// acquaint has every client ask sixacre in the ways that they will, so that none
// is new to it when it is measured, and returns how many octets its memory grows by
// when it sees them for the first time. The load before that, which tells it
// nothing, makes it use all its buffers.
func (e *everything) acquaint(ctx context.Context) (grown int, err error) {
	one, two := e.servers["sixacre"], e.servers["sixacre2"]
	if _, err := e.sender(arriving("unknown", dhcp6.Request), one.at).backlog(one, depth("sixacre"), 1); err != nil {
		return 0, err
	}
	before, err := one.resident()
	if err != nil {
		return 0, err
	}
	if err := e.introduce(ctx, one, arriving("joined", dhcp6.Request)); err != nil {
		return 0, err
	}
	after, err := one.resident()
	if err != nil {
		return 0, err
	}
	for _, how := range []string{"scattered", "spread"} {
		if err := e.introduce(ctx, one, arriving(how, dhcp6.Request)); err != nil {
			return 0, err
		}
	}
	return after - before, e.introduce(ctx, two, arriving("spread", dhcp6.Request))
}

// residentOf is how many octets of a process are in memory.
func residentOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	pages, _ := strconv.Atoi(strings.Fields(string(b))[1])
	return pages * os.Getpagesize()
}
