package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/sixacre/sixacre/dhcp6"
)

// loadTime is how long a server may take to load its reservations.
const loadTime = 5 * time.Minute

// loadCommand puts one load on one server.
func loadCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench load", flag.ExitOnError)
	name := f.String("server", "sixacre", "sixacre, echo, segments, trains, library, coredhcp or kea")
	cores := f.Int("cores", 1, "processors of the server; with all of them, the generator shares the second")
	reservations := f.Int("reservations", maxClients, "how many clients the server knows")
	request := f.Bool("request", false, "send Request instead of Solicit")
	remoteID := f.Bool("remote-id", false, "have the relays insert option 37 beside 18 and 79")
	relays := f.Int("relays", 1, "how many relays the messages come from, in turn")
	train := f.Int("train", 1, "messages from a relay before one from the next")
	joined := f.Bool("joined", false, "send each train with UDP_SEGMENT; it reaches a server that has UDP_GRO set as one")
	known := f.Bool("known", false, "ask for clients alone that the server knows; the default")
	unknown := f.Bool("unknown", false, "ask for unknown clients alone")
	mix := f.Int("mix", 0, "ask for so many unknown clients among 100")
	rate := f.Int("rate", 0, "messages per second; flat out if not given")
	queued := f.Int("queued", 0, "hold the server up, queue so many messages, and let it go, instead of asking it as it runs")
	updates := f.Int("updates", 0, "change so many reservations per second meanwhile (sixacre alone)")
	first := f.Bool("first", false, "measure what the first sight of each client costs too (sixacre alone); else each has asked before")
	d := f.Duration("for", 2*time.Second, "how long; with -queued, CPU time of the server")
	if err := f.Parse(args); err != nil {
		return err
	}
	l := load{question: question{kind: dhcp6.Solicit, remoteID: *remoteID}, relays: *relays, train: *train, unknown: *mix, joined: *joined}
	if *request {
		l.kind = dhcp6.Request
	}
	switch {
	case *known && (*unknown || *mix != 0) || *unknown && *mix != 0 || *mix < 0 || *mix > 100:
		return errors.New("give one of -known, -unknown and -mix, that with a percentage")
	case *unknown:
		l.unknown = 100
	}
	if l.relays < 1 || l.relays > maxRelays || l.train < 1 || l.train > maxTrain {
		return fmt.Errorf("1 to %d relays and trains of 1 to %d are possible", maxRelays, maxTrain)
	}
	return on(ctx, *reservations, 1, func(b *bench) error {
		var set []int
		for c := range *cores {
			set = append(set, c)
		}
		v, err := b.launch(*name, set...)
		if err != nil {
			return err
		}
		defer v.stop()
		if v.talks {
			line, err := v.line()
			if err != nil {
				return err
			}
			fmt.Println("octets resident for the reservations, milliseconds to take them up:", line)
		}
		if err := v.ready(ctx, b.generator, loadTime); err != nil {
			return err
		}
		if v.talks && !*first {
			if err := b.introduce(ctx, v, l); err != nil {
				return err
			}
		}
		if *updates > 0 {
			if _, err := v.ask(fmt.Sprintf("update %d", *updates)); err != nil {
				return err
			}
		}
		s := b.sender(l, v.at)
		own := ownCPU()
		if *rate > 0 {
			t, err := s.paced(v, *rate, *d)
			if err != nil {
				return err
			}
			fmt.Printf("%s: %d sent, %d unanswered; p50 %s, p99 %s, p99.9 %s; CPU: server %s, generator %s\n",
				v.name, t.sent, t.lost, t.p50, t.p99, t.p999, t.busy, t.generator)
			return nil
		}
		var t tally
		if *queued > 0 {
			s.leave = *cores > 1
			t, err = s.backlog(v, *queued, *d)
		} else {
			t, err = s.flat(v, depth(*name)/2, *d)
		}
		if err != nil {
			return err
		}
		fmt.Printf("%s: %.0f per CPU-second, %.0f per second (busy for %.0f %% of it), %d lost; CPU of the generator %s in %s\n",
			v.name, t.perCPUSecond(), t.perSecond(), 100*t.cpu.Seconds()/t.wall.Seconds(), t.lost, ownCPU()-own, t.wall)
		return nil
	})
}
