package dhcp6

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/sixacre/sixacre"
)

// QueryType is what a LEASEQUERY looks for (RFC 5007 section 4.1.2.1, RFC 5460
// section 5.3).
type QueryType uint8

const (
	QueryByAddress     QueryType = 1 // who has the address, or a prefix that contains it
	QueryByClientID    QueryType = 2 // what the client with the DUID has
	QueryByRelayID     QueryType = 3 // what came through the relay with the DUID; over TCP only
	QueryByLinkAddress QueryType = 4 // all on a link; over TCP only
	QueryByRemoteID    QueryType = 5 // what has the Remote-ID; over TCP only
)

var queryTypeNames = [...]string{
	QueryByAddress: "address", QueryByClientID: "client-id", QueryByRelayID: "relay-id",
	QueryByLinkAddress: "link-address", QueryByRemoteID: "remote-id",
}

// String returns a name that is one of few, whatever the type: it is a label of
// the counters.
func (t QueryType) String() string {
	if int(t) < len(queryTypeNames) && queryTypeNames[t] != "" {
		return queryTypeNames[t]
	}
	return "unknown"
}

// Bulk reports whether the query may be asked over TCP alone (RFC 5460 section 4).
func (t QueryType) Bulk() bool {
	return t == QueryByRelayID || t == QueryByLinkAddress || t == QueryByRemoteID
}

// queryHeader is the query-type and link-address of a Query option.
const queryHeader = 1 + 16

// LeaseLookup is a LEASEQUERY (RFC 5007 section 4.1): what a requestor, a router
// that lost its state for one, asks about the leases of clients. The slices are
// those of the message read.
type LeaseLookup struct {
	Transaction [3]byte
	ClientID    []byte // the requestor's own DUID
	ServerID    []byte // the DUID of the server meant, nil if any
	Type        QueryType
	Link        netip.Addr // an address on the link meant, or ::
	Address     netip.Addr // of a QueryByAddress
	DUID        []byte     // of a QueryByClientID the client's, of a QueryByRelayID the relay's
	RemoteID    []byte     // of a QueryByRemoteID: enterprise number and octets
	RelayData   bool       // whether to tell of the relay that the client is behind
	// Status is StatusSuccess, or what the requestor is told of its query:
	// StatusUnknownQueryType or StatusMalformedQuery.
	Status StatusCode
}

// Parse reads a LEASEQUERY and validates it for the server with the DUID
// (RFC 5007 section 4.2.1). It returns [Answered], the zero Reason, or why the
// message is to be discarded.
func (q *LeaseLookup) Parse(payload, serverID []byte) Reason {
	*q = LeaseLookup{}
	if len(payload) < messageHeader {
		return Truncated
	}
	switch MessageType(payload[0]) {
	case Leasequery:
	case LeasequeryReply, LeasequeryDone, LeasequeryData:
		return NotForServers
	default:
		return UnknownType
	}
	q.Transaction = [3]byte(payload[1:])
	var query []byte
	rest := Options(payload[messageHeader:])
	for {
		code, data, ok := rest.Next()
		if !ok {
			break
		}
		var field *[]byte
		switch code {
		case OptionClientID:
			field = &q.ClientID
		case OptionServerID:
			field = &q.ServerID
		case OptionQuery:
			field = &query
		default:
			continue
		}
		switch {
		case *field != nil:
			return DuplicateOption
		case field == &query && len(data) < queryHeader:
			return BadOption
		case field != &query && !isDUID(data):
			return BadDUID
		}
		*field = data
	}
	switch {
	case len(rest) != 0:
		return Truncated
	case q.ClientID == nil:
		return NoClientID
	case q.ServerID != nil && !bytes.Equal(q.ServerID, serverID):
		return OtherServer
	case query == nil:
		return NoQuery
	}
	q.Type = QueryType(query[0])
	q.Link = netip.AddrFrom16([16]byte(query[1:]))
	q.Status = q.parseOptions(query[queryHeader:])
	return Answered
}

// parseOptions reads the query-options (RFC 5007 section 4.1.2.1).
func (q *LeaseLookup) parseOptions(rest Options) StatusCode {
	var clientID, relayID, requested []byte
	for {
		code, data, ok := rest.Next()
		if !ok {
			break
		}
		var field *[]byte
		valid, again := false, false
		switch code {
		case OptionIAAddress:
			if valid, again = len(data) >= addressSize, q.Address.IsValid(); valid {
				q.Address = netip.AddrFrom16([16]byte(data))
			}
		case OptionClientID:
			field, valid = &clientID, isDUID(data)
		case OptionRelayID:
			field, valid = &relayID, isDUID(data)
		case OptionRemoteID:
			field, valid = &q.RemoteID, len(data) >= 4
		case OptionRequest:
			field, valid = &requested, len(data)%2 == 0
		default:
			continue
		}
		if field != nil {
			again, *field = *field != nil, data
		}
		if !valid || again {
			return StatusMalformedQuery
		}
	}
	if len(rest) != 0 {
		return StatusMalformedQuery
	}
	for ; len(requested) > 0; requested = requested[2:] {
		q.RelayData = q.RelayData || OptionCode(binary.BigEndian.Uint16(requested)) == OptionRelayData
	}
	given := true
	switch q.Type {
	case QueryByAddress:
		given = q.Address.IsValid()
	case QueryByClientID:
		q.DUID, given = clientID, clientID != nil
	case QueryByRelayID:
		q.DUID, given = relayID, relayID != nil
	case QueryByLinkAddress:
	case QueryByRemoteID:
		given = q.RemoteID != nil
	default:
		return StatusUnknownQueryType
	}
	if !given {
		return StatusMalformedQuery
	}
	return StatusSuccess
}

func isDUID(b []byte) bool { return len(b) >= minDUID && len(b) <= maxDUID }

// Append appends the message that asks this.
func (q *LeaseLookup) Append(b []byte) []byte {
	b = append(b, byte(Leasequery), q.Transaction[0], q.Transaction[1], q.Transaction[2])
	b = AppendOption(b, OptionClientID, q.ClientID)
	if q.ServerID != nil {
		b = AppendOption(b, OptionServerID, q.ServerID)
	}
	b, query := openOption(b, OptionQuery)
	b = append(b, byte(q.Type))
	b = appendAddr(b, q.Link)
	switch q.Type {
	case QueryByAddress:
		// What a requestor writes into the lifetimes is of no consequence.
		b = appendLeasedAddress(b, LeasedAddress{Address: q.Address})
	case QueryByClientID:
		b = AppendOption(b, OptionClientID, q.DUID)
	case QueryByRelayID:
		b = AppendOption(b, OptionRelayID, q.DUID)
	case QueryByRemoteID:
		b = AppendOption(b, OptionRemoteID, q.RemoteID)
	}
	if q.RelayData {
		b = AppendOption(b, OptionRequest, []byte{byte(OptionRelayData >> 8), byte(OptionRelayData)})
	}
	shutOption(b, query)
	return b
}

// Scope returns those of the pods, by their place, that the query is about
// (RFC 5007 section 4.4.1, RFC 5460 section 7.2), and [StatusNotConfigured] where
// its link, or what stands for it, is of none of them.
func (q *LeaseLookup) Scope(pods *Pods, of []int) ([]int, StatusCode) {
	about := func(*sixacre.Pod) bool { return true }
	switch {
	case !q.Link.IsUnspecified():
		about = func(pod *sixacre.Pod) bool { return pod.LinkPrefix.Contains(q.Link) }
	case q.Type == QueryByAddress:
		about = func(pod *sixacre.Pod) bool {
			if pod.LinkPrefix.Contains(q.Address) {
				return true
			}
			for _, pool := range pod.Pools {
				if pool.Prefix.Contains(q.Address) {
					return true
				}
			}
			return false
		}
	case q.Type == QueryByLinkAddress:
		return nil, StatusNotConfigured // :: names no link
	}
	var scope []int
	for _, n := range of {
		if about(pods.At(n)) {
			scope = append(scope, n)
		}
	}
	if scope == nil {
		return nil, StatusNotConfigured
	}
	return scope, StatusSuccess
}

// MAC returns the MAC that a query by Remote-ID names, in the pod's format.
func (q *LeaseLookup) MAC(pod *sixacre.Pod) (sixacre.MAC, bool) {
	if q.Type != QueryByRemoteID {
		return sixacre.MAC{}, false
	}
	return remoteIDMAC(pod.RemoteIDFormat, q.RemoteID)
}
