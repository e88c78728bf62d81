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
	return append(all, check{"dhcp6c-before-ra", "dhcp6c that is answered before the Router Advertisement comes, with and without ia-na", (*Lab).checkBeforeRA})
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

// checkBeforeRA is about the one client that can take the SLAAC address with it:
// where DHCPv6 is faster than the Router Advertisement, dhcp6c configures the
// address of its IA_NA, which is the same, and removes it when it releases.
// Without ia-na in its configuration it does not.
func (l *Lab) checkBeforeRA(ctx context.Context) (string, error) {
	return l.withScratch(ctx, func(_ string, nic nicRecord) (string, error) {
		with, without := *wide, *wide
		without.files = map[string]string{"dhcp6c.conf": strings.Replace(wide.files["dhcp6c.conf"], " send ia-na 10;", "", 1)}
		stayed, err := l.releaseBeforeRA(ctx, nic, &with)
		if err != nil {
			return "", err
		}
		seen := "survives its Release although it was dhcp6c's"
		if !stayed {
			seen = "goes with its Release where dhcp6c was first"
		}
		stayed, err = l.releaseBeforeRA(ctx, nic, &without)
		if err == nil && !stayed {
			err = fmt.Errorf("dhcp6c took %s with it, although it has no 'send ia-na'", nic.Address)
		}
		return fmt.Sprintf("with 'send ia-na' %s %s; without, it stays", nic.Address, seen), err
	})
}

// releaseBeforeRA has the scratch guest's kernel hear no Router Advertisement
// until its client has an answer, and reports whether the SLAAC address is there
// after the client's release.
func (l *Lab) releaseBeforeRA(ctx context.Context, nic nicRecord, c *client) (stayed bool, err error) {
	g := scratch
	g.client = c
	if err := l.prepareClient(g); err != nil {
		return false, err
	}
	restart := func(acceptRA string) error {
		if err := l.sysctl(g.name, map[string]string{"ipv6/conf/eth0/accept_ra": acceptRA}); err != nil {
			return err
		}
		return l.ip(ctx, g.name, "link set eth0 down\nlink set eth0 up\n")
	}
	if err := restart("0"); err != nil {
		return false, err
	}
	defer l.sysctl(g.name, map[string]string{"ipv6/conf/eth0/accept_ra": "1"})
	if err := until(ctx, answerWithin, func() error { return l.hasAddress(g, nic.LinkLocal) }); err != nil {
		return false, err
	}
	if err := l.startClient(g); err != nil {
		return false, err
	}
	defer l.forget(clientProcess(g))
	if err := until(ctx, answerWithin, func() error { return l.hasPrefixes(g, nic.Prefixes) }); err != nil {
		return false, err
	}
	if err := l.sysctl(g.name, map[string]string{"ipv6/conf/eth0/accept_ra": "1"}); err != nil {
		return false, err
	}
	w, err := l.attach(g.name, "eth0")
	if err != nil {
		return false, err
	}
	defer w.Close()
	if err := w.send(g.self(nic.LinkLocal).to("", allRouters).onLink().routerSolicitation()); err != nil {
		return false, err
	}
	if err := until(ctx, answerWithin, func() error { return l.hasAddress(g, nic.Address) }); err != nil {
		return false, err
	}
	if err := l.releaseClient(ctx, g); err != nil {
		return false, err
	}
	has, err := l.globals(g.name, "eth0")
	return slices.Contains(has, nic.Address), err
}
