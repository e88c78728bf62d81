package firewall

import (
	"cmp"
	_ "embed"
	"fmt"
	"net/netip"
	"slices"
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

// base is what the chains and sets that all guests share follow from.
type base struct {
	mode       Mode
	taps       []Pattern
	limits     Limits
	log        Log
	bridges    []Bridge
	uplinks    []Uplink
	pods       []podZone
	routers    []netip.Addr // addresses of the links that no guest may take
	lengths    []int        // of the prefixes whose addresses guests may use
	wholeLinks bool         // some guest may use all addresses of its link
}

// podZone is the conntrack zone of a pod's addresses.
type podZone struct {
	prefix netip.Prefix
	zone   uint16
}

// host is the part that all others build on.
type host struct {
	base
	tables []Table // with its own sets and chains
}

func baseOf(h Host) base {
	b := base{mode: h.Mode, taps: slices.Clone(h.Taps), limits: h.Limits, log: h.Log}
	if b.limits == (Limits{}) {
		b.limits = DefaultLimits
	}
	slices.Sort(b.taps)
	b.taps = slices.Compact(b.taps)
	for _, br := range h.Bridges {
		if plain(br.Name) {
			b.bridges = append(b.bridges, br)
		}
	}
	slices.SortFunc(b.bridges, func(a, b Bridge) int { return cmp.Compare(a.Name, b.Name) })
	b.bridges = slices.CompactFunc(b.bridges, func(a, b Bridge) bool { return a.Name == b.Name })
	for _, u := range h.Uplinks {
		if plain(u.Device) && !b.isTap(u.Device) {
			b.uplinks = append(b.uplinks, u)
		}
	}
	slices.SortFunc(b.uplinks, func(a, b Uplink) int { return cmp.Compare(a.Device, b.Device) })
	b.uplinks = slices.CompactFunc(b.uplinks, func(a, b Uplink) bool { return a.Device == b.Device })
	b.addPods(h)
	return b
}

// addPods finds each pod's bridge, which is its NICs'.
func (b *base) addPods(h Host) {
	on := map[string]string{}
	for _, p := range h.Ports {
		if br, known := on[p.NIC.Pod]; !known || p.Bridge < br {
			on[p.NIC.Pod] = p.Bridge
		}
	}
	var all []podZone
	for _, pod := range h.Pods {
		zone, known := b.zone(on[pod.Name])
		if !known {
			continue
		}
		all = append(all, podZone{pod.LinkPrefix.Masked(), zone})
		for _, pool := range pod.Pools {
			all = append(all, podZone{pool.Prefix.Masked(), zone})
		}
		if pod.AntiSpoof == sixacre.AntiSpoofLinkPrefix {
			b.routers = append(b.routers, pod.LinkPrefix.Masked().Addr()) // subnet-router anycast (RFC 4291 section 2.6.1)
			for _, r := range pod.Relays {
				if pod.LinkPrefix.Contains(r) {
					b.routers = append(b.routers, r)
				}
			}
		}
	}
	slices.SortFunc(b.routers, netip.Addr.Compare)
	b.routers = slices.Compact(b.routers)
	slices.SortFunc(all, func(a, b podZone) int { return a.prefix.Compare(b.prefix) })
	for _, p := range all { // the map takes no overlaps; the record has none
		if n := len(b.pods); unicast(p.prefix.Addr()) && p.prefix.Bits() > 0 && (n == 0 || !b.pods[n-1].prefix.Overlaps(p.prefix)) {
			b.pods = append(b.pods, p)
		}
	}
}

// zone returns the conntrack zone of a bridge.
func (b base) zone(bridge string) (zone uint16, known bool) {
	i, known := slices.BinarySearchFunc(b.bridges, bridge, func(br Bridge, name string) int { return cmp.Compare(br.Name, name) })
	if known {
		zone = b.bridges[i].Zone
	}
	return zone, known
}

func (b base) isTap(device string) bool {
	return slices.ContainsFunc(b.taps, func(p Pattern) bool { return p.Match(device) })
}

// newHost makes the tables with all that follows from the host alone.
func newHost(b base) *host {
	bridge := Table{Family: "bridge", Name: BridgeTable, Sets: b.sets(), Chains: b.chains(chainsText)}
	if b.mode == BridgeConntrack {
		bridge.Chains = append(bridge.Chains, b.chains(bridgeConntrackText)...)
	}
	bridge.Chains = append(bridge.Chains, b.lookups()...)

	ct := Table{Family: "ip6", Name: ConntrackTable, Chains: b.chains(conntrackText)}
	bridges := Set{Kind: "set", Name: "bridges", Spec: "type iface_index;"}
	zones := Set{Kind: "map", Name: "zones", Spec: "typeof iif : ct zone;"}
	for _, br := range b.bridges {
		bridges.add("%d", br.Index)
		zones.add("%d : %d", br.Index, br.Zone)
	}
	pods := Set{Kind: "map", Name: "pods", Spec: "typeof ip6 daddr : ct zone; flags interval;"}
	for _, p := range b.pods {
		pods.add("%s : %d", p.prefix, p.zone)
	}
	ct.Sets = []Set{bridges, zones, pods}
	if b.mode == BridgeNetfilter {
		ct.Sets = append(ct.Sets, b.counted()...)
	}
	return &host{base: b, tables: []Table{ct, bridge}}
}

// rate is a set of which each element says when its key comes too often.
func rate(name, key string, r Rate) Set {
	return Set{Kind: "set", Name: name, Spec: fmt.Sprintf("type %s; size %d; flags dynamic; limit rate over %d/second burst %d packets;", key, dynamicSize, r.PerSecond, r.Burst)}
}

// counted are the sets of connections, and of those refused.
func (b base) counted() []Set {
	return []Set{
		// Room for a list of each connection: most kernels' table has 262,144.
		{Kind: "set", Name: b.connections(), Spec: fmt.Sprintf("type mark; size %d; flags dynamic;", 4*(dynamicSize+1))},
		{Kind: "set", Name: RefusedSet, Spec: fmt.Sprintf("type mark; size %d; flags dynamic; counter;", dynamicSize)},
	}
}

// connections names the set that counts connections by its limit, because
// elements keep the limit that they were made with. The limit stands in the rule,
// not in the set: for each rule that goes, kernels give back a hold on connection
// tracking that a set's own expression never took, until tracking ends.
func (b base) connections() string { return fmt.Sprintf("connections_%d", b.limits.Connections) }

// A list of connections has 16 when its NIC has all that it may, and by chance half
// as many more. The kernel looks up each that is in a list when it adds to it.
const listLength = 16

// lists is into how many lists the connections of a NIC and direction are told
// apart: a power of two.
func (b base) lists() int {
	if b.limits.Connections < 256 {
		return 1 // and so the limit is exact
	}
	n := 1
	for n*2*listLength <= b.limits.Connections && n < maxLists {
		n *= 2
	}
	return n
}

func (b base) limitOfList() int {
	if b.lists() == 1 {
		return b.limits.Connections
	}
	return b.limits.Connections / b.lists() * 3 / 2
}

// The mark of a new connection: a bit that says so, the interface index of the
// NIC's tap, the direction, the list.
const (
	newMark   = 0x80000000
	maxLists  = 2048
	indexMask = 0x0fffffff / (2 * maxLists)
)

// list are the statements that mark a new connection. Where there is nothing
// behind the headers to tell connections apart by, all are in one list.
func (b base) list(index int, d sixacre.Direction) []string {
	n := newMark + (index&indexMask)*2*maxLists
	if d == sixacre.In {
		n += maxLists
	}
	return []string{
		fmt.Sprintf("meta mark set %d", n),
		fmt.Sprintf("meta mark set jhash ip6 saddr . ip6 daddr . @th,0,32 mod %d seed 0x5ac7e offset %d", b.lists(), n),
	}
}

// Refused returns whose connections a key of the set "refused" counts: the
// interface index of the tap, and whether they came from there or were to go there.
func Refused(mark uint32) (index int, d sixacre.Direction) {
	d = sixacre.Out
	if mark&maxLists != 0 {
		d = sixacre.In
	}
	return int(mark&^newMark) / (2 * maxLists), d
}

// dynamicSize is how many elements packets can make in a set.
const dynamicSize = 65535

// sets returns the sets of the bridge's table that all NICs share.
func (b base) sets() []Set {
	uplinks := Set{Kind: "set", Name: "uplinks", Spec: "type iface_index;"}
	delivery := Set{Kind: "map", Name: "delivery", Spec: "type iface_index : verdict;"}
	for _, u := range b.uplinks {
		uplinks.add("%d", u.Index)
		delivery.add("%d : accept", u.Index)
	}
	const source = "type iface_index . ether_addr . ipv6_addr : verdict;"
	const address = "type ifname . ipv6_addr;"
	const quote = "typeof oifname . @th,128,128;"
	out := []Set{
		{Kind: "set", Name: "taps", Spec: "type iface_index;"},
		uplinks,
		delivery,
		{Kind: "map", Name: "inbound", Spec: "type iface_index : verdict;"},
		{Kind: "map", Name: "outbound", Spec: "type iface_index : verdict;"},
		{Kind: "set", Name: "macs", Spec: "type ifname . ether_addr;"},
		{Kind: "map", Name: "sources", Spec: source},
		{Kind: "set", Name: "nd_targets", Spec: "typeof iifname . @th,64,128;"},
		{Kind: "set", Name: "nd_macs", Spec: "typeof iifname . @th,208,48;"},
		{Kind: "set", Name: "rs_macs", Spec: "typeof iifname . @th,80,48;"},
		{Kind: "set", Name: "quoted", Spec: quote},
		{Kind: "set", Name: "held", Spec: address},
		{Kind: "set", Name: "here", Spec: address},
		{Kind: "set", Name: "echo_by_rule", Spec: "type ifname;"},
		cutSet,
	}
	for _, bits := range b.lengths {
		out = append(out,
			Set{Kind: "map", Name: fmt.Sprintf("sources_%d", bits), Spec: source},
			Set{Kind: "set", Name: fmt.Sprintf("quoted_%d", bits), Spec: quote},
			Set{Kind: "set", Name: fmt.Sprintf("held_%d", bits), Spec: address},
			Set{Kind: "set", Name: fmt.Sprintf("here_%d", bits), Spec: address})
	}
	if b.wholeLinks {
		assigned := Set{Kind: "set", Name: "assigned", Spec: "type ipv6_addr;"}
		targets := Set{Kind: "set", Name: "assigned_targets", Spec: "typeof @th,64,128;"}
		quotes := Set{Kind: "set", Name: "assigned_quotes", Spec: "typeof @th,128,128;"}
		for _, r := range b.routers {
			assigned.add("%s", r)
			targets.add("0x%x", r.As16())
			quotes.add("0x%x", r.As16())
		}
		out = append(out, assigned, targets, quotes,
			Set{Kind: "map", Name: "sources_link", Spec: source},
			Set{Kind: "set", Name: "nd_targets_link", Spec: "typeof iifname . @th,64,128;"},
			Set{Kind: "set", Name: "quoted_link", Spec: quote},
			Set{Kind: "set", Name: "held_link", Spec: address})
	}
	out = append(out,
		rate("dhcpv6_rate", "ifname", b.limits.DHCPv6),
		rate("nd_rate", "ifname", b.limits.ND),
		rate("mld_rate", "ifname", b.limits.MLD),
		rate("error_rate", "ifname", b.limits.Errors))
	if b.log.Learning != 0 {
		out = append(out, rate("learn_rate", "ifname", Rate{1, 3}))
	}
	for _, name := range []string{DroppedFrom, DroppedTo} {
		out = append(out, Set{Kind: "set", Name: name, Spec: fmt.Sprintf("type ifname . mark; size %d; flags dynamic; counter;", dynamicSize)})
	}
	if b.mode == BridgeConntrack {
		tracked := Set{Kind: "set", Name: "conntracked", Spec: "type iface_index;"}
		zones := Set{Kind: "map", Name: "port_zones", Spec: "typeof iif : ct zone;"}
		for _, u := range b.uplinks {
			if zone, known := b.zone(u.Bridge); known {
				tracked.add("%d", u.Index)
				zones.add("%d : %d", u.Index, zone)
			}
		}
		out = append(append(out, tracked, zones), b.counted()...)
	}
	return out
}

// lookups are the chains that find an address among prefixes: one masked hash
// for each length in use. Where none is, they are empty.
func (b base) lookups() []Chain {
	delegated := Chain{Name: "delegated"}
	quoted := Chain{Name: "quoted_delegated"}
	addressed := Chain{Name: "addressed", Rules: []string{"oifname . ip6 daddr @held return"}}
	elsewhere := Chain{Name: "from_elsewhere", Rules: []string{"iifname . ip6 saddr @here " + FromElsewhere.drop(DroppedFrom)}}
	here := Chain{Name: "to_here", Rules: []string{"oifname . ip6 daddr @here goto leaves_for_here"}}
	for _, bits := range b.lengths {
		mask := maskOf(bits)
		here.add("oifname . (ip6 daddr & %s) @here_%d goto leaves_for_here", mask, bits)
		delegated.add("iif . ether saddr . (ip6 saddr & %s) vmap @sources_%d", mask, bits)
		quoted.add("oifname . (@th,128,128 & 0x%x) @quoted_%d goto to_guest_quoted", mask.As16(), bits)
		addressed.add("oifname . (ip6 daddr & %s) @held_%d return", mask, bits)
		elsewhere.add("iifname . (ip6 saddr & %s) @here_%d %s", mask, bits, FromElsewhere.drop(DroppedFrom))
	}
	link := Chain{Name: "source_link"}
	claimed := Chain{Name: "nd_target_on_link"}
	asked := Chain{Name: "nd_target_asked"}
	if b.wholeLinks { // all of the link's addresses but those that are another's
		mask := maskOf(64)
		delegated.add("iif . ether saddr . (ip6 saddr & %s) vmap @sources_link", mask)
		link.add("ip6 saddr @assigned %s", WrongSource.drop(DroppedFrom))
		link.add("goto source_global")
		claimed.add("@th,64,128 != @assigned_targets iifname . (@th,64,128 & 0x%x) @nd_targets_link accept", mask.As16())
		asked.add("@th,64,128 != @assigned_targets oifname . (@th,64,128 & 0x%x) @nd_targets_link accept", mask.As16())
		quoted.add("@th,128,128 != @assigned_quotes oifname . (@th,128,128 & 0x%x) @quoted_link goto to_guest_quoted", mask.As16())
		addressed.add("ip6 daddr != @assigned oifname . (ip6 daddr & %s) @held_link return", mask)
	}
	addressed.add("%s", NotForGuest.drop(DroppedTo))
	return []Chain{delegated, quoted, addressed, elsewhere, here, link, claimed, asked}
}

func maskOf(bits int) netip.Addr {
	mask, _ := netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").Prefix(bits)
	return mask.Addr()
}

// chains returns the chains of one of the embedded files.
func (b base) chains(text string) []Chain {
	netfilter := b.mode == BridgeNetfilter
	word := func(mark, ct string) func() string {
		return func() string {
			if netfilter {
				return mark
			}
			return ct
		}
	}
	drop := func(chain string) func(string) string {
		return func(name string) string { return named(name).drop(chain) }
	}
	out := new(strings.Builder)
	// The four highest bits of the packet mark are ours. With br_netfilter three
	// carry what the ip6 hooks know of the connection; they are taken off before the
	// host's own policy routing could see them.
	t := template.Must(template.New("").Funcs(template.FuncMap{
		"brnf":        func() bool { return netfilter },
		"established": word("meta mark & 0x10000000 != 0", "ct state established,related ct mark & 0x80000000 != 0"),
		"invalid":     word("meta mark & 0x20000000 != 0", "ct state invalid"),
		"unseen":      word("meta mark & 0x40000000 == 0", "ct state new ct status confirmed accept\n"),
		"hide":        word("meta mark set mark and 0x8fffffff ", ""),
		"connections": b.connections,
		"limit":       b.limitOfList,
		"whose":       func() string { return fmt.Sprintf("0x%x", uint32(0xdfffffff&^(maxLists-1))) },
		"from":        drop(DroppedFrom),
		"to":          drop(DroppedTo),
		"closed": func(side string) string {
			chain := map[string]string{"iifname": DroppedFrom, "oifname": DroppedTo}[side]
			var lines []string
			for _, p := range b.taps {
				lines = append(lines, fmt.Sprintf("%s %q %s", side, p, NotProgrammed.drop(chain)))
			}
			return strings.Join(lines, "\n")
		},
		"log": func(direction string) string {
			if b.log.Drops == 0 {
				return ""
			}
			return fmt.Sprintf("limit rate 10/second log prefix \"%s \" group %d", direction, b.log.Drops)
		},
		"learn": func() string {
			if b.log.Learning == 0 {
				return ""
			}
			return fmt.Sprintf("@th,64,64 0xfe80000000000000 update @learn_rate { iifname } %s\n@th,64,64 0xfe80000000000000 log group %d snaplen 128", WrongNS.drop(DroppedFrom), b.log.Learning)
		},
	}).Parse(text))
	if err := t.Execute(out, nil); err != nil {
		panic(err) // the text is part of the program
	}
	var chains []Chain
	for line := range strings.Lines(out.String()) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line == "}" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "chain "):
			chains = append(chains, Chain{Name: strings.Fields(line)[1]})
		case strings.HasPrefix(line, "type "):
			chains[len(chains)-1].Hook = line
		default:
			last := &chains[len(chains)-1]
			last.Rules = append(last.Rules, line)
		}
	}
	return chains
}
