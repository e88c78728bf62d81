package router

import (
	"net/netip"
	"slices"
	"time"

	"github.com/sixacre/sixacre"
)

// lease is a prefix that a server's Reply gave to a client on the link.
type lease struct {
	MAC     sixacre.MAC `json:"mac"`     // of the client's frame
	NextHop netip.Addr  `json:"nextHop"` // the client's link-local address
	Granted time.Time   `json:"granted"`
	Expires time.Time   `json:"expires,omitzero"` // zero: never
	// Revision is that of the view followed when the Reply came: a newer one
	// that does not know the prefix ends the lease.
	Revision int64 `json:"revision,omitempty"`
}

// withdrawal remembers that the record took a prefix from a NIC. A server that
// is behind may go on confirming it for [sixacre.MaxStale].
type withdrawal struct {
	MAC      sixacre.MAC `json:"mac"`
	Revision int64       `json:"revision"`
	Until    time.Time   `json:"until"`
}

// entry is all that is remembered of a prefix, in memory and on disk.
type entry struct {
	Prefix    netip.Prefix `json:"prefix"`
	Lease     *lease       `json:"lease,omitempty"`
	Released  *sixacre.MAC `json:"released,omitempty"` // this NIC released it, and has not asked for it since
	Withdrawn *withdrawal  `json:"withdrawn,omitempty"`
}

func (e entry) empty() bool { return e.Lease == nil && e.Released == nil && e.Withdrawn == nil }

// holder is the NIC that the record delegates a prefix to.
type holder struct {
	mac                sixacre.MAC
	predicted, learned netip.Addr // its link-local addresses; the second may be missing
	stopped            bool
}

// has reports whether it is one of the NIC's link-local addresses.
func (h holder) has(linkLocal netip.Addr) bool {
	return linkLocal.IsValid() && (linkLocal == h.predicted || linkLocal == h.learned)
}

// table says which prefix is routed where. It is the product of two sources:
// the Replies that passed, and the record. Where there is a record it rules;
// where there is none it is RFC 8987. It has no clock and touches no kernel.
type table struct {
	pod      sixacre.Pod
	podKnown bool
	ruled    bool  // a record rules, even if no view of it has come yet
	revision int64 // of the view followed

	entries map[netip.Prefix]entry
	holders map[netip.Prefix]holder
	hops    map[sixacre.MAC]netip.Addr // link-local address of a client as of its last Reply

	touched, changed map[netip.Prefix]bool // since take
}

func newTable(ruled bool) *table {
	return &table{
		ruled:   ruled,
		entries: map[netip.Prefix]entry{},
		holders: map[netip.Prefix]holder{},
		hops:    map[sixacre.MAC]netip.Addr{},
		touched: map[netip.Prefix]bool{},
		changed: map[netip.Prefix]bool{},
	}
}

// nextHop returns where the prefix is to be routed, and whether it is.
func (t *table) nextHop(p netip.Prefix) (netip.Addr, bool) {
	if !t.routable(p) {
		return netip.Addr{}, false
	}
	e := t.entries[p]
	if h, held := t.holders[p]; held {
		switch {
		case h.stopped, e.Released != nil && *e.Released == h.mac:
			return netip.Addr{}, false
		}
		return t.hop(h), true
	}
	if e.Lease == nil {
		return netip.Addr{}, false
	}
	return e.Lease.NextHop, true
}

// hop returns which of a NIC's link-local addresses its prefixes are routed to: the
// one of the last Reply, or else the learned one if there is one.
func (t *table) hop(h holder) netip.Addr {
	switch hop := t.hops[h.mac]; {
	case h.has(hop):
		return hop
	case h.learned.IsValid():
		return h.learned
	}
	return h.predicted
}

// prefixes calls yield for every prefix that has something to say about it.
func (t *table) prefixes(yield func(netip.Prefix)) {
	for p := range t.holders {
		yield(p)
	}
	for p := range t.entries {
		if _, held := t.holders[p]; !held {
			yield(p)
		}
	}
}

// Without pools, a prefix that a Reply delegates is of such a length.
const shortestPrefix, longestPrefix = 32, 64

// routable reports whether there may be a route to the prefix at all: never to
// the link itself, and never outside the pools where they are known.
func (t *table) routable(p netip.Prefix) bool {
	switch {
	case t.ruled && !t.podKnown:
		return false
	case t.pod.LinkPrefix.IsValid() && p.Overlaps(t.pod.LinkPrefix):
		return false
	case t.ruled || len(t.pod.Pools) > 0:
		_, ok := t.pod.PoolOf(p)
		return ok
	}
	return p.Addr().Is6() && !p.Addr().Is4In6() && p.Addr().IsGlobalUnicast() &&
		p.Bits() >= shortestPrefix && p.Bits() <= longestPrefix
}

// setPod sets the pod whose pools and link prefix bound the routes.
func (t *table) setPod(pod sixacre.Pod) {
	same := t.podKnown && t.pod.LinkPrefix == pod.LinkPrefix && slices.Equal(t.pod.Pools, pod.Pools)
	t.pod, t.podKnown = pod, true
	if !same {
		t.prefixes(t.touch)
	}
}

// grant takes note that a server's Reply gave the prefix to a client for the
// valid lifetime, 0 meaning no longer. It returns why there will be no route.
func (t *table) grant(x exchange, p netip.Prefix, valid sixacre.Seconds, now time.Time) error {
	e := t.entries[p]
	if valid == 0 {
		// A Reply ends only the client's own lease, and never overrules the record.
		if _, held := t.holders[p]; !held && e.Lease != nil && e.Lease.MAC == x.mac {
			e.Lease = nil
			t.set(p, e)
		}
		return nil
	}
	h, held := t.holders[p]
	switch {
	case t.podKnown && !t.routable(p), !t.podKnown && !t.ruled && !t.routable(p):
		return dropOutsidePools
	case held && h.mac != x.mac:
		return dropAgainst
	case !held && e.Withdrawn != nil && e.Withdrawn.MAC == x.mac:
		return dropAgainst
	}
	hop := x.peer
	if held && !h.has(hop) {
		hop = t.hop(h) // the record says which addresses a NIC may have
	}
	e.Released = nil
	e.Lease = &lease{MAC: x.mac, NextHop: hop, Granted: now, Revision: t.revision}
	if valid != sixacre.Infinity {
		e.Lease.Expires = now.Add(valid.Duration())
	}
	t.set(p, e)
	t.learn(x.mac, hop)
	return nil
}

// learn takes note of a client's link-local address, unless its NIC is in the
// record and may not have it.
func (t *table) learn(mac sixacre.MAC, linkLocal netip.Addr) {
	if !t.ruled || t.hops[mac] == linkLocal {
		return
	}
	for p, h := range t.holders {
		if h.mac != mac {
			continue
		}
		if !h.has(linkLocal) {
			return
		}
		t.touch(p)
	}
	t.hops[mac] = linkLocal
}

// release takes note that a server confirmed a client's Release. It counts for
// the prefixes that this very client holds: its MAC and an address of its own, or
// without a record the one that they are routed to.
func (t *table) release(x exchange, prefixes []netip.Prefix) {
	for _, p := range prefixes {
		hop, routed := t.nextHop(p)
		if !routed {
			continue
		}
		e := t.entries[p]
		if h, held := t.holders[p]; held {
			if h.mac == x.mac && h.has(x.peer) {
				e.Released = &x.mac
				t.set(p, e)
			}
			continue
		}
		if e.Lease.MAC == x.mac && hop == x.peer {
			e.Lease = nil
			t.set(p, e)
		}
	}
}

// follow takes over a view of the record. One without the pod says nothing of
// it, and is passed over: a pod with delegations cannot be deleted, so it is
// another pod's view, for another pod's token.
func (t *table) follow(v sixacre.View, pod string, now time.Time) error {
	at := slices.IndexFunc(v.Pods, func(p sixacre.Pod) bool { return p.Name == pod })
	if at < 0 {
		return sixacre.Errorf(sixacre.NotFound, "pod %s is not in the record that the token shows: give a token of that pod", pod)
	}
	t.setPod(v.Pods[at])
	next := holders(v, pod)
	for p, was := range t.holders {
		if _, still := next[p]; still {
			continue
		}
		t.set(p, entry{Withdrawn: &withdrawal{was.mac, v.Revision, now.Add(sixacre.MaxStale)}})
	}
	for p, h := range next {
		was, before := t.holders[p]
		if before && was == h {
			continue
		}
		e := t.entries[p]
		e.Withdrawn = nil
		if e.Lease != nil && e.Lease.MAC != h.mac {
			e.Lease = nil
		}
		if e.Released != nil && *e.Released != h.mac {
			e.Released = nil
		}
		if before && was.mac == h.mac && was.learned != h.learned && h.learned.IsValid() {
			// What was granted just now is newer than the last Reply.
			t.hops[h.mac] = h.learned
			if e.Lease != nil {
				l := *e.Lease
				l.NextHop = h.learned
				e.Lease = &l
			}
		}
		if _, known := t.entries[p]; known {
			t.set(p, e)
		}
		t.touch(p)
	}
	for p, e := range t.entries {
		if _, held := next[p]; !held && e.Lease != nil && e.Lease.Revision < v.Revision {
			e.Lease = nil
			t.set(p, e)
		}
	}
	t.holders, t.revision = next, v.Revision
	t.forgetHops()
	return nil
}

// holders returns who holds what in a view.
func holders(v sixacre.View, pod string) map[netip.Prefix]holder {
	next := map[netip.Prefix]holder{}
	for _, i := range v.Instances {
		for _, n := range i.NICs {
			if n.Pod != pod {
				continue
			}
			for _, p := range n.Prefixes {
				next[p] = holder{n.MAC, n.LinkLocal, n.LearnedLinkLocal, n.State == sixacre.Stopped}
			}
		}
	}
	return next
}

// forgetHops keeps what was seen of MACs only as long as they hold anything.
func (t *table) forgetHops() {
	kept := map[sixacre.MAC]netip.Addr{}
	keep := func(mac sixacre.MAC) {
		if hop, seen := t.hops[mac]; seen {
			kept[mac] = hop
		}
	}
	for _, h := range t.holders {
		keep(h.mac)
	}
	for _, e := range t.entries {
		if e.Lease != nil {
			keep(e.Lease.MAC)
		}
	}
	t.hops = kept
}

// restore starts an empty table from what the last process left: its entries,
// and the last view of the record that it wrote. An entry is newer than that
// view if it says so.
func (t *table) restore(entries []entry, v sixacre.View, pod string, now time.Time) {
	for _, e := range entries {
		t.entries[e.Prefix] = e
	}
	newest := map[sixacre.MAC]time.Time{}
	for _, e := range entries {
		if l := e.Lease; t.ruled && l != nil && newest[l.MAC].Before(l.Granted) {
			t.hops[l.MAC], newest[l.MAC] = l.NextHop, l.Granted
		}
	}
	if t.ruled {
		for _, p := range v.Pods {
			if p.Name == pod {
				t.setPod(p)
			}
		}
		t.revision = v.Revision
		t.holders = holders(v, pod)
		for p := range t.holders {
			if w := t.entries[p].Withdrawn; w != nil && w.Revision > v.Revision {
				delete(t.holders, p)
			}
		}
		t.forgetHops()
	}
	t.expire(now)
	t.prefixes(t.touch)
}

// expire ends what is over, and returns when it is to be called again, or the
// zero time if nothing is left that ends.
func (t *table) expire(now time.Time) time.Time {
	var next time.Time
	ends := func(at time.Time) bool {
		if at.IsZero() || at.After(now) {
			if !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next = at
			}
			return false
		}
		return true
	}
	for p, e := range t.entries {
		was := e
		// The record needs no lease, but the address that it came with.
		if h, held := t.holders[p]; e.Lease != nil && !(held && h.mac == e.Lease.MAC) && ends(e.Lease.Expires) {
			e.Lease = nil
		}
		if e.Withdrawn != nil && ends(e.Withdrawn.Until) {
			e.Withdrawn = nil
		}
		if e != was {
			t.set(p, e)
		}
	}
	return next
}

func (t *table) set(p netip.Prefix, e entry) {
	e.Prefix = p
	if e.empty() {
		delete(t.entries, p)
	} else {
		t.entries[p] = e
	}
	t.changed[p] = true
	t.touch(p)
}

// touch takes note that the prefix may have another route than before.
func (t *table) touch(p netip.Prefix) { t.touched[p] = true }

// take returns the prefixes that may have another route than when it was last
// called, and the entries that are not what they were.
func (t *table) take() ([]netip.Prefix, []entry) {
	touched := make([]netip.Prefix, 0, len(t.touched))
	for p := range t.touched {
		touched = append(touched, p)
	}
	changed := make([]entry, 0, len(t.changed))
	for p := range t.changed {
		e := t.entries[p]
		e.Prefix = p
		changed = append(changed, e)
	}
	clear(t.touched)
	clear(t.changed)
	return touched, changed
}
