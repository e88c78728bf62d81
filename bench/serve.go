package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
	"github.com/sixacre/sixacre/dhcpd"
)

// serve runs sixacre's DHCPv6 server as 'sixacre server' does, save that the
// record comes from here rather than from a store. It prints what its index takes
// and then does as it is told on its standard input, a line at a time:
//
//	update N    from now on change N reservations per second; 0 ends that
//	resident    print how many octets are resident
func serve(at netip.Addr, reservations int) error {
	s := dhcpd.New(slog.New(slog.NewTextHandler(os.Stderr, nil)), prometheus.NewRegistry(), dhcpd.Uptime)
	r := &record{server: s, reservations: reservations}
	_ = r.everything() // the heap has been as large as it will be before it is measured
	before, start := resident(), time.Now()
	r.apply(r.everything(), true)
	loaded := time.Since(start)

	sock, err := dhcpd.Listen(netip.AddrPortFrom(at, dhcp6.ServerPort))
	if err != nil {
		return err
	}
	fmt.Printf("%d %d\n", resident()-before, loaded.Milliseconds())
	group, ctx := errgroup.WithContext(context.Background())
	group.Go(func() error { return s.Serve(ctx, sock) })
	group.Go(func() error { return r.follow(ctx, os.Stdin) })
	group.Go(func() error {
		return s.Tell(ctx, func(context.Context, []sixacre.Glimpse) error { return nil })
	})
	return group.Wait()
}

// record is what stands in for the store.
type record struct {
	server       *dhcpd.Server
	reservations int
	revision     int64
	changed      uint64
}

// everything is the whole record.
func (r *record) everything() []sixacre.Event {
	events := []sixacre.Event{put(cloudPod()), put(sixacre.ServerID{DUID: serverDUID})}
	for i := range uint64(r.reservations) {
		events = append(events, put(clientInstance(i)))
	}
	return events
}

func (r *record) apply(events []sixacre.Event, full bool) {
	r.revision++
	r.server.Apply(full, events, r.revision)
	r.server.Confirm(dhcpd.Uptime(), r.revision)
}

func put(n sixacre.Noun) sixacre.Event { return sixacre.Event{Key: n.Key(), Noun: n} }

// follow does as it is told, and what the store's watch does otherwise.
func (r *record) follow(ctx context.Context, in io.Reader) error {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			lines <- s.Text()
		}
	}()
	const often = 100 // batches of changes per second
	tick := time.NewTicker(time.Second / often)
	defer tick.Stop()
	rate, ticks := 0, 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case line, open := <-lines:
			verb, argument, _ := strings.Cut(line, " ")
			switch {
			case !open:
				return nil
			case verb == "resident":
				fmt.Println(resident())
			case verb == "update":
				n, err := strconv.Atoi(argument)
				if err != nil {
					return err
				}
				rate = n
				fmt.Println("ok")
			}
		case <-tick.C:
			if ticks++; rate > 0 {
				r.change(rate / often)
			} else if ticks%(5*often) == 0 {
				r.apply(nil, false) // the store confirms its revision
			}
		}
	}
}

// change moves n instances to another host: a change that comes in one event per
// instance and gives the index as much to do as any.
func (r *record) change(n int) {
	events := make([]sixacre.Event, 0, n)
	for range n {
		r.changed++
		instance := clientInstance(r.changed * 7919 % uint64(r.reservations))
		instance.NICs[0].Host = fmt.Sprintf("hv%d", r.changed)
		events = append(events, put(instance))
	}
	r.apply(events, false)
}

// resident is how many octets of this process are in memory, what the collector
// can give back given back.
func resident() int {
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	pages, _ := strconv.Atoi(strings.Fields(string(b))[1])
	return pages * os.Getpagesize()
}
