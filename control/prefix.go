package control

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/sixacre/sixacre"
)

// delegate plans to give the NIC exactly this prefix.
func (a *attempt) delegate(instance string, pod sixacre.Pod, n sixacre.NIC, prefix netip.Prefix) error {
	if prefix.IsValid() && prefix != prefix.Masked() {
		return sixacre.Errorf(sixacre.Invalid, "prefix %s has host bits set: write %s", prefix, prefix.Masked())
	}
	if _, ok := pod.PoolOf(prefix); !ok {
		return sixacre.Errorf(sixacre.Invalid, "prefix %s is not one that a pool of pod %s delegates: it has %v", prefix, pod.Name, pod.Pools)
	}
	d, found, err := read[sixacre.Delegation](a, sixacre.DelegationKey(prefix))
	switch {
	case err != nil:
		return err
	case found && d.State == sixacre.Delegated:
		return sixacre.Errorf(sixacre.Conflict, "prefix %s is delegated to instance %s: choose another", prefix, d.Instance)
	case found && (d.MAC != n.MAC || d.Pod != n.Pod):
		// Whoever had it last may come back to it: a lease that is still in
		// force is then its own.
		return sixacre.Errorf(sixacre.Conflict, "prefix %s is in quarantine after instance %s until %s: choose another", prefix, d.Instance, d.Until.Format(time.RFC3339))
	}
	longest := pod.ValidLifetime
	if found {
		longest = max(longest, d.LongestLifetime)
	}
	a.Put = append(a.Put, sixacre.Delegation{
		Prefix: prefix, State: sixacre.Delegated, Instance: instance, MAC: n.MAC, Pod: n.Pod,
		Granted: a.wall(), LongestLifetime: longest,
	})
	return nil
}

// delegateAny plans to give the NIC a free prefix of the same length as the
// first pool's, from the first of the pools that has one.
func (a *attempt) delegateAny(instance string, pod sixacre.Pod, n sixacre.NIC, pools []sixacre.Pool) (netip.Prefix, error) {
	if len(pools) == 0 {
		return netip.Prefix{}, sixacre.Errorf(sixacre.Invalid, "pod %s has no such pool: it has %v", pod.Name, pod.Pools)
	}
	var alike []sixacre.Pool
	for _, p := range pools {
		if p.DelegatedLength == pools[0].DelegatedLength {
			alike = append(alike, p)
		}
	}
	for {
		prefix, ok := a.pick(pod, alike)
		if !ok {
			return netip.Prefix{}, sixacre.Errorf(sixacre.Exhausted, "no prefix of %v of pod %s is free: release some, or wait for the end of a quarantine (see 'sixacre prefix list')", alike, pod.Name)
		}
		a.picked = append(a.picked, prefix)
		err := a.delegate(instance, pod, n, prefix)
		if sixacre.CodeOf(err) != sixacre.Conflict {
			return prefix, err
		}
	}
}

// rest plans to put a prefix that its holder gives up into quarantine: until no
// lease on it can be in force any more, nor any server answer from a state in
// which it was.
func (a *attempt) rest(prefix netip.Prefix) error {
	d, err := must[sixacre.Delegation](a, "prefix", sixacre.DelegationKey(prefix))
	if err != nil {
		return err
	}
	clock, err := a.clock()
	if err != nil {
		return err
	}
	d.State = sixacre.Quarantined
	d.Released = a.wall()
	d.Until = clock.Add(d.LongestLifetime.Duration() + sixacre.MaxStale)
	a.Put = append(a.Put, d)
	return nil
}

// clock returns the store's time. It is no condition: it only ever grows.
func (a *attempt) clock() (time.Time, error) {
	r, err := a.store.Get(a.ctx, sixacre.ClockKey)
	if c, ok := r.Noun.(sixacre.Clock); ok {
		return c.Now, err
	}
	return a.wall(), err
}

// wall is the time to record.
func (c *Control) wall() time.Time { return c.now().UTC().Truncate(time.Millisecond) }

// PrefixRequest asks for one more prefix of a NIC.
type PrefixRequest struct {
	Instance string       `json:"instance" required:"true" example:"i-1"`
	MAC      sixacre.MAC  `json:"mac,omitzero" doc:"Which NIC; may be left out where there is one"`
	Pod      string       `json:"pod,omitempty" doc:"Which NIC, where several have that MAC"`
	Prefix   netip.Prefix `json:"prefix,omitzero" doc:"Exactly this prefix; picked if not given"`
	Pool     netip.Prefix `json:"pool,omitzero" doc:"Pick from this pool"`
	Length   int          `json:"length,omitempty" doc:"Pick from a pool that delegates this length"`
}

// AddPrefix delegates one more prefix to a NIC.
func (c *Control) AddPrefix(ctx context.Context, req PrefixRequest) (sixacre.Delegation, error) {
	var made sixacre.Delegation
	err := c.change(ctx, func(a *attempt) error {
		i, err := must[sixacre.Instance](a, "instance", sixacre.Instance{Name: req.Instance}.Key())
		if err != nil {
			return err
		}
		at, err := i.NIC(req.MAC, req.Pod)
		if err != nil {
			return err
		}
		n := &i.NICs[at]
		pod, err := must[sixacre.Pod](a, "pod", sixacre.Pod{Name: n.Pod}.Key())
		if err != nil {
			return err
		}
		prefix := req.Prefix
		if prefix.IsValid() {
			err = a.delegate(i.Name, pod, *n, prefix)
		} else {
			pools := slices.DeleteFunc(slices.Clone(pod.Pools), func(p sixacre.Pool) bool {
				return req.Pool.IsValid() && p.Prefix != req.Pool || req.Length != 0 && p.DelegatedLength != req.Length
			})
			prefix, err = a.delegateAny(i.Name, pod, *n, pools)
		}
		if err != nil {
			return err
		}
		made = a.Put[len(a.Put)-1].(sixacre.Delegation)
		n.Prefixes = append(n.Prefixes, prefix)
		if err := i.Validate(); err != nil {
			return err
		}
		a.Put = append(a.Put, i)
		return nil
	})
	return made, err
}

// ReleasePrefix takes a prefix from its holder and puts it into quarantine.
func (c *Control) ReleasePrefix(ctx context.Context, prefix netip.Prefix) error {
	return c.change(ctx, func(a *attempt) error {
		d, found, err := read[sixacre.Delegation](a, sixacre.DelegationKey(prefix))
		switch {
		case err != nil:
			return err
		case !found:
			return sixacre.Errorf(sixacre.NotFound, "prefix %s is not delegated to anybody: see 'sixacre prefix list'", prefix)
		case d.State == sixacre.Quarantined:
			return sixacre.Errorf(sixacre.Conflict, "prefix %s was released already, by instance %s", prefix, d.Instance)
		}
		i, err := must[sixacre.Instance](a, "instance", sixacre.Instance{Name: d.Instance}.Key())
		if err != nil {
			return err
		}
		for k, n := range i.NICs {
			if n.MAC == d.MAC && n.Pod == d.Pod {
				i.NICs[k].Prefixes = slices.DeleteFunc(n.Prefixes, func(p netip.Prefix) bool { return p == prefix })
			}
		}
		a.Put = append(a.Put, i)
		return a.rest(prefix)
	})
}

// Delegations returns all prefixes that are held or in quarantine, in order.
func (c *Control) Delegations(ctx context.Context) ([]sixacre.Delegation, error) {
	ds, err := list[sixacre.Delegation](ctx, c, sixacre.KindDelegation)
	slices.SortFunc(ds, func(a, b sixacre.Delegation) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	return ds, err
}

// sweepBatch bounds one transaction of a sweep.
const sweepBatch = 60

// Tick advances the store's clock by the time that this process has seen pass
// since the last Tick, and ends the quarantines that are over by that clock. It
// is to be called about once a minute, by one server.
func (c *Control) Tick(ctx context.Context) error {
	now := c.instant()
	passed := min(now.uptime-c.ticked.uptime, now.wall.Sub(c.ticked.wall))
	c.ticked = now
	r, err := c.store.Get(ctx, sixacre.ClockKey)
	if err != nil {
		return err
	}
	clock, started := r.Noun.(sixacre.Clock)
	if !started {
		clock.Now = c.wall()
	} else if passed > 0 {
		clock.Now = clock.Now.Add(passed)
	}
	if _, _, err := c.store.Commit(ctx, sixacre.Txn{
		Seen: []sixacre.Seen{{Key: sixacre.ClockKey, Revision: r.Revision}},
		Put:  []sixacre.Noun{clock},
	}); err != nil {
		return err
	}

	var over []sixacre.Seen
	c.mu.Lock()
	for _, r := range c.resting {
		if !clock.Now.Before(r.until) {
			over = append(over, r.Seen)
		}
	}
	c.mu.Unlock()
	for batch := range slices.Chunk(over, sweepBatch) {
		txn := sixacre.Txn{Seen: batch}
		for _, seen := range batch {
			txn.Delete = append(txn.Delete, seen.Key)
		}
		// What has changed meanwhile stays until the next Tick.
		if ok, _, err := c.store.Commit(ctx, txn); err != nil {
			return err
		} else if ok {
			slog.Info("quarantine is over", "prefixes", len(batch))
		}
	}
	return nil
}
