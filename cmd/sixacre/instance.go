package main

import (
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/control"
)

func instanceCommand() *cobra.Command {
	return clientFlags(group("instance", "Virtual machines: their addresses, prefixes and groups",
		instanceCreate(),
		listCommand("instances", "/v1/instances", instanceHeader, instanceRows),
		getCommand("instance", "/v1/instances/", instanceHeader, instanceRows),
		instanceSeen(),
		instanceMove(),
		deleteCommand("instance", "/v1/instances/", "Its prefixes go into quarantine, and its DHCPv6 answer, routes and filter\nare withdrawn."),
	))
}

const instanceHeader = "NAME POD MAC HOST ADDRESS LINK-LOCAL PREFIXES GROUPS"

func instanceRows(i sixacre.Instance) (rows []row) {
	for _, n := range i.NICs {
		rows = append(rows, row{i.Name, n.Pod, n.MAC, n.Host, n.Address, join(n.LinkLocals()), join(n.Prefixes), join(n.Groups)})
	}
	return rows
}

func instanceCreate() *cobra.Command {
	var mac string
	var prefixes, groups []string
	var count int
	n := sixacre.NIC{}
	c := &cobra.Command{
		Use:   "create NAME --pod POD --mac MAC [--host HOST] [--prefixes N | --prefix P]… [--group G]…",
		Short: "Deploy an instance",
		Long: `Deploy an instance with one NIC: pick and record its prefixes, compute its address
from the MAC (slaac pod) or pick and record one (dhcpv6 pod), all in one
transaction. What follows from it, DHCPv6 answer, route and filter, needs nothing
more.`,
		Example: `  sixacre instance create i-1 --pod pod1 --mac 06:00:00:00:00:01 --host hv1
  sixacre instance create i-2 --pod pod1 --mac 06:00:00:00:00:02 --prefixes 2 --group web
  sixacre instance create i-3 --pod pod1 --mac 06:00:00:00:00:03 --prefix 2001:db8:4000:30::/60`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if n.MAC, err = sixacre.ParseMAC(mac); err != nil {
				return err
			}
			if n.Prefixes, err = parseEach(prefixes, parseDelegated); err != nil {
				return err
			}
			if n.Address, err = optional(c, "address", parseAddr("address")); err != nil {
				return err
			}
			n.Groups = groups
			d := control.Deployment{Name: args[0], NICs: []control.NICDeployment{{NIC: n}}}
			if c.Flags().Changed("prefixes") {
				d.NICs[0].PrefixCount = &count
			}
			made, err := call[sixacre.Instance](c, "POST", "/v1/instances", d)
			if err != nil {
				return err
			}
			return show(c, made, instanceHeader, instanceRows)
		},
	}
	f := c.Flags()
	f.StringVar(&n.Pod, "pod", "", "`name` of the pod it is on")
	f.StringVar(&mac, "mac", "", "`address` of its NIC")
	f.StringVar(&n.Host, "host", "", "`name` of the hypervisor that it runs on")
	f.StringVar(&n.Device, "device", "", "the `tap` on that hypervisor, if its name is known")
	f.IntVar(&count, "prefixes", 1, "how many prefixes to pick (1 unless --prefix is given)")
	f.StringArrayVar(&prefixes, "prefix", nil, "exactly this `prefix`")
	f.String("address", "", "exactly this `address` (dhcpv6 pods)")
	f.StringArrayVar(&groups, "group", nil, "`name` of a security group (default "+sixacre.DefaultGroup+")")
	c.MarkFlagRequired("pod")
	c.MarkFlagRequired("mac")
	return outputFlag(c)
}

func instanceSeen() *cobra.Command {
	return outputFlag(&cobra.Command{
		Use:   "seen NAME",
		Short: "Show what was seen of an instance's DHCPv6 clients",
		Long: `Show what was seen of the DHCPv6 client of each of the instance's NICs: its last
message and when, to within some minutes; when a lease was last given or extended;
the relays that brought its messages, the latest first, and the address that it
last sent from; its DUID; and the address that it declined, if any, because another
on the link had it. A NIC of which nothing was seen is not shown.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := pathOf("instance", "/v1/instances/", args[0])
			if err != nil {
				return err
			}
			seen, err := call[[]sixacre.Sighting](c, "GET", path+"/sightings", nil)
			if err != nil {
				return err
			}
			return show(c, seen, "MAC POD LAST MESSAGE BOUND RELAY PEER DUID DECLINED", each(sightingRow))
		},
	})
}

func sightingRow(s sixacre.Sighting) []row {
	var relays []netip.Addr
	for _, p := range s.Paths {
		relays = append(relays, p.Relay)
	}
	peer, declined := "", ""
	if len(s.Paths) > 0 {
		peer = s.Paths[0].Peer.String()
	}
	if s.Declined != nil {
		declined = s.Declined.Address.String()
	}
	return []row{{s.MAC, s.Pod, instant(s.Time), s.Message, instant(s.Bound), join(relays), peer, s.DUID, declined}}
}

func instanceMove() *cobra.Command {
	move := control.Move{}
	c := &cobra.Command{
		Use:   "move NAME --host HOST [--mac MAC] [--pod POD]",
		Short: "Record that an instance is on another hypervisor",
		Long: `Record that an instance's NIC is on another hypervisor from now on: its filter is
programmed there and withdrawn here. Addresses, prefixes and routes stay.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if move.MAC, err = optional(c, "mac", sixacre.ParseMAC); err != nil {
				return err
			}
			path, err := pathOf("instance", "/v1/instances/", args[0])
			if err != nil {
				return err
			}
			moved, err := call[sixacre.Instance](c, "POST", path+"/move", move)
			if err != nil {
				return err
			}
			return show(c, moved, instanceHeader, instanceRows)
		},
	}
	c.Flags().StringVar(&move.Host, "host", "", "`name` of the hypervisor that it is on now")
	c.Flags().String("mac", "", "`address` of the NIC, where there are several")
	c.Flags().StringVar(&move.Pod, "pod", "", "`name` of the NIC's pod, where several have that MAC")
	c.MarkFlagRequired("host")
	return outputFlag(c)
}
