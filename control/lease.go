package control

import (
	"context"
	"net/netip"

	"github.com/sixacre/sixacre"
)

// HolderOf returns the MAC of the NIC of the pod that has the address, or holds a
// prefix which contains it, and whether there is one.
func (c *Control) HolderOf(ctx context.Context, p sixacre.Pod, address netip.Addr) (sixacre.MAC, bool, error) {
	h, err := (&attempt{Control: c, ctx: ctx}).whois(p, netip.PrefixFrom(address, address.BitLen()))
	return h.MAC, h.Instance != "" && h.State != sixacre.Quarantined && !h.Declined, err
}

// ClientSeen returns what was last seen of the client behind a NIC, and whether
// anything was.
func (c *Control) ClientSeen(ctx context.Context, pod string, mac sixacre.MAC) (sixacre.Sighting, bool, error) {
	r, err := c.store.Get(ctx, sixacre.SightingKey(pod, mac))
	seen, found := r.Noun.(sixacre.Sighting)
	return seen, found, err
}

// ClientsSeen returns what was last seen of the clients in a pod whose MACs are
// greater than one, in the order of their MACs, and of no more than limit. The
// zero MAC is less than that of any NIC.
func (c *Control) ClientsSeen(ctx context.Context, pod string, after sixacre.MAC, limit int) ([]sixacre.Sighting, error) {
	records, err := c.store.Page(ctx, sixacre.KindSighting, sixacre.SightingsIn(pod), sixacre.SightingKey(pod, after).Name, limit)
	seen := make([]sixacre.Sighting, 0, len(records))
	for _, r := range records {
		seen = append(seen, r.Noun.(sixacre.Sighting))
	}
	return seen, err
}
