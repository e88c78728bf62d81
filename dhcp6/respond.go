package dhcp6

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/sixacre/sixacre"
)

// Server is who answers.
type Server struct {
	DUID []byte // without option code and length
	// Behind says that the record may be older than what another replica
	// answered from. What is not in it is then left out of an answer rather than
	// revoked, except an address of another link: a client must not lose a new
	// prefix because the server that it happens to renew with has not heard of it.
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
func Respond(dst []byte, q *Query, server Server, pod *Pod, nic *sixacre.NIC) ([]byte, Reason) {
	q.Effect = sixacre.NoEffect
	if why := q.validate(server.DUID); why != Answered {
		return dst, why
	}
	if nic == nil {
		// Without a record there is nothing to confirm by or to configure.
		if pod.UnknownClients != sixacre.Refuse || q.Type == Confirm || q.Type == InformationRequest {
			return dst, UnknownClient
		}
	}
	a := answer{b: dst, q: q, pod: pod, server: server}
	if nic != nil {
		a.address = nic.Address
		a.prefixes = nic.Prefixes[:min(len(nic.Prefixes), sixacre.MaxPrefixes)]
	}
	for i := range q.Relays {
		// All that a relay finds its way back by is as it was (section 19.3).
		r := &q.Relays[i]
		at := len(a.b)
		a.b = append(a.b, r.header...)
		a.b[at] = byte(RelayReply)
		if r.InterfaceID != nil {
			a.b = AppendOption(a.b, OptionInterfaceID, r.InterfaceID)
		}
		if r.SourcePort != nil {
			a.b = AppendOption(a.b, OptionRelaySourcePort, r.SourcePort)
		}
		q.enclosing[i] = int32(a.open(OptionRelayMessage))
	}
	why := a.message(nic != nil)
	for i := range q.Relays {
		a.shut(int(q.enclosing[i]))
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
	pod      *Pod
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
		switch {
		case t == Advertise && a.pod.Preference != 0: // none says 0 too, section 18.2.9
			a.b = append(a.b, 0, byte(OptionPreference), 0, 1, a.pod.Preference)
		case a.q.Type == Solicit && t == Reply:
			a.b = AppendOption(a.b, OptionRapidCommit, nil)
		}
		a.assign(t)
	case Confirm:
		return a.confirm()
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
	var offLink uint32 // IAs that name an address of another link, section 18.3.2
	if t == Reply && !extends {
		for i := range a.q.IAs {
			ia := a.q.IAs[i]
			for named, ok := ia.NextAddress(); ok; named, ok = ia.NextAddress() {
				if !named.IsUnspecified() && !a.pod.onLink(named) {
					offLink |= 1 << i
				}
			}
		}
	}
	d := newDeal(a.q, a.address, a.prefixes, offLink)
	if d.address >= 0 || len(a.prefixes) > 0 && d.prefixes[0] >= 0 {
		a.t1, a.t2 = a.pod.t1, a.pod.t2
		if t == Reply {
			a.effect = sixacre.Binds
		}
	}
	var holding uint32 // IAs that hold something in the answer
	for i := range a.q.IAs {
		ia := &a.q.IAs[i]
		start := len(a.b)
		at := a.openIA(ia)
		var holds bool
		if ia.Option == OptionIANA {
			holds = a.assignAddress(ia, d.address == i, extends)
		} else {
			holds = a.assignPrefixes(ia, &d, int8(i), extends)
		}
		switch {
		case holds:
			holding |= 1 << i
		case a.q.repeats(i, holding):
			a.b = a.b[:start]
			continue
		case offLink&(1<<i) != 0:
			a.status(StatusNotOnLink, "not an address of this link")
		case ia.Option == OptionIANA:
			a.status(StatusNoAddrsAvail, "no address for this interface")
		default:
			a.status(StatusNoPrefixAvail, "no prefix for this interface")
		}
		a.shut(at)
	}
}

// repeats reports whether another IA of the i'th's kind and IAID is among those
// that hold something, or still to come. IAIDs are to be unique (section 21.4), but
// Windows has been seen to renew one twice. It must not hear beside its address
// that there is none for that IAID.
func (q *Query) repeats(i int, holding uint32) bool {
	for j := range q.IAs {
		if j != i && (j > i || holding&(1<<j) != 0) && q.IAs[j].Option == q.IAs[i].Option && q.IAs[j].ID == q.IAs[i].ID {
			return true
		}
	}
	return false
}

// assignAddress appends what an IA_NA holds, and reports whether that is
// anything: the NIC's address where it is the one that gets it and, where the
// client wants to go on using others, those with lifetimes of 0.
func (a *answer) assignAddress(ia *IA, gets, extends bool) bool {
	if gets {
		a.lease(a.address, a.pod.lifetimes)
	}
	holds := gets
	if extends {
		rest := *ia
		for named, ok := rest.NextAddress(); ok; named, ok = rest.NextAddress() {
			if named == a.address || named.IsUnspecified() || a.server.Behind && a.pod.onLink(named) {
				continue
			}
			a.lease(named, revoked)
			holds = true
		}
	}
	return holds
}

// assignPrefixes is assignAddress for an IA_PD.
func (a *answer) assignPrefixes(ia *IA, d *deal, i int8, extends bool) bool {
	holds := false
	for k := range a.prefixes {
		if d.prefixes[k] == i {
			a.prefix(a.prefixes[k], a.pod.lifetimes)
			holds = true
		}
	}
	// A server that is behind may not have heard of the pod's latest pool either,
	// so to it no prefix is wrong for certain, as an address of another link is.
	if extends && !a.server.Behind {
		rest := *ia
		for named, ok := rest.NextPrefix(); ok; named, ok = rest.NextPrefix() {
			if !a.owns(named) && !named.Addr().IsUnspecified() {
				a.prefix(named, revoked)
				holds = true
			}
		}
	}
	return holds
}

// confirm says whether every address of a Confirm is appropriate to the link
// (sections 4.2 and 18.3.3). In a pod each NIC has its one address: any other is
// not, and the client learns at once that it was given a new one.
func (a *answer) confirm() Reason {
	asked, wrong, unsure := false, false, false
	for i := range a.q.IAs {
		ia := a.q.IAs[i]
		for named, ok := ia.NextAddress(); ok; named, ok = ia.NextAddress() {
			asked = true
			switch {
			case named == a.address:
			case a.server.Behind && a.pod.Addressing == sixacre.DHCPv6 && a.pod.onLink(named):
				unsure = true // a replica may have given it since
			default:
				wrong = true
			}
		}
	}
	switch {
	case !asked:
		return NothingToConfirm
	case wrong:
		a.status(StatusNotOnLink, "not the address of this interface")
	case unsure:
		return CannotConfirm
	default:
		a.status(StatusSuccess, "")
	}
	return Answered
}

// giveUp appends the IAs of a Release or Decline in which nothing is the NIC's
// (sections 18.3.7 and 18.3.8), and says what the message comes to as a whole.
func (a *answer) giveUp() {
	var address bool
	var prefixes uint64 // those of the NIC's that are named, by their place
	for i := range a.q.IAs {
		ia := &a.q.IAs[i]
		bound := false
		for rest := *ia; ; {
			named, ok := rest.NextAddress()
			if !ok {
				break
			}
			if named == a.address {
				bound, address = true, true
			}
		}
		for rest := *ia; ; {
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
	for i := range a.pod.options {
		o := &a.pod.options[i]
		switch {
		case !a.q.Asks(o.code):
		case o.code == OptionInformationRefreshTime && a.q.Type != InformationRequest: // section 21.23
		default:
			a.b = append(a.b, o.bytes...)
		}
	}
}

// open appends the header of an option whose length is not known yet and returns
// where its data starts.
func (a *answer) open(code OptionCode) int {
	a.b = append(a.b, byte(code>>8), byte(code), 0, 0)
	return len(a.b)
}

// shut fills in the length of the option whose data starts there and ends here.
func (a *answer) shut(start int) {
	binary.BigEndian.PutUint16(a.b[start-2:], uint16(len(a.b)-start))
}

// extend makes the answer longer and returns the octets that it grew by, which
// are to be written.
func (a *answer) extend(n int) []byte {
	at := len(a.b)
	a.b = slices.Grow(a.b, n)[:at+n]
	return a.b[at:]
}

// header writes the code and length of an option of which b has room for all.
func header(b []byte, code OptionCode) {
	binary.BigEndian.PutUint32(b, uint32(code)<<16|uint32(len(b)-optionHeader))
}

func (a *answer) openIA(ia *IA) int {
	b := a.extend(optionHeader + iaHeader)
	header(b, ia.Option)
	copy(b[4:], ia.ID[:])
	binary.BigEndian.PutUint32(b[8:], uint32(a.t1))
	binary.BigEndian.PutUint32(b[12:], uint32(a.t2))
	return len(a.b) - iaHeader
}

// revoked is the preferred and valid lifetime of a lease that is one no more.
var revoked [8]byte

// lease appends an IA Address option (section 21.6).
func (a *answer) lease(address netip.Addr, lifetimes [8]byte) {
	b := a.extend(optionHeader + addressSize)
	header(b, OptionIAAddress)
	putAddr(b[4:], address)
	copy(b[20:], lifetimes[:])
}

// prefix appends an IA Prefix option (section 21.22).
func (a *answer) prefix(p netip.Prefix, lifetimes [8]byte) {
	b := a.extend(optionHeader + prefixSize)
	header(b, OptionIAPrefix)
	copy(b[4:], lifetimes[:])
	b[12] = byte(p.Bits())
	putAddr(b[13:], p.Addr())
}

// status appends a Status Code option (section 21.13).
func (a *answer) status(code StatusCode, text string) {
	at := a.open(OptionStatusCode)
	a.b = binary.BigEndian.AppendUint16(a.b, uint16(code))
	a.b = append(a.b, text...)
	a.shut(at)
}

// putAddr writes an address in halves: to copy the array at once would wait for
// the two stores that it was just made by.
func putAddr(b []byte, address netip.Addr) {
	octets := address.As16()
	binary.BigEndian.PutUint64(b, binary.BigEndian.Uint64(octets[:8]))
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(octets[8:]))
}
