package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/api"
	"github.com/sixacre/sixacre/dhcp6"
	"github.com/sixacre/sixacre/ra"
	"github.com/sixacre/sixacre/router"
	"github.com/sixacre/sixacre/rtnl"
)

func routerCommand() *cobra.Command {
	var r routerFlags
	cmd := &cobra.Command{
		Use:   "router --pod POD --link IFACE --upstream ADDR…",
		Short: "Be a pod's router: relay DHCPv6, route delegated prefixes, advertise",
		Long: `router makes this machine a router of a pod. On the link it sends Router
Advertisements, relays DHCPv6 to the servers with the client's MAC taken from its
frames (options 18, 37 and 79), and keeps a kernel route to each delegated prefix
by the client's link-local address.

With --server the record rules: every prefix that it delegates has its route,
even if the server's reply never came by here, and a prefix that it delegates no
more loses it at once. Without, routes come and go with the servers' replies
alone (RFC 8987), and the flags describe the pod.

Routes carry protocol number 166; no other route is touched. Each pool has an
unreachable route, so that packets to prefixes that nobody holds do not loop.
When the router stops, it tells the guests to use other routers, and leaves its
routes: packets go on while it is restarted. The next process takes them up from
--state, also after a crash. To remove them for good:

    ip -6 route flush proto 166

The machine has to forward: sysctl net.ipv6.conf.all.forwarding=1. The address
that messages are relayed from, --source, must be one of the pod's relays.`,
		Example: `  sixacre router --pod pod1 --link eth1 --upstream 2001:db8::547 \
      --server https://[2001:db8::547]:5460 --ca ca.crt --token-file r1.token

  sixacre router --pod pod1 --link eth1 --upstream 2001:db8::547 \
      --link-prefix 2001:db8:100:1::/64 --pool 2001:db8:4000::/40=60`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := r.read(cmd)
			if err != nil {
				return err
			}
			return s.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.pod, "pod", "", "name of the pod")
	f.StringVar(&r.link, "link", "", "interface to the pod's layer 2")
	f.StringArrayVar(&r.upstreams, "upstream", nil, "address of a DHCPv6 server, as `ADDR` or [ADDR]:PORT (port 547 if not given); may be repeated")
	f.StringVar(&r.source, "source", "", "`ADDR` of this machine to relay from (default: the one that the kernel takes towards the first upstream)")
	f.StringVar(&r.state, "state", "/var/lib/sixacre/router", "`DIR` that remembers routes for the next start")
	f.DurationVar(&r.lifetime, "router-lifetime", ra.DefaultLifetime, "how long guests use this router after its last advertisement; 0 to be no default router")
	f.StringVar(&r.metrics, "metrics", "", "`ADDR:PORT` to serve Prometheus metrics on at /metrics (default: none)")
	f.StringVar(&r.server, "server", "", "`URL` of the server whose record rules")
	f.StringVar(&r.ca, "ca", "", "`FILE` with the certificate of the server's CA")
	f.StringVar(&r.token, "token-file", "", "`FILE` with the router's token for the server")
	f.StringVar(&r.linkPrefix, "link-prefix", "", "without --server: the pod's /64 (default: that of the link's address)")
	f.StringArrayVar(&r.pools, "pool", nil, "without --server: `P/LEN[=DELEGATED]`, a block that prefixes of that length are delegated from; without any, every prefix of 32 to 64 bits that a server delegates is routed; may be repeated")
	f.StringVar(&r.addressing, "addressing", string(sixacre.SLAAC), "without --server: slaac or dhcpv6")
	f.StringVar(&r.managed, "managed", string(sixacre.ManagedAlso), "without --server: flags of a slaac pod, also (A=1 M=1), no (A=1 M=0) or only (A=0 M=1)")
	f.StringArrayVar(&r.dns, "dns", nil, "without --server: `ADDR` of a recursive DNS server; may be repeated")
	f.StringArrayVar(&r.domains, "domain", nil, "without --server: `NAME` for the DNS search list; may be repeated")
	f.StringVar(&r.valid, "valid-lifetime", "", "without --server: valid lifetime of the link prefix, such as 12h")
	f.StringVar(&r.preferred, "preferred-lifetime", "", "without --server: preferred lifetime of the link prefix, such as 4h")
	return cmd
}

// routerFlags is the command line as written.
type routerFlags struct {
	pod, link, source, state, metrics string
	upstreams                         []string
	lifetime                          time.Duration

	server, ca, token string

	linkPrefix, addressing, managed, valid, preferred string
	pools, dns, domains                               []string
}

// routerSetup is the command line as understood.
type routerSetup struct {
	flags     routerFlags
	upstreams []netip.AddrPort
	source    netip.Addr  // invalid: the kernel's choice
	pod       sixacre.Pod // without a server; its link prefix may be missing
}

func (f routerFlags) read(cmd *cobra.Command) (routerSetup, error) {
	s := routerSetup{flags: f}
	for _, required := range []struct {
		name  string
		given bool
	}{{"pod", f.pod != ""}, {"link", f.link != ""}, {"upstream", len(f.upstreams) > 0}} {
		if !required.given {
			return s, usageError(fmt.Sprintf("the router needs --%s", required.name))
		}
	}
	if err := sixacre.ValidateName("pod", f.pod); err != nil {
		return s, err
	}
	for _, text := range f.upstreams {
		to, err := parseUpstream(text)
		if err != nil {
			return s, err
		}
		s.upstreams = append(s.upstreams, to)
	}
	if f.source != "" {
		var err error
		if s.source, err = netip.ParseAddr(f.source); err != nil || !isGlobal(s.source) {
			return s, sixacre.Errorf(sixacre.Invalid, "source %q is not a global IPv6 address of this machine", f.source)
		}
	}
	if f.lifetime < 0 || f.lifetime > ra.MaxLifetime || f.lifetime%time.Second != 0 {
		return s, sixacre.Errorf(sixacre.Invalid, "router-lifetime %s is not 0s to %s in whole seconds (RFC 4861 section 6.2.1)", f.lifetime, ra.MaxLifetime)
	}
	if f.server != "" {
		if f.token == "" {
			return s, usageError("with --server the router needs --token-file, made by 'sixacre token create NAME --role router --pod POD'")
		}
		for _, name := range []string{"link-prefix", "pool", "addressing", "managed", "dns", "domain", "valid-lifetime", "preferred-lifetime"} {
			if cmd.Flags().Changed(name) {
				return s, usageError(fmt.Sprintf("--%s is what the record says: leave it out with --server", name))
			}
		}
		return s, nil
	}
	return s, s.readPod()
}

// readPod makes the pod of a router without a record.
func (s *routerSetup) readPod() error {
	f := s.flags
	p := sixacre.Pod{
		Name:       f.pod,
		Addressing: sixacre.Addressing(f.addressing),
		Managed:    sixacre.Managed(f.managed),
		Domains:    f.domains,
	}
	var err error
	if f.linkPrefix != "" {
		if p.LinkPrefix, err = netip.ParsePrefix(f.linkPrefix); err != nil {
			return sixacre.Errorf(sixacre.Invalid, "link-prefix %q is not a prefix: write it as 2001:db8:100:1::/64", f.linkPrefix)
		}
	}
	if p.Pools, err = parseEach(f.pools, sixacre.ParsePool); err != nil {
		return err
	}
	for _, text := range f.dns {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return sixacre.Errorf(sixacre.Invalid, "dns %q is not an address", text)
		}
		p.DNS = append(p.DNS, a)
	}
	for _, lifetime := range []struct {
		text string
		to   *sixacre.Seconds
	}{{f.valid, &p.ValidLifetime}, {f.preferred, &p.PreferredLifetime}} {
		if lifetime.text == "" {
			continue
		}
		if *lifetime.to, err = sixacre.ParseSeconds(lifetime.text); err != nil {
			return err
		}
	}
	s.pod = p.WithDefaults()
	if !s.pod.LinkPrefix.IsValid() {
		return nil // the link's own; what is wrong with the rest shows then
	}
	return s.pod.Validate()
}

func parseUpstream(text string) (netip.AddrPort, error) {
	to, err := netip.ParseAddrPort(text)
	if err != nil {
		var a netip.Addr
		a, err = netip.ParseAddr(strings.Trim(text, "[]"))
		to = netip.AddrPortFrom(a, dhcp6.ServerPort)
	}
	// A server is known by the address it answers from, so it is not a group's.
	if err != nil || !isGlobal(to.Addr()) || to.Port() == 0 {
		return netip.AddrPort{}, sixacre.Errorf(sixacre.Invalid, "upstream %q is not the global IPv6 address of a server: write it as 2001:db8::547 or [2001:db8::547]:547", text)
	}
	return to, nil
}

func isGlobal(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && !a.IsMulticast() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() && a.Zone() == ""
}

// run is the router until the context ends.
func (s routerSetup) run(ctx context.Context) error {
	f := s.flags
	var client *api.Client
	if f.server != "" {
		var err error
		if client, err = api.Dial(api.Endpoint{Server: f.server, CAFile: f.ca, TokenFile: f.token}); err != nil {
			return err
		}
	}
	slog.Info("waiting for the link", "link", f.link)
	at, err := rtnl.Attach(ctx, f.link)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	warnUnlessForwarding(f.link)

	routes := rtnl.RoutesOf(at.Index)
	var rt *router.Router
	if client != nil {
		rt, err = router.OpenRecorded(f.state, f.pod, router.Link(at), routes)
	} else {
		if !s.pod.LinkPrefix.IsValid() {
			s.pod.LinkPrefix = onLink(at.Addresses)
		}
		if err := s.pod.Validate(); err != nil {
			return err
		}
		rt, err = router.OpenAlone(f.state, s.pod, router.Link(at), routes)
	}
	if err != nil {
		return err
	}
	servers, err := router.ListenUpstream(s.source, s.upstreams)
	if err != nil {
		return err
	}
	advertiser, err := ra.Listen(f.link, at.LinkLocal)
	if err != nil {
		return err
	}
	advertise := func(pod sixacre.Pod) {
		advertiser.Advertise(ra.Message(pod, ra.Source{MAC: at.MAC, MTU: uint32(at.MTU), Lifetime: f.lifetime}))
	}
	if pod, known := rt.Pod(); known {
		advertise(pod)
	}
	slog.Info("routing", "pod", f.pod, "link", f.link, "relaying-from", servers.LocalAddr(), "to", s.upstreams)

	parent := ctx
	group, ctx := errgroup.WithContext(parent)
	group.Go(func() error { return rt.Run(ctx, servers, s.upstreams) })
	group.Go(func() error { return advertiser.Run(ctx) })
	group.Go(func() error {
		return routes.Watch(ctx, f.link, func(now rtnl.Attachment) error {
			if now.LinkLocal != at.LinkLocal || now.MAC != at.MAC {
				return sixacre.Errorf(sixacre.Unavailable, "link %s has another address than at the start: start again", f.link)
			}
			rt.Relink(router.Link(now))
			return nil
		}, rt.Lost)
	})
	if client != nil {
		group.Go(func() error {
			return client.Watch(ctx, func(v sixacre.View) {
				rt.Follow(v)
				for _, pod := range v.Pods {
					if pod.Name == f.pod {
						advertise(pod)
					}
				}
			})
		})
	}
	if f.metrics != "" {
		group.Go(func() error { return serveMetrics(ctx, f.metrics, rt.Collectors()) })
	}
	if err := group.Wait(); parent.Err() == nil {
		return err
	}
	return nil
}

// onLink returns the /64 of the first address that has one.
func onLink(addresses []netip.Prefix) netip.Prefix {
	for _, a := range addresses {
		if a.Bits() == 64 {
			return a.Masked()
		}
	}
	return netip.Prefix{}
}

func warnUnlessForwarding(link string) {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", link, "forwarding"))
	if err == nil && strings.TrimSpace(string(b)) == "0" {
		slog.Warn("this machine does not forward: set net.ipv6.conf.all.forwarding=1", "link", link)
	}
}

// serveMetrics serves /metrics until the context ends.
func serveMetrics(ctx context.Context, address string, collectors []prometheus.Collector) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return sixacre.Errorf(sixacre.Invalid, "cannot serve metrics on %s: %s", address, err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return serve(ctx, l, mux)
}
