package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// pod is one layer 2 with its routers.
type pod struct {
	name       string
	link       netip.Prefix
	pool       string
	addressing string
	bridge     string // on the hypervisor
	routers    []router
	flags      []string // more of how it is created
	// alone says that its routers know no server's record: their routes come
	// from the replies that pass by them (RFC 8987).
	alone bool
	// valid and preferred are the lifetimes of what is leased; the server's
	// defaults where they are zero.
	valid, preferred time.Duration
}

// router stands with one leg in the core and one on its pod's link.
type router struct {
	name      string
	uplink    netip.Addr // towards the core, where it relays from
	core      netip.Addr // the core's end of the uplink
	linkLocal netip.Addr // on the pod's link, as is
	address   netip.Addr
	mac       string // on the pod's link
	outside   netip.Addr
	// outside is an address of the core whose packets take this router.
}

// guest is a machine on a tap, or directly on the pod's link.
type guest struct {
	name     string
	mac      string
	pod      *pod
	host     string // the hypervisor it is on
	tap      string // there; "" for one that no hypervisor filters
	client   *client
	prefixes int
	// want is the address that the MAC makes in the link prefix (RFC 4291
	// appendix A), worked out by hand.
	want netip.Addr
	// taken is its link-local address where that is not what the MAC makes.
	taken netip.Addr
}

func (g guest) linkLocal() netip.Addr {
	if g.taken.IsValid() {
		return g.taken
	}
	b := g.want.As16()
	copy(b[:8], []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0})
	return netip.AddrFrom16(b)
}

const (
	hypervisor = "hv1"
	second     = "hv2" // the hypervisor whose agent and filter are put to the test
	serverBox  = "server"
	coreBox    = "core"
	fabric     = "fabric"
	// inner is a guest's interface behind eth0, where its prefixes go.
	inner = "vlan0"
)

var (
	serverAddress = netip.MustParseAddr("2001:db8:f::2")

	// hosts are the hypervisors, the bridges of each and its management network.
	hosts = []host{
		{hypervisor, "agent", []*pod{pod1, pod2, pod3}, "2001:db8:f:10::"},
		{second, "agent-hv2", []*pod{pod1}, "2001:db8:f:20::"},
	}

	pod1 = &pod{
		name: "pod1", addressing: "slaac", bridge: "br0",
		link: netip.MustParsePrefix("2001:db8:100:1::/64"), pool: "2001:db8:4000::/40",
		routers: []router{newRouter(1, 1), newRouter(2, 1)},
	}
	pod2 = &pod{
		name: "pod2", addressing: "dhcpv6", bridge: "br1",
		link: netip.MustParsePrefix("2001:db8:100:2::/64"), pool: "2001:db8:5000::/40",
		routers: []router{newRouter(3, 2)}, flags: []string{"--echo", "rules"},
	}
	// pod3 is where leases are short, T1 and T2 19 s and 30 s: dhcp6c takes no T2
	// below 30 s, and systemd-networkd rebinds without having renewed where T2
	// comes less than 10 s after T1.
	pod3 = &pod{
		name: "pod3", addressing: "slaac", bridge: "br2",
		link: netip.MustParsePrefix("2001:db8:100:3::/64"), pool: "2001:db8:6000::/40",
		routers: []router{newRouter(4, 3)}, alone: true, valid: time.Minute, preferred: 38 * time.Second,
		flags: []string{"--anti-spoof", "link-prefix"},
	}
	pods = []*pod{pod1, pod2, pod3}

	// instances run from the start, each with another client.
	instances = []guest{
		newGuest("i-1", 1, pod1, wide, 1),
		newGuest("i-2", 2, pod1, dhcpcd, 2),
		newGuest("i-3", 3, pod1, dhclient, 1),
		newGuest("i-4", 4, pod1, systemdNetworkd, 1),
		newGuest("i-5", 5, pod2, wide, 1),
		newGuest("i-6", 6, pod1, dibbler, 3),
	}
	// tenants are registered, and switched on by the checks of their leases.
	tenants = []guest{
		newGuest("l-1", 11, pod3, wideTwice, 3),
		newGuest("l-2", 12, pod3, dhcpcd, 3),
		newGuest("l-3", 13, pod3, dhclientTwice, 3),
		newGuest("l-4", 14, pod3, systemdNetworkd, 3),
		newGuest("l-5", 15, pod3, dibbler, 3),
	}
	scratch  = newGuest("scratch", 7, pod1, nil, 1)
	stranger = newGuest("stranger", 8, pod1, nil, 0)
	stray    = newGuest("stray", 9, pod1, nil, 0)
	// private makes temporary addresses, and elsewhere is on the other hypervisor.
	private   = newGuest("p-1", 16, pod3, nil, 1)
	elsewhere = newGuest("e-1", 17, pod1, nil, 1)
)

func init() {
	stray.host, stray.tap = "", ""
	elsewhere.host = second
}

// host is a hypervisor.
type host struct {
	name, agent string // the agent's process
	pods        []*pod
	management  string // its network; the core's end is 1, the host's 2
}

func hostNamed(name string) host {
	return hosts[slices.IndexFunc(hosts, func(h host) bool { return h.name == name })]
}

func newRouter(n, pod int) router {
	addr := func(format string, args ...any) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, args...)) }
	return router{
		name:      fmt.Sprintf("router%d", n),
		core:      addr("2001:db8:f:%d::1", n),
		uplink:    addr("2001:db8:f:%d::2", n),
		outside:   addr("2001:db8:f:a%d::1", n),
		linkLocal: addr("fe80::a%d", n),
		address:   addr("2001:db8:100:%d::a%d", pod, n),
		mac:       fmt.Sprintf("02:00:00:00:00:a%d", n),
	}
}

func newGuest(name string, n int, p *pod, c *client, prefixes int) guest {
	id := netip.MustParseAddr(fmt.Sprintf("::400:ff:fe00:%x", n)).As16()
	a := p.link.Addr().As16()
	copy(a[8:], id[8:])
	return guest{
		name: name, mac: fmt.Sprintf("06:00:00:00:00:%02x", n), pod: p, host: hypervisor, tap: fmt.Sprintf("tap%d", n),
		client: c, prefixes: prefixes, want: netip.AddrFrom16(a),
	}
}

// registered are the guests that the record knows from the start.
func registered() []guest {
	return slices.Concat(instances, tenants, []guest{private, elsewhere})
}

// allGuests are those and the ones that belong to nobody.
func allGuests() []guest { return append(registered(), scratch, stranger, stray) }

// guestNamed returns the instance of that name.
func guestNamed(name string) guest {
	for _, g := range instances {
		if g.name == name {
			return g
		}
	}
	panic("the lab has no instance " + name)
}

// boxes lists everything that has a namespace.
func boxes() []string {
	names := []string{coreBox, serverBox, loadBox, fabric}
	for _, h := range hosts {
		names = append(names, h.name)
	}
	for _, p := range pods {
		for _, r := range p.routers {
			names = append(names, r.name)
		}
	}
	for _, g := range allGuests() {
		names = append(names, g.name)
	}
	return names
}

// buildTopology makes the namespaces and everything in them that a machine
// room, a network administrator and a hypervisor's installation provide: links,
// bridges, taps, the routers' own addresses and static routes. Guests' NICs stay
// down.
func (l *Lab) buildTopology(ctx context.Context) error {
	var add strings.Builder
	for _, name := range l.state.Namespaces {
		fmt.Fprintf(&add, "netns add %s\n", name)
	}
	if err := ipBatch(ctx, add.String()); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{l.setKernel, l.buildCore, l.buildRouters, l.buildFabric, l.buildHypervisors, l.buildGuests} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// setKernel sets what must be set before links are made.
func (l *Lab) setKernel(context.Context) error {
	var forwarding []string
	for _, p := range pods {
		for _, r := range p.routers {
			forwarding = append(forwarding, r.name)
		}
	}
	forwarding = append(forwarding, coreBox)
	for _, box := range append([]string{serverBox, loadBox}, forwarding...) {
		// A tentative address would keep a server from binding it.
		if err := l.sysctl(box, map[string]string{"ipv6/conf/all/accept_dad": "0", "ipv6/conf/default/accept_dad": "0"}); err != nil {
			return err
		}
	}
	for _, box := range forwarding {
		if err := l.sysctl(box, map[string]string{"ipv6/conf/all/forwarding": "1", "ipv6/conf/default/forwarding": "1"}); err != nil {
			return err
		}
	}
	// Bridges and their ports carry the guests' IPv6 and speak none themselves.
	for _, box := range []string{fabric, hypervisor, second} {
		if err := l.sysctl(box, map[string]string{"ipv6/conf/default/disable_ipv6": "1"}); err != nil {
			return err
		}
	}
	// The switch of the pod filters nothing. Where the kernel has no br_netfilter
	// yet, there is nothing to turn off.
	if err := l.in(fabric, func() error {
		if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
			return nil
		}
		return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables", []byte("0"), 0)
	}); err != nil {
		return err
	}
	return nil
}

// buildCore makes the outside world. Each router has an address of it of its
// own, so that a check can choose the router by the source address.
func (l *Lab) buildCore(ctx context.Context) error {
	var core strings.Builder
	fmt.Fprintf(&core, "link set lo up\nlink add server type veth peer name eth0 netns %s\n", l.ns(serverBox))
	fmt.Fprintf(&core, "addr add 2001:db8:f::1/64 dev server\nlink set server up\n")
	fmt.Fprintf(&core, "link add load type veth peer name eth0 netns %s\naddr add %s/64 dev load\nlink set load up\n", l.ns(loadBox), loadCore)
	for _, h := range hosts {
		fmt.Fprintf(&core, "link add %s type veth peer name mgmt netns %s\n", h.name, l.ns(h.name))
		fmt.Fprintf(&core, "addr add %s1/64 dev %s\nlink set %s up\n", h.management, h.name, h.name)
	}
	for _, p := range pods {
		for i, r := range p.routers {
			fmt.Fprintf(&core, "link add %s type veth peer name up0 netns %s\n", r.name, l.ns(r.name))
			fmt.Fprintf(&core, "addr add %s/64 dev %s\naddr add %s/128 dev lo\nlink set %s up\n", r.core, r.name, r.outside, r.name)
			table := 100 + i
			for _, dst := range []string{p.link.String(), p.pool} {
				fmt.Fprintf(&core, "route add %s via %s metric %d\n", dst, r.uplink, table)
				fmt.Fprintf(&core, "route add %s via %s table %d\n", dst, r.uplink, table)
			}
			fmt.Fprintf(&core, "rule add from %s lookup %d\n", r.outside, table)
		}
	}
	if err := l.ip(ctx, coreBox, core.String()); err != nil {
		return err
	}
	for _, end := range []struct {
		box      string
		at, core netip.Addr
	}{{serverBox, serverAddress, netip.MustParseAddr("2001:db8:f::1")}, {loadBox, loadRelay, loadCore}} {
		lines := fmt.Sprintf("link set lo up\naddr add %s/64 dev eth0\nlink set eth0 up\nroute add default via %s\n", end.at, end.core)
		if err := l.ip(ctx, end.box, lines); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) buildRouters(ctx context.Context) error {
	for _, p := range pods {
		for _, r := range p.routers {
			lines := fmt.Sprintf("link set lo up\naddr add %s/64 dev up0\nlink set up0 up\nroute add default via %s\n", r.uplink, r.core)
			lines += fmt.Sprintf("link add pod address %s type veth peer name %s netns %s\n", r.mac, r.name, l.ns(fabric))
			lines += fmt.Sprintf("link set pod addrgenmode none up\naddr add %s/64 dev pod\naddr add %s/64 dev pod\n", r.linkLocal, r.address)
			if err := l.ip(ctx, r.name, lines); err != nil {
				return err
			}
		}
	}
	return nil
}

// buildFabric makes the switches of the pods' layer 2.
func (l *Lab) buildFabric(ctx context.Context) error {
	var lines strings.Builder
	for _, p := range pods {
		fmt.Fprintf(&lines, "link add %s type bridge\nlink set %s up\n", p.name, p.name)
		for _, h := range hosts {
			if slices.Contains(h.pods, p) {
				port := h.name + "-" + p.name
				fmt.Fprintf(&lines, "link add %s type veth peer name up-%s netns %s\nlink set %s master %s up\n", port, p.name, l.ns(h.name), port, p.name)
			}
		}
		for _, r := range p.routers {
			fmt.Fprintf(&lines, "link set %s master %s up\n", r.name, p.name)
		}
	}
	fmt.Fprintf(&lines, "link add stray type veth peer name eth0 netns %s\nlink set stray master %s up\n", l.ns(stray.name), stray.pod.name)
	return l.ip(ctx, fabric, lines.String())
}

func (l *Lab) buildHypervisors(ctx context.Context) error {
	for _, h := range hosts {
		if err := l.sysctl(h.name, map[string]string{"ipv6/conf/mgmt/disable_ipv6": "0", "ipv6/conf/mgmt/accept_dad": "0"}); err != nil {
			return err
		}
		var lines strings.Builder
		fmt.Fprintf(&lines, "link set lo up\naddr add %s2/64 dev mgmt\nlink set mgmt up\nroute add default via %s1\n", h.management, h.management)
		for _, p := range h.pods {
			fmt.Fprintf(&lines, "link add %s type bridge\nlink set %s up\nlink set up-%s master %s up\n", p.bridge, p.bridge, p.name, p.bridge)
		}
		for _, g := range allGuests() {
			if g.host == h.name {
				lines.WriteString(l.tapOf(g) + l.onBridge(g))
			}
		}
		if err := l.ip(ctx, h.name, lines.String()); err != nil {
			return err
		}
	}
	return nil
}

// tapOf are the commands that make a guest's tap, and its NIC at the other end.
func (l *Lab) tapOf(g guest) string {
	return fmt.Sprintf("link add %s type veth peer name eth0 netns %s\n", g.tap, l.ns(g.name))
}

// onBridge are those that put it on its pod's bridge.
func (l *Lab) onBridge(g guest) string {
	return fmt.Sprintf("link set %s master %s up\n", g.tap, g.pod.bridge)
}

// buildGuests sets up the guests' NICs and leaves them down: a guest starts when
// everything it needs is there.
func (l *Lab) buildGuests(ctx context.Context) error {
	for _, g := range allGuests() {
		lines := fmt.Sprintf("link set lo up\nlink set eth0 address %s\nlink add %s type bridge\nlink set %s up\n", g.mac, inner, inner)
		if err := l.ip(ctx, g.name, lines); err != nil {
			return err
		}
	}
	return nil
}
