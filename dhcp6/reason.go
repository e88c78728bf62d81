package dhcp6

import "strconv"

// Reason says why a message got no answer. Each is counted under its name.
type Reason uint8

const (
	Answered Reason = iota // it got one

	// The message is not valid (sections 7.3, 16 and 21).
	Truncated          // it ends inside a header or an option
	BadOption          // an option has a length that its definition rules out
	DuplicateOption    // an option that may appear once appears twice
	BadDUID            // a DUID is not 3 to 130 octets long
	TooMany            // more relays, IAs or leases than are accepted
	UnknownType        // a message type that is not known
	NotForServers      // Advertise, Reply, Reconfigure or Relay-reply
	NoRelayMessage     // a Relay-forward without a message inside
	NoClientID         // the message type requires one
	NoServerID         // the message type requires one
	UnexpectedServerID // the message type forbids one
	OtherServer        // meant for the server with another DUID
	UnexpectedIA       // an Information-request with an IA
	NothingToConfirm   // a Confirm without an address
	NoQuery            // a LEASEQUERY without a Query option (RFC 5007 section 4.2.1)
	RelayedLeasequery  // a LEASEQUERY inside a Relay-forward: nobody asks for another
	LeasequeryOff      // a LEASEQUERY where none is answered

	// Nobody vouches for the client.
	Unrelayed      // sent to the server by the client itself
	UntrustedRelay // the packet's source is not a relay of any pod
	ForgedRelay    // a Relay-forward inside came from someone that is not a relay of the pod
	GuestAsRelay   // a relay's address is a NIC's or inside a pool
	UnknownLink    // neither link-address nor interface-id is one of a pod of the relay's
	AmbiguousPod   // they fit more than one pod, or contradict each other
	NoIdentity     // nothing that the pod accepts tells the client's MAC
	Contradiction  // options 79 and 37 tell different MACs
	UnknownClient  // no NIC of the pod has that MAC

	CannotConfirm // the NIC may have been given the address since the record was current

	TooLong // the answer would not fit into a packet

	// There are too many messages.
	NoisyRelay  // its relay asks for far more than the others, which have to wait
	NoisyClient // the client asks far more often than clients do

	// The server may not speak.
	NotReady // it has not seen the whole record and the server DUID yet
	Stale    // it could not confirm the store's revision for too long

	NumReasons int = iota
)

var reasonNames = [NumReasons]string{
	Answered: "answered", Truncated: "truncated", BadOption: "bad-option", DuplicateOption: "duplicate-option",
	BadDUID: "bad-duid", TooMany: "too-many", UnknownType: "unknown-type", NotForServers: "not-for-servers",
	NoRelayMessage: "no-relay-message", NoClientID: "no-client-id", NoServerID: "no-server-id",
	UnexpectedServerID: "unexpected-server-id", OtherServer: "other-server", UnexpectedIA: "unexpected-ia",
	NothingToConfirm: "nothing-to-confirm", NoQuery: "no-query", RelayedLeasequery: "relayed-leasequery",
	LeasequeryOff: "leasequery-off", Unrelayed: "unrelayed", UntrustedRelay: "untrusted-relay",
	ForgedRelay: "forged-relay", GuestAsRelay: "guest-as-relay", UnknownLink: "unknown-link",
	AmbiguousPod: "ambiguous-pod", NoIdentity: "no-identity", Contradiction: "contradiction",
	UnknownClient: "unknown-client", CannotConfirm: "cannot-confirm", TooLong: "too-long",
	NoisyRelay: "noisy-relay", NoisyClient: "noisy-client", NotReady: "not-ready", Stale: "stale",
}

func (r Reason) String() string {
	if int(r) < NumReasons {
		return reasonNames[r]
	}
	return "reason-" + strconv.Itoa(int(r))
}
