package firewall

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"

	"github.com/sixacre/sixacre"
)

// nic is the part of a NIC.
type nic struct {
	policy
	part
}

// nic returns the NIC's part as it was, where its policy is the same.
func (rs Ruleset) nic(p policy) *nic {
	i, found := slices.BinarySearchFunc(rs.nics, p.device, func(n *nic, d string) int { return cmp.Compare(n.device, d) })
	if found && reflect.DeepEqual(rs.nics[i].policy, p) {
		return rs.nics[i]
	}
	n := &nic{policy: p}
	n.chains = []Chain{n.to(), n.from()}
	n.share()
	return n
}

// to is what a new connection to the NIC goes through. The dot keeps the name
// apart from the static chains', whatever the tap is called.
func (n *nic) to() Chain {
	c := Chain{Name: "to." + n.device, Rules: []string{"jump to_guest"}}
	for _, g := range n.in {
		c.add("jump %s", groupChain(g, sixacre.In))
	}
	c.add("%s", NoRule.drop(DroppedTo))
	return c
}

func (n *nic) from() Chain {
	c := Chain{Name: "from." + n.device, Rules: []string{"jump from_guest"}}
	for _, g := range n.out {
		c.add("jump %s", groupChain(g, sixacre.Out))
	}
	if len(n.out) == 0 {
		c.add("goto deliver")
	} else {
		c.add("%s", NoRule.drop(DroppedFrom))
	}
	return c
}

// share fills in what the host's sets hold of the NIC.
func (n *nic) share() {
	add := func(set, format string, args ...any) {
		n.shared = append(n.shared, entry{set, fmt.Sprintf(format, args...)})
	}
	add("ports", "%q : goto guard", n.device)
	add("taps", "%q", n.device)
	add("inbound", "%q : goto to.%s", n.device, n.device)
	add("outbound", "%q : goto from.%s", n.device, n.device)
	add("macs", "%q . %s", n.device, n.mac)
	add("sources", "%q . %s . :: : goto source_unspecified", n.device, n.mac)
	for _, a := range n.linkLocals {
		add("sources", "%q . %s . %s : goto source_link_local", n.device, n.mac, a)
	}
	add("sources", "%q . %s . %s : goto source_global", n.device, n.mac, n.address)
	for _, a := range n.holds() {
		add("nd_targets", "%q . 0x%x", n.device, a.As16())
	}
	add("nd_macs", "%q . 0x%x", n.device, n.mac[:])
	add("rs_macs", "%q . 0x%x", n.device, n.mac[:])
	add("quoted", "%q . 0x%x", n.device, n.address.As16())
	add("held", "%q . %s", n.device, n.address)
	for _, u := range n.uplinks {
		add("here", "%q . %s", u, n.address)
	}
	for _, b := range n.blocks() {
		verdict := "source_global"
		if b == n.link {
			verdict = "source_link"
		}
		add(fmt.Sprintf("sources_%d", b.Bits()), "%q . %s . %s : goto %s", n.device, n.mac, b.Addr(), verdict)
		add(fmt.Sprintf("quoted_%d", b.Bits()), "%q . 0x%x", n.device, b.Addr().As16())
		add(fmt.Sprintf("held_%d", b.Bits()), "%q . %s", n.device, b.Addr())
		if b == n.link {
			add("nd_links", "%q . 0x%x", n.device, b.Addr().As16())
			continue
		}
		for _, u := range n.uplinks {
			add(fmt.Sprintf("here_%d", b.Bits()), "%q . %s", u, b.Addr())
		}
	}
	if n.wholeLinks {
		add("assigned", "%s", n.address)
		add("assigned_targets", "0x%x", n.address.As16())
	}
	if n.echoByRule {
		add("echo_by_rule", "%q", n.device)
	}
	switch {
	case n.bridge == "":
	case n.mode == BridgeNetfilter:
		add("guests", "%q . %s", n.bridge, n.mac)
	default:
		add("conntracked", "%q", n.device)
		add("port_zones", "%q : %d", n.device, n.zone)
	}
}
