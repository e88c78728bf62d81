package firewall_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/firewall/firewalltest"
)

// TestNftTakesIt loads every scenario into the kernel, and the static part on
// top of it.
func TestNftTakesIt(t *testing.T) {
	for name, h := range scenarios(t) {
		if h.Mode == firewall.BridgeConntrack {
			continue // its ct expressions need nf_conntrack_bridge; see below
		}
		t.Run(name, func(t *testing.T) {
			rs := firewall.Compile(h)
			whole, err := nft(t, rs.String())
			must(t, err)
			again, err := nft(t, rs.String(), rs.Sync(nil, nil), firewall.Static(h), rs.Replace(), rs.Sync(nil, nil))
			must(t, err)
			if again != whole {
				t.Errorf("loaded once:\n%s\nloaded over itself:\n%s", whole, again)
			}
			static, err := nft(t, firewall.Static(h))
			must(t, err)
			synced, err := nft(t, firewall.Static(h), rs.Sync(nil, nil))
			must(t, err)
			if synced != whole || static == "" {
				t.Errorf("after the static part:\n%s\nwithout it:\n%s", synced, whole)
			}
		})
	}
}

// TestStaticKeepsTheAgentsWork: the boot unit may run again under guests.
func TestStaticKeepsTheAgentsWork(t *testing.T) {
	h := scenarios(t)["two-guests-groups"]
	rs := firewall.Compile(h)
	whole, err := nft(t, rs.String())
	must(t, err)
	kept, err := nft(t, rs.String(), firewall.Static(h))
	must(t, err)
	if kept != whole {
		t.Errorf("the static part changed\n%s\nto\n%s", whole, kept)
	}
}

// TestBridgeConntrackNeedsOnlyConntrack: where the kernel has no
// nf_conntrack_bridge, nft refuses that mode's ruleset for its ct expressions
// and for nothing else.
func TestBridgeConntrackNeedsOnlyConntrack(t *testing.T) {
	_, err := nft(t, firewall.Compile(scenarios(t)["two-guests-groups-ct"]).String())
	if err == nil {
		return
	}
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	for i := 0; i+2 < len(lines); i += 3 {
		noConntrack := strings.HasSuffix(lines[i], "Protocol error") && (strings.Contains(lines[i+1], "ct ") || strings.Contains(lines[i+1], "notrack"))
		noSet := strings.HasSuffix(lines[i], "No such file or directory") && strings.Contains(lines[i+1], "@connections_") // which counts them
		if !noConntrack && !noSet {
			t.Errorf("nft refuses\n%s", strings.Join(lines[i:i+3], "\n"))
		}
	}
}

// TestChangesAddUp: however the kernel came to a ruleset, by changes or by one
// sync over what was there, it prints the same as if it had been loaded at once.
func TestChangesAddUp(t *testing.T) {
	for seed := range 8 {
		var steps []string
		before := firewall.Compile(base(firewall.BridgeNetfilter))
		steps = append(steps, before.String())
		var last firewall.Ruleset
		for i := range 4 {
			last = firewall.Compile(firewalltest.Hosts().Example(10*seed + i))
			steps = append(steps, last.Change(before).String())
			before = last
		}
		steps = slices.DeleteFunc(steps, func(s string) bool { return s == "" })
		want, err := nft(t, last.String())
		must(t, err)
		got, err := nft(t, steps...)
		if err != nil {
			t.Fatalf("seed %d: %s\n%s", seed, err, strings.Join(steps, "\n----\n"))
		}
		if got != want {
			t.Errorf("seed %d: by changes:\n%s\nat once:\n%s", seed, got, want)
		}
		if len(last.Change(last)) > 0 {
			t.Errorf("seed %d: a ruleset differs from itself: %s", seed, last.Change(last))
		}
		// A sync over what another ruleset left, and over what nobody made.
		other := firewall.Compile(firewalltest.Hosts().Example(10*seed + 5))
		stray := []firewall.Object{{Family: "bridge", Table: "sixacre", Kind: "chain", Name: "stray"}, {Family: "bridge", Table: "sixacre", Kind: "map", Name: "strays"}}
		got, err = nft(t, other.String(), `table bridge sixacre {
			chain stray { counter; }
			map strays { type ifname : verdict; elements = { "tap1" : goto stray }; }
		}`, other.Sync(stray, nil))
		must(t, err)
		if want, err = nft(t, other.String()); err != nil || got != want {
			t.Errorf("seed %d: %v, after a sync:\n%s\nat once:\n%s", seed, err, got, want)
		}
	}
}

// TestNextIsCompile: what is taken over from the ruleset before is what would
// have been made anew.
func TestNextIsCompile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := firewall.Compile(firewalltest.Hosts().Draw(t, "before"))
		h := firewalltest.Hosts().Draw(t, "host")
		if got, want := before.Next(h).String(), firewall.Compile(h).String(); got != want {
			t.Errorf("after another ruleset\n%s\nalone\n%s", got, want)
		}
	})
}

// TestNextSeesRulesChange: whatever changes in a rule, the group is made anew.
func TestNextSeesRulesChange(t *testing.T) {
	host := func(r sixacre.Rule) firewall.Host {
		h := base(firewall.BridgeNetfilter)
		h.Ports = []firewall.Port{port("tap1", guest(1, nil, "web"))}
		h.Groups = []sixacre.Group{{Name: "web", Rules: []sixacre.Rule{r}}}
		return h
	}
	tcp := sixacre.Rule{ID: 1, Direction: sixacre.In, Protocol: sixacre.TCP, Ports: sixacre.Ports{{First: 80, Last: 80}}, Remote: sixacre.Remote{Group: "web"}}
	icmp := sixacre.Rule{ID: 1, Direction: sixacre.In, Protocol: sixacre.ICMPv6, ICMPType: &sixacre.ICMPType{Type: 139}}
	for what, c := range map[string]struct {
		before sixacre.Rule
		change func(*sixacre.Rule)
	}{
		"id":        {tcp, func(r *sixacre.Rule) { r.ID = 2 }},
		"direction": {tcp, func(r *sixacre.Rule) { r.Direction = sixacre.Out }},
		"protocol":  {tcp, func(r *sixacre.Rule) { r.Protocol = sixacre.UDP }},
		"ports":     {tcp, func(r *sixacre.Rule) { r.Ports = sixacre.Ports{{First: 80, Last: 81}} }},
		"type":      {icmp, func(r *sixacre.Rule) { r.ICMPType = &sixacre.ICMPType{Type: 140} }},
		"no type":   {icmp, func(r *sixacre.Rule) { r.ICMPType = nil }},
		"remote":    {tcp, func(r *sixacre.Rule) { r.Remote.Group = "db" }},
		"prefixes":  {tcp, func(r *sixacre.Rule) { r.IncludePrefixes = true }},
	} {
		after := c.before
		c.change(&after)
		want := firewall.Compile(host(after)).String()
		if got := firewall.Compile(host(c.before)).Next(host(after)).String(); got != want {
			t.Errorf("%s: after another rule\n%s\nalone\n%s", what, got, want)
		}
	}
	cut := tcp
	cut.Cut = true
	cutting := firewall.Compile(host(tcp)).Next(host(cut))
	if cutting.Next(host(icmp)).Cut(cutting) == nil {
		t.Error("a rule that now cuts does not")
	}
}

// TestOrderDoesNotMatter: the same host in another order makes the same text.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := firewalltest.Hosts().Draw(t, "host")
		for i := range h.Groups {
			for j := range h.Groups[i].Rules {
				h.Groups[i].Rules[j].ID = j + 1
			}
		}
		want := firewall.Compile(h).String()
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		shuffle(r, h.Ports)
		shuffle(r, h.Groups)
		shuffle(r, h.Members)
		shuffle(r, h.Taps)
		for i := range h.Ports {
			shuffle(r, h.Ports[i].NIC.Groups)
			shuffle(r, h.Ports[i].NIC.Prefixes)
		}
		for i := range h.Groups {
			shuffle(r, h.Groups[i].Rules)
		}
		for i := range h.Members {
			shuffle(r, h.Members[i].Addresses)
			shuffle(r, h.Members[i].Prefixes)
		}
		if got := firewall.Compile(h).String(); got != want {
			t.Errorf("in one order\n%s\nin another\n%s", want, got)
		}
	})
}

func shuffle[T any](r *rand.Rand, s []T) {
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

// TestLeftOut: what cannot be filtered is closed, and nothing that others chose
// gets into the text unread.
func TestLeftOut(t *testing.T) {
	h := base(firewall.BridgeNetfilter)
	stopped := guest(3, nil)
	stopped.State = sixacre.Stopped
	h.Ports = []firewall.Port{
		port("tap1", guest(1, nil)),
		port("tap2", guest(2, nil)), port("tap2", guest(4, nil)),
		port("tap3", stopped),
		port(`tap";flush`, guest(5, nil)),
		port("eth1", guest(6, nil)),
		port("tap7", sixacre.NIC{MAC: sixacre.MAC{6, 0, 0, 0, 0, 7}, State: sixacre.Running}),
	}
	const bad = "x { flush"
	h.Ports[0].NIC.Groups = []string{bad, "good"}
	h.Groups = []sixacre.Group{
		{Name: bad, Rules: []sixacre.Rule{{Direction: sixacre.In, Protocol: sixacre.TCP}}},
		{Name: "good", Rules: []sixacre.Rule{{Direction: sixacre.In, Protocol: sixacre.TCP, Remote: sixacre.Remote{Group: bad}}}},
	}
	rs := firewall.Compile(h)
	for _, p := range h.Ports {
		if got, want := rs.Filters(p.Device), p.Device == "tap1"; got != want {
			t.Errorf("%s: filtered %t, want %t", p.Device, got, want)
		}
	}
	for _, word := range []string{"flush", "eth1", "tap2", "tap3", "tap7"} {
		if strings.Contains(rs.String(), word) {
			t.Errorf("the ruleset speaks of %s:\n%s", word, rs)
		}
	}
}

func TestParsePattern(t *testing.T) {
	for s, ok := range map[string]bool{
		"vnet*": true, "tap1": true, "t*": true,
		"": false, "*": false, "tap*1": false, `tap"*`: false, "tap *": false, "abcdefghijklmnop*": false,
	} {
		p, err := firewall.ParsePattern(s)
		if (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
		if ok && !p.Match(strings.TrimSuffix(s, "*")) || p.Match("eth0") {
			t.Errorf("%q matches the wrong names", s)
		}
	}
}

// TestCanonical: order that means nothing is taken out, and all else is kept.
func TestCanonical(t *testing.T) {
	const listing = `table bridge a {
	set s {
		type ifname
		elements = { "x",
			     "y" }
	}

	chain c {
		iifname "x" drop
		accept
	}
}
table ip6 b {
}
`
	for _, c := range []struct {
		what     string
		old, new string
		same     bool
	}{
		{"elements swapped", "\"x\",\n\t\t\t     \"y\"", "\"y\", \"x\"", true},
		{"another element", `"x",`, `"z",`, false},
		{"another verdict", "drop", "accept", false},
		{"rules swapped", "iifname \"x\" drop\n\t\taccept", "accept\n\t\tiifname \"x\" drop", false},
		{"another table", "table ip6 b", "table ip6 c", false},
		{"a table gone", "table ip6 b {\n}\n", "", false},
	} {
		other := strings.Replace(listing, c.old, c.new, 1)
		if same := firewall.Canonical(other) == firewall.Canonical(listing); same != c.same || other == listing {
			t.Errorf("%s: the same is %t, want %t", c.what, same, c.same)
		}
	}
}
