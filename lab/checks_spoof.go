package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// spoofChecks send from inside i-1 what a guest may not send, and what looks
// much like it and is allowed. When that has arrived and the other has not, the
// filter has dropped it.
func spoofChecks() []check {
	return []check{
		{"spoofed-mac", "frames with another MAC than the guest's own", (*Lab).checkSpoofedMAC},
		{"spoofed-source", "packets from another's address, and from nobody's", (*Lab).checkSpoofedSource},
		{"spoofed-prefix", "packets from another instance's prefix", (*Lab).checkSpoofedPrefix},
		{"spoofed-connection", "packets that belong to another's established connection", (*Lab).checkSpoofedConnection},
		{"rogue-ra", "a Router Advertisement from a guest, in disguise too", (*Lab).checkRogueRA},
		{"rogue-dhcp-server", "what only a DHCPv6 server or relay sends, from a guest", (*Lab).checkRogueDHCP},
		{"spoofed-neighbor", "Neighbor Advertisements and Solicitations for and with what is another's", (*Lab).checkSpoofedNeighbor},
		{"icmpv6-types", "redirects, MLD queries and more that no guest sends", (*Lab).checkICMPTypes},
		{"tcp-on-link-local", "TCP and UDP from and to link-local addresses", (*Lab).checkLinkLocal},
		{"ethertypes", "VLAN tags, 802.3 and whatever else is no IP; IPv4 and ARP by another's MAC", (*Lab).checkEthertypes},
		{"header-chains", "routing header 0 and header chains that end nowhere, fragments of what may not pass", (*Lab).checkHeaderChains},
		{"rates", "a flood of DHCPv6, ND and MLD from one guest is cut, and another's pass", (*Lab).checkRates},
	}
}

// self is what a guest sends from its address.
func (g guest) self(address netip.Addr) ip6 { return ip6{srcMAC: g.mac, src: address} }

// spoofer is i-1 with its wire, i-2 as its victim, and where the frames that are
// let through arrive.
type spoofer struct {
	guest, victim     guest
	nic, victimNIC    nicRecord
	wire              *wire
	router            router
	atRouter          *wire
	atVictim          *wire
	inner, theirs     netip.Addr // an address of its prefix, and of the victim's
	routerMAC, nobody string
}

func (l *Lab) spoofer(ctx context.Context) (s *spoofer, err error) {
	s = &spoofer{guest: guestNamed("i-1"), victim: guestNamed("i-2"), router: pod1.routers[0], nobody: "06:00:00:00:00:99"}
	s.routerMAC = s.router.mac
	if s.nic, err = l.nic(ctx, s.guest.name); err != nil {
		return nil, err
	}
	if s.victimNIC, err = l.nic(ctx, s.victim.name); err != nil {
		return nil, err
	}
	s.inner, s.theirs = hostOf(s.nic.Prefixes[0]), hostOf(s.victimNIC.Prefixes[0])
	for _, open := range []struct {
		wire        **wire
		box, device string
	}{{&s.wire, s.guest.name, "eth0"}, {&s.atRouter, s.router.name, "pod"}, {&s.atVictim, s.victim.name, "eth0"}} {
		if *open.wire, err = l.attach(open.box, open.device); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// hostOf is some address inside a prefix.
func hostOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As16()
	b[15] = 0x66
	return netip.AddrFrom16(b)
}

func (s *spoofer) Close() {
	for _, w := range []*wire{s.wire, s.atRouter, s.atVictim} {
		if w != nil {
			w.Close()
		}
	}
}

// toRouter is a packet of i-1 to its router.
func (s *spoofer) toRouter(from ip6) ip6 { return from.to(s.routerMAC, s.router.address) }

// withSpoofer opens what a check needs and closes it again.
func (l *Lab) withSpoofer(ctx context.Context, f func(*spoofer) (string, error)) (string, error) {
	s, err := l.spoofer(ctx)
	if err != nil {
		return "", err
	}
	defer s.Close()
	return f(s)
}

// own is what i-1 sends to its router from an address.
func (s *spoofer) own(address netip.Addr) ip6 { return s.toRouter(s.guest.self(address)) }

// checkFrom sends from i-1 and sees at router1 what has become of it.
func (l *Lab) checkFrom(ctx context.Context, probes func(*spoofer) []probe) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		all := probes(s)
		return fmt.Sprintf("dropped: %s; seen at %s: %s", list(all, false), s.router.name, list(all, true)), l.probe(s.wire, all, s.atRouter)
	})
}

func (l *Lab) checkSpoofedMAC(ctx context.Context) (string, error) {
	return l.checkFrom(ctx, func(s *spoofer) []probe {
		other := s.own(s.nic.Address)
		other.srcMAC = s.nobody
		group := s.own(s.nic.Address)
		group.srcMAC = "07:00:00:00:00:01"
		return []probe{
			forbidden("from "+s.nobody, other.echo(token())),
			forbidden("from "+s.victim.name+"'s MAC and address", s.toRouter(s.victim.self(s.victimNIC.Address)).echo(token())),
			forbidden("from the router's MAC and address", ip6{srcMAC: pod1.routers[1].mac, src: pod1.routers[1].address}.to(s.routerMAC, s.router.address).echo(token())),
			forbidden("from a group's MAC", group.echo(token())),
			permitted("from the own "+s.guest.mac, s.own(s.nic.Address).echo(token())),
		}
	})
}

func (l *Lab) checkSpoofedSource(ctx context.Context) (string, error) {
	return l.checkFrom(ctx, func(s *spoofer) []probe {
		var all []probe
		for _, from := range []struct {
			what string
			src  netip.Addr
		}{
			{s.victim.name + "'s address", s.victimNIC.Address}, {s.victim.name + "'s link-local", s.victimNIC.LinkLocal},
			{"the router's address", s.router.address}, {"the router's link-local", s.router.linkLocal}, {"the server's address", serverAddress},
			{"the subnet-router anycast address", s.guest.pod.link.Addr()}, {"a free one of the link", s.guest.pod.link.Addr().Next()},
			{"2001:db8:dead::1", netip.MustParseAddr("2001:db8:dead::1")}, {"::", netip.IPv6Unspecified()}, {"::1", netip.IPv6Loopback()},
			{"a group", allNodes}, {"an IPv4-mapped address", netip.MustParseAddr("::ffff:192.0.2.1")},
		} {
			all = append(all, forbidden("from "+from.what, s.own(from.src).echo(token())))
		}
		return append(all, permitted("from the own address", s.own(s.nic.Address).echo(token())), permitted("UDP from it", s.own(s.nic.Address).udp(40000, 53, token())),
			permitted("an echo request from its link-local", s.guest.self(s.nic.LinkLocal).to(s.routerMAC, s.router.linkLocal).echo(token())))
	})
}

func (l *Lab) checkSpoofedPrefix(ctx context.Context) (string, error) {
	return l.checkFrom(ctx, func(s *spoofer) []probe {
		beside := s.nic.Prefixes[0].Addr().As16()
		beside[7] ^= 0x10 // a /60's neighbour
		return []probe{
			forbidden("from "+s.theirs.String()+" of "+s.victim.name, s.own(s.theirs).echo(token())),
			forbidden("from the prefix beside its own", s.own(netip.AddrFrom16(beside)).echo(token())),
			forbidden("from the pool's first address", s.own(netip.MustParsePrefix(pod1.pool).Addr()).echo(token())),
			permitted("from "+s.inner.String()+" of the own "+s.nic.Prefixes[0].String(), s.own(s.inner).echo(token())),
			permitted("from that prefix's last address", s.own(lastOf(s.nic.Prefixes[0])).echo(token())),
		}
	})
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As16()
	for i := p.Bits(); i < 128; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom16(b)
}

// checkSpoofedConnection has i-2 talk to the router, and i-1 join in.
func (l *Lab) checkSpoofedConnection(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		theirs := s.toRouter(s.victim.self(s.victimNIC.Address))
		answer := ip6{srcMAC: s.routerMAC, src: s.router.address}.to(s.victim.mac, s.victimNIC.Address)
		const port, other = 41000, 41001
		victim, err := l.attach(s.victim.name, "eth0")
		if err != nil {
			return "", err
		}
		defer victim.Close()
		// Of the answer only its connection says that it may pass.
		if err := l.probe(victim, []probe{permitted(s.victim.name+"'s datagram", theirs.udp(port, other, token()))}, s.atRouter); err != nil {
			return "", err
		}
		if err := l.probe(s.atRouter, []probe{permitted("the answer to it", answer.udp(other, port, token()))}, s.atVictim); err != nil {
			return "", err
		}
		joining := theirs
		joining.srcMAC = s.guest.mac
		err = l.probe(s.wire, []probe{
			forbidden("a datagram as "+s.victim.name+"'s", theirs.udp(port, other, token())),
			forbidden("one from its address and the own MAC", joining.udp(port, other, token())),
			permitted("one from the own address", s.own(s.nic.Address).udp(port, other, token())),
		}, s.atRouter)
		if err != nil {
			return "", err
		}
		err = l.probe(victim, []probe{permitted(s.victim.name+"'s next", theirs.udp(port, other, token()))}, s.atRouter)
		return fmt.Sprintf("%s has a connection with %s; with its addresses and ports %s's datagrams are dropped, its own go on", s.victim.name, s.router.name, s.guest.name), err
	})
}

func (l *Lab) checkRogueRA(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		own := s.guest.self(s.nic.LinkLocal).to("", allNodes)
		ra := own.routerAdvertisement()
		echo := func() frame { return own.onLink().echo(token()) }
		all := []probe{
			forbidden("as it is", ra),
			forbidden("as the router", s.guest.self(s.router.linkLocal).to("", allNodes).routerAdvertisement()),
			forbidden("to one host", s.guest.self(s.nic.LinkLocal).to(s.victim.mac, s.victimNIC.LinkLocal).routerAdvertisement()),
			forbidden("from its address", s.guest.self(s.nic.Address).to("", allNodes).routerAdvertisement()),
			forbidden("behind hop-by-hop options", ra.behind(routerAlert)),
			forbidden("behind destination options", ra.behind(padding)),
			forbidden("behind three of them and a routing header", ra.behind(padding, padding, segments, padding)),
			forbidden("in an atomic fragment", ra.behind(atomic)),
			forbidden("behind a VLAN tag", ra.in(0x81, 0, 0, 5, 0x86, 0xdd)),
			permitted("an echo request", echo()),
			permitted("one behind hop-by-hop options", echo().behind(routerAlert)),
			permitted("one behind three destination options and a routing header", echo().behind(padding, padding, segments, padding)),
		}
		for _, whole := range []frame{ra, ra.behind(padding)} {
			for _, f := range whole.fragments(8) {
				all = append(all, forbidden("in fragments", f))
			}
		}
		if err := l.probe(s.wire, all, s.atVictim, s.atRouter); err != nil {
			return "", err
		}
		if err := s.wire.send(s.guest.self(s.nic.LinkLocal).to("", allRouters).onLink().routerSolicitation()); err != nil {
			return "", err
		}
		f, err := s.wire.next(time.Now().Add(answerWithin), func(f frame) bool {
			return f.isICMP(icmpRouterAdv) && f.src() == s.router.linkLocal
		})
		if err == nil && f == nil {
			err = errors.New("the router's own Router Advertisement did not arrive")
		}
		return fmt.Sprintf("dropped: %s; echo requests in the same guises seen at %s and %s, and the Router Advertisement of %s at i-1", list(all, false), s.victim.name, s.router.name, s.router.linkLocal), err
	})
}

func (l *Lab) checkRogueDHCP(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		toVictim := s.guest.self(s.nic.LinkLocal).to(s.victim.mac, s.victimNIC.LinkLocal)
		fromGlobal := s.guest.self(s.nic.Address).to(s.victim.mac, s.victimNIC.Address)
		toAll := s.guest.self(s.nic.LinkLocal).to("", allRelaysAndServers)
		id := number() & 0xffffff
		says := func(typ byte) []byte {
			return dhcpMessage(typ, id, option(optServerID, duid(s.guest.mac)), option(optClientID, duid(s.victim.mac)), iapd(s.nic.Prefixes[0]))
		}
		err := l.probe(s.wire, []probe{
			forbidden("an Advertise", toVictim.udp(serverPort, clientPort, says(dhcpAdvertise))),
			forbidden("a Reply", toVictim.udp(serverPort, clientPort, says(dhcpReply))),
			forbidden("a Reconfigure", toVictim.udp(serverPort, clientPort, says(dhcpReconfigure))),
			forbidden("an Advertise from its global address", fromGlobal.udp(serverPort, clientPort, says(dhcpAdvertise))),
			forbidden("one from another port", fromGlobal.udp(40547, clientPort, says(dhcpAdvertise))),
			forbidden("one behind destination options", fromGlobal.udp(serverPort, clientPort, says(dhcpAdvertise)).behind(padding)),
			permitted("an echo request", toVictim.echo(token())),
			permitted("a datagram to another port", fromGlobal.udp(40547, openPort, token())),
		}, s.atVictim)
		if err != nil {
			return "", err
		}
		var all []probe
		for _, typ := range []byte{dhcpAdvertise, dhcpReply, dhcpReconfigure, dhcpRelayForward, dhcpRelayReply} {
			all = append(all, forbidden(fmt.Sprintf("type %d to ff02::1:2", typ), toAll.udp(clientPort, serverPort, says(typ))))
		}
		global := s.own(s.nic.Address)
		all = append(all,
			forbidden("a Solicit from port 40546", toAll.udp(40546, serverPort, solicit(id, s.guest.mac))),
			forbidden("one from the global address", s.guest.self(s.nic.Address).to("", allRelaysAndServers).udp(clientPort, serverPort, solicit(id, s.guest.mac))),
			forbidden("one to ff05::1:3", s.guest.self(s.nic.LinkLocal).to("", allServers).udp(clientPort, serverPort, solicit(id, s.guest.mac))),
			forbidden("one to the router alone", s.guest.self(s.nic.LinkLocal).to(s.routerMAC, s.router.linkLocal).udp(clientPort, serverPort, solicit(id, s.guest.mac))),
			forbidden("one behind destination options", toAll.udp(clientPort, serverPort, solicit(id, s.guest.mac)).behind(padding)),
			forbidden("a datagram to port 547", global.udp(40000, serverPort, token())),
			forbidden("one from port 547", global.udp(serverPort, 40000, token())),
			forbidden("one to port 547 in an atomic fragment", global.udp(40000, serverPort, token()).behind(atomic)),
			forbidden("a TCP segment to port 547", global.syn(40000, serverPort, number())),
			permitted("a Solicit as a client's", toAll.udp(clientPort, serverPort, solicit(number()&0xffffff, s.guest.mac))),
			permitted("a datagram to port 548", global.udp(40000, 548, token())),
			permitted("a TCP segment to port 548", global.syn(40000, 548, number())),
		)
		if err := l.probe(s.wire, all, s.atRouter); err != nil {
			return "", err
		}
		answer, err := l.ask(s.victim)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("dropped: server's messages to %s, server's and relay's to ff02::1:2, a client's in other forms, and UDP and TCP to port 547; the client's own Solicit seen at %s; %s got the Advertise of the server with %s",
			s.victim.name, s.router.name, s.victim.name, join(answer.prefixes)), nil
	})
}

func (l *Lab) checkSpoofedNeighbor(ctx context.Context) (string, error) {
	return l.checkFrom(ctx, func(s *spoofer) []probe {
		own := s.guest.self(s.nic.LinkLocal).to(s.routerMAC, s.router.linkLocal).onLink()
		na := func(target netip.Addr, options ...[]byte) frame { return own.nd(icmpNeighborAdv, target, options...) }
		ns := func(options ...[]byte) frame { return own.nd(icmpNeighborSol, s.router.linkLocal, options...) }
		rs := s.guest.self(s.nic.LinkLocal).to("", allRouters).onLink()
		dad := func(target netip.Addr, options ...[]byte) frame {
			return s.guest.self(netip.IPv6Unspecified()).to("", solicitedNode(target)).onLink().nd(icmpNeighborSol, target, options...)
		}
		mine, theirs := macOption(targetMAC, s.guest.mac), macOption(targetMAC, s.victim.mac)
		source := macOption(sourceMAC, s.guest.mac)
		allowed := na(s.nic.Address, mine)
		var all []probe
		for _, target := range []netip.Addr{s.victimNIC.Address, s.victimNIC.LinkLocal, pod1.routers[1].linkLocal, s.inner} {
			all = append(all, forbidden("NA for "+target.String(), na(target, mine)))
		}
		all = append(all,
			forbidden("NA with i-2's MAC", na(s.nic.Address, theirs)),
			forbidden("with two MACs", na(s.nic.Address, mine, theirs)),
			forbidden("with hop limit 254", s.guest.self(s.nic.LinkLocal).to(s.routerMAC, s.router.linkLocal).hops(254).nd(icmpNeighborAdv, s.nic.Address, mine)),
			forbidden("behind hop-by-hop options", na(s.nic.Address, mine).behind(routerAlert)),
			forbidden("behind destination options", na(s.nic.Address, mine).behind(padding)),
			forbidden("in an atomic fragment", na(s.nic.Address, mine).behind(atomic)))
		for _, f := range na(s.nic.Address, mine).fragments(16) {
			all = append(all, forbidden("in fragments", f))
		}
		return append(all,
			forbidden("NS with i-2's MAC", ns(macOption(sourceMAC, s.victim.mac))),
			forbidden("with hop limit 64", s.guest.self(s.nic.LinkLocal).to(s.routerMAC, s.router.linkLocal).hops(64).nd(icmpNeighborSol, s.router.linkLocal, source)),
			forbidden("behind destination options", ns(source).behind(padding)),
			forbidden("in an atomic fragment", ns(source).behind(atomic)),
			forbidden("DAD for i-2's address", dad(s.victimNIC.Address)),
			forbidden("for i-2's link-local", dad(s.victimNIC.LinkLocal)),
			forbidden("with a MAC", dad(s.nic.Address, source)),
			forbidden("RS with i-2's MAC", rs.routerSolicitation(macOption(sourceMAC, s.victim.mac))),
			forbidden("with hop limit 1", s.guest.self(s.nic.LinkLocal).to("", allRouters).hops(1).routerSolicitation()),
			permitted("NA for its address with its MAC", allowed),
			permitted("for its link-local", na(s.nic.LinkLocal, mine)),
			permitted("without a MAC", na(s.nic.Address)),
			permitted("NS with its MAC", ns(source)),
			permitted("without", ns()),
			permitted("DAD for its address", dad(s.nic.Address)),
			permitted("RS with its MAC", rs.routerSolicitation(source)),
			permitted("RS from ::", s.guest.self(netip.IPv6Unspecified()).to("", allRouters).onLink().routerSolicitation()),
		)
	})
}

// solicitedNode is the group that a Neighbor Solicitation goes to (RFC 4291
// section 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b := netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(b[13:], a.AsSlice()[13:])
	return netip.AddrFrom16(b)
}

func (l *Lab) checkICMPTypes(ctx context.Context) (string, error) {
	return l.checkFrom(ctx, func(s *spoofer) []probe {
		local := s.guest.self(s.nic.LinkLocal)
		toRouter := local.to(s.routerMAC, s.router.linkLocal).onLink()
		all := []probe{
			forbidden("redirect", toRouter.icmp(icmpRedirect, slices.Concat(token()[:4], s.router.linkLocal.AsSlice(), serverAddress.AsSlice()))),
			forbidden("MLD query", local.to("", allNodes).hops(1).mld(icmpMLDQuery)),
			forbidden("MLD report with hop limit 64", local.hops(64).mldReport()),
			forbidden("MLD report in an atomic fragment", local.hops(1).mldReport().behind(routerAlert, atomic)),
		}
		for typ, what := range map[byte]string{
			icmpRenumbering: "router renumbering", icmpNodeQuery: "node information query", icmpNodeReply: "its reply",
			141: "inverse ND", 148: "certification path", 151: "multicast router advertisement", 152: "its solicitation", 155: "RPL", 200: "private experiment",
		} {
			all = append(all, forbidden(what, toRouter.icmp(typ, token())))
		}
		slices.SortFunc(all, func(a, b probe) int { return int(a.frame.payload()[0]) - int(b.frame.payload()[0]) })
		return append(all,
			permitted("echo request", toRouter.echo(token())),
			permitted("MLDv2 report", local.hops(1).mldReport().behind(routerAlert)),
			permitted("MLDv1 report", local.to("", allNodes).hops(1).mld(icmpMLDReport).behind(routerAlert)),
			permitted("Destination Unreachable", s.own(s.nic.Address).icmp(icmpUnreachable, append(make([]byte, 4), token()...))),
			permitted("Packet Too Big", s.own(s.nic.Address).icmp(icmpTooBig, append([]byte{0, 0, 5, 0}, token()...))))
	})
}

func (l *Lab) checkLinkLocal(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		local := s.guest.self(s.nic.LinkLocal).to(s.routerMAC, s.router.linkLocal)
		global := s.own(s.nic.Address)
		err := l.probe(s.wire, []probe{
			forbidden("a TCP segment from link-local to link-local", local.syn(40000, 179, number())),
			forbidden("a TCP segment to link-local", s.guest.self(s.nic.Address).to(s.routerMAC, s.router.linkLocal).syn(40001, 179, number())),
			forbidden("a TCP segment from link-local to a global address", s.own(s.nic.LinkLocal).syn(40001, 179, number())),
			forbidden("a UDP datagram from link-local to link-local", local.udp(40000, 53, token())),
			forbidden("an unknown protocol from link-local", local.packet(253, token())),
			permitted("a TCP segment", global.syn(40002, 179, number())),
			permitted("an unknown protocol", global.packet(253, token())),
		}, s.atRouter)
		if err != nil {
			return "", err
		}
		// And the other way, to a port that the group allows from anybody.
		router := ip6{srcMAC: s.routerMAC, src: s.router.linkLocal}
		err = l.probe(s.atRouter, []probe{
			forbidden("a TCP segment from the router's link-local", router.to(s.guest.mac, s.nic.LinkLocal).syn(40003, openPort, number())),
			forbidden("one to the global address", router.to(s.guest.mac, s.nic.Address).syn(40003, openPort, number())),
			permitted("a TCP segment", ip6{srcMAC: s.routerMAC, src: s.router.address}.to(s.guest.mac, s.nic.Address).syn(40004, openPort, number())),
		}, s.wire)
		return fmt.Sprintf("dropped in both directions; TCP between %s and %s seen in both", s.nic.Address, s.router.address), err
	})
}

func (l *Lab) checkEthertypes(ctx context.Context) (string, error) {
	return l.checkFrom(ctx, func(s *spoofer) []probe {
		own := s.own(s.nic.Address)
		stolen := own
		stolen.srcMAC = s.victim.mac
		var all []probe
		for _, h := range []struct {
			what   string
			octets []byte
		}{
			{"VLAN 0", []byte{0x81, 0, 0, 0, 0x86, 0xdd}}, {"VLAN 5", []byte{0x81, 0, 0, 5, 0x86, 0xdd}},
			{"802.1ad", []byte{0x88, 0xa8, 0, 5, 0x86, 0xdd}}, {"QinQ", []byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x86, 0xdd}},
			{"802.3 with LLC", []byte{0, 0x50, 0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd}}, {"PPPoE", []byte{0x88, 0x64, 0x11, 0, 0, 1, 0, 0x52, 0, 0x57}},
			{"MPLS", []byte{0x88, 0x47, 0, 0, 0x10, 0xff}}, {"ethertype 88b5", []byte{0x88, 0xb5}},
		} {
			mark := token()
			all = append(all, probe{h.what, own.echo(mark).in(h.octets...), false, mark})
		}
		stp := own
		stp.dstMAC = "01:80:c2:00:00:00"
		lldp := stp
		lldp.dstMAC = "01:80:c2:00:00:0e"
		broadcast := own
		broadcast.dstMAC = "ff:ff:ff:ff:ff:ff"
		thief := broadcast
		thief.srcMAC = s.victim.mac
		for _, p := range []struct {
			what string
			from ip6
			kind uint16
			pass bool
		}{
			{"STP", stp, 38, false}, {"LLDP", lldp, typeLLDP, false}, {"RARP", broadcast, typeRARP, false},
			{"IPv4 from i-2's MAC", stolen, typeIPv4, false}, {"ARP from i-2's MAC", thief, typeARP, false},
			{"IPv4 from the own MAC", own, typeIPv4, true}, {"ARP from it", broadcast, typeARP, true},
		} {
			mark := token()
			payload := append(make([]byte, 28), mark...)
			if p.kind == typeIPv4 {
				payload = ipv4(mark)
			}
			all = append(all, probe{p.what, p.from.other(p.kind, payload), p.pass, mark})
		}
		return append(all, permitted("IPv6", own.echo(token())))
	})
}

func (l *Lab) checkHeaderChains(ctx context.Context) (string, error) {
	return l.checkFrom(ctx, func(s *spoofer) []probe {
		own := s.own(s.nic.Address)
		datagram := func(port uint16) (frame, []byte) {
			mark := token()
			return own.udp(40000, port, append(mark, mark...)), mark
		}
		var all []probe
		add := func(pass bool, what string, port uint16, f func(frame) []frame) {
			d, mark := datagram(port)
			for _, piece := range f(d) {
				all = append(all, probe{what, piece, pass, mark})
			}
		}
		with := func(h ...extension) func(frame) []frame {
			return func(f frame) []frame { return []frame{f.behind(h...)} }
		}
		add(false, "routing header 0", 53, with(sourceRoute))
		add(false, "routing header 0 behind options", 53, with(routerAlert, padding, sourceRoute))
		add(false, "routing header 0 behind another", 53, with(segments, sourceRoute))
		add(false, "options longer than the packet", 53, with(tooLong))
		add(false, "ports in the second fragment", 53, func(f frame) []frame { return f.behind(padding).fragments(8) })
		add(false, "DHCPv6 in fragments", serverPort, func(f frame) []frame { return f.fragments(24) })
		add(true, "UDP behind options and a segment routing header", 53, with(routerAlert, padding, segments))
		add(true, "UDP in an atomic fragment", 53, with(atomic))
		add(true, "UDP in two fragments", 53, func(f frame) []frame { return f.fragments(24) })
		return all
	})
}

// checkRates floods from the scratch guest, whose limits no other check needs.
func (l *Lab) checkRates(ctx context.Context) (string, error) {
	return l.withScratch(ctx, func(_ string, nic nicRecord) (string, error) {
		return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
			w, err := l.attach(scratch.name, "eth0")
			if err != nil {
				return "", err
			}
			defer w.Close()
			local := scratch.self(nic.LinkLocal)
			seen := ""
			for _, flood := range []struct {
				what       string
				few, many  int
				next       func() frame
				of         func(frame) bool
				otherGuest frame
			}{
				{"Solicits", 10, 400, func() frame { return scratch.client546(solicit(number()&0xffffff, scratch.mac)) },
					func(f frame) bool { return f.isUDP(clientPort, serverPort) }, s.guest.client546(solicit(number()&0xffffff, s.guest.mac))},
				{"Neighbor Solicitations", 50, 2000, func() frame {
					return local.to("", solicitedNode(serverAddress)).onLink().nd(icmpNeighborSol, serverAddress, macOption(sourceMAC, scratch.mac))
				}, func(f frame) bool { return f.isICMP(icmpNeighborSol) },
					s.guest.self(s.nic.LinkLocal).to(s.routerMAC, s.router.linkLocal).onLink().nd(icmpNeighborSol, s.router.linkLocal)},
				{"MLD reports", 50, 1000, func() frame { return local.hops(1).mldReport().behind(routerAlert) },
					func(f frame) bool { return f.proto() == hopByHop }, s.guest.self(s.nic.LinkLocal).hops(1).mldReport().behind(routerAlert)},
			} {
				count := func(n int) (int, error) {
					var frames [][]byte
					for range n {
						frames = append(frames, flood.next())
					}
					end := scratch.self(nic.Address).to(s.routerMAC, s.router.address).echo(token())
					if err := w.send(append(frames, end)...); err != nil {
						return 0, err
					}
					arrived := 0
					f, err := s.atRouter.next(time.Now().Add(answerWithin), func(f frame) bool {
						if flood.of(f) && f.src() == nic.LinkLocal {
							arrived++
						}
						return same(f, end)
					})
					if err == nil && f == nil {
						err = errors.New("what else the guest sends did not arrive")
					}
					return arrived, err
				}
				few, err := count(flood.few)
				if err != nil {
					return "", err
				}
				if few < flood.few {
					return "", fmt.Errorf("%d of %d %s passed, no more than a client sends", few, flood.few, flood.what)
				}
				many, err := count(flood.many)
				if err != nil {
					return "", err
				}
				if many == 0 || many > flood.many/2 {
					return "", fmt.Errorf("%d of %d %s passed", many, flood.many, flood.what)
				}
				if err := l.probe(s.wire, []probe{permitted("i-1's own "+flood.what, flood.otherGuest)}, s.atRouter); err != nil {
					return "", err
				}
				seen += fmt.Sprintf("%s: %d of %d and then %d of %d passed, and i-1's after them; ", flood.what, few, flood.few, many, flood.many)
			}
			return seen[:len(seen)-2], nil
		})
	})
}
