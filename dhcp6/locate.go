package dhcp6

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
)

// Pods says which relays speak for which pods. It does not change once made, so
// any number of readers may share it.
type Pods struct {
	pods   []*Pod
	relays map[[16]byte]speaker // by address
	links  map[uint64][]int     // the pods, by their place, on the link whose addresses begin so
	names  map[string][]int     // the pods of an interface-id
}

type speaker struct {
	pods  []int // of which it is a relay, by their place, in order
	guest bool  // its address is one that a guest can send from
}

func (s speaker) speaksFor(pod int) bool {
	_, does := slices.BinarySearch(s.pods, pod)
	return does
}

// NewPods makes the directory of all pods. Pods that another DHCPv6 server
// answers are left out. guest reports whether an address is that of a NIC: such
// an address is never a relay, nor is one inside a pool, whatever a pod says.
func NewPods(pods []sixacre.Pod, guest func(netip.Addr) bool) *Pods {
	p := &Pods{relays: map[[16]byte]speaker{}, links: map[uint64][]int{}, names: map[string][]int{}}
	for i, pod := range pods {
		p.pods = append(p.pods, NewPod(pod))
		if pod.DHCP == sixacre.Kea {
			continue
		}
		p.links[p.pods[i].link] = append(p.links[p.pods[i].link], i)
		for _, id := range pod.InterfaceIDs {
			p.names[id] = append(p.names[id], i)
		}
		for _, a := range pod.Relays {
			s, known := p.relays[a.As16()]
			if !known {
				s.guest = guest(a) || slices.ContainsFunc(pods, func(pod sixacre.Pod) bool {
					return slices.ContainsFunc(pod.Pools, func(pool sixacre.Pool) bool { return pool.Prefix.Contains(a) })
				})
			}
			if !s.speaksFor(i) {
				s.pods = append(s.pods, i)
			}
			p.relays[a.As16()] = s
		}
	}
	return p
}

// IsRelay reports whether some pod names the address as its relay.
func (p *Pods) IsRelay(a netip.Addr) bool {
	_, is := p.relays[a.As16()]
	return is
}

// OfRelay returns the pods, by their place, of which the address is a relay, or why
// it is that of none.
func (p *Pods) OfRelay(a netip.Addr) ([]int, Reason) {
	s, known := p.relays[a.As16()]
	switch {
	case !known:
		return nil, UntrustedRelay
	case s.guest:
		return nil, GuestAsRelay
	}
	return s.pods, Answered
}

// At returns the pod at a place.
func (p *Pods) At(n int) *sixacre.Pod { return &p.pods[n].Pod }

// Client is whom a relayed message comes from, as far as its relays vouch.
type Client struct {
	Pod  *Pod
	N    int // which one the pod is of those that NewPods was given
	MAC  sixacre.MAC
	By   sixacre.Identifier // what told the MAC
	Link netip.Addr         // the link-address that the relay gave, or ::
	Peer netip.Addr         // the address that the client sent from
	// Mismatch says that the client's DUID carries another MAC. That is common
	// (a DUID outlives the NIC it was made from) and changes nothing.
	Mismatch bool
}

// Locate finds the client of a query that came in a packet from source. It walks
// inward from there: the sender of the outermost Relay-forward is the packet's
// source, and that of each one inside is the peer-address of the one around it.
// All of them must be relays of the same pod, or else someone else, a guest for
// one, made a Relay-forward of their own, and the message says nothing. Then the
// innermost relay saw the client itself: its link-address or interface-id tells
// the pod and its options the MAC.
func (p *Pods) Locate(q *Query, source netip.Addr) (client Client, why Reason) {
	if len(q.Relays) == 0 {
		return Client{}, Unrelayed
	}
	outermost, known := p.relays[source.As16()]
	switch {
	case !known:
		return Client{}, UntrustedRelay
	case outermost.guest:
		return Client{}, GuestAsRelay
	}
	for i := range q.Relays[1:] {
		switch sender, known := p.relays[q.Relays[i].Peer.As16()]; {
		case !known:
			return Client{}, ForgedRelay
		case sender.guest:
			return Client{}, GuestAsRelay
		}
	}
	relay := &q.Relays[len(q.Relays)-1]
	named := p.names[string(relay.InterfaceID)]
	seen := named
	if namesLink(relay.Link) {
		seen = p.links[firstHalf(relay.Link)]
	}
	for _, n := range seen {
		if !p.vouched(q, outermost, n) {
			continue
		}
		if client.Pod != nil {
			return Client{}, AmbiguousPod
		}
		client.Pod, client.N = p.pods[n], n
	}
	if client.Pod == nil {
		if !slices.ContainsFunc(outermost.pods, func(n int) bool { return p.vouched(q, outermost, n) }) {
			return Client{}, ForgedRelay
		}
		return Client{}, UnknownLink
	}
	if len(named) > 0 && !slices.Contains(named, client.N) &&
		slices.ContainsFunc(named, func(n int) bool { return p.vouched(q, outermost, n) }) {
		return Client{}, AmbiguousPod
	}
	client.Link, client.Peer = relay.Link, relay.Peer
	if why := client.identify(q, relay); why != Answered {
		return Client{}, why
	}
	return client, Answered
}

// namesLink reports whether a link-address tells the link. A link-local one, of a
// relay that has no other there, tells no more than :: does (section 19.1.1).
func namesLink(link netip.Addr) bool { return !link.IsUnspecified() && !link.IsLinkLocalUnicast() }

// vouched reports whether every Relay-forward was sent by a relay of the pod.
func (p *Pods) vouched(q *Query, outermost speaker, pod int) bool {
	if !outermost.speaksFor(pod) {
		return false
	}
	for i := range q.Relays[1:] {
		if !p.relays[q.Relays[i].Peer.As16()].speaksFor(pod) {
			return false
		}
	}
	return true
}

// identify learns the MAC in the order that the pod gives. What a relay vouches
// for comes before what the client says of itself, whatever the order.
func (c *Client) identify(q *Query, relay *Relay) Reason {
	type identity struct {
		by   sixacre.Identifier
		mac  sixacre.MAC
		torn bool // others tell another MAC
	}
	var vouched, claimed identity
	own, owns := addr.DUIDMAC(q.ClientID)
	for _, by := range c.Pod.Identify {
		var mac sixacre.MAC
		var told bool
		learns := &vouched
		switch by {
		case sixacre.ByClientLinkLayer:
			mac, told = linkLayerMAC(relay.LinkLayer)
		case sixacre.ByRemoteID:
			mac, told = remoteIDMAC(c.Pod.RemoteIDFormat, relay.RemoteID)
			if c.Pod.RemoteIDFormat.Untrusted() {
				learns = &claimed
			}
		case sixacre.ByDUID:
			mac, told, learns = own, owns, &claimed
		}
		switch {
		case !told:
		case learns.by == "":
			learns.by, learns.mac = by, mac
		case learns.mac != mac:
			learns.torn = true
		}
	}
	known := &vouched
	if vouched.by == "" {
		known = &claimed
	}
	switch {
	case known.by == "":
		return NoIdentity
	case known.torn:
		return Contradiction
	}
	c.By, c.MAC = known.by, known.mac
	c.Mismatch = owns && own != c.MAC
	return Answered
}

// linkLayerMAC reads a Client Link-Layer Address option (RFC 6939 section 4):
// the hardware type and, of Ethernet, six octets.
func linkLayerMAC(b []byte) (sixacre.MAC, bool) {
	if len(b) != 8 || b[0] != 0 || b[1] != HardwareEthernet {
		return sixacre.MAC{}, false
	}
	return usable(sixacre.MAC(b[2:]))
}

// remoteIDMAC reads a Remote-ID option (RFC 4649 section 3) in the pod's format.
func remoteIDMAC(format sixacre.RemoteIDFormat, b []byte) (sixacre.MAC, bool) {
	if len(b) < 4 {
		return sixacre.MAC{}, false
	}
	id := b[4:]
	switch format {
	case sixacre.RemoteIDRaw:
		if len(id) == 6 {
			return usable(sixacre.MAC(id))
		}
	case sixacre.RemoteIDDUID:
		return addr.DUIDMAC(id)
	case sixacre.RemoteIDHuawei:
		var octets [maxDUID]byte
		text, _, found := bytes.Cut(id, []byte{' '})
		if n := hex.DecodedLen(len(text)); found && n <= len(octets) {
			if _, err := hex.Decode(octets[:n], text); err == nil {
				return addr.DUIDMAC(octets[:n])
			}
		}
	}
	return sixacre.MAC{}, false
}

// usable refuses what no NIC has: the zero address and group addresses.
func usable(mac sixacre.MAC) (sixacre.MAC, bool) {
	return mac, mac != sixacre.MAC{} && mac[0]&1 == 0
}
