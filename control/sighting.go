package control

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/sixacre/sixacre"
)

const (
	// sightBatch is how many NICs' sightings are written in one transaction: each
	// has two conditions, and an etcd with its default limits takes 128.
	sightBatch = 60
	// timely is how old the times of a sighting may be. All servers are told of the
	// same messages by the relays, and so do not all write them.
	timely = time.Minute
	// skew is how far apart the wall clocks of servers are taken to be at most.
	skew = time.Minute
)

// Sight records what was seen of clients. What was seen of a MAC that no NIC has
// any more is forgotten. After an error some of it may be recorded: it does no
// harm to call again with all of it, nor on several servers.
//
// In a dhcpv6 pod, a NIC whose client declined its address is given another, once
// within the pod's valid lifetime (RFC 9915 section 18.3.8).
func (c *Control) Sight(ctx context.Context, seen []sixacre.Glimpse) error {
	type nic struct {
		pod string
		mac sixacre.MAC
	}
	byNIC := map[nic][]sixacre.Glimpse{}
	for _, g := range seen {
		n := nic{g.Pod, g.MAC}
		byNIC[n] = append(byNIC[n], g)
	}
	var declining, others []nic
	for n, seen := range byNIC {
		if slices.ContainsFunc(seen, func(g sixacre.Glimpse) bool { return g.Effect == sixacre.Declines }) {
			declining = append(declining, n)
		} else {
			others = append(others, n)
		}
	}
	for _, n := range declining {
		var from, to netip.Addr
		if err := c.change(ctx, func(a *attempt) (err error) {
			from, to, err = a.sight(n.pod, n.mac, byNIC[n])
			return err
		}); err != nil {
			return err
		}
		if to.IsValid() {
			slog.Warn("another on the link has the address of a NIC: it was given a new one", "pod", n.pod, "mac", n.mac, "declined", from, "address", to)
		}
	}
	// In order, so that servers that write the same sightings make the same batches.
	slices.SortFunc(others, func(a, b nic) int {
		return cmp.Or(cmp.Compare(a.pod, b.pod), slices.Compare(a.mac[:], b.mac[:]))
	})
	for batch := range slices.Chunk(others, sightBatch) {
		keys := make([]sixacre.Key, 0, 2*len(batch))
		for _, n := range batch {
			keys = append(keys, sixacre.MACClaim(n.pod, n.mac), sixacre.SightingKey(n.pod, n.mac))
		}
		if err := c.change(ctx, func(a *attempt) error {
			if err := a.readAhead(keys); err != nil {
				return err
			}
			for _, n := range batch {
				if _, _, err := a.sight(n.pod, n.mac, byNIC[n]); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// sight plans to record what was seen of one NIC. If that gives the NIC another
// address, it returns the one before and the new one.
func (a *attempt) sight(pod string, mac sixacre.MAC, seen []sixacre.Glimpse) (from, to netip.Addr, err error) {
	claim, exists, err := read[sixacre.Claim](a, sixacre.MACClaim(pod, mac))
	if err != nil || !exists {
		return from, to, err
	}
	before, _, err := read[sixacre.Sighting](a, sixacre.SightingKey(pod, mac))
	if err != nil {
		return from, to, err
	}
	after := sober(before, seen, a.wall().Add(skew))
	for _, g := range seen {
		after = after.Merge(g)
	}
	for _, g := range seen {
		if g.Effect != sixacre.Declines || to.IsValid() {
			continue
		}
		from = g.Declined
		if to, err = a.replace(claim, from); err != nil {
			return from, to, err
		}
		if to.IsValid() && after.Declined.Address == from {
			after.Declined.Replaced = true
		}
	}
	if isNews(before, after) {
		a.Put = append(a.Put, after)
	}
	return from, to, nil
}

// sober returns s with no time beyond the limit: one that was written by a clock
// which ran ahead would make all later news look old. It is taken to be just
// older than what was seen now.
func sober(s sixacre.Sighting, seen []sixacre.Glimpse, limit time.Time) sixacre.Sighting {
	older := limit
	for _, g := range seen {
		if g.Time.Before(older) {
			older = g.Time
		}
	}
	older = older.UTC().Truncate(time.Millisecond).Add(-time.Millisecond)
	correct := func(t *time.Time) {
		if t.After(limit) {
			*t = older
		}
	}
	if s.Released.After(limit) && !s.Bound.IsZero() {
		s.Released = time.Time{} // it came before
	}
	correct(&s.Time)
	correct(&s.Bound)
	correct(&s.Released)
	s.Paths = slices.Clone(s.Paths)
	for i := range s.Paths {
		correct(&s.Paths[i].Time)
	}
	if s.Declined != nil {
		d := *s.Declined
		correct(&d.Time)
		s.Declined = &d
	}
	return s
}

// isNews reports whether a sighting tells more than that of before, or the same
// of a time so much later that it is worth writing.
func isNews(before, after sixacre.Sighting) bool {
	near := func(t *time.Time, later time.Time) {
		if later.Sub(*t).Abs() < timely {
			*t = later
		}
	}
	near(&before.Time, after.Time)
	near(&before.Bound, after.Bound)
	near(&before.Released, after.Released)
	before.Paths = slices.Clone(before.Paths)
	for i := range min(len(before.Paths), len(after.Paths)) {
		near(&before.Paths[i].Time, after.Paths[i].Time)
	}
	if before.Declined != nil && after.Declined != nil {
		d := *before.Declined
		near(&d.Time, after.Declined.Time)
		before.Declined = &d
	}
	return !reflect.DeepEqual(before, after)
}

// replace plans to give the NIC another address than the one that its client
// declined, and returns it. It returns none where the NIC does not have that one,
// or not as one that could be another; nor while the one that was declined before
// has rested for less than the pod's valid lifetime, in the store's time. After
// that it is free: so a NIC keeps no more than one address from others.
func (a *attempt) replace(claim sixacre.Claim, declined netip.Addr) (netip.Addr, error) {
	none := netip.Addr{}
	// What is missing was deleted while we read: the transaction will not be
	// written.
	i, found, err := read[sixacre.Instance](a, sixacre.Instance{Name: claim.Instance}.Key())
	if err != nil || !found {
		return none, err
	}
	at, err := i.NIC(claim.MAC, claim.Pod)
	if err != nil {
		return none, nil
	}
	i.NICs = slices.Clone(i.NICs)
	n := &i.NICs[at]
	if !declined.IsValid() || n.Address != declined {
		return none, nil
	}
	pod, found, err := read[sixacre.Pod](a, sixacre.Pod{Name: n.Pod}.Key())
	if err != nil || !found {
		return none, err
	}
	rests, found, err := read[sixacre.Claim](a, sixacre.AddressClaim(declined))
	if err != nil || !found {
		return none, err
	}
	clock, err := a.clock()
	if err != nil {
		return none, err
	}
	if n.Declined.IsValid() {
		resting, _, err := read[sixacre.Claim](a, sixacre.AddressClaim(n.Declined))
		if err != nil || clock.Before(resting.Declined.Add(pod.ValidLifetime.Duration())) {
			return none, err
		}
		a.Delete = append(a.Delete, resting.Key())
	}
	rests.Declined = clock
	n.Declined, n.Address = declined, none
	if n.Address, err = a.address(i.Name, pod, *n); err != nil {
		return none, err
	}
	a.Put = append(a.Put, rests, i)
	return n.Address, nil
}

// Sightings returns what was seen of the instance's clients, NIC by NIC. There is
// none of a NIC of which nothing was seen.
func (c *Control) Sightings(ctx context.Context, instance string) ([]sixacre.Sighting, error) {
	a := &attempt{Control: c, ctx: ctx}
	i, err := must[sixacre.Instance](a, "instance", sixacre.Instance{Name: instance}.Key())
	if err != nil {
		return nil, err
	}
	sightings := []sixacre.Sighting{}
	for _, n := range i.NICs {
		s, found, err := read[sixacre.Sighting](a, sixacre.SightingKey(n.Pod, n.MAC))
		if err != nil {
			return nil, err
		}
		if found {
			sightings = append(sightings, s)
		}
	}
	return sightings, nil
}
