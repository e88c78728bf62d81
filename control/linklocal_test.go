package control_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/control"
)

// on places a NIC on a host.
func on(host, device string) func(*control.NICDeployment) {
	return func(n *control.NICDeployment) { n.Host, n.Device = host, device }
}

func (r *record) hosts(names ...string) {
	r.t.Helper()
	for _, name := range names {
		if _, err := r.CreateHost(r.t.Context(), sixacre.Host{Name: name}); err != nil {
			r.t.Fatal(err)
		}
	}
}

// learn asks for a link-local address of a NIC of hv1.
func (r *record) learn(n sixacre.NIC, address string) error {
	return r.LearnLinkLocal(r.t.Context(), "hv1", sixacre.LinkLocalRequest{Pod: n.Pod, MAC: n.MAC, Address: netip.MustParseAddr(address)})
}

// learned returns the learned link-local address of an instance's first NIC.
func (r *record) learned(instance string) string {
	r.t.Helper()
	i, err := r.Instance(r.t.Context(), instance)
	if err != nil {
		r.t.Fatal(err)
	}
	if a := i.NICs[0].LearnedLinkLocal; a.IsValid() {
		return a.String()
	}
	return ""
}

// claims returns how many claims the store holds.
func (r *record) claims() int {
	r.t.Helper()
	all, _, err := r.store.List(r.t.Context(), sixacre.KindClaim, "")
	if err != nil {
		r.t.Fatal(err)
	}
	return len(all)
}

func TestLearnLinkLocal(t *testing.T) {
	r := newRecord(t)
	ctx := t.Context()
	r.hosts("hv1", "hv2")
	r.pod(slaac())
	unsaid := slaac()
	unsaid.Name, unsaid.LinkPrefix, unsaid.Pools, unsaid.RouterLinkLocals = "unsaid", netip.MustParsePrefix("2001:db8:100:9::/64"), nil, nil
	r.pod(unsaid)
	if err := r.learn(r.mustDeploy("i-9", "unsaid", "06:00:00:00:00:09", on("hv1", "")), "fe80::7217"); sixacre.CodeOf(err) != sixacre.Conflict || !strings.Contains(err.Error(), "--router-link-local") {
		t.Errorf("in a pod that names no routers: %v", err)
	}
	r.pod(dhcpv6())
	first := r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01", on("hv1", ""))
	second := r.mustDeploy("i-2", "pod1", "06:00:00:00:00:02", on("hv1", ""))
	elsewhere := r.mustDeploy("i-3", "pod1", "06:00:00:00:00:03", on("hv2", ""))
	off := r.mustDeploy("i-4", "pod1", "06:00:00:00:00:04", on("hv1", ""), func(n *control.NICDeployment) { n.State = sixacre.Stopped })
	other := r.mustDeploy("i-5", "pod2", "06:00:00:00:00:02", on("hv1", ""))

	stranger := first
	stranger.MAC[5] = 0x99
	for _, c := range []struct {
		what    string
		nic     sixacre.NIC
		address string
		want    sixacre.Code
	}{
		{"a global address", first, "2001:db8:100:1::5", sixacre.Invalid},
		{"an address of fe80::/10 that is not of fe80::/64", first, "fe80:0:0:1::5", sixacre.Invalid},
		{"a multicast address", first, "ff02::1", sixacre.Invalid},
		{"one with a zone", first, "fe80::5%eth0", sixacre.Invalid},
		{"the subnet-router anycast address", first, "fe80::", sixacre.Invalid},
		{"an IPv4 address", first, "169.254.0.1", sixacre.Invalid},
		{"the router's", first, "fe80::1", sixacre.Conflict},
		{"another NIC's predicted one", first, "fe80::400:ff:fe00:2", sixacre.Conflict},
		{"for a NIC on another host", elsewhere, "fe80::5", sixacre.Denied},
		{"for a NIC that is stopped", off, "fe80::5", sixacre.Denied},
		{"for no NIC", stranger, "fe80::5", sixacre.Denied},
	} {
		if err := r.learn(c.nic, c.address); sixacre.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %s", c.what, err, c.want)
		}
	}
	before := r.revision()
	if err := r.learn(first, first.LinkLocal.String()); err != nil || r.revision() != before {
		t.Errorf("its own predicted one: %v, revision %d after %d", err, r.revision(), before)
	}

	if err := r.learn(first, "fe80::7217"); err != nil {
		t.Fatal(err)
	}
	if got := r.learned("i-1"); got != "fe80::7217" {
		t.Errorf("learned %q", got)
	}
	if err := r.learn(second, "fe80::7217"); sixacre.CodeOf(err) != sixacre.Conflict || strings.Contains(err.Error(), "i-1") {
		t.Errorf("another NIC's learned one: %v, want a refusal that does not tell a host whose", err)
	}
	if err := r.learn(other, "fe80::7217"); err != nil {
		t.Errorf("another pod's is another link's: %v", err)
	}
	before = r.revision()
	if err := r.learn(first, "fe80::7217"); err != nil || r.revision() != before {
		t.Errorf("what it has: %v, revision %d after %d", err, r.revision(), before)
	}

	// It stays with the NIC where that moves, and goes with it.
	if err := r.Move(ctx, "i-1", control.Move{Host: "hv2"}); err != nil {
		t.Fatal(err)
	}
	if got := r.learned("i-1"); got != "fe80::7217" {
		t.Errorf("after a move it has %q", got)
	}
	if err := r.learn(first, "fe80::7218"); sixacre.CodeOf(err) != sixacre.Denied {
		t.Errorf("of the host that it left: %v", err)
	}
	if err := r.Retire(ctx, "i-1"); err != nil {
		t.Fatal(err)
	}
	if err := r.learn(second, "fe80::7217"); err != nil {
		t.Errorf("that of a NIC that is gone: %v", err)
	}
	// What a client sends as learned is not believed.
	n := r.mustDeploy("i-6", "pod1", "06:00:00:00:00:06", func(n *control.NICDeployment) { n.LearnedLinkLocal = netip.MustParseAddr("fe80::7217") })
	if n.LearnedLinkLocal.IsValid() || r.learned("i-6") != "" {
		t.Errorf("deployed with %s", n.LearnedLinkLocal)
	}
}

func TestLinkLocalChangesSeldom(t *testing.T) {
	r := newRecord(t)
	r.hosts("hv1")
	r.pod(slaac())
	n := r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01", on("hv1", ""))
	tick := func(passed time.Duration) {
		t.Helper()
		r.pass(passed, passed)
		if err := r.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	tick(0)
	if err := r.learn(n, "fe80::1:1"); err != nil {
		t.Fatal(err)
	}
	tick(10*time.Minute - time.Second)
	err := r.learn(n, "fe80::1:2")
	if sixacre.CodeOf(err) != sixacre.Conflict || !strings.Contains(err.Error(), "fe80::1:2") || !strings.Contains(err.Error(), "fe80::1:1") {
		t.Errorf("a second one at once: %v", err)
	}
	// The wall clock alone makes no time pass.
	r.pass(time.Hour, 0)
	if err := r.learn(n, "fe80::1:2"); sixacre.CodeOf(err) != sixacre.Conflict {
		t.Errorf("after the wall clock jumped: %v", err)
	}
	tick(time.Second)
	if err := r.learn(n, "fe80::1:2"); err != nil {
		t.Errorf("after ten minutes: %v", err)
	}
	if err := r.LearnLinkLocal(t.Context(), "hv1", sixacre.LinkLocalRequest{
		Pod: "pod1", MAC: n.MAC, Address: netip.MustParseAddr("fe80::1:3"), NewTap: true,
	}); err != nil {
		t.Errorf("with a new tap: %v", err)
	}
	if got := r.learned("i-1"); got != "fe80::1:3" {
		t.Errorf("it has %s", got)
	}
	if got := r.claims(); got != 2 {
		t.Errorf("%d claims, want those of the MAC and of the last link-local alone", got)
	}
}

// The predicted link-local of a new NIC is nobody else's any more, however many
// are evicted at once.
func TestDeploymentEvictsLearnedLinkLocals(t *testing.T) {
	r := newRecord(t)
	r.hosts("hv1")
	r.pod(slaac())
	const most = 24 // NICs of one instance
	new := control.Deployment{Name: "new"}
	for k := range most {
		mac := sixacre.MAC{6, 0, 0, 0, 2, byte(k)}
		n := r.mustDeploy(fmt.Sprintf("i-%d", k), "pod1", fmt.Sprintf("06:00:00:00:01:%02x", k), on("hv1", ""))
		if err := r.learn(n, addr.LinkLocal(mac).String()); err != nil {
			t.Fatal(err)
		}
		new.NICs = append(new.NICs, control.NICDeployment{NIC: sixacre.NIC{Pod: "pod1", MAC: mac}})
	}
	views := r.follow(control.Scope{Host: "hv1"})
	until(t, views, "what was learned", func(v sixacre.View) bool {
		return len(v.Instances) == most && v.Instances[most-1].NICs[0].LearnedLinkLocal.IsValid()
	})
	if _, err := r.Deploy(t.Context(), new); err != nil {
		t.Fatal(err)
	}
	v := until(t, views, "the eviction", func(v sixacre.View) bool { return !v.Instances[0].NICs[0].LearnedLinkLocal.IsValid() })
	for _, i := range v.Instances {
		if a := i.NICs[0].LearnedLinkLocal; a.IsValid() {
			t.Errorf("%s still has %s", i.Name, a)
		}
	}
	if got := r.claims(); got != 2*most {
		t.Errorf("%d claims, want those of the %d MACs", got, 2*most)
	}
}

// One instance may lose several at once.
func TestEvictionOfSeveralNICsOfOneInstance(t *testing.T) {
	r := newRecord(t)
	r.hosts("hv1")
	r.pod(slaac())
	macs := func(last byte) (nics []control.NICDeployment) {
		for k := range byte(2) {
			nics = append(nics, control.NICDeployment{NIC: sixacre.NIC{Pod: "pod1", Host: "hv1", MAC: sixacre.MAC{6, 0, 0, 0, last, k}}})
		}
		return nics
	}
	old, err := r.Deploy(t.Context(), control.Deployment{Name: "old", NICs: macs(1)})
	if err != nil {
		t.Fatal(err)
	}
	for k, n := range old.NICs {
		if err := r.learn(n, addr.LinkLocal(sixacre.MAC{6, 0, 0, 0, 2, byte(k)}).String()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Deploy(t.Context(), control.Deployment{Name: "new", NICs: macs(2)}); err != nil {
		t.Fatal(err)
	}
	i, err := r.Instance(t.Context(), "old")
	if err != nil || i.NICs[0].LearnedLinkLocal.IsValid() || i.NICs[1].LearnedLinkLocal.IsValid() {
		t.Errorf("%+v %v", i, err)
	}
}

// A router hears of it, whois finds it, and leasequery's HolderOf too.
func TestLearnedLinkLocalIsShown(t *testing.T) {
	r := newRecord(t)
	r.hosts("hv1")
	r.pod(slaac())
	r.pod(dhcpv6())
	n := r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01", on("hv1", ""))
	r.mustDeploy("i-2", "pod2", "06:00:00:00:00:01", on("hv1", ""))
	routers := r.follow(control.Scope{Pod: "pod1"})
	until(t, routers, "the instance", func(v sixacre.View) bool { return len(v.Instances) == 1 })
	if err := r.learn(n, "fe80::7217"); err != nil {
		t.Fatal(err)
	}
	until(t, routers, "the learned link-local", func(v sixacre.View) bool {
		return v.Instances[0].NICs[0].LearnedLinkLocal == netip.MustParseAddr("fe80::7217")
	})
	for _, c := range []struct {
		query, pod, want string
		code             sixacre.Code
	}{
		{"fe80::7217", "", "i-1", ""},
		{"fe80::400:ff:fe00:1", "pod1", "i-1", ""},
		{"fe80::400:ff:fe00:1", "pod2", "i-2", ""},
		{"fe80::400:ff:fe00:1", "", "", sixacre.Conflict},
		{"fe80::7218", "", "", sixacre.NotFound},
		{"fe80::400:ff:fe00:9", "", "", sixacre.NotFound},
	} {
		h, err := r.Whois(t.Context(), c.query, c.pod)
		if h.Instance != c.want || sixacre.CodeOf(err) != c.code {
			t.Errorf("whois %s in %q: %+v %v", c.query, c.pod, h, err)
		}
	}
	pod, err := r.Pod(t.Context(), "pod1")
	if err != nil {
		t.Fatal(err)
	}
	if mac, held, err := r.HolderOf(t.Context(), pod, netip.MustParseAddr("fe80::7217")); err != nil || !held || mac != n.MAC {
		t.Errorf("%s %v %v", mac, held, err)
	}
}

func TestDeviceIsOneRunningNICs(t *testing.T) {
	r := newRecord(t)
	ctx := t.Context()
	r.hosts("hv1", "hv2")
	r.pod(slaac())
	stopped := func(n *control.NICDeployment) { n.State = sixacre.Stopped }
	r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01", on("hv1", "tap1"))
	_, err := r.deploy("i-2", "pod1", "06:00:00:00:00:02", on("hv1", "tap1"))
	if sixacre.CodeOf(err) != sixacre.Conflict || !strings.Contains(err.Error(), "tap1") || !strings.Contains(err.Error(), "i-1") {
		t.Errorf("a second NIC on the tap: %v", err)
	}
	r.mustDeploy("i-3", "pod1", "06:00:00:00:00:03", on("hv2", "tap1"))
	r.mustDeploy("i-4", "pod1", "06:00:00:00:00:04", on("hv1", "tap1"), stopped)
	r.mustDeploy("i-5", "pod1", "06:00:00:00:00:05", on("hv1", ""))
	r.mustDeploy("i-6", "pod1", "06:00:00:00:00:06", on("hv1", ""))
	nics := []control.NICDeployment{}
	for k := range byte(2) {
		nics = append(nics, control.NICDeployment{NIC: sixacre.NIC{Pod: "pod1", MAC: sixacre.MAC{6, 0, 0, 0, 1, k}, Host: "hv1", Device: "tap7"}})
	}
	if _, err := r.Deploy(ctx, control.Deployment{Name: "i-7", NICs: nics}); sixacre.CodeOf(err) != sixacre.Conflict {
		t.Errorf("two NICs of one instance: %v", err)
	}

	// A stopped one does not free what a running one has; that one does.
	for _, c := range []struct {
		what string
		do   func() error
		free bool
	}{
		{"a stopped NIC is retired", func() error { return r.Retire(ctx, "i-4") }, false},
		{"one on another host is", func() error { return r.Retire(ctx, "i-3") }, false},
		{"it moves", func() error { return r.Move(ctx, "i-1", control.Move{Host: "hv2"}) }, true},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.deploy("i-8", "pod1", "06:00:00:00:00:08", on("hv1", "tap1")); (err == nil) != c.free {
			t.Errorf("after %s: %v", c.what, err)
		}
	}
	if err := r.Retire(ctx, "i-8"); err != nil {
		t.Fatal(err)
	}
	r.mustDeploy("i-9", "pod1", "06:00:00:00:00:09", on("hv1", "tap1"))
}
