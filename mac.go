package sixacre

import (
	"fmt"
	"net"
)

// MAC is an EUI-48 link-layer address. The zero value is no address.
type MAC [6]byte

// ParseMAC reads a MAC with colons, dashes or dots.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return MAC{}, Errorf(Invalid, "mac %q is not six octets: write it as 06:00:00:00:00:01", s)
	}
	return MAC(hw), nil
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText writes the MAC as lower-case octets with colons.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is [ParseMAC].
func (m *MAC) UnmarshalText(b []byte) error {
	v, err := ParseMAC(string(b))
	if err != nil {
		return err
	}
	*m = v
	return nil
}

// Validate refuses what cannot be the source of a frame: the all-zero address
// and group addresses (I/G bit set).
func (m MAC) Validate() error {
	switch {
	case m == MAC{}:
		return Errorf(Invalid, "mac %s is all zero: give the NIC's own address", m)
	case m[0]&1 != 0:
		return Errorf(Invalid, "mac %s is a multicast address: a NIC's address has an even first octet, such as %s", m,
			fmt.Sprintf("%02x:%02x:…", m[0]&^1, m[1]))
	}
	return nil
}
