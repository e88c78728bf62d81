package control

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
)

// relearn is how long a NIC keeps a learned link-local address at least, in the
// store's own time, so that a guest cannot claim one address of the link after
// another. A tap made anew is another boot, and may have another one at once.
const relearn = 10 * time.Minute

// LearnLinkLocal records the link-local address that the guest behind a NIC takes
// beside the predicted one (RFC 7217). It is asked by the host, whose tap proves
// which NIC it is. What the NIC has already is granted again.
func (c *Control) LearnLinkLocal(ctx context.Context, host string, r sixacre.LinkLocalRequest) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if addr.Reserved(r.Address) {
		return sixacre.Errorf(sixacre.Invalid, "link-local %s is reserved (RFC 4291, RFC 2526, RFC 5453): nic %s cannot have it", r.Address, r.MAC)
	}
	learned := false
	err := c.change(ctx, func(a *attempt) (err error) {
		learned, err = a.learnLinkLocal(host, r)
		return err
	})
	if learned && err == nil {
		slog.Info("link-local address learned", "host", host, "pod", r.Pod, "mac", r.MAC, "address", r.Address)
	}
	return err
}

// learnLinkLocal plans to record the address, and reports whether the NIC did not
// have it.
func (a *attempt) learnLinkLocal(host string, r sixacre.LinkLocalRequest) (learned bool, err error) {
	i, at, err := a.nicOn(host, r.Pod, r.MAC)
	if err != nil {
		return false, err
	}
	n := &i.NICs[at]
	was := n.LearnedLinkLocal
	if r.Address == addr.LinkLocal(n.MAC) || r.Address == was {
		return false, nil
	}
	pod, err := must[sixacre.Pod](a, "pod", sixacre.Pod{Name: n.Pod}.Key())
	if err != nil {
		return false, err
	}
	if len(pod.RouterLinkLocals) == 0 {
		return false, sixacre.Errorf(sixacre.Conflict, "link-local %s is not learned: it could be a router's, and pod %s does not name those; create the pod with --router-link-local for each router", r.Address, pod.Name)
	}
	if slices.Contains(pod.RouterLinkLocals, r.Address) || slices.Contains(pod.Relays, r.Address) {
		return false, sixacre.Errorf(sixacre.Conflict, "link-local %s is a router's in pod %s: nic %s cannot have it", r.Address, pod.Name, n.MAC)
	}
	holder, err := a.linkLocalClaim(pod.Name, r.Address)
	if err != nil {
		return false, err
	}
	if holder.Instance != "" {
		return false, sixacre.Errorf(sixacre.Conflict, "link-local %s is another NIC's in pod %s: nic %s cannot have it; see 'sixacre whois %s --pod %s'",
			r.Address, pod.Name, n.MAC, r.Address, pod.Name)
	}
	now, err := a.clock()
	if err != nil {
		return false, err
	}
	if was.IsValid() {
		before, _, err := read[sixacre.Claim](a, sixacre.LinkLocalClaim(n.Pod, was))
		if err != nil {
			return false, err
		}
		if now.Before(before.Learned.Add(relearn)) && !r.NewTap {
			return false, sixacre.Errorf(sixacre.Conflict, "link-local %s: nic %s of pod %s has had %s for less than %s: it may change after that, or when its tap is made anew",
				r.Address, n.MAC, n.Pod, was, relearn)
		}
		a.Delete = append(a.Delete, sixacre.LinkLocalClaim(n.Pod, was))
	}
	n.LearnedLinkLocal = r.Address
	a.Put = append(a.Put, i, sixacre.Claim{
		Name: sixacre.LinkLocalClaim(n.Pod, r.Address).Name, Instance: i.Name, MAC: n.MAC, Pod: n.Pod, Learned: now,
	})
	return true, nil
}

// nicOn returns a running NIC that is on the host. Of others an agent is told
// nothing, not even whether there are such.
func (a *attempt) nicOn(host, pod string, mac sixacre.MAC) (i sixacre.Instance, at int, err error) {
	claim, found, err := read[sixacre.Claim](a, sixacre.MACClaim(pod, mac))
	if err != nil {
		return i, 0, err
	}
	if found {
		if i, _, err = read[sixacre.Instance](a, sixacre.Instance{Name: claim.Instance}.Key()); err != nil {
			return i, 0, err
		}
	}
	at = slices.IndexFunc(i.NICs, func(n sixacre.NIC) bool {
		return n.Pod == pod && n.MAC == mac && n.On(host) && n.State == sixacre.Running
	})
	if at < 0 {
		return i, 0, sixacre.Errorf(sixacre.Denied, "nic %s of pod %s does not run on host %s", mac, pod, host)
	}
	i.NICs = slices.Clone(i.NICs)
	return i, at, nil
}

// linkLocalClaim returns the claim of the NIC of the pod whose link-local address
// it is, predicted or learned, or one without instance.
func (a *attempt) linkLocalClaim(pod string, address netip.Addr) (sixacre.Claim, error) {
	if mac, ok := addr.MAC(address); ok && addr.LinkLocal(mac) == address {
		if claim, found, err := read[sixacre.Claim](a, sixacre.MACClaim(pod, mac)); err != nil || found {
			return claim, err
		}
	}
	claim, _, err := read[sixacre.Claim](a, sixacre.LinkLocalClaim(pod, address))
	return claim, err
}

// evict plans to take a learned link-local address from the NIC that has it,
// because the MAC of a new one makes it. It returns whose it was.
func (a *attempt) evict(pod string, address netip.Addr) (sixacre.Claim, error) {
	claim, found, err := read[sixacre.Claim](a, sixacre.LinkLocalClaim(pod, address))
	if err != nil || !found {
		return sixacre.Claim{}, err
	}
	i, found, err := read[sixacre.Instance](a, sixacre.Instance{Name: claim.Instance}.Key())
	if err != nil {
		return sixacre.Claim{}, err
	}
	if found {
		i.NICs = slices.Clone(i.NICs)
		for k, n := range i.NICs {
			if n.Pod == pod && n.LearnedLinkLocal == address {
				i.NICs[k].LearnedLinkLocal = netip.Addr{}
			}
		}
		a.put(i)
	}
	a.Delete = append(a.Delete, claim.Key())
	return claim, nil
}
