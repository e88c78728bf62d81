// Package nft keeps the kernel's firewall what a compiled ruleset says: one nft
// process per change with the printed text, and netlink to see what the kernel
// holds and when somebody touched it.
package nft

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// Kernel is the firewall of the network namespace that the process is in. The
// zero value is ready: it knows nothing yet, so that its first Apply replaces
// whatever our tables hold, in place.
type Kernel struct {
	mu      sync.Mutex
	applied *firewall.Ruleset // nil when the kernel may hold anything
	// After each change: the generation of the kernel's rules, and what our
	// tables looked like then.
	generation uint32
	listing    [sha256.Size]byte
}

// Probe returns the mode that the kernel can do: nf_conntrack_bridge where it
// has it. It changes nothing.
func Probe(ctx context.Context) (firewall.Mode, error) {
	const question = "table bridge sixacre_probe { chain c { type filter hook forward priority 0; ct state established accept; }; }"
	err := run(ctx, question, "-c", "-f", "-")
	switch {
	case err == nil:
		return firewall.BridgeConntrack, nil
	case strings.Contains(err.Error(), "Protocol error") || strings.Contains(err.Error(), "not supported"):
		return firewall.BridgeNetfilter, nil
	}
	return 0, err
}

// Apply makes our tables those of the ruleset. Where the last Apply is known to
// be still in force it changes only what differs; else it sets everything, in
// place. Nothing happens where nothing differs.
func (k *Kernel) Apply(ctx context.Context, rs firewall.Ruleset) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.applied != nil {
		text := rs.Change(*k.applied).String()
		if text == "" {
			return nil
		}
		if err := k.commit(ctx, rs, text); err == nil || ctx.Err() != nil {
			return err
		}
		// What we believed to be there was not: set everything.
	}
	present, err := objects()
	if err != nil {
		return err
	}
	err = k.commit(ctx, rs, rs.Sync(present))
	if err != nil && ctx.Err() == nil && len(present) > 0 {
		// A table of another version's shape cannot be changed in place.
		err = k.commit(ctx, rs, rs.Replace())
	}
	return err
}

// commit runs the text as one transaction and takes note of what the kernel
// then holds. If anybody else committed at the same time, it may not be ours:
// then nothing is known, and the next Intact says so.
func (k *Kernel) commit(ctx context.Context, rs firewall.Ruleset, text string) error {
	k.applied = nil
	before, err := generation()
	if err != nil {
		return err
	}
	if err := run(ctx, text, "-f", "-"); err != nil {
		return err
	}
	listing, err := list(ctx)
	if err != nil {
		return err
	}
	after, err := generation()
	if err != nil {
		return err
	}
	if after == before+1 {
		k.applied, k.generation, k.listing = &rs, after, listing
	}
	return nil
}

// Intact reports whether our tables are as the last Apply left them. Asking
// costs next to nothing while nobody changes any rules.
func (k *Kernel) Intact(ctx context.Context) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.applied == nil {
		return false, nil
	}
	now, err := generation()
	if err != nil {
		return false, err
	}
	if now == k.generation {
		return true, nil
	}
	listing, err := list(ctx)
	if err != nil || listing != k.listing {
		k.applied = nil
		return false, nil // a table that cannot be listed is gone
	}
	k.generation = now // another's table changed
	return true, nil
}

// Present reports whether there is a filter of ours, closed or filled in. One
// whose rules somebody flushed is none.
func (k *Kernel) Present() (bool, error) {
	present, err := objects()
	if err != nil || !slices.Contains(present, firewall.Object{Family: "bridge", Table: firewall.BridgeTable, Kind: "chain", Name: "prerouting"}) {
		return false, err
	}
	conn, err := nftables.New()
	if err != nil {
		return false, err
	}
	rules, err := conn.GetRules(&nftables.Table{Family: nftables.TableFamilyBridge, Name: firewall.BridgeTable}, &nftables.Chain{Name: "prerouting"})
	if err != nil {
		return false, fmt.Errorf("listing rules of bridge %s: %w", firewall.BridgeTable, err)
	}
	return len(rules) > 0, nil
}

// Watch calls changed after every change of any firewall rule in the namespace,
// ours included, and after each message that was lost, until ctx ends.
func Watch(ctx context.Context, changed func()) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return fmt.Errorf("watching the firewall: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for {
		_, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			conn.Close()
			return fmt.Errorf("watching the firewall: %w", err)
		}
		changed()
	}
}

// generation returns the number that the kernel counts up with every commit.
func generation() (uint32, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, fmt.Errorf("asking the firewall's generation: %w", err)
	}
	defer conn.Close()
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN),
			Flags: netlink.Request,
		},
		Data: make([]byte, 4), // struct nfgenmsg
	})
	if err != nil {
		return 0, fmt.Errorf("asking the firewall's generation: %w", err)
	}
	for _, m := range replies {
		if len(m.Data) < 4 {
			continue
		}
		attributes, err := netlink.UnmarshalAttributes(m.Data[4:])
		if err != nil {
			return 0, err
		}
		for _, a := range attributes {
			if a.Type == unix.NFTA_GEN_ID && len(a.Data) == 4 {
				return binary.BigEndian.Uint32(a.Data), nil
			}
		}
	}
	return 0, errors.New("the kernel did not say the firewall's generation")
}

// objects returns what is in our tables, if they exist.
func objects() ([]firewall.Object, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	var out []firewall.Object
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	for _, t := range tables {
		var family string
		switch {
		case t.Family == nftables.TableFamilyBridge && t.Name == firewall.BridgeTable:
			family = "bridge"
		case t.Family == nftables.TableFamilyIPv6 && t.Name == firewall.ConntrackTable:
			family = "ip6"
		default:
			continue
		}
		sets, err := conn.GetSets(t)
		if err != nil {
			return nil, fmt.Errorf("listing sets of %s %s: %w", family, t.Name, err)
		}
		for _, s := range sets {
			if s.Anonymous {
				continue
			}
			kind := "set"
			if s.IsMap {
				kind = "map"
			}
			out = append(out, firewall.Object{Family: family, Table: t.Name, Kind: kind, Name: s.Name})
		}
		chains, err := conn.ListChainsOfTableFamily(t.Family)
		if err != nil {
			return nil, fmt.Errorf("listing chains of %s %s: %w", family, t.Name, err)
		}
		for _, c := range chains {
			if c.Table.Name == t.Name {
				out = append(out, firewall.Object{Family: family, Table: t.Name, Kind: "chain", Name: c.Name})
			}
		}
	}
	return out, nil
}

// Obstacles names the chains of others that drop bridged IPv6 too, because
// br_netfilter shows it to them: base chains of the forward hook whose policy is
// drop, such as firewalld's and Docker's.
func Obstacles() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv6} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, fmt.Errorf("listing chains: %w", err)
		}
		for _, c := range chains {
			if c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
				out = append(out, c.Table.Name+" "+c.Name)
			}
		}
	}
	return out, nil
}

// list returns the hash of our tables as nft prints them, without counters.
func list(ctx context.Context) ([sha256.Size]byte, error) {
	var all bytes.Buffer
	for _, args := range [][]string{
		{"-s", "list", "table", "bridge", firewall.BridgeTable},
		{"-s", "list", "table", "ip6", firewall.ConntrackTable},
	} {
		cmd := exec.CommandContext(ctx, "nft", args...)
		cmd.Stdout = &all
		if err := cmd.Run(); err != nil && args[3] == "bridge" {
			return [sha256.Size]byte{}, fmt.Errorf("nft %s: %w", strings.Join(args, " "), err)
		}
	}
	return sha256.Sum256([]byte(firewall.Canonical(all.String()))), nil
}

// run gives nft the text and returns its first complaint.
func run(ctx context.Context, text string, args ...string) error {
	cmd := exec.CommandContext(ctx, "nft", args...)
	cmd.Stdin = strings.NewReader(text)
	var problems strings.Builder
	cmd.Stderr = &problems
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return sixacre.Errorf(sixacre.Unavailable, "nft is not installed: install the package nftables (1.0.6 or later)")
	case err != nil:
		first, _, _ := strings.Cut(strings.TrimSpace(problems.String()), "\n")
		return fmt.Errorf("nft refused the ruleset: %s (%w)", first, err)
	}
	return nil
}
