package dhcpd

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

// prefixesOf returns what the index knows of a NIC, nil where it knows none.
func (x *index) prefixesOf(pod sixacre.Pod, mac sixacre.MAC) []string {
	var room found
	nic, ok := x.current.Load().nics.get(key{x.number(pod.Name), mac}, &pod, &room)
	if !ok {
		return nil
	}
	all := []string{}
	for _, p := range nic.Prefixes {
		all = append(all, p.String())
	}
	return all
}

func TestIndexKeepsNICsApart(t *testing.T) {
	pod2 := sixacre.Pod{Name: "pod2", LinkPrefix: netip.MustParsePrefix("2001:db8:100:2::/64")}.WithDefaults()
	const a, b, c, d = "2001:db8:4000::/60", "2001:db8:4000:10::/60", "2001:db8:4000:20::/60", "2001:db8:4000:30::/60"
	nic := func(pod string, mac sixacre.MAC, prefixes ...string) sixacre.NIC {
		n := instance("", mac, prefixes...).NICs[0]
		n.Pod = pod
		return n
	}
	i1 := sixacre.Instance{Name: "i-1", NICs: []sixacre.NIC{nic("pod1", mac1, a, b), nic("pod1", mac2, c), nic("pod2", mac1, d)}}
	i2 := sixacre.Instance{Name: "i-2", NICs: []sixacre.NIC{nic("pod2", mac2)}}
	x := newIndex()
	expect := func(when string, want ...[]string) {
		t.Helper()
		for i, got := range [][]string{x.prefixesOf(pod1, mac1), x.prefixesOf(pod1, mac2), x.prefixesOf(pod2, mac1), x.prefixesOf(pod2, mac2)} {
			if (got == nil) != (want[i] == nil) || !slices.Equal(got, want[i]) {
				t.Errorf("%s: NIC %d has %v, expected %v", when, i, got, want[i])
			}
		}
		records := 0
		for _, w := range want {
			if w != nil {
				records += max(1, len(w))
			}
		}
		x.current.Load().nics.each(func(*record) { records-- })
		if records != 0 {
			t.Errorf("%s: %d records too few", when, records)
		}
	}
	for _, at := range []string{"all at once", "all at once again"} {
		x.apply(true, put(i1, pod1, pod2, serverID, i2))
		expect(at, []string{a, b}, []string{c}, []string{d}, []string{})
	}
	x.apply(true, put(pod1, pod2, serverID))
	expect("nothing", nil, nil, nil, nil)
	x.apply(false, put(i1, i2))
	expect("one after the other", []string{a, b}, []string{c}, []string{d}, []string{})

	// In one batch two NICs change instances, and one its prefixes.
	moved1 := sixacre.Instance{Name: "i-1", NICs: []sixacre.NIC{nic("pod2", mac2, d)}}
	moved2 := sixacre.Instance{Name: "i-2", NICs: []sixacre.NIC{nic("pod1", mac2, b, c), nic("pod1", mac1)}}
	x.apply(false, append(gone(i1), append(gone(i2), put(moved1, moved2)...)...))
	expect("moved", []string{}, []string{b, c}, nil, []string{d})

	// An instance loses a NIC: that is known from the claim.
	moved2.NICs = moved2.NICs[:1]
	x.apply(false, append(put(moved2), sixacre.Event{Key: sixacre.MACClaim("pod1", mac1)}))
	expect("one less", nil, []string{b, c}, nil, []string{d})
}

func TestIndexForgetsPodsAndServerID(t *testing.T) {
	x := newIndex()
	relay := pod1.Relays[0]
	x.apply(true, put(pod1, serverID))
	if now := x.current.Load(); !now.pods.IsRelay(relay) || now.serverID == nil {
		t.Fatal("not known")
	}
	x.apply(false, []sixacre.Event{{Key: pod1.Key()}, {Key: sixacre.ServerIDKey}})
	if now := x.current.Load(); now.pods.IsRelay(relay) || now.serverID != nil {
		t.Error("known after they are deleted")
	}
	x.apply(false, put(pod1, serverID))
	x.apply(true, nil)
	if now := x.current.Load(); now.pods.IsRelay(relay) || now.serverID != nil {
		t.Error("known after a full batch without them")
	}
}

// An address is a relay's only as long as no NIC has it, however the NIC comes
// by it.
func TestRelayThatIsAGuest(t *testing.T) {
	eui := addr.EUI64(pod1.LinkPrefix, mac1)
	drawn := netip.MustParseAddr("2001:db8:100:2::77")
	pod := pod1
	pod.Relays = []netip.Addr{eui, drawn}
	other := stored
	other.Relays = []netip.Addr{eui}
	x := newIndex()
	expect := func(when string, a netip.Addr, guest bool) {
		t.Helper()
		if _, why := x.current.Load().pods.OfRelay(a); (why == dhcp6.GuestAsRelay) != guest {
			t.Errorf("%s: relay %s: %s", when, a, why)
		}
	}
	slaac := instance("i-1", mac1)
	guest := func(a string) sixacre.Instance {
		i := instance("i-2", mac2)
		i.NICs[0].Pod, i.NICs[0].Address = stored.Name, netip.MustParseAddr(a)
		return i
	}
	x.apply(true, put(pod, other, serverID))
	expect("without NICs", eui, false)
	expect("without NICs", drawn, false)
	x.apply(false, put(slaac, guest(drawn.String())))
	expect("of a NIC", eui, true)
	expect("of a NIC", drawn, true)
	x.apply(false, put(guest("2001:db8:100:2::78")))
	expect("of a NIC", eui, true)
	expect("of a NIC that was given another", drawn, false)
	x.apply(false, put(guest(drawn.String())))
	expect("of a NIC that was given it", drawn, true)
	x.apply(false, append(gone(slaac), gone(guest(drawn.String()))...))
	expect("of a NIC that has gone", eui, false)
	expect("of a NIC that has gone", drawn, false)
	x.apply(true, put(slaac, guest(drawn.String()), pod, other, serverID))
	expect("all at once", eui, true)
	expect("all at once", drawn, true)
}
