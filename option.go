package sixacre

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// NTPServer is where DHCPv6 clients learn the time (RFC 5908): by the address of
// a server, by a multicast address that one announces itself to, or by name. As
// text it is that address or name.
type NTPServer struct {
	Address netip.Addr // unicast or multicast, if there is no name
	Name    string     // fully qualified
}

// ParseNTPServer reads an IPv6 address or a name.
func ParseNTPServer(s string) (NTPServer, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if !a.Is6() || a.Is4In6() || a.IsUnspecified() || a.Zone() != "" {
			return NTPServer{}, Errorf(Invalid, "ntp %s is not an IPv6 address of a server or multicast group", s)
		}
		return NTPServer{Address: a}, nil
	}
	name := strings.TrimSuffix(s, ".")
	if !isDomain(name) {
		return NTPServer{}, Errorf(Invalid, "ntp %q is neither an IPv6 address nor a DNS name: write it as 2001:db8::123 or ntp.example.net", s)
	}
	return NTPServer{Name: name}, nil
}

func (n NTPServer) String() string {
	if n.Name != "" {
		return n.Name
	}
	return n.Address.String()
}

// MarshalText writes the address or name.
func (n NTPServer) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText is [ParseNTPServer].
func (n *NTPServer) UnmarshalText(b []byte) error {
	v, err := ParseNTPServer(string(b))
	if err != nil {
		return err
	}
	*n = v
	return nil
}

// octets is how long the server's NTP Server option is: two headers and the
// address, or the name as on the wire.
func (n NTPServer) octets() int {
	if n.Name != "" {
		return 4 + 4 + len(n.Name) + 2
	}
	return 4 + 4 + 16
}

// Octets is a value of which only the octets are known. As text it is
// hexadecimal.
type Octets []byte

func (o Octets) String() string { return hex.EncodeToString(o) }

// MarshalText writes hexadecimal.
func (o Octets) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, o), nil }

// UnmarshalText reads hexadecimal.
func (o *Octets) UnmarshalText(b []byte) error {
	v, err := hex.AppendDecode(nil, b)
	if err != nil {
		return Errorf(Invalid, "value %q is not hexadecimal: write two digits for each octet, such as 00ff", b)
	}
	*o = v
	return nil
}

// Option is a DHCPv6 option that clients get as it is written here.
type Option struct {
	Code  uint16 `json:"code" required:"true" minimum:"1" maximum:"65535" doc:"Option code" example:"59"`
	Value Octets `json:"value" doc:"The option's data, hexadecimal" example:"687474703a2f2f626f6f742f"`
}

// ParseOption reads CODE=HEX.
func ParseOption(s string) (Option, error) {
	code, value, ok := strings.Cut(s, "=")
	n, err := strconv.ParseUint(code, 10, 16)
	if !ok || err != nil {
		return Option{}, Errorf(Invalid, "option %q is not a code and a value: write it as 59=687474703a2f2f626f6f742f", s)
	}
	o := Option{Code: uint16(n)}
	if err := o.Value.UnmarshalText([]byte(value)); err != nil {
		return Option{}, Errorf(Invalid, "option %d: %s", n, err)
	}
	return o, nil
}

func (o Option) String() string { return strconv.Itoa(int(o.Code)) + "=" + o.Value.String() }

// validate refuses an option that a client could not be told as a mere value.
func (o Option) validate() error {
	way := ""
	switch c := o.Code; {
	case c == 7:
		way = "give --preference"
	case c == 23:
		way = "give --dns"
	case c == 24:
		way = "give --domain"
	case c == 56:
		way = "give --ntp"
	case c == 32 || c == 82 || c == 83:
		way = "the server sends it by itself"
	case c == 39 || c == 67 || c == 148:
		way = "the server would have to act on it"
	case neverRequested(c):
		way = "no client asks for it (IANA's registry of option codes)"
	default:
		return nil
	}
	return Errorf(Invalid, "option %d cannot be set to a value: %s", o.Code, way)
}

// neverRequested reports whether a code may not appear in an Option Request
// option: those of RFC 9915 section 21.7, and all that are used only between
// servers and relays or inside other options (IANA's registry of DHCPv6 option
// codes, column "Client ORO").
func neverRequested(code uint16) bool {
	switch c := code; {
	case c <= 16, c >= 18 && c <= 20, c == 25, c == 26, c >= 138 && c <= 140,
		c == 37, c == 38, c >= 43 && c <= 48, c == 53, c == 61, c == 66, c == 68, c >= 79 && c <= 81,
		c == 87, c == 89, c >= 91 && c <= 93, c >= 100 && c <= 102, c >= 105 && c <= 110, c == 112, c >= 114 && c <= 135:
		return true
	}
	return false
}
