package dhcp6

import (
	"encoding/binary"
	"net/netip"

	"github.com/sixacre/sixacre"
)

// Query is a client's message and the relays that brought it. It is meant to be
// used again for the next message; its slices are those of the payload parsed.
type Query struct {
	Relays      []Relay // outermost first; empty if the client sent it itself
	Type        MessageType
	Transaction [3]byte
	ClientID    []byte // the client's DUID, nil if not given
	ServerID    []byte // the DUID of the server meant, nil if not given
	IAs         []IA   // IA_NA and IA_PD, in the order of the message
	Requested   []byte // the Option Request option: codes of two octets each
	RapidCommit bool

	// Effect is what the message and its answer make of the client's leases:
	// [Respond] sets it.
	Effect sixacre.Effect

	hasIATA   bool
	leases    int
	asked     [4]uint64        // the codes below 256 in Requested, a bit each
	enclosing [MaxRelays]int32 // where in the answer the message inside each relay's begins
	relays    [MaxRelays]Relay
	ias       [MaxIAs]IA
}

// IA is an IA_NA or IA_PD (sections 21.4 and 21.21). What the client writes into
// T1, T2 and lifetimes is of no consequence.
type IA struct {
	Option OptionCode // OptionIANA or OptionIAPD
	ID     [4]byte    // the IAID
	leases Options
}

// NextAddress takes the next address that the client names in an IA_NA off the
// IA. It returns false where there are no more.
func (ia *IA) NextAddress() (netip.Addr, bool) {
	for ia.Option == OptionIANA {
		code, data, ok := ia.leases.Next()
		if !ok {
			break
		}
		if code == OptionIAAddress {
			return netip.AddrFrom16([16]byte(data)), true
		}
	}
	return netip.Addr{}, false
}

// NextPrefix takes the next prefix that the client names in an IA_PD off the IA.
// It returns false where there are no more. The prefix ::/n is a wish for a
// length (RFC 8168).
func (ia *IA) NextPrefix() (netip.Prefix, bool) {
	for ia.Option == OptionIAPD {
		code, data, ok := ia.leases.Next()
		if !ok {
			break
		}
		if code == OptionIAPrefix {
			return netip.PrefixFrom(netip.AddrFrom16([16]byte(data[9:])), int(data[8])).Masked(), true
		}
	}
	return netip.Prefix{}, false
}

// Parse reads the payload of a UDP packet. It returns [Answered], the zero
// Reason, or what is wrong with the message. The payload must not change for as
// long as the query is used.
func (q *Query) Parse(payload []byte) Reason {
	q.Relays, q.IAs = q.relays[:0], q.ias[:0]
	q.ClientID, q.ServerID, q.Requested = nil, nil, nil
	q.RapidCommit, q.hasIATA, q.leases = false, false, 0
	q.Effect = sixacre.NoEffect
	q.asked = [4]uint64{}
	q.Type, q.Transaction = 0, [3]byte{}
	for len(payload) > 0 && MessageType(payload[0]) == RelayForward {
		if len(q.Relays) == MaxRelays {
			return TooMany
		}
		q.Relays = q.Relays[:len(q.Relays)+1]
		level := &q.Relays[len(q.Relays)-1]
		if why := level.Parse(payload); why != Answered {
			return why
		}
		payload = level.Message
	}
	if len(payload) < messageHeader {
		return Truncated
	}
	q.Type = MessageType(payload[0])
	switch q.Type {
	case Advertise, Reply, Reconfigure, RelayReply, LeasequeryReply, LeasequeryDone, LeasequeryData:
		return NotForServers
	case Leasequery:
		// Who answers them gives those that were not relayed to [LeaseLookup.Parse].
		if len(q.Relays) == 0 {
			return LeasequeryOff
		}
		return RelayedLeasequery
	case Solicit, Request, Confirm, Renew, Rebind, Release, Decline, InformationRequest:
	default:
		return UnknownType
	}
	q.Transaction = [3]byte(payload[1:])
	return q.parseOptions(payload[messageHeader:])
}

// forms says of the options of a client's message that are known here how long
// they may be and which may appear once at most (section 21). Options that are
// not may do as they please, 79 and 37 among them: they mean something only at a
// relay's level. So may the obsolete Server Unicast, of which nothing is read.
var forms = [32]optionForm{
	OptionClientID:           {minDUID, maxDUID, true},
	OptionServerID:           {minDUID, maxDUID, true},
	OptionIANA:               {iaHeader, unbounded, false},
	OptionIAPD:               {iaHeader, unbounded, false},
	OptionRequest:            {0, unbounded, true},
	OptionPreference:         {1, 1, true},
	OptionElapsedTime:        {2, 2, true},
	OptionRelayMessage:       {0, unbounded, true},
	OptionAuthentication:     {11, unbounded, true},
	OptionStatusCode:         {2, unbounded, true},
	OptionRapidCommit:        {0, 0, true},
	OptionUserClass:          {0, unbounded, true},
	OptionVendorClass:        {4, unbounded, false},
	OptionVendor:             {4, unbounded, false},
	OptionInterfaceID:        {0, unbounded, true},
	OptionReconfigureMessage: {1, 1, true},
	OptionReconfigureAccept:  {0, 0, true},
}

// optionForm is how long an option may be. The zero form is that of one that is
// not known.
type optionForm struct {
	least, most uint16
	once        bool
}

const unbounded = 0xffff

func (q *Query) parseOptions(rest Options) Reason {
	var seen uint32
	for {
		code, data, ok := rest.Next()
		if !ok {
			break
		}
		if int(code) >= len(forms) || forms[code] == (optionForm{}) {
			q.hasIATA = q.hasIATA || code == OptionIATA
			continue
		}
		form := &forms[code]
		switch {
		case form.once && seen&(1<<code) != 0:
			return DuplicateOption
		case len(data) >= int(form.least) && len(data) <= int(form.most):
		case code == OptionClientID || code == OptionServerID:
			return BadDUID
		default:
			return BadOption
		}
		seen |= 1 << code
		switch code {
		case OptionClientID:
			q.ClientID = data
		case OptionServerID:
			q.ServerID = data
		case OptionIANA, OptionIAPD:
			if why := q.parseIA(code, data); why != Answered {
				return why
			}
		case OptionRequest:
			if len(data)%2 != 0 {
				return BadOption
			}
			q.Requested = data
			for b := data; len(b) >= 2; b = b[2:] {
				if b[0] == 0 {
					q.asked[b[1]/64] |= 1 << (b[1] % 64)
				}
			}
		case OptionRapidCommit:
			q.RapidCommit = true
		}
	}
	if len(rest) != 0 {
		return Truncated
	}
	return Answered
}

func (q *Query) parseIA(code OptionCode, data []byte) Reason {
	if len(q.IAs) == MaxIAs {
		return TooMany
	}
	rest := Options(data[iaHeader:])
	q.IAs = append(q.IAs, IA{Option: code, ID: [4]byte(data), leases: rest})
	status := false
	for {
		inner, data, ok := rest.Next()
		if !ok {
			break
		}
		var size int
		switch {
		case code == OptionIANA && inner == OptionIAAddress:
			size = addressSize
		case code == OptionIAPD && inner == OptionIAPrefix:
			size = prefixSize
		case inner == OptionStatusCode && status:
			return DuplicateOption
		default:
			status = status || inner == OptionStatusCode
			continue
		}
		if q.leases++; q.leases > MaxLeases {
			return TooMany
		}
		if len(data) < size || size == prefixSize && data[8] > 128 {
			return BadOption
		}
		if why := parseLeaseOptions(data[size:]); why != Answered {
			return why
		}
	}
	if len(rest) != 0 {
		return Truncated
	}
	return Answered
}

// parseLeaseOptions reads what is inside an IA Address or IA Prefix option.
func parseLeaseOptions(rest Options) Reason {
	status := false
	for {
		code, _, ok := rest.Next()
		switch {
		case !ok && len(rest) != 0:
			return Truncated
		case !ok:
			return Answered
		case code == OptionStatusCode && status:
			return DuplicateOption
		}
		status = status || code == OptionStatusCode
	}
}

// Asks reports whether the client's Option Request option names the code
// (section 21.7).
func (q *Query) Asks(code OptionCode) bool {
	if code < 256 {
		return q.asked[code/64]&(1<<(code%64)) != 0
	}
	for b := q.Requested; len(b) >= 2; b = b[2:] {
		if OptionCode(binary.BigEndian.Uint16(b)) == code {
			return true
		}
	}
	return false
}

// ReplyPort returns the UDP port of the relay that the answer goes to: 547
// (section 7.2), or the packet's own source port where the outermost relay says
// that it sends from another (RFC 8357 section 5.2).
func (q *Query) ReplyPort(source uint16) uint16 {
	if len(q.Relays) > 0 && q.Relays[0].SourcePort != nil {
		return source
	}
	return ServerPort
}
