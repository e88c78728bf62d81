package nft

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre/firewall"
)

// Probe returns the mode that the kernel can do: nf_conntrack_bridge where it
// has it. It changes nothing.
func Probe(ctx context.Context) (firewall.Mode, error) {
	tracks, err := takes(ctx, "table bridge sixacre_probe { chain c { type filter hook forward priority 0; ct state established accept; }; }")
	if tracks {
		return firewall.BridgeConntrack, err
	}
	return firewall.BridgeNetfilter, err
}

// Features are what the kernel can do of what the filter needs.
type Features struct {
	Mode             firewall.Mode
	ConnectionLimits bool // nft_connlimit, in sets that packets make
	Hashes           bool // nft_hash, which tells the lists of connections apart
	Logs             bool // nfnetlink_log, from the bridge family too
}

// Examine asks the kernel, and changes nothing.
func Examine(ctx context.Context) (Features, error) {
	var f Features
	var err error
	if f.Mode, err = Probe(ctx); err != nil {
		return f, err
	}
	family := "ip6"
	if f.Mode == firewall.BridgeConntrack {
		family = "bridge"
	}
	for _, q := range []struct {
		can      *bool
		question string
	}{
		{&f.ConnectionLimits, "table " + family + " sixacre_probe { set s { type mark; size 16; flags dynamic; }; chain c { type filter hook forward priority 0; add @s { meta mark ct count over 1 } drop; }; }"},
		{&f.Hashes, "table bridge sixacre_probe { chain c { meta mark set jhash ip6 saddr mod 2 seed 1; }; }"},
		{&f.Logs, "table bridge sixacre_probe { chain c { log group 1; }; }"},
	} {
		if *q.can, err = takes(ctx, q.question); err != nil {
			return f, err
		}
	}
	return f, nil
}

// takes reports whether the kernel would take the text. It says so of what it
// does not have in several ways.
func takes(ctx context.Context, text string) (bool, error) {
	err := run(ctx, text, "-c", "-f", "-")
	if err == nil {
		return true, nil
	}
	for _, missing := range []string{"Protocol error", "not supported", "No such file or directory"} {
		if strings.Contains(err.Error(), missing) {
			return false, nil
		}
	}
	return false, err
}

// Obstacles names the chains of others that drop bridged IPv6 too, because
// br_netfilter shows it to them: base chains of the forward hook whose policy is
// drop, such as firewalld's and Docker's.
func Obstacles() ([]string, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var out []string
	for _, family := range []byte{unix.NFPROTO_INET, unix.NFPROTO_IPV6} {
		err := dump(conn, unix.NFT_MSG_GETCHAIN, family, nil, func(_ byte, octets []byte) {
			hook := firstOf(firstOf(octets, unix.NFTA_CHAIN_HOOK), unix.NFTA_HOOK_HOOKNUM)
			policy := firstOf(octets, unix.NFTA_CHAIN_POLICY)
			const forward, drop = 2, 0 // NF_INET_FORWARD, NF_DROP
			if is(hook, forward) && is(policy, drop) {
				out = append(out, cString(firstOf(octets, unix.NFTA_CHAIN_TABLE))+" "+cString(firstOf(octets, unix.NFTA_CHAIN_NAME)))
			}
		})
		if err != nil {
			return nil, fmt.Errorf("listing chains: %w", err)
		}
	}
	return out, nil
}

// is reports whether the attribute is there and has that value.
func is(octets []byte, number uint32) bool {
	return len(octets) == 4 && binary.BigEndian.Uint32(octets) == number
}
