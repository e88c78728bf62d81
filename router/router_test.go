package router_test

import (
	"bytes"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/router"
)

var viaGuest = "166 via " + guestLL.String()

func TestRelayInsertsWhatTheFrameSays(t *testing.T) {
	if !namespace(t) {
		return
	}
	p := newPicture(t)
	p.start(t, p.alone)
	// The client claims to be someone else in every way it can.
	lie := dhcpv6.WithClientLinkLayerAddress(1, net.HardwareAddr{6, 0, 0, 0, 0, 0x99})
	solicit := message(dhcpv6.MessageTypeSolicit, lie,
		dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: net.HardwareAddr{6, 0, 0, 0, 0, 0x99}}))
	p.say(t, solicit)
	got := p.relayed(t)
	if got.MessageType != dhcpv6.MessageTypeRelayForward || got.HopCount != 0 {
		t.Errorf("relayed as %s, hop count %d", got.MessageType, got.HopCount)
	}
	if !got.LinkAddr.Equal(linkAddr.AsSlice()) || !got.PeerAddr.Equal(guestLL.AsSlice()) {
		t.Errorf("link-address %s, peer-address %s; want %s and %s", got.LinkAddr, got.PeerAddr, linkAddr, guestLL)
	}
	if kind, mac := got.Options.ClientLinkLayerAddress(); kind != 1 || mac.String() != guestMAC.String() {
		t.Errorf("client link-layer address %d %s, want 1 %s", kind, mac, guestMAC)
	}
	if id := got.Options.RemoteID(); id == nil || id.EnterpriseNumber != 32473 || !bytes.Equal(id.RemoteID, guestMAC[:]) {
		t.Errorf("remote-id %v, want 32473 and the six octets of %s", id, guestMAC)
	}
	if id := string(got.Options.InterfaceID()); !strings.HasPrefix(id, "pod0/") {
		t.Errorf("interface-id %q does not name the link", id)
	}
	if inner := got.Options.RelayMessage(); !bytes.Equal(inner.ToBytes(), solicit.ToBytes()) {
		t.Errorf("relayed %x, the client sent %x", inner.ToBytes(), solicit.ToBytes())
	}
	// An Advertise comes back, and is no delegation.
	inner, _ := got.GetInnerMessage()
	advertise := message(dhcpv6.MessageTypeAdvertise, withPrefix(prefix, time.Hour))
	advertise.TransactionID = inner.TransactionID
	repl, err := dhcpv6.NewRelayReplFromRelayForw(got, advertise)
	ok(t, err)
	_, err = p.server.WriteToUDPAddrPort(repl.ToBytes(), netip.AddrPortFrom(relayAddr, 547))
	ok(t, err)
	if m := p.heard(t); !bytes.Equal(m.ToBytes(), advertise.ToBytes()) {
		t.Errorf("the client heard %s, the server said %s", m, advertise)
	}
	p.expect(t, prefix)
}

func TestOnlyClientsAreRelayed(t *testing.T) {
	if !namespace(t) {
		return
	}
	p := newPicture(t)
	r, _ := p.start(t, p.alone)
	inner := message(dhcpv6.MessageTypeSolicit)
	forged, err := dhcpv6.EncapsulateRelay(inner, dhcpv6.MessageTypeRelayForward, linkAddr.AsSlice(), guestLL.AsSlice())
	ok(t, err)
	p.say(t, forged)
	for _, kind := range []dhcpv6.MessageType{dhcpv6.MessageTypeAdvertise, dhcpv6.MessageTypeReply, dhcpv6.MessageTypeReconfigure, dhcpv6.MessageTypeRelayReply, 36} {
		p.say(t, message(kind))
	}
	// From another port than a client's.
	ok(t, p.guest.do(func() error {
		c, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(guestLL.WithZone("eth0"), 5460)))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.WriteToUDPAddrPort(inner.ToBytes(), relays)
		return err
	}))
	// To the router itself instead of to the group.
	_, err = p.client.WriteToUDPAddrPort(inner.ToBytes(), netip.AddrPortFrom(routerLL.WithZone("eth0"), 547))
	ok(t, err)
	// All of these come after each other on one path, and only the last arrives.
	last := message(dhcpv6.MessageTypeInformationRequest)
	p.say(t, last)
	if got := p.relayed(t).Options.RelayMessage(); !bytes.Equal(got.ToBytes(), last.ToBytes()) {
		t.Errorf("relayed %s", got.Summary())
	}
	counted := dropped(t, r)
	if want := (map[string]float64{"not-client": 6, "not-dhcp": 1}); !maps.Equal(counted, want) {
		t.Errorf("counted %v, want %v", counted, want)
	}
}

// dropped returns the counters of what went no further, by reason.
func dropped(t *testing.T, r *router.Router) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(r.Collectors()...)
	families, err := registry.Gather()
	ok(t, err)
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "sixacre_router_dropped_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			out[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return out
}

func TestRouteFollowsReplies(t *testing.T) {
	if !namespace(t) {
		return
	}
	p := newPicture(t)
	// Someone else's routes: one to the very prefix, one like ours that is not.
	foreign := p.foreign(t, prefix)
	pool := p.foreign(t, "2001:db8:4000::/40")
	_, stop := p.start(t, p.alone)
	p.router.eventually(t, "the pool's unreachable route", func() bool {
		return slices.Equal(p.router.routes(t, "2001:db8:4000::/40"), []string{"166 unreachable", pool})
	})

	// The route is there before the client has its reply.
	p.request(t, prefix, time.Hour)
	p.expect(t, prefix, viaGuest, foreign)

	// Not by a Release, but by its Reply; and not by one that refuses.
	p.say(t, message(dhcpv6.MessageTypeRelease, withPrefix(prefix, 0)))
	p.answer(t, p.relayed(t), dhcpv6.WithOption(&dhcpv6.OptStatusCode{StatusCode: 1}))
	p.heard(t)
	p.expect(t, prefix, viaGuest, foreign)
	p.say(t, message(dhcpv6.MessageTypeRelease, withPrefix(prefix, 0)))
	p.answer(t, p.relayed(t), dhcpv6.WithOption(&dhcpv6.OptStatusCode{StatusCode: 0}))
	p.heard(t)
	p.expect(t, prefix, foreign)

	// By lifetime 0.
	p.request(t, prefix, time.Hour)
	p.expect(t, prefix, viaGuest, foreign)
	p.request(t, prefix, 0)
	p.expect(t, prefix, foreign)

	// By expiry.
	p.request(t, prefix, 2*time.Second)
	p.expect(t, prefix, viaGuest, foreign)
	p.router.eventually(t, "the end of the route", func() bool { return slices.Equal(p.router.routes(t, prefix), []string{foreign}) })

	// Never outside the pools, never the link.
	for _, other := range []string{"2001:db8:5000::/60", "2001:db8:100:1::/64", "2001:db8:4000:20::/64"} {
		p.request(t, other, time.Hour)
		for _, route := range p.router.routes(t, other) {
			if strings.HasPrefix(route, "166 ") {
				t.Errorf("route to %s: %s", other, route)
			}
		}
	}

	// The routes stay when the router stops.
	p.request(t, prefix, time.Hour)
	stop()
	p.expect(t, prefix, viaGuest, foreign)
	p.expect(t, "2001:db8:4000::/40", "166 unreachable", pool)
}

// foreign adds a static route over the link that is none of ours.
func (p picture) foreign(t *testing.T, prefix string) string {
	t.Helper()
	l, err := p.router.netlink.LinkByName("pod0")
	ok(t, err)
	_, dst, err := net.ParseCIDR(prefix)
	ok(t, err)
	ok(t, p.router.netlink.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: l.Attrs().Index, Gw: net.ParseIP("fe80::99"), Protocol: unix.RTPROT_STATIC}))
	return "4 via fe80::99"
}

func TestForgedRelayReply(t *testing.T) {
	if !namespace(t) {
		return
	}
	p := newPicture(t)
	p.start(t, p.alone)
	p.say(t, message(dhcpv6.MessageTypeRequest, withPrefix(prefix, 0)))
	relay := p.relayed(t)
	inner, err := relay.GetInnerMessage()
	ok(t, err)
	to := netip.AddrPortFrom(relayAddr, 547)

	// A true answer, but from someone who is no server.
	reply := message(dhcpv6.MessageTypeReply, withPrefix(prefix, time.Hour))
	reply.TransactionID = inner.TransactionID
	repl, err := dhcpv6.NewRelayReplFromRelayForw(relay, reply)
	ok(t, err)
	stranger, err := net.ListenUDP("udp6", &net.UDPAddr{IP: linkAddr.AsSlice(), Port: 547})
	ok(t, err)
	defer stranger.Close()
	_, err = stranger.WriteToUDPAddrPort(repl.ToBytes(), to)
	ok(t, err)

	// From the server's address, but for another client or transaction than the
	// one relayed.
	for _, change := range []func(*dhcpv6.RelayMessage){
		func(r *dhcpv6.RelayMessage) { r.PeerAddr = net.ParseIP("fe80::66") },
		func(r *dhcpv6.RelayMessage) { r.LinkAddr = net.ParseIP("2001:db8::66") },
		func(r *dhcpv6.RelayMessage) { r.UpdateOption(dhcpv6.OptInterfaceID([]byte("pod0"))) },
		func(r *dhcpv6.RelayMessage) {
			id := strings.Replace(string(relay.Options.InterfaceID()), guestMAC.String(), "06:00:00:00:00:66", 1)
			r.UpdateOption(dhcpv6.OptInterfaceID([]byte(id)))
		},
		func(r *dhcpv6.RelayMessage) {
			other := *reply
			other.TransactionID[0]++
			r.UpdateOption(dhcpv6.OptRelayMessage(&other))
		},
	} {
		forged, err := dhcpv6.NewRelayReplFromRelayForw(relay, reply)
		ok(t, err)
		change(forged.(*dhcpv6.RelayMessage))
		_, err = p.server.WriteToUDPAddrPort(forged.ToBytes(), to)
		ok(t, err)
	}

	// What comes next is the first that the client hears, and makes the only route.
	other := "2001:db8:4000:20::/60"
	p.answer(t, relay, withPrefix(other, time.Hour))
	if got := p.heard(t).Options.OneIAPD().Options.Prefixes(); len(got) != 1 || got[0].Prefix.String() != other {
		t.Errorf("heard of %v", got)
	}
	p.expect(t, prefix)
	p.expect(t, other, viaGuest)
}

func TestKilledRouterGoesOn(t *testing.T) {
	if !namespace(t) {
		return
	}
	p := newPicture(t)
	launch := func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "SIXACRE_TEST_ROUTER="+p.dir)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		out, err := cmd.StdoutPipe()
		ok(t, err)
		ok(t, cmd.Start())
		_, err = out.Read(make([]byte, 8)) // it says that it runs
		ok(t, err)
		return cmd
	}
	runtime.LockOSThread() // the death signal is for the end of this thread
	kill := func(cmd *exec.Cmd) {
		ok(t, cmd.Process.Signal(syscall.SIGKILL))
		cmd.Wait()
	}
	first := launch()
	brief := "2001:db8:4000:20::/60"
	p.request(t, prefix, time.Hour)
	p.request(t, brief, 3*time.Second)
	kill(first)
	p.expect(t, prefix, viaGuest)
	p.expect(t, brief, viaGuest)

	// The machine forgets one route meanwhile, and gets one of ours that nobody
	// delegated.
	_, dst, err := net.ParseCIDR(prefix)
	ok(t, err)
	ok(t, p.router.netlink.RouteDel(&netlink.Route{Dst: dst}))
	l, err := p.router.netlink.LinkByName("pod0")
	ok(t, err)
	_, stray, err := net.ParseCIDR("2001:db8:4000:30::/60")
	ok(t, err)
	ok(t, p.router.netlink.RouteAdd(&netlink.Route{Dst: stray, LinkIndex: l.Attrs().Index, Gw: guestLL.AsSlice(), Protocol: 166, Priority: 1660}))

	second := launch()
	defer kill(second)
	p.router.eventually(t, "the routes as before the kill", func() bool {
		return slices.Equal(p.router.routes(t, prefix), []string{viaGuest}) &&
			len(p.router.routes(t, "2001:db8:4000:30::/60")) == 0
	})
	p.router.eventually(t, "expiry by the lifetime from before the kill", func() bool { return len(p.router.routes(t, brief)) == 0 })
	// The relay works, too.
	p.request(t, brief, time.Hour)
	p.expect(t, brief, viaGuest)
}

func TestLinkFlapAndTampering(t *testing.T) {
	if !namespace(t) {
		return
	}
	p := newPicture(t)
	p.start(t, p.alone)
	p.request(t, prefix, time.Hour)
	l, err := p.router.netlink.LinkByName("pod0")
	ok(t, err)
	ok(t, p.router.netlink.LinkSetDown(l))
	p.router.eventually(t, "no route over a link that is down", func() bool { return len(p.router.routes(t, prefix)) == 0 })
	ok(t, p.router.netlink.LinkSetUp(l))
	p.router.eventually(t, "the route after the link came back", func() bool { return slices.Equal(p.router.routes(t, prefix), []string{viaGuest}) })

	_, dst, err := net.ParseCIDR(prefix)
	ok(t, err)
	ok(t, p.router.netlink.RouteDel(&netlink.Route{Dst: dst}))
	p.router.eventually(t, "the route after someone deleted it", func() bool { return slices.Equal(p.router.routes(t, prefix), []string{viaGuest}) })
	_, pool, err := net.ParseCIDR("2001:db8:4000::/40")
	ok(t, err)
	ok(t, p.router.netlink.RouteDel(&netlink.Route{Dst: pool, Type: unix.RTN_UNREACHABLE}))
	p.router.eventually(t, "the unreachable route after someone deleted it", func() bool {
		return slices.Equal(p.router.routes(t, "2001:db8:4000::/40"), []string{"166 unreachable"})
	})
}

func TestRecordRules(t *testing.T) {
	if !namespace(t) {
		return
	}
	p := newPicture(t)
	r, stop := p.start(t, p.recorded)
	nic := sixacre.NIC{MAC: guestMAC, Pod: pod.Name, LinkLocal: guestLL, Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}}
	view := sixacre.View{Revision: 5, Full: true, Pods: []sixacre.Pod{pod}, Instances: []sixacre.Instance{{Name: "i-1", NICs: []sixacre.NIC{nic}}}}

	// No reply ever passed.
	r.Follow(view)
	p.router.eventually(t, "the route of the record", func() bool { return slices.Equal(p.router.routes(t, prefix), []string{viaGuest}) })

	// Deleted: the route goes at once, and a reply from a server that is behind
	// does not bring it back.
	gone := sixacre.View{Revision: 6, Full: true, Pods: []sixacre.Pod{pod}}
	r.Follow(gone)
	p.router.eventually(t, "no route after the deletion", func() bool { return len(p.router.routes(t, prefix)) == 0 })
	p.request(t, prefix, time.Hour)
	p.expect(t, prefix)

	// Without the server, the next process goes on from the last view.
	view.Revision = 7
	r.Follow(view)
	p.router.eventually(t, "the route of the record", func() bool { return slices.Equal(p.router.routes(t, prefix), []string{viaGuest}) })
	stop()
	_, dst, err := net.ParseCIDR(prefix)
	ok(t, err)
	ok(t, p.router.netlink.RouteDel(&netlink.Route{Dst: dst}))
	p.start(t, p.recorded)
	p.router.eventually(t, "the route of the last view", func() bool { return slices.Equal(p.router.routes(t, prefix), []string{viaGuest}) })
}
