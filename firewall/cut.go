package firewall

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/sixacre/sixacre"
)

// Cut returns which established flows end when the ruleset comes after before:
// those that rs no longer allows, and that a rule had allowed which says so. Of
// flows that an instance opened while no rule held it, the rules that now do may
// say so too. It returns nil where there are none.
func (rs Ruleset) Cut(before Ruleset) func(sixacre.Flow) bool {
	changed := judgements{addresses: map[netip.Addr][]judged{}, prefixes: map[netip.Prefix][]judged{}}
	for _, was := range before.nics {
		is := rs.at(was.device)
		if is == nil || is.mac != was.mac {
			continue // what is gone is not for rules to say
		}
		for _, d := range []sixacre.Direction{sixacre.In, sixacre.Out} {
			j := judged{d, before.allowed(was, d), rs.allowed(is, d)}
			if (j.before.cuts() || d == sixacre.Out && j.after.cuts()) && !j.before.same(j.after) {
				changed.add(was.policy, j)
			}
		}
	}
	if len(changed.addresses) == 0 {
		return nil
	}
	if len(changed.links) > 0 { // all of the link's addresses but those that others hold
		for _, n := range slices.Concat(before.nics, rs.nics) {
			for _, a := range n.holds() {
				if _, known := changed.addresses[a]; !known {
					changed.addresses[a] = nil
				}
			}
		}
	}
	return changed.ends
}

// judgements are the NICs whose rules changed, by what they hold.
type judgements struct {
	addresses map[netip.Addr][]judged
	prefixes  map[netip.Prefix][]judged
	links     map[netip.Prefix][]judged // which they may use as a whole
	lengths   []int                     // of the prefixes
}

func (c *judgements) add(p policy, j judged) {
	for _, a := range p.holds() {
		c.addresses[a] = append(c.addresses[a], j)
	}
	for _, q := range p.prefixes {
		c.prefixes[q] = append(c.prefixes[q], j)
		if !slices.Contains(c.lengths, q.Bits()) {
			c.lengths = append(c.lengths, q.Bits())
		}
	}
	if p.link.IsValid() {
		if c.links == nil {
			c.links = map[netip.Prefix][]judged{}
		}
		c.links[p.link] = append(c.links[p.link], j)
	}
}

func (c judgements) ends(f sixacre.Flow) bool {
	for _, d := range []sixacre.Direction{sixacre.In, sixacre.Out} {
		guest := f.Destination
		if d == sixacre.Out {
			guest = f.Source
		}
		for _, j := range c.of(guest) {
			if j.direction == d && j.ends(f) {
				return true
			}
		}
	}
	return false
}

// of returns those whose address it is.
func (c judgements) of(a netip.Addr) []judged {
	if held, known := c.addresses[a]; known {
		return held
	}
	for _, bits := range c.lengths {
		if p, err := a.Prefix(bits); err == nil && len(c.prefixes[p]) > 0 {
			return c.prefixes[p]
		}
	}
	link, err := a.Prefix(64)
	if err != nil {
		return nil
	}
	return c.links[link]
}

// cutSet holds what guests may not go on with, until they have not tried to for as
// long.
var cutSet = Set{
	Kind: "set", Name: "cut",
	Spec: fmt.Sprintf("type ipv6_addr . inet_service . ipv6_addr . inet_service; size %d; flags dynamic,timeout; timeout 10m;", dynamicSize),
}

// Hold returns the change that keeps guests from going on with flows that were
// opened to them and are cut. Of other flows it takes no notice.
func Hold(flows []sixacre.Flow) Change {
	step := Step{Verb: AddElements, Object: Object{"bridge", BridgeTable, cutSet.Kind, cutSet.Name}, Spec: cutSet.Spec}
	for _, f := range flows {
		if f.Protocol == sixacre.TCP || f.Protocol == sixacre.UDP {
			step.List = append(step.List, fmt.Sprintf("%s . %d . %s . %d", f.Destination, f.DestinationPort, f.Source, f.SourcePort))
		}
	}
	if step.List == nil {
		return nil
	}
	return Change{step}
}

// judged is a NIC whose rules of one direction changed.
type judged struct {
	direction     sixacre.Direction
	before, after allowed
}

func (j judged) ends(f sixacre.Flow) bool {
	other := f.Source
	if j.direction == sixacre.Out {
		other = f.Destination
	}
	if now, _ := j.after.allows(f, other); now {
		return false
	}
	before, cut := j.before.allows(f, other)
	return before && (cut || j.direction == sixacre.Out && j.after.cuts())
}

// allowed is what the groups of a NIC allow in one direction.
type allowed struct {
	open    bool // there are no rules and everything is allowed
	echo    bool // echo requests need no rule
	groups  []*group
	members map[string]*members
}

func (rs Ruleset) allowed(n *nic, d sixacre.Direction) allowed {
	names := n.in
	if d == sixacre.Out {
		names = n.out
	}
	a := allowed{open: d == sixacre.Out && len(names) == 0, echo: d == sixacre.In && !n.echoByRule, members: map[string]*members{}}
	for _, name := range names {
		i, _ := slices.BinarySearchFunc(rs.groups, &group{Group: sixacre.Group{Name: name}, direction: d}, compareGroups)
		a.groups = append(a.groups, rs.groups[i])
		for _, r := range rs.groups[i].remotes {
			k, _ := slices.BinarySearchFunc(rs.members, &members{given: sixacre.Members{Group: r}}, compareMembers)
			a.members[r] = rs.members[k]
		}
	}
	return a
}

// same reports whether both are made of the same parts.
func (a allowed) same(b allowed) bool {
	if a.open != b.open || a.echo != b.echo || !slices.Equal(a.groups, b.groups) {
		return false
	}
	for name, m := range a.members {
		if b.members[name] != m {
			return false
		}
	}
	return true
}

// cuts reports whether any rule ends what it no longer allows.
func (a allowed) cuts() bool {
	return slices.ContainsFunc(a.groups, func(g *group) bool {
		return slices.ContainsFunc(g.rules, func(r sixacre.Rule) bool { return r.Cut })
	})
}

// allows reports whether the flow from or to that other end is allowed, and
// whether a rule that does so ends it when it no longer does.
func (a allowed) allows(f sixacre.Flow, other netip.Addr) (ok, cut bool) {
	const echoRequest = 128
	ok = a.open || a.echo && f.Protocol == sixacre.ICMPv6 && f.ICMPType == echoRequest
	for _, g := range a.groups {
		for _, r := range g.rules {
			if a.matches(r, f, other) {
				ok, cut = true, cut || r.Cut
			}
		}
	}
	return ok, cut
}

func (a allowed) matches(r sixacre.Rule, f sixacre.Flow, other netip.Addr) bool {
	port := func(p sixacre.PortRange) bool { return p.First <= f.DestinationPort && f.DestinationPort <= p.Last }
	switch {
	case r.Protocol != sixacre.AnyProtocol && r.Protocol != f.Protocol:
		return false
	case len(r.Ports) > 0 && !slices.ContainsFunc(r.Ports, port):
		return false
	case r.ICMPType != nil && (r.ICMPType.Type != f.ICMPType || r.ICMPType.HasCode && r.ICMPType.Code != f.ICMPCode):
		return false
	case r.Remote.Group != "":
		m := a.members[r.Remote.Group].given
		return slices.Contains(m.Addresses, other) ||
			r.IncludePrefixes && slices.ContainsFunc(m.Prefixes, func(p netip.Prefix) bool { return p.Contains(other) })
	case r.Remote.Prefix.IsValid():
		return r.Remote.Prefix.Contains(other)
	}
	return true
}
