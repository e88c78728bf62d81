package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

// template is a relayed message with the places in which one client's differs
// from another's. All made from one template are equally long.
type template struct {
	b                            []byte
	transaction                  int
	macs, interfaceIDs, prefixes []int // where a MAC, an EUI-64 identifier, the upper half of a prefix stands
}

// The client that a template is made for. Nothing else in a message looks like
// its MAC, its identifier or its prefix.
const model = 0xfedcb

// question is what is asked of a server.
type question struct {
	kind     dhcp6.MessageType // Solicit or Request
	remoteID bool              // whether the relay inserts option 37 too
}

// template makes the relayed message, with an IA_NA, an IA_PD, an Option Request
// and an Elapsed Time option, as it comes from a relay that inserts options 18
// and 79. A Request names what the client was offered.
func (q question) template() *template {
	mac := clientMAC(model)
	message := []byte{byte(q.kind), 0, 0, 0}
	message = dhcp6.AppendOption(message, dhcp6.OptionClientID, addr.DUIDLL(mac))
	naID, pdID := []byte{0, 0, 0, 1, 11: 0}, []byte{0, 0, 0, 2, 11: 0} // IAID, T1 and T2
	if q.kind == dhcp6.Request {
		message = dhcp6.AppendOption(message, dhcp6.OptionServerID, serverDUID)
		address, prefix := clientAddr(model).As16(), clientPrefix(model)
		naID = dhcp6.AppendOption(naID, dhcp6.OptionIAAddress, append(address[:], make([]byte, 8)...))
		upper := prefix.Addr().As16()
		pdID = dhcp6.AppendOption(pdID, dhcp6.OptionIAPrefix, append([]byte{8: byte(prefix.Bits())}, upper[:]...))
	}
	message = dhcp6.AppendOption(message, dhcp6.OptionElapsedTime, []byte{0, 0})
	message = dhcp6.AppendOption(message, dhcp6.OptionRequest, []byte{0, byte(dhcp6.OptionDNSServers), 0, byte(dhcp6.OptionDomainList)})
	message = dhcp6.AppendOption(message, dhcp6.OptionIANA, naID)
	message = dhcp6.AppendOption(message, dhcp6.OptionIAPD, pdID)

	t := &template{b: dhcp6.AppendRelay(nil, dhcp6.RelayForward, 0, gateway, addr.LinkLocal(mac))}
	t.b = dhcp6.AppendOption(t.b, dhcp6.OptionInterfaceID, []byte("eth0:100"))
	if q.remoteID {
		t.b = dhcp6.AppendOption(t.b, dhcp6.OptionRemoteID, append([]byte{0, 0, 0, 9}, mac[:]...)) // enterprise 9
	}
	t.b = dhcp6.AppendOption(t.b, dhcp6.OptionClientLinkLayer, append([]byte{0, dhcp6.HardwareEthernet}, mac[:]...))
	t.b = dhcp6.AppendOption(t.b, dhcp6.OptionRelayMessage, message)
	t.transaction = len(t.b) - len(message) + 1

	id, upper := addr.InterfaceID(mac), clientPrefix(model).Addr().As16()
	t.macs = places(t.b, mac[:])
	t.interfaceIDs = places(t.b, id[:])
	t.prefixes = places(t.b, upper[:8])
	return t
}

func places(b, what []byte) []int {
	var at []int
	for from := 0; ; {
		i := bytes.Index(b[from:], what)
		if i < 0 {
			return at
		}
		at = append(at, from+i)
		from += i + len(what)
	}
}

// fill appends the message of client i to dst.
func (t *template) fill(dst []byte, i uint64, transaction uint32) []byte {
	start := len(dst)
	dst = append(dst, t.b...)
	b := dst[start:]
	mac := clientMAC(i)
	b[t.transaction], b[t.transaction+1], b[t.transaction+2] = byte(transaction>>16), byte(transaction>>8), byte(transaction)
	for _, at := range t.macs {
		copy(b[at:], mac[:])
	}
	id := addr.InterfaceID(mac)
	for _, at := range t.interfaceIDs {
		copy(b[at:], id[:])
	}
	if len(t.prefixes) > 0 {
		upper := clientPrefix(i).Addr().As16()
		for _, at := range t.prefixes {
			copy(b[at:], upper[:8])
		}
	}
	return dst
}

// judge says whether a server's answer to a client is right.
type judge func(q question, client uint64, answer []byte) error

// transactionOf finds the transaction id in a relayed answer, or in an echo of
// the template's message.
func (t *template) transactionOf(answer []byte) (uint32, error) {
	if len(answer) > t.transaction+3 && dhcp6.MessageType(answer[0]) == dhcp6.RelayForward {
		return binary.BigEndian.Uint32(answer[t.transaction-1:]) & 0xffffff, nil
	}
	var r dhcp6.Relay
	if why := r.Parse(answer); why != dhcp6.Answered {
		return 0, fmt.Errorf("not a relayed message: %s", why)
	}
	if len(r.Message) < 4 {
		return 0, errors.New("no message inside")
	}
	return binary.BigEndian.Uint32(r.Message) & 0xffffff, nil
}

// exact takes only the Relay-reply with the very leases that the record gives
// the client.
func exact(q question, client uint64, answer []byte) error {
	prefix, err := addressed(q, client, answer)
	if err == nil && prefix != clientPrefix(client) {
		err = fmt.Errorf("prefix %s is not the %s of %s", prefix, clientPrefix(client), clientMAC(client))
	}
	return err
}

// pooled takes the Relay-reply with the client's address and any prefix of the
// pool: of a server that cannot reserve prefixes.
func pooled(q question, client uint64, answer []byte) error {
	prefix, err := addressed(q, client, answer)
	if err == nil && !pool.Holds(prefix) {
		err = fmt.Errorf("prefix %s is none of pool %s", prefix, pool.Prefix)
	}
	return err
}

// addressed returns the prefix in a Relay-reply with the client's address.
func addressed(q question, client uint64, answer []byte) (netip.Prefix, error) {
	l, err := leasesOf(q, client, answer)
	if err == nil && l.address != clientAddr(client) {
		err = fmt.Errorf("address %s is not the %s of %s", l.address, clientAddr(client), clientMAC(client))
	}
	return l.prefix, err
}

// echoed makes the judge of a server that sends back what it was sent, cut off or
// filled up to the size of the answer to each question.
func echoed(sizes map[question]int) judge {
	return func(q question, client uint64, answer []byte) error {
		t := q.template()
		sent, n := t.fill(nil, client, 0), min(sizes[q], len(t.b))
		if len(answer) != sizes[q] || !bytes.Equal(answer[:t.transaction], sent[:t.transaction]) ||
			!bytes.Equal(answer[t.transaction+3:n], sent[t.transaction+3:n]) {
			return fmt.Errorf("not an echo of %d octets of what was sent for %s", sizes[q], clientMAC(client))
		}
		return nil
	}
}

type leases struct {
	address netip.Addr
	prefix  netip.Prefix
}

// leasesOf reads an answer to the client: the Relay-reply around it, its type,
// its DUIDs, and the one lease of either kind.
func leasesOf(q question, client uint64, answer []byte) (l leases, err error) {
	var r dhcp6.Relay
	if why := r.Parse(answer); why != dhcp6.Answered {
		return l, fmt.Errorf("not a relayed message: %s", why)
	}
	mac := clientMAC(client)
	want := dhcp6.Reply
	if q.kind == dhcp6.Solicit {
		want = dhcp6.Advertise
	}
	switch {
	case r.Type != dhcp6.RelayReply || r.Link != gateway || r.Peer != addr.LinkLocal(mac):
		return l, fmt.Errorf("a %s by %s to %s, not the Relay-reply to %s", r.Type, r.Link, r.Peer, mac)
	case string(r.InterfaceID) != "eth0:100":
		return l, fmt.Errorf("interface-id %q did not come back", r.InterfaceID)
	case len(r.Message) < 4 || dhcp6.MessageType(r.Message[0]) != want:
		return l, fmt.Errorf("not the %s to a %s", want, q.kind)
	}
	found := map[dhcp6.OptionCode]int{}
	rest := dhcp6.Options(r.Message[4:])
	for {
		code, data, ok := rest.Next()
		if !ok {
			break
		}
		found[code]++
		switch code {
		case dhcp6.OptionClientID:
			if !bytes.Equal(data, addr.DUIDLL(mac)) {
				return l, fmt.Errorf("the client's DUID is %x", data)
			}
		case dhcp6.OptionServerID:
			if !bytes.Equal(data, serverDUID) {
				return l, fmt.Errorf("the server's DUID is %x", data)
			}
		case dhcp6.OptionIANA, dhcp6.OptionIAPD:
			if len(data) < 12 {
				return l, errors.New("a short IA")
			}
			if err := l.read(data[12:]); err != nil {
				return l, err
			}
		}
	}
	for _, code := range []dhcp6.OptionCode{dhcp6.OptionClientID, dhcp6.OptionServerID, dhcp6.OptionIANA, dhcp6.OptionIAPD} {
		if found[code] != 1 || len(rest) != 0 {
			return l, fmt.Errorf("%d options %d", found[code], code)
		}
	}
	return l, nil
}

// read takes up the lease in an IA.
func (l *leases) read(options dhcp6.Options) error {
	for {
		code, data, ok := options.Next()
		switch {
		case !ok:
			return nil
		case code == dhcp6.OptionIAAddress && len(data) >= 24 && !l.address.IsValid():
			l.address = netip.AddrFrom16([16]byte(data))
			if binary.BigEndian.Uint32(data[20:]) == 0 {
				return fmt.Errorf("address %s with a lifetime of 0", l.address)
			}
		case code == dhcp6.OptionIAPrefix && len(data) >= 25 && !l.prefix.IsValid():
			l.prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte(data[9:])), int(data[8]))
			if binary.BigEndian.Uint32(data[4:]) == 0 {
				return fmt.Errorf("prefix %s with a lifetime of 0", l.prefix)
			}
		default:
			return fmt.Errorf("option %d in an IA, or a second lease: %x", code, data)
		}
	}
}
