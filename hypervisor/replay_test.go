package hypervisor_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/nft"
)

// TestReplay: however the way to a view is cut up, the filter at its end is the
// same: change by change, each twice, several at once, each in parts, and back and
// forth.
func TestReplay(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.until("the static part", func() bool {
		present, err := h.kernel.Present()
		return present && err == nil
	})
	h.stop()
	h.stop = func() {}
	for seed := range uint64(3) {
		random := rand.New(rand.NewPCG(seed, 4))
		views := []sixacre.View{{Full: true}}
		for range 8 {
			views = append(views, anyView(t, random))
		}
		last := views[len(views)-1]
		plan, err := h.agent.Plan(last)
		must(t, err)
		must(t, new(nft.Kernel).Apply(t.Context(), plan))
		want := h.listed()
		for name, way := range map[string]func() []sixacre.View{
			"change by change": func() []sixacre.View { return merged(views, 1, 1) },
			"each twice":       func() []sixacre.View { return merged(views, 2, 1) },
			"three at once":    func() []sixacre.View { return merged(views, 1, 3) },
			"in parts":         func() []sixacre.View { return inParts(views) },
			"back and forth": func() []sixacre.View {
				back := append([]sixacre.View(nil), views...)
				for i := len(views) - 1; i >= 0; i-- {
					back = append(back, views[i])
				}
				return merged(append(back, views...), 1, 1)
			},
		} {
			kernel, rules := new(nft.Kernel), firewall.Ruleset{}
			for _, v := range way() {
				host := h.arranged(v)
				rules = rules.Next(host)
				if got, want := rules.String(), firewall.Compile(host).String(); got != want {
					t.Fatalf("seed %d, %s: compiled from the one before:\n%s\nanew:\n%s", seed, name, got, want)
				}
				must(t, kernel.Apply(context.Background(), rules))
			}
			if got := h.listed(); got != want {
				t.Errorf("seed %d, %s: the filter is\n%s\nwant\n%s", seed, name, got, want)
			}
			if ok, err := kernel.Intact(t.Context()); !ok || err != nil {
				t.Errorf("seed %d, %s: the kernel does not hold what was applied: %v", seed, name, err)
			}
		}
	}
}

// arranged is the host that the agent makes of the view.
func (h *host) arranged(v sixacre.View) firewall.Host {
	host := firewall.Host{
		Mode: h.agent.Mode, Taps: h.agent.Taps, Limits: manyOf, Pods: v.Pods, Groups: v.Groups, Members: v.Members,
		Bridges: []firewall.Bridge{{Name: "br0", Index: index(h, "br0"), Zone: uint16(index(h, "br0")) + 1}},
		Uplinks: []firewall.Uplink{{Device: "eth0", Index: index(h, "eth0"), Bridge: "br0"}},
	}
	for _, i := range v.Instances {
		for _, n := range i.NICs {
			if n.State == sixacre.Running {
				host.Ports = append(host.Ports, firewall.Port{Device: n.Device, Index: index(h, n.Device), Bridge: "br0", NIC: n})
			}
		}
	}
	return host
}

// merged is the views as an agent sees them that is told of changes: each so many
// times, and so many of them at once.
func merged(views []sixacre.View, times, atOnce int) []sixacre.View {
	v := views[0]
	var out []sixacre.View
	for i := 0; i < len(views)-1; i += atOnce {
		change, _ := views[i].Change(views[min(i+atOnce, len(views)-1)])
		for range times {
			v = v.Merge(change)
			out = append(out, v)
		}
	}
	return out
}

// inParts tells of groups, members, pods and instances one after the other.
func inParts(views []sixacre.View) []sixacre.View {
	v := views[0]
	var out []sixacre.View
	for i := range views[1:] {
		change, _ := views[i].Change(views[i+1])
		gone := map[sixacre.Kind][]sixacre.Key{}
		for _, k := range change.Gone {
			gone[k.Kind] = append(gone[k.Kind], k)
		}
		for _, part := range []sixacre.View{
			{Instances: change.Instances, Gone: gone[sixacre.KindInstance]},
			{Members: change.Members, Joined: change.Joined, Left: change.Left, Gone: gone[sixacre.KindMembers]},
			{Groups: change.Groups, Gone: gone[sixacre.KindGroup]},
			{Pods: change.Pods, Gone: gone[sixacre.KindPod]},
		} {
			v = v.Merge(part)
			out = append(out, v)
		}
	}
	return out
}

// anyView is one of many that have much in common.
func anyView(t testing.TB, random *rand.Rand) sixacre.View {
	v := sixacre.View{Full: true}
	names := []string{"app", "db", "web"}
	p := pod
	if random.IntN(3) == 0 {
		p.AntiSpoof = sixacre.AntiSpoofLinkPrefix
	}
	if random.IntN(3) == 0 {
		p.Echo = sixacre.EchoRules
	}
	v.Pods = []sixacre.Pod{p}
	for n := byte(1); n <= 3; n++ {
		if random.IntN(4) == 0 {
			continue
		}
		i := instance(n)
		nic := &i.NICs[0]
		for _, name := range names {
			if random.IntN(2) == 0 {
				nic.Groups = append(nic.Groups, name)
			}
		}
		if random.IntN(2) == 0 {
			nic.Prefixes = append(nic.Prefixes, netip.MustParsePrefix(fmt.Sprintf("2001:db8:5000:%x00::/56", n)))
		}
		if random.IntN(5) == 0 {
			nic.State = sixacre.Stopped
		}
		if random.IntN(3) == 0 {
			nic.LearnedLinkLocal = netip.MustParseAddr(fmt.Sprintf("fe80::7217:%x", n))
		}
		v.Instances = append(v.Instances, i)
	}
	rules := []string{
		"in tcp ports=80", "in tcp ports=22,8000-8999 remote=2001:db8:ffff::/48", "in tcp ports=8500-9500 remote=group:app", "in udp remote=2001:db8:fffe::/47",
		"in udp ports=53 remote=group:db prefixes", "in 47", "in icmpv6 type=139/0 remote=2001:db8:fffe::/48", "in any remote=2001:db8:fffd::1", "in icmpv6 type=128",
		"out tcp ports=443", "out udp ports=53 remote=2001:db8::53", "out icmpv6 type=128 remote=group:web",
	}
	for _, name := range names {
		var some []string
		for _, r := range rules {
			if random.IntN(3) == 0 {
				some = append(some, r)
			}
		}
		v.Groups = append(v.Groups, groupOf(t, name, some...))
		m := sixacre.Members{Group: name}
		for n := range 6 {
			if random.IntN(2) == 0 {
				m.Addresses = append(m.Addresses, netip.MustParseAddr(fmt.Sprintf("2001:db8:100:1::%x", 0x100+n)))
				m.Prefixes = append(m.Prefixes, netip.MustParsePrefix(fmt.Sprintf("2001:db8:4000:%x00::/60", n)))
			}
		}
		v.Members = append(v.Members, m)
	}
	return v
}
