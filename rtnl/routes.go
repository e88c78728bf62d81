// Package rtnl is the kernel's routing tables and links, by rtnetlink(7).
package rtnl

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
)

// Metrics of our routes, which nobody else chooses. A route that an
// administrator or another daemon keeps to the same prefix, at the kernel's usual
// 1024 or lower, stays and is preferred over ours; and any route to a whole pool
// is preferred over the unreachable one.
const (
	routeMetric       = 1660
	unreachableMetric = 4278198272
)

// Routes are the routes of protocol [sixacre.RouteProtocol] in the main table:
// those over one link, and the unreachable ones. No other route is ever touched.
type Routes struct {
	link int
}

// RoutesOf returns the routes over the link with that index.
func RoutesOf(link int) Routes { return Routes{link} }

// Routes lists our routes. One without a next hop is an unreachable one.
func (r Routes) Routes() ([]sixacre.Route, error) {
	var out []sixacre.Route
	ours := &netlink.Route{Protocol: sixacre.RouteProtocol}
	// A dump that a change interrupted is asked for again: it may lack routes.
	for {
		out = out[:0]
		err := netlink.RouteListFilteredIter(netlink.FAMILY_V6, ours, netlink.RT_FILTER_PROTOCOL, func(k netlink.Route) bool {
			out = append(out, r.read(k)...)
			return true
		})
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
}

// read returns the part of a kernel route that is ours.
func (r Routes) read(k netlink.Route) []sixacre.Route {
	prefix, ok := prefixOf(k.Dst)
	switch {
	case !ok:
		return nil
	case k.Type == unix.RTN_UNREACHABLE && k.Priority == unreachableMetric:
		return []sixacre.Route{{Prefix: prefix}}
	case k.Type != unix.RTN_UNICAST || k.Priority != routeMetric:
		return nil
	}
	hops := k.MultiPath
	if len(hops) == 0 {
		hops = []*netlink.NexthopInfo{{LinkIndex: k.LinkIndex, Gw: k.Gw}}
	}
	var out []sixacre.Route
	for _, hop := range hops {
		if via, ok := netip.AddrFromSlice(hop.Gw); ok && hop.LinkIndex == r.link {
			out = append(out, sixacre.Route{Prefix: prefix, NextHop: via})
		}
	}
	return out
}

// Replace puts next in the place of old. With the zero Route as old it adds
// next, and refuses if someone else has a route of the same prefix and metric;
// with the zero Route as next it deletes old, if it is there.
func (r Routes) Replace(old, next sixacre.Route) error {
	var err error
	switch {
	case !next.Prefix.IsValid():
		err = netlink.RouteDel(r.route(old))
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return routeError(old, err)
	case !old.Prefix.IsValid():
		err = netlink.RouteAdd(r.route(next))
	default:
		// The kernel puts it in the place of whatever has the same prefix and
		// metric, which Routes has just said is ours, without a moment in between.
		err = netlink.RouteReplace(r.route(next))
	}
	return routeError(next, err)
}

func routeError(route sixacre.Route, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		return sixacre.Errorf(sixacre.Conflict, "route to %s exists and is not ours: delete it with 'ip -6 route del %s'", route.Prefix, route.Prefix)
	case !route.NextHop.IsValid():
		return sixacre.Errorf(sixacre.Unavailable, "unreachable route to %s: %s", route.Prefix, err)
	}
	return sixacre.Errorf(sixacre.Unavailable, "route to %s via %s: %s", route.Prefix, route.NextHop, err)
}

func (r Routes) route(route sixacre.Route) *netlink.Route {
	k := &netlink.Route{
		Dst: &net.IPNet{
			IP:   route.Prefix.Addr().AsSlice(),
			Mask: net.CIDRMask(route.Prefix.Bits(), 128),
		},
		Protocol: sixacre.RouteProtocol,
		Table:    unix.RT_TABLE_MAIN,
	}
	if !route.NextHop.IsValid() {
		k.Type, k.Priority = unix.RTN_UNREACHABLE, unreachableMetric
		return k
	}
	k.Type, k.Priority = unix.RTN_UNICAST, routeMetric
	k.LinkIndex, k.Gw = r.link, route.NextHop.AsSlice()
	return k
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if !ok || size != 128 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, bits), true
}
