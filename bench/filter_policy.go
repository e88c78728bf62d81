package main

import (
	"fmt"
	"net/netip"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/firewall"
)

// The policy that every ruleset of the filter's benchmark holds: each NIC has a
// group of its own with the same twenty rules.
const (
	filterBridge = "br0"
	filterUplink = "up0"
	remoteGroup  = "peers" // the group that a rule of each names
	remotePeers  = 8       // its members, so far as nothing else is said
)

var (
	filterPod = sixacre.Pod{Name: "bench", LinkPrefix: linkPrefix, Pools: []sixacre.Pool{pool}}.WithDefaults()

	remoteNet   = netip.MustParsePrefix("2001:db8:9::/48")     // where the other ends are
	officeNet   = netip.MustParsePrefix("2001:db8:9:100::/56") // the part of it that some rules are for
	adminNet    = netip.MustParsePrefix("2001:db8:9:200::/64")
	peersNet    = netip.MustParsePrefix("2001:db8:100:2::/64") // the members of the remote group
	routerMAC   = sixacre.MAC{0x0a, 0, 0, 0, 0, 1}
	remoteHost  = addressIn(remoteNet, 0xf00)
	officeHost  = addressIn(officeNet, 0xf00)
	openPort    = uint16(5000)  // udp, with the 99 that follow, from officeNet: the twelfth rule
	closedPort  = uint16(20000) // udp, with the 9,999 that follow: no rule has them
	filterRules = []struct {
		protocol    sixacre.Protocol
		first, last uint16
		from        sixacre.Remote
	}{
		{sixacre.TCP, 22, 22, sixacre.Remote{Prefix: adminNet}},
		{sixacre.TCP, 80, 80, sixacre.Remote{}},
		{sixacre.TCP, 443, 443, sixacre.Remote{}},
		{sixacre.TCP, 8000, 8099, sixacre.Remote{}},
		{sixacre.TCP, 9000, 9099, sixacre.Remote{Prefix: officeNet}},
		{sixacre.TCP, 3306, 3306, sixacre.Remote{Group: remoteGroup}},
		{sixacre.TCP, 5432, 5432, sixacre.Remote{Prefix: officeNet}},
		{sixacre.UDP, 53, 53, sixacre.Remote{}},
		{sixacre.UDP, 123, 123, sixacre.Remote{}},
		{sixacre.UDP, 500, 500, sixacre.Remote{Prefix: remoteNet}},
		{sixacre.UDP, 4500, 4500, sixacre.Remote{Prefix: remoteNet}},
		{sixacre.UDP, 5000, 5099, sixacre.Remote{Prefix: officeNet}},
		{sixacre.UDP, 6000, 6099, sixacre.Remote{}},
		{sixacre.UDP, 10000, 10999, sixacre.Remote{Prefix: adminNet}},
		{sixacre.TCP, 25, 25, sixacre.Remote{}},
		{sixacre.TCP, 587, 587, sixacre.Remote{}},
		{sixacre.TCP, 993, 993, sixacre.Remote{}},
		{sixacre.TCP, 2222, 2222, sixacre.Remote{Prefix: adminNet}},
		{47, 0, 0, sixacre.Remote{Prefix: remoteNet}},
		{sixacre.ICMPv6, 0, 0, sixacre.Remote{Prefix: adminNet}},
	}
)

// filterTaps are the taps of every rig.
var filterTaps = []firewall.Pattern{"tap*"}

// addressIn is the nth address of the prefix.
func addressIn(p netip.Prefix, n uint16) netip.Addr {
	a := p.Addr().As16()
	a[14], a[15] = byte(n>>8), byte(n)
	return netip.AddrFrom16(a)
}

// tapName is the tap of the NIC with that number. The names sort as the numbers
// do, so that the last NIC is the last that every ruleset is given.
func tapName(n int) string { return fmt.Sprintf("tap%04d", n) }

// filterNIC is the NIC with that number.
func filterNIC(n int) sixacre.NIC {
	return addr.Complete(filterPod, sixacre.NIC{
		MAC:      clientMAC(uint64(n)),
		Pod:      filterPod.Name,
		Host:     "hv1",
		Device:   tapName(n),
		State:    sixacre.Running,
		Prefixes: []netip.Prefix{clientPrefix(uint64(n))},
		Groups:   []string{groupName(n)},
	})
}

func groupName(n int) string { return fmt.Sprintf("group-%04d", n) }

// filterGroup is the group of the NIC with that number.
func filterGroup(n int) sixacre.Group {
	g := sixacre.Group{Name: groupName(n)}
	for i, r := range filterRules {
		rule := sixacre.Rule{ID: i + 1, Direction: sixacre.In, Protocol: r.protocol, Remote: r.from}
		if r.first > 0 {
			rule.Ports = sixacre.Ports{{First: r.first, Last: r.last}}
		}
		g.Rules = append(g.Rules, rule)
	}
	return g
}

// peerAddrs are the addresses of the remote group's members.
func peerAddrs(n int) []netip.Addr {
	out := make([]netip.Addr, n)
	for i := range out {
		out[i] = addressIn(peersNet, uint16(i+1))
	}
	return out
}

// filterView is what the server tells the agent of a host with that many NICs
// and a remote group with that many members.
func filterView(nics, peers int) sixacre.View {
	v := sixacre.View{
		Revision: 1,
		Full:     true,
		Pods:     []sixacre.Pod{filterPod},
		Members:  []sixacre.Members{{Group: remoteGroup, Addresses: peerAddrs(peers)}},
	}
	for n := range nics {
		v.Instances = append(v.Instances, sixacre.Instance{Name: fmt.Sprintf("i-%04d", n), NICs: []sixacre.NIC{filterNIC(n)}})
		v.Groups = append(v.Groups, filterGroup(n))
	}
	return v
}
