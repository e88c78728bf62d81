package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/hypervisor"
	"github.com/sixacre/sixacre/nft"
)

// drop is a line of 'sixacre agent drops'.
type drop struct {
	Instance  string            `json:"instance,omitempty"`
	Device    string            `json:"device"`
	Direction sixacre.Direction `json:"direction"`
	Reason    string            `json:"reason"`
	Packets   uint64            `json:"packets"`
	Bytes     uint64            `json:"bytes"`
	Means     string            `json:"means"`
}

func agentDropsCommand() *cobra.Command {
	var state string
	var group uint16
	cmd := &cobra.Command{
		Use:   "drops [INSTANCE]",
		Short: "Show what the filter of this hypervisor dropped, by NIC and reason",
		Long: `drops shows how many packets the filter dropped, by tap and reason, since the
filter was loaded or another guest took the tap. Direction out is from the instance,
in is to it.

With --follow it shows packets as they are dropped, until interrupted: a sample of
ten a second each way, which the agent gives to the nflog group that its --log-drops
names. Others can read that too: tcpdump -i nflog:GROUP.`,
		Example: `  sixacre agent drops
  sixacre agent drops i-1 -o json
  sixacre agent drops --follow 1661`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := asRoot(); err != nil {
				return err
			}
			status, err := hypervisor.LoadStatus(state)
			if err != nil {
				return err
			}
			instances := map[string]string{}
			if status != nil {
				for _, n := range status.NICs {
					instances[n.Device] = n.Instance
				}
			}
			wanted := func(device string) bool { return len(args) == 0 || instances[device] == args[0] }
			if group != 0 {
				return followDrops(cmd, group, instances, wanted)
			}
			counted, err := new(nft.Kernel).Drops(cmd.Context())
			if err != nil {
				return err
			}
			out := []drop{}
			for _, d := range counted {
				if wanted(d.Device) {
					out = append(out, drop{instances[d.Device], d.Device, d.Direction, d.Reason.String(), d.Packets, d.Bytes, d.Reason.Text()})
				}
			}
			return show(cmd, out, "INSTANCE DEVICE DIRECTION REASON PACKETS BYTES MEANS", each(func(d drop) []row {
				return []row{{d.Instance, d.Device, d.Direction, d.Reason, d.Packets, d.Bytes, d.Means}}
			}))
		},
	}
	cmd.Flags().StringVar(&state, "state", defaultState, "`DIR` that the agent keeps its state in, for the names of instances")
	cmd.Flags().Uint16Var(&group, "follow", 0, "show packets as they are dropped: the nflog `GROUP` of the agent's --log-drops")
	return outputFlag(cmd)
}

// followDrops prints a line for each packet that is logged.
func followDrops(cmd *cobra.Command, group uint16, instances map[string]string, wanted func(string) bool) error {
	err := nft.Listen(cmd.Context(), group, func(p nft.Packet) {
		device, direction := p.In, sixacre.Out
		if p.Prefix == "to " {
			device, direction = p.Out, sixacre.In
		}
		if wanted(device) {
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %-3s %s %s  %s  %s\n", time.Now().Format("15:04:05.000"),
				direction, device, instances[device], firewall.Reason(p.Mark), summary(p.Data))
		}
	})
	if cmd.Context().Err() == context.Canceled {
		return nil // interrupted
	}
	return err
}

// summary says in a line what the IPv6 packet is; of another, nothing.
func summary(p []byte) string {
	if len(p) < 40 || p[0]>>4 != 6 {
		return "not IPv6"
	}
	source, destination := netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	protocol, payload := sixacre.Protocol(p[6]), p[40:]
	switch {
	case (protocol == sixacre.TCP || protocol == sixacre.UDP) && len(payload) >= 4:
		return fmt.Sprintf("%s %s > %s", protocol, netip.AddrPortFrom(source, binary.BigEndian.Uint16(payload)), netip.AddrPortFrom(destination, binary.BigEndian.Uint16(payload[2:])))
	case protocol == sixacre.ICMPv6 && len(payload) >= 2:
		return fmt.Sprintf("icmpv6 %d/%d %s > %s", payload[0], payload[1], source, destination)
	}
	return fmt.Sprintf("protocol %s %s > %s", protocol, source, destination)
}
