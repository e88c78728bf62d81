package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// releaseChecks stop each client so that it releases what it holds, and start it
// again.
func releaseChecks() []check {
	var all []check
	for _, g := range instances {
		if g.pod.addressing != "slaac" {
			continue
		}
		all = append(all, check{
			"release-" + g.name, fmt.Sprintf("%s releases: SLAAC address and running traffic survive", g.client.name),
			func(l *Lab, ctx context.Context) (string, error) { return l.checkReleaseBy(ctx, g) },
		})
	}
	return all
}

func (l *Lab) checkReleaseBy(ctx context.Context, g guest) (string, error) {
	nic, err := l.nic(ctx, g.name)
	if err != nil {
		return "", err
	}
	flow, err := l.startTraffic(g, g.pod.routers[0], nic.Address)
	if err != nil {
		return "", err
	}
	defer flow.end()
	atRouter, err := l.attach(g.pod.routers[0].name, "pod")
	if err != nil {
		return "", err
	}
	defer atRouter.Close()
	if err := l.releaseClient(ctx, g); err != nil {
		return "", err
	}
	released, err := atRouter.next(time.Now().Add(time.Second), func(f frame) bool {
		return f.isUDP(clientPort, serverPort) && f.src() == nic.LinkLocal && f.payload()[udpSize] == dhcpRelease
	})
	if err != nil {
		return "", err
	}
	said := "sent no Release"
	if released != nil {
		said = "sent a Release"
		if err := l.routed(ctx, g, nic.Prefixes, false); err != nil {
			return "", err
		}
		said += ", and the routers withdrew the route"
	}
	has, err := l.globals(g.name, "eth0")
	if err != nil {
		return "", err
	}
	survived := slices.Contains(has, nic.Address)

	if err := l.startClient(g); err != nil {
		return "", err
	}
	if err := l.guestReady(ctx, g); err != nil {
		return "", err
	}
	if err := l.routed(ctx, g, nic.Prefixes, true); err != nil {
		return "", err
	}
	flowed := flow.flows(ctx)
	sent, lost := flow.finish()
	if !survived || flowed != nil || lost > 0 {
		return "", fmt.Errorf("%s %s; eth0 has [%s], %d of %d datagrams to %s were lost", g.client.name, said, join(has), lost, sent, nic.Address)
	}
	return fmt.Sprintf("%s %s; %s stayed; started again, it has %s again; %d datagrams to the address meanwhile, none lost",
		g.client.name, said, nic.Address, strings.ReplaceAll(join(nic.Prefixes), ", ", " and "), sent), nil
}
