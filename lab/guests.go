package lab

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// startGuests switches the guests on and returns when every instance has its
// address, its default routes and its prefixes.
func (l *Lab) startGuests(ctx context.Context) error {
	for _, g := range allGuests() {
		// What a guest has of its prefixes lies behind an interface that no
		// other machine is on.
		if err := l.sysctl(g.name, map[string]string{"ipv6/conf/" + inner + "/accept_dad": "0"}); err != nil {
			return err
		}
		if g.name == private.name {
			if err := l.sysctl(g.name, map[string]string{"ipv6/conf/eth0/use_tempaddr": "2"}); err != nil {
				return err
			}
		}
		if g.name == scratch.name {
			// It boots in many checks, and nobody is there to have its address.
			if err := l.sysctl(g.name, map[string]string{"ipv6/conf/eth0/accept_dad": "0"}); err != nil {
				return err
			}
		}
		if g.client != nil && g.client.first || slices.ContainsFunc(tenants, func(t guest) bool { return t.name == g.name }) {
			continue
		}
		if err := l.ip(ctx, g.name, "link set eth0 up\n"); err != nil {
			return err
		}
	}
	for _, g := range instances {
		if err := l.runClient(ctx, g); err != nil {
			return err
		}
	}
	for _, g := range instances {
		if err := l.guestReady(ctx, g); err != nil {
			return err
		}
		nic, err := l.nic(ctx, g.name)
		if err != nil {
			return err
		}
		l.sayf("%s has %s and %s by %s", g.name, nic.Address, join(nic.Prefixes), g.client.name)
	}
	return nil
}

// runClient writes the configuration of a guest's client and starts it.
func (l *Lab) runClient(ctx context.Context, g guest) error {
	if err := l.prepareClient(g); err != nil {
		return err
	}
	// The others do not wait for duplicate address detection by themselves. And one
	// that is answered before the Router Advertisement comes takes the SLAAC address
	// for its own: see checkBeforeRA.
	if !g.client.first {
		address := g.linkLocal()
		if g.pod.addressing == "slaac" {
			address = g.want
		}
		if err := until(ctx, 10*time.Second, func() error { return l.hasAddress(g, address) }); err != nil {
			return err
		}
	}
	return l.startClient(g)
}

// guestReady waits until a guest has everything that the record gives it.
func (l *Lab) guestReady(ctx context.Context, g guest) error {
	nic, err := l.nic(ctx, g.name)
	if err != nil {
		return err
	}
	err = until(ctx, 40*time.Second, func() error {
		routes, err := l.defaultRoutes(ctx, g)
		if err == nil && len(routes) < len(g.pod.routers) {
			err = fmt.Errorf("%s has %d default routes", g.name, len(routes))
		}
		return cmp.Or(err, l.hasAddress(g, nic.Address), l.hasPrefixes(g, nic.Prefixes))
	})
	if err != nil {
		return fmt.Errorf("%w (%s: %s)", err, g.client.name, l.lastWords(clientProcess(g)))
	}
	return nil
}

// address is one that the kernel of a box has.
type address struct {
	netip.Addr
	tentative bool
}

// addresses lists the IPv6 addresses of a box's interface.
func (l *Lab) addresses(box, device string) ([]address, error) {
	var all []address
	err := l.in(box, func() error {
		f, err := os.Open("/proc/thread-self/net/if_inet6")
		if err != nil {
			return err
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			// address, interface number, prefix length, scope, flags, interface
			fields := strings.Fields(lines.Text())
			if len(fields) != 6 || fields[5] != device {
				continue
			}
			raw, err := hex.DecodeString(fields[0])
			if err != nil {
				return err
			}
			flags, err := strconv.ParseUint(fields[4], 16, 32)
			if err != nil {
				return err
			}
			a, _ := netip.AddrFromSlice(raw)
			all = append(all, address{a, flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0})
		}
		return nil
	})
	return all, err
}

// globals lists the addresses of a box's interface that are not link-local.
func (l *Lab) globals(box, device string) ([]netip.Addr, error) {
	all, err := l.addresses(box, device)
	var global []netip.Addr
	for _, a := range all {
		if !a.IsLinkLocalUnicast() {
			global = append(global, a.Addr)
		}
	}
	slices.SortFunc(global, netip.Addr.Compare)
	return slices.Compact(global), err
}

// hasAddress says whether a guest's eth0 has the address, past its duplicate
// address detection.
func (l *Lab) hasAddress(g guest, want netip.Addr) error {
	all, err := l.addresses(g.name, "eth0")
	if err != nil {
		return err
	}
	if !slices.Contains(all, address{Addr: want}) {
		return fmt.Errorf("%s has not got %s", g.name, want)
	}
	return nil
}

// hasPrefixes says whether a guest has an address of each prefix.
func (l *Lab) hasPrefixes(g guest, prefixes []netip.Prefix) error {
	_, err := l.innerAddresses(g, prefixes)
	return err
}

// innerAddresses returns the address that a guest has of each prefix.
func (l *Lab) innerAddresses(g guest, prefixes []netip.Prefix) ([]netip.Addr, error) {
	all, err := l.globals(g.name, inner)
	if err != nil {
		return nil, err
	}
	var found []netip.Addr
	for _, p := range prefixes {
		at := slices.IndexFunc(all, p.Contains)
		if at < 0 {
			return nil, fmt.Errorf("%s has no address of %s", g.name, p)
		}
		found = append(found, all[at])
	}
	return found, nil
}

// route is one that the kernel of a box has.
type route struct {
	Type     string     `json:"type"`
	Dst      string     `json:"dst"`
	Gateway  netip.Addr `json:"gateway"`
	Dev      string     `json:"dev"`
	NextHops []route    `json:"nexthops"`
}

// routes lists the routes of a box that the arguments of `ip -6 route show`
// select.
func (l *Lab) routes(ctx context.Context, box string, which ...string) ([]route, error) {
	args := append([]string{"-n", l.ns(box), "-j", "-6", "route", "show"}, which...)
	out, err := output(ctx, "ip", args...)
	if err != nil {
		return nil, err
	}
	var all []route
	if strings.TrimSpace(out) == "" {
		return nil, nil
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("ip -6 route: %w", err)
	}
	return all, nil
}

// defaultRoutes lists the next hops of a guest's default routes.
func (l *Lab) defaultRoutes(ctx context.Context, g guest) ([]netip.Addr, error) {
	all, err := l.routes(ctx, g.name, "default")
	if err != nil {
		return nil, err
	}
	var hops []netip.Addr
	for _, r := range all {
		if r.Gateway.IsValid() {
			hops = append(hops, r.Gateway)
		}
		for _, hop := range r.NextHops {
			hops = append(hops, hop.Gateway)
		}
	}
	slices.SortFunc(hops, netip.Addr.Compare)
	return slices.Compact(hops), nil
}

func join[T fmt.Stringer](all []T) string {
	var b strings.Builder
	for i, v := range all {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(v.String())
	}
	return b.String()
}
