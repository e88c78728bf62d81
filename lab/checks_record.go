package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// recordChecks are about what follows when the record changes, and about the
// prefixes that it gives to nobody.
func recordChecks() []check {
	return []check{
		{"unheld-prefix", "a packet to a prefix that nobody holds gets an ICMPv6 error and does not loop", (*Lab).checkUnheld},
		{"own-release", "a RELEASE of the own prefix is answered and ends its route; asking again brings it back", (*Lab).checkOwnRelease},
		{"delete", "deleting an instance withdraws route, filter and answer, and its prefix rests", (*Lab).checkDelete},
	}
}

func (l *Lab) checkUnheld(ctx context.Context) (string, error) {
	var seen []string
	for _, p := range pods {
		to, err := l.unheld(ctx, p)
		if err != nil {
			return "", err
		}
		for _, r := range p.routers {
			what, err := l.unreachable(ctx, r, to)
			if err != nil {
				return "", err
			}
			seen = append(seen, fmt.Sprintf("%s for %s: %s", r.name, to, what))
		}
	}
	return strings.Join(seen, "; "), nil
}

// unheld returns an address of a pool's prefix that nobody ever held.
func (l *Lab) unheld(ctx context.Context, p *pod) (netip.Addr, error) {
	var all []prefixRecord
	if err := l.query(ctx, &all, "prefix", "list"); err != nil {
		return netip.Addr{}, err
	}
	pool := netip.MustParsePrefix(p.pool).Addr().As16()
	for n := range 256 {
		b := pool
		b[5], b[15] = byte(n), 1 // pools are /40
		a := netip.AddrFrom16(b)
		if !slices.ContainsFunc(all, func(r prefixRecord) bool { return r.Prefix.Contains(a) }) {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("pool %s is too full to find a prefix that nobody holds", p.pool)
}

// unreachable pings an address through a router from the core and returns the
// error that came back. The request must cross the wire to the router once and
// never come back.
func (l *Lab) unreachable(ctx context.Context, r router, to netip.Addr) (string, error) {
	atRouter, err := l.attach(r.name, "up0")
	if err != nil {
		return "", err
	}
	defer atRouter.Close()
	atCore, err := l.attach(coreBox, r.name)
	if err != nil {
		return "", err
	}
	defer atCore.Close()
	out, err := l.exec(ctx, coreBox, "ping", "-n", "-c", "1", "-W", "10", "-I", r.outside.String(), to.String())
	if err == nil {
		return "", fmt.Errorf("%s answers a ping, and nobody holds it: %s", to, out)
	}
	request := func(f frame) bool { return f.isICMP(icmpEchoRequest) && f.dst() == to }
	var returned bool
	answer, err := atCore.next(time.Now().Add(time.Second), func(f frame) bool {
		returned = returned || request(f)
		return f.dst() == r.outside && f.proto() == protoICMP && f.payload()[0] < icmpEchoRequest
	})
	switch {
	case err != nil:
		return "", err
	case returned:
		return "", fmt.Errorf("%s sent a packet to %s back to the core", r.name, to)
	case answer == nil:
		return "", fmt.Errorf("no ICMPv6 error came back from %s for %s", r.name, to)
	case !answer.isICMP(icmpUnreachable):
		return "", fmt.Errorf("%s for %s: ICMPv6 type %d code %d from %s", r.name, to, answer.payload()[0], answer.payload()[1], answer.src())
	}
	// What is legitimate goes through meanwhile, and after it no copy can be on
	// its way any more.
	if err := l.ping(ctx, r, r.address); err != nil {
		return "", err
	}
	times := 0
	if _, err := atRouter.next(time.Now().Add(time.Second), func(f frame) bool {
		if request(f) {
			times++
		}
		return f.isICMP(icmpEchoRequest) && f.dst() == r.address
	}); err != nil {
		return "", err
	}
	if times != 1 {
		return "", fmt.Errorf("a packet to %s came to %s %d times", to, r.name, times)
	}
	return fmt.Sprintf("Destination Unreachable code %d from %s", answer.payload()[1], answer.src()), nil
}

// withScratch runs f with the scratch guest registered in the groups, programmed
// and with its addresses, and deletes the instance afterwards if f has not.
func (l *Lab) withScratch(ctx context.Context, f func(name string, nic nicRecord) (string, error), groups ...string) (string, error) {
	return l.withInstance(ctx, scratch, func(name string, nic nicRecord) (string, error) {
		if err := l.programmed(ctx, scratch); err != nil {
			return "", err
		}
		// It boots: with its NIC up it asks the routers, which it did in vain
		// before it was registered.
		if err := l.ip(ctx, scratch.name, "link set eth0 down\nlink set eth0 up\n"); err != nil {
			return "", err
		}
		if err := until(ctx, 15*time.Second, func() error { return l.hasAddress(scratch, nic.Address) }); err != nil {
			return "", err
		}
		return f(name, nic)
	}, groups...)
}

// withInstance runs f with a guest registered in the groups, and deletes the
// instance afterwards if f has not.
func (l *Lab) withInstance(ctx context.Context, g guest, f func(name string, nic nicRecord) (string, error), groups ...string) (seen string, err error) {
	name := fmt.Sprintf("%s-%08x", g.name, number())
	if err := l.createInstance(ctx, g, name, groups...); err != nil {
		return "", err
	}
	defer func() {
		if _, getErr := l.sixacre(ctx, "instance", "get", name); getErr == nil {
			_, deleted := l.sixacre(ctx, "instance", "delete", name)
			err = errors.Join(err, deleted)
		}
	}()
	nic, err := l.nic(ctx, name)
	if err != nil {
		return "", err
	}
	return f(name, nic)
}

// lease requests the offered prefixes, as the guest's client would.
func (l *Lab) lease(g guest, offer dhcpSeen) error {
	answer, err := l.exchange(g, dhcpMessage(dhcpRequest, number()&0xffffff,
		option(optClientID, duid(g.mac)), option(optServerID, offer.server), iapd(offer.prefixes...)))
	if err != nil {
		return err
	}
	if answer.typ != dhcpReply || !slices.Equal(answer.prefixes, offer.prefixes) {
		return fmt.Errorf("%s was offered %s and got message type %d with [%s]", g.name, join(offer.prefixes), answer.typ, join(answer.prefixes))
	}
	return nil
}

// routed waits until each router of a guest's pod has the routes to the prefixes
// that hold is true for, and no other of them.
func (l *Lab) routed(ctx context.Context, g guest, prefixes []netip.Prefix, hold bool) error {
	return until(ctx, answerWithin, func() error {
		for _, r := range g.pod.routers {
			has, err := l.ourRoutes(ctx, r)
			if err != nil {
				return err
			}
			for _, p := range prefixes {
				line := fmt.Sprintf("%s via %s", p, g.linkLocal())
				switch there := slices.Contains(has, line); {
				case hold && !there:
					return fmt.Errorf("%s has no route %s", r.name, line)
				case !hold && strings.Contains(strings.Join(has, "\n"), p.String()):
					return fmt.Errorf("%s still has a route to %s", r.name, p)
				}
			}
		}
		return nil
	})
}

func (l *Lab) checkOwnRelease(ctx context.Context) (string, error) {
	return l.withScratch(ctx, func(name string, nic nicRecord) (string, error) {
		offer, err := l.askFor(ctx, scratch, name)
		if err != nil {
			return "", err
		}
		if err := l.lease(scratch, offer); err != nil {
			return "", err
		}
		if err := l.routed(ctx, scratch, nic.Prefixes, true); err != nil {
			return "", err
		}
		answer, err := l.exchange(scratch, dhcpMessage(dhcpRelease, number()&0xffffff,
			option(optClientID, duid(scratch.mac)), option(optServerID, offer.server), iapd(nic.Prefixes...)))
		if err != nil {
			return "", err
		}
		if answer.typ != dhcpReply || answer.status != statusSuccess {
			return "", fmt.Errorf("the server answered with type %d and status %d", answer.typ, answer.status)
		}
		if err := l.routed(ctx, scratch, nic.Prefixes, false); err != nil {
			return "", err
		}
		if offer, err = l.askFor(ctx, scratch, name); err != nil {
			return "", err
		}
		if err := l.lease(scratch, offer); err != nil {
			return "", err
		}
		if err := l.routed(ctx, scratch, nic.Prefixes, true); err != nil {
			return "", err
		}
		return fmt.Sprintf("answered with Success, %s off both routers; asked for again, it is the same and back on both", join(nic.Prefixes)), nil
	})
}

func (l *Lab) checkDelete(ctx context.Context) (string, error) {
	return l.withScratch(ctx, func(name string, nic nicRecord) (string, error) {
		prefix := nic.Prefixes[0]
		at := hostOf(prefix)
		if err := l.ip(ctx, scratch.name, fmt.Sprintf("addr replace %s/64 dev %s\n", at, inner)); err != nil {
			return "", err
		}
		defer l.ip(ctx, scratch.name, fmt.Sprintf("addr flush dev %s\n", inner))
		if _, err := l.askFor(ctx, scratch, name); err != nil {
			return "", err
		}
		if err := l.routed(ctx, scratch, nic.Prefixes, true); err != nil {
			return "", err
		}
		if err := l.ping(ctx, pod1.routers[0], at); err != nil {
			return "", err
		}
		if err := l.filtered(ctx, scratch, prefix, true); err != nil {
			return "", err
		}

		if _, err := l.sixacre(ctx, "instance", "delete", name); err != nil {
			return "", err
		}
		if err := l.routed(ctx, scratch, nic.Prefixes, false); err != nil {
			return "", err
		}
		if err := l.filtered(ctx, scratch, prefix, false); err != nil {
			return "", err
		}
		// The filter would stop its Solicit at the tap, so the MAC asks from
		// where there is none.
		if err := l.silentFor(ctx, scratch.mac); err != nil {
			return "", err
		}
		if _, err := l.unreachable(ctx, pod1.routers[1], at); err != nil {
			return "", err
		}
		again, err := l.reuse(ctx, prefix)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s off both routers, %s's filter elements gone, its Solicit unanswered; %s", prefix, scratch.tap, again), nil
	})
}

// filtered waits until the hypervisor's filter knows, or does not know, a
// guest's MAC and prefix.
func (l *Lab) filtered(ctx context.Context, g guest, prefix netip.Prefix, known bool) error {
	return until(ctx, answerWithin, func() error {
		ruleset, err := l.exec(ctx, hypervisor, "nft", "list", "table", "bridge", "sixacre")
		if err != nil {
			return err
		}
		for _, what := range []string{g.mac, prefix.Addr().String()} {
			if strings.Contains(ruleset, what) != known {
				return fmt.Errorf("that the filter knows %s is %t", what, !known)
			}
		}
		return nil
	})
}

// silentFor solicits with a MAC from beside the hypervisor, and returns an error
// if there is an answer.
func (l *Lab) silentFor(ctx context.Context, mac string) error {
	w, err := l.attach(stray.name, "eth0")
	if err != nil {
		return err
	}
	defer w.Close()
	as := stray
	as.mac = mac
	id := number() & 0xffffff
	arrived, err := l.unanswered(ctx, id, func() error { return w.send(as.client546(solicit(id, mac))) })
	if err == nil && arrived == 0 {
		err = errors.New("the Solicit did not arrive at the server, so nothing was shown")
	}
	return err
}

// reuse tries to get a prefix that was just released, by name and by chance.
func (l *Lab) reuse(ctx context.Context, prefix netip.Prefix) (string, error) {
	var all []prefixRecord
	if err := l.query(ctx, &all, "prefix", "list"); err != nil {
		return "", err
	}
	at := slices.IndexFunc(all, func(r prefixRecord) bool { return r.Prefix == prefix })
	if at < 0 || all[at].State != "quarantine" {
		return "", fmt.Errorf("prefix list does not show %s in quarantine", prefix)
	}
	name := fmt.Sprintf("scratch-%08x", number())
	// Another guest: the last holder itself may come back to its prefix.
	create := []string{"instance", "create", name, "--pod", scratch.pod.name, "--mac", "06:00:00:00:00:fe"}
	_, refusal := l.sixacre(ctx, append(create, "--prefix", prefix.String())...)
	if refusal == nil {
		_, err := l.sixacre(ctx, "instance", "delete", name)
		return "", errors.Join(fmt.Errorf("%s was given again although it is in quarantine", prefix), err)
	}
	if _, err := l.sixacre(ctx, append(create, "--prefixes", "4")...); err != nil {
		return "", err
	}
	nic, err := l.nic(ctx, name)
	if _, deleted := l.sixacre(ctx, "instance", "delete", name); err != nil || deleted != nil {
		return "", errors.Join(err, deleted)
	}
	if slices.Contains(nic.Prefixes, prefix) {
		return "", fmt.Errorf("%s was given again although it is in quarantine", prefix)
	}
	_, reason, _ := strings.Cut(refusal.Error(), ": sixacre: ")
	return "for another instance: " + reason, nil
}
