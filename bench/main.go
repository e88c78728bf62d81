// Command bench measures the DHCPv6 server beside its limits and its peers: a
// bare echo with recvmmsg and sendmmsg, one with UDP_SEGMENT, ISC Kea, CoreDHCP
// and a minimal server on CoreDHCP's library, all with the same reservations,
// over the same veth pair, asked by the same generator. It needs root and two
// processors: the servers have the first, the generator the second.
//
//	bench all [-quick]           every figure, as docs/benchmarks.md shows them
//	bench load -server NAME …    one server under one load
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/sixacre/sixacre/dhcp6"
)

const usage = `bench all [-quick] [-reservations N] [-rounds N]
    run everything and print the tables
bench load -server sixacre|echo|segments|library|coredhcp|kea [flags]
    put one load on one server and print what came of it; see bench load -help
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := errors.New(usage)
	if len(os.Args) > 1 {
		switch name, args := os.Args[1], os.Args[2:]; name {
		case "all":
			err = allCommand(ctx, args)
		case "load":
			err = loadCommand(ctx, args)
		case "serve", "library", "echo", "segments": // what the two above start
			err = child(name, args)
		}
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// child is one of the servers that are in this program: serve and library take an
// address and the number of reservations, the echoes an address and pairs of
// sizes, asked:answered.
func child(name string, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("%s is started by all and load", name)
	}
	at, err := netip.ParseAddr(args[0])
	if err != nil {
		return err
	}
	if name == "echo" || name == "segments" {
		runtime.LockOSThread()
		sizes := map[int]int{}
		for _, pair := range args[1:] {
			var asked, answered int
			if _, err := fmt.Sscanf(pair, "%d:%d", &asked, &answered); err != nil {
				return err
			}
			sizes[asked] = answered
		}
		return echo(at, sizes, name == "segments")
	}
	reservations, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if name == "library" {
		return library(at, reservations)
	}
	return serve(at, reservations)
}

// bench is the site, the generator and the servers of a run.
type bench struct {
	*generator
	ctx     context.Context
	site    *site
	dir     string
	known   int // reservations of every server
	servers int // started
}

// on runs f with a bench for so many servers. The calling goroutine becomes the
// generator's thread.
func on(ctx context.Context, known, servers int, f func(*bench) error) error {
	if known < 1 || known > maxClients {
		return fmt.Errorf("%d reservations: 1 to %d are possible", known, maxClients)
	}
	if runtime.NumCPU() < 2 {
		return errors.New("one processor: the servers and the generator need one each")
	}
	runtime.LockOSThread()
	memory := "/dev/shm"
	if _, err := os.Stat(memory); err != nil {
		memory = "" // the usual place, perhaps on a disk
	}
	dir, err := os.MkdirTemp(memory, "sixacre-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := keepTo(generatorCore); err != nil {
		return err
	}
	b := &bench{ctx: ctx, dir: dir, known: known}
	if b.site, err = newSite(ctx, servers); err != nil {
		return err
	}
	if b.generator, err = newGenerator(known); err != nil {
		return err
	}
	return f(b)
}

const (
	serverCore    = 0
	generatorCore = 1
)

// keepTo binds all threads of this process to one processor.
func keepTo(core int) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		thread, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := pin(thread, []int{core}); err != nil {
			return fmt.Errorf("processor %d: %w", core, err)
		}
	}
	return nil
}

// questions are all that the generator asks.
var questions = []question{{kind: dhcp6.Solicit}, {kind: dhcp6.Request}, {kind: dhcp6.Solicit, remoteID: true}, {kind: dhcp6.Request, remoteID: true}}

// launch starts a server by its name.
func (b *bench) launch(name string, cores ...int) (*server, error) {
	at := serverAddr(b.servers)
	b.servers++
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var p program
	switch name {
	case "sixacre":
		p = program{name: name, args: []string{self, "serve", at.String(), strconv.Itoa(b.known)}, talks: true, right: exact}
	case "library":
		p = program{name: name, args: []string{self, name, at.String(), strconv.Itoa(b.known)}, right: exact}
	case "echo", "segments":
		p = program{name: name, args: []string{self, name, at.String()}}
		sizes := map[question]int{}
		for _, q := range questions {
			if sizes[q], err = q.answerSize(); err != nil {
				return nil, err
			}
			p.args = append(p.args, fmt.Sprintf("%d:%d", len(q.template().b), sizes[q]))
		}
		p.right = echoed(sizes)
	case "kea":
		p, err = kea(b.dir, at, b.known)
	case "coredhcp":
		p, err = coredhcp(b.dir, at, b.known)
	default:
		return nil, fmt.Errorf("server %q is not known: use sixacre, echo, segments, library, coredhcp or kea", name)
	}
	if err != nil {
		return nil, err
	}
	p.cores = cores
	if len(cores) > 1 {
		p.name += strconv.Itoa(len(cores))
	}
	return b.site.start(b.ctx, p, at, b.dir)
}

// depth is how many requests are queued for a server at a time: enough that each
// batch that it takes is a full one, few enough that they stay in the processor's
// cache.
func depth(name string) int {
	switch name {
	case "kea":
		return 1 << 10
	case "coredhcp", "library":
		return 1 << 12
	}
	return 1 << 14
}

const loadTime = 5 * time.Minute // for a server to load its reservations

func loadCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench load", flag.ExitOnError)
	name := f.String("server", "sixacre", "sixacre, echo, segments, library, coredhcp or kea")
	cores := f.Int("cores", 1, "processors of the server; with all of them, the generator shares the second")
	known := f.Int("reservations", maxClients, "how many clients the server knows")
	request := f.Bool("request", false, "send Request instead of Solicit")
	remoteID := f.Bool("remote-id", false, "have the relays insert option 37 beside 18 and 79")
	relays := f.Int("relays", 1, "how many relays the messages come from, in turn")
	train := f.Int("train", 1, "messages from a relay before one from the next")
	joined := f.Bool("joined", false, "send each train with UDP_SEGMENT; it reaches a server that has UDP_GRO set as one")
	f.Bool("known", true, "ask for clients that the server knows alone; the default")
	unknown := f.Bool("unknown", false, "ask for unknown clients alone")
	mix := f.Int("mix", 0, "ask for so many unknown clients among 100")
	rate := f.Int("rate", 0, "messages per second; flat out if not given")
	queued := f.Int("queued", 0, "hold the server up, queue so many messages, and let it go, instead of asking it as it runs")
	updates := f.Int("updates", 0, "change so many reservations per second meanwhile (sixacre alone)")
	d := f.Duration("for", 2*time.Second, "how long; with -queued, CPU time of the server")
	if err := f.Parse(args); err != nil {
		return err
	}
	l := load{question: question{kind: dhcp6.Solicit, remoteID: *remoteID}, relays: *relays, train: *train, unknown: *mix, joined: *joined}
	if *request {
		l.kind = dhcp6.Request
	}
	if *unknown {
		l.unknown = 100
	}
	if l.relays < 1 || l.relays > maxRelays || l.train < 1 || l.train > maxTrain {
		return fmt.Errorf("1 to %d relays and trains of 1 to %d are possible", maxRelays, maxTrain)
	}
	return on(ctx, *known, 1, func(b *bench) error {
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
				v.name, t.sent, t.lost, t.P50, t.P99, t.P999, t.busy, t.generator)
			return nil
		}
		var t tally
		if *queued > 0 {
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
