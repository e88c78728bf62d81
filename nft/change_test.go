package nft

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/firewall/firewalltest"
)

// TestSaysWhatNftSays: a change by netlink leaves in the kernel, octet for octet,
// what nft makes of its text, and nft lists both alike.
func TestSaysWhatNftSays(t *testing.T) {
	inNamespace(t)
	for seed := range 10 {
		var texts []string
		sent := new(Kernel)
		foreign(t, "flush ruleset")
		before := firewall.Compile(firewall.Host{Taps: []firewall.Pattern{"vnet*", "tap*"}})
		must(t, sent.Apply(t.Context(), before))
		texts = append(texts, before.String())
		for i := range 4 {
			next := before.Next(firewalltest.Hosts().Example(10*seed + i))
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
	rs := firewall.Compile(firewalltest.Hosts().Example(1))
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
