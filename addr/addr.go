// Package addr is the arithmetic of addresses: the address that a MAC makes in
// a link prefix, the nth prefix of a pool and back, and the DUIDs that carry a
// MAC. All of it is pure.
package addr

import (
	"encoding/binary"
	"net/netip"

	"github.com/sixacre/sixacre"
)

var linkLocal = netip.MustParsePrefix("fe80::/64")

// InterfaceID returns the modified EUI-64 interface identifier of a MAC
// (RFC 4291 appendix A): ff:fe in the middle, the universal/local bit inverted.
func InterfaceID(m sixacre.MAC) [8]byte {
	return [8]byte{m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]}
}

// EUI64 returns the address that a guest with this MAC forms in a /64 by SLAAC
// (RFC 4862 section 5.5.3).
func EUI64(link netip.Prefix, m sixacre.MAC) netip.Addr {
	a, id := link.Addr().As16(), InterfaceID(m)
	copy(a[8:], id[:])
	return netip.AddrFrom16(a)
}

// LinkLocal returns the link-local address that a guest with this MAC forms
// (RFC 4862 section 5.3).
func LinkLocal(m sixacre.MAC) netip.Addr { return EUI64(linkLocal, m) }

// MAC returns the MAC whose modified EUI-64 the address ends in, and whether
// there is one.
func MAC(a netip.Addr) (sixacre.MAC, bool) {
	b := a.As16()
	if !a.Is6() || b[11] != 0xff || b[12] != 0xfe {
		return sixacre.MAC{}, false
	}
	return sixacre.MAC{b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]}, true
}

// Complete returns the NIC with all that follows from its MAC and its pod: the
// link-local address and, in a slaac pod, the address.
func Complete(p sixacre.Pod, n sixacre.NIC) sixacre.NIC {
	n.LinkLocal = LinkLocal(n.MAC)
	if p.Addressing == sixacre.SLAAC {
		n.Address = EUI64(p.LinkPrefix, n.MAC)
	}
	if n.Prefixes == nil {
		n.Prefixes = []netip.Prefix{}
	}
	if n.Groups == nil {
		n.Groups = []string{}
	}
	return n
}

// Nth returns the nth prefix, from 0, of a pool. n is less than 2^pool.Bits().
func Nth(pool sixacre.Pool, n uint64) netip.Prefix {
	a := pool.Prefix.Addr().As16()
	// A delegated prefix is at most 64 bits long: the upper half holds it.
	hi := binary.BigEndian.Uint64(a[:8]) | n<<(64-pool.DelegatedLength)
	binary.BigEndian.PutUint64(a[:8], hi)
	return netip.PrefixFrom(netip.AddrFrom16(a), pool.DelegatedLength)
}

// Index is the inverse of [Nth]: which of the pool's prefixes q is. q is one
// that the pool holds.
func Index(pool sixacre.Pool, q netip.Prefix) uint64 {
	a := q.Addr().As16()
	hi := binary.BigEndian.Uint64(a[:8]) >> (64 - pool.DelegatedLength)
	return hi & (1<<pool.Bits() - 1)
}

// Reserved reports whether an address of a /64 may not be given to a NIC: the
// subnet-router anycast address (RFC 4291 section 2.6.1), the reserved subnet
// anycast identifiers (RFC 2526 section 2) and the other reserved interface
// identifiers of RFC 5453 and its registry.
func Reserved(a netip.Addr) bool {
	b := a.As16()
	id := binary.BigEndian.Uint64(b[8:])
	switch {
	case id == 0:
		return true
	case id >= 0xfdffffffffffff80 && id <= 0xfdffffffffffffff:
		return true
	case id>>24 == 0x02005efffe: // IANA's Ethernet block, proxy mobile IPv6 included
		return true
	}
	return false
}

// DUIDLL returns the DUID-LL of an Ethernet NIC (RFC 9915 section 11.4).
func DUIDLL(m sixacre.MAC) []byte {
	return append([]byte{0, 3, 0, 1}, m[:]...)
}

// DUIDMAC returns the MAC that a DUID-LLT or DUID-LL of an Ethernet NIC claims
// (RFC 9915 sections 11.2 and 11.4). It is the client's own claim.
func DUIDMAC(duid []byte) (sixacre.MAC, bool) {
	switch {
	case len(duid) == 14 && [4]byte(duid[:4]) == [4]byte{0, 1, 0, 1}:
		return sixacre.MAC(duid[8:]), true
	case len(duid) == 10 && [4]byte(duid[:4]) == [4]byte{0, 3, 0, 1}:
		return sixacre.MAC(duid[4:]), true
	}
	return sixacre.MAC{}, false
}
