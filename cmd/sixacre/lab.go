package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sixacre/sixacre/lab"
)

func labCommand() *cobra.Command {
	var name, dir string
	open := func() (*lab.Lab, error) {
		binary, err := os.Executable()
		if err != nil {
			return nil, err
		}
		if dir == "" {
			dir = lab.DefaultDir(name)
		}
		return lab.New(name, dir, binary, os.Stdout)
	}

	var keep bool
	up := &cobra.Command{
		Use:   "up",
		Short: "Build the lab and leave it running",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			if err := l.Up(c.Context(), keep); err != nil {
				return err
			}
			fmt.Print(l.Hint())
			return nil
		},
	}

	up.Flags().BoolVar(&keep, "keep", false, "leave a lab that does not come up as it is, to look at it")

	var run string
	var list bool
	check := &cobra.Command{
		Use:   "check [NAME]...",
		Short: "Check the running lab, one line for each check",
		Long: `Every check sends real packets and prints what was seen. Without names all checks
run, in the order of --list. The status is 1 if any fails.`,
		RunE: func(c *cobra.Command, names []string) error {
			if list {
				return lab.List(os.Stdout)
			}
			l, err := open()
			if err != nil {
				return err
			}
			return l.Check(c.Context(), run, names)
		},
	}
	check.Flags().StringVar(&run, "run", "", "run the checks whose name matches the regular `expression`")
	check.Flags().BoolVar(&list, "list", false, "list the checks instead of running them")

	down := &cobra.Command{
		Use:   "down",
		Short: "Remove the lab, also one that crashed",
		Long: `Remove the lab's namespaces and its directory, and end every process in the
namespaces, a shell that was left open there too. A lab whose 'up' or 'check' was
killed is removed the same.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			return l.Down(c.Context())
		},
	}

	demo := &cobra.Command{
		Use:   "demo",
		Short: "up, check and down in one go",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			if err := l.Up(c.Context(), false); err != nil {
				return err
			}
			checked := l.Check(c.Context(), "", nil)
			return errors.Join(checked, l.Down(c.Context()))
		},
	}

	c := group("lab", "The whole picture on this machine, in network namespaces", up, check, down, demo)
	c.Long = `The lab is a core network, four routers, a server, two hypervisors, a load generator
and thirteen instances, most with real DHCPv6 clients, each in a network namespace
of this machine, and two guests that nobody registered. It takes root, and touches
nothing else.`
	c.PersistentFlags().StringVar(&name, "name", "lab", "first part of the namespaces' names; another `name` is another lab")
	c.PersistentFlags().StringVar(&dir, "dir", "", "`directory` of the lab's state (default /run/sixacre-NAME)")
	return c
}
