package firewall

import "fmt"

// Reason is why the filter dropped a packet. The number is in the packet's mark
// when it is counted and logged, and in the counters' key.
type Reason uint32

// Reasons for dropping what came from a port, and what was to go to one.
const (
	NotProgrammed Reason = iota + 1
	WrongSource
	WrongEthertype
	WrongUnspecified
	WrongLinkLocal
	DHCPv6Server
	RoutingHeader0
	BadHeaderChain
	WrongICMPv6
	WrongNS
	WrongNA
	WrongRS
	WrongMLD
	DHCPv6Rate
	NDRate
	MLDRate
	ReservedGroup
	InvalidState
	NoRule
	FragmentedND
	FromElsewhere
	NotForGuest
	UnaskedMulticast
	WrongError
	ErrorRate
	OffLink
	Redirect
	TooManyConnections
	CutConnection
)

var reasons = map[Reason]struct{ name, text string }{
	NotProgrammed:      {"not-programmed", "tap that is not programmed"},
	WrongSource:        {"source", "MAC or source address not its own"},
	WrongEthertype:     {"ethertype", "VLAN tag, 802.3, other ethertype"},
	WrongUnspecified:   {"unspecified", "source :: for other than DAD, RS and MLD"},
	WrongLinkLocal:     {"link-local", "link-local: neither ICMPv6 nor the DHCPv6 exchange"},
	DHCPv6Server:       {"dhcpv6-server", "DHCPv6 server or relay, or a head without ports"},
	RoutingHeader0:     {"routing-header", "routing header type 0 (RFC 5095), or two of them"},
	BadHeaderChain:     {"header-chain", "header chain that ends nowhere (RFC 7112)"},
	WrongICMPv6:        {"icmpv6-type", "ICMPv6 type that is not for it to send or receive"},
	WrongNS:            {"ns", "NS malformed, or for or with what is not its own"},
	WrongNA:            {"na", "NA malformed, or for or with what is not its own"},
	WrongRS:            {"rs", "RS malformed or with a MAC not its own"},
	WrongMLD:           {"mld", "MLD malformed, fragmented or not a report"},
	DHCPv6Rate:         {"dhcpv6-rate", "more DHCPv6 than a client sends"},
	NDRate:             {"nd-rate", "more ND than a host sends"},
	MLDRate:            {"mld-rate", "more MLD than a host sends"},
	ReservedGroup:      {"reserved-group", "to a reserved group: not a guest's to send"},
	InvalidState:       {"invalid", "belongs to no connection"},
	NoRule:             {"no-rule", "no rule allows it"},
	FragmentedND:       {"fragmented-nd", "fragmented ND (RFC 6980) or a header chain that ends nowhere"},
	FromElsewhere:      {"from-elsewhere", "from the uplink, with an address that a guest here holds"},
	NotForGuest:        {"not-for-guest", "to an address that the guest does not hold"},
	UnaskedMulticast:   {"multicast", "multicast that nobody asked for"},
	WrongError:         {"icmpv6-error", "ICMPv6 error about a packet that the guest cannot have sent"},
	ErrorRate:          {"icmpv6-error-rate", "more ICMPv6 errors than one guest needs"},
	OffLink:            {"off-link", "ND or MLD from off the link"},
	Redirect:           {"redirect", "redirect"},
	CutConnection:      {"cut", "of a connection that ended with the rule that had allowed it"},
	TooManyConnections: {"connections", "more connections than one guest may have"},
}

// String is the reason's short name, such as source or no-rule.
func (r Reason) String() string {
	if known, ok := reasons[r]; ok {
		return known.name
	}
	return fmt.Sprintf("reason %d", uint32(r))
}

// Text says the reason in a few words, as the rule's comment does.
func (r Reason) Text() string { return reasons[r].text }

// drop is what a rule does to a packet that it drops: it has the packet counted
// for its port and the reason.
func (r Reason) drop(chain string) string {
	return fmt.Sprintf("meta mark set %d goto %s comment %q", uint32(r), chain, r.Text())
}

// named finds the reason by its short name. It is for the embedded text only.
func named(name string) Reason {
	for r, known := range reasons {
		if known.name == name {
			return r
		}
	}
	panic("no reason " + name)
}
