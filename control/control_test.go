package control_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/control"
)

func TestDeploySLAAC(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	n := r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01", prefixes(3))
	if want := netip.MustParseAddr("2001:db8:100:1:400:ff:fe00:1"); n.Address != want {
		t.Errorf("address %s, want the EUI-64 one, %s", n.Address, want)
	}
	if len(n.Prefixes) != 3 {
		t.Fatalf("prefixes %v, want three", n.Prefixes)
	}
	for _, p := range n.Prefixes {
		if !slaac().Pools[0].Holds(p) {
			t.Errorf("%s is not one of the pool's", p)
		}
	}
	if n.Groups[0] != sixacre.DefaultGroup {
		t.Errorf("groups %v, want the default one", n.Groups)
	}
	shown, err := r.Instance(t.Context(), "i-1")
	if err != nil || fmt.Sprint(shown.NICs[0]) != fmt.Sprint(n) {
		t.Errorf("shown %v, %v; deployed %v", shown, err, n)
	}
	stored, err := r.store.Get(t.Context(), shown.Key())
	if err != nil || stored.Noun.(sixacre.Instance).NICs[0].Address.IsValid() {
		t.Errorf("the SLAAC address was stored: %v, %v", stored, err)
	}
}

func TestDeployDHCPv6(t *testing.T) {
	r := newRecord(t)
	r.pod(dhcpv6())
	picked := r.mustDeploy("i-1", "pod2", "06:00:00:00:00:01", prefixes(0))
	if !dhcpv6().LinkPrefix.Contains(picked.Address) || addr.Reserved(picked.Address) || len(picked.Prefixes) != 0 {
		t.Errorf("picked %+v", picked)
	}
	again, err := r.Instance(t.Context(), "i-1")
	if err != nil || again.NICs[0].Address != picked.Address {
		t.Errorf("stored %v, %v; want %s", again, err, picked.Address)
	}
	wanted := r.mustDeploy("i-2", "pod2", "06:00:00:00:00:02", address("2001:db8:100:2::42"))
	if wanted.Address != netip.MustParseAddr("2001:db8:100:2::42") {
		t.Errorf("address %s, want the one that was named", wanted.Address)
	}
	if got := wanted.Prefixes[0].Bits(); got != 48 {
		t.Errorf("picked a /%d, want one of the first pool's", got)
	}
}

// Each refusal names the value that was refused, and writes nothing.
func TestRefusals(t *testing.T) {
	r := newRecord(t)
	ctx := t.Context()
	r.pod(slaac())
	r.pod(dhcpv6())
	r.mustDeploy("taken", "pod1", "06:00:00:00:00:01", exactly("2001:db8:4000::/60"))
	r.mustDeploy("taken2", "pod2", "06:00:00:00:00:02", address("2001:db8:100:2::42"))
	if _, err := r.CreateHost(ctx, sixacre.Host{Name: "hv1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreateGroup(ctx, sixacre.Group{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	r.mustDeploy("placed", "pod1", "06:00:00:00:00:03", func(n *control.NICDeployment) { n.Host, n.Groups = "hv1", []string{"web"} })
	if err := r.CreatePeer(ctx, sixacre.Peer{Name: "r1", Pod: "pod2", Address: netip.MustParseAddr("2001:db8::1"), ASN: 64512}); err != nil {
		t.Fatal(err)
	}
	if err := r.CreatePeer(ctx, sixacre.Peer{Name: "r2", Pod: "pod2", Address: netip.MustParseAddr("2001:db8:100:2::2"), ASN: 64512}); err != nil {
		t.Fatal(err)
	}
	r.pod(sixacre.Pod{Name: "pod3", LinkPrefix: netip.MustParsePrefix("2001:db8:100:3::/64"), Relays: []netip.Addr{netip.MustParseAddr("2001:db8:100:2::3")}, InterfaceIDs: []string{"vlan3"}})
	until(t, r.follow(control.Scope{Pod: "pod3"}), "pod3", func(v sixacre.View) bool { return len(v.Pods) == 1 })

	pod := func(change func(*sixacre.Pod)) func() error {
		return func() error {
			p := sixacre.Pod{
				Name: "new", LinkPrefix: netip.MustParsePrefix("2001:db8:100:9::/64"),
				Pools: []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:9000::/40"), DelegatedLength: 60}},
			}
			change(&p)
			_, err := r.CreatePod(ctx, p)
			return err
		}
	}
	link := func(s string) func() error {
		return pod(func(p *sixacre.Pod) { p.LinkPrefix = netip.MustParsePrefix(s) })
	}
	pool := func(s string) func() error {
		return pod(func(p *sixacre.Pod) {
			v, err := sixacre.ParsePool(s)
			if err != nil {
				t.Fatal(err)
			}
			p.Pools = append(p.Pools, v)
		})
	}
	relay := func(s string) func() error {
		return pod(func(p *sixacre.Pod) { p.Relays = []netip.Addr{netip.MustParseAddr(s)} })
	}
	deploy := func(name, pod, mac string, change ...func(*control.NICDeployment)) func() error {
		return func() error { _, err := r.deploy(name, pod, mac, change...); return err }
	}
	nic := func(pod string, last byte, prefix string) control.NICDeployment {
		return control.NICDeployment{NIC: sixacre.NIC{Pod: pod, MAC: sixacre.MAC{6, 0, 0, 0, 1, last}, Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}}}
	}
	const fresh = "06:00:00:00:00:99"
	for name, c := range map[string]struct {
		do   func() error
		code sixacre.Code
		says string
	}{
		"link prefix of /63":            {link("2001:db8:100:8::/63"), sixacre.Invalid, "2001:db8:100:8::/63"},
		"link prefix with host bits":    {link("2001:db8:100:9::1/64"), sixacre.Invalid, "2001:db8:100:9::1/64"},
		"IPv4 link prefix":              {link("192.0.2.0/24"), sixacre.Invalid, "192.0.2.0/24"},
		"link-local link prefix":        {link("fe80::/64"), sixacre.Invalid, "fe80::/64"},
		"link prefix inside own pool":   {link("2001:db8:9000:1::/64"), sixacre.Invalid, "2001:db8:9000:1::/64"},
		"link prefix inside other pool": {link("2001:db8:4000:1::/64"), sixacre.Conflict, "pod pod1"},
		"link prefix of another pod":    {link("2001:db8:100:1::/64"), sixacre.Conflict, "pod pod1"},
		"pool over other link prefix":   {pool("2001:db8:100::/62=62"), sixacre.Conflict, "2001:db8:100::/62"},
		"pools overlap":                 {pool("2001:db8:9010::/48=60"), sixacre.Invalid, "2001:db8:9010::/48"},
		"pools overlap across pods":     {pool("2001:db8:4010::/48=60"), sixacre.Conflict, "2001:db8:4010::/48"},
		"pool with host bits":           {pool("2001:db8:a000::1/40=60"), sixacre.Invalid, "write 2001:db8:a000::/40"},
		"delegated length above 64":     {pool("2001:db8:a000::/40=65"), sixacre.Invalid, "65"},
		"delegated length below 48":     {pool("2001:db8:a000::/40=47"), sixacre.Invalid, "47"},
		"delegated length above pool":   {pool("2001:db8:a000::/56=52"), sixacre.Invalid, "52"},
		"multicast pool":                {pool("ff00::/40=60"), sixacre.Invalid, "ff00::/40"},
		"relay inside a pool":           {relay("2001:db8:9000::1"), sixacre.Invalid, "2001:db8:9000::1"},
		"relay inside another's pool":   {relay("2001:db8:4000::1"), sixacre.Conflict, "2001:db8:4000::1"},
		"relay is an instance":          {relay("2001:db8:100:1:400:ff:fe00:1"), sixacre.Conflict, "instance taken"},
		"relay is multicast":            {relay("ff02::1:2"), sixacre.Invalid, "ff02::1:2"},
		"isolated pod":                  {pod(func(p *sixacre.Pod) { p.Kind = sixacre.Isolated }), sixacre.Invalid, "isolated"},
		"kea":                           {pod(func(p *sixacre.Pod) { p.DHCP = sixacre.Kea }), sixacre.Invalid, "kea"},
		"unknown identifier":            {pod(func(p *sixacre.Pod) { p.Identify = []sixacre.Identifier{"guess"} }), sixacre.Invalid, "guess"},
		"preferred longer than valid":   {pod(func(p *sixacre.Pod) { p.ValidLifetime, p.PreferredLifetime = 10, 20 }), sixacre.Invalid, "20s"},
		"infinite lifetime":             {pod(func(p *sixacre.Pod) { p.ValidLifetime = sixacre.Infinity }), sixacre.Invalid, "infinity"},
		"pod name taken":                {pod(func(p *sixacre.Pod) { p.Name = "pod1" }), sixacre.Conflict, "pod1"},
		"pod name with a slash":         {pod(func(p *sixacre.Pod) { p.Name = "a/b" }), sixacre.Invalid, `"a/b"`},
		"16 dns servers": {pod(func(p *sixacre.Pod) {
			p.DNS = slices.Repeat([]netip.Addr{netip.MustParseAddr("2001:db8::53")}, 16)
		}), sixacre.Invalid, "16"},
		"long search list": {pod(func(p *sixacre.Pod) {
			p.Domains = slices.Repeat([]string{strings.Repeat("abcdefg.", 7) + "net"}, 4)
		}), sixacre.Invalid, "240 octets"},
		"empty interface-id": {pod(func(p *sixacre.Pod) { p.InterfaceIDs = []string{""} }), sixacre.Invalid, `""`},
		"interface-id of another": {pod(func(p *sixacre.Pod) {
			p.InterfaceIDs, p.Relays = []string{"vlan3"}, []netip.Addr{netip.MustParseAddr("2001:db8:100:2::3")}
		}), sixacre.Conflict, "pod pod3"},
		"domain with a space": {pod(func(p *sixacre.Pod) { p.Domains = []string{"a b"} }), sixacre.Invalid, `"a b"`},

		"multicast mac":              {deploy("new", "pod1", "01:00:5e:00:00:01"), sixacre.Invalid, "01:00:5e:00:00:01"},
		"zero mac":                   {deploy("new", "pod1", "00:00:00:00:00:00"), sixacre.Invalid, "00:00:00:00:00:00"},
		"mac taken":                  {deploy("new", "pod1", "06:00:00:00:00:01"), sixacre.Conflict, "06:00:00:00:00:01"},
		"mac that makes a router's":  {deploy("new", "pod2", "06:00:00:00:00:ff"), sixacre.Conflict, "fe80::400:ff:fe00:ff"},
		"instance name taken":        {deploy("taken", "pod1", fresh), sixacre.Conflict, "instance taken"},
		"no such pod":                {deploy("new", "pod9", fresh), sixacre.NotFound, "pod9"},
		"no such host":               {deploy("new", "pod1", fresh, func(n *control.NICDeployment) { n.Host = "hv9" }), sixacre.NotFound, "hv9"},
		"no such group":              {deploy("new", "pod1", fresh, func(n *control.NICDeployment) { n.Groups = []string{"g9"} }), sixacre.NotFound, "g9"},
		"device that is no name":     {deploy("new", "pod1", fresh, func(n *control.NICDeployment) { n.Device = `tap"1` }), sixacre.Invalid, "tap"},
		"prefix taken":               {deploy("new", "pod1", fresh, exactly("2001:db8:4000::/60")), sixacre.Conflict, "instance taken"},
		"prefix of another length":   {deploy("new", "pod1", fresh, exactly("2001:db8:4000::/56")), sixacre.Invalid, "2001:db8:4000::/56"},
		"prefix with host bits":      {deploy("new", "pod1", fresh, exactly("2001:db8:4000::1/60")), sixacre.Invalid, "2001:db8:4000::1/60"},
		"prefix of another pod":      {deploy("new", "pod1", fresh, exactly("2001:db8:5000::/48")), sixacre.Invalid, "2001:db8:5000::/48"},
		"prefix twice":               {deploy("new", "pod1", fresh, exactly("2001:db8:4001::/60"), exactly("2001:db8:4001::/60")), sixacre.Invalid, "twice"},
		"33 prefixes":                {deploy("new", "pod1", fresh, prefixes(33)), sixacre.Invalid, "33"},
		"17 of 16 prefixes":          {deploy("new", "pod2", fresh, prefixes(17)), sixacre.Exhausted, "pod2"},
		"address in a slaac pod":     {deploy("new", "pod1", fresh, address("2001:db8:100:1::5")), sixacre.Invalid, "2001:db8:100:1::5"},
		"address outside the pod":    {deploy("new", "pod2", fresh, address("2001:db8::5")), sixacre.Invalid, "2001:db8::5"},
		"address taken":              {deploy("new", "pod2", fresh, address("2001:db8:100:2::42")), sixacre.Conflict, "instance taken2"},
		"address of a peer":          {deploy("new", "pod2", fresh, address("2001:db8:100:2::2")), sixacre.Conflict, "peers/r2"},
		"address of another's relay": {deploy("new", "pod2", fresh, address("2001:db8:100:2::3")), sixacre.Conflict, "pods/pod3"},
		"40 groups": {deploy("new", "pod1", fresh, func(n *control.NICDeployment) {
			for i := range 40 {
				n.Groups = append(n.Groups, fmt.Sprint("g", i))
			}
		}), sixacre.Invalid, "too many"},
		"a prefix on two NICs": {func() error {
			_, err := r.Deploy(ctx, control.Deployment{Name: "new", NICs: []control.NICDeployment{nic("pod1", 1, "2001:db8:4001::/60"), nic("pod1", 2, "2001:db8:4001::/60")}})
			return err
		}, sixacre.Conflict, "2001:db8:4001::/60"},
		"address of a relay":         {deploy("new", "pod2", fresh, address("2001:db8:100:2::1")), sixacre.Conflict, "relay"},
		"subnet-router anycast":      {deploy("new", "pod2", fresh, address("2001:db8:100:2::")), sixacre.Invalid, "reserved"},
		"reserved anycast identifer": {deploy("new", "pod2", fresh, address("2001:db8:100:2:fdff:ffff:ffff:fffe")), sixacre.Invalid, "reserved"},

		"peer is an instance": {func() error {
			return r.CreatePeer(ctx, sixacre.Peer{Name: "new", Pod: "pod2", Address: netip.MustParseAddr("2001:db8:100:2::42"), ASN: 1})
		}, sixacre.Conflict, "instance taken2"},
		"admin token of a pod": {func() error {
			_, err := r.CreateToken(ctx, sixacre.Token{Name: "new", Role: sixacre.RoleAdmin, Pod: "pod1"})
			return err
		}, sixacre.Invalid, "pod pod1 does not go with role admin"},
		"router token of a host": {func() error {
			_, err := r.CreateToken(ctx, sixacre.Token{Name: "new", Role: sixacre.RoleRouter, Pod: "pod1", Host: "hv1"})
			return err
		}, sixacre.Invalid, "host hv1 does not go with role router"},
		"pod in use":                 {func() error { return r.DeletePod(ctx, "pod1") }, sixacre.InUse, "pod1"},
		"host in use":                {func() error { return r.DeleteHost(ctx, "hv1") }, sixacre.InUse, "instance placed"},
		"group in use":               {func() error { return r.DeleteGroup(ctx, "web") }, sixacre.InUse, "instance placed"},
		"no such instance to retire": {func() error { return r.Retire(ctx, "i-9") }, sixacre.NotFound, "i-9"},
		"nobody's prefix":            {func() error { return r.ReleasePrefix(ctx, netip.MustParsePrefix("2001:db8:4002::/60")) }, sixacre.NotFound, "2001:db8:4002::/60"},
		"rule for ports of icmpv6": {func() error {
			_, err := r.AddRule(ctx, "web", sixacre.Rule{Direction: sixacre.In, Protocol: sixacre.ICMPv6, Ports: sixacre.Ports{{First: 1, Last: 1}}})
			return err
		}, sixacre.Invalid, "ports 1"},
		"rule with an unknown group": {func() error {
			_, err := r.AddRule(ctx, "web", sixacre.Rule{Direction: sixacre.In, Protocol: sixacre.TCP, Remote: sixacre.Remote{Group: "g9"}})
			return err
		}, sixacre.NotFound, "g9"},
		"whois nobody":  {func() error { _, err := r.Whois(ctx, "2001:db8:4002::1", ""); return err }, sixacre.NotFound, "2001:db8:4002::1"},
		"whois nowhere": {func() error { _, err := r.Whois(ctx, "06:00:00:00:00:01", "pod9"); return err }, sixacre.NotFound, "pod pod9"},
		"whois what":    {func() error { _, err := r.Whois(ctx, "me", ""); return err }, sixacre.Invalid, `"me"`},
	} {
		t.Run(name, func(t *testing.T) {
			before := r.revision()
			err := c.do()
			if sixacre.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.says) || strings.Contains(fmt.Sprint(err), "\n") {
				t.Errorf("%v (%q), want code %q and a line that says %q", err, sixacre.CodeOf(err), c.code, c.says)
			}
			if after := r.revision(); after != before {
				t.Errorf("something was written: revision %d, then %d", before, after)
			}
		})
	}
	// What a refused deployment picked is free again: the whole of it.
	if n, err := r.deploy("all", "pod2", fresh, prefixes(15)); err != nil || len(n.Prefixes) != 15 {
		t.Errorf("after the refusals: %v, %v; want the 15 prefixes that are left", n.Prefixes, err)
	}
}

// Two servers and many callers at once: no prefix is given twice, every one is
// given, and the last is found.
func TestConcurrentDeploymentsShareNothing(t *testing.T) {
	r := newRecord(t)
	r.pod(sixacre.Pod{
		Name: "small", LinkPrefix: netip.MustParsePrefix("2001:db8:100:3::/64"),
		Pools: []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:7000::/54"), DelegatedLength: 60}},
	})
	servers := []*control.Control{r.Control, r.another()}
	const callers, each = 8, 10 // of 64 prefixes, so some must be refused
	var mu sync.Mutex
	holders := map[netip.Prefix]string{}
	refused := 0
	var group sync.WaitGroup
	for caller := range callers {
		group.Go(func() {
			for k := range each {
				name := fmt.Sprintf("i-%d-%d", caller, k)
				i, err := servers[caller%2].Deploy(t.Context(), control.Deployment{Name: name, NICs: []control.NICDeployment{{
					NIC: sixacre.NIC{Pod: "small", MAC: sixacre.MAC{6, 0, 0, 0, byte(caller), byte(k)}},
				}}})
				mu.Lock()
				if sixacre.CodeOf(err) == sixacre.Exhausted {
					refused++
				} else if err != nil {
					t.Error(err)
				} else if p := i.NICs[0].Prefixes[0]; holders[p] != "" {
					t.Errorf("%s was given to %s and to %s", p, holders[p], name)
				} else {
					holders[p] = name
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if len(holders) != 64 || refused != callers*each-64 {
		t.Errorf("%d prefixes given and %d callers refused, want 64 and %d", len(holders), refused, callers*each-64)
	}
}

func TestTheSameMACAtOnce(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	servers := []*control.Control{r.Control, r.another()}
	made := make([]int, len(servers))
	for round := range 20 {
		var group sync.WaitGroup
		for k, s := range servers {
			group.Go(func() {
				_, err := s.Deploy(t.Context(), control.Deployment{Name: fmt.Sprintf("i-%d-%d", round, k), NICs: []control.NICDeployment{{
					NIC: sixacre.NIC{Pod: "pod1", MAC: sixacre.MAC{6, 0, 0, 0, 0, byte(round)}},
				}}})
				if err == nil {
					made[k]++
				} else if sixacre.CodeOf(err) != sixacre.Conflict {
					t.Error(err)
				}
			})
		}
		group.Wait()
	}
	if made[0]+made[1] != 20 {
		t.Errorf("%d instances for 20 MACs", made[0]+made[1])
	}
}

func TestAddAndReleasePrefix(t *testing.T) {
	r := newRecord(t)
	ctx := t.Context()
	r.pod(dhcpv6())
	r.mustDeploy("i-1", "pod2", "06:00:00:00:00:01", prefixes(0))
	added, err := r.AddPrefix(ctx, control.PrefixRequest{Instance: "i-1", Length: 64})
	if err != nil || added.Prefix.Bits() != 64 {
		t.Fatalf("AddPrefix = %+v, %v", added, err)
	}
	if _, err := r.AddPrefix(ctx, control.PrefixRequest{Instance: "i-1", Length: 60}); sixacre.CodeOf(err) != sixacre.Invalid {
		t.Errorf("a /60 where no pool has one: %v", err)
	}
	i, err := r.Instance(ctx, "i-1")
	if err != nil || fmt.Sprint(i.NICs[0].Prefixes) != fmt.Sprintf("[%s]", added.Prefix) {
		t.Fatalf("instance %+v, %v", i, err)
	}
	for _, query := range []string{added.Prefix.String(), added.Prefix.Addr().Next().String(), "06:00:00:00:00:01", i.NICs[0].Address.String()} {
		if h, err := r.Whois(ctx, query, ""); err != nil || h.Instance != "i-1" {
			t.Errorf("Whois(%s) = %+v, %v", query, h, err)
		}
	}
	if err := r.ReleasePrefix(ctx, added.Prefix); err != nil {
		t.Fatal(err)
	}
	if i, err := r.Instance(ctx, "i-1"); err != nil || len(i.NICs[0].Prefixes) != 0 {
		t.Errorf("after the release: %+v, %v", i, err)
	}
	if h, err := r.Whois(ctx, added.Prefix.String(), "pod2"); err != nil || h.State != sixacre.Quarantined {
		t.Errorf("Whois of a released prefix = %+v, %v; want its last holder, in quarantine", h, err)
	}
	if err := r.ReleasePrefix(ctx, added.Prefix); sixacre.CodeOf(err) != sixacre.Conflict {
		t.Errorf("released twice: %v", err)
	}
}

// The prefix that is named is not picked as another one of the same instance.
func TestDeployNamedAndPicked(t *testing.T) {
	r := newRecord(t)
	r.pod(sixacre.Pod{
		Name: "small", LinkPrefix: netip.MustParsePrefix("2001:db8:100:3::/64"),
		Pools: []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:9000::/59"), DelegatedLength: 64}},
	})
	n := r.mustDeploy("i-1", "small", "06:00:00:00:00:01", exactly("2001:db8:9000:2::/64"), prefixes(31))
	slices.SortFunc(n.Prefixes, netip.Prefix.Compare)
	if got := slices.Compact(n.Prefixes); len(got) != 32 {
		t.Errorf("prefixes %v, want all 32 of the pool", got)
	}
}

// The largest instance that is said to be possible is, from its deployment until
// it is retired, whatever happened to it.
func TestDeployManyNICs(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	p := dhcpv6()
	p.Pools[0].DelegatedLength = 60
	r.pod(p)
	if _, err := r.CreateHost(t.Context(), sixacre.Host{Name: "hv1"}); err != nil {
		t.Fatal(err)
	}
	for pod, most := range map[string]int{"pod1": 24, "pod2": 16} {
		d := control.Deployment{Name: "i-1"}
		for i := range most {
			d.NICs = append(d.NICs, control.NICDeployment{NIC: sixacre.NIC{Pod: pod, Host: "hv1", MAC: sixacre.MAC{6, 0, 0, 0, 0, byte(i)}}})
		}
		made, err := r.Deploy(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range made.NICs {
			r.sight(r.glimpse(pod, n.MAC, "decline", declines(n.Address)))
		}
		if err := r.Retire(t.Context(), "i-1"); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []sixacre.Kind{sixacre.KindClaim, sixacre.KindSighting} {
			if left, _, err := r.store.List(t.Context(), kind, ""); err != nil || len(left) != 0 {
				t.Errorf("%d %s are left over, %v", len(left), kind, err)
			}
		}
		d.NICs = append(d.NICs, control.NICDeployment{NIC: sixacre.NIC{Pod: pod, MAC: sixacre.MAC{6, 0, 0, 0, 1, 0}}})
		if _, err := r.Deploy(t.Context(), d); sixacre.CodeOf(err) != sixacre.Invalid {
			t.Errorf("%d NICs: %v, want a refusal", most+1, err)
		}
	}
}

// A move to where it is already changes nothing.
func TestMoveToTheSameHost(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	for _, name := range []string{"hv1", "hv2"} {
		if _, err := r.CreateHost(t.Context(), sixacre.Host{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01", func(n *control.NICDeployment) { n.Host, n.Device = "hv1", "tap1" })
	for _, c := range []struct{ host, device string }{{"hv1", "tap1"}, {"hv2", ""}} {
		if err := r.Move(t.Context(), "i-1", control.Move{Host: c.host}); err != nil {
			t.Fatal(err)
		}
		if i, err := r.Instance(t.Context(), "i-1"); err != nil || i.NICs[0].Device != c.device {
			t.Errorf("moved to %s: %+v, %v; want device %q", c.host, i, err, c.device)
		}
	}
}

// An instance may have the same MAC in two pods: then the pod says which NIC.
func TestTheSameMACInTwoPods(t *testing.T) {
	r := newRecord(t)
	ctx := t.Context()
	r.pod(slaac())
	r.pod(dhcpv6())
	if _, err := r.CreateHost(ctx, sixacre.Host{Name: "hv1"}); err != nil {
		t.Fatal(err)
	}
	mac := sixacre.MAC{6, 0, 0, 0, 0, 1}
	none := 0
	if _, err := r.Deploy(ctx, control.Deployment{Name: "i-1", NICs: []control.NICDeployment{
		{NIC: sixacre.NIC{Pod: "pod1", MAC: mac}, PrefixCount: &none}, {NIC: sixacre.NIC{Pod: "pod2", MAC: mac}, PrefixCount: &none},
	}}); err != nil {
		t.Fatal(err)
	}
	for _, m := range []control.Move{{Host: "hv1"}, {Host: "hv1", MAC: mac}} {
		if err := r.Move(ctx, "i-1", m); sixacre.CodeOf(err) != sixacre.Invalid {
			t.Errorf("%+v: %v, want a refusal", m, err)
		}
		if _, err := r.AddPrefix(ctx, control.PrefixRequest{Instance: "i-1", MAC: m.MAC}); sixacre.CodeOf(err) != sixacre.Invalid {
			t.Errorf("a prefix for %v: %v, want a refusal", m.MAC, err)
		}
	}
	if err := r.Move(ctx, "i-1", control.Move{Host: "hv1", MAC: mac, Pod: "pod3"}); sixacre.CodeOf(err) != sixacre.NotFound {
		t.Errorf("in a pod that it is not on: %v", err)
	}
	if err := r.Move(ctx, "i-1", control.Move{Host: "hv1", MAC: mac, Pod: "pod2"}); err != nil {
		t.Fatal(err)
	}
	if d, err := r.AddPrefix(ctx, control.PrefixRequest{Instance: "i-1", Pod: "pod2"}); err != nil || d.Pod != "pod2" {
		t.Errorf("delegated %+v, %v; want one to the NIC on pod2", d, err)
	}
	i, err := r.Instance(ctx, "i-1")
	if err != nil || i.NICs[0].Host != "" || i.NICs[1].Host != "hv1" || len(i.NICs[0].Prefixes) != 0 || len(i.NICs[1].Prefixes) != 1 {
		t.Errorf("%+v, %v; want only the NIC on pod2 changed", i, err)
	}
}

// What is listed is complete, although pods and instances come and go meanwhile.
func TestInstancesAreListedComplete(t *testing.T) {
	r := newRecord(t)
	ctx := t.Context()
	done := make(chan struct{})
	defer func() { <-done }()
	go func() {
		defer close(done)
		for range 50 {
			if _, err := r.CreatePod(ctx, slaac()); err != nil {
				t.Error(err)
				return
			}
			if _, err := r.deploy("i-1", "pod1", "06:00:00:00:00:01", prefixes(0)); err != nil {
				t.Error(err)
				return
			}
			if err := r.Retire(ctx, "i-1"); err != nil {
				t.Error(err)
				return
			}
			if err := r.DeletePod(ctx, "pod1"); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for {
		instances, err := r.Instances(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range instances {
			if !i.NICs[0].Address.IsValid() {
				t.Fatalf("listed without its address: %+v", i)
			}
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
