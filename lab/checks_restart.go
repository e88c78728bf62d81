package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// restartChecks kill each of our programs as a crash would and start it again.
func restartChecks() []check {
	return []check{
		{"kill-server", "kill -9 of the server: same prefixes, same routes, traffic goes on", (*Lab).checkKillServer},
		{"kill-router", "kill -9 of a router: same routes before and after its restart, traffic goes on", (*Lab).checkKillRouter},
		{"kill-agent", "kill -9 of the agent: no datagram of a running instance is lost, the filter stays closed", (*Lab).checkKillAgent},
	}
}

// picture is what a restart must not change.
type picture struct {
	prefixes []string
	routes   []string
}

func (l *Lab) picture(ctx context.Context) (p picture, err error) {
	var all []prefixRecord
	if err := l.query(ctx, &all, "prefix", "list"); err != nil {
		return p, err
	}
	for _, r := range all {
		if r.State == "delegated" {
			p.prefixes = append(p.prefixes, fmt.Sprintf("%s of %s", r.Prefix, r.Instance))
		}
	}
	slices.Sort(p.prefixes)
	p.routes, err = l.allRoutes(ctx)
	return p, err
}

func (l *Lab) allRoutes(ctx context.Context) ([]string, error) {
	var all []string
	for _, p := range pods {
		if p.alone {
			continue // its routes are the leases'
		}
		for _, r := range p.routers {
			has, err := l.ourRoutes(ctx, r)
			if err != nil {
				return nil, err
			}
			for _, line := range has {
				all = append(all, r.name+": "+line)
			}
		}
	}
	return all, nil
}

// same says what is different now.
func (l *Lab) same(ctx context.Context, before picture) error {
	now, err := l.picture(ctx)
	switch {
	case err != nil:
		return err
	case !slices.Equal(now.prefixes, before.prefixes):
		return fmt.Errorf("the prefixes were [%s] and are [%s]", strings.Join(before.prefixes, ", "), strings.Join(now.prefixes, ", "))
	}
	return sameRoutes(before.routes, now.routes)
}

func sameRoutes(before, now []string) error {
	if !slices.Equal(now, before) {
		return fmt.Errorf("the routes were [%s] and are [%s]", strings.Join(before, ", "), strings.Join(now, ", "))
	}
	return nil
}

// running is a flow from the core into i-1's prefix.
func (l *Lab) running(ctx context.Context, r router) (*traffic, error) {
	g := guestNamed("i-1")
	nic, err := l.nic(ctx, g.name)
	if err != nil {
		return nil, err
	}
	targets, err := l.innerAddresses(g, nic.Prefixes)
	if err != nil {
		return nil, err
	}
	return l.startTraffic(g, r, targets[0])
}

// crash kills a program, has f look at the world without it, and starts it
// again.
func (l *Lab) crash(name string, f func() error) error {
	if err := l.end(name, unix.SIGKILL, 10*time.Second); err != nil {
		return err
	}
	return errors.Join(f(), l.restart(name))
}

func (l *Lab) checkKillServer(ctx context.Context) (string, error) {
	before, err := l.picture(ctx)
	if err != nil {
		return "", err
	}
	flow, err := l.running(ctx, pod1.routers[0])
	if err != nil {
		return "", err
	}
	defer flow.end()
	err = l.crash(serverBox, func() error {
		routes, err := l.allRoutes(ctx)
		return errors.Join(err, sameRoutes(before.routes, routes), flow.flows(ctx))
	})
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := l.serverReady(ctx); err != nil {
		return "", err
	}
	took := time.Since(began)
	offered := ""
	for _, g := range instances {
		if err := until(ctx, answerWithin, func() error {
			answer, err := l.askFor(ctx, g, g.name)
			offered = g.name + " " + join(answer.prefixes)
			return err
		}); err != nil {
			return "", err
		}
	}
	// Everybody is back: the agent reports, and a change reaches the routers.
	if err := l.reported(ctx, hypervisor, began); err != nil {
		return "", err
	}
	if err := l.follows(ctx); err != nil {
		return "", err
	}
	if err := l.same(ctx, before); err != nil {
		return "", err
	}
	return fmt.Sprintf("answers again after %.1f s; every instance is offered the same (%s), the %d routes stayed, traffic flowed meanwhile",
		took.Seconds(), offered, len(before.routes)), nil
}

// reported waits until a host's agent has spoken to the server after a time.
func (l *Lab) reported(ctx context.Context, host string, after time.Time) error {
	return until(ctx, 30*time.Second, func() error {
		var h hostRecord
		if err := l.query(ctx, &h, "host", "get", host); err != nil {
			return err
		}
		if !h.Seen.After(after) {
			return fmt.Errorf("the agent has not reported since %s: %s", after.Format(time.TimeOnly), l.lastWords(hostNamed(host).agent))
		}
		return nil
	})
}

// follows has an instance come and go, and sees its route come and go on every
// router: whatever they do at their start, they have done then.
func (l *Lab) follows(ctx context.Context) error {
	name := fmt.Sprintf("scratch-%08x", number())
	if err := l.createInstance(ctx, scratch, name); err != nil {
		return err
	}
	nic, err := l.nic(ctx, name)
	if err == nil {
		err = l.routed(ctx, scratch, nic.Prefixes, true)
	}
	if _, deleted := l.sixacre(ctx, "instance", "delete", name); err != nil || deleted != nil {
		return errors.Join(err, deleted)
	}
	return l.routed(ctx, scratch, nic.Prefixes, false)
}

func (l *Lab) checkKillRouter(ctx context.Context) (string, error) {
	r := pod1.routers[0]
	before, err := l.picture(ctx)
	if err != nil {
		return "", err
	}
	flow, err := l.running(ctx, r)
	if err != nil {
		return "", err
	}
	defer flow.end()
	if err := l.crash(r.name, func() error {
		routes, err := l.allRoutes(ctx)
		return errors.Join(err, sameRoutes(before.routes, routes), flow.flows(ctx))
	}); err != nil {
		return "", err
	}
	if err := l.relays(ctx, r); err != nil {
		return "", err
	}
	if err := l.follows(ctx); err != nil {
		return "", err
	}
	if err := l.same(ctx, before); err != nil {
		return "", err
	}
	sent, lost := flow.finish()
	if lost > 0 {
		return "", fmt.Errorf("%d of %d datagrams through %s were lost", lost, sent, r.name)
	}
	return fmt.Sprintf("%s relays and follows the record again, with the same routes before and after; %d datagrams through it, none lost", r.name, sent), nil
}

// relays waits until a router carries a question to the server.
func (l *Lab) relays(ctx context.Context, r router) error {
	w, err := l.attach(coreBox, r.name)
	if err != nil {
		return err
	}
	defer w.Close()
	return until(ctx, 20*time.Second, func() error {
		if !l.alive(r.name) {
			return fmt.Errorf("%s has ended: %s", r.name, l.lastWords(r.name))
		}
		id := number() & 0xffffff
		if _, err := l.exchange(instances[0], solicit(id, instances[0].mac)); err != nil {
			return err
		}
		f, err := w.next(time.Now().Add(200*time.Millisecond), func(f frame) bool { return carries(f, id) })
		if err == nil && f == nil {
			err = fmt.Errorf("%s does not relay: %s", r.name, l.lastWords(r.name))
		}
		return err
	})
}

func (l *Lab) checkKillAgent(ctx context.Context) (string, error) {
	flow, err := l.running(ctx, pod1.routers[0])
	if err != nil {
		return "", err
	}
	defer flow.end()
	var gone time.Time
	if err := l.crash("agent", func() error {
		gone = time.Now()
		// Nobody minds the filter, and it holds.
		_, err := l.checkSpoofedSource(ctx)
		return errors.Join(err, l.checkNewFlow(ctx))
	}); err != nil {
		return "", err
	}
	if err := l.reported(ctx, hypervisor, gone); err != nil {
		return "", err
	}
	for _, g := range instances {
		if err := l.programmed(ctx, g); err != nil {
			return "", err
		}
	}
	if err := l.follows(ctx); err != nil {
		return "", err
	}
	if err := flow.flows(ctx); err != nil {
		return "", err
	}
	sent, lost := flow.finish()
	if lost > 0 {
		return "", fmt.Errorf("%d of %d datagrams to i-1 were lost", lost, sent)
	}
	if _, err := l.checkSpoofedSource(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d datagrams to i-1 while it was gone and came back, none lost; spoofed sources dropped during and after", sent), nil
}

// checkNewFlow opens a connection, which no older one helps.
func (l *Lab) checkNewFlow(ctx context.Context) error {
	_, err := l.checkTCP(ctx)
	return err
}
