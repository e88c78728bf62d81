package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sixacre/sixacre"
)

func groupCommand() *cobra.Command {
	return clientFlags(group("group", "Security groups: what instances may receive and send",
		groupCreate(),
		group("rule", "Rules of a group", ruleAdd(), ruleDelete()),
		listCommand("groups", "/v1/groups", groupHeader, groupRows),
		getCommand("group", "/v1/groups/", groupHeader, groupRows),
		deleteCommand("group", "/v1/groups/", "It is refused while an instance is in the group or a rule names it."),
	))
}

const groupHeader = "NAME " + ruleHeader

func groupRows(g sixacre.Group) (rows []row) {
	for _, r := range g.Rules {
		rows = append(rows, append(row{g.Name}, ruleRows(r)[0]...))
	}
	if len(rows) == 0 {
		rows = []row{{g.Name, "", "", "", "", "", "", ""}}
	}
	return rows
}

const ruleHeader = "RULE DIRECTION PROTOCOL PORTS/TYPE REMOTE OPTIONS DESCRIPTION"

func ruleRows(r sixacre.Rule) []row {
	what := r.Ports.String()
	if r.ICMPType != nil {
		what = r.ICMPType.String()
	}
	var options []string
	if r.IncludePrefixes {
		options = append(options, "include-prefixes")
	}
	if r.Cut {
		options = append(options, "cut")
	}
	return []row{{r.ID, r.Direction, r.Protocol, what, r.Remote, join(options), r.Description}}
}

func groupCreate() *cobra.Command {
	return outputFlag(&cobra.Command{
		Use:   "create NAME",
		Short: "Create a group without rules",
		Long: `Create a group without rules: its members receive only what every instance does
(ICMPv6 as RFC 4890 says, and what belongs to connections of their own), and send
what they like. The group ` + sixacre.DefaultGroup + ` exists from the start.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			made, err := call[sixacre.Group](c, "POST", "/v1/groups", sixacre.Group{Name: args[0]})
			if err != nil {
				return err
			}
			return show(c, made, groupHeader, groupRows)
		},
	})
}

func ruleAdd() *cobra.Command {
	var protocol, ports, icmpType, remote string
	r := sixacre.Rule{}
	c := &cobra.Command{
		Use:   "add NAME --direction in|out --protocol tcp|udp|icmpv6|any|N [--ports LIST] [--icmp-type T[/C]] [--remote PREFIX|group:NAME [--include-prefixes]] [--cut]",
		Short: "Allow something to the members of a group",
		Long: `Allow something to the members of a group. Directions are seen from the instance.
Rules of direction in add to what may come in. The first rule of direction out
closes the way out for everything that no such rule allows.

A remote group stands for its members' addresses; with --include-prefixes, for the
prefixes delegated to them too.

Rules are asked about new connections. One that is established goes on when the rule
is deleted or its remote leaves the group, unless the rule has --cut: then it ends as
soon as no rule allows it. The first rules of direction out, where they have --cut,
end what was open before and they do not allow.`,
		Example: `  sixacre group rule add web --direction in --protocol tcp --ports 22,8000-8999
  sixacre group rule add web --direction in --protocol tcp --ports 5432 --remote group:app --include-prefixes
  sixacre group rule add web --direction in --protocol tcp --ports 22 --remote 2001:db8:99::/48 --cut --description 'contractors, until March'`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := r.Protocol.UnmarshalText([]byte(protocol)); err != nil {
				return err
			}
			if err := r.Ports.UnmarshalText([]byte(ports)); err != nil {
				return err
			}
			if err := r.Remote.UnmarshalText([]byte(remote)); err != nil {
				return err
			}
			if icmpType != "" {
				r.ICMPType = &sixacre.ICMPType{}
				if err := r.ICMPType.UnmarshalText([]byte(icmpType)); err != nil {
					return err
				}
			}
			path, err := pathOf("group", "/v1/groups/", args[0])
			if err != nil {
				return err
			}
			made, err := call[sixacre.Rule](c, "POST", path+"/rules", r)
			if err != nil {
				return err
			}
			return show(c, made, ruleHeader, ruleRows)
		},
	}
	f := c.Flags()
	f.StringVar((*string)(&r.Direction), "direction", "", "in or out")
	f.StringVar(&protocol, "protocol", "", "tcp, udp, icmpv6, any or a `number`")
	f.StringVar(&ports, "ports", "", "destination ports, a `list` such as 22,8000-8999 (default all)")
	f.StringVar(&icmpType, "icmp-type", "", "ICMPv6 `type` such as 128 or 1/4 (default all)")
	f.StringVar(&remote, "remote", "", "the other end: a `prefix` or group:NAME (default anybody)")
	f.BoolVar(&r.IncludePrefixes, "include-prefixes", false, "take in what comes from the delegated prefixes of the remote group's members too")
	f.BoolVar(&r.Cut, "cut", false, "end established connections that the rule allowed once no rule does")
	f.StringVar(&r.Description, "description", "", "a `text` for people")
	c.MarkFlagRequired("direction")
	c.MarkFlagRequired("protocol")
	return outputFlag(c)
}

func ruleDelete() *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME RULE",
		Short: "Delete the rule of that number",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := strconv.Atoi(args[1])
			if err != nil {
				return sixacre.Errorf(sixacre.Invalid, "rule %q is not a number: see 'sixacre group get %s'", args[1], args[0])
			}
			path, err := pathOf("group", "/v1/groups/", args[0])
			if err != nil {
				return err
			}
			return send(c, "DELETE", fmt.Sprintf("%s/rules/%d", path, id), nil)
		},
	}
}
