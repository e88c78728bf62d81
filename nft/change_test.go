package nft

import (
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/firewall"
)

// hosts draws a host with up to four guests and up to three groups, so that two
// draws often share some of both.
func hosts() *rapid.Generator[firewall.Host] {
	prefixes := []string{"2001:db8:4000:10::/60", "2001:db8:4000:20::/60", "2001:db8:5000:100::/56", "2001:db8:6000::/64"}
	names := []string{"db.a-1", "web", "db"}
	return rapid.Custom(func(t *rapid.T) firewall.Host {
		pod := sixacre.Pod{Name: "pod1", LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"), Addressing: sixacre.SLAAC}
		if rapid.IntRange(0, 3).Draw(t, "whole links") == 0 {
			pod.AntiSpoof = sixacre.AntiSpoofLinkPrefix
		}
		if rapid.Bool().Draw(t, "echo by rule") {
			pod.Echo = sixacre.EchoRules
		}
		h := firewall.Host{
			Taps: []firewall.Pattern{"tap*"}, Bridges: []firewall.Bridge{{Name: "br0", Index: 3, Zone: 7}},
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
		for _, name := range names {
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

// TestSaysWhatNftSays: a change by netlink leaves in the kernel, octet for octet,
// what nft makes of its text, and nft lists both alike.
func TestSaysWhatNftSays(t *testing.T) {
	inNamespace(t)
	for seed := range 10 {
		var texts []string
		sent := new(Kernel)
		foreign(t, "flush ruleset")
		before := firewall.Compile(firewall.Host{Taps: []firewall.Pattern{"tap*"}})
		must(t, sent.Apply(t.Context(), before))
		texts = append(texts, before.String())
		for i := range 4 {
			next := before.Next(hosts().Example(10*seed + i))
			change := next.Change(before)
			if len(change) == 0 {
				continue
			}
			if _, known := batchOf(change); !known {
				t.Errorf("seed %d: not all of this can be sent:\n%s", seed, change)
			}
			texts = append(texts, change.String())
			if err := sent.change(t.Context(), next, change); err != nil {
				t.Fatalf("seed %d: %s:\n%s", seed, err, change)
			}
			intact(t, sent, true)
			before = next
		}
		gotRaw, got := raw(t), listing(t)
		foreign(t, "flush ruleset")
		for _, text := range texts {
			foreign(t, text)
		}
		if want := listing(t); got != want {
			t.Fatalf("seed %d: nft lists what was sent as\n%s\nand what it made itself as\n%s", seed, got, want)
		}
		if want := raw(t); gotRaw != want {
			t.Fatalf("seed %d: sent:\n%s\nmade by nft:\n%s", seed, gotRaw, want)
		}
	}
}

// raw is what the kernel says of our tables, but for what it numbers and counts.
func raw(t *testing.T) string {
	t.Helper()
	conn, err := dial()
	must(t, err)
	defer conn.Close()
	objects := map[string][]string{}
	take := func(kind string, left ...uint16) func(byte, []byte) {
		return func(_ byte, octets []byte) {
			var name, line string
			for a, value := range each(octets) {
				switch {
				case a == unix.NFTA_SET_NAME && kind != "chain" || a == unix.NFTA_CHAIN_NAME && kind == "chain":
					name = kind + " " + cString(value)
				case !slices.Contains(left, a):
					line += fmt.Sprintf(" %d=%s", a, hex.EncodeToString(value))
				}
			}
			objects[name] = append(objects[name], line)
		}
	}
	which := attributes{}
	which.text(unix.NFTA_SET_TABLE, firewall.BridgeTable)
	must(t, dump(conn, unix.NFT_MSG_GETSET, unix.NFPROTO_BRIDGE, which, take("set", setHandle, 19, 20))) // and type's address, count
	must(t, dump(conn, unix.NFT_MSG_GETCHAIN, unix.NFPROTO_BRIDGE, nil, take("chain", unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_USE)))
	must(t, dump(conn, unix.NFT_MSG_GETRULE, unix.NFPROTO_BRIDGE, which, take("rule", unix.NFTA_RULE_HANDLE, unix.NFTA_RULE_POSITION)))
	for _, name := range slices.Collect(maps.Keys(objects)) {
		if set, found := strings.CutPrefix(name, "set "); found {
			var all []string
			must(t, elementsOf(conn, unix.NFPROTO_BRIDGE, firewall.BridgeTable, set, func(e element) {
				if !e.opening() {
					v := verdict{}
					if e.verdict != nil {
						v = *e.verdict
					}
					all = append(all, fmt.Sprintf("  %x-%x %d %v %x", e.key, e.keyEnd, e.flags, v, e.data))
				}
			}))
			slices.Sort(all)
			objects[name] = append(objects[name], all...)
		}
	}
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		fmt.Fprintf(&out, "%s\n%s\n", name, strings.Join(objects[name], "\n"))
	}
	return out.String()
}

// FuzzText: whatever the text, it is read or refused.
func FuzzText(f *testing.F) {
	rs := firewall.Compile(hosts().Example(1))
	for _, t := range rs.Tables() {
		for _, c := range t.Chains {
			for _, r := range c.Rules {
				f.Add(r, "set", "type ifname;")
			}
		}
		for _, s := range t.Sets {
			for _, e := range s.Elements {
				f.Add(e, s.Kind, s.Spec)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text, kind, spec string) {
		if r, ok := ruleOf(text); ok && len(r.expressions) == 0 && text != "" {
			t.Errorf("a rule that does nothing: %q", text)
		}
		l, ok := layoutOf(firewall.Set{Kind: kind, Spec: spec})
		if !ok {
			return
		}
		elements, ok := l.elements(nil, text)
		for _, e := range elements {
			if ok && (len(e.key) != l.keyLength() || e.keyEnd != nil && len(e.keyEnd) != len(e.key)) {
				t.Errorf("%q of a set of %q has the key %x-%x", text, spec, e.key, e.keyEnd)
			}
		}
	})
}
