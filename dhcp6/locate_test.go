package dhcp6_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

var linkLocal = netip.MustParseAddr("fe80::7")

// locateSlowly is whom a chain of senders, outermost first, speaks for: asked of
// one pod after the other.
func locateSlowly(pods []sixacre.Pod, guests, senders []netip.Addr, link netip.Addr, id string) (int, dhcp6.Reason) {
	for i, s := range senders {
		named := slices.ContainsFunc(pods, func(p sixacre.Pod) bool { return slices.Contains(p.Relays, s) })
		switch {
		case !named && i == 0:
			return 0, dhcp6.UntrustedRelay
		case !named:
			return 0, dhcp6.ForgedRelay
		case slices.Contains(guests, s):
			return 0, dhcp6.GuestAsRelay
		}
	}
	var vouched, seen, named []int
	for n, pod := range pods {
		if slices.ContainsFunc(senders, func(s netip.Addr) bool { return !slices.Contains(pod.Relays, s) }) {
			continue
		}
		vouched = append(vouched, n)
		isNamed := slices.Contains(pod.InterfaceIDs, id)
		if isNamed {
			named = append(named, n)
		}
		if noLink := link == netip.IPv6Unspecified() || link == linkLocal; noLink && isNamed || !noLink && pod.LinkPrefix.Contains(link) {
			seen = append(seen, n)
		}
	}
	switch {
	case len(vouched) == 0:
		return 0, dhcp6.ForgedRelay
	case len(seen) == 0:
		return 0, dhcp6.UnknownLink
	case len(seen) > 1, len(named) > 0 && !slices.Contains(named, seen[0]):
		return 0, dhcp6.AmbiguousPod
	}
	return seen[0], dhcp6.Answered
}

func TestLocateAgainstASlowTwin(t *testing.T) {
	addresses := []netip.Addr{}
	for i := range 5 {
		addresses = append(addresses, netip.MustParseAddr(fmt.Sprintf("2001:db8:ffff::%d", i)))
	}
	ids := []string{"", "a", "b", "c"}
	link := func(n int) string { return fmt.Sprintf("2001:db8:100:%d::", n) }
	outcomes := map[dhcp6.Reason]int{}
	try := func(rt *rapid.T) {
		some := func(label string, of int) []int {
			return rapid.SliceOfNDistinct(rapid.IntRange(0, of-1), 0, of, rapid.ID[int]).Draw(rt, label)
		}
		var pods []sixacre.Pod
		for i := range rapid.IntRange(1, 4).Draw(rt, "pods") {
			pod := sixacre.Pod{Name: fmt.Sprint("pod", i), LinkPrefix: netip.MustParsePrefix(link(rapid.IntRange(0, 2).Draw(rt, "link")) + "/64")}
			for _, k := range some("relays", len(addresses)) {
				pod.Relays = append(pod.Relays, addresses[k])
			}
			for _, k := range some("interface-ids", len(ids)-1) {
				pod.InterfaceIDs = append(pod.InterfaceIDs, ids[k+1])
			}
			pods = append(pods, pod.WithDefaults())
		}
		var guests []netip.Addr
		if rapid.IntRange(0, 2).Draw(rt, "is a guest") == 0 {
			guests = addresses[:1]
		}
		var senders []netip.Addr
		for range rapid.IntRange(1, 3).Draw(rt, "levels") {
			senders = append(senders, rapid.SampledFrom(addresses).Draw(rt, "sender"))
		}
		seen := netip.IPv6Unspecified()
		switch n := rapid.IntRange(0, 4).Draw(rt, "link-address"); n {
		case 3: // none
		case 4:
			seen = linkLocal
		default:
			seen = netip.MustParseAddr(link(n) + "1")
		}
		id := rapid.SampledFrom(ids).Draw(rt, "interface-id")

		var lines []string
		for _, s := range senders[1:] {
			lines = append(lines, fmt.Sprintf("relay-forward link=:: peer=%s", s))
		}
		innermost := fmt.Sprintf("relay-forward link=%s peer=fe80::1 link-layer=06:00:00:00:00:01", seen)
		if id != "" {
			innermost += " interface-id=" + id
		}
		payload, _ := encode(t, append(lines, innermost, "solicit client=000401"))
		var q dhcp6.Query
		if why := q.Parse(payload); why != dhcp6.Answered {
			rt.Fatal(why)
		}
		directory := dhcp6.NewPods(pods, func(a netip.Addr) bool { return slices.Contains(guests, a) })
		client, why := directory.Locate(&q, senders[0])
		n, want := locateSlowly(pods, guests, senders, seen, id)
		if why != want || client.N != n || want == dhcp6.Answered && client.Pod.Name != pods[n].Name {
			rt.Errorf("%s: pod %d, %s, expected pod %d, %s", strings.Join(lines, "\n"), client.N, why, n, want)
		}
		outcomes[want]++
	}
	for range 20 {
		rapid.Check(t, try)
	}
	for _, why := range []dhcp6.Reason{dhcp6.Answered, dhcp6.UntrustedRelay, dhcp6.ForgedRelay, dhcp6.GuestAsRelay, dhcp6.UnknownLink, dhcp6.AmbiguousPod} {
		if outcomes[why] == 0 {
			t.Errorf("%s never came out", why)
		}
	}
}
