package rtnl

import (
	"net"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
)

// ownNamespace moves the test's thread into a network namespace of its own with
// one Ethernet that is up. Both end with the test: a thread that stays locked is
// not used again.
func ownNamespace(t *testing.T) (link int) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs the right to make network namespaces: %s", err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod0"}, PeerName: "peer0"}
	must(t, netlink.LinkAdd(veth))
	for _, name := range []string{"lo", "pod0", "peer0"} {
		l, err := netlink.LinkByName(name)
		must(t, err)
		must(t, netlink.LinkSetUp(l))
	}
	l, err := netlink.LinkByName("pod0")
	must(t, err)
	return l.Attrs().Index
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRoutes(t *testing.T) {
	link := ownNamespace(t)
	p, pool := netip.MustParsePrefix("2001:db8:4000:10::/60"), netip.MustParsePrefix("2001:db8:4000::/40")
	a := sixacre.Route{Prefix: p, NextHop: netip.MustParseAddr("fe80::a")}
	b := sixacre.Route{Prefix: p, NextHop: netip.MustParseAddr("fe80::b")}
	unreachable := sixacre.Route{Prefix: pool}
	none := sixacre.Route{}

	// What others keep: to the same prefix with our own number but another link,
	// with the kernel's usual metric, and unreachable.
	foreign := func(r netlink.Route) {
		t.Helper()
		must(t, netlink.RouteAdd(&r))
	}
	dst := &net.IPNet{IP: net.ParseIP("2001:db8:4000:10::"), Mask: net.CIDRMask(60, 128)}
	all := &net.IPNet{IP: net.ParseIP("2001:db8:4000::"), Mask: net.CIDRMask(40, 128)}
	peer, err := netlink.LinkByName("peer0")
	must(t, err)
	foreign(netlink.Route{Dst: dst, LinkIndex: link, Gw: net.ParseIP("fe80::f"), Protocol: unix.RTPROT_STATIC})
	foreign(netlink.Route{Dst: all, Type: unix.RTN_UNREACHABLE, Protocol: unix.RTPROT_STATIC})
	foreign(netlink.Route{Dst: dst, LinkIndex: peer.Attrs().Index, Gw: net.ParseIP("fe80::f"), Protocol: sixacre.RouteProtocol, Priority: 77})
	before := count(t)

	ours := RoutesOf(link)
	expect := func(want ...sixacre.Route) {
		t.Helper()
		got, err := ours.Routes()
		must(t, err)
		slices.SortFunc(got, func(a, b sixacre.Route) int { return a.Prefix.Compare(b.Prefix) })
		if len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("ours are %v, want %v", got, want)
		}
		if n := count(t); n != before+len(want) {
			t.Errorf("%d routes in the kernel, want %d", n, before+len(want))
		}
	}
	expect()
	must(t, ours.Replace(none, a))
	must(t, ours.Replace(none, unreachable))
	expect(unreachable, a)
	must(t, ours.Replace(a, b))
	expect(unreachable, b)
	if err := ours.Replace(none, a); sixacre.CodeOf(err) != sixacre.Conflict {
		t.Errorf("added beside another: %v", err)
	}
	must(t, ours.Replace(b, none))
	must(t, ours.Replace(b, none)) // gone already
	must(t, ours.Replace(unreachable, none))
	expect()
}

// count is how many routes the kernel's main table has.
func count(t *testing.T) int {
	t.Helper()
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V6)
	must(t, err)
	n := 0
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_KERNEL {
			n++
		}
	}
	return n
}
