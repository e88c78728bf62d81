package sixacre

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// DUID is a DHCP Unique Identifier, its type included (RFC 9915 section 11).
type DUID = Octets

// Effect is what a client's message and the server's answer make of its leases.
type Effect uint8

const (
	NoEffect Effect = iota
	Binds           // a Reply gave or extended at least one lease
	Releases        // the client gave back all that its NIC holds
	Declines        // the client found another on the link with its address
)

// Glimpse is what one message told of the DHCPv6 client behind a NIC. One
// without a DUID tells nothing new but the message, its time and its relay.
type Glimpse struct {
	Pod     string
	MAC     MAC
	Time    time.Time
	Message string // its type, such as renew
	Effect  Effect
	DUID    DUID
	Relay   netip.Addr // the trusted relay that the client's message came to
	Peer    netip.Addr // the address that the client sent from
	// Link and InterfaceID are those of the relay's own Relay-forward. Link is
	// invalid where that was not kept.
	Link        netip.Addr
	InterfaceID Octets
	// Declined is the address that the client declined, where Effect is Declines:
	// the NIC's when the server answered.
	Declined netip.Addr
}

const (
	// MaxPaths is how many of its relays a sighting remembers.
	MaxPaths = 8
	// MaxInterfaceID is how many octets of an Interface-Id it remembers.
	MaxInterfaceID = 64
)

// Sighting is what the DHCPv6 servers last saw of the client behind a NIC. It
// follows from what clients sent: nothing is decided by it but what leasequery
// tells and, in a dhcpv6 pod, the replacement of a declined address.
type Sighting struct {
	Pod     string    `json:"pod"`
	MAC     MAC       `json:"mac"`
	Message string    `json:"message" doc:"Type of the last message" example:"renew"`
	Time    time.Time `json:"time" doc:"Time of the last message, to within some minutes"`
	DUID    DUID      `json:"duid" doc:"The client's DUID, hexadecimal"`
	Paths   []Path    `json:"paths" doc:"The relays that brought its messages, the latest first"`
	// Bound is when a Reply last gave or extended a lease; zero where none did or
	// the client released all since.
	Bound    time.Time `json:"bound,omitzero" doc:"When a lease was last given or extended; absent after a release"`
	Released time.Time `json:"released,omitzero" doc:"When the client last gave back all that the NIC holds"`
	Declined *Decline  `json:"declined,omitempty" doc:"The last address that the client declined"`
}

// Path is a way by which a client's messages came.
type Path struct {
	Relay netip.Addr `json:"relay" doc:"The trusted relay nearest to the client"`
	Peer  netip.Addr `json:"peer" doc:"The address that the client sent from"`
	Time  time.Time  `json:"time"`
	// Link and InterfaceID are what leasequery tells of the Relay-forward that the
	// relay made of the client's message. One whose Interface-Id is empty or has more
	// than MaxInterfaceID octets is not kept: a part would not be what was sent.
	Link        netip.Addr `json:"link,omitzero" doc:"The link-address that the relay gave, :: if none; absent where its Interface-Id was empty or longer than 64 octets"`
	InterfaceID Octets     `json:"interfaceId,omitempty" doc:"The Interface-Id (option 18) that the relay gave, hexadecimal" example:"65746830"`
}

// compare is which of two paths through one relay the other gives way to.
func (p Path) compare(q Path) int {
	return cmp.Or(p.Time.Compare(q.Time), p.Peer.Compare(q.Peer), p.Link.Compare(q.Link), bytes.Compare(p.InterfaceID, q.InterfaceID))
}

// Decline is a client's finding that another on the link has its address
// (RFC 9915 section 18.3.8).
type Decline struct {
	Address  netip.Addr `json:"address"`
	Time     time.Time  `json:"time"`
	Replaced bool       `json:"replaced,omitempty" doc:"Whether the NIC was given another address"`
}

// Merge returns s with what a glimpse of the same NIC tells. The later wins, and of
// two at once the greater value: in which order the news come, how often, and
// through how many servers makes no difference to what they end in. What comes
// without a DUID only renews what was told before.
func (s Sighting) Merge(g Glimpse) Sighting {
	g.Time = g.Time.UTC().Truncate(time.Millisecond) // as the store keeps it
	s.Pod, s.MAC = g.Pod, g.MAC
	if cmp.Or(g.Time.Compare(s.Time), cmp.Compare(g.Message, s.Message)) > 0 {
		s.Time, s.Message = g.Time, g.Message
	}
	if len(g.DUID) > 0 {
		// The DUID is what came by the latest path.
		var told time.Time
		if len(s.Paths) > 0 {
			told = s.Paths[0].Time
		}
		if cmp.Or(g.Time.Compare(told), bytes.Compare(g.DUID, s.DUID)) > 0 {
			s.DUID = g.DUID
		}
		s.Paths = mergePath(s.Paths, Path{Relay: g.Relay, Peer: g.Peer, Time: g.Time, Link: g.Link, InterfaceID: g.InterfaceID})
	} else if at := slices.IndexFunc(s.Paths, func(p Path) bool { return p.Relay == g.Relay }); at >= 0 {
		p := s.Paths[at]
		p.Time = g.Time
		s.Paths = mergePath(s.Paths, p)
	}
	if s.Paths == nil {
		s.Paths = []Path{}
	}
	switch g.Effect {
	case Binds:
		s.Bound = later(s.Bound, g.Time)
	case Releases:
		s.Released = later(s.Released, g.Time)
	case Declines:
		d := Decline{Address: g.Declined, Time: g.Time}
		if s.Declined == nil || cmp.Or(d.Time.Compare(s.Declined.Time), d.Address.Compare(s.Declined.Address)) > 0 {
			d.Replaced = s.Declined != nil && s.Declined.Replaced && s.Declined.Address == d.Address
			s.Declined = &d
		}
	}
	if !s.Bound.After(s.Released) {
		s.Bound = time.Time{}
	}
	return s
}

// mergePath returns the paths with p in place of an older one through its relay,
// the latest first, and no more than are remembered.
func mergePath(paths []Path, p Path) []Path {
	paths = slices.Clone(paths)
	at := slices.IndexFunc(paths, func(have Path) bool { return have.Relay == p.Relay })
	switch {
	case at < 0:
		paths = append(paths, p)
	case p.compare(paths[at]) > 0:
		paths[at] = p
	}
	slices.SortFunc(paths, func(a, b Path) int { return cmp.Or(b.Time.Compare(a.Time), b.Relay.Compare(a.Relay)) })
	return paths[:min(len(paths), MaxPaths)]
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (s Sighting) Key() Key { return SightingKey(s.Pod, s.MAC) }

// SightingKey names what was seen of a NIC.
func SightingKey(pod string, mac MAC) Key {
	return Key{KindSighting, SightingsIn(pod) + mac.String()}
}

// SightingsIn is what the names of all sightings in a pod start with.
func SightingsIn(pod string) string { return pod + "/" }
