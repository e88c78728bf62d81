package control

import (
	"cmp"
	"context"
	"reflect"
	"slices"

	"github.com/sixacre/sixacre"
)

// sightBatch is how many NICs' sightings are written in one transaction: each has
// two conditions, and an etcd with its default limits takes 128.
const sightBatch = 60

// Sight records what was seen of clients. What was seen of a MAC that no NIC has
// any more is forgotten. After an error some of it may be recorded; it does no
// harm to call again with all of it, nor on several servers.
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
	nics := make([]nic, 0, len(byNIC))
	for n := range byNIC {
		nics = append(nics, n)
	}
	slices.SortFunc(nics, func(a, b nic) int {
		return cmp.Or(cmp.Compare(a.pod, b.pod), slices.Compare(a.mac[:], b.mac[:]))
	})
	for batch := range slices.Chunk(nics, sightBatch) {
		if err := c.change(ctx, func(a *attempt) error {
			for _, n := range batch {
				if err := a.sight(n.pod, n.mac, byNIC[n]); err != nil {
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

// sight plans to record what was seen of one NIC.
func (a *attempt) sight(pod string, mac sixacre.MAC, seen []sixacre.Glimpse) error {
	if _, exists, err := read[sixacre.Claim](a, sixacre.MACClaim(pod, mac)); err != nil || !exists {
		return err
	}
	before, _, err := read[sixacre.Sighting](a, sixacre.SightingKey(pod, mac))
	if err != nil {
		return err
	}
	after := before
	for _, g := range seen {
		after = after.Merge(g)
	}
	if !reflect.DeepEqual(before, after) {
		a.Put = append(a.Put, after)
	}
	return nil
}
