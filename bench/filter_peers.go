package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/sixacre/sixacre"
)

// restore loads ip6tables rules into the nft backend's tables.
func restore(ctx context.Context, rules string) error {
	return feed(ctx, rules, "ip6tables-nft-restore")
}

// matchPorts writes the protocol and the ports of a rule; how a range is written
// differs.
func matchPorts(r sixacre.Rule, ports func(sixacre.PortRange) string) string {
	match := "-p " + r.Protocol.String()
	if r.Protocol == sixacre.ICMPv6 {
		match = "-p ipv6-icmp"
	}
	if len(r.Ports) > 0 {
		match += " " + ports(r.Ports[0])
	}
	return match
}

// cloudStack programs every NIC as CloudStack's
// scripts/vm/network/security_group.py does on a bridge: chains that list all
// taps lead to a default chain for each, which knows the NIC's addresses by an
// ipset, asks its rules, and then for established connections. A rule with a
// remote group becomes one for each member, since the management server sends
// addresses; each is inserted before the one before. The ebtables rules, which
// come on top there, are left out. Until pull request 10594 of March 2025 (with
// early) it let established connections pass before it looked for a tap.
func cloudStack(early bool) func(context.Context, *rig) error {
	return func(ctx context.Context, r *rig) error { return loadCloudStack(ctx, r, early) }
}

func loadCloudStack(ctx context.Context, r *rig, early bool) error {
	const brfw, notrack = "BF-" + filterBridge, "cs_notrack6"
	sets := &strings.Builder{}
	fmt.Fprintf(sets, "create %s hash:ip family inet6\n", notrack)
	text := &strings.Builder{}
	p := func(rule ...string) { text.WriteString(strings.Join(rule, " ") + "\n") }
	p("*raw\n:PREROUTING ACCEPT")
	p("-A PREROUTING -m set --match-set", notrack, "dst -j NOTRACK")
	p("-A PREROUTING -m set --match-set", notrack, "src -j NOTRACK")
	p("COMMIT\n*filter\n:FORWARD ACCEPT")
	for _, chain := range []string{"", "-IN", "-OUT"} {
		p(":"+brfw+chain, "-")
	}
	p("-A FORWARD -o", filterBridge, "-m physdev --physdev-is-bridged -j", brfw)
	p("-A FORWARD -i", filterBridge, "-m physdev --physdev-is-bridged -j", brfw)
	p("-A FORWARD -o", filterBridge, "-j DROP")
	p("-A FORWARD -i", filterBridge, "-j DROP")
	if early {
		p("-A", brfw, "-m state --state RELATED,ESTABLISHED -j ACCEPT")
	}
	p("-A", brfw, "-m physdev --physdev-is-bridged --physdev-is-in -j", brfw+"-IN")
	p("-A", brfw, "-m physdev --physdev-is-bridged --physdev-is-out -j", brfw+"-OUT")
	p("-A", brfw, "-m physdev --physdev-is-bridged --physdev-out", filterUplink, "-j ACCEPT")
	for n := range r.nics {
		nic := filterNIC(n)
		vm := fmt.Sprintf("i-2-%d-VM", n)
		def, egress, set := fmt.Sprintf("i-2-%d-def", n), vm+"-eg", vm+"-6"
		fmt.Fprintf(sets, "create %s hash:net family inet6\nadd %s %s\nadd %s %s\n", set, set, nic.Address, set, nic.LinkLocal)
		for _, q := range nic.Prefixes {
			fmt.Fprintf(sets, "add %s %s\n", set, q)
		}
		const icmp, linkLocal, router, one = "-p ipv6-icmp --icmpv6-type", "fe80::/64", "router-advertisement", "-m hl --hl-eq 255"
		from, to := "-m physdev --physdev-in "+nic.Device, "-m physdev --physdev-is-bridged --physdev-out "+nic.Device
		own := "-m set --match-set " + set + " src"
		p(":"+vm, "-\n:"+egress, "-\n:"+def, "-")
		p("-A", brfw+"-OUT", to, "-j", def)
		p("-A", brfw+"-IN", from, "-j", def)
		p("-A", def, to, "-s", linkLocal, "-d ff02::1", icmp, router, one, "-j ACCEPT")
		p("-A", def, from, "-d ff02::2", icmp, "router-solicitation", one, "-j ACCEPT")
		p("-A", def, from, icmp, router, "-j DROP")
		p("-A", def, from, icmp, "neighbor-solicitation", one, "-j ACCEPT")
		p("-A", def, to, icmp, "neighbor-solicitation", one, "-j ACCEPT")
		p("-A", def, from, icmp, "neighbor-advertisement", own, one, "-j ACCEPT")
		p("-A", def, to, icmp, "neighbor-advertisement", one, "-j ACCEPT")
		for _, kind := range []string{"packet-too-big", "destination-unreachable", "time-exceeded", "parameter-problem"} {
			p("-A", def, from, icmp, kind, own, "-j ACCEPT")
			p("-A", def, to, icmp, kind, "-j ACCEPT")
		}
		p("-A", def, from, "-d ff02::16 -p ipv6-icmp -j ACCEPT")
		p("-A", def, from, "-s", nic.LinkLocal.String(), "-d ff02::1:2 -p udp --sport 546 -j ACCEPT")
		p("-A", def, to, "-s", linkLocal, "-d", nic.LinkLocal.String(), "-p udp --dport 546 -j ACCEPT")
		p("-A", def, from, "! -d", linkLocal, "-p udp --sport 547 -j DROP")
		p("-A", def, from, "-p udp --dport 53", own, "-j ACCEPT")
		p("-A", def, from, "-p tcp --dport 53", own, "-j ACCEPT")
		p("-A", def, from, "-m set ! --match-set", set, "src -j DROP")
		p("-A", def, from, own, "-j", egress)
		p("-A", def, to, "-j", vm)
		p("-A", def, from, "-m state --state ESTABLISHED,RELATED -j ACCEPT")
		p("-A", def, to, "-m state --state ESTABLISHED,RELATED -j ACCEPT")
		p("-A", def, from, "-j DROP")
		p("-A", def, to, "-j DROP")
		p("-A", egress, "-j ACCEPT")
		p("-A", vm, "-j RETURN")
		for _, rule := range filterGroup(n).Rules {
			match := matchPorts(rule, func(r sixacre.PortRange) string {
				return fmt.Sprintf("-m %s --dport %d:%d", rule.Protocol, r.First, r.Last)
			})
			for _, source := range sources(rule) {
				p("-I", vm, match, "-s", source.String(), "-j ACCEPT")
			}
		}
	}
	p("COMMIT")
	return errors.Join(netfilter(ctx), feed(ctx, sets.String(), "ipset", "restore"), restore(ctx, text.String()))
}

// sources are the prefixes that a rule is for, the members of its group one by
// one.
func sources(r sixacre.Rule) []netip.Prefix {
	switch {
	case r.Remote.Group != "":
		var out []netip.Prefix
		for _, a := range peerAddrs(remotePeers) {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
		return out
	case r.Remote.Prefix.IsValid():
		return []netip.Prefix{r.Remote.Prefix}
	}
	return []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

// loadNeutron programs every NIC as OVSHybridIptablesFirewallDriver in Neutron's
// neutron/agent/linux/iptables_firewall.py does: two rules for each in FORWARD,
// the newest first, lead to sg-chain with two more, and what a NIC's chain lets
// through goes on there to the end; a chain for each NIC and direction, and one
// for its source addresses; a remote group as an ipset; a conntrack zone for each
// NIC, by three rules in the raw table. Each NIC has a bridge of its own there,
// with the uplink qvb…: the rig's bridge is the last NIC's.
func loadNeutron(ctx context.Context, r *rig) error {
	const top, wrap, group = "neutron-filter-top", "neutron-openvswi-", "NIPv6" + remoteGroup
	raw, text := &strings.Builder{}, &strings.Builder{}
	p := func(rule ...string) { text.WriteString(strings.Join(rule, " ") + "\n") }
	fmt.Fprintf(raw, "*raw\n:PREROUTING ACCEPT\n:%sPREROUTING -\n-A PREROUTING -j %sPREROUTING\n", wrap, wrap)
	p("*filter\n:FORWARD ACCEPT\n:"+top, "-")
	for _, chain := range []string{"FORWARD", "INPUT", "local", "sg-chain", "sg-fallback"} {
		p(":"+wrap+chain, "-")
	}
	p("-A FORWARD -j", top)
	p("-A FORWARD -j", wrap+"FORWARD")
	p("-A", top, "-j", wrap+"local")
	p("-A", wrap+"sg-fallback -j DROP")
	for n := range r.nics {
		nic := filterNIC(n)
		outside := fmt.Sprintf("qvb%04d", n)
		if n == r.nics-1 {
			outside = filterUplink
		}
		for _, match := range []string{"-m physdev --physdev-in " + outside, "-i " + outside, "-m physdev --physdev-in " + nic.Device} {
			fmt.Fprintf(raw, "-A %sPREROUTING %s -m comment --comment \"Set zone for %d\" -j CT --zone %d\n", wrap, match, n, 4097+n)
		}
		const established, invalid = "-m state --state RELATED,ESTABLISHED -j RETURN", "-m state --state INVALID -j DROP"
		const icmp = "-p ipv6-icmp -m icmp6 --icmpv6-type"
		in, out, spoof := wrap+"i"+nic.Device, wrap+"o"+nic.Device, wrap+"s"+nic.Device
		p(":"+in, "-\n:"+out, "-\n:"+spoof, "-")
		for _, way := range [][2]string{{"out", in}, {"in", out}} {
			match := "-m physdev --physdev-" + way[0] + " " + nic.Device + " --physdev-is-bridged"
			p("-I", wrap+"FORWARD", match, "-j", wrap+"sg-chain")
			p("-A", wrap+"sg-chain", match, "-j", way[1])
		}
		p("-A", wrap+"INPUT -m physdev --physdev-in", nic.Device, "--physdev-is-bridged -j", out)

		for _, kind := range []string{"130", "134", "135", "136"} {
			p("-A", in, icmp, kind, "-j RETURN")
		}
		p("-A", in, established)
		for _, rule := range filterGroup(n).Rules {
			match := matchPorts(rule, func(r sixacre.PortRange) string {
				if r.First == r.Last {
					return fmt.Sprintf("-m %s --dport %d", rule.Protocol, r.First)
				}
				return fmt.Sprintf("-m %s -m multiport --dports %d:%d", rule.Protocol, r.First, r.Last)
			})
			if rule.Remote.Group != "" {
				match += " -m set --match-set " + group + " src"
			} else if q := rule.Remote.Prefix; q.IsValid() {
				match = "-s " + q.String() + " " + match
			}
			p("-A", in, match, "-j RETURN")
		}
		p("-A", in, invalid)
		p("-A", in, "-j", wrap+"sg-fallback")

		for _, kind := range []string{"131", "135", "143"} {
			p("-A", out, "-s ::/128 -d ff02::/16", icmp, kind, "-j RETURN")
		}
		p("-A", out, "-j", spoof)
		own := append([]netip.Prefix{netip.PrefixFrom(nic.Address, 128), netip.PrefixFrom(nic.LinkLocal, 128)}, nic.Prefixes...)
		for _, q := range own {
			p("-A", spoof, "-s", q.String(), "-m mac --mac-source", nic.MAC.String(), "-j RETURN")
		}
		p("-A", spoof, "-j DROP")
		p("-A", out, icmp, "134 -j DROP")
		p("-A", out, "-p ipv6-icmp -j RETURN")
		p("-A", out, "-p udp -m udp --sport 546 --dport 547 -j RETURN")
		p("-A", out, "-p udp -m udp --sport 547 --dport 546 -j DROP")
		p("-A", out, established)
		p("-A", out, "-j RETURN") // what the default group says of egress
		p("-A", out, invalid)
		p("-A", out, "-j", wrap+"sg-fallback")
	}
	p("-A", wrap+"sg-chain -j ACCEPT")
	p("COMMIT")
	raw.WriteString("COMMIT\n")
	set := "create " + group + " hash:net family inet6\n"
	for _, a := range peerAddrs(remotePeers) {
		set += "add " + group + " " + a.String() + "\n"
	}
	return errors.Join(netfilter(ctx), feed(ctx, set, "ipset", "restore"), restore(ctx, raw.String()+text.String()))
}
