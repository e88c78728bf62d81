package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/control"
)

func prefixCommand() *cobra.Command {
	return clientFlags(group("prefix", "Delegated prefixes",
		prefixAdd(),
		prefixRelease(),
		listCommand("prefixes that are delegated or in quarantine", "/v1/prefixes", prefixHeader, prefixRows),
	))
}

const prefixHeader = "PREFIX STATE INSTANCE MAC POD UNTIL"

func prefixRows(d sixacre.Delegation) []row {
	return []row{{d.Prefix, d.State, d.Instance, d.MAC, d.Pod, instant(d.Until)}}
}

func prefixAdd() *cobra.Command {
	r := control.PrefixRequest{}
	c := &cobra.Command{
		Use:   "add INSTANCE [--mac MAC] [--pod POD] [--pool P] [--length N] [--prefix P]",
		Short: "Delegate one more prefix to an instance",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			r.Instance = args[0]
			if r.MAC, err = optional(c, "mac", sixacre.ParseMAC); err != nil {
				return err
			}
			if r.Prefix, err = optional(c, "prefix", parseDelegated); err != nil {
				return err
			}
			if r.Pool, err = optional(c, "pool", parsePrefix("pool", "2001:db8:4000::/40")); err != nil {
				return err
			}
			made, err := call[sixacre.Delegation](c, "POST", "/v1/prefixes", r)
			if err != nil {
				return err
			}
			return show(c, made, prefixHeader, prefixRows)
		},
	}
	c.Flags().String("mac", "", "`address` of the NIC, where there are several")
	c.Flags().StringVar(&r.Pod, "pod", "", "`name` of the NIC's pod, where several have that MAC")
	c.Flags().String("prefix", "", "exactly this `prefix`; otherwise one is picked")
	c.Flags().String("pool", "", "pick from this `pool`")
	c.Flags().IntVar(&r.Length, "length", 0, "pick from a pool that delegates this length")
	c.MarkFlagsMutuallyExclusive("prefix", "pool")
	c.MarkFlagsMutuallyExclusive("prefix", "length")
	return outputFlag(c)
}

func prefixRelease() *cobra.Command {
	return &cobra.Command{
		Use:   "release PREFIX",
		Short: "Take a prefix from its holder",
		Long: `Take a prefix from its holder. Answer, routes and filter follow at once; the prefix
rests in quarantine until no lease on it can be in force any more.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := parseDelegated(args[0])
			if err != nil {
				return err
			}
			return send(c, "DELETE", fmt.Sprintf("/v1/prefixes/%s/%d", p.Addr(), p.Bits()), nil)
		},
	}
}
