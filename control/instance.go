package control

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/alloc"
)

// Deployment is an instance to be made.
type Deployment struct {
	Name string          `json:"name" required:"true" example:"i-1"`
	NICs []NICDeployment `json:"nics" required:"true" minItems:"1"`
}

// NICDeployment is a NIC to be made. Prefixes that are named are given exactly;
// PrefixCount more are picked, one if neither is given and the pod has a pool.
type NICDeployment struct {
	sixacre.NIC
	PrefixCount *int `json:"prefixCount,omitempty" doc:"How many prefixes to pick; 1 if neither this nor prefixes is given" minimum:"0" maximum:"32"`
}

// Deploy writes an instance with its addresses and prefixes.
func (c *Control) Deploy(ctx context.Context, d Deployment) (sixacre.Instance, error) {
	var made sixacre.Instance
	var evicted []sixacre.Claim
	err := c.change(ctx, func(a *attempt) error {
		evicted = nil
		i := sixacre.Instance{Name: d.Name}
		for _, n := range d.NICs {
			if n.State == "" {
				n.State = sixacre.Running
			}
			if len(n.Groups) == 0 {
				n.Groups = []string{sixacre.DefaultGroup}
			}
			n.Prefixes = slices.Clone(n.Prefixes)
			i.NICs = append(i.NICs, n.NIC)
		}
		if err := i.Validate(); err != nil {
			return err
		}
		if err := fresh(a, "instance", i.Key()); err != nil {
			return err
		}
		made = sixacre.Instance{Name: i.Name}
		for k := range i.NICs {
			nic, pod, err := a.plug(i.Name, i.NICs[k], d.NICs[k].PrefixCount)
			if err != nil {
				return err
			}
			loser, err := a.evict(pod.Name, addr.LinkLocal(nic.MAC))
			if err != nil {
				return err
			}
			if loser.Instance != "" {
				evicted = append(evicted, loser)
			}
			i.NICs[k] = nic
			made.NICs = append(made.NICs, addr.Complete(pod, nic))
		}
		if err := i.Validate(); err != nil {
			return err
		}
		a.Put = append(a.Put, i)
		return nil
	})
	if err == nil {
		for _, loser := range evicted {
			slog.Warn("a NIC lost its learned link-local address to a new one whose MAC makes it", "claim", loser.Name,
				"instance", loser.Instance, "mac", loser.MAC, "new", d.Name)
		}
	}
	return made, err
}

// plug plans all that a new NIC needs, and returns it as it is to be recorded,
// with its pod.
func (a *attempt) plug(instance string, n sixacre.NIC, count *int) (sixacre.NIC, sixacre.Pod, error) {
	pod, err := must[sixacre.Pod](a, "pod", sixacre.Pod{Name: n.Pod}.Key())
	if err != nil {
		return n, pod, err
	}
	if n.Host != "" {
		if _, err := must[sixacre.Host](a, "host", sixacre.Host{Name: n.Host}.Key()); err != nil {
			return n, pod, err
		}
	}
	for k, name := range n.Groups {
		if slices.Contains(n.Groups[:k], name) {
			return n, pod, sixacre.Errorf(sixacre.Invalid, "group %s is given twice", name)
		}
		if _, err := a.group(name); err != nil {
			return n, pod, err
		}
	}
	claim := sixacre.Claim{Name: sixacre.MACClaim(n.Pod, n.MAC).Name, Instance: instance, MAC: n.MAC, Pod: n.Pod}
	if holder, found, err := read[sixacre.Claim](a, claim.Key()); err != nil {
		return n, pod, err
	} else if found {
		return n, pod, sixacre.Errorf(sixacre.Conflict, "mac %s is that of instance %s in pod %s: a MAC is unique in its pod", n.MAC, holder.Instance, n.Pod)
	}
	a.Put = append(a.Put, claim)
	if ll := addr.LinkLocal(n.MAC); slices.Contains(pod.RouterLinkLocals, ll) {
		return n, pod, sixacre.Errorf(sixacre.Conflict, "mac %s makes link-local %s, which is a router's in pod %s: choose another mac", n.MAC, ll, pod.Name)
	}
	if n.Address, err = a.address(instance, pod, n); err != nil {
		return n, pod, err
	}
	n.LinkLocal, n.LearnedLinkLocal, n.Declined, n.MovingTo = netip.Addr{}, netip.Addr{}, netip.Addr{}, ""
	if err := a.claimDevice(instance, n); err != nil {
		return n, pod, err
	}

	for k, prefix := range n.Prefixes {
		if slices.Contains(n.Prefixes[:k], prefix) {
			return n, pod, sixacre.Errorf(sixacre.Invalid, "prefix %s is given twice", prefix)
		}
		if err := a.delegate(instance, pod, n, prefix); err != nil {
			return n, pod, err
		}
	}
	more := 0
	switch {
	case count != nil:
		more = *count
	case len(n.Prefixes) == 0 && len(pod.Pools) > 0:
		more = 1
	}
	if more < 0 || more+len(n.Prefixes) > sixacre.MaxPrefixes {
		return n, pod, sixacre.Errorf(sixacre.Invalid, "%d prefixes are not between 0 and the %d that a NIC may hold", more+len(n.Prefixes), sixacre.MaxPrefixes)
	}
	for range more {
		prefix, err := a.delegateAny(instance, pod, n, pod.Pools)
		if err != nil {
			return n, pod, err
		}
		n.Prefixes = append(n.Prefixes, prefix)
	}
	return n, pod, nil
}

// claimDevice plans to take the NIC's tap for it: behind each there is one guest.
func (a *attempt) claimDevice(instance string, n sixacre.NIC) error {
	if n.Host == "" || n.Device == "" || n.State != sixacre.Running {
		return nil
	}
	claim := sixacre.Claim{Name: sixacre.DeviceClaim(n.Host, n.Device).Name, Instance: instance, MAC: n.MAC, Pod: n.Pod}
	holder, taken, err := read[sixacre.Claim](a, claim.Key())
	if taken {
		return sixacre.Errorf(sixacre.Conflict, "device %s on host %s is that of nic %s of instance %s, which runs: give this NIC's own, or none",
			n.Device, n.Host, holder.MAC, holder.Instance)
	}
	a.Put = append(a.Put, claim)
	return err
}

// freeDevice plans to give the NIC's tap up, if it is claimed for it: versions
// before did not claim taps.
func (a *attempt) freeDevice(n sixacre.NIC) error {
	if n.Host == "" || n.Device == "" {
		return nil
	}
	claim, found, err := read[sixacre.Claim](a, sixacre.DeviceClaim(n.Host, n.Device))
	if found && claim.MAC == n.MAC && claim.Pod == n.Pod {
		a.Delete = append(a.Delete, claim.Key())
	}
	return err
}

// address returns the address to record: in a slaac pod none, because it
// follows from the MAC; in a dhcpv6 pod the wanted one or a random one.
func (a *attempt) address(instance string, pod sixacre.Pod, n sixacre.NIC) (netip.Addr, error) {
	made := addr.EUI64(pod.LinkPrefix, n.MAC)
	switch want := n.Address; {
	case pod.Addressing == sixacre.SLAAC && want.IsValid() && want != made:
		return want, sixacre.Errorf(sixacre.Invalid, "address %s cannot be had in slaac pod %s: mac %s makes %s; leave the address out", want, pod.Name, n.MAC, made)
	case pod.Addressing == sixacre.SLAAC && addr.Reserved(made):
		return made, sixacre.Errorf(sixacre.Invalid, "mac %s makes a reserved address, %s (RFC 5453): choose another mac", n.MAC, made)
	case pod.Addressing == sixacre.SLAAC:
		return netip.Addr{}, a.notOfNetwork(pod, made)
	case want.IsValid() && !pod.LinkPrefix.Contains(want):
		return want, sixacre.Errorf(sixacre.Invalid, "address %s is not in link prefix %s of pod %s", want, pod.LinkPrefix, pod.Name)
	case want.IsValid() && addr.Reserved(want):
		return want, sixacre.Errorf(sixacre.Invalid, "address %s is reserved (RFC 4291, RFC 2526, RFC 5453): choose another", want)
	case want.IsValid():
		return want, a.claim(instance, pod, n, want)
	}
	for {
		address, ok := alloc.Address(pod.LinkPrefix, rand.Uint64())
		if !ok {
			continue
		}
		if err := a.claim(instance, pod, n, address); sixacre.CodeOf(err) != sixacre.Conflict {
			return address, err
		}
	}
}

// claim plans to take the address for the NIC.
func (a *attempt) claim(instance string, pod sixacre.Pod, n sixacre.NIC, address netip.Addr) error {
	if err := a.notOfNetwork(pod, address); err != nil {
		return err
	}
	claim := sixacre.Claim{Name: sixacre.AddressClaim(address).Name, Instance: instance, MAC: n.MAC, Pod: n.Pod}
	holder, taken, err := read[sixacre.Claim](a, claim.Key())
	switch {
	case taken && !holder.Declined.IsZero():
		return sixacre.Errorf(sixacre.Conflict, "address %s was declined by the client of instance %s, because another on the link had it: choose another", address, holder.Instance)
	case taken:
		return sixacre.Errorf(sixacre.Conflict, "address %s is that of instance %s: choose another", address, holder.Instance)
	}
	a.Put = append(a.Put, claim)
	return err
}

// notOfNetwork refuses an address that one of the pod's servers has, or that is
// any pod's router: a relay of another pod may well have its address on this
// pod's link.
func (c *Control) notOfNetwork(p sixacre.Pod, address netip.Addr) error {
	switch {
	case slices.Contains(p.Relays, address):
		return sixacre.Errorf(sixacre.Conflict, "address %s is a relay of pod %s: choose another", address, p.Name)
	case slices.Contains(p.DNS, address):
		return sixacre.Errorf(sixacre.Conflict, "address %s is a DNS server of pod %s: choose another", address, p.Name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, addresses := range c.routers {
		if slices.Contains(addresses, address) {
			return sixacre.Errorf(sixacre.Conflict, "address %s is a router's (%s): choose another", address, key)
		}
	}
	return nil
}

// Instances returns all instances by name, complete.
func (c *Control) Instances(ctx context.Context) ([]sixacre.Instance, error) {
	// A pod is older than what is on it, so that pods that are read last are all
	// there, but for those that have gone meanwhile with their instances.
	instances, err := list[sixacre.Instance](ctx, c, sixacre.KindInstance)
	if err != nil {
		return nil, err
	}
	pods, err := c.Pods(ctx)
	byName := make(map[string]sixacre.Pod, len(pods))
	for _, p := range pods {
		byName[p.Name] = p
	}
	instances = slices.DeleteFunc(instances, func(i sixacre.Instance) bool {
		return slices.ContainsFunc(i.NICs, func(n sixacre.NIC) bool { return byName[n.Pod].Name == "" })
	})
	for _, i := range instances {
		for k, n := range i.NICs {
			i.NICs[k] = addr.Complete(byName[n.Pod], n)
		}
	}
	return instances, err
}

// Instance returns one instance, complete.
func (c *Control) Instance(ctx context.Context, name string) (sixacre.Instance, error) {
	i, err := get[sixacre.Instance](ctx, c, "instance", sixacre.Instance{Name: name}.Key())
	for k, n := range i.NICs {
		p, err := c.Pod(ctx, n.Pod)
		if err != nil {
			return i, err
		}
		i.NICs[k] = addr.Complete(p, n)
	}
	return i, err
}

// Retire removes an instance, and what was seen of it. Its prefixes go into
// quarantine.
func (c *Control) Retire(ctx context.Context, name string) error {
	return c.change(ctx, func(a *attempt) error {
		i, err := must[sixacre.Instance](a, "instance", sixacre.Instance{Name: name}.Key())
		if err != nil {
			return err
		}
		for _, n := range i.NICs {
			a.Delete = append(a.Delete, sixacre.MACClaim(n.Pod, n.MAC), sixacre.SightingKey(n.Pod, n.MAC))
			if n.LearnedLinkLocal.IsValid() {
				a.Delete = append(a.Delete, sixacre.LinkLocalClaim(n.Pod, n.LearnedLinkLocal))
			}
			if err := a.freeDevice(n); err != nil {
				return err
			}
			for _, address := range []netip.Addr{n.Address, n.Declined} {
				if address.IsValid() {
					a.Delete = append(a.Delete, sixacre.AddressClaim(address))
				}
			}
			for _, prefix := range n.Prefixes {
				if err := a.rest(prefix); err != nil {
					return err
				}
			}
		}
		a.Delete = append(a.Delete, i.Key())
		return nil
	})
}

// Move names the host that a NIC is on from now on.
type Move struct {
	MAC  sixacre.MAC `json:"mac,omitzero" doc:"Which NIC; may be left out where there is one"`
	Pod  string      `json:"pod,omitempty" doc:"Which NIC, where several have that MAC"`
	Host string      `json:"host" required:"true"`
}

// Move records that a NIC is on another host from now on. Its addresses and
// prefixes stay.
func (c *Control) Move(ctx context.Context, name string, m Move) error {
	return c.change(ctx, func(a *attempt) error {
		i, err := must[sixacre.Instance](a, "instance", sixacre.Instance{Name: name}.Key())
		if err != nil {
			return err
		}
		at, err := i.NIC(m.MAC, m.Pod)
		if err != nil {
			return err
		}
		if _, err := must[sixacre.Host](a, "host", sixacre.Host{Name: m.Host}.Key()); err != nil {
			return err
		}
		if i.NICs[at].Host != m.Host {
			if err := a.freeDevice(i.NICs[at]); err != nil {
				return err
			}
			i.NICs[at].Host = m.Host
			// The tap is made anew on the other host, under a name of its own.
			i.NICs[at].Device = ""
		}
		a.Put = append(a.Put, i)
		return nil
	})
}
