package firewall

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/sixacre/sixacre"
)

// Ruleset is the compiled policy of a host. Nothing in it is nft's own, so that
// another data path can be made from it; [Ruleset.Sync] and its neighbours
// print it for nft. The same Host in any order makes the same Ruleset.
type Ruleset struct {
	mode    Mode
	taps    []Pattern
	bridges []Bridge
	uplinks []Uplink
	nics    []nic
	groups  []group
	members []sixacre.Members
}

// nic is what one tap's guest is held to.
type nic struct {
	device, bridge string
	mac            sixacre.MAC
	linkLocal      netip.Addr
	addresses      []netip.Addr // global ones
	prefixes       []netip.Prefix
	in, out        []string // groups that have rules of that direction
}

// holds returns all single addresses that the NIC may call its own.
func (n nic) holds() []netip.Addr { return append([]netip.Addr{n.linkLocal}, n.addresses...) }

// Compile makes the policy. A port whose NIC is stopped or incomplete, whose
// name matches no tap pattern or cannot be written, or which two NICs claim is
// left out: it passes nothing. [Ruleset.Filters] tells.
func Compile(h Host) Ruleset {
	rs := Ruleset{mode: h.Mode, taps: slices.Clone(h.Taps)}
	slices.Sort(rs.taps)
	rs.taps = slices.Compact(rs.taps)
	for _, b := range h.Bridges {
		if plain(b.Name) {
			rs.bridges = append(rs.bridges, b)
		}
	}
	slices.SortFunc(rs.bridges, func(a, b Bridge) int { return cmp.Compare(a.Name, b.Name) })
	rs.bridges = slices.CompactFunc(rs.bridges, func(a, b Bridge) bool { return a.Name == b.Name })
	for _, u := range h.Uplinks {
		if plain(u.Device) && !rs.isTap(u.Device) {
			rs.uplinks = append(rs.uplinks, u)
		}
	}
	slices.SortFunc(rs.uplinks, func(a, b Uplink) int { return cmp.Compare(a.Device, b.Device) })
	rs.uplinks = slices.CompactFunc(rs.uplinks, func(a, b Uplink) bool { return a.Device == b.Device })

	claims := map[string]int{}
	for _, p := range h.Ports {
		claims[p.Device]++
	}
	rules := map[string]sixacre.Group{}
	for _, g := range h.Groups {
		if sixacre.ValidateName("group", g.Name) == nil { // it becomes part of chain names
			rules[g.Name] = g
		}
	}
	used := map[string]bool{}
	for _, p := range h.Ports {
		if claims[p.Device] > 1 || !plain(p.Device) || !rs.isTap(p.Device) || !filterable(p.NIC) {
			continue
		}
		n := nic{device: p.Device, bridge: p.Bridge, mac: p.NIC.MAC, linkLocal: p.NIC.LinkLocal}
		n.addresses = []netip.Addr{p.NIC.Address}
		for _, q := range p.NIC.Prefixes {
			if unicast(q.Addr()) && q.Bits() > 0 {
				n.prefixes = append(n.prefixes, q.Masked())
			}
		}
		slices.SortFunc(n.prefixes, netip.Prefix.Compare)
		n.prefixes = slices.Compact(n.prefixes)
		for _, name := range p.NIC.Groups {
			if g, ok := rules[name]; ok {
				used[name] = true
				if has(g, sixacre.In) {
					n.in = append(n.in, name)
				}
				if has(g, sixacre.Out) {
					n.out = append(n.out, name)
				}
			}
		}
		for _, names := range []*[]string{&n.in, &n.out} {
			slices.Sort(*names)
			*names = slices.Compact(*names)
		}
		rs.nics = append(rs.nics, n)
	}
	slices.SortFunc(rs.nics, func(a, b nic) int { return cmp.Compare(a.device, b.device) })

	remotes := map[string]bool{}
	for name := range used {
		for _, d := range []sixacre.Direction{sixacre.In, sixacre.Out} {
			if g := rules[name]; has(g, d) {
				rs.groups = append(rs.groups, compileGroup(g, d))
			}
		}
	}
	for _, g := range rs.groups {
		for _, r := range g.remoteGroups() {
			remotes[r] = true
		}
	}
	slices.SortFunc(rs.groups, func(a, b group) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.direction, b.direction))
	})
	for name := range remotes {
		rs.members = append(rs.members, membersOf(name, h.Members))
	}
	sixacre.SortNouns(rs.members)
	return rs
}

// Filters reports whether the tap is programmed: whether a NIC's own traffic
// passes it.
func (rs Ruleset) Filters(device string) bool {
	_, found := slices.BinarySearchFunc(rs.nics, device, func(n nic, d string) int { return cmp.Compare(n.device, d) })
	return found
}

func (rs Ruleset) isTap(device string) bool {
	return slices.ContainsFunc(rs.taps, func(p Pattern) bool { return p.Match(device) })
}

// filterable reports whether the NIC runs and says who it is.
func filterable(n sixacre.NIC) bool {
	return n.State != sixacre.Stopped && n.MAC.Validate() == nil &&
		n.LinkLocal.Is6() && n.LinkLocal.IsLinkLocalUnicast() && unicast(n.Address)
}

func unicast(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.IsGlobalUnicast() && a.Zone() == ""
}

func membersOf(name string, all []sixacre.Members) sixacre.Members {
	m := sixacre.Members{Group: name}
	for _, of := range all {
		if of.Group == name {
			m.Addresses = append(m.Addresses, slices.DeleteFunc(slices.Clone(of.Addresses), func(a netip.Addr) bool { return !unicast(a) })...)
			m.Prefixes = append(m.Prefixes, of.Prefixes...)
		}
	}
	slices.SortFunc(m.Addresses, netip.Addr.Compare)
	m.Addresses = slices.Compact(m.Addresses)
	m.Prefixes = disjoint(m.Prefixes)
	return m
}

// disjoint sorts the prefixes and drops those that another holds: an nft set
// takes no element twice.
func disjoint(prefixes []netip.Prefix) []netip.Prefix {
	sorted := slices.Clone(prefixes)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range sorted {
		if !p.IsValid() || !p.Addr().Is6() {
			continue
		}
		if n := len(out); n == 0 || !out[n-1].Contains(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}
