package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/api"
	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/hypervisor"
	"github.com/sixacre/sixacre/nft"
	"github.com/sixacre/sixacre/rtnl"
)

type agentFlags struct {
	server, ca, token   string
	host, state         string
	bridges, taps       []string
	libvirt             string
	dryRun, printStatic bool

	connections        int
	learn, dropSamples uint16 // nflog groups
}

// memory is what the kernel keeps of guests.
type memory struct {
	*nft.Kernel
	rtnl.Links
}

func (a agentFlags) limits() firewall.Limits {
	limits := firewall.DefaultLimits
	limits.Connections = a.connections
	return limits
}

// fit asks of the kernel no more than it can. Without nflog nothing is learned or
// sampled; without the rest there is no filter.
func (a *agentFlags) fit(kernel nft.Features) error {
	if !kernel.ConnectionLimits || !kernel.Hashes {
		return sixacre.Errorf(sixacre.Unavailable, "the kernel cannot limit connections (modules nft_connlimit, nft_hash): use one that has CONFIG_NFT_CONNLIMIT and CONFIG_NFT_HASH")
	}
	if !kernel.Logs && (a.learn != 0 || a.dropSamples != 0) {
		slog.Warn("the kernel has no nflog (CONFIG_NETFILTER_NETLINK_LOG): guests' own link-local addresses are not learned, and no drops sampled")
		a.learn, a.dropSamples = 0, 0
	}
	return nil
}

func (a agentFlags) log() firewall.Log {
	return firewall.Log{Drops: a.dropSamples, Learning: a.learn}
}

func agentCommand() *cobra.Command {
	var a agentFlags
	cmd := &cobra.Command{
		Use:   "agent --server URL --host NAME --token-file FILE",
		Short: "Filter on a hypervisor: hold each tap to its MAC, addresses and prefixes",
		Long: `agent keeps the bridge filter of a hypervisor what the record says. From each
tap it lets only the NIC's own MAC, addresses and delegated prefixes pass, and no
Router Advertisement, DHCPv6 server or redirect; to each tap only what its groups
allow, what answers it, and the ICMPv6 that IPv6 needs (RFC 4890).

A NIC's tap is the device that the record names, or else the one whose MAC is the
NIC's with fe as the first octet, as libvirt makes it. A port that matches --taps
and has no NIC passes nothing. Ports that do not match are uplinks.

The rules are in the nftables tables 'bridge sixacre' and 'ip6 sixacre_ct'; see
them with 'nft list ruleset'. They stay in force while the agent is stopped,
restarted, or without its server. No other table is touched. To have taps closed
from boot on, load what --print-static prints before any tap exists
(packaging/systemd/sixacre-filter.service).

'sixacre agent status' says whether all is well, 'sixacre agent drops' what was
dropped and why; docs/firewall.md explains every rule.`,
		Example: `  sixacre agent --server https://[2001:db8::5]:5460 --ca ca.crt \
      --host hv1 --token-file hv1.token
  sixacre agent --print-static >rules.nft && nft -f rules.nft`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.libvirt != "" {
				return sixacre.Errorf(sixacre.Invalid, "libvirt %s is not available yet: name each NIC's tap with --device, or let the taps have libvirt's MACs", a.libvirt)
			}
			taps, err := a.patterns()
			if err != nil {
				return usageError(err.Error())
			}
			if err := asRoot(); err != nil {
				return err
			}
			if a.connections < 1 {
				return usageError(fmt.Sprintf("--max-connections %d would leave no guest any: give 1 or more", a.connections))
			}
			if a.learn == a.dropSamples && a.learn != 0 {
				return usageError(fmt.Sprintf("--learn and --log-drops are the same nflog group, %d: an nflog group has one listener", a.learn))
			}
			kernelCan, err := nft.Examine(cmd.Context())
			if err != nil {
				return err
			}
			if err := a.fit(kernelCan); err != nil {
				return err
			}
			mode := kernelCan.Mode
			if a.printStatic {
				_, err := fmt.Fprint(cmd.OutOrStdout(), firewall.Static(firewall.Host{Mode: mode, Taps: taps, Limits: a.limits(), Log: a.log()}))
				return err
			}
			for _, f := range []struct{ name, value string }{{"server", a.server}, {"host", a.host}, {"token-file", a.token}} {
				if f.value == "" {
					return usageError(fmt.Sprintf("the agent needs --%s", f.name))
				}
			}
			agent := &hypervisor.Agent{
				Mode: mode, Taps: taps, Limits: a.limits(), NFLog: a.log(), Bridges: a.bridges, State: a.state,
				Links: rtnl.Links{}, Log: slog.Default().With("host", a.host),
			}
			client, err := api.Dial(api.Endpoint{Server: a.server, CAFile: a.ca, TokenFile: a.token})
			if err != nil {
				return err
			}
			agent.Report = func(ctx context.Context, r sixacre.Report) error { return client.Report(ctx, a.host, r) }
			if a.dryRun {
				return dryRun(cmd, agent, client)
			}
			debug.SetGCPercent(50) // a hypervisor's memory is its guests'
			kernel := &nft.Kernel{}
			agent.Firewall, agent.Memory = kernel, memory{kernel, rtnl.Links{}}
			agent.Learn = func(ctx context.Context, q sixacre.LinkLocalRequest) error {
				return client.LearnLinkLocal(ctx, a.host, q)
			}
			agent.Log.Info("filtering", "connections", mode.String(), "taps", a.taps)
			obstacles, err := nft.Obstacles()
			if err != nil {
				return err
			}
			for _, o := range obstacles {
				if mode == firewall.BridgeNetfilter {
					agent.Log.Warn("another's forward chain drops by policy: under br_netfilter it drops the instances' IPv6 too, unless it accepts it", "chain", o)
				}
			}
			group, ctx := errgroup.WithContext(cmd.Context())
			group.Go(func() error { return agent.Run(ctx) })
			group.Go(func() error { return again(ctx, agent.Log, time.Second, rtnl.Links{}.Watch, agent.LinksChanged) })
			group.Go(func() error { return again(ctx, agent.Log, time.Second, kernel.Watch, agent.FilterChanged) })
			group.Go(func() error { return client.Watch(ctx, agent.Follow) })
			if a.learn != 0 {
				group.Go(func() error {
					return again(ctx, agent.Log, time.Minute, func(ctx context.Context, _ func()) error {
						return nft.Listen(ctx, a.learn, func(p nft.Packet) { agent.Heard(p.In, p.Data) })
					}, func() {})
				})
			}
			if err := group.Wait(); cmd.Context().Err() == nil {
				return err
			}
			return nil
		},
	}
	cmd.AddCommand(agentStatusCommand(), agentDropsCommand())
	f := cmd.Flags()
	f.StringVar(&a.server, "server", "", "`URL` of the server")
	f.StringVar(&a.ca, "ca", "", "`FILE` with the certificate of the server's CA")
	f.StringVar(&a.token, "token-file", "", "`FILE` with the token that 'sixacre host create' printed")
	f.StringVar(&a.host, "host", "", "`NAME` of this hypervisor")
	f.StringArrayVar(&a.bridges, "bridge", nil, "`BR` to filter on (default: every bridge with a tap); may be repeated")
	f.StringArrayVar(&a.taps, "taps", []string{"vnet*", "tap*"}, "`PATTERN` of the names of taps, a name or the beginning of one with a *; may be repeated")
	f.StringVar(&a.libvirt, "libvirt", "", "`URI` of libvirt to ask for taps; not available yet")
	f.StringVar(&a.state, "state", defaultState, "`DIR` that remembers the last view for a start without the server")
	f.IntVar(&a.connections, "max-connections", firewall.DefaultLimits.Connections, "how many connections a NIC may have opened at a time, about, and as many again that were opened to it")
	f.Uint16Var(&a.learn, "learn", 1660, "nflog `GROUP` in which to hear of guests' own link-local addresses (RFC 7217), to ask the server for them; 0: do not")
	f.Uint16Var(&a.dropSamples, "log-drops", 0, "nflog `GROUP` that gets a sample of what is dropped, 10 packets a second each way; 0: none")
	f.BoolVar(&a.dryRun, "dry-run", false, "print the ruleset for this moment and change nothing")
	f.BoolVar(&a.printStatic, "print-static", false, "print the part of the ruleset that closes all taps, for loading at boot")
	return cmd
}

func asRoot() error {
	if os.Geteuid() != 0 {
		return sixacre.Errorf(sixacre.Denied, "the agent needs root: it asks the kernel what its filter can do, and changes it")
	}
	return nil
}

func (a agentFlags) patterns() ([]firewall.Pattern, error) {
	var out []firewall.Pattern
	for _, s := range a.taps {
		p, err := firewall.ParsePattern(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// again watches anew whenever watching ends, after a pause, and says changed for
// what may have been missed.
func again(ctx context.Context, log *slog.Logger, pause time.Duration, watch func(context.Context, func()) error, changed func()) error {
	for {
		err := watch(ctx, changed)
		if ctx.Err() != nil {
			return nil
		}
		log.Warn("watching anew", "after", pause, "reason", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
			changed()
		}
	}
}

// dryRun prints what the agent would apply now.
func dryRun(cmd *cobra.Command, agent *hypervisor.Agent, client *api.Client) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	views := make(chan sixacre.View, 1)
	failed := make(chan error, 1)
	go func() {
		failed <- client.Watch(ctx, func(v sixacre.View) {
			select {
			case views <- v:
			default:
			}
		})
	}()
	select {
	case err := <-failed:
		return err
	case v := <-views:
		rs, err := agent.Plan(v)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(cmd.OutOrStdout(), rs)
		return err
	}
}
