package firewall

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sixacre/sixacre"
)

// group is the part of what a security group allows in one direction.
type group struct {
	sixacre.Group // as it was given
	direction     sixacre.Direction
	rules         []sixacre.Rule // those that can be followed
	remotes       []string       // groups that its rules name, some twice
	part
}

func compareGroups(a, b *group) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.direction, b.direction))
}

// allowances are a group's rules of one direction, ready to be looked up.
type allowances struct {
	ports  []segment // tcp and udp; disjoint and in order
	others []other   // what is not told apart by ports
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
	groups   []remoteGroup
}

// remoteGroup is a group whose members' addresses are meant, or their delegated
// prefixes too.
type remoteGroup struct {
	name     string
	prefixes bool
}

func has(g sixacre.Group, d sixacre.Direction) bool {
	return slices.ContainsFunc(g.Rules, func(r sixacre.Rule) bool { return r.Direction == d })
}

// group returns the group's part as it was, where its rules are the same.
func (rs Ruleset) group(g sixacre.Group, d sixacre.Direction) *group {
	made := &group{Group: g, direction: d}
	i, found := slices.BinarySearchFunc(rs.groups, made, compareGroups)
	if found && sameRules(rs.groups[i].Rules, g.Rules) {
		return rs.groups[i]
	}
	made.rules = usable(g, d)
	rules := allow(made.rules)
	for _, s := range rules.ports {
		made.name(s.from)
	}
	for _, o := range rules.others {
		made.name(o.from)
	}
	made.part = rules.render(groupChain(g.Name, d), d)
	return made
}

func (g *group) name(from remotes) {
	for _, r := range from.groups {
		g.remotes = append(g.remotes, r.name)
	}
}

// sameRules is quick where the view did not change them.
func sameRules(a, b []sixacre.Rule) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.EqualFunc(a, b, sameRule))
}

// sameRule compares all but the description.
func sameRule(a, b sixacre.Rule) bool {
	return a.ID == b.ID && a.Direction == b.Direction && a.Protocol == b.Protocol && slices.Equal(a.Ports, b.Ports) &&
		(a.ICMPType == nil) == (b.ICMPType == nil) && (a.ICMPType == nil || *a.ICMPType == *b.ICMPType) &&
		a.Remote == b.Remote && a.IncludePrefixes == b.IncludePrefixes && a.Cut == b.Cut
}

func allow(rules []sixacre.Rule) allowances {
	var out allowances
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

// usable returns the rules of the direction that can be followed.
func usable(g sixacre.Group, d sixacre.Direction) []sixacre.Rule {
	return slices.DeleteFunc(numbered(g.Rules), func(r sixacre.Rule) bool {
		badGroup := r.Remote.Group != "" && sixacre.ValidateName("group", r.Remote.Group) != nil
		return r.Direction != d || r.Validate() != nil || badGroup
	})
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
			out.groups = append(out.groups, remoteGroup{r.Remote.Group, r.IncludePrefixes})
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
	// With prefixes first: the same group without adds nothing.
	slices.SortFunc(out.groups, func(a, b remoteGroup) int {
		switch {
		case a.name != b.name:
			return cmp.Compare(a.name, b.name)
		case a.prefixes == b.prefixes:
			return 0
		case a.prefixes:
			return -1
		}
		return 1
	})
	out.groups = slices.CompactFunc(out.groups, func(a, b remoteGroup) bool { return a.name == b.name })
	out.prefixes = disjoint(out.prefixes)
	return out
}

// members is the part of a group that rules name: who belongs to it.
type members struct {
	given     sixacre.Members
	addresses []netip.Addr // those that count, in order
	part
}

func compareMembers(a, b *members) int { return cmp.Compare(a.given.Group, b.given.Group) }

// membersOf returns the members' part as it was, where they are the same.
func (rs Ruleset) membersOf(given sixacre.Members) *members {
	m := &members{given: given}
	i, found := slices.BinarySearchFunc(rs.members, m, compareMembers)
	if found && slices.Equal(rs.members[i].given.Addresses, given.Addresses) && slices.Equal(rs.members[i].given.Prefixes, given.Prefixes) {
		return rs.members[i]
	}
	m.addresses = slices.DeleteFunc(slices.Clone(given.Addresses), func(a netip.Addr) bool { return !unicast(a) })
	slices.SortFunc(m.addresses, netip.Addr.Compare)
	m.addresses = slices.Compact(m.addresses)
	var before []netip.Addr
	var texts []string // of those, as they were written before
	if found {
		before, texts = rs.members[i].addresses, rs.members[i].sets[0].Elements
	}
	addresses := Set{Kind: "set", Name: "members_" + given.Group, Spec: "type ipv6_addr;", Elements: make([]string, 0, len(m.addresses))}
	for _, a := range m.addresses {
		for len(before) > 0 && before[0].Less(a) {
			before, texts = before[1:], texts[1:]
		}
		if len(before) > 0 && before[0] == a {
			addresses.Elements = append(addresses.Elements, texts[0])
		} else {
			addresses.Elements = append(addresses.Elements, a.String())
		}
	}
	prefixes := Set{Kind: "set", Name: "member_prefixes_" + given.Group, Spec: "type ipv6_addr; flags interval;"}
	for _, p := range disjoint(given.Prefixes) {
		prefixes.Elements = append(prefixes.Elements, p.String())
	}
	m.sets = []Set{addresses, prefixes}
	return m
}

func groupChain(name string, d sixacre.Direction) string {
	return fmt.Sprintf("group_%s_%s", name, d)
}

// render makes the group's chain, its port map and one chain for each set of
// other ends.
func (a allowances) render(name string, d sixacre.Direction) part {
	const verdict = "accept"
	address := "ip6 saddr"
	if d == sixacre.Out {
		address = "ip6 daddr"
	}
	var out part
	made := map[string]bool{}
	// through is what leads to the verdict for those other ends alone.
	through := func(from remotes) string {
		if from.anybody {
			return verdict
		}
		sub := name + "_" + ruleNumbers(from.rules)
		if !made[sub] {
			made[sub] = true
			c := Chain{Name: sub}
			if len(from.prefixes) <= fewPrefixes {
				for _, p := range from.prefixes {
					c.add("%s %s %s", address, p, verdict)
				}
			} else {
				s := Set{Kind: "set", Name: sub, Spec: "type ipv6_addr; flags interval;"}
				for _, p := range from.prefixes {
					s.add("%s", p)
				}
				out.sets = append(out.sets, s)
				c.add("%s @%s %s", address, sub, verdict)
			}
			for _, r := range from.groups {
				c.add("%s @members_%s %s", address, r.name, verdict)
				if r.prefixes {
					c.add("%s @member_prefixes_%s %s", address, r.name, verdict)
				}
			}
			out.chains = append(out.chains, c)
		}
		return "jump " + sub
	}
	main := Chain{Name: name}
	if len(a.ports) > 0 {
		ports := Set{Kind: "map", Name: name, Spec: "type inet_proto . inet_service : verdict; flags interval;"}
		for _, s := range a.ports {
			ports.add("%s . %s : %s", s.protocol, sixacre.Ports{s.ports}, through(s.from))
		}
		out.sets = append(out.sets, ports)
		main.add("meta l4proto . th dport vmap @%s", name)
	}
	for _, o := range a.others {
		match := ""
		switch {
		case o.icmp != nil && o.icmp.HasCode:
			match = fmt.Sprintf("icmpv6 type %d icmpv6 code %d ", o.icmp.Type, o.icmp.Code)
		case o.icmp != nil:
			match = fmt.Sprintf("icmpv6 type %d ", o.icmp.Type)
		case o.protocol != sixacre.AnyProtocol:
			match = fmt.Sprintf("meta l4proto %d ", int(o.protocol))
		}
		main.add("%s%s", match, through(o.from))
	}
	out.chains = append(out.chains, main)
	return out
}

// fewPrefixes are compared one by one: the kernel is slow to make sets, of which
// groups would need thousands.
const fewPrefixes = 8

// ruleNumbers names a set of rules, such as 2_5; a long list by its hash.
func ruleNumbers(ids []int) string {
	parts := make([]string, len(ids))
	for i, id := range ids {
		parts[i] = strconv.Itoa(id)
	}
	s := strings.Join(parts, "_")
	if len(s) > 40 {
		h := fnv.New64a()
		h.Write([]byte(s))
		return fmt.Sprintf("many_%016x", h.Sum64())
	}
	return s
}
