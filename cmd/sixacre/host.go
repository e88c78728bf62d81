package main

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/api"
)

func hostCommand() *cobra.Command {
	return clientFlags(group("host", "Hypervisors",
		hostCreate(),
		listCommand("hosts", "/v1/hosts", hostHeader, hostRows),
		getCommand("host", "/v1/hosts/", hostHeader, hostRows),
		deleteCommand("host", "/v1/hosts/", "It is refused while an instance is on the host. Its tokens are revoked."),
	))
}

const hostHeader = "NAME AGENT-SEEN NICS PROGRAMMED"

func hostRows(h sixacre.HostStatus) []row {
	programmed := 0
	for _, n := range h.Report.NICs {
		if n.Programmed {
			programmed++
		}
	}
	return []row{{h.Name, cmp.Or(instant(h.Seen), "never"), len(h.Report.NICs), programmed}}
}

// secretOrDocument prints a new secret alone on its line, ready to be put into a
// file, or with what it belongs to.
func secretOrDocument[T any](c *cobra.Command, made T, secret string) error {
	if format, _ := c.Flags().GetString("output"); format != "table" {
		return show(c, made, "", nil)
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), secret)
	return err
}

func hostCreate() *cobra.Command {
	return outputFlag(&cobra.Command{
		Use:   "create NAME",
		Short: "Create a host and print the token of its agent",
		Long: `Create a host and print the token with which its agent sees the host's own NICs,
and what their filter needs to know. The token is printed this once.`,
		Example: `  sixacre host create hv1 > hv1.token`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			made, err := call[api.HostCreated](c, "POST", "/v1/hosts", sixacre.Host{Name: args[0]})
			if err != nil {
				return err
			}
			return secretOrDocument(c, made, made.Token)
		},
	})
}

func tokenCommand() *cobra.Command {
	return clientFlags(group("token", "Credentials of the network listener",
		tokenCreate(),
		listCommand("tokens, without their secrets", "/v1/tokens", "NAME ROLE HOST POD", func(t sixacre.Token) []row {
			return []row{{t.Name, t.Role, t.Host, t.Pod}}
		}),
		deleteCommand("token", "/v1/tokens/", "It is good for nothing from then on."),
	))
}

func tokenCreate() *cobra.Command {
	t := sixacre.Token{}
	c := &cobra.Command{
		Use:   "create NAME --role admin|router|host [--pod POD] [--host HOST]",
		Short: "Create a token and print its secret",
		Long: `Create a token and print its secret, this once. An admin's reaches everything, a
router's only its pod, a host's only its own NICs and what their filter needs.`,
		Example: `  sixacre token create r1 --role router --pod pod1 > r1.token`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			t.Name = args[0]
			made, err := call[api.TokenCreated](c, "POST", "/v1/tokens", t)
			if err != nil {
				return err
			}
			return secretOrDocument(c, made, made.Secret)
		},
	}
	c.Flags().StringVar((*string)(&t.Role), "role", "", "admin, router or host")
	c.Flags().StringVar(&t.Pod, "pod", "", "`name` of the router's pod")
	c.Flags().StringVar(&t.Host, "host", "", "`name` of the host")
	c.MarkFlagRequired("role")
	return outputFlag(c)
}
