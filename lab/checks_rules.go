package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// ruleChecks are about what follows from groups, on guests that run.
func ruleChecks() []check {
	return []check{
		{"remote-group", "a rule for the members of a group, with and without their prefixes", (*Lab).checkRemoteGroup},
		{"cut", "connections that end with their rule or with a membership, and those that go on", (*Lab).checkCut},
		{"forgotten-connection", "a deleted instance's connections are no more when its address is another's", (*Lab).checkForgottenConnection},
	}
}

// settled sends probes until what has become of them is as it should be: changes
// of the record take a moment to reach the filter.
func (l *Lab) settled(ctx context.Context, from *wire, make func() []probe, at *wire) error {
	return until(ctx, answerWithin, func() error {
		first, last, err := from.sendProbes(make())
		if err != nil {
			return err
		}
		return at.verdictsWithin(200*time.Millisecond, first, last)
	})
}

// checkRemoteGroup has the stray registered as a member that runs elsewhere.
func (l *Lab) checkRemoteGroup(ctx context.Context) (string, error) {
	return l.withScratch(ctx, func(_ string, nic nicRecord) (string, error) {
		atScratch, err := l.attach(scratch.name, "eth0")
		if err != nil {
			return "", err
		}
		defer atScratch.Close()
		w, err := l.attach(stray.name, "eth0")
		if err != nil {
			return "", err
		}
		defer w.Close()
		as := func(src netip.Addr, port uint16) frame {
			return stray.self(src).to(scratch.mac, nic.Address).udp(40000, port, token())
		}
		link := stray.self(stray.want).to(scratch.mac, nic.Address)
		remote := stray
		remote.prefixes = 1
		seen, err := l.withInstance(ctx, remote, func(_ string, member nicRecord) (string, error) {
			prefix := hostOf(member.Prefixes[0])
			var all []probe
			err := l.settled(ctx, w, func() []probe {
				all = []probe{
					forbidden("from its prefix", as(prefix, membersPort)),
					forbidden("from another's address", as(pod1.link.Addr().Next(), membersPort)),
					forbidden("to another port", as(member.Address, closedPort)),
					permitted("a member's address", as(member.Address, membersPort)),
					permitted("with --include-prefixes", as(member.Address, prefixesPort)),
					permitted("its prefix", as(prefix, prefixesPort)),
				}
				return all
			}, atScratch)
			return fmt.Sprintf("dropped: %s; seen: %s", list(all, false), list(all, true)), err
		}, membersGroup)
		if err != nil {
			return "", err
		}
		err = l.settled(ctx, w, func() []probe {
			return []probe{
				forbidden("one that is no member any more", as(stray.want, membersPort)),
				forbidden("it, with --include-prefixes", as(stray.want, prefixesPort)),
				permitted("its echo request", link.echo(token())),
			}
		}, atScratch)
		return seen + "; and nothing from it once it is deleted", err
	}, serversGroup)
}

// live is a TCP connection to a guest that sends everything back.
type live struct {
	what string
	port uint16
	conn net.Conn
}

// echoTCP listens at an address of a guest and sends back what comes.
func (l *Lab) echoTCP(g guest, at netip.AddrPort) (stop func(), err error) {
	var listener *net.TCPListener
	if err := l.in(g.name, func() (err error) {
		listener, err = net.ListenTCP("tcp6", net.TCPAddrFromAddrPort(at))
		return err
	}); err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return func() { listener.Close() }, nil
}

// goes says whether what is sent over the connection comes back.
func (c live) goes() error {
	if err := c.conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	buf := []byte{'x'}
	if _, err := c.conn.Write(buf); err != nil {
		return fmt.Errorf("%s: %w", c.what, err)
	}
	if _, err := io.ReadFull(c.conn, buf); err != nil {
		return fmt.Errorf("%s does not go on: %w", c.what, err)
	}
	return nil
}

// ended waits until no segment of a connection reaches the guest any more, while
// another goes on beside it.
func (l *Lab) ended(ctx context.Context, g guest, cut, beside live) error {
	return until(ctx, answerWithin, func() error {
		w, err := l.attach(g.name, "eth0")
		if err != nil {
			return err
		}
		defer w.Close()
		if _, err := cut.conn.Write([]byte{'x'}); err != nil {
			return err
		}
		if err := beside.goes(); err != nil {
			return err
		}
		to := func(port uint16) func(frame) bool {
			return func(f frame) bool {
				if f.proto() != protoTCP {
					return false
				}
				_, dst := f.ports()
				return dst == port
			}
		}
		reached, err := w.seenBefore(answerWithin, to(cut.port), to(beside.port))
		if err == nil && reached {
			err = fmt.Errorf("%s goes on", cut.what)
		}
		return err
	})
}

// checkCut has connections of which the rules go, and others of which a remote
// leaves its group: with --cut they end, without they go on.
func (l *Lab) checkCut(ctx context.Context) (string, error) {
	return l.withScratch(ctx, func(_ string, nic nicRecord) (string, error) {
		return l.withInstance(ctx, stray, func(member string, _ nicRecord) (string, error) {
			const cutByRule, keptByRule, cutByMember, keptByMember = 7301, 7302, 7303, 7304
			core, fellow := coreBox, stray.name
			rules := map[uint16]string{}
			var opened []live
			for _, c := range []struct {
				port uint16
				from string
				more []string
			}{
				{cutByRule, core, []string{"--cut"}}, {keptByRule, core, nil},
				{cutByMember, fellow, []string{"--remote", "group:" + membersGroup, "--cut"}}, {keptByMember, fellow, []string{"--remote", "group:" + membersGroup}},
			} {
				var made struct {
					ID int `json:"id"`
				}
				add := append([]string{"group", "rule", "add", serversGroup, "--direction", "in", "--protocol", "tcp", "--ports", fmt.Sprint(c.port)}, c.more...)
				if err := l.query(ctx, &made, add...); err != nil {
					return "", err
				}
				rules[c.port] = fmt.Sprint(made.ID)
				defer func() {
					if rule, there := rules[c.port]; there {
						l.sixacre(ctx, "group", "rule", "delete", serversGroup, rule)
					}
				}()
				at := netip.AddrPortFrom(nic.Address, c.port)
				stop, err := l.echoTCP(scratch, at)
				if err != nil {
					return "", err
				}
				defer stop()
				conn, err := l.dial(ctx, c.from, at)
				if err != nil {
					return "", err
				}
				defer conn.Close()
				opened = append(opened, live{fmt.Sprintf("the connection of %s to port %d", c.from, c.port), c.port, conn})
			}
			for _, c := range opened {
				if err := c.goes(); err != nil {
					return "", err
				}
			}
			for _, port := range []uint16{cutByRule, keptByRule} {
				if _, err := l.sixacre(ctx, "group", "rule", "delete", serversGroup, rules[port]); err != nil {
					return "", err
				}
				delete(rules, port)
			}
			if err := l.ended(ctx, scratch, opened[0], opened[1]); err != nil {
				return "", err
			}
			if _, err := l.sixacre(ctx, "instance", "delete", member); err != nil {
				return "", err
			}
			if err := l.ended(ctx, scratch, opened[2], opened[3]); err != nil {
				return "", err
			}
			// New ones are refused to all of them.
			router, atScratch, end, err := l.bothEnds(pod1.routers[0], scratch)
			if err != nil {
				return "", err
			}
			defer end()
			outside := ip6{srcMAC: pod1.routers[0].mac, src: pod1.routers[0].outside}.to(scratch.mac, nic.Address)
			all := []probe{permitted("an echo request", outside.echo(token()))}
			for _, c := range opened {
				all = append(all, forbidden(fmt.Sprintf("a new connection to port %d", c.port), outside.syn(40000, c.port, number())))
			}
			if err := l.probe(router, all, atScratch); err != nil {
				return "", err
			}
			// Nor does it go on from the guest's side, which may send what it likes.
			own := scratch.self(nic.Address).to(pod1.routers[0].mac, pod1.routers[0].outside)
			other := opened[0].conn.LocalAddr().(*net.TCPAddr).AddrPort()
			own.dst = other.Addr()
			err = l.probe(atScratch, []probe{
				forbidden("the guest's next segment on a connection that was cut", own.later(cutByRule, other.Port(), number())),
				permitted("one on a connection of its own", own.syn(cutByRule+1000, other.Port(), number())),
			}, router)
			return "with --cut those of a deleted rule and of a remote that left its group ended, for the guest too, without they go on; new ones are refused", err
		}, membersGroup)
	}, serversGroup)
}

// dial connects from a box.
func (l *Lab) dial(ctx context.Context, box string, to netip.AddrPort) (conn net.Conn, err error) {
	err = until(ctx, answerWithin, func() error {
		return l.in(box, func() (err error) {
			dialer := net.Dialer{Timeout: time.Second}
			conn, err = dialer.DialContext(ctx, "tcp6", to.String())
			return err
		})
	})
	return conn, err
}

// checkForgottenConnection has an instance deleted in the middle of a connection,
// and another one take its MAC and so its address, in a group that allows less.
func (l *Lab) checkForgottenConnection(ctx context.Context) (string, error) {
	router, atScratch, end, err := l.bothEnds(pod1.routers[0], scratch)
	if err != nil {
		return "", err
	}
	defer end()
	const port = 42000
	outside := ip6{srcMAC: pod1.routers[0].mac, src: pod1.routers[0].outside}
	ask := func(nic nicRecord) frame { return outside.to(scratch.mac, nic.Address).udp(port, openPort, token()) }
	reach := func(nic nicRecord) frame { return outside.to(scratch.mac, nic.Address).udp(53, port, token()) }
	if _, err := l.withScratch(ctx, func(_ string, nic nicRecord) (string, error) {
		own := scratch.self(nic.Address).to(pod1.routers[0].mac, pod1.routers[0].outside)
		// One connection to it and one from it, both with an answer.
		if err := l.probe(router, []probe{permitted("a datagram to an open port", ask(nic))}, atScratch); err != nil {
			return "", err
		}
		err := l.probe(atScratch, []probe{permitted("the answer", own.udp(openPort, port, token())), permitted("a question", own.udp(port, 53, token()))}, router)
		if err != nil {
			return "", err
		}
		return "", l.probe(router, []probe{permitted("its answer", reach(nic))}, atScratch)
	}); err != nil {
		return "", err
	}
	return l.withScratch(ctx, func(_ string, nic nicRecord) (string, error) {
		return "what went on with the one before is dropped, in both directions of asking", l.settled(ctx, router, func() []probe {
			return []probe{
				forbidden("the next datagram to the port that was open", ask(nic)), forbidden("the next answer", reach(nic)),
				permitted("an echo request", outside.to(scratch.mac, nic.Address).echo(token())),
			}
		}, atScratch)
	}, serversGroup)
}
