package lab

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// DHCPv6 as a guest, honest or not, may put it on the wire (RFC 9915 sections 8,
// 9 and 21). It is written here once more so that the lab does not check the
// product's codec with itself.
const (
	dhcpSolicit      = 1
	dhcpAdvertise    = 2
	dhcpRequest      = 3
	dhcpRenew        = 5
	dhcpRebind       = 6
	dhcpReply        = 7
	dhcpRelease      = 8
	dhcpReconfigure  = 10
	dhcpRelayForward = 12
	dhcpRelayReply   = 13

	optClientID  = 1
	optServerID  = 2
	optElapsed   = 8
	optRelayMsg  = 9
	optStatus    = 13
	optIAPD      = 25
	optIAPrefix  = 26
	optRemoteID  = 37
	optLinkLayer = 79

	clientPort = 546
	serverPort = 547
)

var (
	allRelaysAndServers = netip.MustParseAddr("ff02::1:2")
	allServers          = netip.MustParseAddr("ff05::1:3")
	allNodes            = netip.MustParseAddr("ff02::1")
	allRouters          = netip.MustParseAddr("ff02::2")
	allMLDv2Routers     = netip.MustParseAddr("ff02::16")
)

func option(code uint16, data ...[]byte) []byte {
	all := bytes.Join(data, nil)
	b := binary.BigEndian.AppendUint16(nil, code)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(all))), all...)
}

// iaid is that of every message that the lab itself makes.
var iaid = []byte{0x61, 0x63, 0x72, 0x65}

// duid is a DUID-LL (RFC 9915 section 11.4).
func duid(mac string) []byte { return append([]byte{0, 3, 0, 1}, mustMAC(mac)...) }

// dhcpMessage is a message of a client with the transaction id.
func dhcpMessage(typ byte, id uint32, options ...[]byte) []byte {
	b := []byte{typ, byte(id >> 16), byte(id >> 8), byte(id)}
	return append(b, bytes.Join(append(options, option(optElapsed, []byte{0, 0})), nil)...)
}

// solicit asks for any prefix.
func solicit(id uint32, mac string) []byte {
	return dhcpMessage(dhcpSolicit, id, option(optClientID, duid(mac)), iapd())
}

// iapd is an IA_PD with the prefixes, which may be none.
func iapd(prefixes ...netip.Prefix) []byte {
	body := [][]byte{iaid, make([]byte, 8)}
	for _, p := range prefixes {
		a := p.Addr().As16()
		body = append(body, option(optIAPrefix, make([]byte, 8), []byte{byte(p.Bits())}, a[:]))
	}
	return option(optIAPD, body...)
}

// relayForward encloses a message as a relay would (RFC 9915 section 9.1) and
// says that its client has the MAC, in both options that say so.
func relayForward(link, peer netip.Addr, mac string, message []byte) []byte {
	l, p := link.As16(), peer.As16()
	return bytes.Join([][]byte{
		{dhcpRelayForward, 0}, l[:], p[:],
		option(optRelayMsg, message),
		option(optLinkLayer, []byte{0, 1}, mustMAC(mac)),
		option(optRemoteID, []byte{0, 0, 0, 0}, mustMAC(mac)),
	}, nil)
}

// dhcpSeen is what the lab reads of a message between client and server.
type dhcpSeen struct {
	typ      byte
	id       uint32
	server   []byte // its DUID
	client   []byte
	iapds    int
	prefixes []netip.Prefix
	valid    uint32 // the shortest valid lifetime of the prefixes, seconds
	status   uint16 // the last status code (RFC 9915 section 21.13); 0 is Success
}

// parseDHCP reads a message of a client or a server. Options that do not fit
// are left out.
func parseDHCP(b []byte) (dhcpSeen, bool) {
	if len(b) < 4 {
		return dhcpSeen{}, false
	}
	a := dhcpSeen{typ: b[0], id: uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])}
	eachOption(b[4:], func(code uint16, data []byte) {
		a.readStatus(code, data)
		switch {
		case code == optServerID:
			a.server = data
		case code == optClientID:
			a.client = data
		case code == optIAPD && len(data) >= 12:
			a.iapds++
			eachOption(data[12:], func(code uint16, data []byte) {
				a.readStatus(code, data)
				if code == optIAPrefix && len(data) >= 25 {
					if valid := binary.BigEndian.Uint32(data[4:]); len(a.prefixes) == 0 || valid < a.valid {
						a.valid = valid
					}
					a.prefixes = append(a.prefixes, netip.PrefixFrom(netip.AddrFrom16([16]byte(data[9:25])), int(data[8])))
				}
			})
		}
	})
	return a, true
}

func (a *dhcpSeen) readStatus(code uint16, data []byte) {
	if code == optStatus && len(data) >= 2 {
		a.status = binary.BigEndian.Uint16(data)
	}
}

// transaction returns the transaction id of a message, looking into relayed
// ones.
func transaction(b []byte) (typ byte, id uint32) {
	for len(b) >= 34 && (b[0] == dhcpRelayForward || b[0] == dhcpRelayReply) {
		typ := b[0]
		var inner []byte
		eachOption(b[34:], func(code uint16, data []byte) {
			if code == optRelayMsg {
				inner = data
			}
		})
		if b = inner; len(b) < 4 {
			return typ, 0
		}
	}
	if len(b) < 4 {
		return 0, 0
	}
	return b[0], uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func eachOption(b []byte, f func(code uint16, data []byte)) {
	for len(b) >= 4 {
		n := int(binary.BigEndian.Uint16(b[2:]))
		if len(b) < 4+n {
			return
		}
		f(binary.BigEndian.Uint16(b), b[4:4+n])
		b = b[4+n:]
	}
}
