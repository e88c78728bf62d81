// Package dhcp6 is the DHCPv6 server without the network: it reads messages,
// finds out which pod and NIC a relayed message speaks for, and builds the
// answer, or says why there is none. It has no sockets, no clock and no memory
// of its own, and it allocates nothing per message.
//
// References are to RFC 9915, which obsoletes RFC 8415, unless another RFC is
// named.
package dhcp6

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// UDP ports (section 7.2).
const (
	ClientPort = 546
	ServerPort = 547 // of servers and relays
)

// Multicast destinations (section 7.1).
var (
	AllRelaysAndServers = netip.AddrFrom16([16]byte{0xff, 0x02, 12: 0, 13: 1, 14: 0, 15: 2}) // ff02::1:2, link scope
	AllServers          = netip.AddrFrom16([16]byte{0xff, 0x05, 12: 0, 13: 1, 14: 0, 15: 3}) // ff05::1:3, site scope
)

// MessageType is the first octet of a message (section 7.3).
type MessageType uint8

const (
	Solicit            MessageType = 1
	Advertise          MessageType = 2
	Request            MessageType = 3
	Confirm            MessageType = 4
	Renew              MessageType = 5
	Rebind             MessageType = 6
	Reply              MessageType = 7
	Release            MessageType = 8
	Decline            MessageType = 9
	Reconfigure        MessageType = 10
	InformationRequest MessageType = 11
	RelayForward       MessageType = 12
	RelayReply         MessageType = 13
	Leasequery         MessageType = 14 // RFC 5007 section 4.1.1
	LeasequeryReply    MessageType = 15 // RFC 5007 section 4.1.1
	LeasequeryDone     MessageType = 16 // RFC 5460 section 5.2.2
	LeasequeryData     MessageType = 17 // RFC 5460 section 5.2.1
)

var messageNames = [...]string{
	Solicit: "solicit", Advertise: "advertise", Request: "request", Confirm: "confirm",
	Renew: "renew", Rebind: "rebind", Reply: "reply", Release: "release",
	Decline: "decline", Reconfigure: "reconfigure", InformationRequest: "information-request",
	RelayForward: "relay-forward", RelayReply: "relay-reply",
	Leasequery: "leasequery", LeasequeryReply: "leasequery-reply",
	LeasequeryDone: "leasequery-done", LeasequeryData: "leasequery-data",
}

func (t MessageType) String() string {
	if int(t) < len(messageNames) && messageNames[t] != "" {
		return messageNames[t]
	}
	return "type-" + strconv.Itoa(int(t))
}

// OptionCode names an option (section 21 and the RFCs given).
type OptionCode uint16

const (
	OptionClientID               OptionCode = 1   // a DUID, section 21.2
	OptionServerID               OptionCode = 2   // a DUID, section 21.3
	OptionIANA                   OptionCode = 3   // section 21.4
	OptionIATA                   OptionCode = 4   // obsolete, section 21.5
	OptionIAAddress              OptionCode = 5   // in an IA_NA, section 21.6
	OptionRequest                OptionCode = 6   // option codes of two octets each, section 21.7
	OptionPreference             OptionCode = 7   // one octet, section 21.8
	OptionElapsedTime            OptionCode = 8   // hundredths of a second, two octets, section 21.9
	OptionRelayMessage           OptionCode = 9   // section 21.10
	OptionAuthentication         OptionCode = 11  // section 21.11
	OptionServerUnicast          OptionCode = 12  // obsolete, section 21.12
	OptionStatusCode             OptionCode = 13  // section 21.13
	OptionRapidCommit            OptionCode = 14  // empty, section 21.14
	OptionUserClass              OptionCode = 15  // section 21.15
	OptionVendorClass            OptionCode = 16  // may repeat, section 21.16
	OptionVendor                 OptionCode = 17  // may repeat, section 21.17
	OptionInterfaceID            OptionCode = 18  // a relay's own octets, section 21.18
	OptionReconfigureMessage     OptionCode = 19  // section 21.19
	OptionReconfigureAccept      OptionCode = 20  // empty, section 21.20
	OptionDNSServers             OptionCode = 23  // addresses, RFC 3646 section 3
	OptionDomainList             OptionCode = 24  // names in the form of RFC 1035, RFC 3646 section 4
	OptionIAPD                   OptionCode = 25  // section 21.21
	OptionIAPrefix               OptionCode = 26  // in an IA_PD, section 21.22
	OptionInformationRefreshTime OptionCode = 32  // seconds, section 21.23
	OptionRemoteID               OptionCode = 37  // enterprise number and octets, RFC 4649 section 3
	OptionQuery                  OptionCode = 44  // query-type, link-address and options, RFC 5007 section 4.1.2.1
	OptionClientData             OptionCode = 45  // options, RFC 5007 section 4.1.2.2
	OptionLastTransaction        OptionCode = 46  // seconds, RFC 5007 section 4.1.2.3
	OptionRelayData              OptionCode = 47  // a relay's address and message, RFC 5007 section 4.1.2.4
	OptionClientLink             OptionCode = 48  // addresses, RFC 5007 section 4.1.2.5
	OptionRelayID                OptionCode = 53  // a relay's DUID, RFC 5460 section 5.4.1
	OptionNTPServer              OptionCode = 56  // one server, may repeat, RFC 5908 section 4
	OptionClientLinkLayer        OptionCode = 79  // hardware type and address, RFC 6939 section 4
	OptionSolMaxRT               OptionCode = 82  // seconds, section 21.24
	OptionInfMaxRT               OptionCode = 83  // seconds, section 21.25
	OptionRelaySourcePort        OptionCode = 135 // the downstream relay's port or 0, RFC 8357 section 5.2
)

// StatusCode is what a Status Code option says (section 21.13).
type StatusCode uint16

const (
	StatusSuccess       StatusCode = 0
	StatusUnspecFail    StatusCode = 1
	StatusNoAddrsAvail  StatusCode = 2
	StatusNoBinding     StatusCode = 3
	StatusNotOnLink     StatusCode = 4
	StatusUseMulticast  StatusCode = 5 // obsolete
	StatusNoPrefixAvail StatusCode = 6

	StatusUnknownQueryType StatusCode = 7  // RFC 5007 section 4.1.3
	StatusMalformedQuery   StatusCode = 8  // RFC 5007 section 4.1.3
	StatusNotConfigured    StatusCode = 9  // RFC 5007 section 4.1.3
	StatusNotAllowed       StatusCode = 10 // RFC 5007 section 4.1.3
	StatusQueryTerminated  StatusCode = 11 // RFC 5460 section 5.5
)

var statusNames = [...]string{
	"Success", "UnspecFail", "NoAddrsAvail", "NoBinding", "NotOnLink", "UseMulticast", "NoPrefixAvail",
	"UnknownQueryType", "MalformedQuery", "NotConfigured", "NotAllowed", "QueryTerminated",
}

func (s StatusCode) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return "Status" + strconv.Itoa(int(s))
}

// HardwareEthernet is the hardware type of Ethernet in DUIDs and in the Client
// Link-Layer Address option (IANA's ARP parameters, RFC 826).
const HardwareEthernet = 1

// Bounds on what is accepted from the network.
const (
	MaxPayload = 65527 // octets of a UDP payload without a jumbogram (RFC 768, RFC 8200)
	MaxRelays  = 32    // nested Relay-forwards; the 8 of section 7.6 binds the relays
	MaxIAs     = 32    // IA_NA and IA_PD options in one message
	MaxLeases  = 256   // IA Address and IA Prefix options in one message

	// A DUID is its type of two octets and 1 to 128 more (section 11.1).
	minDUID, maxDUID = 2 + 1, 2 + 128
)

const (
	messageHeader = 4  // type and transaction id, section 8
	relayHeader   = 34 // type, hop count, link-address and peer-address, section 9
	optionHeader  = 4  // code and length, section 21.1
	iaHeader      = 12 // IAID, T1 and T2, sections 21.4 and 21.21
	addressSize   = 24 // address, preferred and valid lifetime, section 21.6
	prefixSize    = 25 // preferred and valid lifetime, length and prefix, section 21.22
)

// Options is an option area (section 21.1), read option by option with Next.
type Options []byte

// Next takes the first option off the area. It returns false at the end of the
// area; what is then left in it is no whole option.
func (o *Options) Next() (code OptionCode, data []byte, ok bool) {
	b := *o
	if len(b) < optionHeader {
		return 0, nil, false
	}
	end := optionHeader + int(binary.BigEndian.Uint16(b[2:]))
	if end > len(b) {
		return 0, nil, false
	}
	*o = b[end:]
	return OptionCode(binary.BigEndian.Uint16(b)), b[optionHeader:end:end], true
}

// AppendOption appends one option to b. The data is at most 65535 octets long.
func AppendOption(b []byte, code OptionCode, data []byte) []byte {
	b = append(b, byte(code>>8), byte(code), byte(len(data)>>8), byte(len(data)))
	return append(b, data...)
}

// Relay is one level of encapsulation: a Relay-forward or Relay-reply message
// (section 9) and those of its options that matter here. Options that are not
// there are nil. The slices are those of the message read.
type Relay struct {
	Type        MessageType // RelayForward or RelayReply
	HopCount    uint8
	Link        netip.Addr // an address on the client's link, or ::
	Peer        netip.Addr // where the message inside came from, or goes to
	InterfaceID []byte     // option 18
	RemoteID    []byte     // option 37: enterprise number and the octets after it
	LinkLayer   []byte     // option 79: hardware type and address
	SourcePort  []byte     // option 135: two octets
	Message     []byte     // option 9: the message inside

	header []byte // as it was read, of relayHeader octets
}

// Parse reads one level. It returns [Answered], the zero Reason, or what is
// wrong with the message.
func (r *Relay) Parse(b []byte) Reason {
	if len(b) < relayHeader {
		return Truncated
	}
	r.Type, r.HopCount = MessageType(b[0]), b[1]
	r.Link, r.Peer = netip.AddrFrom16([16]byte(b[2:18])), netip.AddrFrom16([16]byte(b[18:34]))
	r.InterfaceID, r.RemoteID, r.LinkLayer, r.SourcePort, r.Message = nil, nil, nil, nil, nil
	r.header = b[:relayHeader]
	rest := Options(b[relayHeader:])
	for {
		code, data, ok := rest.Next()
		if !ok {
			break
		}
		var field *[]byte
		least, most := 0, len(data)
		switch code {
		case OptionRelayMessage:
			field = &r.Message
		case OptionInterfaceID:
			field = &r.InterfaceID
		case OptionRemoteID:
			field, least = &r.RemoteID, 4
		case OptionClientLinkLayer:
			field, least = &r.LinkLayer, 2
		case OptionRelaySourcePort:
			field, least, most = &r.SourcePort, 2, 2
		default:
			continue
		}
		switch {
		case *field != nil:
			return DuplicateOption
		case len(data) < least || len(data) > most:
			return BadOption
		}
		*field = data
	}
	switch {
	case len(rest) != 0:
		return Truncated
	case r.Message == nil:
		return NoRelayMessage
	}
	return Answered
}

// AppendRelay appends the fixed part of a Relay-forward or Relay-reply, which
// its options follow.
func AppendRelay(b []byte, t MessageType, hopCount uint8, link, peer netip.Addr) []byte {
	l, p := link.As16(), peer.As16()
	b = append(b, byte(t), hopCount)
	b = append(b, l[:]...)
	return append(b, p[:]...)
}
