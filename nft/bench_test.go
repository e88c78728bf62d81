package nft

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/firewall"
)

// full is a host of 200 guests, each in a group of its own of 20 rules, of which
// one names a group of 10,000.
func full() firewall.Host {
	pod := sixacre.Pod{Name: "pod1", LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"), Addressing: sixacre.SLAAC}
	h := firewall.Host{
		Taps: []firewall.Pattern{"tap*"}, Bridges: []firewall.Bridge{{Name: "br0", Index: 3, Zone: 1}},
		Uplinks: []firewall.Uplink{{Device: "eth0", Index: 2, Bridge: "br0"}}, Pods: []sixacre.Pod{pod},
	}
	for i := range 200 {
		group := sixacre.Group{Name: fmt.Sprintf("group%d", i)}
		for r := range 20 {
			rule := sixacre.Rule{ID: r + 1, Direction: sixacre.In, Protocol: sixacre.TCP, Ports: sixacre.Ports{{First: uint16(100 * r), Last: uint16(100*r + 9)}}}
			switch {
			case r == 0:
				rule.Remote.Group = "many"
			case r%2 == 0:
				rule.Remote.Prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0xff, byte(i), byte(r)}), 56)
			}
			group.Rules = append(group.Rules, rule)
		}
		h.Groups = append(h.Groups, group)
		nic := sixacre.NIC{MAC: sixacre.MAC{6, 0, 0, 0, 1, byte(i)}, Pod: "pod1", State: sixacre.Running, Groups: []string{group.Name}}
		nic.Prefixes = []netip.Prefix{prefix(i)}
		h.Ports = append(h.Ports, firewall.Port{Device: fmt.Sprintf("tap%d", i), Index: 11 + i, Bridge: "br0", NIC: addr.Complete(pod, nic)})
	}
	many := sixacre.Members{Group: "many"}
	for i := range 10_000 {
		many.Addresses = append(many.Addresses, member(i))
	}
	h.Members = []sixacre.Members{many}
	return h
}

func prefix(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x40, byte(i >> 8), byte(i), 0x10}), 60)
}

func member(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x50, 15: byte(i), 14: byte(i >> 8)})
}

// Each of these is in a namespace of its own: b.Run changes threads, and so would
// leave its parent's.

func BenchmarkFullSync(b *testing.B) {
	inNamespace(b)
	rs := firewall.Compile(full())
	for b.Loop() {
		must(b, new(Kernel).Apply(b.Context(), rs))
	}
}

func BenchmarkPrefixAdded(b *testing.B) {
	change(b, func(h *firewall.Host) {
		h.Ports[7].NIC.Prefixes = append([]netip.Prefix{prefix(1000)}, h.Ports[7].NIC.Prefixes...)
	})
}

func BenchmarkRuleAdded(b *testing.B) {
	change(b, func(h *firewall.Host) {
		dns := sixacre.Rule{ID: 30, Direction: sixacre.In, Protocol: sixacre.UDP, Ports: sixacre.Ports{{First: 53, Last: 53}}}
		h.Groups[7].Rules = append([]sixacre.Rule{dns}, h.Groups[7].Rules...)
	})
}

func BenchmarkMemberJoined(b *testing.B) {
	change(b, func(h *firewall.Host) {
		h.Members[0].Addresses = append([]netip.Addr{member(20_000)}, h.Members[0].Addresses...)
	})
}

func BenchmarkGuestAdded(b *testing.B) {
	change(b, func(h *firewall.Host) {
		p := h.Ports[7]
		p.Device, p.Index = "tap200", 300
		p.NIC.MAC[1] = 1
		h.Ports = append(h.Ports[:200:200], p)
	})
}

// change measures Apply of one change and, in turn, of the change back.
func change(b *testing.B, to func(*firewall.Host)) {
	inNamespace(b)
	k := new(Kernel)
	now := firewall.Compile(full())
	must(b, k.Apply(b.Context(), now))
	h := full()
	to(&h)
	next := now.Next(h)
	for b.Loop() {
		must(b, k.Apply(b.Context(), next))
		now, next = next, now
	}
}

// BenchmarkRead is what it takes to compare all that the kernel holds, after
// somebody else's commit that was not watched.
func BenchmarkRead(b *testing.B) {
	inNamespace(b)
	k := new(Kernel)
	must(b, k.Apply(b.Context(), firewall.Compile(full())))
	for b.Loop() {
		b.StopTimer()
		must(b, run(b.Context(), "add table ip6 theirs\ndelete table ip6 theirs", "-f", "-"))
		b.StartTimer()
		if ok, err := k.Intact(b.Context()); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
