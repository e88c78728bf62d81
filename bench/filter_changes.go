package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/nft"
)

const (
	loadedNICs = 200
	manyPeers  = 10_000 // members of the remote group that gets one more
)

// changeKinds are the changes whose time is taken, each to a host with 200 NICs
// and a remote group of 10,000.
var changeKinds = []struct {
	name string
	to   func(v *sixacre.View, n int) // makes the nth such change
}{
	{"a prefix of a NIC", func(v *sixacre.View, n int) {
		nic := &v.Instances[n].NICs[0]
		nic.Prefixes = append(slices.Clone(nic.Prefixes), clientPrefix(uint64(1000+n)))
	}},
	{"a rule of a group", func(v *sixacre.View, n int) {
		g := &v.Groups[n]
		port := uint16(30_000 + n)
		g.Rules = append(slices.Clone(g.Rules), sixacre.Rule{
			ID: len(g.Rules) + 1, Direction: sixacre.In, Protocol: sixacre.TCP, Ports: sixacre.Ports{{First: port, Last: port}},
		})
	}},
	{"a member of a group of 10,000", func(v *sixacre.View, n int) {
		m := &v.Members[0]
		m.Addresses = append(slices.Clone(m.Addresses), addressIn(peersNet, uint16(manyPeers+1+n)))
	}},
}

// times are how long it took to make the kernel's filter what it is to be.
type times struct {
	empty, resync   []time.Duration            // all of it, into an empty kernel and over itself
	kernel, through map[string][]time.Duration // one change, compiled and applied, and through the agent; by kind
}

// measureChanges takes them, in so many rounds.
func measureChanges(ctx context.Context, rounds int) (times, error) {
	t := times{kernel: map[string][]time.Duration{}, through: map[string][]time.Duration{}}
	for range rounds {
		r, err := newRig(ctx, ruleset{name: "changes", load: func(context.Context, *rig) error { return nil }}, loadedNICs)
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
	return t, nil
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
	for n := range 5 {
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

// hostOf is what the agent makes of the view on a rig.
func hostOf(ctx context.Context, v sixacre.View) (firewall.Host, error) {
	mode, err := nft.Probe(ctx)
	h := firewall.Host{
		Mode:    mode,
		Taps:    filterTaps,
		Limits:  filterLimits(),
		Bridges: []firewall.Bridge{{Name: filterBridge, Zone: 7}},
		Uplinks: []firewall.Uplink{{Device: filterUplink, Bridge: filterBridge}},
		Pods:    v.Pods,
		Groups:  v.Groups,
		Members: v.Members,
	}
	for _, i := range v.Instances {
		for _, n := range i.NICs {
			h.Ports = append(h.Ports, firewall.Port{Device: n.Device, Bridge: filterBridge, NIC: n})
		}
	}
	return h, err
}
