package router

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// remoteIDEnterprise is the enterprise number in the Remote-ID option. It is the
// one set aside for documentation (RFC 5612): sixacre has none of its own, and
// what follows the number, the six octets of the MAC, is the same everywhere.
const remoteIDEnterprise = 32473

// exchange names one message of a client, so that a reply can be known as the
// answer to it. Who the client is was taken from its frame, and not from what it
// says of itself.
type exchange struct {
	mac  sixacre.MAC
	peer netip.Addr // the client's link-local address
	sent dhcp6.MessageType
	xid  [3]byte
}

// fromClient reads what a client on the link sent to its relays.
func fromClient(p packet, mac sixacre.MAC) ([]byte, exchange, error) {
	m := p.payload
	switch {
	case p.dst.Addr() != dhcp6.AllRelaysAndServers || p.dst.Port() != dhcp6.ServerPort || p.src.Port() != dhcp6.ClientPort:
		return nil, exchange{}, dropNotDHCP
	case !p.src.Addr().IsLinkLocalUnicast() || mac.Validate() != nil:
		return nil, exchange{}, dropSource
	case len(m) < 4:
		return nil, exchange{}, dropTruncated
	case !clientSends(dhcp6.MessageType(m[0])):
		return nil, exchange{}, dropNotClient
	}
	return m, exchange{mac, p.src.Addr(), dhcp6.MessageType(m[0]), [3]byte(m[1:4])}, nil
}

// clientSends reports whether clients send such messages. Relay-forward is none
// of them: this router is the first hop, and only guests live on the link.
func clientSends(t dhcp6.MessageType) bool {
	switch t {
	case dhcp6.Solicit, dhcp6.Request, dhcp6.Confirm, dhcp6.Renew, dhcp6.Rebind,
		dhcp6.Release, dhcp6.Decline, dhcp6.InformationRequest:
		return true
	}
	return false
}

// envelope wraps messages of one link, and knows its own wrapping again.
type envelope struct {
	link string
	key  [32]byte // random, this process's own
}

// wrap appends the Relay-forward for a client's message (RFC 9915 section
// 19.1.1), with the client's MAC as Client Link-Layer Address (RFC 6939) and as
// Remote-ID (RFC 4649).
func (e envelope) wrap(b []byte, linkAddress netip.Addr, x exchange, message []byte) []byte {
	b = dhcp6.AppendRelay(b, dhcp6.RelayForward, 0, linkAddress, x.peer)
	b = dhcp6.AppendOption(b, dhcp6.OptionInterfaceID, e.interfaceID(linkAddress, x))
	b = dhcp6.AppendOption(b, dhcp6.OptionClientLinkLayer, append([]byte{0, dhcp6.HardwareEthernet}, x.mac[:]...))
	b = dhcp6.AppendOption(b, dhcp6.OptionRemoteID, append(binary.BigEndian.AppendUint32(nil, remoteIDEnterprise), x.mac[:]...))
	return dhcp6.AppendOption(b, dhcp6.OptionRelayMessage, message)
}

// interfaceID is LINK/MAC/TYPE/PROOF. Servers echo the option unread (RFC 9915
// section 21.18), and of all that a relay inserts it is the only one that they
// must echo. So it carries the MAC that the reply goes to: the neighbour table,
// which would tell it otherwise, is written by guests. The proof ties it to the
// transaction, so that a reply counts only as the answer to a message of that
// type that this process relayed for that MAC and that address, whoever sends it.
func (e envelope) interfaceID(linkAddress netip.Addr, x exchange) []byte {
	h := hmac.New(sha256.New, e.key[:])
	link, peer := linkAddress.As16(), x.peer.As16()
	h.Write(x.mac[:])
	h.Write(peer[:])
	h.Write(link[:])
	h.Write(x.xid[:])
	h.Write([]byte{byte(x.sent)})
	id := fmt.Appendf(nil, "%s/%s/%d/", e.link, x.mac, x.sent)
	return hex.AppendEncode(id, h.Sum(nil)[:8])
}

// unwrap returns the server's message in a Relay-reply and what it
// answers.
func (e envelope) unwrap(b []byte) ([]byte, exchange, error) {
	var relay dhcp6.Relay
	if relay.Parse(b) != dhcp6.Answered || relay.Type != dhcp6.RelayReply {
		return nil, exchange{}, dropNotRelayed
	}
	m := relay.Message
	if len(m) < 4 {
		return nil, exchange{}, dropTruncated
	}
	if t := dhcp6.MessageType(m[0]); t != dhcp6.Advertise && t != dhcp6.Reply {
		return nil, exchange{}, dropNotServer
	}
	x := exchange{peer: relay.Peer, xid: [3]byte(m[1:4])}
	fields := strings.Split(string(relay.InterfaceID), "/")
	if len(fields) != 4 || x.mac.UnmarshalText([]byte(fields[1])) != nil {
		return nil, exchange{}, dropNotRelayed
	}
	sent, err := strconv.ParseUint(fields[2], 10, 8)
	if err != nil {
		return nil, exchange{}, dropNotRelayed
	}
	x.sent = dhcp6.MessageType(sent)
	if !hmac.Equal(relay.InterfaceID, e.interfaceID(relay.Link, x)) {
		return nil, exchange{}, dropNotRelayed
	}
	return m, x, nil
}

// delegates reports whether a Reply to this message may delegate prefixes
// (RFC 9915 section 18.3).
func (x exchange) delegates() bool {
	switch x.sent {
	case dhcp6.Solicit, dhcp6.Request, dhcp6.Renew, dhcp6.Rebind: // Solicit with Rapid Commit
		return true
	}
	return false
}
