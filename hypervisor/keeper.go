package hypervisor

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// keeper does what a change leaves to do once it is in force, so that the next
// change need not wait: writing down, and forgetting.
type keeper struct {
	mu   sync.Mutex
	todo chores
}

// chores are what changes left to do.
type chores struct {
	now     *moment                   // to write down
	gone    []firewall.Port           // of whom the kernel need remember nothing
	changes []change                  // that may cut flows
	lost    []func(sixacre.Flow) bool // flows of addresses that nobody here holds any more
}

// change is one of the policy.
type change struct{ before, after firewall.Ruleset }

func (k *keeper) add(c chores) {
	k.mu.Lock()
	k.todo.now = c.now
	k.todo.gone = append(k.todo.gone, c.gone...)
	k.todo.changes = append(k.todo.changes, c.changes...)
	k.todo.lost = append(k.todo.lost, c.lost...)
	k.mu.Unlock()
}

func (k *keeper) take() chores {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.todo
	k.todo = chores{}
	return c
}

// keep does the chores until the context ends, and then those that are left. The
// view and the status are written once a second at most.
func (a *Agent) keep(ctx context.Context) {
	var saved *sixacre.View
	var now *moment // not written down yet
	var written time.Time
	later := time.NewTimer(0)
	defer later.Stop()
	for ended := false; !ended; {
		due := false
		select {
		case <-ctx.Done():
			ended, due = true, true
		case <-later.C:
			due = true
		case <-a.chored():
		}
		c := a.keeper.take()
		a.forget(c)
		if c.now != nil {
			if now == nil {
				later.Reset(time.Until(written.Add(time.Second)))
			}
			now = c.now
		}
		if !due || a.State == "" || now == nil {
			continue
		}
		written = time.Now()
		if now.view != saved {
			if err := write(a.State, viewFile, now.view); err != nil {
				a.Log.Warn("the view is not saved: a restart without the server would not know it", "reason", err)
			} else {
				saved = now.view
			}
		}
		if err := write(a.State, statusFile, a.status(*now)); err != nil {
			a.Log.Warn("the status is not saved: 'sixacre agent status' shows an older one", "reason", err)
		}
		now = nil
	}
}

// forget takes out of the kernel what is about guests that are gone, and about
// connections that may be no more.
func (a *Agent) forget(c chores) {
	if len(c.gone) > 0 {
		if err := a.Memory.Forget(context.Background(), c.gone); err != nil {
			a.Log.Warn("what was counted of guests that are gone is still there", "reason", err)
		}
	}
	var cuts []func(sixacre.Flow) bool
	for _, change := range c.changes {
		if cut := change.after.Cut(change.before); cut != nil {
			cuts = append(cuts, cut)
		}
	}
	if len(cuts)+len(c.lost) == 0 {
		return
	}
	if err := a.end(cuts, c.lost); err != nil {
		a.Log.Warn("connections that are no longer allowed may go on until they time out", "reason", err)
	}
}

// end ends connections. Those that a rule cuts are held first: else what the guest
// goes on sending would open them from its side.
func (a *Agent) end(cuts, lost []func(sixacre.Flow) bool) error {
	matches := func(all []func(sixacre.Flow) bool, f sixacre.Flow) bool {
		return slices.ContainsFunc(all, func(ends func(sixacre.Flow) bool) bool { return ends(f) })
	}
	var held error
	if len(cuts) > 0 {
		var cut []sixacre.Flow
		if _, err := a.Memory.EndConnections(func(f sixacre.Flow) bool {
			if matches(cuts, f) {
				cut = append(cut, f)
			}
			return false
		}); err != nil {
			return err
		}
		held = a.Memory.Hold(context.Background(), cut)
	}
	ended, err := a.Memory.EndConnections(func(f sixacre.Flow) bool { return matches(cuts, f) || matches(lost, f) })
	if ended > 0 {
		a.Log.Info("ended connections", "number", ended)
	}
	return errors.Join(held, err)
}

// leftovers adds what the change to next leaves to do.
func (a *Agent) leftovers(c chores, finds []find, next firewall.Ruleset) chores {
	c.changes = []change{{a.rules, next}}
	now := map[nicKey]find{}
	held := map[netip.Prefix]bool{}
	for _, f := range finds {
		now[f.key()] = f
		for _, p := range f.holds() {
			held[p] = true
		}
	}
	lost := map[netip.Prefix]bool{}
	for key, was := range a.last {
		is, stays := now[key]
		if was.port.Device != "" && (!stays || is.port.Index != was.port.Index) {
			c.gone = append(c.gone, firewall.Port{Device: was.port.Device, Index: was.port.Index, Bridge: was.port.Bridge, NIC: was.nic})
		}
		for _, p := range was.holds() {
			if !held[p] {
				lost[p] = true
			}
		}
	}
	a.last = now
	if len(lost) > 0 {
		c.lost = append(c.lost, endsOf(lost))
	}
	return c
}

// holds returns what the NIC holds while it runs, addresses as prefixes. A tap
// that is off its bridge for a moment does not end what it is used for.
func (f find) holds() []netip.Prefix {
	if f.nic.State == sixacre.Stopped {
		return nil
	}
	out := slices.Clone(f.nic.Prefixes)
	if f.nic.Address.IsValid() {
		out = append(out, netip.PrefixFrom(f.nic.Address, 128))
	}
	return out
}

func (f find) key() nicKey { return nicKey{f.nic.Pod, f.nic.MAC} }

// endsOf matches flows from and to addresses that nobody here holds any more.
func endsOf(lost map[netip.Prefix]bool) func(sixacre.Flow) bool {
	lengths := map[int]bool{}
	for p := range lost {
		lengths[p.Bits()] = true
	}
	return func(f sixacre.Flow) bool {
		for bits := range lengths {
			for _, end := range []netip.Addr{f.Source, f.Destination} {
				if p, err := end.Prefix(bits); err == nil && lost[p] {
					return true
				}
			}
		}
		return false
	}
}

// Status is what the agent writes down of itself for 'sixacre agent status'.
type Status struct {
	PID         int         `json:"pid"`
	Time        time.Time   `json:"time" doc:"When this was written"`
	Connections string      `json:"connections" doc:"How connections are known: br_netfilter or nf_conntrack_bridge"`
	Revision    int64       `json:"revision" doc:"Store revision of the view in force"`
	Problem     string      `json:"problem,omitempty" doc:"Why the filter is not what it should be"`
	NICs        []NICStatus `json:"nics"`
	Closed      []string    `json:"closed" doc:"Taps that pass nothing"`
}

// NICStatus is a NIC of the view and its tap.
type NICStatus struct {
	Instance   string      `json:"instance"`
	Pod        string      `json:"pod"`
	MAC        sixacre.MAC `json:"mac"`
	Device     string      `json:"device,omitempty"`
	Bridge     string      `json:"bridge,omitempty"`
	Index      int         `json:"index,omitempty" doc:"Interface index of the tap"`
	Programmed bool        `json:"programmed"`
}
