// Command sixacre is the whole product in one binary: server, router, agent and
// command line. This package only wires: flags in, packages together.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
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
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "sixacre:", err)
		return 2
	default:
		fmt.Fprintln(os.Stderr, "sixacre:", err)
		return 1
	}
}

// usageError is a command line that was not understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "sixacre",
		Short: "An IPv6 address and routed prefixes for every instance",
		Long: `sixacre gives each cloud instance its IPv6 address and one or more routed
prefixes, and keeps what follows from that in step: the DHCPv6 answer, the route
on the routers, the filter on the hypervisor.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see '%s --help')", err, c.CommandPath())}
	})
	root.AddCommand(commands...)
	return root
}

// commands are added by the files of the subcommands.
var commands []*cobra.Command
