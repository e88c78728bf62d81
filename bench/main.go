// Command bench measures the DHCPv6 server and the filter beside their limits and
// their peers, and prints the tables of docs/benchmarks.md. It needs root.
//
// The DHCPv6 server stands beside a bare echo with recvmmsg and sendmmsg, one with
// UDP_SEGMENT, ISC Kea, CoreDHCP and a minimal server on CoreDHCP's library, all
// with the same reservations, over the same veth pair, asked by the same
// generator. It needs two processors: the servers have the first, the generator
// the second.
//
// The filter stands beside the plain bridge, connection tracking alone, and the
// linear chains of CloudStack and of Neutron, all on bridges of the same kind.
//
//	bench dhcp6 [-quick]         every figure of the DHCPv6 server
//	bench load -server NAME …    one server under one load
//	bench filter [-quick]        every figure of the filter
package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"github.com/sixacre/sixacre/dhcp6"
)

const usage = `bench dhcp6 [-quick] [-reservations N] [-rounds N]
    measure the DHCPv6 server and print the tables
bench filter [-quick] [-rounds N]
    measure the filter and print the tables; for one ruleset see bench filter -help
bench load -server sixacre|echo|segments|trains|library|coredhcp|kea [flags]
    put one load on one server and print what came of it; see bench load -help
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	name, args := "", os.Args[1:]
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	var err error
	switch name {
	case "dhcp6":
		err = dhcp6Command(ctx, args)
	case "filter":
		err = filterCommand(ctx, args)
	case "load":
		err = loadCommand(ctx, args)
	case "serve", "library", "echo", "segments", "trains": // what the two above start
		err = child(name, args)
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
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
		return fmt.Errorf("%s is started by dhcp6 and load", name)
	}
	at, err := netip.ParseAddr(args[0])
	if err != nil {
		return err
	}
	if name != "serve" && name != "library" {
		runtime.LockOSThread()
		sizes := map[int]int{}
		for _, pair := range args[1:] {
			var asked, answered int
			if _, err := fmt.Sscanf(pair, "%d:%d", &asked, &answered); err != nil {
				return err
			}
			sizes[asked] = answered
		}
		return echo(at, sizes, name)
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
	case "echo", "segments", "trains":
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
		return nil, fmt.Errorf("server %q is not known: use sixacre, echo, segments, trains, library, coredhcp or kea", name)
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
