package control

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
)

// Scope is whose view it is: a host's, or a router's of a pod. Exactly one is
// set.
type Scope struct{ Host, Pod string }

// Views keeps, from what the store says, the part of the record that each
// hypervisor and router follows.
type Views struct {
	mu        sync.Mutex
	ready     bool
	revision  int64
	pods      map[string]sixacre.Pod
	instances map[string]sixacre.Instance
	groups    map[string]sixacre.Group
	onHost    index // instances by host, by pod, by group
	inPod     index
	inGroup   index
	members   map[string]sixacre.Members // of groups that were asked for and did not change since
	followers map[*follower]struct{}
}

// index is the names of instances under a name of something else.
type index map[string]map[string]struct{}

func (x index) add(under, instance string) {
	if under == "" {
		return
	}
	if x[under] == nil {
		x[under] = map[string]struct{}{}
	}
	x[under][instance] = struct{}{}
}

func (x index) remove(under, instance string) {
	delete(x[under], instance)
	if len(x[under]) == 0 {
		delete(x, under)
	}
}

// sorted returns the instances under any of the names.
func (x index) sorted(unders ...string) []string {
	var names []string
	for _, under := range unders {
		for name := range x[under] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// follower is one who watches.
type follower struct {
	Scope
	groups  map[string]struct{} // those whose rules or members its view holds
	pods    map[string]struct{} // those that its view holds
	changed chan struct{}       // holds a token if its view may have changed
}

// NewViews returns Views that have seen nothing yet.
func NewViews() *Views {
	v := &Views{followers: map[*follower]struct{}{}}
	v.reset()
	return v
}

func (v *Views) reset() {
	v.pods = map[string]sixacre.Pod{}
	v.instances = map[string]sixacre.Instance{}
	v.groups = map[string]sixacre.Group{}
	v.onHost, v.inPod, v.inGroup = index{}, index{}, index{}
	v.members = map[string]sixacre.Members{}
}

// Apply learns what was written: the arguments of the store's Watch.
func (v *Views) Apply(full bool, events []sixacre.Event, revision int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if full {
		v.reset()
		v.ready = true
	}
	v.revision = revision
	touched := touched{map[string]struct{}{}, map[string]struct{}{}, map[string]struct{}{}}
	for _, e := range events {
		switch e.Key.Kind {
		case sixacre.KindPod:
			put(v.pods, e)
			clear(v.members) // addresses follow from the pod
			touched.pods[e.Key.Name] = struct{}{}
		case sixacre.KindGroup:
			put(v.groups, e)
			touched.groups[e.Key.Name] = struct{}{}
		case sixacre.KindInstance:
			v.index(v.instances[e.Key.Name], touched, index.remove)
			put(v.instances, e)
			v.index(v.instances[e.Key.Name], touched, index.add)
		}
	}
	for name := range touched.groups {
		delete(v.members, name)
	}
	for f := range v.followers {
		if full || touched.concerns(f) {
			select {
			case f.changed <- struct{}{}:
			default: // it knows
			}
		}
	}
}

// index calls f, which is add or remove, for every name that the instance is
// found under, and notes what it touches.
func (v *Views) index(i sixacre.Instance, t touched, f func(x index, under, instance string)) {
	for _, n := range i.NICs {
		t.nic(n)
		f(v.onHost, n.Host, i.Name)
		f(v.onHost, n.MovingTo, i.Name)
		f(v.inPod, n.Pod, i.Name)
		for _, g := range n.Groups {
			f(v.inGroup, g, i.Name)
		}
	}
}

func put[T sixacre.Noun](m map[string]T, e sixacre.Event) {
	if noun, ok := e.Noun.(T); ok {
		m[e.Key.Name] = noun
	} else {
		delete(m, e.Key.Name)
	}
}

// touched is what a batch of events may have changed.
type touched struct{ hosts, pods, groups map[string]struct{} }

func (t touched) nic(n sixacre.NIC) {
	t.hosts[n.Host] = struct{}{}
	t.hosts[n.MovingTo] = struct{}{}
	t.pods[n.Pod] = struct{}{}
	for _, g := range n.Groups {
		t.groups[g] = struct{}{}
	}
}

func (t touched) concerns(f *follower) bool {
	if f.Pod != "" {
		_, yes := t.pods[f.Pod]
		return yes
	}
	if _, yes := t.hosts[f.Host]; yes {
		return true
	}
	return overlap(t.groups, f.groups) || overlap(t.pods, f.pods)
}

func overlap(a, b map[string]struct{}) bool {
	for k := range a {
		if _, ok := b[k]; ok {
			return true
		}
	}
	return false
}

// Follow calls send with the whole view of the scope, and then with each change
// to it, until the context ends or send fails. Changes that come faster than
// send returns are made into one: a slow follower holds nobody up.
func (v *Views) Follow(ctx context.Context, scope Scope, send func(sixacre.View) error) error {
	f := &follower{Scope: scope, changed: make(chan struct{}, 1)}
	f.changed <- struct{}{}
	v.mu.Lock()
	v.followers[f] = struct{}{}
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		delete(v.followers, f)
		v.mu.Unlock()
	}()
	var sent sixacre.View
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.changed:
		}
		next, ready := v.view(f)
		if !ready {
			continue // the first full batch will say
		}
		message, differs := next, true
		if sent.Full {
			message, differs = sent.Change(next)
		}
		if differs {
			if err := send(message); err != nil {
				return err
			}
			sent = next
		}
	}
}

// view makes the whole view of a follower, and notes what it consists of.
func (v *Views) view(f *follower) (sixacre.View, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	view := sixacre.View{Revision: v.revision, Full: true}
	if !v.ready {
		return view, false
	}
	names := v.onHost.sorted(f.Host)
	mine := func(n sixacre.NIC) bool { return n.On(f.Host) }
	if f.Pod != "" {
		names = v.inPod.sorted(f.Pod)
		mine = func(n sixacre.NIC) bool { return n.Pod == f.Pod }
	}
	pods, groups := map[string]struct{}{}, map[string]struct{}{}
	if f.Pod != "" {
		pods[f.Pod] = struct{}{}
	}
	for _, name := range names {
		i := sixacre.Instance{Name: name}
		for _, n := range v.instances[name].NICs {
			if !mine(n) {
				continue
			}
			pods[n.Pod] = struct{}{}
			for _, g := range n.Groups {
				groups[g] = struct{}{}
			}
			i.NICs = append(i.NICs, addr.Complete(v.pods[n.Pod], n))
		}
		view.Instances = append(view.Instances, i)
	}
	for name := range pods {
		if p, ok := v.pods[name]; ok {
			view.Pods = append(view.Pods, p)
		}
	}
	sixacre.SortNouns(view.Pods)
	f.pods, f.groups = pods, groups
	if f.Pod != "" {
		return view, true // a router filters nothing
	}

	remotes := map[string]struct{}{}
	for name := range groups {
		if g, ok := v.groups[name]; ok {
			view.Groups = append(view.Groups, g)
			for _, remote := range g.RemoteGroups() {
				remotes[remote] = struct{}{}
			}
		}
	}
	sixacre.SortNouns(view.Groups)
	for name := range remotes {
		view.Members = append(view.Members, v.membersOf(name))
		f.groups[name] = struct{}{}
	}
	sixacre.SortNouns(view.Members)
	return view, true
}

// membersOf collects what the NICs of a group hold, once for all followers.
func (v *Views) membersOf(group string) sixacre.Members {
	if m, known := v.members[group]; known {
		return m
	}
	m := sixacre.Members{Group: group}
	for name := range v.inGroup[group] {
		for _, n := range v.instances[name].NICs {
			if slices.Contains(n.Groups, group) {
				n = addr.Complete(v.pods[n.Pod], n)
				m.Addresses = append(m.Addresses, n.Address)
				m.Prefixes = append(m.Prefixes, n.Prefixes...)
			}
		}
	}
	slices.SortFunc(m.Addresses, netip.Addr.Compare)
	slices.SortFunc(m.Prefixes, netip.Prefix.Compare)
	v.members[group] = m
	return m
}

// OnHost reports whether the NIC with that MAC in that pod is on the host.
func (v *Views) OnHost(host, pod string, mac sixacre.MAC) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for name := range v.onHost[host] {
		for _, n := range v.instances[name].NICs {
			if n.MAC == mac && n.Pod == pod && n.On(host) {
				return true
			}
		}
	}
	return false
}
