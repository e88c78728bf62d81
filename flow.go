package sixacre

import "net/netip"

// Flow is a tracked connection by its first packet.
type Flow struct {
	Zone                        uint16 // conntrack zone
	Protocol                    Protocol
	Source, Destination         netip.Addr
	SourcePort, DestinationPort uint16 // of protocols that have ports, else 0
	ICMPType, ICMPCode          uint8  // of ICMPv6, else 0
}
