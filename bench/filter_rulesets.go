package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/hypervisor"
	"github.com/sixacre/sixacre/nft"
	"github.com/sixacre/sixacre/rtnl"
)

// ruleset is one of those that are measured side by side.
type ruleset struct {
	name, title string
	needs       []string                          // programs
	load        func(context.Context, *rig) error // on a thread in the rig's namespace
	filters     bool                              // whether it drops what no rule allows
}

var rulesets = []ruleset{
	{name: "bridge", title: "plain bridge", load: func(context.Context, *rig) error { return nil }},
	{name: "conntrack", title: "br_netfilter + conntrack alone", needs: []string{"nft"}, load: loadConntrack},
	{name: "sixacre", title: "**sixacre**", needs: []string{"nft"}, load: loadSixacre, filters: true},
	{name: "cloudstack", title: "linear chains as CloudStack's", needs: []string{"ip6tables-nft-restore", "ipset"}, load: cloudStack(false), filters: true},
	{name: "cloudstack-4.20", title: "the same as before 2025", needs: []string{"ip6tables-nft-restore", "ipset"}, load: cloudStack(true), filters: true},
	{name: "neutron", title: "linear chains as Neutron's", needs: []string{"ip6tables-nft-restore", "ipset"}, load: loadNeutron, filters: true},
}

func (r ruleset) String() string { return r.name }

// missing names a program that the ruleset needs and the machine lacks.
func (r ruleset) missing() string {
	for _, program := range r.needs {
		if _, err := exec.LookPath(program); err != nil {
			return program
		}
	}
	return ""
}

// netfilter sends the bridge's IPv6 through the ip6 hooks.
func netfilter(ctx context.Context) error {
	return ip(ctx, fmt.Sprintf("link set %s type bridge nf_call_ip6tables 1\n", filterBridge))
}

// loadConntrack loads the least that tracks connections.
func loadConntrack(ctx context.Context, r *rig) error {
	const least = "table ip6 least { chain forward { type filter hook forward priority 0; ct state established,related accept; }; }"
	return errors.Join(netfilter(ctx), feed(ctx, least, "nft", "-f", "-"))
}

// loadSixacre has the agent filter until all is in force, and ends it: the rules
// stay.
func loadSixacre(ctx context.Context, r *rig) error {
	mode, err := nft.Probe(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	agent := &hypervisor.Agent{
		Mode:     mode,
		Taps:     filterTaps,
		Firewall: &nft.Kernel{},
		Links:    rtnl.Links{},
		Log:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Report: func(_ context.Context, report sixacre.Report) error {
			if programmed(report) == r.nics {
				cancel()
			}
			return nil
		},
	}
	agent.Follow(filterView(r.nics, remotePeers))
	late := time.AfterFunc(30*time.Second, cancel)
	if err := agent.Run(ctx); err != nil {
		return err
	}
	if !late.Stop() {
		return errors.New("the agent did not program all NICs within 30 s")
	}
	return nil
}
