// Command sixacre is the whole product in one binary: server, router, agent and
// command line. This package only wires: flags in, packages together.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the Makefile.
var version = "unknown"

func main() {
	// A second signal ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:]))
}

// run is main without the process: the exit status is 0, 1 where the command
// was refused or failed, or 2 where it was not understood.
func run(ctx context.Context, args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	understood := false
	noteRun(root, &understood)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	// Some of what cobra and yaml say has several lines.
	message := strings.Join(strings.Fields(err.Error()), " ")
	var usage usageError
	if !understood || errors.As(err, &usage) {
		fmt.Fprintf(os.Stderr, "sixacre: %s (see --help)\n", message)
		return 2
	}
	fmt.Fprintln(os.Stderr, "sixacre:", message)
	return 1
}

// usageError is a command line that a command itself did not understand.
type usageError string

func (e usageError) Error() string { return string(e) }

// noteRun makes every command note that it was reached: what fails before that
// is a command line that was not understood.
func noteRun(c *cobra.Command, reached *bool) {
	if f := c.RunE; f != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			*reached = true
			return f(c, args)
		}
	}
	for _, sub := range c.Commands() {
		noteRun(sub, reached)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "sixacre",
		Short: "An IPv6 address and routed prefixes for every instance",
		Long: `sixacre gives each cloud instance its IPv6 address and one or more routed
prefixes, and keeps what follows from that in step: the DHCPv6 answer, the route
on the routers, the filter on the hypervisor.

The record is kept by 'sixacre server'. On its machine the commands below find it
by --data or SIXACRE_DATA (default ` + defaultData + `), elsewhere by SIXACRE_SERVER,
SIXACRE_TOKEN and SIXACRE_CA.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		routerCommand(),
		agentCommand(),
		serverCommand(),
		podCommand(),
		instanceCommand(),
		prefixCommand(),
		groupCommand(),
		hostCommand(),
		peerCommand(),
		tokenCommand(),
		whoisCommand(),
		labCommand(),
		versionCommand(),
	)
	return root
}

// group is a command that only holds others.
func group(use, short string, subcommands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError(fmt.Sprintf("%q is not a command of '%s'", args[0], c.CommandPath()))
			}
			return c.Help()
		},
	}
	c.AddCommand(subcommands...)
	return c
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Println("sixacre", version)
			return nil
		},
	}
}
