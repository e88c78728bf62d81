package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// identityChecks are about guests that choose addresses of their own.
func identityChecks() []check {
	return []check{
		{"learned-link-local", "a guest with a random link-local address: it is granted, filtered for and routed to", (*Lab).checkLearnedLinkLocal},
		{"temporary-address", "a guest with temporary addresses, where the pod allows the whole link prefix", (*Lab).checkTemporaryAddress},
	}
}

// checkLearnedLinkLocal boots the scratch guest with a link-local address as
// RFC 7217 makes them.
func (l *Lab) checkLearnedLinkLocal(ctx context.Context) (seen string, err error) {
	boot := func(mode, dad string) error {
		if err := l.sysctl(scratch.name, map[string]string{"ipv6/conf/eth0/accept_dad": dad}); err != nil {
			return err
		}
		return l.ip(ctx, scratch.name, fmt.Sprintf("link set eth0 down\nlink set eth0 addrgenmode %s\nlink set eth0 up\n", mode))
	}
	defer func() {
		if restored := boot("eui64", "0"); err == nil {
			err = restored
		}
	}()
	return l.withInstance(ctx, scratch, func(name string, nic nicRecord) (string, error) {
		if err := l.programmed(ctx, scratch); err != nil {
			return "", err
		}
		began := time.Now()
		if err := boot("random", "1"); err != nil {
			return "", err
		}
		as := scratch
		if err := until(ctx, answerWithin, func() error {
			all, err := l.addresses(scratch.name, "eth0")
			if err != nil {
				return err
			}
			at := slices.IndexFunc(all, func(a address) bool { return a.IsLinkLocalUnicast() })
			if at < 0 {
				return fmt.Errorf("%s has no link-local address", scratch.name)
			}
			as.taken = all[at].Addr
			if nic, err = l.nic(ctx, name); err == nil && nic.Learned != as.taken {
				err = fmt.Errorf("the record has learned %s, and the guest has %s: %s", nic.Learned, as.taken, l.lastWords("agent"))
			}
			return err
		}); err != nil {
			return "", err
		}
		took := time.Since(began)
		router, w, end, err := l.bothEnds(pod1.routers[0], scratch)
		if err != nil {
			return "", err
		}
		defer end()
		var all []probe
		if err := l.settled(ctx, w, func() []probe {
			toRouter := func(src netip.Addr) ip6 {
				return scratch.self(src).to(pod1.routers[0].mac, pod1.routers[0].linkLocal).onLink()
			}
			all = []probe{
				forbidden("from another link-local", toRouter(netip.MustParseAddr("fe80::5eed")).echo(token())),
				forbidden("NA for another", toRouter(as.taken).nd(icmpNeighborAdv, netip.MustParseAddr("fe80::5eed"))),
				permitted("from it", toRouter(as.taken).echo(token())),
				permitted("NA for it", toRouter(as.taken).nd(icmpNeighborAdv, as.taken)),
				permitted("from the one that the MAC makes", toRouter(nic.LinkLocal).echo(token())),
			}
			return all
		}, router); err != nil {
			return "", err
		}
		offer, err := l.askFor(ctx, as, name)
		if err != nil {
			return "", err
		}
		if err := l.lease(as, offer); err != nil {
			return "", err
		}
		if err := l.routed(ctx, as, nic.Prefixes, true); err != nil {
			return "", err
		}
		at := hostOf(nic.Prefixes[0])
		if err := l.ip(ctx, scratch.name, fmt.Sprintf("addr replace %s/64 dev %s\n", at, inner)); err != nil {
			return "", err
		}
		defer l.ip(ctx, scratch.name, fmt.Sprintf("addr flush dev %s\n", inner))
		// Its first Router Solicitation left too early and was dropped; it has default
		// routes by the next.
		if err := until(ctx, answerWithin, func() error {
			routes, err := l.defaultRoutes(ctx, scratch)
			if err == nil && len(routes) < len(pod1.routers) {
				err = fmt.Errorf("%s has %d default routes", scratch.name, len(routes))
			}
			return err
		}); err != nil {
			return "", err
		}
		if err := l.ping(ctx, pod1.routers[0], at); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s granted %.1f s after the NIC came up; dropped: %s; seen at %s: %s; by DHCPv6 it got %s, routed to it, and %s answers a ping",
			as.taken, took.Seconds(), list(all, false), pod1.routers[0].name, list(all, true), join(offer.prefixes), at), nil
	})
}

// checkTemporaryAddress is about p-1, whose kernel makes temporary addresses
// (RFC 8981).
func (l *Lab) checkTemporaryAddress(ctx context.Context) (string, error) {
	nic, err := l.nic(ctx, private.name)
	if err != nil {
		return "", err
	}
	other, err := l.nic(ctx, tenants[0].name)
	if err != nil {
		return "", err
	}
	var temporary netip.Addr
	if err := until(ctx, answerWithin, func() error {
		all, err := l.addresses(private.name, "eth0")
		if err != nil {
			return err
		}
		at := slices.IndexFunc(all, func(a address) bool {
			return !a.IsLinkLocalUnicast() && a.Addr != nic.Address && !a.tentative
		})
		if at < 0 {
			return fmt.Errorf("%s has no temporary address", private.name)
		}
		temporary = all[at].Addr
		return nil
	}); err != nil {
		return "", err
	}
	r := pod3.routers[0]
	for _, to := range []netip.Addr{temporary, nic.Address} {
		if err := l.ping(ctx, r, to); err != nil {
			return "", err
		}
	}
	w, err := l.attach(private.name, "eth0")
	if err != nil {
		return "", err
	}
	defer w.Close()
	router, err := l.attach(r.name, "pod")
	if err != nil {
		return "", err
	}
	defer router.Close()
	own := func(src netip.Addr) ip6 { return private.self(src).to(r.mac, r.address).onLink() }
	beyond := private.self(private.want)
	beyond.srcMAC = tenants[0].mac
	all := []probe{
		forbidden("from the address of "+tenants[0].name, own(other.Address).echo(token())),
		forbidden("NA for it", own(nic.Address).nd(icmpNeighborAdv, other.Address)),
		forbidden("from another link", own(pod1.link.Addr().Next()).echo(token())),
		forbidden("from its MAC", beyond.to(r.mac, r.address).echo(token())),
		permitted("from "+temporary.String(), own(temporary).echo(token())),
		permitted("NA for it", own(temporary).nd(icmpNeighborAdv, temporary)),
		permitted("from "+nic.Address.String(), own(nic.Address).echo(token())),
	}
	return fmt.Sprintf("%s and %s answer a ping; dropped: %s; seen at %s: %s", temporary, nic.Address, list(all, false), r.name, list(all, true)), l.probe(w, all, router)
}
