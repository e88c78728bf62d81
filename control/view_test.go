package control_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/control"
)

// follow returns what a follower has made of all that it was sent, each time.
func (r *record) follow(scope control.Scope) <-chan sixacre.View {
	views := make(chan sixacre.View)
	ctx, cancel := context.WithCancel(r.t.Context())
	ended := make(chan struct{})
	r.t.Cleanup(func() { cancel(); <-ended })
	go func() {
		defer close(ended)
		var view sixacre.View
		r.views.Follow(ctx, scope, func(change sixacre.View) error {
			view = view.Merge(change)
			select {
			case views <- view:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return views
}

// until reads views until one is as wanted.
func until(t *testing.T, views <-chan sixacre.View, what string, ok func(sixacre.View) bool) sixacre.View {
	t.Helper()
	deadline := time.After(10 * time.Second)
	var last sixacre.View
	for {
		select {
		case last = <-views:
			if ok(last) {
				return last
			}
		case <-deadline:
			t.Fatalf("%s: not within ten seconds; the last view was %+v", what, last)
		}
	}
}

func names[T sixacre.Noun](nouns []T) string {
	var all []string
	for _, n := range nouns {
		all = append(all, n.Key().Name)
	}
	return strings.Join(all, ",")
}

func TestAHostSeesItsOwnAndWhatItsFilterNeeds(t *testing.T) {
	r := newRecord(t)
	ctx := t.Context()
	r.pod(slaac())
	r.pod(dhcpv6())
	for _, h := range []string{"hv1", "hv2"} {
		if _, err := r.CreateHost(ctx, sixacre.Host{Name: h}); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range []string{"web", "app", "other"} {
		if _, err := r.CreateGroup(ctx, sixacre.Group{Name: g}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.AddRule(ctx, "web", sixacre.Rule{Direction: sixacre.In, Protocol: sixacre.TCP, Remote: sixacre.Remote{Group: "app"}}); err != nil {
		t.Fatal(err)
	}
	on := func(host string, groups ...string) func(*control.NICDeployment) {
		return func(n *control.NICDeployment) { n.Host, n.Groups = host, groups }
	}
	mine := r.mustDeploy("mine", "pod1", "06:00:00:00:00:01", on("hv1", "web"))
	member := r.mustDeploy("member", "pod2", "06:00:00:00:00:02", on("hv2", "app"))
	r.mustDeploy("stranger", "pod2", "06:00:00:00:00:03", on("hv2", "other"))

	views := r.follow(control.Scope{Host: "hv1"})
	v := until(t, views, "the deployment", func(v sixacre.View) bool {
		return names(v.Instances) == "mine" && len(v.Members) == 1 && len(v.Members[0].Addresses) == 1
	})
	if got := fmt.Sprint(v.Instances[0].NICs[0]); got != fmt.Sprint(mine) {
		t.Errorf("nic %s, want the complete %v", got, mine)
	}
	if names(v.Pods) != "pod1" || names(v.Groups) != "web" || names(v.Members) != "app" {
		t.Errorf("hv1 sees pods %s, groups %s, members of %s; want only what its NIC needs", names(v.Pods), names(v.Groups), names(v.Members))
	}
	if m := v.Members[0]; m.Addresses[0] != member.Address || !slices.Equal(m.Prefixes, member.Prefixes) {
		t.Errorf("members of app %+v, want %s and %v", m, member.Address, member.Prefixes)
	}
	if text := fmt.Sprintf("%+v", v); strings.Contains(text, "stranger") || strings.Contains(text, member.MAC.String()) {
		t.Errorf("hv1 sees more than it needs: %s", text)
	}

	if p := v.Pods[0]; p.LinkPrefix != slaac().LinkPrefix || len(p.Pools) != 1 || p.AntiSpoof != sixacre.AntiSpoofAddress || p.Echo != sixacre.EchoAllow {
		t.Errorf("pod %+v, want all that the filter asks of it", p)
	}

	// What changes elsewhere, but concerns the filter, arrives.
	added, err := r.AddPrefix(ctx, control.PrefixRequest{Instance: "member", Length: 64})
	if err != nil {
		t.Fatal(err)
	}
	until(t, views, "the member's new prefix", func(v sixacre.View) bool {
		return slices.Contains(v.Members[0].Prefixes, added.Prefix)
	})
	another := r.mustDeploy("another", "pod1", "06:00:00:00:00:04", on("hv2", "app"))
	v = until(t, views, "another member", func(v sixacre.View) bool { return len(v.Members[0].Addresses) == 2 })
	if m := v.Members[0]; !slices.Contains(m.Addresses, another.Address) || !slices.Contains(m.Prefixes, another.Prefixes[0]) {
		t.Errorf("members of app %+v, want %s and %v too", m, another.Address, another.Prefixes)
	}
	if err := r.Retire(ctx, "member"); err != nil {
		t.Fatal(err)
	}
	until(t, views, "the end of a member", func(v sixacre.View) bool {
		return slices.Equal(v.Members[0].Addresses, []netip.Addr{another.Address}) && slices.Equal(v.Members[0].Prefixes, another.Prefixes)
	})
	if err := r.Move(ctx, "stranger", control.Move{Host: "hv1"}); err != nil {
		t.Fatal(err)
	}
	until(t, views, "an instance that moved here", func(v sixacre.View) bool {
		return names(v.Instances) == "mine,stranger" && names(v.Pods) == "pod1,pod2"
	})
	if err := r.Retire(ctx, "mine"); err != nil {
		t.Fatal(err)
	}
	until(t, views, "the end of mine", func(v sixacre.View) bool {
		return names(v.Instances) == "stranger" && names(v.Groups) == "other" && len(v.Members) == 0
	})
}

func TestARouterSeesItsPod(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	r.pod(dhcpv6())
	r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01")
	r.mustDeploy("i-2", "pod2", "06:00:00:00:00:02")
	views := r.follow(control.Scope{Pod: "pod1"})
	v := until(t, views, "its pod", func(v sixacre.View) bool { return names(v.Instances) == "i-1" })
	if names(v.Pods) != "pod1" || len(v.Groups)+len(v.Members) > 0 {
		t.Errorf("a router of pod1 sees %+v", v)
	}
	// The prefix is gone from the view as soon as it is released.
	if err := r.ReleasePrefix(t.Context(), v.Instances[0].NICs[0].Prefixes[0]); err != nil {
		t.Fatal(err)
	}
	until(t, views, "the release", func(v sixacre.View) bool { return len(v.Instances[0].NICs[0].Prefixes) == 0 })
}

// A follower that does not read keeps nobody waiting, and later sees the newest.
func TestASlowFollowerHoldsNobodyUp(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	slow := r.follow(control.Scope{Pod: "pod1"})
	last := netip.Prefix{}
	for i := range 50 {
		last = r.mustDeploy(fmt.Sprintf("i-%02d", i), "pod1", fmt.Sprintf("06:00:00:00:01:%02x", i)).Prefixes[0]
	}
	seen := 0
	until(t, slow, "the newest", func(v sixacre.View) bool {
		seen++
		return len(v.Instances) == 50 && v.Instances[49].NICs[0].Prefixes[0] == last
	})
	if seen > 10 {
		t.Errorf("it was sent %d views of 50 changes that it did not read", seen)
	}
}
