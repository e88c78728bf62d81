package dhcpd

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

// hear starts telling and returns what is told, a glimpse at a time.
func (s *server) hear(t *testing.T, refuse func() error) <-chan sixacre.Glimpse {
	t.Helper()
	told := make(chan sixacre.Glimpse, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Tell(ctx, func(_ context.Context, batch []sixacre.Glimpse) error {
			if err := refuse(); err != nil {
				return err
			}
			for _, g := range batch {
				told <- g
			}
			return nil
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	wait(t, s.index.seen.on.Load)
	return told
}

func taken() error { return nil }

// next returns what is told next.
func next(t *testing.T, told <-chan sixacre.Glimpse) sixacre.Glimpse {
	t.Helper()
	select {
	case g := <-told:
		return g
	case <-time.After(patience):
		t.Fatal("nothing was told")
		panic("unreachable")
	}
}

// message makes one of a client with that DUID that names its prefix.
func message(t *testing.T, kind dhcpv6.MessageType, duid dhcpv6.DUID, prefix string) *dhcpv6.Message {
	t.Helper()
	m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(duid))
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType = kind
	if kind != dhcpv6.MessageTypeSolicit && kind != dhcpv6.MessageTypeRebind {
		id, err := dhcpv6.DUIDFromBytes(serverID.DUID)
		if err != nil {
			t.Fatal(err)
		}
		m.AddOption(dhcpv6.OptServerID(id))
	}
	pd := &dhcpv6.OptIAPD{IaId: [4]byte{0, 0, 0, 1}}
	_, net, err := net.ParseCIDR(prefix)
	if err != nil {
		t.Fatal(err)
	}
	pd.Options.Add(&dhcpv6.OptIAPrefix{Prefix: net})
	m.AddOption(pd)
	return m
}

func TestNewsIsTold(t *testing.T) {
	at1, at2 := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	inNamespace(t, at1, at2)
	s := start(t, "[::]:0")
	pod := pod1
	pod.Relays = []netip.Addr{at1, at2}
	s.Apply(true, put(pod, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 1)
	s.Confirm(0, 1)
	told := s.hear(t, taken)
	from := func(a netip.Addr) *relay {
		conn, err := net.DialUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)), net.UDPAddrFromAddrPort(s.at))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return &relay{t, conn}
	}
	relay1, relay2 := from(at1), from(at2)
	one := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac1[:]}
	two := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac2[:]}
	const prefix = "2001:db8:4000::/60"
	for _, step := range []struct {
		name   string
		relay  *relay
		kind   dhcpv6.MessageType
		duid   dhcpv6.DUID
		effect sixacre.Effect
		news   bool
	}{
		{"the first", relay1, dhcpv6.MessageTypeSolicit, one, sixacre.NoEffect, true},
		{"the same again", relay1, dhcpv6.MessageTypeSolicit, one, sixacre.NoEffect, false},
		{"the first by the other relay", relay2, dhcpv6.MessageTypeSolicit, one, sixacre.NoEffect, true},
		{"the first lease", relay1, dhcpv6.MessageTypeRequest, one, sixacre.Binds, true},
		{"a renewal", relay1, dhcpv6.MessageTypeRenew, one, sixacre.Binds, false},
		{"another DUID", relay1, dhcpv6.MessageTypeRenew, two, sixacre.Binds, true},
		{"the end of the lease", relay1, dhcpv6.MessageTypeRelease, two, sixacre.Releases, true},
		{"the same again", relay1, dhcpv6.MessageTypeRelease, two, sixacre.Releases, true},
		{"a lease again", relay1, dhcpv6.MessageTypeRebind, two, sixacre.Binds, true},
		{"the end of the lease by the relay that had not brought it", relay2, dhcpv6.MessageTypeRelease, one, sixacre.Releases, true},
	} {
		m := message(t, step.kind, step.duid, prefix)
		if step.kind == dhcpv6.MessageTypeRelease { // it gives back all that it has
			na := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 1}}
			na.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: addr.EUI64(pod.LinkPrefix, mac1).AsSlice()})
			m.AddOption(na)
		}
		step.relay.send(mac1, m)
		step.relay.receive()
		if !step.news {
			continue // what is told next would be this
		}
		got := next(t, told)
		by := at1
		if step.relay == relay2 {
			by = at2
		}
		want := sixacre.Glimpse{
			Pod: "pod1", MAC: mac1, Time: got.Time, Message: map[dhcpv6.MessageType]string{
				dhcpv6.MessageTypeSolicit: "solicit", dhcpv6.MessageTypeRequest: "request", dhcpv6.MessageTypeRenew: "renew",
				dhcpv6.MessageTypeRebind: "rebind", dhcpv6.MessageTypeRelease: "release",
			}[step.kind],
			Effect: step.effect, DUID: step.duid.ToBytes(), Relay: by, Peer: addr.LinkLocal(mac1), Link: netip.MustParseAddr("2001:db8:100:1::1"),
		}
		if age := time.Since(got.Time); age < 0 || age > time.Minute {
			t.Errorf("%s: seen %s ago", step.name, age)
		}
		if !equal(got, want) {
			t.Errorf("%s: told %+v, expected %+v", step.name, got, want)
		}
	}
	heard, more := s.index.seen.since(0, 0)
	if len(heard) != 2 || more != 0 {
		t.Fatalf("heard by two relays: %v", heard)
	}
	for _, g := range heard {
		if g.Relay == at1 && (g.Message != "rebind" || g.Effect != sixacre.Binds) || g.Relay == at2 && g.Message != "release" ||
			g.MAC != mac1 || g.Pod != "pod1" || g.DUID != nil {
			t.Errorf("heard %+v", g)
		}
	}
	s.now.Add(int64(newsWindow))
	// Who has gone is forgotten, and told of again.
	s.Apply(false, gone(instance("i-1", mac1)), 2)
	if n := s.count(t, "sixacre_dhcp6_sightings", ""); n != 0 {
		t.Errorf("%v are remembered", n)
	}
	s.Apply(false, put(instance("i-1", mac1, prefix)), 3)
	relay1.ask(mac1)
	if g := next(t, told); g.Message != "solicit" {
		t.Errorf("told %+v", g)
	}
	// A full batch without it is no different.
	s.Apply(true, put(pod, serverID), 4)
	if n := s.count(t, "sixacre_dhcp6_sightings", ""); n != 0 {
		t.Errorf("%v are remembered", n)
	}
}

func equal(a, b sixacre.Glimpse) bool {
	return a.Pod == b.Pod && a.MAC == b.MAC && a.Time.Equal(b.Time) && a.Message == b.Message && a.Effect == b.Effect &&
		slices.Equal(a.DUID, b.DUID) && a.Relay == b.Relay && a.Peer == b.Peer && a.Link == b.Link && string(a.InterfaceID) == string(b.InterfaceID)
}

// What the relay nearest to the client says of the client's link and of its own
// interface is told as it said it, and again when it says another.
func TestWhatRelaysSayIsTold(t *testing.T) {
	s := start(t, "[::1]:0")
	inner := netip.MustParseAddr("2001:db8:ffff::2")
	pod := pod1
	pod.Relays = append([]netip.Addr{inner}, pod.Relays...)
	pod.InterfaceIDs = []string{"eth1"}
	s.Apply(true, put(pod, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 1)
	s.Confirm(0, 1)
	told := s.hear(t, taken)
	r := newRelay(t, s.at)
	say := func(message []byte) {
		t.Helper()
		if _, err := r.conn.Write(message); err != nil {
			t.Fatal(err)
		}
		r.receive()
	}
	m := message(t, dhcpv6.MessageTypeSolicit, &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac1[:]}, "2001:db8:4000::/60").ToBytes()
	relayed := func(link string, interfaceID []byte) []byte {
		b := dhcp6.AppendRelay(nil, dhcp6.RelayForward, 0, netip.MustParseAddr(link), addr.LinkLocal(mac1))
		b = dhcp6.AppendOption(b, dhcp6.OptionClientLinkLayer, append([]byte{0, 1}, mac1[:]...))
		if interfaceID != nil {
			b = dhcp6.AppendOption(b, dhcp6.OptionInterfaceID, interfaceID)
		}
		return dhcp6.AppendOption(b, dhcp6.OptionRelayMessage, m)
	}
	const one, two, none = "2001:db8:100:1::1", "2001:db8:100:1::2", "::"
	long := bytes.Repeat([]byte("x"), sixacre.MaxInterfaceID)
	for _, step := range []struct {
		what        string
		link        string
		interfaceID []byte
		news, kept  bool
	}{
		{"a link-address", one, nil, true, true},
		{"the same again", one, nil, false, true},
		{"another link-address", two, nil, true, true},
		{"an interface-id", two, []byte("eth0"), true, true},
		{"another interface-id", two, []byte("eth1"), true, true},
		{"the same again", two, []byte("eth1"), false, true},
		{"no link-address", none, []byte("eth1"), true, true},
		{"the longest interface-id", two, long, true, true},
		{"a longer one", two, append(long, "y"...), true, false},
		{"one longer yet", two, append(long, "yz"...), false, false},
		{"an empty one", two, []byte{}, true, false},
		{"none again", two, nil, true, true},
	} {
		s.now.Add(int64(newsWindow))
		say(relayed(step.link, step.interfaceID))
		if !step.news {
			continue // what is told next would be this
		}
		var link netip.Addr
		var interfaceID sixacre.Octets
		if step.kept {
			link, interfaceID = netip.MustParseAddr(step.link), step.interfaceID
		}
		// The store knows no empty one.
		if g := next(t, told); g.Link != link || !reflect.DeepEqual(g.InterfaceID, interfaceID) || g.Relay != netip.IPv6Loopback() {
			t.Errorf("%s: told %+v", step.what, g)
		}
	}

	outer := dhcp6.AppendRelay(nil, dhcp6.RelayForward, 1, netip.IPv6Unspecified(), inner)
	outer = dhcp6.AppendOption(outer, dhcp6.OptionInterfaceID, []byte("outer"))
	say(dhcp6.AppendOption(outer, dhcp6.OptionRelayMessage, relayed(one, []byte("eth0"))))
	if g := next(t, told); g.Relay != inner || g.Link.String() != one || string(g.InterfaceID) != "eth0" {
		t.Errorf("through two relays: told %+v", g)
	}
}

// Who has nothing new to say is told of when the time has come.
func TestTimesAreTold(t *testing.T) {
	s := start(t, "[::1]:0")
	nouns := []sixacre.Noun{pod1, serverID}
	macs := make([]sixacre.MAC, 2*toldAtOnce)
	for i := range macs {
		macs[i] = sixacre.MAC{6, 0, 0, 1, byte(i >> 8), byte(i)}
		p := addr.Nth(pod1.Pools[0], uint64(i)).String()
		nouns = append(nouns, instance("i-"+macs[i].String(), macs[i], p))
	}
	s.Apply(true, put(nouns...), 1)
	s.Confirm(0, 1)
	tick, told := make(chan time.Time), make(chan sixacre.Glimpse, 10*len(macs))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.tell(ctx, tick, func(_ context.Context, batch []sixacre.Glimpse) error {
			if len(batch) > toldAtOnce {
				t.Errorf("%d were told at once", len(batch))
			}
			for _, g := range batch {
				told <- g
			}
			return nil
		})
	}()
	defer func() { cancel(); <-done }()
	wait(t, s.index.seen.on.Load)
	r := newRelay(t, s.at)
	hear := func() {
		for _, mac := range macs {
			r.send(mac, message(t, dhcpv6.MessageTypeSolicit, &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac[:]}, "2001:db8:4000::/60"))
			r.receive()
		}
	}
	hear()
	for range macs {
		if g := next(t, told); g.DUID == nil {
			t.Fatalf("told %+v as news", g)
		}
	}
	hear()
	tick <- time.Time{}
	heard := map[sixacre.MAC]bool{}
	for range macs {
		g := next(t, told)
		if heard[g.MAC] || g.DUID != nil || g.Message != "solicit" || g.Relay != netip.IPv6Loopback() {
			t.Fatalf("told %+v", g)
		}
		heard[g.MAC] = true
	}
}

// A lease ages from when it was given, not from what the client said after.
func TestLeaseIsNoYoungerThanItsReply(t *testing.T) {
	s := newSightings()
	k := key{pod: 1, mac: mac1}
	relay := netip.MustParseAddr("fd00::1")
	given := clockTime(1000)
	renew := glimpse{key: k, id: s.id(k, relay), relay: relay, at: given, message: dhcp6.Renew, effect: sixacre.Binds}
	confirm := renew
	confirm.at, confirm.message, confirm.effect = given.Add(100*time.Second), dhcp6.Confirm, sixacre.NoEffect
	s.remember(&renew)
	s.remember(&confirm)
	var seen sixacre.Sighting
	heard, _ := s.since(999, 0)
	for _, g := range heard {
		seen = seen.Merge(g)
	}
	if !seen.Bound.Equal(given) || !seen.Time.Equal(confirm.at) || seen.Message != "confirm" {
		t.Errorf("%+v makes %+v", heard, seen)
	}
}

// Answers do not wait for a store that cannot be written to, and what it did not
// take is told again.
func TestNewsOutlastsTheStore(t *testing.T) {
	s := start(t, "[::1]:0")
	s.Apply(true, put(pod1, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 1)
	s.Confirm(0, 1)
	refusals := 2
	told := s.hear(t, func() error {
		if refusals--; refusals >= 0 {
			return sixacre.Errorf(sixacre.Unavailable, "away")
		}
		return nil
	})
	r := newRelay(t, s.at)
	for range 10 {
		r.ask(mac1)
	}
	if g := next(t, told); g.MAC != mac1 {
		t.Errorf("told %+v", g)
	}
	if n := s.logs.count("not recorded"); n != 2 {
		t.Errorf("%d lines of log say that it was not recorded", n)
	}
}

// What cannot be recorded keeps nothing else from being told.
func TestNewsBesideWhatIsRefused(t *testing.T) {
	s := start(t, "[::1]:0")
	refused := sixacre.MAC{6, 0, 0, 0, 0, 5}
	var batch []sixacre.Glimpse
	for i := range byte(9) {
		batch = append(batch, sixacre.Glimpse{Pod: "pod1", MAC: sixacre.MAC{6, 0, 0, 0, 0, i}})
	}
	var told []byte
	err := s.insist(t.Context(), func(_ context.Context, batch []sixacre.Glimpse) error {
		if slices.ContainsFunc(batch, func(g sixacre.Glimpse) bool { return g.MAC == refused }) {
			return errors.New("a damaged record")
		}
		for _, g := range batch {
			told = append(told, g.MAC[5])
		}
		return nil
	}, batch)
	if err != nil || !slices.Equal(told, []byte{0, 1, 2, 3, 4, 6, 7, 8}) {
		t.Errorf("%v were told, %v", told, err)
	}
	if s.logs.count(refused.String()) != 1 {
		t.Error("the log does not say whose news could not be recorded")
	}
}

// A client that is another with each message does not keep the store busy.
func TestNewsOfOneClientIsBounded(t *testing.T) {
	s := start(t, "[::1]:0")
	s.Apply(true, put(pod1, serverID, instance("i-1", mac1, "2001:db8:4000::/60"), instance("i-2", mac2, "2001:db8:4000:10::/60")), 1)
	s.Confirm(0, 1)
	told := s.hear(t, taken)
	r := newRelay(t, s.at)
	change := func(i byte) {
		duid := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{6, 1, 0, 0, 0, i}}
		r.send(mac1, message(t, dhcpv6.MessageTypeSolicit, duid, "2001:db8:4000::/60"))
		r.receive()
	}
	for i := range byte(2 * newsShare) {
		change(i)
	}
	release := message(t, dhcpv6.MessageTypeRelease, &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac1[:]}, "2001:db8:4000::/60")
	s.now.Add(int64(clientWindow)) // it has used up what it may ask
	r.send(mac1, release)
	r.receive()
	r.ask(mac2) // is told after all that mac1 did
	var effects []sixacre.Effect
	for g := next(t, told); g.MAC == mac1; g = next(t, told) {
		effects = append(effects, g.Effect)
	}
	if len(effects) != newsShare+1 || effects[newsShare] != sixacre.Releases {
		t.Errorf("of the changes and a release were told %v", effects)
	}
	s.now.Add(int64(newsWindow))
	change(0xff)
	if g := next(t, told); g.MAC != mac1 || g.DUID[len(g.DUID)-1] != 0xff {
		t.Errorf("told %+v", g)
	}
}

// The slots against a map.
func TestSlotsAreAMap(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	s := newSightings()
	relays := []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")}
	type path struct {
		key
		relay netip.Addr
	}
	twin := map[path]uint32{}
	for range 30_000 {
		k := key{pod: random.Uint32N(2), mac: sixacre.MAC{6, 0, 0, 0, byte(random.IntN(4)), byte(random.Uint32())}}
		p := path{k, relays[random.IntN(2)]}
		switch random.IntN(5) {
		case 0:
			s.forget(k)
			for _, relay := range relays {
				delete(twin, path{k, relay})
			}
		default:
			mark := random.Uint32()
			s.remember(&glimpse{key: k, id: s.id(k, p.relay), relay: p.relay, mark: mark, at: time.Now()})
			twin[p] = mark
		}
		if random.IntN(5000) == 0 {
			odd := func(k key) bool { return k.mac[5]&1 == 1 }
			s.keep(odd)
			for p := range twin {
				if !odd(p.key) {
					delete(twin, p)
				}
			}
		}
	}
	for p, mark := range twin {
		slot := find(*s.slots.Load(), s.id(p.key, p.relay))
		if slot == nil || uint32(slot.where.Load()) != mark || slot.key() != p.key || s.pods[p.pod].relays[uint16(slot.who.Load())] != p.relay {
			t.Fatalf("%v is not as remembered", p)
		}
	}
	if n := s.count(); n != len(twin) {
		t.Errorf("%d are counted, %d remembered", n, len(twin))
	}
	if n := len(*s.slots.Load()); n > 8*len(twin) {
		t.Errorf("%d slots for %d", n, len(twin))
	}
}

// A lease that is given while the release of the one before still waits to be
// told is told after it.
func TestLeaseAfterReleaseIsTold(t *testing.T) {
	s := start(t, "[::1]:0")
	s.Apply(true, put(pod1, serverID, instance("i-1", mac1, "2001:db8:4000::/60")), 1)
	s.Confirm(0, 1)
	hold, waiting := make(chan struct{}), make(chan struct{}, 100)
	told := s.hear(t, func() error { waiting <- struct{}{}; <-hold; return nil })
	r := newRelay(t, s.at)
	duid := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac1[:]}
	say := func(kind dhcpv6.MessageType) {
		m := message(t, kind, duid, "2001:db8:4000::/60")
		if kind == dhcpv6.MessageTypeRelease { // it gives back all that it has
			na := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 1}}
			na.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: addr.EUI64(pod1.LinkPrefix, mac1).AsSlice()})
			m.AddOption(na)
		}
		r.send(mac1, m)
		r.receive()
	}
	say(dhcpv6.MessageTypeRequest)
	<-waiting // the store takes its time over that one
	say(dhcpv6.MessageTypeRelease)
	say(dhcpv6.MessageTypeRequest)
	close(hold)
	for _, want := range []sixacre.Effect{sixacre.Binds, sixacre.Releases, sixacre.Binds} {
		if g := next(t, told); g.Effect != want {
			t.Fatalf("told %v, expected %v", g.Effect, want)
		}
	}
}

// What is told of a NIC only after it has gone is not remembered: the next NIC
// with that MAC is news.
func TestNothingIsRememberedOfWhoHasGone(t *testing.T) {
	s := newServer()
	at := time.Now()
	for name, leave := range map[string]func(){
		"released":     func() { s.Apply(false, gone(instance("i-1", mac1)), 2) },
		"a full batch": func() { s.Apply(true, put(pod1, serverID), 2) },
	} {
		s.Apply(true, put(pod1, serverID, instance("i-1", mac1)), 1)
		k := key{s.index.number("pod1"), mac1}
		g := glimpse{key: k, podName: "pod1", relay: netip.IPv6Loopback(), id: s.index.seen.id(k, netip.IPv6Loopback()), at: at}
		leave()
		if told := s.index.seen.news(g, map[key]int{}, s.index.knows); len(told) != 0 {
			t.Errorf("%s: told %v", name, told)
		}
		if n := s.index.seen.count(); n != 0 {
			t.Errorf("%s: %d are remembered", name, n)
		}
	}
}
