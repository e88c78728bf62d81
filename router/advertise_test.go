package router_test

import (
	"context"
	"net"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/ra"
	"github.com/sixacre/sixacre/rtnl"
)

// A guest's own kernel makes its address and its default route from what the
// router advertises, and forgets the route when the router stops.
func TestGuestKernelFollowsAdvertisements(t *testing.T) {
	if !namespace(t) {
		return
	}
	p := newPicture(t)
	at, err := rtnl.Attach(context.Background(), "pod0")
	ok(t, err)
	a, err := ra.Listen("pod0", at.LinkLocal)
	ok(t, err)
	a.Advertise(ra.Message(pod, ra.Source{MAC: at.MAC, MTU: uint32(at.MTU), Lifetime: ra.DefaultLifetime}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(cancel)

	hasDefault := func() bool {
		routes, err := p.guest.netlink.RouteList(nil, netlink.FAMILY_V6)
		ok(t, err)
		return slices.ContainsFunc(routes, func(r netlink.Route) bool {
			ones := -1
			if r.Dst != nil {
				ones, _ = r.Dst.Mask.Size()
			}
			return (r.Dst == nil || ones == 0) && r.Gw.Equal(net.IP(routerLL.AsSlice()))
		})
	}
	want := addr.EUI64(pod.LinkPrefix, guestMAC)
	p.guest.eventually(t, "SLAAC address "+want.String(), func() bool { return p.guest.has(t, "eth0", want) })
	p.guest.eventually(t, "a default route", hasDefault)

	// A guest that comes later asks, and does not wait for the next one.
	l, err := p.guest.netlink.LinkByName("eth0")
	ok(t, err)
	ok(t, p.guest.netlink.LinkSetDown(l))
	p.guest.eventually(t, "no address while down", func() bool { return !p.guest.has(t, "eth0", want) })
	ok(t, p.guest.netlink.LinkSetUp(l))
	p.guest.eventually(t, "the address again", func() bool { return p.guest.has(t, "eth0", want) })
	p.guest.eventually(t, "the default route again", hasDefault)

	cancel()
	ok(t, <-done)
	p.guest.eventually(t, "no default route by a router that stopped", func() bool { return !hasDefault() })
	if !p.guest.has(t, "eth0", want) {
		t.Error("the address went with the router")
	}
}

// Nothing is sent from an address that may still be another's.
func TestAttachWaitsForTheLink(t *testing.T) {
	if !namespace(t) {
		return
	}
	m := here(t)
	if _, err := rtnl.Attach(context.Background(), "pod0"); sixacre.CodeOf(err) != sixacre.NotFound {
		t.Errorf("a link that does not exist: %v", err)
	}
	m.sysctl(t, "default/accept_dad", "1")
	ok(t, m.netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod0", HardwareAddr: routerMAC[:]}, PeerName: "peer0"}))
	attached := make(chan rtnl.Attachment, 1)
	go func() {
		a, err := rtnl.Attach(context.Background(), "pod0")
		if err != nil {
			t.Error(err)
		}
		attached <- a
	}()
	m.up(t, "pod0")
	select {
	case <-attached:
		t.Error("attached to a link that is not up")
	default:
	}
	m.up(t, "peer0")
	a := <-attached
	if !m.has(t, "pod0", routerLL) {
		t.Error("attached while the link-local address was tentative")
	}
	if a.LinkLocal != routerLL || a.MAC != routerMAC || a.MTU != 1500 {
		t.Errorf("attached as %+v", a)
	}
}
