package control_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sixacre/sixacre"
)

// Who holds an address is asked by relays: the holder now, not the last one.
func TestHolderOf(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	r.pod(dhcpv6())
	first := r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01", exactly("2001:db8:4000:10::/60"), exactly("2001:db8:4000:20::/60"))
	second := r.mustDeploy("i-2", "pod2", "06:00:00:00:00:02", address("2001:db8:100:2::22"), exactly("2001:db8:5007::/48"))
	if err := r.ReleasePrefix(t.Context(), netip.MustParsePrefix("2001:db8:4000:20::/60")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what, pod, address string
		want               sixacre.MAC
	}{
		{"the address that the MAC makes", "pod1", "2001:db8:100:1:400:ff:fe00:1", first.MAC},
		{"one in the prefix", "pod1", "2001:db8:4000:1f:ffff::1", first.MAC},
		{"the prefix's first", "pod1", "2001:db8:4000:10::", first.MAC},
		{"one after the prefix", "pod1", "2001:db8:4000:30::", sixacre.MAC{}},
		{"one in quarantine", "pod1", "2001:db8:4000:20::1", sixacre.MAC{}},
		{"one that another MAC makes", "pod1", "2001:db8:100:1:400:ff:fe00:2", sixacre.MAC{}},
		{"one that no MAC makes", "pod1", "2001:db8:100:1::1", sixacre.MAC{}},
		{"one of another pod", "pod1", "2001:db8:100:2::22", sixacre.MAC{}},
		{"a stored address", "pod2", "2001:db8:100:2::22", second.MAC},
		{"one that is not stored", "pod2", "2001:db8:100:2:400:ff:fe00:2", sixacre.MAC{}},
		{"one in a prefix of another length", "pod2", "2001:db8:5007:ffff::1", second.MAC},
	} {
		pod, err := r.Pod(t.Context(), test.pod)
		if err != nil {
			t.Fatal(err)
		}
		mac, held, err := r.HolderOf(t.Context(), pod, netip.MustParseAddr(test.address))
		if err != nil || held != (test.want != sixacre.MAC{}) || held && mac != test.want {
			t.Errorf("%s: %s %v %v", test.what, mac, held, err)
		}
	}

	// An address that was declined is another's on the link.
	r.sight(r.glimpse("pod2", second.MAC, "decline", declines(second.Address)))
	pod, err := r.Pod(t.Context(), "pod2")
	if err != nil {
		t.Fatal(err)
	}
	if mac, held, err := r.HolderOf(t.Context(), pod, second.Address); held || err != nil {
		t.Errorf("a declined address: %s %v", mac, err)
	}
}

func TestClientsSeen(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	r.pod(dhcpv6())
	var glimpses []sixacre.Glimpse
	for _, mac := range []string{"06:00:00:00:00:0a", "06:00:00:00:00:01", "1a:00:00:00:00:00", "06:00:00:00:ff:01"} {
		n := r.mustDeploy("i-"+mac[12:14]+mac[15:], "pod1", mac, prefixes(0))
		glimpses = append(glimpses, r.glimpse("pod1", n.MAC, "request", effect(sixacre.Binds)))
	}
	other := r.mustDeploy("j", "pod2", "06:00:00:00:00:05", prefixes(0))
	r.sight(append(glimpses, r.glimpse("pod2", other.MAC, "request", effect(sixacre.Binds)))...)
	var got []string
	for after := (sixacre.MAC{}); ; {
		page, err := r.ClientsSeen(t.Context(), "pod1", after, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, seen := range page {
			got = append(got, seen.MAC.String())
			after = seen.MAC
		}
		if len(page) < 3 {
			break
		}
	}
	if want := []string{"06:00:00:00:00:01", "06:00:00:00:00:0a", "06:00:00:00:ff:01", "1a:00:00:00:00:00"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}

	seen, found, err := r.ClientSeen(t.Context(), "pod2", other.MAC)
	if err != nil || !found || seen.Bound.IsZero() || seen.MAC != other.MAC {
		t.Errorf("%+v %v %v", seen, found, err)
	}
	if seen, found, err := r.ClientSeen(t.Context(), "pod1", other.MAC); found || err != nil {
		t.Errorf("in another pod: %+v %v", seen, err)
	}
	if err := r.Retire(t.Context(), "j"); err != nil {
		t.Fatal(err)
	}
	if seen, found, err := r.ClientSeen(t.Context(), "pod2", other.MAC); found || err != nil {
		t.Errorf("of a NIC that is gone: %+v %v", seen, err)
	}
}
