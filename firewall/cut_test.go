package firewall_test

import (
	"net/netip"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// TestCut: which of the flows of tap1's guest a change ends.
func TestCut(t *testing.T) {
	group := func(name string, rules ...sixacre.Rule) sixacre.Group { return sixacre.Group{Name: name, Rules: rules} }
	cut := func(id int, words string) sixacre.Rule {
		r := rule(t, id, words)
		r.Cut = true
		return r
	}
	with := func(prefixes bool, r sixacre.Rule) sixacre.Rule {
		r.IncludePrefixes = prefixes
		return r
	}
	host := func(groups []sixacre.Group, names []string, members ...sixacre.Members) firewall.Ruleset {
		h := base(firewall.BridgeNetfilter)
		h.Ports = []firewall.Port{port("tap1", guest(1, []string{"2001:db8:4000:10::/60"}, names...)), port("tap2", guest(2, nil))}
		h.Groups, h.Members = groups, members
		return firewall.Compile(h)
	}
	const own, prefix, other, else1 = "2001:db8:100:1:400:ff:fe00:1", "2001:db8:4000:10::5", "2001:db8:100:1:400:ff:fe00:2", "2001:db8:ffff::1"
	flow := func(p sixacre.Protocol, from, to string, dport uint16) sixacre.Flow {
		return sixacre.Flow{Protocol: p, Source: netip.MustParseAddr(from), Destination: netip.MustParseAddr(to), SourcePort: 5000, DestinationPort: dport}
	}
	app := func(addresses ...string) sixacre.Members {
		m := sixacre.Members{Group: "app"}
		for _, a := range addresses {
			m.Addresses = append(m.Addresses, netip.MustParseAddr(a))
		}
		return m
	}
	web := func(rules ...sixacre.Rule) []sixacre.Group { return []sixacre.Group{group("web", rules...)} }
	ssh, http := cut(1, "in tcp 22 - -"), rule(t, 2, "in tcp 80 - -")
	names := []string{"web"}
	for _, c := range []struct {
		name          string
		before, after firewall.Ruleset
		flow          sixacre.Flow
		want          bool
	}{
		{"a rule that says so is gone", host(web(ssh, http), names), host(web(http), names), flow(6, else1, own, 22), true},
		{"in a flow to its prefix", host(web(ssh, http), names), host(web(http), names), flow(6, else1, prefix, 22), true},
		{"to another guest", host(web(ssh, http), names), host(web(http), names), flow(6, else1, other, 22), false},
		{"another port", host(web(ssh, http), names), host(web(http), names), flow(6, else1, own, 80), false},
		{"another protocol", host(web(ssh, http), names), host(web(http), names), flow(17, else1, own, 22), false},
		{"that the guest opened", host(web(ssh, http), names), host(web(http), names), flow(6, own, else1, 22), false},
		{"a rule that does not say so", host(web(ssh, http), names), host(web(ssh), names), flow(6, else1, own, 80), false},
		{"another rule allows it still", host(web(ssh, rule(t, 2, "in tcp 1-100 - -")), names), host(web(rule(t, 2, "in tcp 1-100 - -")), names), flow(6, else1, own, 22), false},
		{"the group is left", host(web(ssh), names), host(web(ssh), nil), flow(6, else1, own, 22), true},
		{"a member left", host(web(cut(1, "in tcp 22 - group:app")), names, app(else1, other)), host(web(cut(1, "in tcp 22 - group:app")), names, app(other)), flow(6, else1, own, 22), true},
		{"a member stayed", host(web(cut(1, "in tcp 22 - group:app")), names, app(else1, other)), host(web(cut(1, "in tcp 22 - group:app")), names, app(other)), flow(6, other, own, 22), false},
		{"prefixes count no more", host(web(with(true, cut(1, "in tcp 22 - group:app"))), names, sixacre.Members{Group: "app", Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:ffff::/48")}}),
			host(web(cut(1, "in tcp 22 - group:app")), names, sixacre.Members{Group: "app", Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:ffff::/48")}}), flow(6, else1, own, 22), true},
		{"egress closed by a rule that says so", host(nil, nil), host(web(cut(1, "out tcp 443 - -")), names), flow(6, own, else1, 80), true},
		{"egress closed by one that does not", host(nil, nil), host(web(rule(t, 1, "out tcp 443 - -")), names), flow(6, own, else1, 80), false},
		{"egress that is still open", host(nil, nil), host(web(cut(1, "out tcp 443 - -")), names), flow(6, own, else1, 443), false},
	} {
		ends := c.after.Cut(c.before)
		if got := ends != nil && ends(c.flow); got != c.want {
			t.Errorf("%s: the flow ends: %t, want %t", c.name, got, c.want)
		}
	}
	// Where guests may use all of the link, the addresses of one are not another's.
	link := func(groups []sixacre.Group) firewall.Ruleset {
		h := base(firewall.BridgeNetfilter)
		h.Pods[0].AntiSpoof = sixacre.AntiSpoofLinkPrefix
		h.Ports = []firewall.Port{port("tap1", guest(1, nil, "web")), port("tap2", guest(2, nil, "open"))}
		h.Groups = append(groups, group("open", ssh))
		return firewall.Compile(h)
	}
	ends := link(web(http)).Cut(link(web(ssh, http)))
	for to, want := range map[string]bool{own: true, "2001:db8:100:1::7e39": true, other: false} {
		if got := ends(flow(6, else1, to, 22)); got != want {
			t.Errorf("a flow to %s ends: %t, want %t", to, got, want)
		}
	}
	same := host(web(ssh, http), names)
	if same.Cut(same) != nil || same.Cut(host(web(ssh, http), names)) == nil {
		// The second was compiled anew: its parts are others.
		t.Error("what did not change ends flows, or what may have changed does not")
	}
}
