package firewall

import (
	"fmt"
	"reflect"

	"github.com/sixacre/sixacre"
)

// nic is the part of a NIC.
type nic struct {
	policy
	part
}

// nic returns the NIC's part as it was, where its policy is the same.
func (rs Ruleset) nic(p policy, b base) *nic {
	if was := rs.at(p.device); was != nil && reflect.DeepEqual(was.policy, p) && rs.host.limits == b.limits {
		return was
	}
	n := &nic{policy: p}
	n.chains = []Chain{n.to(b), n.from(b)}
	n.share()
	return n
}

// to is what a new connection to the NIC goes through. The dot keeps the name
// apart from the static chains', whatever the tap is called.
func (n *nic) to(b base) Chain {
	c := Chain{Name: "to." + n.device, Rules: append([]string{"jump to_guest"}, b.list(n.index, sixacre.In)...)}
	if !n.echoByRule {
		c.add("icmpv6 type echo-request accept")
	}
	for _, g := range n.in {
		c.add("jump %s", groupChain(g, sixacre.In))
	}
	c.add("%s", NoRule.drop(DroppedTo))
	return c
}

func (n *nic) from(b base) Chain {
	c := Chain{Name: "from." + n.device, Rules: append([]string{"jump from_guest"}, b.list(n.index, sixacre.Out)...)}
	for _, g := range n.out {
		c.add("jump %s", groupChain(g, sixacre.Out))
	}
	if len(n.out) == 0 {
		c.add("accept")
	} else {
		c.add("%s", NoRule.drop(DroppedFrom))
	}
	return c
}

// elsewhere are the ports by which nothing of the NIC's comes that it did not
// send from here. While it moves, it may.
func (n *nic) elsewhere() []string {
	if n.moving {
		return nil
	}
	return n.uplinks
}

// share fills in what the host's sets hold of the NIC.
func (n *nic) share() {
	add := func(set, format string, args ...any) {
		n.shared = append(n.shared, entry{set, fmt.Sprintf(format, args...)})
	}
	add("delivery", "%d : goto to_programmed", n.index)
	add("taps", "%d", n.index)
	add("inbound", "%d : goto to.%s", n.index, n.device)
	add("outbound", "%d : goto from.%s", n.index, n.device)
	add("macs", "%q . %s", n.device, n.mac)
	add("sources", "%d . %s . :: : goto source_unspecified", n.index, n.mac)
	for _, a := range n.linkLocals {
		add("sources", "%d . %s . %s : goto source_link_local", n.index, n.mac, a)
	}
	add("sources", "%d . %s . %s : goto source_global", n.index, n.mac, n.address)
	for _, a := range n.holds() {
		add("nd_targets", "%q . 0x%x", n.device, a.As16())
		add("quoted", "%q . 0x%x", n.device, a.As16())
	}
	add("nd_macs", "%q . 0x%x", n.device, n.mac[:])
	add("rs_macs", "%q . 0x%x", n.device, n.mac[:])
	add("held", "%q . %s", n.device, n.address)
	for _, u := range n.elsewhere() {
		for _, a := range n.holds() {
			add("here", "%q . %s", u, a)
		}
	}
	for _, p := range n.prefixes {
		add(fmt.Sprintf("sources_%d", p.Bits()), "%d . %s . %s : goto source_global", n.index, n.mac, p.Addr())
		add(fmt.Sprintf("quoted_%d", p.Bits()), "%q . 0x%x", n.device, p.Addr().As16())
		add(fmt.Sprintf("held_%d", p.Bits()), "%q . %s", n.device, p.Addr())
		for _, u := range n.elsewhere() {
			add(fmt.Sprintf("here_%d", p.Bits()), "%q . %s", u, p.Addr())
		}
	}
	if n.link.IsValid() {
		add("sources_link", "%d . %s . %s : goto source_link", n.index, n.mac, n.link.Addr())
		add("nd_targets_link", "%q . 0x%x", n.device, n.link.Addr().As16())
		add("quoted_link", "%q . 0x%x", n.device, n.link.Addr().As16())
		add("held_link", "%q . %s", n.device, n.link.Addr())
	}
	if n.wholeLinks {
		add("assigned", "%s", n.address)
		add("assigned_targets", "0x%x", n.address.As16())
		add("assigned_quotes", "0x%x", n.address.As16())
	}
	if n.echoByRule {
		add("echo_by_rule", "%q", n.device)
	}
	if n.tracked && n.mode == BridgeConntrack {
		add("conntracked", "%d", n.index)
		add("port_zones", "%d : %d", n.index, n.zone)
	}
}
