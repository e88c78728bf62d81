package control_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/control"
)

var (
	relay1 = netip.MustParseAddr("2001:db8:100:1::1")
	relay2 = netip.MustParseAddr("2001:db8:ffff::1")
)

// glimpse is one of a NIC's client, of now.
func (r *record) glimpse(pod string, mac sixacre.MAC, message string, change ...func(*sixacre.Glimpse)) sixacre.Glimpse {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := sixacre.Glimpse{
		Pod: pod, MAC: mac, Time: r.time, Message: message,
		DUID: sixacre.DUID{0, 3, 0, 1, 6, 0, 0, 0, 0, 1}, Relay: relay1, Peer: netip.MustParseAddr("fe80::1"),
		Link: netip.MustParseAddr("2001:db8:100:1::1"), InterfaceID: sixacre.Octets("eth0"),
	}
	for _, f := range change {
		f(&g)
	}
	return g
}

func effect(e sixacre.Effect) func(*sixacre.Glimpse) {
	return func(g *sixacre.Glimpse) { g.Effect = e }
}

func declines(a netip.Addr) func(*sixacre.Glimpse) {
	return func(g *sixacre.Glimpse) { g.Effect, g.Declined = sixacre.Declines, a }
}

func (r *record) sight(seen ...sixacre.Glimpse) {
	r.t.Helper()
	if err := r.Sight(r.t.Context(), seen); err != nil {
		r.t.Fatal(err)
	}
}

// sighting returns the only one of an instance.
func (r *record) sighting(instance string) sixacre.Sighting {
	r.t.Helper()
	s, err := r.Sightings(r.t.Context(), instance)
	if err != nil || len(s) != 1 {
		r.t.Fatalf("sightings of %s: %v, %v; want one", instance, s, err)
	}
	return s[0]
}

func TestSighting(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	n := r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01")
	if s, err := r.Sightings(t.Context(), "i-1"); err != nil || s == nil || len(s) != 0 {
		t.Fatalf("before anything was seen: %v, %v", s, err)
	}
	r.sight(r.glimpse("pod1", n.MAC, "solicit"), r.glimpse("pod1", n.MAC, "request", effect(sixacre.Binds)))
	s := r.sighting("i-1")
	if s.Message != "solicit" && s.Message != "request" || !s.Time.Equal(r.time) || !s.Bound.Equal(r.time) || s.DUID.String() != "00030001060000000001" ||
		len(s.Paths) != 1 || s.Paths[0].Relay != relay1 {
		t.Errorf("seen: %+v", s)
	}

	t.Run("mere times that are near are not written", func(t *testing.T) {
		before := r.revision()
		r.pass(time.Second, 0)
		r.sight(r.glimpse("pod1", n.MAC, s.Message, effect(sixacre.Binds)))
		if r.revision() != before {
			t.Error("a time one second later was written")
		}
		r.pass(10*time.Minute, 0)
		r.sight(sixacre.Glimpse{Pod: "pod1", MAC: n.MAC, Time: r.time, Message: "renew", Effect: sixacre.Binds})
		if s := r.sighting("i-1"); !s.Time.Equal(r.time) || !s.Bound.Equal(r.time) || s.Message != "renew" || s.DUID == nil || len(s.Paths) != 1 {
			t.Errorf("after ten minutes: %+v", s)
		}
	})
	t.Run("news of the same second is", func(t *testing.T) {
		r.sight(r.glimpse("pod1", n.MAC, "renew", func(g *sixacre.Glimpse) { g.Relay = relay2 }))
		if s := r.sighting("i-1"); len(s.Paths) != 2 || s.Paths[0].Relay != relay2 {
			t.Errorf("by way of another relay: %+v", s)
		}
		r.pass(time.Millisecond, 0)
		r.sight(r.glimpse("pod1", n.MAC, "renew", func(g *sixacre.Glimpse) { g.InterfaceID = sixacre.Octets("eth1") }))
		if s := r.sighting("i-1"); s.Paths[0].InterfaceID.String() != "65746831" || s.Paths[0].Link.String() != "2001:db8:100:1::1" {
			t.Errorf("on another interface: %+v", s)
		}
		r.pass(time.Millisecond, 0)
		r.sight(r.glimpse("pod1", n.MAC, "renew", func(g *sixacre.Glimpse) { g.Link, g.InterfaceID = netip.Addr{}, nil }))
		if s := r.sighting("i-1"); s.Paths[0].InterfaceID != nil || s.Paths[0].Link.IsValid() {
			t.Errorf("of which nothing is kept: %+v", s)
		}
		r.pass(time.Millisecond, 0)
		r.sight(r.glimpse("pod1", n.MAC, "release", effect(sixacre.Releases)))
		if s := r.sighting("i-1"); !s.Bound.IsZero() || !s.Released.Equal(r.time) {
			t.Errorf("after a release: %+v", s)
		}
	})
	t.Run("an unknown NIC leaves nothing", func(t *testing.T) {
		before := r.revision()
		r.sight(r.glimpse("pod1", sixacre.MAC{6, 0, 0, 0, 0, 2}, "solicit"), r.glimpse("pod9", n.MAC, "solicit"))
		if r.revision() != before {
			t.Error("something was written")
		}
	})
	t.Run("whois shows it", func(t *testing.T) {
		if h, err := r.Whois(t.Context(), n.Prefixes[0].String(), ""); err != nil || h.Seen == nil || h.Seen.Message != "release" {
			t.Errorf("whois: %+v, %v", h.Seen, err)
		}
	})
	t.Run("retire forgets it", func(t *testing.T) {
		if err := r.Retire(t.Context(), "i-1"); err != nil {
			t.Fatal(err)
		}
		if left, _, err := r.store.List(t.Context(), sixacre.KindSighting, ""); err != nil || len(left) != 0 {
			t.Errorf("%d are left over, %v", len(left), err)
		}
	})
}

// What a clock wrote that ran ahead does not make all later news look old.
func TestSightingAfterAClockThatRanAhead(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	n := r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01")
	const year = 365 * 24 * time.Hour
	r.pass(year, 0)
	r.sight(r.glimpse("pod1", n.MAC, "request", effect(sixacre.Binds)), r.glimpse("pod1", n.MAC, "decline", declines(n.Address)))
	r.pass(-year, 0)
	r.sight(r.glimpse("pod1", n.MAC, "release", effect(sixacre.Releases), func(g *sixacre.Glimpse) {
		g.DUID, g.Relay = sixacre.DUID{0, 4}, relay2
	}))
	s := r.sighting("i-1")
	if s.Message != "release" || !s.Time.Equal(r.time) || !s.Bound.IsZero() || s.DUID.String() != "0004" || s.Paths[0].Relay != relay2 || s.Declined.Time.After(r.time) {
		t.Errorf("after the clock was put right: %+v, %+v", s, s.Declined)
	}
	r.pass(time.Second, 0)
	r.sight(r.glimpse("pod1", n.MAC, "request", effect(sixacre.Binds)))
	if s := r.sighting("i-1"); !s.Bound.Equal(r.time) {
		t.Errorf("bound again: %+v", s)
	}
	// What came first is still known of two times that lay ahead.
	r.pass(year, 0)
	r.sight(r.glimpse("pod1", n.MAC, "release", effect(sixacre.Releases)))
	r.pass(time.Second, 0)
	r.sight(r.glimpse("pod1", n.MAC, "request", effect(sixacre.Binds)))
	r.pass(-year, 0)
	r.sight(r.glimpse("pod1", n.MAC, "confirm"))
	if s := r.sighting("i-1"); s.Bound.IsZero() || s.Bound.After(r.time) {
		t.Errorf("released, then bound, by a clock that ran ahead: %+v", s)
	}
}

// Two servers that see the same messages, in parts and order of their own, end in
// the same sightings, in transactions that an etcd with its default limits takes.
func TestSightingsOfTwoServers(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	const nics = 150
	var seen []sixacre.Glimpse
	want := map[sixacre.MAC]sixacre.Sighting{}
	for i := range nics {
		n := r.mustDeploy(fmt.Sprint("i-", i), "pod1", fmt.Sprintf("06:00:00:00:00:%02x", i), prefixes(0))
		for k, message := range []string{"solicit", "request", "renew", "release", "rebind"} {
			g := r.glimpse("pod1", n.MAC, message, effect(sixacre.Effect(k%3)), func(g *sixacre.Glimpse) {
				g.Time = g.Time.Add(-time.Duration(k) * time.Hour)
				g.Relay = []netip.Addr{relay1, relay2}[k%2]
			})
			seen = append(seen, g)
			want[n.MAC] = want[n.MAC].Merge(g)
		}
	}
	var group sync.WaitGroup
	for k, server := range []*control.Control{r.Control, r.another()} {
		mine := slices.Clone(seen)
		if k == 1 {
			slices.Reverse(mine)
		}
		group.Go(func() {
			for part := range slices.Chunk(mine, len(mine)/(1+2*k)) {
				if err := server.Sight(t.Context(), part); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	records, _, err := r.store.List(t.Context(), sixacre.KindSighting, sixacre.SightingsIn("pod1"))
	if err != nil || len(records) != nics {
		t.Fatalf("%d sightings, %v; want %d", len(records), err, nics)
	}
	for _, record := range records {
		if s := record.Noun.(sixacre.Sighting); !reflect.DeepEqual(s, want[s.MAC]) {
			t.Fatalf("%+v, want %+v", s, want[s.MAC])
		}
	}
}

// RFC 9915 section 18.3.8: an address that another on the link has is not given
// out again, and the client gets one that it can use.
func TestDecline(t *testing.T) {
	r := newRecord(t)
	ctx := t.Context()
	r.pod(dhcpv6())
	tick := func(d time.Duration) {
		t.Helper()
		r.pass(d, d)
		if err := r.Tick(ctx); err != nil {
			t.Fatal(err)
		}
	}
	tick(0)
	first := r.mustDeploy("i-1", "pod2", "06:00:00:00:00:01", address("2001:db8:100:2::42"))
	nic := func() sixacre.NIC {
		t.Helper()
		i, err := r.Instance(ctx, "i-1")
		if err != nil {
			t.Fatal(err)
		}
		return i.NICs[0]
	}
	decline := func(n sixacre.NIC) sixacre.NIC {
		t.Helper()
		r.sight(r.glimpse("pod2", n.MAC, "decline", declines(n.Address)))
		return nic()
	}

	// Only the NIC's own address can be declined.
	other := r.mustDeploy("i-9", "pod2", "06:00:00:00:00:09", address("2001:db8:100:2::43"))
	r.sight(r.glimpse("pod2", first.MAC, "decline", declines(other.Address)))
	if n := nic(); n.Address != first.Address || n.Declined.IsValid() {
		t.Fatalf("a decline of another's address made it %+v", n)
	}
	r.pass(time.Second, 0)

	second := decline(first)
	if second.Address == first.Address || !dhcpv6().LinkPrefix.Contains(second.Address) || second.Declined != first.Address {
		t.Fatalf("after a decline of %s the NIC has %+v", first.Address, second)
	}
	if d := r.sighting("i-1").Declined; d == nil || d.Address != first.Address || !d.Replaced {
		t.Errorf("the sighting tells %+v", d)
	}
	if _, err := r.deploy("i-2", "pod2", "06:00:00:00:00:02", address("2001:db8:100:2::42")); sixacre.CodeOf(err) != sixacre.Conflict || !strings.Contains(err.Error(), "declined by the client of instance i-1") {
		t.Errorf("the declined address by name: %v", err)
	}
	if h, err := r.Whois(ctx, "2001:db8:100:2::42", ""); err != nil || h.Instance != "i-1" || !h.Declined {
		t.Errorf("whois of the declined address: %+v, %v", h, err)
	}
	if h, err := r.Whois(ctx, second.Address.String(), ""); err != nil || h.Instance != "i-1" || h.Declined {
		t.Errorf("whois of the new address: %+v, %v", h, err)
	}
	if err := r.CreatePeer(ctx, sixacre.Peer{Name: "culprit", Pod: "pod2", Address: first.Address, ASN: 64512}); err != nil {
		t.Errorf("the router that has the declined address is refused: %v", err)
	}

	// The same decline by way of another relay, at another server.
	if err := r.another().Sight(ctx, []sixacre.Glimpse{r.glimpse("pod2", first.MAC, "decline", declines(first.Address))}); err != nil {
		t.Fatal(err)
	}
	if nic().Address != second.Address || !r.sighting("i-1").Declined.Replaced {
		t.Errorf("the same decline gave another address, %s, or was forgotten", nic().Address)
	}

	// The next is replaced after a valid lifetime of the store's time, which no
	// wall clock shortens.
	const lifetime = 12 * time.Hour
	tick(lifetime - time.Minute)
	r.pass(1000*time.Hour, 0)
	if again := decline(second); again.Address != second.Address {
		t.Errorf("replaced twice within a valid lifetime: %+v", again)
	}
	if d := r.sighting("i-1").Declined; d.Address != second.Address || d.Replaced {
		t.Errorf("a decline that changed nothing is told as %+v", d)
	}
	tick(time.Minute)
	third := decline(second)
	if third.Address == second.Address || third.Declined != second.Address {
		t.Fatalf("after a valid lifetime: %+v", third)
	}
	if err := r.DeletePeer(ctx, "culprit"); err != nil {
		t.Fatal(err)
	}
	r.mustEventually(func() bool { // the peer's address is known by watch
		_, err := r.deploy("i-2", "pod2", "06:00:00:00:00:02", address(first.Address.String()))
		return err == nil
	})
	for _, name := range []string{"i-1", "i-2", "i-9"} {
		if err := r.Retire(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []sixacre.Kind{sixacre.KindClaim, sixacre.KindSighting} {
		if left, _, err := r.store.List(ctx, kind, ""); err != nil || len(left) != 0 {
			t.Errorf("%d %s are left over, %v", len(left), kind, err)
		}
	}
}

// In a slaac pod the guest makes its address of its MAC: nothing could replace it.
func TestDeclineInASLAACPod(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	n := r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01")
	r.sight(r.glimpse("pod1", n.MAC, "decline", declines(n.Address)))
	if d := r.sighting("i-1").Declined; d == nil || d.Address != n.Address || d.Replaced || !d.Time.Equal(r.time) {
		t.Errorf("the sighting tells %+v", d)
	}
	if i, err := r.Instance(t.Context(), "i-1"); err != nil || !reflect.DeepEqual(i.NICs[0], n) {
		t.Errorf("the NIC was changed to %+v", i.NICs[0])
	}
	before := r.revision()
	r.pass(time.Second, 0)
	r.sight(r.glimpse("pod1", n.MAC, "decline", declines(n.Address)))
	if r.revision() != before {
		t.Error("the same one second later was written")
	}
}

// Declines at several servers at once give one new address, and none is lost.
func TestDeclinesAtOnce(t *testing.T) {
	r := newRecord(t)
	ctx := t.Context()
	r.pod(dhcpv6())
	other := r.another()
	for round := range 10 {
		mac := sixacre.MAC{6, 0, 0, 0, 0, byte(round)}
		name := fmt.Sprint("i-", round)
		n := r.mustDeploy(name, "pod2", mac.String(), prefixes(0))
		var group sync.WaitGroup
		for _, c := range []*control.Control{r.Control, other, r.Control} {
			group.Go(func() {
				if err := c.Sight(ctx, []sixacre.Glimpse{r.glimpse("pod2", mac, "decline", declines(n.Address))}); err != nil {
					t.Error(err)
				}
			})
		}
		group.Go(func() {
			if round%2 == 0 {
				if err := r.Retire(ctx, name); err != nil {
					t.Error(err)
				}
			}
		})
		group.Wait()
		i, err := r.Instance(ctx, name)
		if round%2 == 0 {
			if sixacre.CodeOf(err) != sixacre.NotFound {
				t.Fatal(i, err)
			}
			continue
		}
		if err != nil || i.NICs[0].Declined != n.Address {
			t.Fatal(i, err)
		}
	}
	claims, _, err := r.store.List(ctx, sixacre.KindClaim, "address/")
	if err != nil || len(claims) != 10 {
		t.Errorf("%d addresses are claimed, %v; want two of each of 5 instances", len(claims), err)
	}
	if seen, _, err := r.store.List(ctx, sixacre.KindSighting, ""); err != nil || len(seen) != 5 {
		t.Errorf("%d sightings, %v; want one of each of 5 instances", len(seen), err)
	}
}
