package dhcp6

import (
	"encoding/binary"
	"net/netip"

	"github.com/sixacre/sixacre"
)

// LeaseAnswer is a LEASEQUERY-REPLY, LEASEQUERY-DATA or LEASEQUERY-DONE (RFC 5007
// section 4.1.1, RFC 5460 section 5.2).
type LeaseAnswer struct {
	Type        MessageType
	Transaction [3]byte
	ClientID    []byte // the requestor's DUID; in a LEASEQUERY-REPLY only
	ServerID    []byte // likewise
	Status      StatusCode
	Text        string       // what a person may want to know of the status
	Client      *ClientData  // nil if there is none to tell of
	Links       []netip.Addr // addresses of the links that the client is on, where there are several
}

// ClientData is what one client has on one link (RFC 5007 section 4.1.2.2).
type ClientData struct {
	ClientID  []byte // its DUID
	Addresses []LeasedAddress
	Prefixes  []LeasedPrefix
	Last      sixacre.Seconds // time since it was heard of (section 4.1.2.3)
	Relay     RelayData
}

// LeasedAddress is an address and what is left of its lifetimes.
type LeasedAddress struct {
	Address          netip.Addr
	Preferred, Valid sixacre.Seconds
}

// LeasedPrefix is a delegated prefix and what is left of its lifetimes.
type LeasedPrefix struct {
	Prefix           netip.Prefix
	Preferred, Valid sixacre.Seconds
}

// RelayData says by which way the client was heard (RFC 5007 section 4.1.2.4). The
// zero value says nothing.
type RelayData struct {
	From        netip.Addr // the relay that the server heard
	Link        netip.Addr // link-address of the innermost Relay-forward
	Peer        netip.Addr // its peer-address: where the client is to be reached
	InterfaceID []byte     // its Interface-Id, nil if it has none
}

// Hold makes the data tell of what the NIC got by a Reply that long ago. It
// reports whether any of it is still valid.
func (d *ClientData) Hold(pod *sixacre.Pod, nic *sixacre.NIC, ago sixacre.Seconds) bool {
	d.Addresses, d.Prefixes = nil, nil
	preferred, valid := left(pod.PreferredLifetime, ago), left(pod.ValidLifetime, ago)
	if valid == 0 {
		return false
	}
	if nic.Address.IsValid() {
		d.Addresses = []LeasedAddress{{nic.Address, preferred, valid}}
	}
	for _, p := range nic.Prefixes {
		d.Prefixes = append(d.Prefixes, LeasedPrefix{p, preferred, valid})
	}
	return len(d.Addresses)+len(d.Prefixes) > 0
}

func left(of, passed sixacre.Seconds) sixacre.Seconds {
	if of == sixacre.Infinity {
		return of
	}
	return of - min(of, passed)
}

// Append appends the message. It is for the caller to see that it is not longer
// than [MaxPayload].
func (a *LeaseAnswer) Append(b []byte) []byte {
	b = append(b, byte(a.Type), a.Transaction[0], a.Transaction[1], a.Transaction[2])
	if a.ServerID != nil {
		b = AppendOption(b, OptionServerID, a.ServerID)
	}
	if a.ClientID != nil {
		b = AppendOption(b, OptionClientID, a.ClientID)
	}
	// Success is said by saying nothing (RFC 5007 section 4.3.3).
	if a.Status != StatusSuccess {
		at := 0
		b, at = openOption(b, OptionStatusCode)
		b = binary.BigEndian.AppendUint16(b, uint16(a.Status))
		b = append(b, a.Text...)
		shutOption(b, at)
	}
	if a.Client != nil {
		at := 0
		b, at = openOption(b, OptionClientData)
		b = a.Client.append(b)
		shutOption(b, at)
	}
	if len(a.Links) > 0 {
		at := 0
		b, at = openOption(b, OptionClientLink)
		for _, link := range a.Links {
			b = appendAddr(b, link)
		}
		shutOption(b, at)
	}
	return b
}

// append appends the client-options, which are not enclosed in IAs.
func (d *ClientData) append(b []byte) []byte {
	b = AppendOption(b, OptionClientID, d.ClientID)
	for _, l := range d.Addresses {
		b = appendLeasedAddress(b, l)
	}
	for _, l := range d.Prefixes {
		at := 0
		b, at = openOption(b, OptionIAPrefix)
		b = binary.BigEndian.AppendUint32(b, uint32(l.Preferred))
		b = binary.BigEndian.AppendUint32(b, uint32(l.Valid))
		b = append(b, byte(l.Prefix.Bits()))
		b = appendAddr(b, l.Prefix.Addr())
		shutOption(b, at)
	}
	b, at := openOption(b, OptionLastTransaction)
	b = binary.BigEndian.AppendUint32(b, uint32(d.Last))
	shutOption(b, at)
	if d.Relay.From.IsValid() {
		b, at = openOption(b, OptionRelayData)
		b = appendAddr(b, d.Relay.From)
		b = AppendRelay(b, RelayForward, 0, d.Relay.Link, d.Relay.Peer)
		if d.Relay.InterfaceID != nil {
			b = AppendOption(b, OptionInterfaceID, d.Relay.InterfaceID)
		}
		shutOption(b, at)
	}
	return b
}

func appendLeasedAddress(b []byte, l LeasedAddress) []byte {
	b, at := openOption(b, OptionIAAddress)
	b = appendAddr(b, l.Address)
	b = binary.BigEndian.AppendUint32(b, uint32(l.Preferred))
	b = binary.BigEndian.AppendUint32(b, uint32(l.Valid))
	shutOption(b, at)
	return b
}

func appendAddr(b []byte, a netip.Addr) []byte {
	octets := a.As16()
	return append(b, octets[:]...)
}

// openOption appends the header of an option whose length is not known yet and
// returns where its data starts.
func openOption(b []byte, code OptionCode) ([]byte, int) {
	b = AppendOption(b, code, nil)
	return b, len(b)
}

// shutOption fills in the length of the option whose data starts there and ends
// here.
func shutOption(b []byte, start int) {
	binary.BigEndian.PutUint16(b[start-2:], uint16(len(b)-start))
}

// Parse reads a server's answer. It returns [Answered], the zero Reason, or what
// is wrong with the message. Whether it answers what was asked (RFC 5007 section
// 4.2.2) is for the caller to see.
func (a *LeaseAnswer) Parse(payload []byte) Reason {
	*a = LeaseAnswer{}
	if len(payload) < messageHeader {
		return Truncated
	}
	a.Type, a.Transaction = MessageType(payload[0]), [3]byte(payload[1:])
	switch a.Type {
	case LeasequeryReply, LeasequeryData, LeasequeryDone:
	default:
		return UnknownType
	}
	var status, links []byte
	rest := Options(payload[messageHeader:])
	for {
		code, data, ok := rest.Next()
		if !ok {
			break
		}
		switch code {
		case OptionClientID, OptionServerID:
			field := &a.ClientID
			if code == OptionServerID {
				field = &a.ServerID
			}
			switch {
			case *field != nil:
				return DuplicateOption
			case !isDUID(data):
				return BadDUID
			}
			*field = data
		case OptionStatusCode:
			switch {
			case status != nil:
				return DuplicateOption
			case len(data) < 2:
				return BadOption
			}
			status = data
			a.Status, a.Text = StatusCode(binary.BigEndian.Uint16(data)), string(data[2:])
		case OptionClientData:
			if a.Client != nil {
				return DuplicateOption
			}
			a.Client = &ClientData{}
			if why := a.Client.parse(data); why != Answered {
				return why
			}
		case OptionClientLink:
			switch {
			case links != nil:
				return DuplicateOption
			case len(data)%16 != 0:
				return BadOption
			}
			for links = data; len(data) > 0; data = data[16:] {
				a.Links = append(a.Links, netip.AddrFrom16([16]byte(data)))
			}
		}
	}
	if len(rest) != 0 {
		return Truncated
	}
	return Answered
}

// parse reads the client-options. Those without a client-last-transaction-time
// are of no use (RFC 5007 section 4.3.3).
func (d *ClientData) parse(rest Options) Reason {
	told := false
	for {
		code, data, ok := rest.Next()
		if !ok {
			break
		}
		switch code {
		case OptionClientID:
			switch {
			case d.ClientID != nil:
				return DuplicateOption
			case !isDUID(data):
				return BadDUID
			}
			d.ClientID = data
		case OptionIAAddress, OptionIAPrefix:
			if len(d.Addresses)+len(d.Prefixes) == MaxLeases {
				return TooMany
			}
			if why := d.parseLease(code, data); why != Answered {
				return why
			}
		case OptionLastTransaction:
			switch {
			case told:
				return DuplicateOption
			case len(data) != 4:
				return BadOption
			}
			d.Last, told = sixacre.Seconds(binary.BigEndian.Uint32(data)), true
		case OptionRelayData:
			if d.Relay.From.IsValid() {
				return DuplicateOption
			}
			if why := d.Relay.parse(data); why != Answered {
				return why
			}
		}
	}
	switch {
	case len(rest) != 0:
		return Truncated
	case d.ClientID == nil:
		return NoClientID
	case !told:
		return BadOption
	}
	return Answered
}

func (d *ClientData) parseLease(code OptionCode, data []byte) Reason {
	if code == OptionIAAddress {
		if len(data) < addressSize {
			return BadOption
		}
		d.Addresses = append(d.Addresses, LeasedAddress{
			Address:   netip.AddrFrom16([16]byte(data)),
			Preferred: sixacre.Seconds(binary.BigEndian.Uint32(data[16:])),
			Valid:     sixacre.Seconds(binary.BigEndian.Uint32(data[20:])),
		})
		return Answered
	}
	if len(data) < prefixSize || data[8] > 128 {
		return BadOption
	}
	d.Prefixes = append(d.Prefixes, LeasedPrefix{
		Prefix:    netip.PrefixFrom(netip.AddrFrom16([16]byte(data[9:])), int(data[8])).Masked(),
		Preferred: sixacre.Seconds(binary.BigEndian.Uint32(data)),
		Valid:     sixacre.Seconds(binary.BigEndian.Uint32(data[4:])),
	})
	return Answered
}

// parse reads a Relay Data option: whom the server heard, and the Relay-forward
// messages, outermost first, of which the innermost encloses nothing.
func (r *RelayData) parse(data []byte) Reason {
	if len(data) < 16 {
		return Truncated
	}
	r.From = netip.AddrFrom16([16]byte(data))
	for message, levels := data[16:], 0; message != nil; levels++ {
		if levels == MaxRelays {
			return TooMany
		}
		var level Relay
		switch why := level.Parse(message); {
		case why != Answered && why != NoRelayMessage:
			return why
		case level.Type != RelayForward:
			return UnknownType
		}
		r.Link, r.Peer, r.InterfaceID, message = level.Link, level.Peer, level.InterfaceID, level.Message
	}
	return Answered
}
