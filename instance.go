package sixacre

import "net/netip"

// NICState says whether the NIC's instance runs.
type NICState string

const (
	Running NICState = "running"
	Stopped NICState = "stopped"
)

// MaxPrefixes is how many prefixes one NIC may hold. maxRecords bounds the
// records of an instance as a whole, and maxNamed the others that it refers to,
// so that each of deploy and retire fits into one transaction of an etcd with its
// default limits (128 conditions, 128 writes).
const (
	MaxPrefixes = 32
	maxRecords  = 96
	maxNamed    = 24
)

// records is how many records the NIC may have besides its instance: its prefixes,
// the claim of its MAC, that of a learned link-local address and what was seen of
// it; the claim of its device; the claims of a stored address and of one that was
// declined.
func (n NIC) records() int {
	count := len(n.Prefixes) + 3
	if n.Device != "" {
		count++
	}
	if n.Address.IsValid() {
		count += 2
	}
	return count
}

// NIC is an instance's port on a pod.
//
// In the record, Address is set only in a dhcpv6 pod and LinkLocal never; both
// are filled in by addr.Complete on the way out, so that what is shown, answered
// and filtered is always what the MAC and the pod say. LearnedLinkLocal is in the
// record: a guest makes it of what nobody else knows (RFC 7217).
type NIC struct {
	MAC              MAC            `json:"mac" required:"true" doc:"Link-layer address, unique in the pod" example:"06:00:00:00:00:01"`
	Pod              string         `json:"pod" required:"true" example:"pod1"`
	Host             string         `json:"host,omitempty" doc:"Hypervisor it runs on" example:"hv1"`
	Device           string         `json:"device,omitempty" doc:"The tap on the host, if known" example:"tap1"`
	State            NICState       `json:"state,omitempty" enum:"running,stopped"`
	MovingTo         string         `json:"movingTo,omitempty" doc:"Hypervisor it is being moved to"`
	Address          netip.Addr     `json:"address,omitzero" doc:"Its address in the link prefix"`
	LinkLocal        netip.Addr     `json:"linkLocal,omitzero" readOnly:"true" doc:"Its predicted link-local address"`
	LearnedLinkLocal netip.Addr     `json:"learnedLinkLocal,omitzero" readOnly:"true" doc:"A second link-local address, which its guest was seen to take on its host"`
	Declined         netip.Addr     `json:"declined,omitzero" readOnly:"true" doc:"The address that it had until its client found another on the link with it: nobody is given it while the NIC stays"`
	Prefixes         []netip.Prefix `json:"prefixes" doc:"The prefixes delegated to it"`
	Groups           []string       `json:"groups" doc:"Its security groups"`
}

// On reports whether the host filters for this NIC: it runs there, or is being
// moved there.
func (n NIC) On(host string) bool { return host != "" && (n.Host == host || n.MovingTo == host) }

// LinkLocals returns the link-local addresses that the NIC may use: the predicted
// one, and the learned one if there is one.
func (n NIC) LinkLocals() []netip.Addr {
	if !n.LearnedLinkLocal.IsValid() {
		return []netip.Addr{n.LinkLocal}
	}
	return []netip.Addr{n.LinkLocal, n.LearnedLinkLocal}
}

// LinkLocalRequest is what a hypervisor's agent asks when the guest behind a tap
// takes a link-local address that is not the predicted one.
type LinkLocalRequest struct {
	Pod     string     `json:"pod" required:"true" example:"pod1"`
	MAC     MAC        `json:"mac" required:"true" example:"06:00:00:00:00:01"`
	Address netip.Addr `json:"address" required:"true" doc:"The address that the guest takes" example:"fe80::7217"`
	NewTap  bool       `json:"newTap,omitempty" doc:"Whether the tap was made anew since the NIC's last learned address: then it may change at once"`
}

// Validate refuses what is not an address of the link: one of fe80::/64 (RFC 4291
// section 2.5.6).
func (r LinkLocalRequest) Validate() error {
	if err := r.MAC.Validate(); err != nil {
		return err
	}
	b := r.Address.As16()
	if !r.Address.Is6() || r.Address.Zone() != "" || [8]byte(b[:8]) != [8]byte{0xfe, 0x80} {
		return Errorf(Invalid, "link-local %s of nic %s is not an address of fe80::/64", r.Address, r.MAC)
	}
	return nil
}

// Instance is a virtual machine.
type Instance struct {
	Name string `json:"name" required:"true" example:"i-1"`
	NICs []NIC  `json:"nics"`
}

// Validate refuses an instance that cannot work, whatever else there is.
func (i Instance) Validate() error {
	if err := ValidateName("instance", i.Name); err != nil {
		return err
	}
	if len(i.NICs) == 0 {
		return Errorf(Invalid, "instance %s has no NIC: give a pod and a mac", i.Name)
	}
	records, named := 0, map[Key]struct{}{}
	for k, n := range i.NICs {
		named[Key{KindPod, n.Pod}] = struct{}{}
		named[Key{KindHost, n.Host}] = struct{}{}
		for _, g := range n.Groups {
			named[Key{KindGroup, g}] = struct{}{}
		}
		if len(named) > maxNamed {
			return Errorf(Invalid, "instance %s names too many different pods, hosts and groups for one instance: %d in all are the most", i.Name, maxNamed)
		}
		if records += n.records(); records > maxRecords {
			return Errorf(Invalid, "instance %s holds too many NICs and prefixes for one instance: %d NICs with one prefix each are the most, in dhcpv6 pods %d, and fewer where their devices are given", i.Name, maxRecords/4, maxRecords/6)
		}
		if err := n.MAC.Validate(); err != nil {
			return Errorf(Invalid, "instance %s: %s", i.Name, err)
		}
		if n.Device != "" && (len(n.Device) > 15 || ValidateName("device", n.Device) != nil) {
			return Errorf(Invalid, "instance %s: device %q is not an interface name: use 1 to 15 letters, digits, dots, dashes and underscores", i.Name, n.Device)
		}
		if n.State != Running && n.State != Stopped {
			return Errorf(Invalid, "instance %s: state %q is not known: use running or stopped", i.Name, n.State)
		}
		if len(n.Prefixes) > MaxPrefixes {
			return Errorf(Invalid, "instance %s: %d prefixes on nic %s are more than the %d that a NIC may hold", i.Name, len(n.Prefixes), n.MAC, MaxPrefixes)
		}
		for _, other := range i.NICs[:k] {
			if other.MAC == n.MAC && other.Pod == n.Pod {
				return Errorf(Conflict, "instance %s: mac %s is given twice in pod %s", i.Name, n.MAC, n.Pod)
			}
		}
	}
	return nil
}

// NIC returns which of the instance's NICs has that MAC and is on that pod. The
// zero MAC and the empty pod are whichever, and refused where they leave several.
func (i Instance) NIC(mac MAC, pod string) (int, error) {
	at, several := -1, false
	for k, n := range i.NICs {
		if (mac == MAC{} || n.MAC == mac) && (pod == "" || n.Pod == pod) {
			at, several = k, at >= 0
		}
	}
	switch {
	case at < 0 && pod == "":
		return 0, Errorf(NotFound, "instance %s has no NIC %s", i.Name, mac)
	case at < 0:
		return 0, Errorf(NotFound, "instance %s has no such NIC in pod %s", i.Name, pod)
	case several:
		return 0, Errorf(Invalid, "instance %s has %d NICs: say which with its mac, or its pod", i.Name, len(i.NICs))
	}
	return at, nil
}

// Host is a hypervisor.
type Host struct {
	Name string `json:"name" required:"true" example:"hv1"`
}
