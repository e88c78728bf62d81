package control

import (
	"context"
	"net/netip"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
)

// Holder says who holds what was asked for.
type Holder struct {
	Query    string                  `json:"query" doc:"What was asked for"`
	Instance string                  `json:"instance" example:"i-1"`
	MAC      sixacre.MAC             `json:"mac"`
	Pod      string                  `json:"pod"`
	Address  netip.Addr              `json:"address,omitzero" doc:"The holder's address, where that was asked for"`
	Prefix   netip.Prefix            `json:"prefix,omitzero" doc:"The delegated prefix that holds what was asked for"`
	State    sixacre.DelegationState `json:"state,omitempty" doc:"Of that prefix: a prefix in quarantine has its last holder"`
	Declined bool                    `json:"declined,omitempty" doc:"Whether that NIC's client declined the address and has another since"`
	Seen     *sixacre.Sighting       `json:"seen,omitempty" doc:"What was seen of the DHCPv6 client of that NIC; absent where nothing was"`
}

// Whois returns who holds an address, a prefix or a MAC. A MAC or a link-local
// address may have a holder in each pod: then pod says which is meant; it is empty
// for whichever.
func (c *Control) Whois(ctx context.Context, query, pod string) (Holder, error) {
	mac, notMAC := sixacre.ParseMAC(query)
	var asked netip.Prefix
	if notMAC != nil {
		var err error
		if asked, err = parseAddressOrPrefix(query); err != nil {
			return Holder{}, err
		}
	}
	pods, err := c.Pods(ctx)
	if pod != "" {
		pods = make([]sixacre.Pod, 1)
		pods[0], err = c.Pod(ctx, pod)
	}
	if err != nil {
		return Holder{}, err
	}
	a := &attempt{Control: c, ctx: ctx}
	var holder Holder
	for _, p := range pods {
		h, err := Holder{}, error(nil)
		if notMAC == nil {
			var claim sixacre.Claim
			claim, _, err = read[sixacre.Claim](a, sixacre.MACClaim(p.Name, mac))
			h = Holder{Instance: claim.Instance, MAC: mac, Pod: p.Name}
		} else {
			h, err = a.whois(p, asked)
		}
		switch {
		case err != nil:
			return Holder{}, err
		case h.Instance == "":
		case holder.Instance != "":
			return Holder{}, sixacre.Errorf(sixacre.Conflict, "%s is that of instance %s in pod %s, of instance %s in pod %s, …: say which pod",
				query, holder.Instance, holder.Pod, h.Instance, h.Pod)
		default:
			holder = h
		}
	}
	if holder.Instance == "" {
		return Holder{}, sixacre.Errorf(sixacre.NotFound, "%s is nobody's", query)
	}
	holder.Query = query
	if seen, found, err := read[sixacre.Sighting](a, sixacre.SightingKey(holder.Pod, holder.MAC)); err != nil {
		return Holder{}, err
	} else if found {
		holder.Seen = &seen
	}
	return holder, nil
}

// whois looks in one pod for the holder of a prefix, or of the address that a
// /128 is.
func (a *attempt) whois(p sixacre.Pod, asked netip.Prefix) (Holder, error) {
	if asked.IsSingleIP() && (p.LinkPrefix.Contains(asked.Addr()) || asked.Addr().IsLinkLocalUnicast()) {
		claim, err := a.claimOf(p, asked.Addr())
		return Holder{Instance: claim.Instance, MAC: claim.MAC, Pod: p.Name, Address: asked.Addr(), Declined: !claim.Declined.IsZero()}, err
	}
	for _, pool := range p.Pools {
		if !pool.Prefix.Contains(asked.Addr()) || asked.Bits() < pool.DelegatedLength {
			continue
		}
		whole := netip.PrefixFrom(asked.Addr(), pool.DelegatedLength).Masked()
		d, _, err := read[sixacre.Delegation](a, sixacre.DelegationKey(whole))
		return Holder{Instance: d.Instance, MAC: d.MAC, Pod: p.Name, Prefix: whole, State: d.State}, err
	}
	return Holder{}, nil
}

// claimOf returns the claim of the NIC of the pod that has the address, or one
// without instance.
func (a *attempt) claimOf(p sixacre.Pod, address netip.Addr) (sixacre.Claim, error) {
	if address.IsLinkLocalUnicast() {
		return a.linkLocalClaim(p.Name, address)
	}
	key := sixacre.AddressClaim(address)
	if p.Addressing == sixacre.SLAAC {
		mac, ok := addr.MAC(address)
		if !ok {
			return sixacre.Claim{}, nil
		}
		key = sixacre.MACClaim(p.Name, mac)
	}
	claim, _, err := read[sixacre.Claim](a, key)
	return claim, err
}

// holder names the instance that has the address in the pod, or nobody. One that
// a client declined is that of another on the link: a router's, for all we know.
func (a *attempt) holder(p sixacre.Pod, address netip.Addr) (string, error) {
	h, err := a.whois(p, netip.PrefixFrom(address, address.BitLen()))
	if h.Declined {
		return "", err
	}
	return h.Instance, err
}

func parseAddressOrPrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() && a.Zone() == "" {
		return netip.PrefixFrom(a, 128), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is6() {
		return p, sixacre.Errorf(sixacre.Invalid, "%q is not an IPv6 address, a prefix or a MAC", s)
	}
	return p.Masked(), nil
}
