package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/nft"
	"github.com/sixacre/sixacre/rtnl"
)

const (
	loadedNICs = 200
	manyPeers  = 10_000 // members of the remote group that gets one more

	changesInRow = 10 // of each kind
)

// changeKinds are the changes whose time is taken, each to a host with 200 NICs
// and a remote group of 10,000.
var changeKinds = []struct {
	name string
	to   func(v *sixacre.View, n int) // makes the nth such change, and leaves alone what other views share
}{
	{"a prefix of a NIC", func(v *sixacre.View, n int) {
		v.Instances = slices.Clone(v.Instances)
		i := &v.Instances[n]
		i.NICs = slices.Clone(i.NICs)
		i.NICs[0].Prefixes = append(slices.Clone(i.NICs[0].Prefixes), clientPrefix(uint64(1000+n)))
	}},
	{"a rule of a group", func(v *sixacre.View, n int) {
		v.Groups = slices.Clone(v.Groups)
		g := &v.Groups[n]
		port := uint16(30_000 + n)
		g.Rules = append(slices.Clone(g.Rules), sixacre.Rule{
			ID: len(g.Rules) + 1, Direction: sixacre.In, Protocol: sixacre.TCP, Ports: sixacre.Ports{{First: port, Last: port}},
		})
	}},
	{"a member of a group of 10,000", func(v *sixacre.View, n int) {
		v.Members = slices.Clone(v.Members)
		m := &v.Members[0]
		m.Addresses = append(slices.Clone(m.Addresses), addressIn(peersNet, uint16(manyPeers+1+n)))
	}},
}

// times are how long it took to make the kernel's filter what it is to be.
type times struct {
	empty, resync   []time.Duration            // all of it, into an empty kernel and over itself
	kernel, through map[string][]time.Duration // one change, compiled and applied, and through the agent; by kind
	resident, peak  int                        // octets of the agent after those
}

// measureChanges takes them, in so many rounds. The program is sixacre; without,
// nothing is asked of the agent.
func measureChanges(ctx context.Context, program, dir string, rounds int) (times, error) {
	t := times{kernel: map[string][]time.Duration{}, through: map[string][]time.Duration{}}
	for range rounds {
		r, err := newRig(ctx, unfiltered, loadedNICs)
		if err != nil {
			return t, err
		}
		err = r.inside(func() error {
			if err := everyProcessor(); err != nil {
				return err
			}
			return errors.Join(t.load(ctx), t.change(ctx))
		})
		r.close()
		if err != nil {
			return t, err
		}
	}
	if program == "" {
		return t, nil
	}
	return t, t.ask(ctx, program, dir)
}

// unfiltered is a rig for what loads a ruleset itself.
var unfiltered = ruleset{name: "changing", load: func(context.Context, *rig) error { return nil }, filters: true}

// ask has an agent follow the same changes, and takes the time from the server's
// telling it to its report that the change is in force.
func (t *times) ask(ctx context.Context, program, dir string) error {
	r, err := newRig(ctx, unfiltered, loadedNICs)
	if err != nil {
		return err
	}
	defer r.close()
	server, err := r.newAuthority(ctx, dir)
	if err != nil {
		return err
	}
	defer server.http.Close()
	a, err := r.startAgent(ctx, program, server, dir)
	if err != nil {
		return err
	}
	defer a.stop(syscall.SIGKILL)
	view := filterView(loadedNICs, manyPeers)
	a.views <- view
	if err := a.inForce(view.Revision, loadedNICs); err != nil {
		return err
	}
	for n := range 3 * changesInRow {
		for _, c := range changeKinds {
			next := view
			next.Revision++
			c.to(&next, n)
			change, _ := view.Change(next)
			view = next
			began := time.Now()
			a.views <- change
			if err := a.inForce(view.Revision, loadedNICs); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			t.through[c.name] = append(t.through[c.name], time.Since(began))
		}
	}
	t.resident, t.peak, err = a.resident()
	return err
}

// everyProcessor lets the calling thread, and what it starts, run anywhere.
func everyProcessor() error {
	var all []int
	for n := range runtime.NumCPU() {
		all = append(all, n)
	}
	return pin(0, all)
}

// load fills the empty kernel, and fills it again as an agent does that has just
// been started.
func (t *times) load(ctx context.Context) error {
	h, err := hostOf(ctx, filterView(loadedNICs, remotePeers))
	if err != nil {
		return err
	}
	for _, into := range []*[]time.Duration{&t.empty, &t.resync} {
		began := time.Now()
		if err := new(nft.Kernel).Apply(ctx, firewall.Compile(h)); err != nil {
			return err
		}
		*into = append(*into, time.Since(began))
	}
	return nil
}

// change makes a few changes of each kind, one by one.
func (t *times) change(ctx context.Context) error {
	view := filterView(loadedNICs, manyPeers)
	h, err := hostOf(ctx, view)
	if err != nil {
		return err
	}
	kernel, rules := &nft.Kernel{}, firewall.Compile(h)
	if err := kernel.Apply(ctx, rules); err != nil {
		return err
	}
	for n := range changesInRow {
		for _, c := range changeKinds {
			c.to(&view, n)
			next, err := hostOf(ctx, view)
			if err != nil {
				return err
			}
			began := time.Now()
			rules = rules.Next(next)
			if err := kernel.Apply(ctx, rules); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			t.kernel[c.name] = append(t.kernel[c.name], time.Since(began))
		}
	}
	return nil
}

// hostOf is what the agent makes of the view on a rig. The calling thread must be
// in its namespace.
func hostOf(ctx context.Context, v sixacre.View) (firewall.Host, error) {
	mode, err := nft.Probe(ctx)
	if err != nil {
		return firewall.Host{}, err
	}
	ports, err := rtnl.Links{}.BridgePorts()
	if err != nil {
		return firewall.Host{}, err
	}
	h := firewall.Host{Mode: mode, Taps: filterTaps, Pods: v.Pods, Groups: v.Groups, Members: v.Members}
	taps := map[string]int{}
	for _, p := range ports {
		taps[p.Device] = p.Index
		if p.Device == filterUplink {
			h.Bridges = []firewall.Bridge{{Name: p.Bridge, Index: p.BridgeIndex, Zone: 7}}
			h.Uplinks = []firewall.Uplink{{Device: p.Device, Index: p.Index, Bridge: p.Bridge}}
		}
	}
	for _, i := range v.Instances {
		for _, n := range i.NICs {
			h.Ports = append(h.Ports, firewall.Port{Device: n.Device, Index: taps[n.Device], Bridge: filterBridge, NIC: n})
		}
	}
	return h, nil
}
