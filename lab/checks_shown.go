package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// shownChecks are about what the hypervisor's operator is told.
func shownChecks() []check {
	return []check{
		{"agent-status", "'sixacre agent status' finds nothing wrong, and shows each tap", (*Lab).checkAgentStatus},
		{"agent-drops", "'sixacre agent drops' counts what is dropped by instance, direction and reason", (*Lab).checkAgentDrops},
	}
}

func (l *Lab) checkAgentStatus(ctx context.Context) (string, error) {
	for _, h := range hosts {
		// An agent writes down once a second how things are.
		if err := until(ctx, 5*time.Second, func() error { return l.shown(ctx, h) }); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("nothing fails on %s and %s; the taps of %s and %s are shown as closed, all others as filtered", hosts[0].name, hosts[1].name, scratch.name, stranger.name), nil
}

// shown reports what is wrong with the status of a hypervisor.
func (l *Lab) shown(ctx context.Context, h host) error {
	out, err := l.exec(ctx, h.name, l.binary, "agent", "status", "--state", l.stateDir(h.name))
	if err != nil {
		return fmt.Errorf("on %s: %w: %s", h.name, err, strings.ReplaceAll(out, "\n", "; "))
	}
	for _, g := range allGuests() {
		if g.host != h.name {
			continue
		}
		want := "yes"
		if g.name == scratch.name || g.name == stranger.name {
			want = "closed"
		}
		if !slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool {
			return slices.Contains(strings.Fields(line), g.tap) && strings.HasSuffix(line, want)
		}) {
			return fmt.Errorf("on %s no line says of %s %s: %s", h.name, g.tap, want, strings.ReplaceAll(out, "\n", "; "))
		}
	}
	return nil
}

// drops reads how many packets of an instance were dropped, by direction and
// reason.
func (l *Lab) drops(ctx context.Context, h host, instance string) (map[string]int, error) {
	out, err := l.exec(ctx, h.name, l.binary, "agent", "drops", instance, "--state", l.stateDir(h.name), "-o", "json")
	if err != nil {
		return nil, err
	}
	var all []struct {
		Direction string `json:"direction"`
		Reason    string `json:"reason"`
		Packets   int    `json:"packets"`
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("sixacre agent drops: %w", err)
	}
	counts := map[string]int{}
	for _, d := range all {
		counts[d.Direction+" "+d.Reason] = d.Packets
	}
	return counts, nil
}

// checkAgentDrops sends one packet for each reason, from i-1 and to it.
func (l *Lab) checkAgentDrops(ctx context.Context) (string, error) {
	return l.withSpoofer(ctx, func(s *spoofer) (string, error) {
		own, local := s.own(s.nic.Address), s.guest.self(s.nic.LinkLocal).to(s.routerMAC, s.router.linkLocal)
		outside := s.fromOutside().to(s.guest.mac, s.nic.Address)
		fromRouter := ip6{srcMAC: s.routerMAC, src: s.router.linkLocal}.to(s.guest.mac, s.nic.LinkLocal)
		theirs := s.own(s.victimNIC.Address)
		from := []probe{
			forbidden("source", theirs.echo(token())),
			forbidden("ethertype", own.other(typeRARP, make([]byte, 46))),
			forbidden("unspecified", s.own(netip.IPv6Unspecified()).udp(40000, 53, token())),
			forbidden("link-local", local.udp(40000, 53, token())),
			forbidden("dhcpv6-server", own.udp(serverPort, 40000, token())),
			forbidden("routing-header", own.udp(40000, 53, token()).behind(sourceRoute)),
			forbidden("icmpv6-type", s.guest.self(s.nic.LinkLocal).to("", allNodes).routerAdvertisement()),
			forbidden("ns", local.nd(icmpNeighborSol, s.router.linkLocal)),
			forbidden("na", local.onLink().nd(icmpNeighborAdv, s.victimNIC.Address)),
			forbidden("rs", s.guest.self(s.nic.LinkLocal).to("", allRouters).routerSolicitation()),
			forbidden("mld", s.guest.self(s.nic.LinkLocal).mldReport()),
			permitted("an echo request", own.echo(token())),
		}
		to := []probe{
			forbidden("no-rule", outside.syn(40000, closedPort, number())),
			forbidden("not-for-guest", s.fromOutside().to(s.guest.mac, s.victimNIC.Address).syn(40000, openPort, number())),
			forbidden("icmpv6-error", outside.quoting(icmpUnreachable, theirs.udp(40000, 53, token()))),
			forbidden("off-link", fromRouter.hops(64).icmp(icmpRouterAdv, append([]byte{64}, token()[:11]...))),
			permitted("an echo request", outside.echo(token())),
		}
		h := hostNamed(s.guest.host)
		before, err := l.drops(ctx, h, s.guest.name)
		if err != nil {
			return "", err
		}
		if err := l.probe(s.wire, from, s.atRouter); err != nil {
			return "", err
		}
		if err := l.probe(s.atRouter, to, s.wire); err != nil {
			return "", err
		}
		after, err := l.drops(ctx, h, s.guest.name)
		if err != nil {
			return "", err
		}
		for direction, all := range map[string][]probe{"out": from, "in": to} {
			for _, p := range all {
				if key := direction + " " + p.what; !p.pass && after[key] <= before[key] {
					return "", fmt.Errorf("a packet that is dropped for %s is not counted: %d before, %d after", key, before[key], after[key])
				}
			}
		}
		return fmt.Sprintf("counted out: %s; in: %s", list(from, false), list(to, false)), nil
	})
}
