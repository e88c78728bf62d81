package firewall

import (
	"net/netip"
	"slices"

	"github.com/sixacre/sixacre"
)

// group is what a security group allows in one direction.
type group struct {
	name      string
	direction sixacre.Direction
	ports     []segment // tcp and udp; disjoint and in order
	others    []other   // what is not told apart by ports
}

// segment is a range of ports with the same answer to everybody: overlapping
// rules are cut into segments, so that one lookup finds all that apply.
type segment struct {
	protocol sixacre.Protocol
	ports    sixacre.PortRange
	from     remotes
}

// other is an allowance that ports do not tell apart.
type other struct {
	protocol sixacre.Protocol
	icmp     *sixacre.ICMPType
	from     remotes
}

// remotes are the other ends that an allowance is for.
type remotes struct {
	rules    []int // the rules it stands for, by number: it names the chain
	anybody  bool
	prefixes []netip.Prefix
	groups   []string
}

func has(g sixacre.Group, d sixacre.Direction) bool {
	return slices.ContainsFunc(g.Rules, func(r sixacre.Rule) bool { return r.Direction == d })
}

func compileGroup(g sixacre.Group, d sixacre.Direction) group {
	out := group{name: g.Name, direction: d}
	rules := numbered(g.Rules)
	rules = slices.DeleteFunc(rules, func(r sixacre.Rule) bool {
		badGroup := r.Remote.Group != "" && sixacre.ValidateName("group", r.Remote.Group) != nil
		return r.Direction != d || r.Validate() != nil || badGroup
	})
	for _, protocol := range []sixacre.Protocol{sixacre.TCP, sixacre.UDP} {
		out.ports = append(out.ports, segments(protocol, rules)...)
	}
	for _, r := range rules {
		if r.Protocol != sixacre.TCP && r.Protocol != sixacre.UDP {
			out.others = append(out.others, other{r.Protocol, r.ICMPType, remotesOf([]sixacre.Rule{r})})
		}
	}
	return out
}

// remoteGroups returns the groups that the rules name, some twice.
func (g group) remoteGroups() []string {
	var out []string
	for _, s := range g.ports {
		out = append(out, s.from.groups...)
	}
	for _, o := range g.others {
		out = append(out, o.from.groups...)
	}
	return out
}

// numbered returns the rules in the order of their numbers. Rules that came
// without, or with the same twice, are numbered in the order they came.
func numbered(rules []sixacre.Rule) []sixacre.Rule {
	rules = slices.Clone(rules)
	seen := map[int]bool{}
	for _, r := range rules {
		seen[r.ID] = true
	}
	if len(seen) < len(rules) || seen[0] {
		for i := range rules {
			rules[i].ID = i + 1
		}
	}
	slices.SortFunc(rules, func(a, b sixacre.Rule) int { return a.ID - b.ID })
	return rules
}

// segments cuts the port ranges of the protocol's rules into disjoint ones.
func segments(protocol sixacre.Protocol, rules []sixacre.Rule) []segment {
	type span struct {
		sixacre.PortRange
		rule int
	}
	var spans []span
	var cuts []int // first ports of segments
	for i, r := range rules {
		if r.Protocol != protocol {
			continue
		}
		ports := r.Ports
		if len(ports) == 0 {
			ports = sixacre.Ports{{First: 0, Last: 0xffff}}
		}
		for _, p := range ports {
			spans = append(spans, span{p, i})
			cuts = append(cuts, int(p.First), int(p.Last)+1)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)

	var out []segment
	for i := 0; i+1 < len(cuts); i++ {
		s := segment{protocol: protocol, ports: sixacre.PortRange{First: uint16(cuts[i]), Last: uint16(cuts[i+1] - 1)}}
		var apply []sixacre.Rule
		for _, sp := range spans {
			if sp.First <= s.ports.First && s.ports.Last <= sp.Last {
				apply = append(apply, rules[sp.rule])
			}
		}
		if len(apply) == 0 {
			continue
		}
		s.from = remotesOf(apply)
		if n := len(out); n > 0 && out[n-1].ports.Last+1 == s.ports.First && slices.Equal(out[n-1].from.rules, s.from.rules) {
			out[n-1].ports.Last = s.ports.Last
			continue
		}
		out = append(out, s)
	}
	return out
}

// remotesOf joins the other ends of the rules.
func remotesOf(rules []sixacre.Rule) remotes {
	var out remotes
	for _, r := range rules {
		out.rules = append(out.rules, r.ID)
		switch {
		case r.Remote.Group != "":
			out.groups = append(out.groups, r.Remote.Group)
		case !r.Remote.Prefix.IsValid() || r.Remote.Prefix.Bits() == 0:
			out.anybody = true
		default:
			out.prefixes = append(out.prefixes, r.Remote.Prefix)
		}
	}
	slices.Sort(out.rules)
	out.rules = slices.Compact(out.rules)
	if out.anybody {
		return remotes{rules: nil, anybody: true}
	}
	slices.Sort(out.groups)
	out.groups = slices.Compact(out.groups)
	out.prefixes = disjoint(out.prefixes)
	return out
}
