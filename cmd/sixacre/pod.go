package main

import (
	"github.com/spf13/cobra"

	"github.com/sixacre/sixacre"
)

func podCommand() *cobra.Command {
	return clientFlags(group("pod", "Layer-2 networks: a link prefix, and pools to delegate from",
		podCreate(),
		listCommand("pods", "/v1/pods", podHeader, podRows),
		getCommand("pod", "/v1/pods/", "FIELD VALUE", podFields),
		deleteCommand("pod", "/v1/pods/", "It is refused while an instance or a peer is on the pod."),
	))
}

const podHeader = "NAME ADDRESSING LINK-PREFIX POOLS RELAYS"

func podRows(p sixacre.Pod) []row {
	return []row{{p.Name, p.Addressing, p.LinkPrefix, join(p.Pools), join(p.Relays)}}
}

// podFields shows one pod whole, by the names of the flags that set it.
func podFields(p sixacre.Pod) []row {
	return []row{
		{"name", p.Name}, {"kind", p.Kind},
		{"link-prefix", p.LinkPrefix}, {"addressing", p.Addressing}, {"managed", p.Managed}, {"pool", join(p.Pools)},
		{"relay", join(p.Relays)}, {"interface-id", join(p.InterfaceIDs)}, {"router-link-local", join(p.RouterLinkLocals)},
		{"identify", join(p.Identify)}, {"remote-id-format", p.RemoteIDFormat}, {"unknown-clients", p.UnknownClients},
		{"valid-lifetime", p.ValidLifetime}, {"preferred-lifetime", p.PreferredLifetime},
		{"dns", join(p.DNS)}, {"domain", join(p.Domains)}, {"ntp", join(p.NTP)}, {"option", join(p.Options)},
		{"preference", p.Preference}, {"dhcp", p.DHCP},
		{"anti-spoof", p.AntiSpoof}, {"echo", p.Echo},
	}
}

func podCreate() *cobra.Command {
	var link string
	var pools, relays, dns, routers, identify, ntp, options []string
	p := sixacre.Pod{}
	c := &cobra.Command{
		Use:   "create NAME --link-prefix P [--pool P/LEN=DELEGATED]… [--relay ADDR]…",
		Short: "Create a pod",
		Long: `Create a pod: one layer-2 network with one /64, announced by Router
Advertisements from its routers, and the pools that its instances' prefixes come
from. The pools must be routed to the pod's routers.

DHCPv6 is answered only through the relays that are named: without --relay nobody
gets an answer.`,
		Example: `  sixacre pod create pod1 --link-prefix 2001:db8:100:1::/64 \
    --pool 2001:db8:4000::/40=60 --relay 2001:db8:ffff::1 --relay 2001:db8:ffff::2`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			p.Name = args[0]
			if p.LinkPrefix, err = parsePrefix("link prefix", "2001:db8:100:1::/64")(link); err != nil {
				return sixacre.Errorf(sixacre.Invalid, "pod %s: %s", p.Name, err)
			}
			if p.Pools, err = parseEach(pools, sixacre.ParsePool); err != nil {
				return err
			}
			for _, id := range identify {
				p.Identify = append(p.Identify, sixacre.Identifier(id))
			}
			if p.Relays, err = parseEach(relays, parseAddr("relay")); err != nil {
				return err
			}
			if p.DNS, err = parseEach(dns, parseAddr("dns")); err != nil {
				return err
			}
			if p.NTP, err = parseEach(ntp, sixacre.ParseNTPServer); err != nil {
				return err
			}
			if p.Options, err = parseEach(options, sixacre.ParseOption); err != nil {
				return err
			}
			if p.RouterLinkLocals, err = parseEach(routers, parseAddr("router link-local")); err != nil {
				return err
			}
			if p.ValidLifetime, err = optional(c, "valid-lifetime", sixacre.ParseSeconds); err != nil {
				return err
			}
			if p.PreferredLifetime, err = optional(c, "preferred-lifetime", sixacre.ParseSeconds); err != nil {
				return err
			}
			made, err := call[sixacre.Pod](c, "POST", "/v1/pods", p)
			if err != nil {
				return err
			}
			return show(c, made, podHeader, podRows)
		},
	}
	f := c.Flags()
	f.StringVar(&link, "link-prefix", "", "the /64 on the `link`")
	f.StringArrayVar(&pools, "pool", nil, "`block=length` to delegate from, such as 2001:db8:4000::/40=60; 60 if no length is given")
	f.StringVar((*string)(&p.Addressing), "addressing", "slaac", "where addresses come from: slaac (computed from the MAC) or dhcpv6 (random, stored)")
	f.StringVar((*string)(&p.Managed), "managed", "also", "flags of the RAs of a slaac pod: also (A=1 M=1), no (A=1 M=0), only (A=0 M=1)")
	f.StringSliceVar(&identify, "identify", nil, "what tells a client's MAC, in order: client-linklayer, remote-id, duid (default client-linklayer,remote-id)")
	f.StringVar((*string)(&p.RemoteIDFormat), "remote-id-format", "raw", "how the relays tell a client in option 37, after the enterprise number: raw (its MAC), duid or huawei (its DUID; only with duid in --identify)")
	f.StringVar((*string)(&p.Kind), "kind", "basic", "what carries the layer 2: basic")
	f.StringArrayVar(&relays, "relay", nil, "`address` that one of the pod's relays sends from")
	f.StringArrayVar(&p.InterfaceIDs, "interface-id", nil, "`text` of option 18 by which a relay whose link-address is :: or link-local means this pod")
	f.StringArrayVar(&routers, "router-link-local", nil, "link-local `address` of one of the pod's routers; without any, guests' own link-local addresses are not learned; may be repeated")
	f.StringVar((*string)(&p.UnknownClients), "unknown-clients", "ignore", "what a client without record is told: ignore (nothing) or refuse")
	f.String("valid-lifetime", "", "valid `lifetime` of addresses and prefixes (default "+sixacre.DefaultValidLifetime.String()+")")
	f.String("preferred-lifetime", "", "preferred `lifetime` of addresses and prefixes (default "+sixacre.DefaultPreferredLifetime.String()+")")
	f.StringArrayVar(&dns, "dns", nil, "`address` of a recursive DNS server")
	f.StringArrayVar(&p.Domains, "domain", nil, "`name` for the DNS search list")
	f.StringArrayVar(&ntp, "ntp", nil, "`server` that tells the time: an IPv6 address, a multicast one too, or a name")
	f.StringArrayVar(&options, "option", nil, "further DHCPv6 option for clients that ask for it, as `code=hex`")
	f.Uint8Var(&p.Preference, "preference", 0, "server preference in Advertise, 1 to 255: clients wait for no other server after 255")
	f.StringVar((*string)(&p.AntiSpoof), "anti-spoof", "address", "which addresses of the link prefix an instance may use: address (its own alone) or link-prefix (any that no other on its host has, for guests with temporary addresses)")
	f.StringVar((*string)(&p.Echo), "echo", "allow", "which echo requests reach an instance: allow (all) or rules (those that a rule of one of its groups allows)")
	f.StringVar((*string)(&p.DHCP), "dhcp", "builtin", "who answers DHCPv6: builtin")
	c.MarkFlagRequired("link-prefix")
	return outputFlag(c)
}

// listCommand shows all things of a kind.
func listCommand[T any](things, path, header string, rows func(T) []row) *cobra.Command {
	return outputFlag(&cobra.Command{
		Use:   "list",
		Short: "List the " + things,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := call[[]T](c, "GET", path, nil)
			if err != nil {
				return err
			}
			return show(c, all, header, each(rows))
		},
	})
}

// getCommand shows one thing.
func getCommand[T any](thing, path, header string, rows func(T) []row) *cobra.Command {
	return outputFlag(&cobra.Command{
		Use:   "get NAME",
		Short: "Show one " + thing,
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			at, err := pathOf(thing, path, args[0])
			if err != nil {
				return err
			}
			v, err := call[T](c, "GET", at, nil)
			if err != nil {
				return err
			}
			return show(c, v, header, rows)
		},
	})
}

// deleteCommand deletes one thing.
func deleteCommand(thing, path, long string) *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete one " + thing,
		Long:  "Delete one " + thing + ". " + long,
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			at, err := pathOf(thing, path, args[0])
			if err != nil {
				return err
			}
			return send(c, "DELETE", at, nil)
		},
	}
}
