// Package firewalltest draws hosts for the tests of packages that make or apply
// their rulesets.
package firewalltest

import (
	"fmt"
	"net/netip"

	"pgregory.net/rapid"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/firewall"
)

// Hosts draws a host with up to four guests and up to three groups, so that two
// draws often share some of both.
func Hosts() *rapid.Generator[firewall.Host] {
	prefixes := []string{"2001:db8:4000:10::/60", "2001:db8:4000:20::/60", "2001:db8:5000:100::/56", "2001:db8:6000::/64"}
	names := []string{"default", "db.a-1", "web", "db"}
	return rapid.Custom(func(t *rapid.T) firewall.Host {
		pod := sixacre.Pod{Name: "pod1", LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"), Addressing: sixacre.SLAAC}
		if rapid.IntRange(0, 3).Draw(t, "whole links") == 0 {
			pod.AntiSpoof = sixacre.AntiSpoofLinkPrefix
		}
		if rapid.Bool().Draw(t, "echo by rule") {
			pod.Echo = sixacre.EchoRules
		}
		h := firewall.Host{
			Taps: []firewall.Pattern{"vnet*", "tap*"}, Bridges: []firewall.Bridge{{Name: "br0", Index: 3, Zone: 7}},
			Pods: []sixacre.Pod{pod},
		}
		if rapid.Bool().Draw(t, "uplink") {
			h.Uplinks = []firewall.Uplink{{Device: "eth0", Index: 2, Bridge: "br0"}}
		}
		for n := range byte(4) {
			if !rapid.Bool().Draw(t, "guest") {
				continue
			}
			nic := sixacre.NIC{
				MAC: sixacre.MAC{6, 0, 0, 0, 0, n}, Pod: "pod1", State: sixacre.Running,
				Groups: rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID).Draw(t, "groups"),
			}
			for _, p := range rapid.SliceOfNDistinct(rapid.SampledFrom(prefixes), 0, 3, rapid.ID).Draw(t, "prefixes") {
				nic.Prefixes = append(nic.Prefixes, netip.MustParsePrefix(p))
			}
			h.Ports = append(h.Ports, firewall.Port{Device: fmt.Sprintf("tap%d", n), Index: 11 + int(n), Bridge: "br0", NIC: addr.Complete(pod, nic)})
		}
		for _, name := range names[1:] {
			if rapid.Bool().Draw(t, "group") {
				h.Groups = append(h.Groups, sixacre.Group{Name: name, Rules: rapid.SliceOfN(rules(names), 0, 6).Draw(t, "rules")})
			}
			if rapid.Bool().Draw(t, "members") {
				m := sixacre.Members{Group: name}
				for _, p := range h.Ports {
					m.Addresses = append(m.Addresses, p.NIC.Address)
					m.Prefixes = append(m.Prefixes, p.NIC.Prefixes...)
				}
				h.Members = append(h.Members, m)
			}
		}
		return h
	})
}

func rules(groups []string) *rapid.Generator[sixacre.Rule] {
	return rapid.Custom(func(t *rapid.T) sixacre.Rule {
		r := sixacre.Rule{
			Direction: rapid.SampledFrom([]sixacre.Direction{sixacre.In, sixacre.In, sixacre.Out}).Draw(t, "direction"),
			Protocol:  rapid.SampledFrom([]sixacre.Protocol{sixacre.TCP, sixacre.TCP, sixacre.UDP, sixacre.ICMPv6, sixacre.AnyProtocol, 47}).Draw(t, "protocol"),
		}
		if r.Protocol == sixacre.TCP || r.Protocol == sixacre.UDP {
			for range rapid.IntRange(0, 2).Draw(t, "ranges") {
				first := rapid.Uint16Range(0, 40).Draw(t, "first")
				r.Ports = append(r.Ports, sixacre.PortRange{First: first, Last: first + rapid.Uint16Range(0, 9).Draw(t, "more")})
			}
		}
		if r.Protocol == sixacre.ICMPv6 && rapid.Bool().Draw(t, "typed") {
			r.ICMPType = &sixacre.ICMPType{Type: 139, HasCode: rapid.Bool().Draw(t, "coded")}
		}
		switch rapid.IntRange(0, 2).Draw(t, "remote") {
		case 1:
			r.Remote.Prefix = netip.PrefixFrom(netip.MustParseAddr("2001:db8:ffff::"), rapid.IntRange(33, 64).Draw(t, "bits")).Masked()
		case 2:
			r.Remote.Group = rapid.SampledFrom(groups).Draw(t, "remote group")
			r.IncludePrefixes = rapid.Bool().Draw(t, "include prefixes")
		}
		return r
	})
}
