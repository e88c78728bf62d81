package sixacre

import (
	"cmp"
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
// and Gone what is no more.
type View struct {
	Revision  int64      `json:"revision" doc:"Store revision that the view shows"`
	Full      bool       `json:"full,omitempty" doc:"Whether this is everything; else it is a change to the one before"`
	Pods      []Pod      `json:"pods,omitempty"`
	Instances []Instance `json:"instances,omitempty" doc:"Instances with only those NICs that are on the host or in the pod"`
	Groups    []Group    `json:"groups,omitempty" doc:"Groups of the host's NICs"`
	Members   []Members  `json:"members,omitempty" doc:"Members of the groups that those groups' rules name"`
	Gone      []Key      `json:"gone,omitempty"`
}

// KindMembers is the kind of [Members] in a view; the store has no such record.
const KindMembers Kind = "members"

// Members is what the NICs of a group hold, everywhere.
type Members struct {
	Group     string         `json:"group"`
	Addresses []netip.Addr   `json:"addresses"`
	Prefixes  []netip.Prefix `json:"prefixes"`
}

func (m Members) Key() Key { return Key{KindMembers, m.Group} }

// Merge returns v with the change applied.
func (v View) Merge(change View) View {
	if change.Full {
		return change
	}
	return View{
		Revision:  change.Revision,
		Full:      true,
		Pods:      merge(v.Pods, change.Pods, change.Gone),
		Instances: merge(v.Instances, change.Instances, change.Gone),
		Groups:    merge(v.Groups, change.Groups, change.Gone),
		Members:   merge(v.Members, change.Members, change.Gone),
	}
}

// Change returns what makes next of v: v.Merge(v.Change(next)) is next. The
// second result is false where there is no difference but the revision.
func (v View) Change(next View) (View, bool) {
	c := View{Revision: next.Revision}
	c.Pods, c.Gone = change(v.Pods, next.Pods, c.Gone)
	c.Instances, c.Gone = change(v.Instances, next.Instances, c.Gone)
	c.Groups, c.Gone = change(v.Groups, next.Groups, c.Gone)
	c.Members, c.Gone = change(v.Members, next.Members, c.Gone)
	return c, len(c.Pods)+len(c.Instances)+len(c.Groups)+len(c.Members)+len(c.Gone) > 0
}

func merge[T Noun](old, put []T, gone []Key) []T {
	if len(put) == 0 && len(gone) == 0 {
		return old
	}
	byKey := make(map[Key]T, len(old)+len(put))
	for _, n := range old {
		byKey[n.Key()] = n
	}
	for _, k := range gone {
		delete(byKey, k)
	}
	for _, n := range put {
		byKey[n.Key()] = n
	}
	out := make([]T, 0, len(byKey))
	for _, n := range byKey {
		out = append(out, n)
	}
	SortNouns(out)
	return out
}

func change[T Noun](old, next []T, gone []Key) ([]T, []Key) {
	was := make(map[Key]T, len(old))
	for _, n := range old {
		was[n.Key()] = n
	}
	var put []T
	for _, n := range next {
		if before, ok := was[n.Key()]; !ok || !reflect.DeepEqual(before, n) {
			put = append(put, n)
		}
		delete(was, n.Key())
	}
	for _, n := range old {
		if _, left := was[n.Key()]; left {
			gone = append(gone, n.Key())
		}
	}
	return put, gone
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
