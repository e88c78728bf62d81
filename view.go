package sixacre

import (
	"cmp"
	"iter"
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// View is what one hypervisor or one router follows: the part of the record
// that its credential reaches, complete enough to compile a filter or keep
// routes from. NICs are complete (addr.Complete) and every list is sorted by
// name.
//
// The same type carries a change: then it holds only what is new or different,
// and Gone what is no more. Of a group whose members were known before it holds
// only what Joined and what Left, however many stayed.
type View struct {
	Revision  int64      `json:"revision" doc:"Store revision that the view shows"`
	Full      bool       `json:"full,omitempty" doc:"Whether this is everything; else it is a change to the one before"`
	Pods      []Pod      `json:"pods,omitempty" doc:"The pod, or the pods of the host's NICs"`
	Instances []Instance `json:"instances,omitempty" doc:"Instances with only those NICs that are on the host or in the pod"`
	Groups    []Group    `json:"groups,omitempty" doc:"Groups of the host's NICs"`
	Members   []Members  `json:"members,omitempty" doc:"Members of the groups that those groups' rules name; in a change, only of groups that no rule named before"`
	Joined    []Members  `json:"joined,omitempty" doc:"Only in a change: what the members of other groups have come to hold"`
	Left      []Members  `json:"left,omitempty" doc:"Only in a change: what the members of other groups no longer hold"`
	Gone      []Key      `json:"gone,omitempty" doc:"Only in a change: what is no longer part of the view, as kind/name"`
}

// KindMembers is the kind of [Members] in a view; the store has no such record.
const KindMembers Kind = "members"

// Members is what the NICs of a group hold, everywhere. Both lists are in order.
type Members struct {
	Group     string         `json:"group"`
	Addresses []netip.Addr   `json:"addresses,omitempty"`
	Prefixes  []netip.Prefix `json:"prefixes,omitempty"`
}

func (m Members) Key() Key { return Key{KindMembers, m.Group} }

// Merge returns v with the change applied. v stays what it is, and what the
// change does not name is shared by both.
func (v View) Merge(change View) View {
	if change.Full {
		return change
	}
	next := View{
		Revision:  change.Revision,
		Full:      true,
		Pods:      merge(v.Pods, change.Pods, change.Gone),
		Instances: merge(v.Instances, change.Instances, change.Gone),
		Groups:    merge(v.Groups, change.Groups, change.Gone),
		Members:   merge(v.Members, change.Members, change.Gone),
	}
	if len(change.Joined)+len(change.Left) > 0 {
		next.Members = slices.Clone(next.Members)
	}
	for _, c := range change.Joined {
		m := next.membersOf(c.Group)
		m.Addresses = with(m.Addresses, c.Addresses, netip.Addr.Compare)
		m.Prefixes = with(m.Prefixes, c.Prefixes, netip.Prefix.Compare)
	}
	for _, c := range change.Left {
		m := next.membersOf(c.Group)
		m.Addresses = without(m.Addresses, c.Addresses, netip.Addr.Compare)
		m.Prefixes = without(m.Prefixes, c.Prefixes, netip.Prefix.Compare)
	}
	return next
}

// membersOf returns where the members of a group are in v, which has none of it
// if it was not there.
func (v *View) membersOf(group string) *Members {
	at, found := slices.BinarySearchFunc(v.Members, group, func(m Members, name string) int { return cmp.Compare(m.Group, name) })
	if !found {
		v.Members = slices.Insert(v.Members, at, Members{Group: group})
	}
	return &v.Members[at]
}

// Change returns what makes next of v: v.Merge(v.Change(next)) is next. The
// second result is false where there is no difference but the revision.
func (v View) Change(next View) (View, bool) {
	c := View{Revision: next.Revision}
	c.Pods, c.Gone = change(v.Pods, next.Pods, c.Gone)
	c.Instances, c.Gone = change(v.Instances, next.Instances, c.Gone)
	c.Groups, c.Gone = change(v.Groups, next.Groups, c.Gone)
	c.changeMembers(v.Members, next.Members)
	return c, len(c.Pods)+len(c.Instances)+len(c.Groups)+len(c.Members)+len(c.Joined)+len(c.Left)+len(c.Gone) > 0
}

// changeMembers sets what makes next of the old members.
func (c *View) changeMembers(old, next []Members) {
	for was, now := range pairs(old, next) {
		switch {
		case was == nil:
			c.Members = append(c.Members, *now)
		case now == nil:
			c.Gone = append(c.Gone, was.Key())
		default:
			joined, left := Members{Group: now.Group}, Members{Group: now.Group}
			joined.Addresses, left.Addresses = compare(was.Addresses, now.Addresses, netip.Addr.Compare)
			joined.Prefixes, left.Prefixes = compare(was.Prefixes, now.Prefixes, netip.Prefix.Compare)
			if len(joined.Addresses)+len(joined.Prefixes) > 0 {
				c.Joined = append(c.Joined, joined)
			}
			if len(left.Addresses)+len(left.Prefixes) > 0 {
				c.Left = append(c.Left, left)
			}
		}
	}
}

// merge returns the old nouns, those that are put in the place of one of the same
// name or between, and without those gone.
func merge[T Noun](old, put []T, gone []Key) []T {
	var none T
	kind, left := none.Key().Kind, map[string]bool{}
	for _, k := range gone {
		if k.Kind == kind {
			left[k.Name] = true
		}
	}
	if len(put)+len(left) == 0 {
		return old
	}
	out := make([]T, 0, len(old)+len(put))
	for was, now := range pairs(old, put) {
		if now != nil {
			out = append(out, *now)
		} else if !left[(*was).Key().Name] {
			out = append(out, *was)
		}
	}
	return out
}

// change returns what of next is new or different, and appends to gone what is
// only among the old.
func change[T Noun](old, next []T, gone []Key) (put []T, _ []Key) {
	for was, now := range pairs(old, next) {
		switch {
		case now == nil:
			gone = append(gone, (*was).Key())
		case was == nil || !reflect.DeepEqual(*was, *now):
			put = append(put, *now)
		}
	}
	return put, gone
}

// pairs yields the nouns of a and of b, in order, those of the same name together
// and the others beside nil. Both are sorted by name.
func pairs[T Noun](a, b []T) iter.Seq2[*T, *T] {
	return func(yield func(*T, *T) bool) {
		for len(a)+len(b) > 0 {
			var x, y *T
			switch order := compareHeads(a, b, func(x, y T) int { return cmp.Compare(x.Key().Name, y.Key().Name) }); {
			case order < 0:
				x, a = &a[0], a[1:]
			case order > 0:
				y, b = &b[0], b[1:]
			default:
				x, y, a, b = &a[0], &b[0], a[1:], b[1:]
			}
			if !yield(x, y) {
				return
			}
		}
	}
}

// compare returns what only next has, and what only old has. Both are in order.
func compare[E any](old, next []E, order func(a, b E) int) (joined, left []E) {
	for len(old)+len(next) > 0 {
		switch o := compareHeads(old, next, order); {
		case o < 0:
			left, old = append(left, old[0]), old[1:]
		case o > 0:
			joined, next = append(joined, next[0]), next[1:]
		default:
			old, next = old[1:], next[1:]
		}
	}
	return joined, left
}

// with returns the elements with those that joined, all in order.
func with[E any](all, joined []E, order func(a, b E) int) []E {
	if len(joined) == 0 {
		return all
	}
	out := make([]E, 0, len(all)+len(joined))
	for _, e := range joined {
		at, _ := slices.BinarySearchFunc(all, e, order)
		out = append(append(out, all[:at]...), e)
		all = all[at:]
	}
	return append(out, all...)
}

// without returns the elements but those that left, all in order.
func without[E any](all, left []E, order func(a, b E) int) []E {
	if len(left) == 0 {
		return all
	}
	out := make([]E, 0, len(all))
	for _, e := range left {
		at, found := slices.BinarySearchFunc(all, e, order)
		out = append(out, all[:at]...)
		if found {
			at++
		}
		all = all[at:]
	}
	return append(out, all...)
}

// compareHeads orders the first elements of two lists. One that is empty comes
// last.
func compareHeads[E any](a, b []E, order func(a, b E) int) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return order(a[0], b[0])
}

// SortNouns orders nouns of one kind by name.
func SortNouns[T Noun](nouns []T) {
	slices.SortFunc(nouns, func(a, b T) int { return cmp.Compare(a.Key().Name, b.Key().Name) })
}

// Report is what a hypervisor's agent says of its own NICs.
type Report struct {
	Revision int64       `json:"revision" doc:"Revision of the view that the kernel's filter shows"`
	NICs     []NICReport `json:"nics"`
}

// NICReport says where a NIC was found and whether its filter is in force.
type NICReport struct {
	Pod        string `json:"pod" required:"true"`
	MAC        MAC    `json:"mac" required:"true"`
	Device     string `json:"device,omitempty" doc:"The tap; empty if there is none"`
	Programmed bool   `json:"programmed" doc:"Whether the kernel filters for it as the view says"`
}

// HostStatus is a host and the last that its agent said. The report is kept in
// memory only: an agent repeats it.
type HostStatus struct {
	Host
	Seen   time.Time `json:"seen,omitzero" doc:"Time of the last report"`
	Report Report    `json:"report,omitzero"`
}
