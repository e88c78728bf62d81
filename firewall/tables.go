package firewall

import (
	_ "embed"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/sixacre/sixacre"
)

//go:embed chains.nft
var chainsText string

//go:embed bridge_conntrack.nft
var bridgeConntrackText string

//go:embed conntrack.nft
var conntrackText string

// table is an nft table as it is printed.
type table struct {
	family, name string
	sets         []set
	chains       []chain
}

// set is a set or a map.
type set struct {
	name, kind string // kind: set or map
	spec       string // type, flags
	elements   []string
}

type chain struct {
	name  string
	hook  string // of a base chain
	rules []string
}

// Marks of BridgeNetfilter that carry the connection state from the ip6 hooks
// to the bridge's: the two bits of the packet mark that are ours.
const (
	markEstablished = "meta mark & 0x10000000 != 0"
	markInvalid     = "meta mark & 0x20000000 != 0"
	markHide        = "meta mark set mark and 0xcfffffff " // before the host's own policy routing sees it
)

// tables renders the ruleset.
func (rs Ruleset) tables() []table {
	b := table{family: "bridge", name: BridgeTable}
	b.sets = append(rs.portSets(), rs.sourceSets()...)
	b.chains = rs.static(chainsText)
	if rs.mode == BridgeConntrack {
		b.sets = append(b.sets, rs.conntrackedSets()...)
		b.chains = append(b.chains, rs.static(bridgeConntrackText)...)
	}
	b.chains = append(b.chains, rs.prefixChains()...)
	for _, m := range rs.members {
		b.sets = append(b.sets, memberSets(m)...)
	}
	for _, g := range rs.groups {
		sets, chains := g.render()
		b.sets = append(b.sets, sets...)
		b.chains = append(b.chains, chains...)
	}
	for _, n := range rs.nics {
		b.chains = append(b.chains, n.chains()...)
	}
	if rs.mode == BridgeConntrack {
		return []table{b}
	}
	ct := table{family: "ip6", name: ConntrackTable, chains: rs.static(conntrackText)}
	var names, zones []string
	for _, br := range rs.bridges {
		names = append(names, strconv.Quote(br.Name))
		zones = append(zones, fmt.Sprintf("%q : %d", br.Name, br.Zone))
	}
	ct.sets = []set{
		{"bridges", "set", "type ifname;", names},
		{"zones", "map", "typeof iifname : ct zone;", zones},
	}
	return []table{ct, b}
}

// static returns the chains of one of the embedded files.
func (rs Ruleset) static(text string) []chain {
	established, invalid, hide := markEstablished, markInvalid, markHide
	if rs.mode == BridgeConntrack {
		established, invalid, hide = "ct state established,related", "ct state invalid", ""
	}
	drops := func(direction string) string {
		var lines []string
		for _, p := range rs.taps {
			lines = append(lines, fmt.Sprintf("%s %q counter drop comment \"tap that is not programmed\"", direction, p))
		}
		return strings.Join(lines, "\n")
	}
	var out strings.Builder
	t := template.Must(template.New("").Funcs(template.FuncMap{
		"established": func() string { return established },
		"invalid":     func() string { return invalid },
		"hide":        func() string { return hide },
		"drop":        drops,
	}).Parse(text))
	if err := t.Execute(&out, nil); err != nil {
		panic(err) // the text is part of the program
	}
	var chains []chain
	for line := range strings.Lines(out.String()) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line == "}" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "chain "):
			chains = append(chains, chain{name: strings.Fields(line)[1]})
		case strings.HasPrefix(line, "type "):
			chains[len(chains)-1].hook = line
		default:
			last := &chains[len(chains)-1]
			last.rules = append(last.rules, line)
		}
	}
	return chains
}

// portSets say which port is what.
func (rs Ruleset) portSets() []set {
	ports := set{"ports", "map", "type ifname : verdict;", nil}
	taps := set{"taps", "set", "type ifname;", nil}
	inbound := set{"inbound", "map", "type ifname : verdict;", nil}
	outbound := set{"outbound", "map", "type ifname : verdict;", nil}
	macs := set{"macs", "set", "type ifname . ether_addr;", nil}
	for _, u := range rs.uplinks {
		ports.add("%q : goto uplink", u.Device)
	}
	for _, n := range rs.nics {
		ports.add("%q : goto guard", n.device)
		taps.add("%q", n.device)
		inbound.add("%q : goto to.%s", n.device, n.device)
		outbound.add("%q : goto from.%s", n.device, n.device)
		macs.add("%q . %s", n.device, n.mac)
	}
	return []set{ports, taps, inbound, outbound, macs}
}

// sourceSets say which address is whose.
func (rs Ruleset) sourceSets() []set {
	sources := set{"sources", "map", "type ifname . ether_addr . ipv6_addr : verdict;", nil}
	targets := set{"nd_targets", "set", "typeof iifname . @th,64,128;", nil}
	ndMACs := set{"nd_macs", "set", "typeof iifname . @th,208,48;", nil}
	rsMACs := set{"rs_macs", "set", "typeof iifname . @th,80,48;", nil}
	quotes := set{"quoted", "set", "typeof oifname . @th,128,128;", nil}
	for _, n := range rs.nics {
		sources.add("%q . %s . :: : goto source_unspecified", n.device, n.mac)
		sources.add("%q . %s . %s : goto source_link_local", n.device, n.mac, n.linkLocal)
		for _, a := range n.addresses {
			sources.add("%q . %s . %s : goto source_global", n.device, n.mac, a)
			quotes.add("%q . 0x%x", n.device, a.As16())
		}
		for _, a := range n.holds() {
			targets.add("%q . 0x%x", n.device, a.As16())
		}
		ndMACs.add("%q . 0x%x", n.device, n.mac[:])
		rsMACs.add("%q . 0x%x", n.device, n.mac[:])
	}
	out := []set{sources, targets, ndMACs, rsMACs, quotes}
	for _, bits := range rs.lengths() {
		prefixes := set{fmt.Sprintf("sources_%d", bits), "map", "type ifname . ether_addr . ipv6_addr : verdict;", nil}
		quoted := set{fmt.Sprintf("quoted_%d", bits), "set", "typeof oifname . @th,128,128;", nil}
		for _, n := range rs.nics {
			for _, p := range n.prefixes {
				if p.Bits() == bits {
					prefixes.add("%q . %s . %s : goto source_global", n.device, n.mac, p.Addr())
					quoted.add("%q . 0x%x", n.device, p.Addr().As16())
				}
			}
		}
		out = append(out, prefixes, quoted)
	}
	return out
}

// prefixChains look a source up among the delegated prefixes: one hash map for
// each length in use.
func (rs Ruleset) prefixChains() []chain {
	delegated := chain{name: "delegated"}
	quoted := chain{name: "quoted_delegated"}
	for _, bits := range rs.lengths() {
		ones := netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
		mask, _ := ones.Prefix(bits)
		delegated.add("iifname . ether saddr . (ip6 saddr & %s) vmap @sources_%d", mask.Addr(), bits)
		quoted.add("oifname . (@th,128,128 & 0x%x) @quoted_%d limit rate 1000/second accept", mask.Addr().As16(), bits)
	}
	return []chain{delegated, quoted}
}

// lengths returns the lengths of the delegated prefixes.
func (rs Ruleset) lengths() []int {
	var out []int
	for _, n := range rs.nics {
		for _, p := range n.prefixes {
			out = append(out, p.Bits())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// conntrackedSets give each port the conntrack zone of its bridge.
func (rs Ruleset) conntrackedSets() []set {
	zone := map[string]uint16{}
	for _, b := range rs.bridges {
		zone[b.Name] = b.Zone
	}
	tracked := set{"conntracked", "set", "type ifname;", nil}
	zones := set{"zones", "map", "typeof iifname : ct zone;", nil}
	add := func(device, bridge string) {
		if z, ok := zone[bridge]; ok {
			tracked.add("%q", device)
			zones.add("%q : %d", device, z)
		}
	}
	for _, u := range rs.uplinks {
		add(u.Device, u.Bridge)
	}
	for _, n := range rs.nics {
		add(n.device, n.bridge)
	}
	return []set{tracked, zones}
}

// chains are what a new connection to or from the NIC goes through. The dot
// keeps their names apart from the static ones, whatever the tap is called.
func (n nic) chains() []chain {
	to := chain{name: "to." + n.device, rules: []string{"jump to_guest"}}
	for _, g := range n.in {
		to.add("jump %s", groupChain(g, sixacre.In))
	}
	to.add("counter drop comment \"no rule lets it in\"")
	from := chain{name: "from." + n.device, rules: []string{"jump from_guest"}}
	for _, g := range n.out {
		from.add("jump %s", groupChain(g, sixacre.Out))
	}
	if len(n.out) == 0 {
		from.add("goto deliver")
	} else {
		from.add("counter drop comment \"no rule lets it out\"")
	}
	return []chain{to, from}
}

func groupChain(name string, d sixacre.Direction) string {
	return fmt.Sprintf("group_%s_%s", name, d)
}

func memberSets(m sixacre.Members) []set {
	addresses := set{"members_" + m.Group, "set", "type ipv6_addr;", nil}
	prefixes := set{"member_prefixes_" + m.Group, "set", "type ipv6_addr; flags interval;", nil}
	for _, a := range m.Addresses {
		addresses.add("%s", a)
	}
	for _, p := range m.Prefixes {
		prefixes.add("%s", p)
	}
	return []set{addresses, prefixes}
}

// render makes the group's chain, its port map and one chain for each set of
// other ends.
func (g group) render() ([]set, []chain) {
	name := groupChain(g.name, g.direction)
	address, verdict := "ip6 saddr", "accept"
	if g.direction == sixacre.Out {
		address, verdict = "ip6 daddr", "goto deliver" // the other end may be a guest here too
	}
	var sets []set
	var chains []chain
	made := map[string]bool{}
	// through is what leads to the verdict for those other ends alone.
	through := func(from remotes) string {
		if from.anybody {
			return verdict
		}
		sub := name + "_" + ruleNumbers(from.rules)
		if !made[sub] {
			made[sub] = true
			c := chain{name: sub}
			if len(from.prefixes) > 0 {
				s := set{sub, "set", "type ipv6_addr; flags interval;", nil}
				for _, p := range from.prefixes {
					s.add("%s", p)
				}
				sets = append(sets, s)
				c.add("%s @%s %s", address, sub, verdict)
			}
			for _, r := range from.groups {
				c.add("%s @members_%s %s", address, r, verdict)
				c.add("%s @member_prefixes_%s %s", address, r, verdict)
			}
			chains = append(chains, c)
		}
		return "jump " + sub
	}
	main := chain{name: name}
	if len(g.ports) > 0 {
		ports := set{name, "map", "type inet_proto . inet_service : verdict; flags interval;", nil}
		for _, s := range g.ports {
			ports.add("%s . %s : %s", s.protocol, sixacre.Ports{s.ports}, through(s.from))
		}
		sets = append(sets, ports)
		main.add("meta l4proto . th dport vmap @%s", name)
	}
	for _, o := range g.others {
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
	return sets, append(chains, main)
}

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

func (s *set) add(format string, args ...any) {
	s.elements = append(s.elements, fmt.Sprintf(format, args...))
}

func (c *chain) add(format string, args ...any) {
	c.rules = append(c.rules, fmt.Sprintf(format, args...))
}
