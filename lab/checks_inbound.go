package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// inboundChecks send to i-1, and to others, what nobody asked for, beside what
// they must get.
func inboundChecks() []check {
	return []check{
		{"unasked", "new TCP, UDP and other connections, but for those that a group allows", (*Lab).checkUnasked},
		{"inbound-icmpv6", "ICMPv6 errors, ND, RA and MLD to a guest, as RFC 4890 says", (*Lab).checkInboundICMP},
		{"echo-by-rule", "echo requests in a pod where a rule must allow them", (*Lab).checkEchoByRule},
		{"from-elsewhere", "packets from the link with the address of a guest that is here", (*Lab).checkFromElsewhere},
	}
}

// fromOutside is a packet from the core, as router1 hands it on.
func (s *spoofer) fromOutside() ip6 { return ip6{srcMAC: s.routerMAC, src: s.router.outside} }

// checkTo sends from router1 and sees at i-1 what has become of it.
func (l *Lab) checkTo(ctx context.Context, probes func(*spoofer) []probe) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		all := probes(s)
		return fmt.Sprintf("dropped: %s; seen at %s: %s", list(all, false), s.guest.name, list(all, true)), l.probe(s.atRouter, all, s.wire)
	})
}

func (l *Lab) checkUnasked(ctx context.Context) (string, error) {
	seen, err := l.checkTo(ctx, func(s *spoofer) []probe {
		outside := s.fromOutside().to(s.guest.mac, s.nic.Address)
		to := func(a netip.Addr) ip6 { return s.fromOutside().to(s.guest.mac, a) }
		router := ip6{srcMAC: s.routerMAC, src: s.router.linkLocal}
		reply := dhcpMessage(dhcpReply, number()&0xffffff, option(optServerID, duid(s.routerMAC)))
		open, closed := token(), token()
		all := []probe{
			forbidden(fmt.Sprintf("TCP to port %d", closedPort), outside.syn(40000, closedPort, number())),
			forbidden("to its prefix", to(s.inner).syn(40000, closedPort, number())),
			forbidden("UDP", outside.udp(40000, closedPort, token())),
			forbidden("UDP behind options", outside.udp(40000, closedPort, token()).behind(padding)),
			forbidden("SCTP", outside.packet(132, token())),
			forbidden("GRE", outside.packet(47, token())),
			forbidden("multicast", to(allNodes).to("", allNodes).udp(40000, openPort, token())),
			forbidden(fmt.Sprintf("port %d behind routing header 0", openPort), outside.udp(40000, openPort, token()).behind(sourceRoute)),
			forbidden("to i-2's address", to(s.victimNIC.Address).udp(40000, openPort, token())),
			forbidden("to i-2's prefix", to(s.theirs).udp(40000, openPort, token())),
			forbidden("to an address that nobody has", to(netip.MustParseAddr("2001:db8:100:1::77")).udp(40000, openPort, token())),
			forbidden("a DHCPv6 Reply from a global address", outside.udp(serverPort, clientPort, reply)),
			forbidden("behind a VLAN tag", outside.udp(40000, openPort, token()).in(0x81, 0, 0, 0, 0x86, 0xdd)),
			permitted(fmt.Sprintf("TCP to port %d", openPort), outside.syn(40000, openPort, number())),
			permitted("to its prefix", to(s.inner).syn(40000, openPort, number())),
			permitted("UDP", outside.udp(40000, openPort, token())),
			permitted("UDP behind options", outside.udp(40000, openPort, token()).behind(padding)),
			permitted("a DHCPv6 Reply from the router's link-local", router.to(s.guest.mac, s.nic.LinkLocal).udp(serverPort, clientPort, reply)),
		}
		for _, f := range outside.udp(40000, closedPort, append(closed, closed...)).fragments(24) {
			all = append(all, probe{"UDP in fragments", f, false, closed})
		}
		for _, f := range outside.udp(40000, openPort, append(open, open...)).fragments(24) {
			all = append(all, probe{"UDP in fragments", f, true, open})
		}
		return all
	})
	if err != nil {
		return "", err
	}
	// Between two guests of one hypervisor.
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		beside := s.victim.self(s.victimNIC.Address).to(s.guest.mac, s.nic.Address)
		return seen + "; from i-2 the same", l.probe(s.atVictim, []probe{
			forbidden("TCP from i-2", beside.syn(40000, closedPort, number())),
			forbidden("UDP from i-2", beside.udp(40000, closedPort, token())),
			permitted("TCP from i-2 to an open port", beside.syn(40000, openPort, number())),
		}, s.wire)
	})
}

func (l *Lab) checkInboundICMP(ctx context.Context) (string, error) {
	return l.checkTo(ctx, func(s *spoofer) []probe {
		outside := s.fromOutside().to(s.guest.mac, s.nic.Address)
		router := ip6{srcMAC: s.routerMAC, src: s.router.linkLocal}
		toLocal := router.to(s.guest.mac, s.nic.LinkLocal)
		global := ip6{srcMAC: s.routerMAC, src: s.router.address}.to(s.guest.mac, s.nic.Address)
		toward := netip.MustParseAddr("2001:db8:dead::1")
		sent := func(src netip.Addr) frame { return s.own(src).to(s.routerMAC, toward).udp(40000, 53, token()) }
		names := map[byte]string{icmpUnreachable: "Destination Unreachable", icmpTooBig: "Packet Too Big", icmpTimeExceeded: "Time Exceeded", icmpParameter: "Parameter Problem"}
		var all []probe
		for typ, name := range names {
			all = append(all, permitted(name+" about a packet of its own", outside.quoting(typ, sent(s.nic.Address))),
				permitted(name+" about one of its prefix", outside.quoting(typ, sent(s.inner))))
			if typ != icmpTooBig {
				all = append(all, forbidden(name+" about another's", outside.quoting(typ, sent(s.victimNIC.Address))),
					forbidden(name+" about nothing", outside.icmp(typ, append(make([]byte, 4), token()...))))
			}
		}
		slices.SortFunc(all, func(a, b probe) int { return int(a.frame.payload()[0]) - int(b.frame.payload()[0]) })
		for typ, what := range map[byte]string{
			129: "an echo reply to nothing", icmpMLDReport: "an MLD report", icmpRouterSol: "a Router Solicitation",
			icmpRenumbering: "router renumbering", icmpNodeQuery: "a node information query",
		} {
			all = append(all, forbidden(what, toLocal.onLink().icmp(typ, token())))
		}
		redirect := slices.Concat(token()[:4], s.router.linkLocal.AsSlice(), toward.AsSlice())
		return append(all,
			forbidden("a redirect of the router", toLocal.onLink().icmp(icmpRedirect, redirect)),
			forbidden("RA from a global address", global.routerAdvertisement()),
			forbidden("RA with hop limit 64", toLocal.hops(64).icmp(icmpRouterAdv, []byte{64, 0xc0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 1})),
			forbidden("RA in an atomic fragment", toLocal.routerAdvertisement().behind(atomic)),
			forbidden("NS with hop limit 64", toLocal.hops(64).nd(icmpNeighborSol, s.nic.Address)),
			forbidden("NS for i-2's address", toLocal.onLink().nd(icmpNeighborSol, s.victimNIC.Address)),
			forbidden("NA with hop limit 64", toLocal.hops(64).nd(icmpNeighborAdv, s.router.linkLocal)),
			forbidden("MLD query from a global address", global.hops(1).mld(icmpMLDQuery)),
			forbidden("MLD query with hop limit 64", toLocal.hops(64).mld(icmpMLDQuery)),
			permitted("Packet Too Big about another's", outside.quoting(icmpTooBig, sent(s.victimNIC.Address))),
			permitted("an echo request to its address", outside.echo(token())),
			permitted("to its prefix", s.fromOutside().to(s.guest.mac, s.inner).echo(token())),
			permitted("from link-local", toLocal.echo(token())),
			permitted("RA from link-local", toLocal.onLink().icmp(icmpRouterAdv, []byte{64, 0xc0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 2})),
			permitted("NS", toLocal.onLink().nd(icmpNeighborSol, s.nic.Address, macOption(sourceMAC, s.routerMAC))),
			permitted("NA", toLocal.onLink().nd(icmpNeighborAdv, s.router.linkLocal)),
			permitted("MLD query", toLocal.hops(1).mld(icmpMLDQuery)))
	})
}

// checkEchoByRule is about pod2, where the group allows one of router3's
// addresses to ask.
func (l *Lab) checkEchoByRule(ctx context.Context) (string, error) {
	g, r := guestNamed("i-5"), pod2.routers[0]
	nic, err := l.nic(ctx, g.name)
	if err != nil {
		return "", err
	}
	guest, err := l.attach(g.name, "eth0")
	if err != nil {
		return "", err
	}
	defer guest.Close()
	router, err := l.attach(r.name, "pod")
	if err != nil {
		return "", err
	}
	defer router.Close()
	from := func(src netip.Addr) ip6 { return ip6{srcMAC: r.mac, src: src}.to(g.mac, nic.Address) }
	all := []probe{
		forbidden("from "+r.address.String(), from(r.address).echo(token())),
		forbidden("from "+serverAddress.String(), from(serverAddress).echo(token())),
		permitted("from "+r.outside.String(), from(r.outside).echo(token())),
		forbidden("on link-local", ip6{srcMAC: r.mac, src: r.linkLocal}.to(g.mac, nic.LinkLocal).echo(token())),
		permitted("Packet Too Big", from(serverAddress).icmp(icmpTooBig, append([]byte{0, 0, 5, 0}, token()...))),
	}
	return fmt.Sprintf("dropped: %s; seen at %s: %s", list(all, false), g.name, list(all, true)), l.probe(router, all, guest)
}

// checkFromElsewhere has the stray use i-1's addresses towards i-2, and i-1 send
// to i-2's prefix by way of the router.
func (l *Lab) checkFromElsewhere(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		w, err := l.attach(stray.name, "eth0")
		if err != nil {
			return "", err
		}
		defer w.Close()
		as := func(src netip.Addr) frame {
			return stray.self(src).to(s.victim.mac, s.victimNIC.Address).udp(40000, openPort, token())
		}
		all := []probe{
			forbidden("from i-1's address", as(s.nic.Address)), forbidden("from its prefix", as(s.inner)),
			permitted("from an address that no guest here has", as(stray.want)),
		}
		if err := l.probe(w, all, s.atVictim); err != nil {
			return "", err
		}
		hairpin := []probe{permitted("i-1's own by way of the router", s.own(s.inner).to(s.routerMAC, s.theirs).udp(40001, openPort, token()))}
		return fmt.Sprintf("dropped: %s; seen at %s: %s, %s", list(all, false), s.victim.name, list(all, true), list(hairpin, true)), l.probe(s.wire, hairpin, s.atVictim)
	})
}
