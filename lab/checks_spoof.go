package lab

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// spoofChecks send frames that i-1 may not send, each followed by a legitimate
// twin, from inside the guest. When the twin arrives and the forgery has not, the
// filter has dropped it.
func spoofChecks() []check {
	return []check{
		{"spoofed-mac", "frames with another MAC than the guest's own", (*Lab).checkSpoofedMAC},
		{"spoofed-source", "packets from another's address, and from nobody's", (*Lab).checkSpoofedSource},
		{"spoofed-prefix", "packets from another instance's prefix", (*Lab).checkSpoofedPrefix},
		{"rogue-ra", "a Router Advertisement from a guest", (*Lab).checkRogueRA},
		{"rogue-dhcp-server", "a DHCPv6 server's message from a guest", (*Lab).checkRogueDHCP},
		{"spoofed-neighbor", "a Neighbor Advertisement for another's address", (*Lab).checkSpoofedNeighbor},
		{"tcp-on-link-local", "TCP and UDP from and to link-local addresses", (*Lab).checkLinkLocal},
	}
}

// forged is a frame that must be dropped, and what it is for the reader.
type forged struct {
	what  string
	frame frame
}

// dropped sends the forgeries and then the twin over from, and sees at each of
// the places that the twin alone arrives.
func (l *Lab) dropped(from *wire, all []forged, twin frame, places ...*wire) error {
	frames := make([][]byte, 0, len(all)+1)
	for _, f := range all {
		frames = append(frames, f.frame)
	}
	if err := from.send(append(frames, twin)...); err != nil {
		return err
	}
	return onlyTwin(all, twin, places...)
}

// onlyTwin sees at each of the places that the twin arrives and none of the
// forgeries that were sent before it.
func onlyTwin(all []forged, twin frame, places ...*wire) error {
	for _, at := range places {
		var leaked []string
		_, err := at.seenBefore(answerWithin, func(f frame) bool {
			for _, forgery := range all {
				if same(f, forgery.frame) {
					leaked = append(leaked, forgery.what)
				}
			}
			return false
		}, func(f frame) bool { return same(f, twin) })
		if err != nil {
			return err
		}
		if leaked != nil {
			return fmt.Errorf("%s arrived at %s of %s", strings.Join(leaked, ", "), at.device, at.box)
		}
	}
	return nil
}

// same reports whether a frame carries the packet of another, whatever MACs and
// hop limit the way has given it.
func same(a, b frame) bool {
	return a.src() == b.src() && a.dst() == b.dst() && a.proto() == b.proto() && string(a.payload()) == string(b.payload())
}

// token is something to know a packet by.
func token() []byte {
	b := make([]byte, 16)
	rand.Read(b)
	return b
}

// number is a token of 32 bits.
func number() uint32 { return binary.BigEndian.Uint32(token()) }

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

func (l *Lab) checkSpoofedMAC(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		own := s.guest.self(s.nic.Address)
		other, theirs := own, s.victim.self(s.victimNIC.Address)
		other.srcMAC = s.nobody
		err := l.dropped(s.wire, []forged{
			{"an echo request from MAC " + s.nobody, s.toRouter(other).echo(token())},
			{"an echo request as " + s.victim.name + " altogether", s.toRouter(theirs).echo(token())},
		}, s.toRouter(own).echo(token()), s.atRouter)
		return fmt.Sprintf("from %s and from %s's %s dropped; from the own %s seen at %s", s.nobody, s.victim.name, s.victim.mac, s.guest.mac, s.router.name), err
	})
}

func (l *Lab) checkSpoofedSource(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		var all []forged
		for _, src := range []netip.Addr{s.victimNIC.Address, s.victimNIC.LinkLocal, s.router.linkLocal, netip.MustParseAddr("2001:db8:dead::1"), s.guest.pod.link.Addr().Next()} {
			all = append(all, forged{"an echo request from " + src.String(), s.toRouter(s.guest.self(src)).echo(token())})
		}
		err := l.dropped(s.wire, all, s.toRouter(s.guest.self(s.nic.Address)).echo(token()), s.atRouter)
		return fmt.Sprintf("from %s's %s, its and the router's link-local, 2001:db8:dead::1 dropped; from the own %s seen at %s",
			s.victim.name, s.victimNIC.Address, s.nic.Address, s.router.name), err
	})
}

func (l *Lab) checkSpoofedPrefix(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		err := l.dropped(s.wire, []forged{
			{"an echo request from " + s.theirs.String(), s.toRouter(s.guest.self(s.theirs)).echo(token())},
		}, s.toRouter(s.guest.self(s.inner)).echo(token()), s.atRouter)
		return fmt.Sprintf("from %s of %s's %s dropped; from %s of the own %s seen at %s",
			s.theirs, s.victim.name, s.victimNIC.Prefixes[0], s.inner, s.nic.Prefixes[0], s.router.name), err
	})
}

func (l *Lab) checkRogueRA(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		own := s.guest.self(s.nic.LinkLocal)
		asRouter := s.guest.self(s.router.linkLocal)
		err := l.dropped(s.wire, []forged{
			{"a Router Advertisement of i-1", own.to("", allNodes).routerAdvertisement()},
			{"a Router Advertisement of i-1 as the router", asRouter.to("", allNodes).routerAdvertisement()},
		}, own.to("", allNodes).echo(token()), s.atVictim, s.atRouter)
		if err != nil {
			return "", err
		}
		if err := s.wire.send(own.to("", allRouters).routerSolicitation()); err != nil {
			return "", err
		}
		f, err := s.wire.next(time.Now().Add(answerWithin), func(f frame) bool {
			return f.isICMP(icmpRouterAdv) && f.src() == s.router.linkLocal
		})
		if err == nil && f == nil {
			err = errors.New("the router's own Router Advertisement did not arrive")
		}
		return fmt.Sprintf("dropped; the echo request beside it seen at %s and %s, and the Router Advertisement of %s at i-1", s.victim.name, s.router.name, s.router.linkLocal), err
	})
}

func (l *Lab) checkRogueDHCP(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		toVictim := s.guest.self(s.nic.LinkLocal).to(s.victim.mac, s.victimNIC.LinkLocal)
		fromGlobal := s.guest.self(s.nic.Address).to(s.victim.mac, s.victimNIC.Address)
		id := number() & 0xffffff
		offer := dhcpMessage(dhcpAdvertise, id, option(optServerID, duid(s.guest.mac)), option(optClientID, duid(s.victim.mac)), iapd(s.nic.Prefixes[0]))
		err := l.dropped(s.wire, []forged{
			{"an Advertise of i-1", toVictim.udp(serverPort, clientPort, offer)},
			{"an Advertise of i-1 from its global address", fromGlobal.udp(serverPort, clientPort, offer)},
		}, toVictim.echo(token()), s.atVictim)
		if err != nil {
			return "", err
		}
		answer, err := l.ask(s.victim)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("dropped; %s got the Advertise of the server with %s", s.victim.name, join(answer.prefixes)), nil
	})
}

func (l *Lab) checkSpoofedNeighbor(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		advertise := func(target netip.Addr) frame {
			return s.guest.self(s.nic.LinkLocal).to(s.routerMAC, s.router.linkLocal).neighborAdvertisement(target, s.guest.mac)
		}
		err := l.dropped(s.wire, []forged{
			{"a Neighbor Advertisement for " + s.victimNIC.Address.String(), advertise(s.victimNIC.Address)},
			{"a Neighbor Advertisement for " + s.victimNIC.LinkLocal.String(), advertise(s.victimNIC.LinkLocal)},
			{"a Neighbor Advertisement for router2's " + pod1.routers[1].linkLocal.String(), advertise(pod1.routers[1].linkLocal)},
		}, advertise(s.nic.Address), s.atRouter)
		return fmt.Sprintf("for %s and both link-locals dropped; for the own %s seen at %s", s.victimNIC.Address, s.nic.Address, s.router.name), err
	})
}

func (l *Lab) checkLinkLocal(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		local := s.guest.self(s.nic.LinkLocal).to(s.routerMAC, s.router.linkLocal)
		global := s.toRouter(s.guest.self(s.nic.Address))
		err := l.dropped(s.wire, []forged{
			{"a TCP segment from link-local to link-local", local.syn(40000, 179, number())},
			{"a TCP segment to link-local", s.guest.self(s.nic.Address).to(s.routerMAC, s.router.linkLocal).syn(40001, 179, number())},
			{"a UDP datagram from link-local to link-local", local.udp(40000, 53, token())},
		}, global.syn(40002, 179, number()), s.atRouter)
		if err != nil {
			return "", err
		}
		// And the other way, to a port that the group allows from anybody.
		fromRouter := ip6{srcMAC: s.routerMAC, src: s.router.linkLocal}
		err = l.dropped(s.atRouter, []forged{
			{"a TCP segment from the router's link-local", fromRouter.to(s.guest.mac, s.nic.LinkLocal).syn(40003, openPort, number())},
		}, ip6{srcMAC: s.routerMAC, src: s.router.address}.to(s.guest.mac, s.nic.Address).syn(40004, openPort, number()), s.wire)
		return fmt.Sprintf("dropped in both directions; TCP between %s and %s seen in both", s.nic.Address, s.router.address), err
	})
}
