package control

import (
	"context"
	"time"

	"github.com/sixacre/sixacre"
)

// CreatePod writes a pod. Its link prefix and pools must be nobody else's, and
// none of its relays an address that a NIC holds.
func (c *Control) CreatePod(ctx context.Context, p sixacre.Pod) (sixacre.Pod, error) {
	p = p.WithDefaults()
	if err := p.Validate(); err != nil {
		return p, err
	}
	return p, c.change(ctx, func(a *attempt) error {
		if err := fresh(a, "pod", p.Key()); err != nil {
			return err
		}
		if err := a.each(sixacre.KindPod, func(n sixacre.Noun) error {
			other := n.(sixacre.Pod)
			if err := p.ValidateBeside(other); err != nil {
				return err
			}
			for _, relay := range p.Relays {
				holder, err := a.holder(other, relay)
				if err != nil {
					return err
				}
				if holder != "" {
					return sixacre.Errorf(sixacre.Conflict, "pod %s: relay %s is the address of instance %s: give the router's own", p.Name, relay, holder)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if err := a.rested(p); err != nil {
			return err
		}
		a.Put = append(a.Put, p)
		return nil
	})
}

// rested refuses a pod that would use what rests in quarantine after another,
// except as prefixes of a pool: those are told apart one by one. Nothing goes
// into quarantine meanwhile: no other pod's pool overlaps this one's.
func (a *attempt) rested(p sixacre.Pod) error {
	resting, _, err := a.store.List(a.ctx, sixacre.KindDelegation, "")
	if err != nil {
		return err
	}
	for _, r := range resting {
		d := r.Noun.(sixacre.Delegation)
		until := d.Until.Format(time.RFC3339)
		if d.Prefix.Overlaps(p.LinkPrefix) {
			return sixacre.Errorf(sixacre.Conflict, "pod %s: link prefix %s is part of prefix %s, in quarantine after instance %s until %s: choose another, or wait",
				p.Name, p.LinkPrefix, d.Prefix, d.Instance, until)
		}
		for _, pool := range p.Pools {
			if d.Prefix.Overlaps(pool.Prefix) && !pool.Holds(d.Prefix) {
				return sixacre.Errorf(sixacre.Conflict, "pod %s: pool %s has prefix %s in quarantine after instance %s until %s: delegate /%d from it, or wait",
					p.Name, pool, d.Prefix, d.Instance, until, d.Prefix.Bits())
			}
		}
	}
	return nil
}

// Pods returns all pods by name.
func (c *Control) Pods(ctx context.Context) ([]sixacre.Pod, error) {
	return list[sixacre.Pod](ctx, c, sixacre.KindPod)
}

// Pod returns one pod.
func (c *Control) Pod(ctx context.Context, name string) (sixacre.Pod, error) {
	return get[sixacre.Pod](ctx, c, "pod", sixacre.Pod{Name: name}.Key())
}

// DeletePod removes a pod that no NIC and no peer is on, and the tokens of its
// routers. Prefixes in quarantine go on resting.
func (c *Control) DeletePod(ctx context.Context, name string) error {
	return c.change(ctx, func(a *attempt) error {
		p, err := must[sixacre.Pod](a, "pod", sixacre.Pod{Name: name}.Key())
		if err != nil {
			return err
		}
		under := sixacre.MACClaims(name)
		claims, _, err := c.store.List(ctx, sixacre.KindClaim, under)
		if err != nil {
			return err
		}
		if len(claims) > 0 {
			return sixacre.Errorf(sixacre.InUse, "pod %s is in use by instance %s (NICs in all: %d): delete its instances first",
				name, claims[0].Noun.(sixacre.Claim).Instance, len(claims))
		}
		a.RangeSeen = append(a.RangeSeen, sixacre.RangeSeen{Kind: sixacre.KindClaim, Under: under})
		if err := a.each(sixacre.KindPeer, func(n sixacre.Noun) error {
			if peer := n.(sixacre.Peer); peer.Pod == name {
				return sixacre.Errorf(sixacre.InUse, "pod %s is in use by peer %s: delete that peer first", name, peer.Name)
			}
			return nil
		}); err != nil {
			return err
		}
		if err := a.dropTokens(func(t sixacre.Token) bool { return t.Role == sixacre.RoleRouter && t.Pod == name }); err != nil {
			return err
		}
		a.Delete = append(a.Delete, p.Key())
		return nil
	})
}

// each calls f with every noun of the kind, and makes it a condition that none is
// written meanwhile.
func (a *attempt) each(kind sixacre.Kind, f func(sixacre.Noun) error) error {
	records, revision, err := a.store.List(a.ctx, kind, "")
	if err != nil {
		return err
	}
	a.RangeSeen = append(a.RangeSeen, sixacre.RangeSeen{Kind: kind, Revision: revision})
	for _, r := range records {
		if err := f(r.Noun); err != nil {
			return err
		}
	}
	return nil
}

// CreatePeer writes a BGP neighbour of a pod.
func (c *Control) CreatePeer(ctx context.Context, p sixacre.Peer) error {
	if err := p.Validate(); err != nil {
		return err
	}
	return c.change(ctx, func(a *attempt) error {
		if err := fresh(a, "peer", p.Key()); err != nil {
			return err
		}
		pod, err := must[sixacre.Pod](a, "pod", sixacre.Pod{Name: p.Pod}.Key())
		if err != nil {
			return err
		}
		if pod.LinkPrefix.Contains(p.Address) {
			holder, err := a.holder(pod, p.Address)
			if err != nil {
				return err
			}
			if holder != "" {
				return sixacre.Errorf(sixacre.Conflict, "peer %s: address %s is that of instance %s: give the router's own", p.Name, p.Address, holder)
			}
		}
		a.Put = append(a.Put, p)
		return nil
	})
}

// Peers returns all peers by name.
func (c *Control) Peers(ctx context.Context) ([]sixacre.Peer, error) {
	return list[sixacre.Peer](ctx, c, sixacre.KindPeer)
}

// Peer returns one peer.
func (c *Control) Peer(ctx context.Context, name string) (sixacre.Peer, error) {
	return get[sixacre.Peer](ctx, c, "peer", sixacre.Peer{Name: name}.Key())
}

// DeletePeer removes a peer.
func (c *Control) DeletePeer(ctx context.Context, name string) error {
	return c.change(ctx, func(a *attempt) error {
		p, err := must[sixacre.Peer](a, "peer", sixacre.Peer{Name: name}.Key())
		a.Delete = append(a.Delete, p.Key())
		return err
	})
}
