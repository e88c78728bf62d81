package dhcp6

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/sixacre/sixacre"
)

// What a client is told when it asks, in seconds: the defaults of section 7.6.
const (
	solMaxRT               = 3600
	infMaxRT               = 3600
	informationRefreshTime = 86400
)

// Server is who answers.
type Server struct {
	DUID []byte // without option code and length
	// Behind says that the record may be older than what another replica
	// answered from. What is not in it is then left out of an answer rather than
	// revoked: a client must not lose a new prefix because the server that it
	// happens to renew with has not heard of it.
	Behind bool
}

// Respond appends the answer to a query to dst and returns it, ready to be sent
// to the packet's source at [Query.ReplyPort]. Where there is none it returns
// dst as it was and the reason.
//
// The pod is the one that [Pods.Locate] found. The NIC is nil for a client that
// no record knows; of one that is known only Address, as addr.Complete makes it,
// and Prefixes are read, and not kept, so the caller may use one NIC for all
// queries. Nothing is allocated from a pool here, and nothing changes by an
// answer: whatever the client says, it gets what the record gives its NIC. What
// became of its leases is left in q.Effect.
func Respond(dst []byte, q *Query, server Server, pod *sixacre.Pod, nic *sixacre.NIC) ([]byte, Reason) {
	q.Effect = sixacre.NoEffect
	if why := q.validate(server.DUID); why != Answered {
		return dst, why
	}
	if nic == nil {
		switch q.Type {
		case Solicit, Request, Renew, Rebind:
		default:
			return dst, UnknownClient
		}
		if pod.UnknownClients != sixacre.Refuse {
			return dst, UnknownClient
		}
	}
	a := answer{b: dst, q: q, pod: pod, server: server}
	if nic != nil {
		a.address = nic.Address
		a.prefixes = nic.Prefixes[:min(len(nic.Prefixes), sixacre.MaxPrefixes)]
	}
	var enclosing [MaxRelays]int
	for i := range q.Relays {
		r := &q.Relays[i]
		a.b = AppendRelay(a.b, RelayReply, r.HopCount, r.Link, r.Peer)
		if r.InterfaceID != nil {
			a.b = AppendOption(a.b, OptionInterfaceID, r.InterfaceID)
		}
		if r.SourcePort != nil {
			a.b = AppendOption(a.b, OptionRelaySourcePort, r.SourcePort)
		}
		enclosing[i] = a.open(OptionRelayMessage)
	}
	why := a.message(nic != nil)
	for i := range q.Relays {
		a.shut(enclosing[i])
	}
	switch {
	case why != Answered:
		return dst, why
	case len(a.b)-len(dst) > MaxPayload: // as it is if an option outgrew its length field
		return dst, TooLong
	}
	q.Effect = a.effect
	return a.b, Answered
}

// validate is section 16, as far as it depends on the message type.
func (q *Query) validate(serverID []byte) Reason {
	switch q.Type {
	case Solicit, Confirm, Rebind:
		switch {
		case q.ClientID == nil:
			return NoClientID
		case q.ServerID != nil:
			return UnexpectedServerID
		}
	case Request, Renew, Release, Decline:
		switch {
		case q.ClientID == nil:
			return NoClientID
		case q.ServerID == nil:
			return NoServerID
		case !bytes.Equal(q.ServerID, serverID):
			return OtherServer
		}
	case InformationRequest:
		switch {
		case q.ServerID != nil && !bytes.Equal(q.ServerID, serverID):
			return OtherServer
		case len(q.IAs) > 0 || q.hasIATA:
			return UnexpectedIA
		}
	}
	return Answered
}

// answer is an answer in the making.
type answer struct {
	b        []byte
	q        *Query
	server   Server
	pod      *sixacre.Pod
	address  netip.Addr     // the NIC's, or none
	prefixes []netip.Prefix // the NIC's
	t1, t2   sixacre.Seconds
	effect   sixacre.Effect
}

// message appends the server's message to the client (section 18.3).
func (a *answer) message(known bool) Reason {
	t := Reply
	// A client that is refused has nothing to commit to.
	if a.q.Type == Solicit && (!a.q.RapidCommit || !known) {
		t = Advertise
	}
	a.b = append(a.b, byte(t), a.q.Transaction[0], a.q.Transaction[1], a.q.Transaction[2])
	if a.q.ClientID != nil {
		a.b = AppendOption(a.b, OptionClientID, a.q.ClientID)
	}
	a.b = AppendOption(a.b, OptionServerID, a.server.DUID)
	switch a.q.Type {
	case Solicit, Request, Renew, Rebind:
		if a.q.Type == Solicit && t == Reply {
			a.b = AppendOption(a.b, OptionRapidCommit, nil)
		}
		a.assign(t)
	case Confirm:
		onLink, asked := a.onLink()
		switch {
		case !asked:
			return NothingToConfirm
		case onLink:
			a.status(StatusSuccess, "")
		default:
			a.status(StatusNotOnLink, "not the address of this interface")
		}
		return Answered
	case Release, Decline:
		a.status(StatusSuccess, "")
		a.giveUp()
		return Answered
	}
	a.configuration()
	return Answered
}

// assign appends the IAs of an Advertise, or of the Reply to a Request, Renew or
// Rebind, or to a Solicit with Rapid Commit (sections 18.3.1, 18.3.2, 18.3.4,
// 18.3.5 and 18.3.9).
func (a *answer) assign(t MessageType) {
	extends := a.q.Type == Renew || a.q.Type == Rebind
	revokes := extends && !a.server.Behind
	var offLink uint32 // IAs that name an address of another link, section 18.3.2
	if t == Reply && !extends {
		for i, ia := range a.q.IAs {
			for named, ok := ia.NextAddress(); ok; named, ok = ia.NextAddress() {
				if !named.IsUnspecified() && !a.pod.LinkPrefix.Contains(named) {
					offLink |= 1 << i
				}
			}
		}
	}
	d := newDeal(a.q, a.address, a.prefixes, offLink)
	if d.address >= 0 || d.prefixes[0] >= 0 {
		a.t1, a.t2 = timers(a.pod.PreferredLifetime)
		if t == Reply {
			a.effect = sixacre.Binds
		}
	}
	for i, ia := range a.q.IAs {
		at := a.openIA(ia)
		switch {
		case offLink&(1<<i) != 0:
			a.status(StatusNotOnLink, "not an address of this link")
		case ia.Option == OptionIANA:
			a.assignAddress(ia, d.address == i, revokes)
		default:
			a.assignPrefixes(ia, &d, int8(i), revokes)
		}
		a.shut(at)
	}
}

// assignAddress appends what an IA_NA holds: the NIC's address where it is the
// one that gets it and, where the client wants to go on using others, those with
// lifetimes of 0.
func (a *answer) assignAddress(ia IA, gets, revokes bool) {
	empty := !gets
	if gets {
		a.lease(a.address, a.pod.PreferredLifetime, a.pod.ValidLifetime)
	}
	for named, ok := ia.NextAddress(); ok && revokes; named, ok = ia.NextAddress() {
		if named != a.address && !named.IsUnspecified() {
			a.lease(named, 0, 0)
			empty = false
		}
	}
	if empty {
		a.status(StatusNoAddrsAvail, "no address for this interface")
	}
}

// assignPrefixes is assignAddress for an IA_PD.
func (a *answer) assignPrefixes(ia IA, d *deal, i int8, revokes bool) {
	empty := true
	for k, p := range a.prefixes {
		if d.prefixes[k] == i {
			a.prefix(p, a.pod.PreferredLifetime, a.pod.ValidLifetime)
			empty = false
		}
	}
	for named, ok := ia.NextPrefix(); ok && revokes; named, ok = ia.NextPrefix() {
		if !a.owns(named) && !named.Addr().IsUnspecified() {
			a.prefix(named, 0, 0)
			empty = false
		}
	}
	if empty {
		a.status(StatusNoPrefixAvail, "no prefix for this interface")
	}
}

// onLink reports whether every address of a Confirm is appropriate to the link
// (sections 4.2 and 18.3.3) and whether there was any. In a pod each NIC has
// its one address: any other is not, and the client learns at once that it was
// given a new one.
func (a *answer) onLink() (all, asked bool) {
	all = true
	for _, ia := range a.q.IAs {
		for named, ok := ia.NextAddress(); ok; named, ok = ia.NextAddress() {
			asked = true
			all = all && named == a.address
		}
	}
	return all, asked
}

// giveUp appends the IAs of a Release or Decline in which nothing is the NIC's
// (sections 18.3.7 and 18.3.8), and says what the message comes to as a whole.
func (a *answer) giveUp() {
	var address bool
	var prefixes uint64 // those of the NIC's that are named, by their place
	for _, ia := range a.q.IAs {
		bound := false
		for rest := ia; ; {
			named, ok := rest.NextAddress()
			if !ok {
				break
			}
			if named == a.address {
				bound, address = true, true
			}
		}
		for rest := ia; ; {
			named, ok := rest.NextPrefix()
			if !ok {
				break
			}
			if k := slices.Index(a.prefixes, named); k >= 0 {
				bound = true
				prefixes |= 1 << k
			}
		}
		if !bound {
			at := a.openIA(ia)
			a.status(StatusNoBinding, "not a lease of this interface")
			a.shut(at)
		}
	}
	switch {
	case a.q.Type == Decline:
		if address {
			a.effect = sixacre.Declines
		}
	case (address || a.keepsAddress()) && prefixes == 1<<len(a.prefixes)-1:
		a.effect = sixacre.Releases
	}
}

// keepsAddress reports whether the NIC's address does not count among what a
// client must release to be rid of all: in a slaac pod it stays the guest's with
// or without a lease, unless it is all that the NIC has.
func (a *answer) keepsAddress() bool {
	return a.pod.Addressing == sixacre.SLAAC && len(a.prefixes) > 0
}

func (a *answer) owns(p netip.Prefix) bool { return slices.Contains(a.prefixes, p) }

// configuration appends what the client asks for in its Option Request option
// and the pod has (section 18.3).
func (a *answer) configuration() {
	if len(a.pod.DNS) > 0 && a.q.Asks(OptionDNSServers) {
		at := a.open(OptionDNSServers)
		for _, server := range a.pod.DNS {
			a.b = appendAddr(a.b, server)
		}
		a.shut(at)
	}
	if len(a.pod.Domains) > 0 && a.q.Asks(OptionDomainList) {
		at := a.open(OptionDomainList)
		for _, name := range a.pod.Domains {
			a.b = appendName(a.b, name)
		}
		a.shut(at)
	}
	if a.q.Type == InformationRequest && a.q.Asks(OptionInformationRefreshTime) {
		a.seconds(OptionInformationRefreshTime, informationRefreshTime)
	}
	if a.q.Asks(OptionSolMaxRT) {
		a.seconds(OptionSolMaxRT, solMaxRT)
	}
	if a.q.Asks(OptionInfMaxRT) {
		a.seconds(OptionInfMaxRT, infMaxRT)
	}
}

// timers returns T1 and T2 for leases of that preferred lifetime (sections 21.4
// and 21.21). All leases of a pod have the same, so it is the shortest too.
func timers(preferred sixacre.Seconds) (t1, t2 sixacre.Seconds) {
	if preferred == sixacre.Infinity {
		return sixacre.Infinity, sixacre.Infinity
	}
	return preferred / 2, sixacre.Seconds(uint64(preferred) * 4 / 5)
}

// open appends the header of an option whose length is not known yet and returns
// where its data starts.
func (a *answer) open(code OptionCode) int {
	a.b = binary.BigEndian.AppendUint16(a.b, uint16(code))
	a.b = append(a.b, 0, 0)
	return len(a.b)
}

// shut fills in the length of the option whose data starts there and ends here.
func (a *answer) shut(start int) {
	binary.BigEndian.PutUint16(a.b[start-2:], uint16(len(a.b)-start))
}

func (a *answer) openIA(ia IA) int {
	at := a.open(ia.Option)
	a.b = append(a.b, ia.ID[:]...)
	a.b = binary.BigEndian.AppendUint32(a.b, uint32(a.t1))
	a.b = binary.BigEndian.AppendUint32(a.b, uint32(a.t2))
	return at
}

// lease appends an IA Address option (section 21.6).
func (a *answer) lease(address netip.Addr, preferred, valid sixacre.Seconds) {
	at := a.open(OptionIAAddress)
	a.b = appendAddr(a.b, address)
	a.b = binary.BigEndian.AppendUint32(a.b, uint32(preferred))
	a.b = binary.BigEndian.AppendUint32(a.b, uint32(valid))
	a.shut(at)
}

// prefix appends an IA Prefix option (section 21.22).
func (a *answer) prefix(p netip.Prefix, preferred, valid sixacre.Seconds) {
	at := a.open(OptionIAPrefix)
	a.b = binary.BigEndian.AppendUint32(a.b, uint32(preferred))
	a.b = binary.BigEndian.AppendUint32(a.b, uint32(valid))
	a.b = append(a.b, byte(p.Bits()))
	a.b = appendAddr(a.b, p.Addr())
	a.shut(at)
}

// status appends a Status Code option (section 21.13).
func (a *answer) status(code StatusCode, text string) {
	at := a.open(OptionStatusCode)
	a.b = binary.BigEndian.AppendUint16(a.b, uint16(code))
	a.b = append(a.b, text...)
	a.shut(at)
}

func (a *answer) seconds(code OptionCode, n uint32) {
	at := a.open(code)
	a.b = binary.BigEndian.AppendUint32(a.b, n)
	a.shut(at)
}

func appendAddr(b []byte, address netip.Addr) []byte {
	octets := address.As16()
	return append(b, octets[:]...)
}

// appendName appends a name in the form of RFC 1035 section 3.1, uncompressed
// (section 10).
func appendName(b []byte, name string) []byte {
	for name != "" {
		label, rest, _ := strings.Cut(name, ".")
		b = append(b, byte(len(label)))
		b = append(b, label...)
		name = rest
	}
	return append(b, 0)
}
