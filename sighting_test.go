package sixacre

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var day = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// drawGlimpse draws from so few values that times, relays and DUIDs repeat.
func drawGlimpse(t *rapid.T) Glimpse { return drawGlimpseOf(t, MaxPaths+4) }

func drawGlimpseOf(t *rapid.T, relays int) Glimpse {
	n := func(what string, most int) int { return rapid.IntRange(0, most).Draw(t, what) }
	address := func(what string, most int) netip.Addr {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 1+n(what, most)))
	}
	g := Glimpse{
		Pod: "pod1", MAC: MAC{6, 0, 0, 0, 0, 1},
		Time:    day.Add(time.Duration(n("second", 20)) * time.Second),
		Message: []string{"solicit", "request", "renew", "release"}[n("message", 3)],
		Effect:  Effect(n("effect", 3)),
	}
	if n("news", 2) > 0 {
		g.DUID = DUID{0, 4, byte(n("duid", 2))}
		g.Relay, g.Peer = address("relay", relays-1), address("peer", 1)
		if n("kept", 2) > 0 {
			g.Link, g.InterfaceID = address("link", 1), []Octets{nil, Octets("a"), Octets("b")}[n("interface", 2)]
		}
	}
	if g.Effect == Declines {
		g.Declined = address("declined", 1)
	}
	return g
}

// The dumb twin keeps all glimpses, and tells what it must from all of them.
func twin(seen []Glimpse) Sighting {
	s := Sighting{Pod: "pod1", MAC: MAC{6, 0, 0, 0, 0, 1}, Paths: []Path{}}
	seen = slices.Clone(seen)
	key := func(g Glimpse) string {
		return fmt.Sprintf("%s %s %s %s %s %s %s", g.Time.Format(time.RFC3339Nano), g.Message, g.DUID, g.Relay, g.Peer, g.Link, g.InterfaceID)
	}
	latest := func(of func(Glimpse) bool, what func(Glimpse) string) (found Glimpse, ok bool) {
		for _, g := range seen {
			if of(g) && (!ok || strings.Compare(g.Time.Format(time.RFC3339Nano)+what(g), found.Time.Format(time.RFC3339Nano)+what(found)) > 0) {
				found, ok = g, true
			}
		}
		return found, ok
	}
	slices.SortFunc(seen, func(a, b Glimpse) int { return strings.Compare(key(a), key(b)) })
	news := func(g Glimpse) bool { return len(g.DUID) > 0 }
	effect := func(e Effect) func(Glimpse) bool { return func(g Glimpse) bool { return g.Effect == e } }

	if g, ok := latest(func(Glimpse) bool { return true }, func(g Glimpse) string { return g.Message }); ok {
		s.Time, s.Message = g.Time, g.Message
	}
	if g, ok := latest(news, func(g Glimpse) string { return g.DUID.String() }); ok {
		s.DUID = g.DUID
	}
	for last := ""; len(s.Paths) < MaxPaths; {
		g, ok := latest(func(g Glimpse) bool {
			return news(g) && !slices.ContainsFunc(s.Paths, func(p Path) bool { return p.Relay == g.Relay })
		}, func(g Glimpse) string {
			forward := "" // less than any, where it was not kept
			if g.Link.IsValid() {
				forward = g.Link.StringExpanded() + g.InterfaceID.String()
			}
			return g.Relay.StringExpanded() + g.Peer.StringExpanded() + forward
		})
		if !ok || key(g) == last {
			break
		}
		last = key(g)
		s.Paths = append(s.Paths, Path{g.Relay, g.Peer, g.Time, g.Link, g.InterfaceID})
	}
	bound, _ := latest(effect(Binds), func(Glimpse) string { return "" })
	released, _ := latest(effect(Releases), func(Glimpse) string { return "" })
	s.Released = released.Time
	if bound.Time.After(released.Time) {
		s.Bound = bound.Time
	}
	if g, ok := latest(effect(Declines), func(g Glimpse) string { return g.Declined.StringExpanded() }); ok {
		s.Declined = &Decline{Address: g.Declined, Time: g.Time}
	}
	return s
}

// However the glimpses come, in which order, how often, and by way of the store
// now and then, they end in the same sighting.
func TestSightingMergesInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seen := rapid.SliceOfN(rapid.Custom(drawGlimpse), 1, 40).Draw(t, "seen")
		again := rapid.SliceOf(rapid.SampledFrom(seen)).Draw(t, "again")
		var s Sighting
		for _, g := range rapid.Permutation(append(again, seen...)).Draw(t, "order") {
			before := fmt.Sprint(s)
			next := s.Merge(g)
			if fmt.Sprint(s) != before {
				t.Fatalf("%v was changed", s)
			}
			s = next
			if rapid.Bool().Draw(t, "by way of the store") {
				b, err := json.Marshal(s)
				if err != nil {
					t.Fatal(err)
				}
				s = Sighting{}
				if err := json.Unmarshal(b, &s); err != nil {
					t.Fatal(err)
				}
			}
		}
		if want := twin(seen); !reflect.DeepEqual(s, want) {
			t.Fatalf("\n%+v %+v, want\n%+v %+v", s, s.Declined, want, want.Declined)
		}
	})
}

// A message that brings no news is the latest of its path all the same, so that
// the path which is used is the first.
func TestSightingRenewsItsPaths(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Sighting
		seen := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Glimpse { return drawGlimpseOf(t, 3) }), 1, 20).Draw(t, "seen")
		for _, g := range seen {
			s = s.Merge(g)
		}
		want := twin(seen)
		for _, g := range rapid.SliceOfN(rapid.SampledFrom(seen), 1, 10).Draw(t, "mere times") {
			g.DUID, g.Peer, g.Link, g.InterfaceID, g.Effect = nil, netip.Addr{}, netip.Addr{}, nil, NoEffect
			g.Time = g.Time.Add(time.Duration(rapid.IntRange(-5, 60).Draw(t, "later")) * time.Second)
			for i, p := range want.Paths {
				if p.Relay == g.Relay && g.Time.After(p.Time) {
					want.Paths[i].Time = g.Time
				}
			}
			if g.Time.After(want.Time) || g.Time.Equal(want.Time) && g.Message > want.Message {
				want.Time, want.Message = g.Time, g.Message
			}
			s = s.Merge(g)
		}
		slices.SortStableFunc(want.Paths, func(a, b Path) int { return cmp.Or(b.Time.Compare(a.Time), b.Relay.Compare(a.Relay)) })
		if !reflect.DeepEqual(s, want) {
			t.Fatalf("\n%+v, want\n%+v", s, want)
		}
	})
}

// Of two Relay-forwards that came at once, all servers keep the same.
func TestSightingOfTwoAtOnce(t *testing.T) {
	g := Glimpse{DUID: DUID{0, 4}, Time: day, Relay: netip.MustParseAddr("2001:db8::1"), Peer: netip.MustParseAddr("fe80::1")}
	g.Link, g.InterfaceID = netip.IPv6Unspecified(), Octets("a")
	notKept, link, interfaceID := g, g, g
	notKept.Link, notKept.InterfaceID = netip.Addr{}, nil
	link.Link = netip.MustParseAddr("2001:db8::2")
	interfaceID.InterfaceID = Octets("b")
	for _, other := range []Glimpse{notKept, link, interfaceID} {
		if one, two := (Sighting{}).Merge(g).Merge(other), (Sighting{}).Merge(other).Merge(g); !reflect.DeepEqual(one, two) {
			t.Errorf("%+v one way, %+v the other", one.Paths, two.Paths)
		}
	}
}

// That an address was replaced is not forgotten when the client's Decline comes
// by way of another relay too, but it says nothing of the next address.
func TestSightingRemembersTheReplacement(t *testing.T) {
	first, second := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	s := Sighting{Declined: &Decline{Address: first, Time: day, Replaced: true}}
	g := Glimpse{Effect: Declines, Declined: first, Time: day.Add(time.Second)}
	if s = s.Merge(g); !s.Declined.Replaced || s.Declined.Time != g.Time {
		t.Errorf("after the same decline: %+v", s.Declined)
	}
	g.Declined, g.Time = second, g.Time.Add(time.Second)
	if s = s.Merge(g); s.Declined.Replaced || s.Declined.Address != second {
		t.Errorf("after a decline of the next address: %+v", s.Declined)
	}
}

// What clients can make of a sighting is bounded: 60 of the largest are far less
// than the 1.5 MiB that an etcd takes in one request.
func TestLargestSighting(t *testing.T) {
	at := day.Add(123 * time.Millisecond)
	long := netip.MustParseAddr("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")
	s := Sighting{Pod: strings.Repeat("p", 63), MAC: MAC{6}, Time: at, Message: "information-request", DUID: make(DUID, 130), Bound: at, Released: at}
	s.Declined = &Decline{Address: long, Time: at, Replaced: true}
	for range MaxPaths {
		s.Paths = append(s.Paths, Path{long, long, at, long, make(Octets, MaxInterfaceID)})
	}
	b, err := json.Marshal(s)
	if err != nil || len(b) > 4000 {
		t.Errorf("%d octets, %v; want at most 4000", len(b), err)
	}
}
