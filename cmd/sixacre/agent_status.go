package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/hypervisor"
	"github.com/sixacre/sixacre/nft"
	"github.com/sixacre/sixacre/rtnl"
)

const defaultState = "/var/lib/sixacre/agent"

// finding is one thing that was looked at.
type finding struct {
	state string // ok, note or fail
	what  string
	says  string
}

func agentStatusCommand() *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether this hypervisor filters as it should, and what stands in the way",
		Long: `status looks at this hypervisor: whether an agent runs, what the kernel can do,
whether the filter is there, who else drops bridged IPv6, how full the table of
connections is, and which NIC is behind which tap. Each line starts with ok, note
(worth knowing) or fail. It exits 1 if anything failed.`,
		Example: "  sixacre agent status",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := asRoot(); err != nil {
				return err
			}
			status, err := hypervisor.LoadStatus(state)
			if err != nil {
				return err
			}
			found := append(ofAgent(status, state), ofKernel(cmd)...)
			failed := printFindings(cmd.OutOrStdout(), found)
			if status != nil {
				printNICs(cmd.OutOrStdout(), *status)
			}
			if failed {
				return errors.New("this hypervisor does not filter as it should: see the lines that start with fail")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&state, "state", defaultState, "`DIR` that the agent keeps its state in")
	return cmd
}

func printFindings(out io.Writer, found []finding) (failed bool) {
	for _, f := range found {
		fmt.Fprintf(out, "%-4s  %s: %s\n", f.state, f.what, f.says)
		failed = failed || f.state == "fail"
	}
	return failed
}

// ofAgent is what an agent wrote down of itself, and whether it still lives.
func ofAgent(s *hypervisor.Status, dir string) []finding {
	if s == nil {
		return []finding{{"fail", "agent", "none has run with --state " + dir}}
	}
	var out []finding
	if err := syscall.Kill(s.PID, 0); err != nil {
		out = append(out, finding{"fail", "agent", fmt.Sprintf("process %d is gone; the filter stays as it was at %s", s.PID, s.Time.Format(time.RFC3339))})
	} else {
		out = append(out, finding{"ok", "agent", fmt.Sprintf("process %d, revision %d in force, looked last at %s", s.PID, s.Revision, s.Time.Format(time.RFC3339))})
	}
	if s.Problem != "" {
		out = append(out, finding{"fail", "filter", s.Problem})
	}
	for _, n := range s.NICs {
		if n.Device != "" && !n.Programmed {
			out = append(out, finding{"fail", "tap " + n.Device, fmt.Sprintf("NIC %s of instance %s is not programmed: it passes nothing", n.MAC, n.Instance)})
		}
	}
	return out
}

// ofKernel is what this host's kernel can do and holds.
func ofKernel(cmd *cobra.Command) []finding {
	var out []finding
	say := func(err error, what, good string) {
		if err != nil {
			out = append(out, finding{"fail", what, err.Error()})
		} else if good != "" {
			out = append(out, finding{"ok", what, good})
		}
	}
	can, err := nft.Examine(cmd.Context())
	say(err, "connections", "known by "+can.Mode.String())
	if err == nil && (!can.ConnectionLimits || !can.Hashes) {
		say(errors.New("has no nft_connlimit or no nft_hash: the filter cannot be loaded"), "kernel", "")
	}
	if err == nil && !can.Logs {
		out = append(out, finding{"note", "kernel", "has no nflog: guests' own link-local addresses are not learned"})
	}
	present, err := new(nft.Kernel).Present()
	if err == nil && !present {
		err = errors.New("there is none: load what 'sixacre agent --print-static' prints, or start the agent")
	}
	say(err, "filter", "is there")
	if can.Mode == firewall.BridgeNetfilter {
		obstacles, err := nft.Obstacles()
		say(err, "other chains", "")
		for _, o := range obstacles {
			out = append(out, finding{"note", "other chains", o + " drops by policy: under br_netfilter that drops the instances' IPv6 too, unless it accepts it"})
		}
		out = append(out, ofSysctls()...)
	}
	return append(out, ofConntrack(), ofBridges())
}

// ofSysctls tells which other packets of bridges meet the host's rules.
func ofSysctls() []finding {
	var on []string
	for _, family := range []string{"iptables", "ip6tables", "arptables"} {
		switch b, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-" + family); {
		case err != nil:
			return []finding{{"fail", "br_netfilter", "is not loaded: connections on bridges are unknown"}}
		case strings.TrimSpace(string(b)) != "0":
			on = append(on, "bridge-nf-call-"+family)
		}
	}
	if len(on) > 0 {
		return []finding{{"note", "br_netfilter", strings.Join(on, ", ") + " on: the host's own rules meet the packets of all its bridges, as Docker and Kubernetes want it"}}
	}
	return []finding{{"ok", "br_netfilter", "for the agent's bridges alone"}}
}

func ofConntrack() finding {
	var count, limit int
	for name, n := range map[string]*int{"count": &count, "max": &limit} {
		b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_" + name)
		if err == nil {
			_, err = fmt.Sscan(string(b), n)
		}
		if err != nil {
			return finding{"note", "connection table", "not in use yet"}
		}
	}
	f := finding{"ok", "connection table", fmt.Sprintf("%d of %d", count, limit)}
	if count > limit/10*9 {
		f.state, f.says = "fail", f.says+": new connections fail when it is full; raise net.netfilter.nf_conntrack_max"
	}
	return f
}

func ofBridges() finding {
	ports, err := rtnl.Links{}.BridgePorts()
	if err != nil {
		return finding{"fail", "bridges", err.Error()}
	}
	bridges := map[string]bool{}
	for _, p := range ports {
		bridges[p.Bridge] = true
	}
	return finding{"ok", "bridges", fmt.Sprintf("%d with %d ports", len(bridges), len(ports))}
}

func printNICs(out io.Writer, s hypervisor.Status) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nINSTANCE\tPOD\tMAC\tTAP\tBRIDGE\tFILTERED")
	for _, n := range s.NICs {
		filtered := "yes"
		switch {
		case n.Device == "":
			filtered = "no tap"
		case !n.Programmed:
			filtered = "closed"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Instance, n.Pod, n.MAC, n.Device, n.Bridge, filtered)
	}
	for _, device := range s.Closed {
		fmt.Fprintf(w, "-\t-\t-\t%s\t\tclosed\n", device)
	}
	w.Flush()
}
