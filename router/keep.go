package router

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

const (
	// resyncEvery is how often the kernel's routes are read back although
	// nothing seems to have happened to them.
	resyncEvery = time.Minute
	// retryAfter is when a change that the kernel refused is tried again.
	retryAfter = time.Second
	// batch is how many Replies share one write to disk.
	batch = 256
)

// keep makes the kernel's routes what the table says, and lets each Reply go to
// its client once its routes are there.
func (r *Router) keep(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var resync time.Time
	for {
		var answers []answer
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-timer.C:
		case a := <-r.answers:
			answers = append(answers, a)
			for len(answers) < batch && len(r.answers) > 0 {
				answers = append(answers, <-r.answers)
			}
		}
		r.mu.Lock()
		in := r.inbox
		r.inbox = inbox{}
		r.mu.Unlock()

		now := time.Now()
		k := &r.keeper
		if in.view != nil {
			if err := k.table.follow(*in.view, r.pod, now); err != nil {
				slog.Error("view passed over", "err", err)
				in.view = nil
			} else {
				r.metrics.revision.Set(float64(in.view.Revision))
				r.mu.Lock()
				r.setScope(r.scope.Load().link, k.table.pod)
				r.mu.Unlock()
			}
		}
		for _, a := range answers {
			r.learn(a, now)
		}
		next := k.table.expire(now)
		all := in.all || !resync.After(now)
		for p := range in.lost {
			_, there := k.routes[p]
			all = all || there || k.blocked[p] // else the deletion was our own
		}
		ok := k.apply(all)
		if ok {
			resync = now.Add(resyncEvery)
		} else {
			resync = now.Add(retryAfter)
		}
		for _, a := range answers {
			r.deliver(ctx, a)
		}
		if in.view != nil {
			k.saved(k.journal.writeView(*in.view))
		}
		if next.IsZero() || resync.Before(next) {
			next = resync
		}
		timer.Reset(time.Until(next))
	}
}

// learn takes note of what a Reply says of prefixes.
func (r *Router) learn(a answer, now time.Time) {
	x := a.exchange
	d, err := parseDelegation(a.message)
	if err != nil {
		r.count(err) // the client may still make something of it
		return
	}
	t := r.keeper.table
	switch {
	case x.sent == dhcp6.Release:
		r.mu.Lock()
		confirmed := r.releases.confirmed(x, d, now)
		r.mu.Unlock()
		t.release(x, confirmed)
	case x.delegates() && d.status == dhcp6.StatusSuccess:
		for _, p := range d.prefixes {
			if err := t.grant(x, p.prefix, p.valid, now); err != nil {
				r.count(err)
				slog.Warn("delegation without a route", "prefix", p.prefix, "mac", x.mac, "reason", err)
			}
		}
	}
}

// keeper makes the kernel's routes equal to what the table says, and writes
// down what the table must not forget before it does.
type keeper struct {
	table   *table
	journal *journal
	kernel  Kernel
	metrics *metrics

	routes  map[netip.Prefix]netip.Addr // ours in the kernel, to delegated prefixes
	blocked map[netip.Prefix]bool       // ours in the kernel, unreachable
	known   []netip.Prefix              // pools that may have an unreachable route of ours
	failing bool
}

// apply writes down and puts in force what changed in the table. With all it
// reads the kernel's routes first and looks at every prefix. It returns false
// where something is left to be done.
func (k *keeper) apply(all bool) bool {
	touched, changed := k.table.take()
	var lines []line
	for _, e := range changed {
		lines = append(lines, line{entry: e})
	}
	pools := k.pools()
	if union := merged(k.known, pools); !slices.Equal(union, k.known) {
		k.known = union
		lines = append(lines, line{Pools: &union})
	}
	if len(lines) > 0 {
		k.saved(k.journal.append(lines))
	}

	ok := true
	if all || k.routes == nil {
		if err := k.read(); err != nil {
			k.report("routes cannot be read", err)
			return false
		}
		touched = slices.Collect(maps.Keys(k.routes))
		k.table.prefixes(func(p netip.Prefix) { touched = append(touched, p) })
	}
	for _, p := range k.known {
		ok = k.block(p, slices.Contains(pools, p)) && ok
	}
	for _, p := range touched {
		ok = k.route(p) && ok
	}
	if ok {
		k.failing = false
		if !slices.Equal(pools, k.known) {
			k.known = pools
			k.saved(k.journal.append([]line{{Pools: &pools}}))
		}
	}
	if k.journal.worn() {
		k.saved(k.journal.rewrite(slices.Collect(maps.Values(k.table.entries)), k.known))
	}
	k.metrics.routes.Set(float64(len(k.routes)))
	return ok
}

func (k *keeper) pools() []netip.Prefix {
	out := []netip.Prefix{}
	for _, p := range k.table.pod.Pools {
		out = append(out, p.Prefix)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

func merged(a, b []netip.Prefix) []netip.Prefix {
	out := slices.Concat(a, b)
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// read learns which routes of ours the kernel holds. Of several to one prefix
// it keeps the one that the table wants.
func (k *keeper) read() error {
	have, err := k.kernel.Routes()
	if err != nil {
		return err
	}
	k.routes, k.blocked = map[netip.Prefix]netip.Addr{}, map[netip.Prefix]bool{}
	for _, route := range have {
		p := route.Prefix
		if !route.NextHop.IsValid() {
			k.blocked[p] = true
			continue
		}
		spare, twice := k.routes[p]
		if !twice {
			k.routes[p] = route.NextHop
			continue
		}
		if want, ok := k.table.nextHop(p); ok && want == route.NextHop {
			k.routes[p] = route.NextHop
		} else {
			spare = route.NextHop
		}
		if err := k.kernel.Replace(sixacre.Route{Prefix: p, NextHop: spare}, sixacre.Route{}); err != nil {
			return err
		}
	}
	return nil
}

// route makes the kernel's route to a delegated prefix what the table says.
func (k *keeper) route(p netip.Prefix) bool {
	want, wanted := k.table.nextHop(p)
	have, there := k.routes[p]
	if wanted == there && want == have {
		return true
	}
	var old, next sixacre.Route
	if there {
		old = sixacre.Route{Prefix: p, NextHop: have}
	}
	if wanted {
		next = sixacre.Route{Prefix: p, NextHop: want}
	}
	if err := k.kernel.Replace(old, next); err != nil {
		k.metrics.refused.Inc()
		k.report("route cannot be changed", err)
		return false
	}
	switch {
	case !wanted:
		delete(k.routes, p)
		slog.Info("route withdrawn", "prefix", p, "via", have)
	case !there:
		k.routes[p] = want
		slog.Info("route added", "prefix", p, "via", want)
	default:
		k.routes[p] = want
		slog.Info("route moved", "prefix", p, "from", have, "via", want)
	}
	return true
}

// block keeps or ends the unreachable route of a pool, without which a packet to
// a prefix that nobody holds would go back out of the default route.
func (k *keeper) block(pool netip.Prefix, wanted bool) bool {
	if wanted == k.blocked[pool] {
		return true
	}
	old, next := sixacre.Route{Prefix: pool}, sixacre.Route{}
	if wanted {
		old, next = next, old
	}
	if err := k.kernel.Replace(old, next); err != nil {
		k.metrics.refused.Inc()
		k.report("unreachable route of the pool cannot be changed", err)
		return false
	}
	k.blocked[pool] = wanted
	return true
}

// report logs the first of a row of failures; the retries are counted.
func (k *keeper) report(what string, err error) {
	if !k.failing {
		slog.Error(what, "err", err)
	}
	k.failing = true
}

// saved logs that something could not be written down. The routes go on: what is
// lost is that they would survive the process.
func (k *keeper) saved(err error) {
	if err != nil {
		k.metrics.unsaved.Inc()
		slog.Error("state cannot be written", "err", err)
	}
}
