package ra

import (
	"net"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"

	"github.com/sixacre/sixacre"
)

var (
	start = time.Unix(1_800_000_000, 0)
	mac   = sixacre.MAC{6, 0, 0, 0, 0, 1}
	pod   = sixacre.Pod{
		Name:       "pod1",
		LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"),
		DNS:        []netip.Addr{netip.MustParseAddr("2001:db8::53")},
		Domains:    []string{"example.net"},
	}.WithDefaults()
)

func TestMessage(t *testing.T) {
	want := &ndp.RouterAdvertisement{
		CurrentHopLimit:      64,
		ManagedConfiguration: true,
		OtherConfiguration:   true,
		RouterLifetime:       30 * time.Minute,
		Options: []ndp.Option{
			&ndp.PrefixInformation{
				PrefixLength: 64, OnLink: true, AutonomousAddressConfiguration: true,
				ValidLifetime: 12 * time.Hour, PreferredLifetime: 4 * time.Hour,
				Prefix: netip.MustParseAddr("2001:db8:100:1::"),
			},
			&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr{6, 0, 0, 0, 0, 1}},
			&ndp.MTU{MTU: 1450},
			&ndp.RecursiveDNSServer{Lifetime: 30 * time.Minute, Servers: []netip.Addr{netip.MustParseAddr("2001:db8::53")}},
			&ndp.DNSSearchList{Lifetime: 30 * time.Minute, DomainNames: []string{"example.net"}},
		},
	}
	got := Message(pod, Source{MAC: mac, MTU: 1450, Lifetime: DefaultLifetime})
	// As it is on the wire.
	b, err := ndp.MarshalMessage(got)
	if err != nil {
		t.Fatal(err)
	}
	sent, err := ndp.ParseMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(sent, ndp.Message(want)) {
		t.Errorf("sent %+v\nwant %+v", sent, want)
	}
	if last := final(*got); last.RouterLifetime != 0 || !reflect.DeepEqual(last.Options, got.Options) {
		t.Errorf("the last one: %+v", last)
	}
}

// Whatever a pod may be given can be advertised, without being fragmented.
func TestTheLargestPodCanBeAdvertised(t *testing.T) {
	largest := pod
	grow := func(more func(*sixacre.Pod)) {
		for p := largest; p.Validate() == nil; more(&p) {
			largest = p
		}
	}
	grow(func(p *sixacre.Pod) { p.DNS = append(slices.Clone(p.DNS), netip.MustParseAddr("2001:db8::54")) })
	grow(func(p *sixacre.Pod) { p.Domains = append(slices.Clone(p.Domains), "a.example.net") })
	grow(func(p *sixacre.Pod) { p.Domains = append(slices.Clone(p.Domains), "a") })
	b, err := ndp.MarshalMessage(Message(largest, Source{MAC: mac, MTU: 1450, Lifetime: DefaultLifetime}))
	if err != nil || len(b) > 1240 {
		t.Errorf("%d servers, %d domains: %d octets, %v", len(largest.DNS), len(largest.Domains), len(b), err)
	}
}

func TestFlags(t *testing.T) {
	for _, test := range []struct {
		addressing sixacre.Addressing
		managed    sixacre.Managed
		a, m       bool
	}{
		{sixacre.SLAAC, sixacre.ManagedAlso, true, true},
		{sixacre.SLAAC, sixacre.ManagedNo, true, false},
		{sixacre.SLAAC, sixacre.ManagedOnly, false, true},
		{sixacre.DHCPv6, sixacre.ManagedAlso, false, true},
		{sixacre.DHCPv6, sixacre.ManagedNo, false, true},
	} {
		p := pod
		p.Addressing, p.Managed = test.addressing, test.managed
		got := Message(p, Source{MAC: mac})
		a := got.Options[0].(*ndp.PrefixInformation).AutonomousAddressConfiguration
		if a != test.a || got.ManagedConfiguration != test.m || !got.OtherConfiguration {
			t.Errorf("%s, managed %s: A=%t M=%t O=%t, want A=%t M=%t O=true",
				test.addressing, test.managed, a, got.ManagedConfiguration, got.OtherConfiguration, test.a, test.m)
		}
	}
}

func TestSchedule(t *testing.T) {
	guest := netip.MustParseAddr("fe80::1")
	at := func(d time.Duration) time.Time { return start.Add(d) }
	sends := func(t *testing.T, s *schedule, now time.Duration, all bool, each int) {
		t.Helper()
		gotAll, gotEach := s.due(at(now))
		if gotAll != all || len(gotEach) != each {
			t.Errorf("after %s: to all %t, to %d guests; want %t and %d", now, gotAll, len(gotEach), all, each)
		}
		if gotAll {
			s.advertised(at(now), 0.5)
		}
	}
	t.Run("at the start three in short order, then at the interval", func(t *testing.T) {
		var s schedule
		s.prompt(start)
		sends(t, &s, 0, true, 0)
		for now := time.Duration(0); s.sent < initialCount; now += initialInterval {
			sends(t, &s, now+initialInterval-time.Second, false, 0)
			sends(t, &s, now+initialInterval, true, 0)
		}
		if gap := s.next.Sub(s.last); gap != (minInterval+MaxInterval)/2 {
			t.Errorf("then after %s", gap)
		}
	})
	t.Run("a solicitation is answered to its sender within half a second", func(t *testing.T) {
		s := schedule{last: start, next: at(MaxInterval)}
		s.solicited(guest, at(time.Minute), 1)
		s.solicited(guest, at(time.Minute), 0.1) // asked again: still one answer
		sends(t, &s, time.Minute, false, 0)
		if got := s.wake(); got != at(time.Minute+maxSolicited) {
			t.Errorf("wakes at %s", got)
		}
		sends(t, &s, time.Minute+maxSolicited, false, 1)
		sends(t, &s, time.Minute+maxSolicited, false, 0)
	})
	t.Run("from :: to all, but never twice in three seconds", func(t *testing.T) {
		s := schedule{last: start, next: at(MaxInterval)}
		s.solicited(netip.IPv6Unspecified(), at(time.Second), 0)
		sends(t, &s, minDelay-time.Nanosecond, false, 0)
		sends(t, &s, minDelay, true, 0)
	})
	t.Run("what goes to all answers everyone", func(t *testing.T) {
		s := schedule{last: start, next: at(MaxInterval)}
		s.solicited(guest, at(MaxInterval-time.Second), 0.9)
		s.next = at(MaxInterval - time.Second)
		sends(t, &s, MaxInterval-time.Second, true, 0)
		sends(t, &s, MaxInterval, false, 0)
	})
	t.Run("a flood makes one to all", func(t *testing.T) {
		s := schedule{last: start, next: at(MaxInterval)}
		for i := range 10 * maxWaiting {
			s.solicited(netip.AddrFrom16([16]byte{0xfe, 0x80, 14: byte(i >> 8), 15: byte(i)}), at(time.Minute), 0.5)
		}
		if len(s.waiting) > maxWaiting {
			t.Errorf("%d wait", len(s.waiting))
		}
		sends(t, &s, time.Minute+maxSolicited, true, 0)
	})
	t.Run("a change is told soon, not sooner than allowed", func(t *testing.T) {
		s := schedule{last: start, next: at(MaxInterval)}
		s.prompt(at(time.Second))
		sends(t, &s, minDelay-time.Nanosecond, false, 0)
		sends(t, &s, minDelay, true, 0)
	})
}

func TestValid(t *testing.T) {
	withMAC := &ndp.RouterSolicitation{Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac[:]}}}
	near, far := &ipv6.ControlMessage{HopLimit: 255}, &ipv6.ControlMessage{HopLimit: 254}
	guest := netip.MustParseAddr("fe80::1")
	for _, test := range []struct {
		name string
		rs   *ndp.RouterSolicitation
		cm   *ipv6.ControlMessage
		from netip.Addr
		want bool
	}{
		{"from the link", withMAC, near, guest, true},
		{"from beyond it", withMAC, far, guest, false},
		{"from nobody knows", withMAC, nil, guest, false},
		{"from ::", &ndp.RouterSolicitation{}, near, netip.IPv6Unspecified(), true},
		{"from :: with a MAC", withMAC, near, netip.IPv6Unspecified(), false},
	} {
		if got := valid(test.rs, test.cm, test.from); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}
