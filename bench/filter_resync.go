package main

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/nft"
)

const (
	resyncs  = 200 // how often all of the filter is set anew under traffic
	restarts = 5   // and the agent is killed and started
)

// passage is how many packets of a class were sent, and how many arrived.
type passage struct{ sent, arrived uint64 }

// wrong is how many were lost that should have passed, or passed that should not
// have.
func (p passage) wrong(c class) uint64 {
	if c.forbidden {
		return p.arrived
	}
	return p.sent - p.arrived
}

// steady are the classes that are sent while the filter changes.
var steady = append(classes[:len(classes):len(classes)], spoofing)

// during sends packets of each steady class in turn for as long as f runs, and
// tells what became of them, by class. The flows are the same from first to last.
func (r *rig) during(ctx context.Context, f func() error) (map[string]passage, error) {
	// A new flow is soon forgotten: a NIC may have only so many at a time.
	err := r.inside(func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", []byte("1"), 0)
	})
	if err != nil {
		return nil, err
	}
	if err := r.establish(); err != nil {
		return nil, err
	}
	var over atomic.Bool
	done := make(chan error, 1)
	go func() {
		err := f()
		over.Store(true)
		done <- err
	}()
	passed, next := map[string]passage{}, map[string]int{}
	established, fresh := newVolley(establishedFlows), newVolley(establishedFlows/4)
	for !over.Load() && err == nil {
		for _, c := range steady {
			p, v := passed[c.name], established
			if c.fresh {
				v = fresh
			}
			r.fill(v, c, next[c.name])
			next[c.name] += len(v.frames)
			var before, after uint64
			if before, err = r.arrived(c.direction); err != nil {
				break
			}
			if err = v.send(r.sender(c.direction), len(v.frames)); err != nil {
				break
			}
			if after, err = r.arrived(c.direction); err != nil {
				break
			}
			p.sent += uint64(len(v.frames))
			p.arrived += after - before
			passed[c.name] = p
		}
	}
	if failed := <-done; err == nil {
		err = failed
	}
	return passed, err
}

// resync sets all of the filter anew under traffic, each time as an agent does
// that knows nothing of the kernel.
func resync(ctx context.Context, times int) (map[string]passage, error) {
	var rules firewall.Ruleset
	loaded := unfiltered
	loaded.load = func(ctx context.Context, _ *rig) error {
		h, err := hostOf(ctx, filterView(loadedNICs, remotePeers))
		if err != nil {
			return err
		}
		rules = firewall.Compile(h)
		return errors.Join(netfilter(ctx), new(nft.Kernel).Apply(ctx, rules))
	}
	r, err := newRig(ctx, loaded, loadedNICs)
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.during(ctx, func() error {
		return r.inside(func() error {
			if err := everyProcessor(); err != nil {
				return err
			}
			for range times {
				if err := new(nft.Kernel).Apply(ctx, rules); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// restart kills the agent under traffic and starts it anew, some times.
func restart(ctx context.Context, program, dir string, times int) (map[string]passage, error) {
	r, err := newRig(ctx, unfiltered, loadedNICs)
	if err != nil {
		return nil, err
	}
	defer r.close()
	server, err := r.newAuthority(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer server.http.Close()
	view := filterView(loadedNICs, remotePeers)
	start := func() (*agent, error) {
		a, err := r.startAgent(ctx, program, server, dir)
		if err != nil {
			return nil, err
		}
		view.Revision++
		a.views <- view
		return a, a.inForce(view.Revision, loadedNICs)
	}
	a, err := start()
	if err != nil {
		return nil, err
	}
	return r.during(ctx, func() error {
		for range times {
			a.stop(syscall.SIGKILL)
			if a, err = start(); err != nil {
				return err
			}
		}
		a.stop(syscall.SIGKILL)
		return nil
	})
}
