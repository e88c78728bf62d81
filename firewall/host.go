// Package firewall compiles what a hypervisor's NICs may send and receive into
// an nftables ruleset. It is pure: a [Host] goes in, a [Ruleset] comes out, and
// a Ruleset prints as nft text. That text is the contract with the kernel, and
// what an operator reads back with nft list ruleset.
package firewall

import (
	"net/netip"
	"strings"

	"github.com/sixacre/sixacre"
)

// The tables that are ours.
const (
	BridgeTable    = "sixacre"    // family bridge
	ConntrackTable = "sixacre_ct" // family ip6
)

// The sets that count what is dropped: by the port's name and [Reason], and
// connections over the limit by [Refused].
const (
	DroppedFrom = "dropped_from"
	DroppedTo   = "dropped_to"
	RefusedSet  = "refused"
)

// Mode is how the bridge learns which connection a packet belongs to.
type Mode int

const (
	// BridgeNetfilter: br_netfilter sends bridged IPv6 through the ip6 hooks,
	// where connection tracking is, and a mark carries its verdict back. Every
	// kernel can.
	BridgeNetfilter Mode = iota
	// BridgeConntrack: nf_conntrack_bridge, connection tracking in the bridge
	// family itself.
	BridgeConntrack
)

func (m Mode) String() string {
	if m == BridgeConntrack {
		return "nf_conntrack_bridge"
	}
	return "br_netfilter"
}

// Host is all that the filter of one hypervisor follows from.
type Host struct {
	Mode    Mode
	Taps    []Pattern // names of taps: such a port passes nothing until a NIC is found behind it
	Limits  Limits    // the zero value stands for DefaultLimits
	Log     Log
	Bridges []Bridge
	Uplinks []Uplink // the ports of those bridges that are no taps
	Ports   []Port
	Pods    []sixacre.Pod     // those of the NICs
	Groups  []sixacre.Group   // those that the NICs name; one that is missing has no rules
	Members []sixacre.Members // those that the groups' rules name; one that is missing has none
}

// Bridge carries a pod's layer 2 on the host.
type Bridge struct {
	Name  string
	Index int    // interface index
	Zone  uint16 // conntrack zone: what happens on one pod opens nothing on another
}

// Uplink is a port that leads to the rest of the pod.
type Uplink struct {
	Device, Bridge string
	Index          int // interface index
}

// Port is a tap with the NIC behind it.
type Port struct {
	Device, Bridge string
	Index          int // interface index
	NIC            sixacre.NIC
}

// Limits bound what one NIC can cost others.
type Limits struct {
	DHCPv6      Rate // messages from its DHCPv6 client
	ND          Rate // neighbour and router solicitations and advertisements from it
	MLD         Rate // reports from it
	Errors      Rate // ICMPv6 errors to it that belong to no connection, except Packet Too Big
	Connections int  // that it has opened at a time, about, and as many again that were opened to it
}

// Rate is a number of packets a second, after a burst at once.
type Rate struct{ PerSecond, Burst int }

// DefaultLimits leave room for what guests do: a host that starts joins a few
// dozen groups and solicits a few dozen neighbours, a router more.
var DefaultLimits = Limits{
	DHCPv6:      Rate{20, 40},
	ND:          Rate{200, 400},
	MLD:         Rate{50, 200},
	Errors:      Rate{1000, 1000},
	Connections: 32768, // an eighth of most kernels' table
}

// Log says which nflog groups hear of packets; 0 is none.
type Log struct {
	Drops    uint16 // a sample of what is dropped, ten packets a second
	Learning uint16 // guests that ask whether a link-local address is free that is not theirs
}

// Pattern is the name of a tap, or the beginning of one with a * at its end.
type Pattern string

// ParsePattern refuses a pattern that would take in every port, uplinks
// included, or that no interface name can match.
func ParsePattern(s string) (Pattern, error) {
	name, _ := strings.CutSuffix(s, "*")
	if !plain(name) {
		return "", sixacre.Errorf(sixacre.Invalid, "tap pattern %q is not 1 to 15 letters, digits, dots, dashes and underscores with at most a * at the end: write it as vnet*", s)
	}
	return Pattern(s), nil
}

// Match reports whether the interface name is one of the pattern's.
func (p Pattern) Match(device string) bool {
	if prefix, isPrefix := strings.CutSuffix(string(p), "*"); isPrefix {
		return strings.HasPrefix(device, prefix)
	}
	return device == string(p)
}

// plain reports whether an interface name can stand in nft text and in a chain
// name as it is. The kernel allows quotes and more.
func plain(device string) bool {
	if device == "" || len(device) > 15 {
		return false
	}
	for _, c := range []byte(device) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func unicast(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.IsGlobalUnicast() && a.Zone() == ""
}
