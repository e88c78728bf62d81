package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lifeChecks do to the second hypervisor what befalls hypervisors, while packets
// that must pass and packets that must not go to and from its guest.
func lifeChecks() []check {
	return []check{
		{"boot", "taps are closed from boot on, and open for their guest once an agent runs", (*Lab).checkBoot},
		{"new-tap", "a tap that comes up passes nothing until it is programmed", (*Lab).checkNewTap},
		{"restart-agent", "kill -9 of an agent: no packet lost, of new connections neither, and none let through", (*Lab).checkRestartAgent},
		{"upgrade-agent", "an agent that starts over another build's filter", (*Lab).checkUpgradeAgent},
		{"flush", "somebody's 'nft flush ruleset' is repaired; the bridge holds taps to their MACs meanwhile", (*Lab).checkFlush},
		{"set-back", "settings of bridge and ports that somebody changed are set again; br_netfilter's may be as others want", (*Lab).checkSetBack},
		{"server-gone", "without its server an agent keeps the filter, also across its restart and for a tap made anew", (*Lab).checkServerGone},
		{"data-gone", "a server that has lost its data opens and closes nothing", (*Lab).checkDataGone},
	}
}

// remakeTap takes the guest's tap away and makes it anew, off its bridge.
func (l *Lab) remakeTap(ctx context.Context, g guest) error {
	if err := l.ip(ctx, g.host, fmt.Sprintf("link del %s\n", g.tap)+l.tapOf(g)); err != nil {
		return err
	}
	return l.ip(ctx, g.name, fmt.Sprintf("link set eth0 address %s up\n", g.mac))
}

// passesNothing is for a stream at a tap that is closed.
func (s *stream) passesNothing() error {
	if err := s.after(100); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.seen {
		if t.arrived > 0 {
			return fmt.Errorf("the tap is not programmed, and of packets %s", s)
		}
	}
	return nil
}

// programmedSince waits until packets pass and returns how long after a time the
// first did.
func (s *stream) programmedSince(t time.Time) (time.Duration, error) {
	if err := s.flows(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[opened].first.Sub(t), nil
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.0f ms", d.Seconds()*1000) }

// checkBoot does as a host does that boots: its kernel knows nothing, the unit of
// the static part runs, then a tap comes up, then the agent starts.
func (l *Lab) checkBoot(ctx context.Context) (string, error) {
	g, agent := elsewhere, hostNamed(elsewhere.host).agent
	if err := l.end(agent, unix.SIGKILL, 10*time.Second); err != nil {
		return "", err
	}
	running := false
	defer func() {
		if !running {
			l.restart(agent)
		}
	}()
	if err := l.ip(ctx, g.host, fmt.Sprintf("link set %s nomaster\n", g.tap)); err != nil {
		return "", err
	}
	for _, command := range []string{"nft flush ruleset", l.binary + " agent --print-static --taps '" + taps + "' | nft -f -"} {
		if _, err := l.exec(ctx, g.host, "/bin/sh", "-ec", command); err != nil {
			return "", err
		}
	}
	if err := l.remakeTap(ctx, g); err != nil {
		return "", err
	}
	s, err := l.startStream(ctx, g)
	if err != nil {
		return "", err
	}
	defer s.end()
	if err := l.ip(ctx, g.host, l.onBridge(g)); err != nil {
		return "", err
	}
	if err := s.passesNothing(); err != nil {
		return "", err
	}
	began := time.Now()
	running = true
	if err := l.restart(agent); err != nil {
		return "", err
	}
	took, err := s.programmedSince(began)
	if err != nil {
		return "", err
	}
	_, _, err = s.finish()
	return fmt.Sprintf("with the static part alone %s passes nothing, neither way; %s after the agent's start what is its own passes, and nothing else", g.tap, milliseconds(took)), err
}

func (l *Lab) checkNewTap(ctx context.Context) (string, error) {
	g := elsewhere
	took, err := l.newTap(ctx, g)
	if err != nil {
		return "", err
	}
	// While no agent runs, not even one that has the name of one before.
	if err := l.crash(hostNamed(g.host).agent, func() error {
		if err := l.remakeTap(ctx, g); err != nil {
			return err
		}
		s, err := l.startStream(ctx, g)
		if err != nil {
			return err
		}
		defer s.end()
		return errors.Join(l.ip(ctx, g.host, l.onBridge(g)), s.passesNothing())
	}); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s was programmed %s after it came up on its bridge, and passed nothing spoofed or unasked before; made anew while no agent ran, it passed nothing at all until one did", g.tap, milliseconds(took)), l.streams(ctx, g)
}

// newTap makes the guest's tap anew and returns how long it took the agent to
// program it.
func (l *Lab) newTap(ctx context.Context, g guest) (time.Duration, error) {
	if err := l.remakeTap(ctx, g); err != nil {
		return 0, err
	}
	s, err := l.startStream(ctx, g)
	if err != nil {
		return 0, err
	}
	defer s.end()
	began := time.Now()
	if err := l.ip(ctx, g.host, l.onBridge(g)); err != nil {
		return 0, err
	}
	took, err := s.programmedSince(began)
	if err != nil {
		return 0, err
	}
	_, _, err = s.finish()
	return took, err
}

func (l *Lab) checkRestartAgent(ctx context.Context) (string, error) {
	g := elsewhere
	return l.withStream(ctx, func(s *stream) (string, error) {
		var gone time.Time
		if err := l.crash(hostNamed(g.host).agent, func() error { gone = time.Now(); return s.after(50) }); err != nil {
			return "", err
		}
		if err := errors.Join(l.reported(ctx, g.host, gone), s.after(50)); err != nil {
			return "", err
		}
		sent, err := s.whole()
		return fmt.Sprintf("%d packets meanwhile, each second one of a new connection, none lost; of spoofed and unasked ones none passed", sent), err
	})
}

// withStream runs f while packets go to and from the guest on the second
// hypervisor.
func (l *Lab) withStream(ctx context.Context, f func(*stream) (string, error)) (string, error) {
	if err := l.streams(ctx, elsewhere); err != nil {
		return "", err
	}
	s, err := l.startStream(ctx, elsewhere)
	if err != nil {
		return "", err
	}
	defer s.end()
	if err := s.flows(); err != nil {
		return "", err
	}
	return f(s)
}

// streams waits until packets go to and from a guest.
func (l *Lab) streams(ctx context.Context, g guest) error {
	s, err := l.startStream(ctx, g)
	if err != nil {
		return err
	}
	defer s.end()
	return s.flows()
}

// checkUpgradeAgent makes the static part of the filter another than the agent's.
func (l *Lab) checkUpgradeAgent(ctx context.Context) (string, error) {
	g := elsewhere
	const older = `add chain bridge sixacre older
add rule bridge sixacre older accept
insert rule bridge sixacre forward ether type 0x88b5 jump older
add set bridge sixacre older_set { type ether_addr; }`
	return l.withStream(ctx, func(s *stream) (string, error) {
		if err := l.crash(hostNamed(g.host).agent, func() error {
			_, err := l.exec(ctx, g.host, "nft", strings.ReplaceAll(older, "\n", "; "))
			return errors.Join(err, s.after(50))
		}); err != nil {
			return "", err
		}
		if err := until(ctx, answerWithin, func() error {
			rules, err := l.exec(ctx, g.host, "nft", "list", "table", "bridge", "sixacre")
			if err == nil && strings.Contains(rules, "older") {
				err = errors.New("what another build had put into the filter is still there")
			}
			return err
		}); err != nil {
			return "", err
		}
		if err := errors.Join(s.after(50), s.flows()); err != nil {
			return "", err
		}
		sent, lost, err := s.finish()
		return fmt.Sprintf("its filter is as this build's; of %d packets meanwhile %d were lost, and of spoofed and unasked ones none passed", sent, lost), err
	})
}

func (l *Lab) checkFlush(ctx context.Context) (string, error) {
	return l.withStream(ctx, func(s *stream) (string, error) {
		began := time.Now()
		if _, err := l.exec(ctx, elsewhere.host, "nft", "flush", "ruleset"); err != nil {
			return "", err
		}
		if err := until(ctx, answerWithin, func() error {
			_, err := l.exec(ctx, elsewhere.host, "nft", "list", "chain", "bridge", "sixacre", "guard")
			return err
		}); err != nil {
			return "", err
		}
		back := time.Since(began)
		if err := s.after(20); err != nil {
			return "", err
		}
		s.mu.Lock()
		open := s.seen[foreignSource].last.Sub(began)
		through := s.seen[foreignSource].arrived
		s.mu.Unlock()
		if err := errors.Join(s.after(100), s.flows()); err != nil {
			return "", err
		}
		s.finish()
		switch {
		case s.seen[foreignMAC].arrived > 0:
			return "", fmt.Errorf("%d packets from another's MAC arrived", s.seen[foreignMAC].arrived)
		case s.seen[foreignSource].arrived > through:
			return "", fmt.Errorf("packets from another's address arrived after the repair")
		case through > 0:
			return fmt.Sprintf("there again within %s; for %s spoofed sources passed, another's MAC never did; connections go on", milliseconds(back), milliseconds(open)), nil
		}
		return fmt.Sprintf("there again within %s, before anything spoofed passed; connections go on", milliseconds(back)), nil
	})
}

// checkSetBack undoes what the agent has set on bridge and port.
func (l *Lab) checkSetBack(ctx context.Context) (string, error) {
	g := elsewhere
	return l.withStream(ctx, func(s *stream) (string, error) {
		settings := func() (string, error) {
			out := ""
			for _, device := range []string{g.tap, g.pod.bridge} {
				shown, err := l.exec(ctx, g.host, "ip", "-d", "link", "show", device)
				if err != nil {
					return "", err
				}
				fields := strings.Fields(shown)
				for i, f := range fields[:len(fields)-1] {
					switch f {
					case "learning", "locked", "flood", "group_fwd_mask", "nf_call_ip6tables":
						out += f + " " + fields[i+1] + " "
					}
				}
			}
			return out, nil
		}
		want, err := settings()
		if err != nil {
			return "", err
		}
		began := time.Now()
		if err := l.ip(ctx, g.host, fmt.Sprintf("link set %s type bridge_slave learning on locked off flood on\nlink set %s type bridge nf_call_ip6tables 0\n", g.tap, g.pod.bridge)); err != nil {
			return "", err
		}
		if err := until(ctx, answerWithin, func() error {
			now, err := settings()
			if err == nil && now != want {
				err = fmt.Errorf("set are %s instead of %s", now, want)
			}
			return err
		}); err != nil {
			return "", err
		}
		took := time.Since(began)
		if err := s.flows(); err != nil {
			return "", err
		}
		// As Docker and Kubernetes have it; that is not the agent's to set back.
		if err := l.callFilter(g.host, "1"); err != nil {
			return "", err
		}
		err = errors.Join(s.after(20), s.flows(), l.callFilter(g.host, "0"))
		if err != nil {
			return "", err
		}
		sent, lost, err := s.finish()
		return fmt.Sprintf("set again within %s; of %d packets meanwhile %d were lost, and of spoofed and unasked ones none passed", milliseconds(took), sent, lost), err
	})
}

// callFilter sets whether all bridges of a host hand their packets to its own
// rules; where br_netfilter is not loaded, nothing does.
func (l *Lab) callFilter(host, on string) error {
	values := map[string]string{}
	for _, family := range []string{"ip6tables", "iptables", "arptables"} {
		values["bridge/bridge-nf-call-"+family] = on
	}
	if err := l.sysctl(host, values); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// checkServerGone takes the management network away from the hypervisor.
func (l *Lab) checkServerGone(ctx context.Context) (seen string, err error) {
	g := elsewhere
	if err := l.ip(ctx, g.host, "link set mgmt down\n"); err != nil {
		return "", err
	}
	back := func() error {
		return l.ip(ctx, g.host, fmt.Sprintf("link set mgmt up\naddr replace %s2/64 dev mgmt\nroute replace default via %[1]s1\n", hostNamed(g.host).management))
	}
	restored := false
	defer func() {
		if !restored {
			err = errors.Join(err, back())
		}
	}()
	sent := 0
	if _, err := l.withStream(ctx, func(s *stream) (string, error) {
		err := l.crash(hostNamed(g.host).agent, func() error { return s.after(50) })
		if err == nil {
			err = s.after(100)
		}
		if err != nil {
			return "", err
		}
		sent, err = s.whole()
		return "", err
	}); err != nil {
		return "", err
	}
	took, err := l.newTap(ctx, g)
	if err != nil {
		return "", err
	}
	restored = true
	now := time.Now()
	if err := errors.Join(back(), l.reported(ctx, g.host, now)); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d packets while it was killed and started without its server, none lost and none let through; its tap, made anew, was programmed after %s; it reports again %.1f s after the network is back",
		sent, milliseconds(took), time.Since(now).Seconds()), nil
}

// checkDataGone has the hypervisor alone meet a server at the same address, with
// the same certificate, that knows of nothing.
func (l *Lab) checkDataGone(ctx context.Context) (seen string, err error) {
	const empty = "empty-server"
	g, agent := elsewhere, hostNamed(elsewhere.host).agent
	data := filepath.Join(l.dir, empty)
	if err := os.MkdirAll(data, 0o700); err != nil {
		return "", err
	}
	defer os.RemoveAll(data)
	for _, name := range []string{"ca.crt", "ca.key"} {
		b, err := os.ReadFile(filepath.Join(l.dataDir(), name))
		if err == nil {
			err = os.WriteFile(filepath.Join(data, name), b, 0o600)
		}
		if err != nil {
			return "", err
		}
	}
	if err := l.ip(ctx, g.host, fmt.Sprintf("addr add %s/128 dev lo\n", serverAddress)); err != nil {
		return "", err
	}
	defer func() {
		if deleted := l.ip(ctx, g.host, fmt.Sprintf("addr del %s/128 dev lo\n", serverAddress)); err == nil {
			err = deleted
		}
		if now := time.Now(); err == nil {
			err = l.reported(ctx, g.host, now)
		}
	}()
	if err := l.start(empty, g.host, "", l.binary, "server", "--data", data, "--api", fmt.Sprintf("[%s]:5460", serverAddress)); err != nil {
		return "", err
	}
	defer func() {
		if l.alive(empty) {
			err = errors.Join(err, l.end(empty, unix.SIGKILL, 10*time.Second))
		}
		l.forget(empty)
	}()
	return l.withStream(ctx, func(s *stream) (string, error) {
		refusals := func() (int, error) {
			log, err := os.ReadFile(l.logPath(agent))
			return strings.Count(string(log), "a valid token is needed"), err
		}
		before, err := refusals()
		if err != nil {
			return "", err
		}
		if err := l.crash(agent, func() error { return s.after(50) }); err != nil {
			return "", err
		}
		if err := until(ctx, answerWithin, func() error {
			now, err := refusals()
			if err == nil && now == before {
				err = fmt.Errorf("the agent does not say that it is refused: %s", l.lastWords(agent))
			}
			return err
		}); err != nil {
			return "", err
		}
		if err := s.after(100); err != nil {
			return "", err
		}
		sent, err := s.whole()
		return fmt.Sprintf("it refuses the token, and an agent that starts then has the filter as it was: %d packets meanwhile, none lost and none let through", sent), err
	})
}
