package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// nicCounts are how many NICs a host has in the tables; the targets that compare
// rulesets hold at one of them.
var nicCounts = []int{1, 50, 200, 500}

const comparedNICs = 200

// filtering is a run of all figures of the filter. Each round measures every class
// of packets under every ruleset, so that what else the machine does befalls all
// alike; ratios are taken within a round.
type filtering struct {
	want     time.Duration // CPU time per figure
	rulesets []ruleset
	nics     []int
	classes  []class

	rigs    []*rig
	times   times
	resync  map[string]passage // by class
	restart map[string]passage
	syncs   int                   // how often all is set anew under traffic
	skipped []string              // rulesets that the machine lacks a program for
	costs   map[costKey][]float64 // nanoseconds a packet, a figure a round
}

type costKey struct {
	ruleset string
	nics    int
	class   string
}

func filterCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench filter", flag.ExitOnError)
	rounds := f.Int("rounds", 7, "how often to measure what a packet costs")
	quick := f.Bool("quick", false, "three short rounds, a tenth of the syncs: a minute, and rough")
	only := f.String("only", "", "measure only what a packet costs, and only under these `RULESETS`: of "+names(rulesets)+", with commas between")
	nics := f.Int("nics", 0, "with -only, measure hosts with so many NICs alone")
	kind := f.String("class", "", "with -only, measure one `CLASS` of packets alone: of "+names(classes))
	program := f.String("sixacre", "bin/sixacre", "the `PROGRAM` whose agent is measured; if it is not there, none is")
	syncs := f.Int("syncs", resyncs, "how often to set all of the filter anew under traffic")
	want := f.Duration("for", 40*time.Millisecond, "CPU time of each figure")
	if err := f.Parse(args); err != nil {
		return err
	}
	e := &filtering{want: *want, rulesets: rulesets, nics: nicCounts, classes: classes, syncs: *syncs, costs: map[costKey][]float64{}}
	if *only != "" {
		e.rulesets = nil
		for name := range strings.SplitSeq(*only, ",") {
			s, err := named(rulesets, name)
			if err != nil {
				return err
			}
			e.rulesets = append(e.rulesets, s)
		}
		if *nics > 0 {
			e.nics = []int{*nics}
		}
		if *kind != "" {
			c, err := named(classes, *kind)
			if err != nil {
				return err
			}
			e.classes = []class{c}
		}
	}
	if *quick {
		*rounds, e.want, e.syncs = 3, *want/3, *syncs/10
	}
	// One thread sends: it must not move, and another processor than the first
	// has fewer of the machine's interrupts.
	runtime.LockOSThread()
	if err := pin(0, []int{runtime.NumCPU() - 1}); err != nil {
		return err
	}
	began := time.Now()
	defer e.close()
	if *rounds > 0 {
		if err := e.build(ctx); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "bench: %d rigs after %s\n", len(e.rigs), time.Since(began).Round(time.Second))
	}
	for n := range *rounds {
		if err := e.round(ctx); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "bench: round %d of %d after %s\n", n+1, *rounds, time.Since(began).Round(time.Second))
	}
	if *only == "" {
		if err := e.life(ctx, *program); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "bench: done after %s\n", time.Since(began).Round(time.Second))
	}
	e.report(os.Stdout, *rounds)
	return nil
}

// named finds the ruleset or the class of that name.
func named[T fmt.Stringer](all []T, name string) (T, error) {
	for _, x := range all {
		if x.String() == name {
			return x, nil
		}
	}
	var none T
	return none, fmt.Errorf("%q is not known: use %s", name, names(all))
}

func names[T fmt.Stringer](all []T) string {
	var out []string
	for _, x := range all {
		out = append(out, x.String())
	}
	return strings.Join(out, ", ")
}

// build makes a rig for each ruleset and number of NICs.
func (e *filtering) build(ctx context.Context) error {
	for _, s := range e.rulesets {
		if program := s.missing(); program != "" {
			e.skipped = append(e.skipped, fmt.Sprintf("%s: %s is not installed", s.title, program))
			continue
		}
		for _, n := range e.nics {
			r, err := newRig(ctx, s, n)
			if err != nil {
				return fmt.Errorf("%s, %d NICs: %w", s.name, n, err)
			}
			e.rigs = append(e.rigs, r)
		}
	}
	return nil
}

// life measures what changing the filter takes, and what it does to packets.
func (e *filtering) life(ctx context.Context, program string) error {
	dir, err := os.MkdirTemp("", "sixacre-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if program, err = exec.LookPath(program); err != nil {
		e.skipped = append(e.skipped, fmt.Sprintf("the agent: %s: build it first", err))
		program = ""
	}
	if e.times, err = measureChanges(ctx, program, filepath.Join(dir, "changes"), 3); err != nil {
		return err
	}
	if e.resync, err = resync(ctx, e.syncs); err != nil || program == "" {
		return err
	}
	e.restart, err = restart(ctx, program, filepath.Join(dir, "restart"), restarts)
	return err
}

func (e *filtering) close() {
	for _, r := range e.rigs {
		r.close()
	}
}

func (e *filtering) round(ctx context.Context) error {
	v := newVolley(volleySize)
	for _, c := range e.classes {
		for _, n := range e.nics {
			for _, r := range e.rigs {
				if r.nics != n {
					continue
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				ns, err := r.cost(c, v, e.want)
				if err != nil {
					return err
				}
				key := costKey{r.ruleset.name, n, c.name}
				e.costs[key] = append(e.costs[key], ns)
			}
		}
	}
	return nil
}
