package sixacre

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// DefaultGroup is the group of NICs that name none. It always exists, at first
// without rules: nothing unasked comes in, everything may go out.
const DefaultGroup = "default"

// Direction is seen from the instance.
type Direction string

const (
	In  Direction = "in"
	Out Direction = "out"
)

// Protocol is an IPv6 next-header number, or [AnyProtocol].
type Protocol int16

const (
	AnyProtocol Protocol = -1
	TCP         Protocol = 6
	UDP         Protocol = 17
	ICMPv6      Protocol = 58
)

var protocolNames = map[Protocol]string{AnyProtocol: "any", TCP: "tcp", UDP: "udp", ICMPv6: "icmpv6"}

func (p Protocol) String() string {
	if name, ok := protocolNames[p]; ok {
		return name
	}
	return strconv.Itoa(int(p))
}

// MarshalText writes the name, or the number where there is none.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads tcp, udp, icmpv6, any, or a number from 0 to 255.
func (p *Protocol) UnmarshalText(b []byte) error {
	for n, name := range protocolNames {
		if name == string(b) {
			*p = n
			return nil
		}
	}
	n, err := strconv.ParseUint(string(b), 10, 8)
	if err != nil {
		return Errorf(Invalid, "protocol %q is not known: use tcp, udp, icmpv6, any or a number from 0 to 255", b)
	}
	*p = Protocol(n)
	return nil
}

// PortRange is First to Last, both included.
type PortRange struct{ First, Last uint16 }

// Ports is a list of ports and port ranges, written as 22,8000-8999. Empty means
// every port.
type Ports []PortRange

func (p Ports) String() string {
	parts := make([]string, len(p))
	for i, r := range p {
		parts[i] = strconv.Itoa(int(r.First))
		if r.Last != r.First {
			parts[i] += "-" + strconv.Itoa(int(r.Last))
		}
	}
	return strings.Join(parts, ",")
}

// MarshalText writes the list as 22,8000-8999.
func (p Ports) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a list such as 22,8000-8999.
func (p *Ports) UnmarshalText(b []byte) error {
	*p = nil
	if len(b) == 0 {
		return nil
	}
	for part := range strings.SplitSeq(string(b), ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		f, err1 := strconv.ParseUint(first, 10, 16)
		l, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || f > l {
			return Errorf(Invalid, "ports %q: %q is not a port or a range: write them as 22,8000-8999", b, part)
		}
		*p = append(*p, PortRange{uint16(f), uint16(l)})
	}
	return nil
}

// ICMPType is an ICMPv6 type (RFC 4443 section 2.1) with or without a code,
// written as 128 or 1/4.
type ICMPType struct {
	Type, Code uint8
	HasCode    bool
}

func (t ICMPType) String() string {
	if t.HasCode {
		return fmt.Sprintf("%d/%d", t.Type, t.Code)
	}
	return strconv.Itoa(int(t.Type))
}

// MarshalText writes the type as 128 or 1/4.
func (t ICMPType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads a type such as 128 or 1/4.
func (t *ICMPType) UnmarshalText(b []byte) error {
	typ, code, hasCode := strings.Cut(string(b), "/")
	n, err := strconv.ParseUint(typ, 10, 8)
	var c uint64
	if err == nil && hasCode {
		c, err = strconv.ParseUint(code, 10, 8)
	}
	if err != nil {
		return Errorf(Invalid, "icmp type %q is not a type or type/code: write it as 128 or 1/4", b)
	}
	*t = ICMPType{uint8(n), uint8(c), hasCode}
	return nil
}

// Remote is the other end that a rule allows: a prefix or the members of a
// group. The zero value is anybody.
type Remote struct {
	Prefix netip.Prefix
	Group  string
}

func (r Remote) String() string {
	switch {
	case r.Group != "":
		return "group:" + r.Group
	case r.Prefix.IsValid():
		return r.Prefix.String()
	}
	return ""
}

// MarshalText writes the prefix, or the group as group:NAME.
func (r Remote) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a prefix, an address, or group:NAME.
func (r *Remote) UnmarshalText(b []byte) error {
	*r = Remote{}
	s := string(b)
	if s == "" {
		return nil
	}
	if name, ok := strings.CutPrefix(s, "group:"); ok {
		r.Group = name
		return ValidateName("group", name)
	}
	if a, err := netip.ParseAddr(s); err == nil {
		r.Prefix = netip.PrefixFrom(a, a.BitLen())
	} else if r.Prefix, err = netip.ParsePrefix(s); err != nil {
		return Errorf(Invalid, "remote %q is not a prefix or group:NAME: write it as 2001:db8::/32 or group:web", s)
	}
	switch {
	case !isIPv6(r.Prefix):
		return Errorf(Invalid, "remote %s is not an IPv6 prefix", s)
	case r.Prefix != r.Prefix.Masked():
		return Errorf(Invalid, "remote %s has host bits set: write %s", s, r.Prefix.Masked())
	}
	return nil
}

// Rule is one allowance of a group. It is asked for new connections; Cut alone
// says what becomes of those that it allowed when it goes or changes.
type Rule struct {
	ID              int       `json:"id,omitempty" readOnly:"true" doc:"Number of the rule in its group"`
	Direction       Direction `json:"direction" required:"true" enum:"in,out"`
	Protocol        Protocol  `json:"protocol" required:"true" doc:"tcp, udp, icmpv6, any or a number" example:"tcp"`
	Ports           Ports     `json:"ports,omitempty" doc:"Destination ports of tcp or udp; all if not given" example:"22,8000-8999"`
	ICMPType        *ICMPType `json:"icmpType,omitempty" doc:"Type or type/code of icmpv6; all if not given" example:"128"`
	Remote          Remote    `json:"remote,omitzero" doc:"The other end: a prefix or group:NAME; anybody if not given" example:"2001:db8::/32"`
	IncludePrefixes bool      `json:"includePrefixes,omitempty" doc:"Whether the members of a remote group are their delegated prefixes too, not only their addresses"`
	Cut             bool      `json:"cut,omitempty" doc:"Whether established connections that the rule allowed end once nothing allows them any more; else they go on"`
	Description     string    `json:"description,omitempty"`
}

// Validate refuses a rule that says nothing sensible.
func (r Rule) Validate() error {
	switch {
	case r.Direction != In && r.Direction != Out:
		return Errorf(Invalid, "direction %q is not known: use in or out", r.Direction)
	case len(r.Ports) > 0 && r.Protocol != TCP && r.Protocol != UDP:
		return Errorf(Invalid, "ports %s go with protocol tcp or udp, not %s", r.Ports, r.Protocol)
	case r.ICMPType != nil && r.Protocol != ICMPv6:
		return Errorf(Invalid, "icmp type %s goes with protocol icmpv6, not %s", r.ICMPType, r.Protocol)
	case r.IncludePrefixes && r.Remote.Group == "":
		return Errorf(Invalid, "include-prefixes goes with a remote group: give group:NAME as the remote, or leave it out")
	case len(r.Description) > 255:
		return Errorf(Invalid, "description of %d octets is longer than 255", len(r.Description))
	}
	return nil
}

// Group is a security group: what its members may receive and send beyond what
// every NIC may.
type Group struct {
	Name  string `json:"name" required:"true" example:"web"`
	Rules []Rule `json:"rules"`
}

// RemoteGroups names the groups that the rules refer to, sorted.
func (g Group) RemoteGroups() []string {
	var names []string
	for _, r := range g.Rules {
		if r.Remote.Group != "" {
			names = append(names, r.Remote.Group)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
