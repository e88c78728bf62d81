package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// dhcpChecks are about who gets an answer and who must not.
func dhcpChecks() []check {
	return []check{
		{"stranger", "the tap of a guest that nobody registered passes nothing", (*Lab).checkStranger},
		{"stray", "an unregistered guest whose Solicit reaches the server gets no answer and no route", (*Lab).checkStray},
		{"relay-forw-multicast", "a guest's Relay-forw to ff02::1:2 from port 546", (*Lab).checkRelayMulticast},
		{"relay-forw-server", "a guest's Relay-forw to the server, from any port", (*Lab).checkRelayServer},
		{"relay-forw-site", "a guest's Relay-forw to ff05::1:3", (*Lab).checkRelaySite},
		{"relay-forw-unfiltered", "the same Relay-forwards from where no hypervisor filters", (*Lab).checkRelayUnfiltered},
		{"foreign-release", "a RELEASE for another's prefix", (*Lab).checkForeignRelease},
	}
}

// answerWithin bounds the wait for an answer that must come.
const answerWithin = 15 * time.Second

// exchange sends a client's message from inside a guest and returns the first
// answer to it.
func (l *Lab) exchange(g guest, message []byte) (dhcpSeen, error) {
	w, err := l.attach(g.name, "eth0")
	if err != nil {
		return dhcpSeen{}, err
	}
	defer w.Close()
	if err := w.send(g.client546(message)); err != nil {
		return dhcpSeen{}, err
	}
	_, id := transaction(message)
	f, err := w.next(time.Now().Add(answerWithin), func(f frame) bool { return answers(f, id) })
	if err != nil {
		return dhcpSeen{}, err
	}
	if f == nil {
		return dhcpSeen{}, fmt.Errorf("%s got no answer to its DHCPv6 message of type %d within %s", g.name, message[0], answerWithin)
	}
	answer, ok := parseDHCP(f.payload()[udpSize:])
	if !ok {
		return dhcpSeen{}, fmt.Errorf("%s got a DHCPv6 answer of %d octets", g.name, len(f.payload()))
	}
	return answer, nil
}

// client546 is a message of the guest's own DHCPv6 client.
func (g guest) client546(message []byte) frame {
	return g.self(g.linkLocal()).to("", allRelaysAndServers).udp(clientPort, serverPort, message)
}

// answers reports whether a frame brings a client the answer to a transaction.
func answers(f frame, id uint32) bool {
	if !f.isUDP(serverPort, clientPort) {
		return false
	}
	_, its := transaction(f.payload()[udpSize:])
	return its == id
}

// carries reports whether a frame holds a DHCPv6 message of a transaction,
// relayed or not.
func carries(f frame, id uint32) bool {
	if f.proto() != protoUDP || len(f.payload()) < udpSize {
		return false
	}
	_, its := transaction(f.payload()[udpSize:])
	return its == id
}

// ask solicits from inside a guest and returns the Advertise.
func (l *Lab) ask(g guest) (dhcpSeen, error) {
	return l.exchange(g, solicit(number()&0xffffff, g.mac))
}

// askFor is ask, and an error where the answer does not offer what the record
// says.
func (l *Lab) askFor(ctx context.Context, g guest, instance string) (dhcpSeen, error) {
	nic, err := l.nic(ctx, instance)
	if err != nil {
		return dhcpSeen{}, err
	}
	answer, err := l.ask(g)
	if err != nil {
		return dhcpSeen{}, err
	}
	slices.SortFunc(answer.prefixes, netip.Prefix.Compare)
	slices.SortFunc(nic.Prefixes, netip.Prefix.Compare)
	if !slices.Equal(answer.prefixes, nic.Prefixes) {
		return answer, fmt.Errorf("%s is offered [%s] instead of [%s]", g.name, join(answer.prefixes), join(nic.Prefixes))
	}
	return answer, nil
}

func (l *Lab) checkStranger(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		w, err := l.attach(stranger.name, "eth0")
		if err != nil {
			return "", err
		}
		defer w.Close()
		refused := []probe{
			forbidden("its Solicit", stranger.client546(solicit(number()&0xffffff, stranger.mac))),
			forbidden("its Router Solicitation", stranger.self(stranger.linkLocal()).to("", allRouters).onLink().routerSolicitation()),
			forbidden("its DAD", stranger.self(netip.IPv6Unspecified()).to("", solicitedNode(stranger.want)).onLink().nd(icmpNeighborSol, stranger.want)),
			forbidden("its echo request", stranger.self(stranger.want).to(s.routerMAC, s.router.address).echo(token())),
			forbidden("its ARP", stranger.self(stranger.want).to("ff:ff:ff:ff:ff:ff", stranger.want).other(0x0806, append(make([]byte, 60), token()...))),
		}
		for _, p := range refused {
			if err := w.send(p.frame); err != nil {
				return "", err
			}
		}
		twin := permitted("i-1's Solicit", s.guest.client546(solicit(number()&0xffffff, s.guest.mac)))
		if err := s.wire.send(twin.frame); err != nil {
			return "", err
		}
		if err := s.atRouter.verdicts(refused, []probe{twin}); err != nil {
			return "", err
		}
		has, err := l.globals(stranger.name, "eth0")
		if err != nil {
			return "", err
		}
		routes, err := l.defaultRoutes(ctx, stranger)
		if err != nil {
			return "", err
		}
		if len(has)+len(routes) > 0 {
			return "", fmt.Errorf("it has %s and default routes by %s", join(has), join(routes))
		}
		return "its Solicit, Router Solicitation, DAD, echo request and ARP dropped, i-1's Solicit after them seen at router1; it has no address and no route", nil
	})
}

// checkStray sends a Solicit from beside the hypervisor, so that it is the
// server that keeps silent and not the filter.
func (l *Lab) checkStray(ctx context.Context) (string, error) {
	id := number() & 0xffffff
	w, err := l.attach(stray.name, "eth0")
	if err != nil {
		return "", err
	}
	defer w.Close()
	before := map[string][]string{}
	for _, r := range pod1.routers {
		if before[r.name], err = l.ourRoutes(ctx, r); err != nil {
			return "", err
		}
	}
	arrived, err := l.unanswered(ctx, id, func() error { return w.send(stray.client546(solicit(id, stray.mac))) })
	if err != nil {
		return "", err
	}
	if arrived == 0 {
		return "", errors.New("its Solicit did not arrive at the server, so nothing was shown")
	}
	for _, r := range pod1.routers {
		after, err := l.ourRoutes(ctx, r)
		if err != nil {
			return "", err
		}
		if !slices.Equal(before[r.name], after) {
			return "", fmt.Errorf("%s has other routes after it: [%s]", r.name, strings.Join(after, ", "))
		}
	}
	return fmt.Sprintf("its Solicit came to the server by %d relays and got no answer; i-1's beside it did; routes are as before", arrived), nil
}

// unanswered has something sent in a transaction and returns how often it came
// to the server, and an error if the server answered it or anything of it came
// back to a guest. i-1 asks after it, and its answer shows that the server works.
func (l *Lab) unanswered(ctx context.Context, id uint32, send func() error) (arrived int, err error) {
	var wires []*wire
	defer func() {
		for _, w := range wires {
			w.Close()
		}
	}()
	open := func(box, device string) *wire {
		w, openErr := l.attach(box, device)
		if openErr != nil {
			err = openErr
			return nil
		}
		wires = append(wires, w)
		return w
	}
	toServer, fromServer := open(serverBox, "eth0"), open(coreBox, "server")
	atGuest, atStray := open(instances[0].name, "eth0"), open(stray.name, "eth0")
	if err != nil {
		return 0, err
	}
	silences, err := l.silences(ctx)
	if err != nil {
		return 0, err
	}
	if err := send(); err != nil {
		return 0, err
	}
	// Both routers relay; whichever is last, its copy of i-1's question comes
	// after what it made of the forgery.
	first := number() & 0xffffff
	if _, err := l.exchange(instances[0], solicit(first, instances[0].mac)); err != nil {
		return 0, err
	}
	copies := 0
	if _, err := toServer.next(time.Now().Add(answerWithin), func(f frame) bool {
		if carries(f, id) {
			arrived++
		}
		if carries(f, first) {
			copies++
		}
		return copies == len(pod1.routers)
	}); err != nil {
		return 0, err
	}
	if copies < len(pod1.routers) {
		return 0, fmt.Errorf("only %d of %d routers relayed i-1's Solicit", copies, len(pod1.routers))
	}
	// The server answers on several processors: what came first may be looked at
	// last. It has looked at all of it when it has counted every silence.
	if err := until(ctx, answerWithin, func() error {
		now, err := l.silences(ctx)
		if err == nil && now < silences+arrived {
			err = fmt.Errorf("the server got %d of them and kept silent %d times, so it answered the rest", arrived, now-silences)
		}
		return err
	}); err != nil {
		return 0, err
	}
	last := number() & 0xffffff
	if _, err := l.exchange(instances[0], solicit(last, instances[0].mac)); err != nil {
		return 0, err
	}
	answered, err := fromServer.seenBefore(answerWithin, func(f frame) bool { return carries(f, id) }, func(f frame) bool { return carries(f, last) })
	if err != nil {
		return 0, err
	}
	if answered {
		return 0, errors.New("the server answered it")
	}
	cameBack, err := atGuest.seenBefore(answerWithin, func(f frame) bool { return answers(f, id) }, func(f frame) bool { return answers(f, last) })
	if err != nil {
		return 0, err
	}
	err = atStray.pending(func(f frame) { cameBack = cameBack || answers(f, id) })
	if err == nil && cameBack {
		err = errors.New("an answer came back to the guest")
	}
	return arrived, err
}

// silences is how many messages the server has left without an answer.
func (l *Lab) silences(ctx context.Context) (int, error) {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(l.dataDir(), "sixacre.sock"))
	}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, "GET", "http://localhost/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	total := 0
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "} "); ok && strings.HasPrefix(name, "sixacre_dhcp6_silences_total{") {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, err
			}
			total += int(n)
		}
	}
	return total, lines.Err()
}

// forgedRelay is a Relay-forw in which i-1 claims that i-2 asks, as only a relay
// of the pod may.
func forgedRelay(id uint32) []byte {
	victim := guestNamed("i-2")
	return relayForward(pod1.routers[0].address, victim.linkLocal(), victim.mac, solicit(id, victim.mac))
}

// relayPorts are where a guest's Relay-forw may come from.
var relayPorts = []uint16{clientPort, serverPort, 40547}

// toServer are Relay-forwards to the server itself, by way of a router.
func toServer(g guest, from []netip.Addr, id uint32) []frame {
	var all []frame
	for _, src := range from {
		for _, port := range relayPorts {
			all = append(all, g.self(src).to(pod1.routers[0].mac, serverAddress).udp(port, serverPort, forgedRelay(id)))
		}
	}
	return all
}

// toSite are Relay-forwards to the group of all DHCPv6 servers.
func toSite(g guest, from []netip.Addr, id uint32) []frame {
	var all []frame
	for _, src := range from {
		for _, port := range relayPorts {
			all = append(all, g.self(src).to("", allServers).udp(port, serverPort, forgedRelay(id)))
		}
	}
	return all
}

func (l *Lab) checkRelayMulticast(ctx context.Context) (string, error) {
	return l.checkRelay(ctx, func(s *spoofer, id uint32) []frame {
		return []frame{s.guest.client546(forgedRelay(id))}
	}, "in it i-2 asks")
}

func (l *Lab) checkRelayServer(ctx context.Context) (string, error) {
	seen, err := l.checkRelay(ctx, func(s *spoofer, id uint32) []frame {
		return toServer(s.guest, []netip.Addr{s.nic.Address, s.inner}, id)
	}, "from the address and the prefix, ports 546, 547 and 40547")
	if err != nil {
		return "", err
	}
	// Other datagrams of i-1 do reach the server.
	atServer, err := l.attach(serverBox, "eth0")
	if err != nil {
		return "", err
	}
	defer atServer.Close()
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		plain := s.guest.self(s.nic.Address).to(s.routerMAC, serverAddress).udp(40547, 40547, token())
		return seen + "; a datagram of its to another port reached the server", l.probe(s.wire, []probe{permitted("a datagram to port 40547", plain)}, atServer)
	})
}

func (l *Lab) checkRelaySite(ctx context.Context) (string, error) {
	return l.checkRelay(ctx, func(s *spoofer, id uint32) []frame {
		return toSite(s.guest, []netip.Addr{s.nic.LinkLocal, s.nic.Address}, id)
	}, "from both addresses, ports 546, 547 and 40547")
}

// checkRelay sends Relay-forwards from i-1, in one transaction.
func (l *Lab) checkRelay(ctx context.Context, forge func(*spoofer, uint32) []frame, what string) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		id := number() & 0xffffff
		frames := forge(s, id)
		arrived, err := l.unanswered(ctx, id, func() error { return s.wire.send(toBytes(frames)...) })
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d sent (%s), %d came to the server, none was answered; i-1's own Solicit was", len(frames), what, arrived), nil
	})
}

// checkRelayUnfiltered sends from beside the hypervisor, so that it is the
// routers and the server that refuse.
func (l *Lab) checkRelayUnfiltered(ctx context.Context) (string, error) {
	w, err := l.attach(stray.name, "eth0")
	if err != nil {
		return "", err
	}
	defer w.Close()
	id := number() & 0xffffff
	frames := append(toServer(stray, []netip.Addr{stray.want}, id), toSite(stray, []netip.Addr{stray.linkLocal(), stray.want}, id)...)
	frames = append(frames, stray.client546(forgedRelay(id)))
	arrived, err := l.unanswered(ctx, id, func() error { return w.send(toBytes(frames)...) })
	if err != nil {
		return "", err
	}
	if arrived < len(relayPorts) {
		return "", fmt.Errorf("%d came to the server instead of the %d that were sent to it, so nothing was shown", arrived, len(relayPorts))
	}
	return fmt.Sprintf("%d sent (to ff02::1:2, the server and ff05::1:3), %d came to the server, which counted and answered none", len(frames), arrived), nil
}

func toBytes(frames []frame) [][]byte {
	all := make([][]byte, len(frames))
	for i, f := range frames {
		all[i] = f
	}
	return all
}

// Status codes (RFC 9915 section 21.13).
const statusSuccess = 0

func (l *Lab) checkForeignRelease(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		offer, err := l.askFor(ctx, s.victim, s.victim.name)
		if err != nil {
			return "", err
		}
		before, err := l.ourRoutes(ctx, s.router)
		if err != nil {
			return "", err
		}
		release := func(as string, prefixes ...netip.Prefix) []byte {
			return dhcpMessage(dhcpRelease, number()&0xffffff, option(optClientID, duid(as)), option(optServerID, offer.server), iapd(prefixes...))
		}
		said := []string{}
		for _, as := range []string{s.victim.mac, s.guest.mac} {
			answer, err := l.exchange(s.guest, release(as, s.victimNIC.Prefixes...))
			if err != nil {
				return "", err
			}
			if answer.typ != dhcpReply {
				return "", fmt.Errorf("the server answered with type %d", answer.typ)
			}
			said = append(said, strconv.Itoa(int(answer.status)))
		}
		if _, err := l.askFor(ctx, s.victim, s.victim.name); err != nil {
			return "", err
		}
		if nic, err := l.nic(ctx, s.victim.name); err != nil || !slices.Equal(nic.Prefixes, s.victimNIC.Prefixes) {
			return "", errors.Join(err, fmt.Errorf("the record gives %s now %s", s.victim.name, join(nic.Prefixes)))
		}
		for _, r := range pod1.routers {
			after, err := l.ourRoutes(ctx, r)
			if err != nil {
				return "", err
			}
			if !slices.Equal(after, before) {
				return "", fmt.Errorf("%s has after it [%s]", r.name, strings.Join(after, ", "))
			}
		}
		targets, err := l.innerAddresses(s.victim, s.victimNIC.Prefixes)
		if err != nil {
			return "", err
		}
		if err := l.ping(ctx, s.router, targets[0]); err != nil {
			return "", err
		}
		return fmt.Sprintf("answered with status %s; %s keeps %s in the record, on both routers and in the Advertise it gets",
			strings.Join(said, " and "), s.victim.name, join(s.victimNIC.Prefixes)), nil
	})
}
