package sixacre

import "net/netip"

// RouteProtocol is the protocol number of every kernel route that is ours
// (rtnetlink's rtm_protocol). Routes with another number are never touched.
const RouteProtocol = 166

// Route leads a delegated prefix to its holder. With no next hop it is the
// unreachable route that keeps a pool's unheld prefixes from looping.
type Route struct {
	Prefix  netip.Prefix `json:"prefix"`
	NextHop netip.Addr   `json:"nextHop,omitzero"`
}

// Peer is a BGP neighbour of a pod.
type Peer struct {
	Name    string     `json:"name" required:"true" example:"r1"`
	Pod     string     `json:"pod" required:"true" example:"pod1"`
	Address netip.Addr `json:"address" required:"true" example:"2001:db8:100:1::1"`
	ASN     uint32     `json:"asn" required:"true" format:"int64" example:"64512"`
}

// Validate refuses a peer that no session could reach.
func (p Peer) Validate() error {
	if err := ValidateName("peer", p.Name); err != nil {
		return err
	}
	switch a := p.Address; {
	case !a.IsValid() || a.IsMulticast() || a.IsUnspecified() || a.Zone() != "":
		return Errorf(Invalid, "peer %s: address %s is not a unicast address: give the neighbour's", p.Name, a)
	case p.ASN == 0:
		return Errorf(Invalid, "peer %s: asn 0 is reserved (RFC 7607): give the neighbour's", p.Name)
	}
	return nil
}
