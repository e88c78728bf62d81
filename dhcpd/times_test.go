package dhcpd

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

// The times that are told of a client are those of its last message and of the
// last lease that it was given.
func TestTimesOfAClient(t *testing.T) {
	s, relay := newSightings(), netip.IPv6Loopback()
	k := key{mac: mac1}
	q := &query{key: k, relay: relay, sighting: s.id(k, relay), client: dhcp6.Client{Pod: dhcp6.NewPod(pod1), Peer: addr.LinkLocal(mac1)}}
	q.Relays = make([]dhcp6.Relay, 1)
	start := clockTime(1000)
	hear := func(seconds uint32, kind dhcp6.MessageType, effect sixacre.Effect) (news bool) {
		q.Type, q.Effect = kind, effect
		s.note(q, netip.Addr{}, clockTime(seconds))
		select {
		case g := <-s.queue:
			s.remember(&g)
			return true
		default:
			return false
		}
	}
	if hear(1000, dhcp6.InformationRequest, sixacre.NoEffect) {
		t.Error("who does not say its DUID is news")
	}
	q.ClientID = []byte{0, 3, 0, 1, 6}
	for _, step := range []struct {
		at     uint32
		kind   dhcp6.MessageType
		effect sixacre.Effect
		news   bool
	}{
		{1000, dhcp6.Solicit, sixacre.NoEffect, true},
		{1001, dhcp6.Request, sixacre.Binds, true},
		{1100, dhcp6.Renew, sixacre.Binds, false},
		{1200, dhcp6.Solicit, sixacre.NoEffect, false},
	} {
		if news := hear(step.at, step.kind, step.effect); news != step.news {
			t.Errorf("at %d: news: %v", step.at, news)
		}
	}
	for _, test := range []struct {
		since uint32
		want  []sixacre.Glimpse
	}{
		{1050, []sixacre.Glimpse{
			{Time: start.Add(100 * time.Second), Effect: sixacre.Binds},
			{Time: start.Add(200 * time.Second)},
		}},
		{1100, []sixacre.Glimpse{{Time: start.Add(200 * time.Second)}}},
		{1200, nil},
	} {
		heard, _ := s.since(test.since, 0)
		if len(heard) != len(test.want) {
			t.Errorf("since %d: %+v", test.since, heard)
			continue
		}
		for i, g := range heard {
			if want := test.want[i]; !g.Time.Equal(want.Time) || g.Effect != want.Effect || g.Message != "solicit" || g.Relay != relay || g.MAC != mac1 {
				t.Errorf("since %d: %+v", test.since, g)
			}
		}
	}
	q.client.Peer = netip.MustParseAddr("fe80::1")
	if !hear(1300, dhcp6.Solicit, sixacre.NoEffect) {
		t.Error("another peer-address is no news")
	}
}
