package firewall

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	"github.com/sixacre/sixacre"
)

// Ruleset is the compiled policy of a host. The same Host in any order makes the
// same Ruleset. It is made of parts, each for one thing: the host itself, a NIC,
// a group's rules of one direction, a group's members. What is as it was in the
// Ruleset before is the very same part, so that [Ruleset.Change] is quick.
type Ruleset struct {
	host    *host
	nics    []*nic
	groups  []*group
	members []*members
}

// part is what one thing brings into the tables: sets and chains of its own, and
// elements of the host's sets.
type part struct {
	sets   []Set
	chains []Chain
	shared []entry
}

type entry struct{ set, element string }

// Compile makes the policy. A port whose NIC is stopped or incomplete, whose
// name matches no tap pattern or cannot be written, or which two NICs claim is
// left out: it passes nothing. [Ruleset.Filters] tells.
func Compile(h Host) Ruleset { return Ruleset{}.Next(h) }

// Next makes the policy as [Compile] does, of those parts of rs that are the same.
func (rs Ruleset) Next(h Host) Ruleset {
	base := baseOf(h)
	rules := map[string]sixacre.Group{}
	for _, g := range h.Groups {
		if sixacre.ValidateName("group", g.Name) == nil { // it becomes part of chain names
			rules[g.Name] = g
		}
	}
	policies := policiesOf(h, base, rules)

	used := map[string]bool{}
	for _, p := range policies {
		for _, name := range append(slices.Clone(p.in), p.out...) {
			used[name] = true
		}
		for _, b := range p.prefixes {
			base.lengths = append(base.lengths, b.Bits())
		}
		base.wholeLinks = base.wholeLinks || p.link.IsValid()
	}
	slices.Sort(base.lengths)
	base.lengths = slices.Compact(base.lengths)

	var next Ruleset
	if next.host = rs.host; rs.host == nil || !reflect.DeepEqual(rs.host.base, base) {
		next.host = newHost(base)
	}
	for _, p := range policies {
		p.wholeLinks = base.wholeLinks
		next.nics = append(next.nics, rs.nic(p, base))
	}
	remotes := map[string]bool{}
	for name := range used {
		for _, d := range []sixacre.Direction{sixacre.In, sixacre.Out} {
			if has(rules[name], d) {
				g := rs.group(rules[name], d)
				next.groups = append(next.groups, g)
				for _, r := range g.remotes {
					remotes[r] = true
				}
			}
		}
	}
	slices.SortFunc(next.groups, compareGroups)
	given := map[string]sixacre.Members{}
	for _, m := range h.Members {
		given[m.Group] = m
	}
	for name := range remotes {
		m := given[name]
		m.Group = name
		next.members = append(next.members, rs.membersOf(m))
	}
	slices.SortFunc(next.members, compareMembers)
	return next
}

// Filters reports whether the tap is programmed: whether a NIC's own traffic
// passes it.
func (rs Ruleset) Filters(device string) bool { return rs.at(device) != nil }

// at returns the NIC behind the tap, nil where there is none.
func (rs Ruleset) at(device string) *nic {
	i, found := slices.BinarySearchFunc(rs.nics, device, func(n *nic, d string) int { return cmp.Compare(n.device, d) })
	if !found {
		return nil
	}
	return rs.nics[i]
}

// policy is what one tap's guest is held to.
type policy struct {
	device     string
	index      int      // interface index
	uplinks    []string // of its bridge
	mode       Mode
	zone       uint16 // of its bridge
	tracked    bool   // that is one of ours
	mac        sixacre.MAC
	linkLocals []netip.Addr
	address    netip.Addr // global
	prefixes   []netip.Prefix
	link       netip.Prefix // that it may use as a whole; zero where only its address
	wholeLinks bool         // whether any NIC of the host may
	moving     bool         // it is on its way from one host to another
	echoByRule bool         // echo requests reach it only by a rule
	in, out    []string     // groups that have rules of that direction
}

// holds returns all single addresses that the NIC may call its own.
func (p policy) holds() []netip.Addr { return append(slices.Clone(p.linkLocals), p.address) }

// policiesOf says what each port's guest is held to, in the order of the ports'
// names.
func policiesOf(h Host, base base, rules map[string]sixacre.Group) []policy {
	claims := map[string]int{}
	for _, p := range h.Ports {
		claims[p.Device]++
	}
	pods := map[string]sixacre.Pod{}
	for _, p := range h.Pods {
		pods[p.Name] = p
	}
	uplinks := map[string][]string{}
	for _, u := range base.uplinks {
		uplinks[u.Bridge] = append(uplinks[u.Bridge], u.Device)
	}
	var out []policy
	for _, port := range h.Ports {
		if claims[port.Device] > 1 || !plain(port.Device) || !base.isTap(port.Device) || !filterable(port.NIC) {
			continue
		}
		pod := pods[port.NIC.Pod]
		p := policy{
			device: port.Device, index: port.Index, uplinks: uplinks[port.Bridge], mode: h.Mode,
			mac: port.NIC.MAC, address: port.NIC.Address, echoByRule: pod.Echo == sixacre.EchoRules, moving: port.NIC.MovingTo != "",
		}
		p.zone, p.tracked = base.zone(port.Bridge)
		for _, a := range port.NIC.LinkLocals() {
			if a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" {
				p.linkLocals = append(p.linkLocals, a)
			}
		}
		for _, q := range port.NIC.Prefixes {
			if unicast(q.Addr()) && q.Bits() > 0 {
				p.prefixes = append(p.prefixes, q.Masked())
			}
		}
		if pod.AntiSpoof == sixacre.AntiSpoofLinkPrefix && pod.LinkPrefix.Bits() == 64 && unicast(pod.LinkPrefix.Addr()) {
			p.link = pod.LinkPrefix.Masked()
		}
		for _, name := range port.NIC.Groups {
			if g, ok := rules[name]; ok {
				if has(g, sixacre.In) {
					p.in = append(p.in, name)
				}
				if has(g, sixacre.Out) {
					p.out = append(p.out, name)
				}
			}
		}
		slices.SortFunc(p.prefixes, netip.Prefix.Compare)
		p.prefixes = slices.Compact(p.prefixes)
		for _, names := range []*[]string{&p.in, &p.out} {
			slices.Sort(*names)
			*names = slices.Compact(*names)
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b policy) int { return cmp.Compare(a.device, b.device) })
	return out
}

// filterable reports whether the NIC runs and says who it is.
func filterable(n sixacre.NIC) bool {
	return n.State != sixacre.Stopped && n.MAC.Validate() == nil &&
		n.LinkLocal.Is6() && n.LinkLocal.IsLinkLocalUnicast() && unicast(n.Address)
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
