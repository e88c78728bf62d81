package router_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv6"

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

	// A guest that comes later asks, and is answered itself: what is sent without
	// asking goes to all nodes.
	var guest *ndp.Conn
	ok(t, p.guest.do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err == nil {
			guest, _, err = ndp.Listen(ifi, ndp.Addr(guestLL.String()))
		}
		return err
	}))
	defer guest.Close()
	ok(t, guest.SetControlMessage(ipv6.FlagDst, true))
	ok(t, guest.WriteTo(&ndp.RouterSolicitation{}, nil, netip.MustParseAddr("ff02::2")))
	ok(t, guest.SetReadDeadline(time.Now().Add(20*time.Second)))
	for {
		m, cm, from, err := guest.ReadFrom()
		ok(t, err)
		if _, advertised := m.(*ndp.RouterAdvertisement); advertised && cm.Dst.Equal(guestLL.AsSlice()) {
			if from.WithZone("") != routerLL {
				t.Errorf("answered by %s, not by %s", from, routerLL)
			}
			break
		}
	}

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
