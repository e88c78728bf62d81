package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// pictureChecks are about what everybody should have once the lab is up.
func pictureChecks() []check {
	all := []check{
		{"running", "every program that the lab started runs", (*Lab).checkRunning},
		{"address", "a guest's SLAAC address is the computed one, and its only one", (*Lab).checkAddress},
		{"default-routes", "a guest has a default route by each of its pod's routers", (*Lab).checkDefaultRoutes},
	}
	for _, g := range instances {
		all = append(all, check{
			"prefix-" + g.name, fmt.Sprintf("%s has an address of each prefix of %s", g.client.name, g.name),
			func(l *Lab, ctx context.Context) (string, error) { return l.checkPrefix(ctx, g) },
		})
	}
	return append(all,
		check{"dhcpv6-address", "a guest of a dhcpv6 pod has exactly the stored address", (*Lab).checkDHCPv6Address},
		check{"routes", "each router has exactly the record's routes, by the holder's link-local", (*Lab).checkRoutes},
		check{"ping", "an address of each prefix answers the core, through each router", (*Lab).checkPing},
		check{"tcp", "a TCP port that a group allows is reached through each router, another is not", (*Lab).checkTCP},
	)
}

func (l *Lab) checkRunning(context.Context) (string, error) {
	all := l.steady()
	if ended := slices.DeleteFunc(slices.Clone(all), l.alive); len(ended) > 0 {
		return "", fmt.Errorf("%s ended: %s", strings.Join(ended, ", "), l.lastWords(ended[0]))
	}
	return strings.Join(all, ", "), nil
}

func (l *Lab) checkAddress(ctx context.Context) (string, error) {
	var seen []string
	for _, g := range instances {
		if g.pod.addressing != "slaac" {
			continue
		}
		nic, err := l.nic(ctx, g.name)
		if err != nil {
			return "", err
		}
		has, err := l.globals(g.name, "eth0")
		switch {
		case err != nil:
			return "", err
		case nic.Address != g.want:
			return "", fmt.Errorf("%s: the record says %s, RFC 4291 appendix A %s", g.name, nic.Address, g.want)
		case !slices.Equal(has, []netip.Addr{g.want}):
			return "", fmt.Errorf("%s has %s instead of %s alone", g.name, join(has), g.want)
		}
		seen = append(seen, fmt.Sprintf("%s %s", g.name, g.want))
	}
	return strings.Join(seen, ", "), nil
}

func (l *Lab) checkDefaultRoutes(ctx context.Context) (string, error) {
	var seen []string
	for _, g := range instances {
		var want []netip.Addr
		for _, r := range g.pod.routers {
			want = append(want, r.linkLocal)
		}
		has, err := l.defaultRoutes(ctx, g)
		if err != nil {
			return "", err
		}
		if !slices.Equal(has, want) {
			return "", fmt.Errorf("%s has default routes by %s instead of %s", g.name, join(has), join(want))
		}
		seen = append(seen, fmt.Sprintf("%s by %s", g.name, strings.ReplaceAll(join(has), ", ", " and ")))
	}
	return strings.Join(seen, ", "), nil
}

func (l *Lab) checkPrefix(ctx context.Context, g guest) (string, error) {
	nic, err := l.nic(ctx, g.name)
	if err != nil {
		return "", err
	}
	if len(nic.Prefixes) != g.prefixes {
		return "", fmt.Errorf("the record gives %s instead of %d prefixes", join(nic.Prefixes), g.prefixes)
	}
	has, err := l.innerAddresses(g, nic.Prefixes)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s got %s and uses %s", g.client.name, join(nic.Prefixes), join(has)), nil
}

func (l *Lab) checkDHCPv6Address(ctx context.Context) (string, error) {
	g := guestNamed("i-5")
	nic, err := l.nic(ctx, g.name)
	if err != nil {
		return "", err
	}
	has, err := l.globals(g.name, "eth0")
	if err != nil {
		return "", err
	}
	if !slices.Equal(has, []netip.Addr{nic.Address}) {
		return "", fmt.Errorf("%s has %s instead of the stored %s alone", g.name, join(has), nic.Address)
	}
	return fmt.Sprintf("%s has the stored %s by %s, and no other", g.name, nic.Address, g.client.name), nil
}

func (l *Lab) checkRoutes(ctx context.Context) (string, error) {
	var seen []string
	for _, p := range pods {
		if p.alone {
			continue // its routes are the leases'
		}
		want, err := l.wantRoutes(ctx, p)
		if err != nil {
			return "", err
		}
		var names []string
		for _, r := range p.routers {
			has, err := l.ourRoutes(ctx, r)
			if err != nil {
				return "", err
			}
			if !slices.Equal(has, want) {
				return "", fmt.Errorf("%s has [%s] instead of [%s]", r.name, strings.Join(has, ", "), strings.Join(want, ", "))
			}
			names = append(names, r.name)
		}
		seen = append(seen, fmt.Sprintf("%s: %s", strings.Join(names, " and "), strings.Join(want, ", ")))
	}
	return strings.Join(seen, "; "), nil
}

// wantRoutes are the routes that follow from the record, as ourRoutes writes
// them.
func (l *Lab) wantRoutes(ctx context.Context, p *pod) ([]string, error) {
	var all []instanceRecord
	if err := l.query(ctx, &all, "instance", "list"); err != nil {
		return nil, err
	}
	want := []string{"unreachable " + p.pool}
	for _, i := range all {
		for _, n := range i.NICs {
			for _, prefix := range n.Prefixes {
				if n.Pod == p.name {
					want = append(want, fmt.Sprintf("%s via %s", prefix, n.LinkLocal))
				}
			}
		}
	}
	slices.Sort(want)
	return want, nil
}

// ourRoutes are a router's kernel routes with our protocol number.
func (l *Lab) ourRoutes(ctx context.Context, r router) ([]string, error) {
	all, err := l.routes(ctx, r.name, "proto", "166")
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, r := range all {
		if r.Gateway.IsValid() {
			lines = append(lines, fmt.Sprintf("%s via %s", r.Dst, r.Gateway))
		} else {
			lines = append(lines, r.Type+" "+r.Dst)
		}
	}
	slices.Sort(lines)
	return lines, nil
}

func (l *Lab) checkPing(ctx context.Context) (string, error) {
	pings := 0
	for _, g := range instances {
		nic, err := l.nic(ctx, g.name)
		if err != nil {
			return "", err
		}
		targets, err := l.innerAddresses(g, nic.Prefixes)
		if err != nil {
			return "", err
		}
		for _, r := range g.pod.routers {
			for _, to := range targets {
				if err := l.ping(ctx, r, to); err != nil {
					return "", err
				}
				pings++
			}
		}
	}
	return fmt.Sprintf("%d of %d answered, each request seen at the router it should take", pings, pings), nil
}

// ping sends one echo request from the core through a router, and sees it there.
func (l *Lab) ping(ctx context.Context, r router, to netip.Addr) error {
	w, err := l.attach(r.name, "up0")
	if err != nil {
		return err
	}
	defer w.Close()
	out, err := l.exec(ctx, coreBox, "ping", "-n", "-c", "1", "-W", "10", "-I", r.outside.String(), to.String())
	if err != nil {
		return fmt.Errorf("%s does not answer the core through %s: %s", to, r.name, oneLine([]byte(out), err))
	}
	passed, err := w.next(time.Now().Add(time.Second), func(f frame) bool {
		return f.isICMP(icmpEchoRequest) && f.dst() == to
	})
	if err == nil && passed == nil {
		err = fmt.Errorf("%s answers the core, but not through %s", to, r.name)
	}
	return err
}

func (l *Lab) checkTCP(ctx context.Context) (string, error) {
	g := guestNamed("i-1")
	nic, err := l.nic(ctx, g.name)
	if err != nil {
		return "", err
	}
	targets, err := l.innerAddresses(g, nic.Prefixes)
	if err != nil {
		return "", err
	}
	to := targets[0]
	// Something listens on both ports, so that it is the filter that tells.
	for _, port := range []uint16{openPort, closedPort} {
		stop, err := l.serveTCP(g, netip.AddrPortFrom(to, port))
		if err != nil {
			return "", err
		}
		defer stop()
	}
	for _, r := range g.pod.routers {
		if err := l.dialTCP(ctx, g, r, to); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("[%s]:%d answers through %s and %s; no segment to port %d reaches the guest, which listens there too",
		to, openPort, g.pod.routers[0].name, g.pod.routers[1].name, closedPort), nil
}

const greeting = "an acre"

// serveTCP greets everybody who connects to a guest's address.
func (l *Lab) serveTCP(g guest, at netip.AddrPort) (stop func(), err error) {
	var listener *net.TCPListener
	err = l.in(g.name, func() (err error) {
		listener, err = net.ListenTCP("tcp6", net.TCPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, greeting)
			conn.Close()
		}
	}()
	return func() { listener.Close() }, nil
}

// dialTCP connects from the core through a router, first to the closed port and
// then to the open one: when the open one has answered, the segment to the
// closed one must not have passed.
func (l *Lab) dialTCP(ctx context.Context, g guest, r router, to netip.Addr) error {
	atRouter, err := l.attach(r.name, "up0")
	if err != nil {
		return err
	}
	defer atRouter.Close()
	atGuest, err := l.attach(g.name, "eth0")
	if err != nil {
		return err
	}
	defer atGuest.Close()
	towards := func(port uint16) func(frame) bool {
		return func(f frame) bool {
			if f.proto() != protoTCP || f.dst() != to {
				return false
			}
			_, dst := f.ports()
			return dst == port
		}
	}

	closing, cancel := context.WithCancel(ctx)
	refused := make(chan error, 1)
	go func() {
		_, err := l.connect(closing, r.outside, netip.AddrPortFrom(to, closedPort))
		refused <- err
	}()
	defer func() { cancel(); <-refused }()
	sent, err := atRouter.next(time.Now().Add(answerWithin), towards(closedPort))
	if err != nil {
		return err
	}
	if sent == nil {
		return fmt.Errorf("no segment to [%s]:%d took %s", to, closedPort, r.name)
	}
	said, err := l.connect(ctx, r.outside, netip.AddrPortFrom(to, openPort))
	if err != nil {
		return fmt.Errorf("[%s]:%d through %s: %w", to, openPort, r.name, err)
	}
	if said != greeting {
		return fmt.Errorf("[%s]:%d through %s says %q", to, openPort, r.name, said)
	}
	leaked, err := atGuest.seenBefore(answerWithin, towards(closedPort), towards(openPort))
	if err == nil && leaked {
		err = fmt.Errorf("a segment to [%s]:%d reached the guest, and no group allows it", to, closedPort)
	}
	return err
}

// connect opens a TCP connection from an address of the core and returns what
// the other end says.
func (l *Lab) connect(ctx context.Context, from netip.Addr, to netip.AddrPort) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var conn net.Conn
	err := l.in(coreBox, func() (err error) {
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		conn, err = dialer.DialContext(ctx, "tcp6", to.String())
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetReadDeadline(deadline)
	said, err := io.ReadAll(conn)
	return string(said), err
}
