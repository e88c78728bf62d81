package sixacre

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// PodKind says what carries the pod's layer 2 to the world.
type PodKind string

const (
	Basic    PodKind = "basic"    // physical routers relay DHCPv6 and route the prefixes
	Isolated PodKind = "isolated" // a virtual router does; not available yet
)

// Addressing says where an instance's address comes from.
type Addressing string

const (
	SLAAC  Addressing = "slaac"  // computed from link prefix and MAC (RFC 4862 section 5.5, RFC 4291 appendix A)
	DHCPv6 Addressing = "dhcpv6" // random, stored, and handed out as IA_NA (RFC 9915 section 21.4)
)

// Managed says which flags the Router Advertisements of a slaac pod carry
// (RFC 4861 section 4.2, RFC 4862 section 5.5.3). In a dhcpv6 pod they are
// always A=0, M=1, O=1.
type Managed string

const (
	ManagedAlso Managed = "also" // A=1, M=1, O=1: the default, because systemd-networkd and NetworkManager ask for a prefix only then
	ManagedNo   Managed = "no"   // A=1, M=0, O=1
	ManagedOnly Managed = "only" // A=0, M=1, O=1: guests that make their own interface identifier take the EUI-64 address as IA_NA
)

// Identifier is a way to learn the MAC behind a relayed DHCPv6 message.
type Identifier string

const (
	ByClientLinkLayer Identifier = "client-linklayer" // option 79 of a trusted relay (RFC 6939)
	ByRemoteID        Identifier = "remote-id"        // option 37 of a trusted relay (RFC 4649)
	ByDUID            Identifier = "duid"             // the MAC in a DUID-LL or DUID-LLT: the client's own claim, untrusted
)

// RemoteIDFormat says how the pod's relays write a MAC into option 37. It is
// one per pod and never guessed.
type RemoteIDFormat string

// In each format four octets of enterprise number come first (RFC 4649 section
// 3), whatever it is.
const (
	// RemoteIDRaw is the six octets of the MAC. So writes sixacre router, and so
	// Kea reads it as a source of MACs ("remote-id").
	RemoteIDRaw RemoteIDFormat = "raw"
	// RemoteIDDUID is the client's DUID. So write Nokia's access nodes and
	// routers: a capture, enterprise number 6527, is among the test packets of Kea.
	RemoteIDDUID RemoteIDFormat = "duid"
	// RemoteIDHuawei is the client's DUID in hexadecimal text, a space, and
	// where the client is connected, which does not matter here. So Huawei's
	// switches write it by default ("dhcpv6 remote-id format default" in their
	// command reference).
	RemoteIDHuawei RemoteIDFormat = "huawei"
)

// Untrusted reports whether the format carries what the client says of itself,
// and so proves no more than the DUID does.
func (f RemoteIDFormat) Untrusted() bool { return f == RemoteIDDUID || f == RemoteIDHuawei }

// UnknownClients says what a client that no record knows is told.
type UnknownClients string

const (
	Ignore UnknownClients = "ignore" // nothing
	Refuse UnknownClients = "refuse" // NoAddrsAvail and NoPrefixAvail
)

// DHCPServer says who answers the pod's DHCPv6.
type DHCPServer string

const (
	Builtin DHCPServer = "builtin" // sixacre server
	Kea     DHCPServer = "kea"     // ISC Kea from our reservations; not available yet
)

// AntiSpoof says which source addresses of the link prefix a NIC may use, always
// with its own MAC. Its link-locals and delegated prefixes it may use either way.
type AntiSpoof string

const (
	AntiSpoofAddress    AntiSpoof = "address"     // its own address alone
	AntiSpoofLinkPrefix AntiSpoof = "link-prefix" // any address of the /64 that no other NIC has, for guests with temporary addresses (RFC 8981)
)

// Echo says which ICMPv6 echo requests reach a guest that did not ask for them
// (RFC 4890 section 4.3.1).
type Echo string

const (
	EchoAllow Echo = "allow" // all
	EchoRules Echo = "rules" // those that a rule of one of its groups allows
)

// Seconds is a lifetime in seconds, as RA and DHCPv6 carry it.
type Seconds uint32

// Infinity is the lifetime that never ends (RFC 9915 section 7.7, RFC 4861
// section 4.6.2).
const Infinity Seconds = 0xffffffff

// Duration returns the lifetime as a time.Duration.
func (s Seconds) Duration() time.Duration { return time.Duration(s) * time.Second }

func (s Seconds) String() string {
	if s == Infinity {
		return "infinity"
	}
	return s.Duration().String()
}

// ParseSeconds reads a lifetime as a Go duration of whole seconds ("4h") or a
// plain number of seconds, in either case at least one.
func ParseSeconds(v string) (Seconds, error) {
	if n, err := strconv.ParseUint(v, 10, 32); err == nil && n > 0 {
		return Seconds(n), nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 || d%time.Second != 0 || d/time.Second >= time.Duration(Infinity) {
		return 0, Errorf(Invalid, "lifetime %q is not a positive number of seconds or duration: write it as 4h or 14400", v)
	}
	return Seconds(d / time.Second), nil
}

// Default lifetimes of addresses and prefixes.
const (
	DefaultValidLifetime     Seconds = 12 * 3600
	DefaultPreferredLifetime Seconds = 4 * 3600
)

// MaxStale is how long a DHCPv6 server may answer from a state that it could
// not confirm against the store; a released prefix rests for this long beyond
// its valid lifetime.
const MaxStale = 24 * time.Hour

// DefaultDelegatedLength is the length of the prefixes of a pool that does not
// say.
const DefaultDelegatedLength = 60

// maxPoolBits bounds the number of prefixes in a pool to 2^32.
const maxPoolBits = 32

// maxDNS is how many DNS servers a pod may have, and maxSearchList how many
// octets its search list on the wire. Each makes one option of at most 248 octets
// in a Router Advertisement: it may not be fragmented (RFC 6980 section 5), and
// mdlayher/ndp cannot write a longer option.
const (
	maxDNS        = 15
	maxSearchList = 240
)

// maxOptions is how many octets a pod's NTP servers and further options may take
// in an answer, so that it stays within few fragments whatever is asked.
const maxOptions = 1024

// Pool is a block that prefixes are delegated from. It is routed to the pod's
// routers by the network administrator.
type Pool struct {
	Prefix          netip.Prefix `json:"prefix" required:"true" doc:"The block, routed to the pod's routers" example:"2001:db8:4000::/40"`
	DelegatedLength int          `json:"delegatedLength,omitempty" doc:"Length of each delegated prefix, 48 to 64; 60 if not given" example:"60"`
}

// ParsePool reads P/LEN=DELEGATED, where =DELEGATED may be left out.
func ParsePool(s string) (Pool, error) {
	prefix, length, given := strings.Cut(s, "=")
	p := Pool{DelegatedLength: DefaultDelegatedLength}
	var err error
	if p.Prefix, err = netip.ParsePrefix(prefix); err != nil {
		return Pool{}, Errorf(Invalid, "pool %q is not a prefix: write it as 2001:db8:4000::/40=60", s)
	}
	if given {
		if p.DelegatedLength, err = strconv.Atoi(length); err != nil {
			return Pool{}, Errorf(Invalid, "pool %q: delegated length %q is not a number: write it as 2001:db8:4000::/40=60", s, length)
		}
	}
	return p, nil
}

func (p Pool) String() string { return fmt.Sprintf("%s=%d", p.Prefix, p.DelegatedLength) }

// Bits is the number of bits that tell the pool's prefixes apart: it holds
// 2^Bits of them.
func (p Pool) Bits() int { return p.DelegatedLength - p.Prefix.Bits() }

// Holds reports whether q is one of the prefixes that the pool delegates.
func (p Pool) Holds(q netip.Prefix) bool {
	return q.Bits() == p.DelegatedLength && p.Prefix.Contains(q.Addr()) && q == q.Masked()
}

func (p Pool) validate() error {
	switch {
	case !isIPv6(p.Prefix):
		return Errorf(Invalid, "pool %s is not an IPv6 prefix: write it as 2001:db8:4000::/40=60", p.Prefix)
	case p.Prefix != p.Prefix.Masked():
		return Errorf(Invalid, "pool %s has host bits set: write %s", p.Prefix, p.Prefix.Masked())
	case !unicast(p.Prefix.Addr()):
		return Errorf(Invalid, "pool %s is not global unicast: give a block that is routed to the pod", p.Prefix)
	case p.DelegatedLength < 48 || p.DelegatedLength > 64:
		return Errorf(Invalid, "pool %s: delegated length %d is not between 48 and 64", p.Prefix, p.DelegatedLength)
	case p.DelegatedLength < p.Prefix.Bits():
		return Errorf(Invalid, "pool %s: delegated length %d is shorter than the pool: give one from %d to 64",
			p.Prefix, p.DelegatedLength, max(48, p.Prefix.Bits()))
	case p.Bits() > maxPoolBits:
		return Errorf(Invalid, "pool %s: a /%d has more than 2^%d prefixes of length %d: give a pool of /%d or longer",
			p.Prefix, p.Prefix.Bits(), maxPoolBits, p.DelegatedLength, p.DelegatedLength-maxPoolBits)
	}
	return nil
}

// Pod is one layer-2 network: one link prefix with Router Advertisements, and
// the pools that its instances' prefixes come from.
type Pod struct {
	Name              string         `json:"name" required:"true" doc:"Letters, digits, dot, dash and underscore" example:"pod1"`
	Kind              PodKind        `json:"kind,omitempty" enum:"basic,isolated" doc:"What carries the layer 2; basic if not given"`
	LinkPrefix        netip.Prefix   `json:"linkPrefix" required:"true" doc:"The /64 on the link" example:"2001:db8:100:1::/64"`
	Addressing        Addressing     `json:"addressing,omitempty" enum:"slaac,dhcpv6" doc:"Where an instance's address comes from; slaac if not given"`
	Managed           Managed        `json:"managed,omitempty" enum:"also,no,only" doc:"Flags of the RAs of a slaac pod: also is A=1 M=1, no is A=1 M=0, only is A=0 M=1"`
	Pools             []Pool         `json:"pools,omitempty" doc:"Blocks that prefixes are delegated from"`
	Identify          []Identifier   `json:"identify,omitempty" enum:"client-linklayer,remote-id,duid" doc:"What tells the MAC of a client, in order; client-linklayer,remote-id if not given"`
	RemoteIDFormat    RemoteIDFormat `json:"remoteIdFormat,omitempty" enum:"raw,duid,huawei" doc:"How the relays tell a client in option 37: raw is its MAC; duid and huawei carry its DUID, which proves nothing, and need duid in identify"`
	Relays            []netip.Addr   `json:"relays,omitempty" doc:"The exact addresses of the pod's relays; with none given nobody gets an answer"`
	InterfaceIDs      []string       `json:"interfaceIds,omitempty" doc:"Interface-Ids (option 18) of the pod, for relays whose link-address is :: or link-local"`
	RouterLinkLocals  []netip.Addr   `json:"routerLinkLocals,omitempty" doc:"Link-local addresses of the pod's routers"`
	ValidLifetime     Seconds        `json:"validLifetime,omitempty" format:"int64" doc:"Valid lifetime of addresses and prefixes, seconds" example:"43200"`
	PreferredLifetime Seconds        `json:"preferredLifetime,omitempty" format:"int64" doc:"Preferred lifetime of addresses and prefixes, seconds" example:"14400"`
	DNS               []netip.Addr   `json:"dns,omitempty" doc:"Recursive DNS servers"`
	Domains           []string       `json:"domains,omitempty" doc:"DNS search list"`
	NTP               []NTPServer    `json:"ntp,omitempty" doc:"NTP servers: IPv6 addresses, multicast ones too, or names (RFC 5908)"`
	Options           []Option       `json:"options,omitempty" doc:"Further DHCPv6 options, for clients that ask for them"`
	Preference        uint8          `json:"preference,omitempty" maximum:"255" doc:"Server preference in Advertise: clients take an offer of 255 without waiting for others; 0 if not given" example:"255"`
	UnknownClients    UnknownClients `json:"unknownClients,omitempty" enum:"ignore,refuse" doc:"What an unknown client is told; ignore if not given"`
	DHCP              DHCPServer     `json:"dhcp,omitempty" enum:"builtin,kea" doc:"Who answers DHCPv6; builtin if not given"`
	AntiSpoof         AntiSpoof      `json:"antiSpoof,omitempty" enum:"address,link-prefix" doc:"Which addresses of the link prefix a NIC may send from: its own alone, or any that no other NIC has; address if not given"`
	Echo              Echo           `json:"echo,omitempty" enum:"allow,rules" doc:"Which echo requests reach a guest: all, or those that a rule of one of its groups allows; allow if not given"`
}

// WithDefaults returns the pod with every field that has a default and was not
// given set to it.
func (p Pod) WithDefaults() Pod {
	p.Kind = orDefault(p.Kind, Basic)
	p.Addressing = orDefault(p.Addressing, SLAAC)
	p.Managed = orDefault(p.Managed, ManagedAlso)
	p.RemoteIDFormat = orDefault(p.RemoteIDFormat, RemoteIDRaw)
	p.UnknownClients = orDefault(p.UnknownClients, Ignore)
	p.DHCP = orDefault(p.DHCP, Builtin)
	p.AntiSpoof = orDefault(p.AntiSpoof, AntiSpoofAddress)
	p.Echo = orDefault(p.Echo, EchoAllow)
	p.ValidLifetime = orDefault(p.ValidLifetime, max(DefaultValidLifetime, p.PreferredLifetime))
	p.PreferredLifetime = orDefault(p.PreferredLifetime, min(DefaultPreferredLifetime, p.ValidLifetime))
	if len(p.Identify) == 0 {
		p.Identify = []Identifier{ByClientLinkLayer, ByRemoteID}
	}
	p.Pools = slices.Clone(p.Pools)
	for i := range p.Pools {
		p.Pools[i].DelegatedLength = orDefault(p.Pools[i].DelegatedLength, DefaultDelegatedLength)
	}
	return p
}

// Autonomous reports whether guests form their own address from the RA's
// prefix (the A flag, RFC 4861 section 4.6.2).
func (p Pod) Autonomous() bool { return p.Addressing == SLAAC && p.Managed != ManagedOnly }

// ManagedFlag reports whether RAs send guests to DHCPv6 for addresses (the M
// flag, RFC 4861 section 4.2).
func (p Pod) ManagedFlag() bool { return p.Addressing == DHCPv6 || p.Managed != ManagedNo }

// Validate refuses a pod that cannot work, whatever other pods there are. The
// pod has its defaults.
func (p Pod) Validate() error {
	if err := ValidateName("pod", p.Name); err != nil {
		return err
	}
	if err := p.validate(); err != nil {
		return Errorf(CodeOf(err), "pod %s: %s", p.Name, err)
	}
	return nil
}

func (p Pod) validate() error {
	switch {
	case p.Kind == Isolated:
		return Errorf(Invalid, "kind isolated is not available yet: there is no virtual router; use basic")
	case p.Kind != Basic:
		return Errorf(Invalid, "kind %q is not known: use basic", p.Kind)
	case !isIPv6(p.LinkPrefix) || p.LinkPrefix.Bits() != 64:
		return Errorf(Invalid, "link prefix %s is not an IPv6 /64: SLAAC takes a /64 exactly (RFC 4862), such as 2001:db8:100:1::/64", p.LinkPrefix)
	case p.LinkPrefix != p.LinkPrefix.Masked():
		return Errorf(Invalid, "link prefix %s has host bits set: write %s", p.LinkPrefix, p.LinkPrefix.Masked())
	case !unicast(p.LinkPrefix.Addr()):
		return Errorf(Invalid, "link prefix %s is not global unicast: give the /64 of the pod's link", p.LinkPrefix)
	case !oneOf(p.Addressing, SLAAC, DHCPv6):
		return Errorf(Invalid, "addressing %q is not known: use slaac or dhcpv6", p.Addressing)
	case !oneOf(p.Managed, ManagedAlso, ManagedNo, ManagedOnly):
		return Errorf(Invalid, "managed %q is not known: use also, no or only", p.Managed)
	case !oneOf(p.RemoteIDFormat, RemoteIDRaw, RemoteIDDUID, RemoteIDHuawei):
		return Errorf(Invalid, "remote-id format %q is not known: use raw, duid or huawei", p.RemoteIDFormat)
	case p.RemoteIDFormat.Untrusted() && slices.Contains(p.Identify, ByRemoteID) && !slices.Contains(p.Identify, ByDUID):
		return Errorf(Invalid, "remote-id format %s carries the client's own DUID, which proves nothing: add duid to identify if you take its word, or leave remote-id out", p.RemoteIDFormat)
	case !oneOf(p.UnknownClients, Ignore, Refuse):
		return Errorf(Invalid, "unknown-clients %q is not known: use ignore or refuse", p.UnknownClients)
	case p.DHCP == Kea:
		return Errorf(Invalid, "dhcp kea is not available yet: use builtin")
	case p.DHCP != Builtin:
		return Errorf(Invalid, "dhcp %q is not known: use builtin", p.DHCP)
	case !oneOf(p.AntiSpoof, AntiSpoofAddress, AntiSpoofLinkPrefix):
		return Errorf(Invalid, "anti-spoof %q is not known: use address or link-prefix", p.AntiSpoof)
	case !oneOf(p.Echo, EchoAllow, EchoRules):
		return Errorf(Invalid, "echo %q is not known: use allow or rules", p.Echo)
	case p.ValidLifetime == Infinity:
		return Errorf(Invalid, "valid lifetime infinity would keep a released prefix out of use for ever: give a duration")
	case p.PreferredLifetime > p.ValidLifetime:
		return Errorf(Invalid, "preferred lifetime %s is longer than the valid lifetime %s (RFC 9915 section 21.6)", p.PreferredLifetime, p.ValidLifetime)
	}
	for i, id := range p.Identify {
		if !oneOf(id, ByClientLinkLayer, ByRemoteID, ByDUID) {
			return Errorf(Invalid, "identify %q is not known: use client-linklayer, remote-id or duid", id)
		}
		if slices.Contains(p.Identify[:i], id) {
			return Errorf(Invalid, "identify %s is given twice", id)
		}
	}
	for i, pool := range p.Pools {
		if err := pool.validate(); err != nil {
			return err
		}
		if pool.Prefix.Overlaps(p.LinkPrefix) {
			return Errorf(Invalid, "link prefix %s and pool %s overlap: the link prefix is not part of a pool", p.LinkPrefix, pool.Prefix)
		}
		for _, other := range p.Pools[:i] {
			if pool.Prefix.Overlaps(other.Prefix) {
				return Errorf(Invalid, "pools %s and %s overlap", other.Prefix, pool.Prefix)
			}
		}
	}
	for i, a := range p.Relays {
		if !a.Is6() || a.Is4In6() || a.IsMulticast() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.Zone() != "" {
			return Errorf(Invalid, "relay %s is not an address that a relay sends to the server from: give its global IPv6 address", a)
		}
		if slices.Contains(p.Relays[:i], a) {
			return Errorf(Invalid, "relay %s is given twice", a)
		}
		for _, pool := range p.Pools {
			if pool.Prefix.Contains(a) {
				return Errorf(Invalid, "relay %s is inside pool %s: an address that an instance can hold is never a relay", a, pool.Prefix)
			}
		}
	}
	for _, a := range p.RouterLinkLocals {
		if !a.Is6() || !a.IsLinkLocalUnicast() || a.Zone() != "" {
			return Errorf(Invalid, "router link-local %s is not a link-local address: write it as fe80::1", a)
		}
	}
	for i, id := range p.InterfaceIDs {
		if id == "" || slices.Contains(p.InterfaceIDs[:i], id) {
			return Errorf(Invalid, "interface-id %q is empty or given twice: give what the relays send in option 18", id)
		}
	}
	if len(p.DNS) > maxDNS {
		return Errorf(Invalid, "%d dns servers are more than the %d that fit into a Router Advertisement: leave some out", len(p.DNS), maxDNS)
	}
	for _, a := range p.DNS {
		if !a.Is6() || a.Is4In6() || a.IsMulticast() || a.IsUnspecified() || a.Zone() != "" {
			return Errorf(Invalid, "dns %s is not an IPv6 unicast address", a)
		}
	}
	octets := 0
	for _, d := range p.Domains {
		if !isDomain(d) {
			return Errorf(Invalid, "domain %q is not a DNS name: write it as example.net", d)
		}
		if octets += len(d) + 2; octets > maxSearchList {
			return Errorf(Invalid, "domain %q makes the search list longer than the %d octets that fit into a Router Advertisement: leave some out", d, maxSearchList)
		}
	}
	return p.validateOptions()
}

func (p Pod) validateOptions() error {
	octets := 0
	for _, n := range p.NTP {
		if _, err := ParseNTPServer(n.String()); err != nil {
			return err
		}
		octets += n.octets()
	}
	for i, o := range p.Options {
		if err := o.validate(); err != nil {
			return err
		}
		if slices.ContainsFunc(p.Options[:i], func(other Option) bool { return other.Code == o.Code }) {
			return Errorf(Invalid, "option %d is given twice: put all that clients shall get into one value", o.Code)
		}
		octets += 4 + len(o.Value)
	}
	if octets > maxOptions {
		return Errorf(Invalid, "ntp servers and options take %d octets, more than the %d that an answer has room for: leave some out", octets, maxOptions)
	}
	return nil
}

// ValidateBeside refuses a pod whose link prefix or pools collide with those of
// another pod.
func (p Pod) ValidateBeside(other Pod) error {
	if p.LinkPrefix.Overlaps(other.LinkPrefix) {
		return Errorf(Conflict, "pod %s: link prefix %s is that of pod %s", p.Name, p.LinkPrefix, other.Name)
	}
	for _, pool := range p.Pools {
		if pool.Prefix.Overlaps(other.LinkPrefix) {
			return Errorf(Conflict, "pod %s: pool %s overlaps link prefix %s of pod %s", p.Name, pool.Prefix, other.LinkPrefix, other.Name)
		}
		for _, q := range other.Pools {
			if pool.Prefix.Overlaps(q.Prefix) {
				return Errorf(Conflict, "pod %s: pool %s overlaps pool %s of pod %s", p.Name, pool.Prefix, q.Prefix, other.Name)
			}
		}
		for _, a := range other.Relays {
			if pool.Prefix.Contains(a) {
				return Errorf(Conflict, "pod %s: pool %s holds relay %s of pod %s", p.Name, pool.Prefix, a, other.Name)
			}
		}
	}
	for _, id := range p.InterfaceIDs {
		shared := func(a netip.Addr) bool { return slices.Contains(other.Relays, a) }
		if slices.Contains(other.InterfaceIDs, id) && slices.ContainsFunc(p.Relays, shared) {
			return Errorf(Conflict, "pod %s: interface-id %q is that of pod %s, behind the same relay: give each its own", p.Name, id, other.Name)
		}
	}
	for _, q := range other.Pools {
		if q.Prefix.Overlaps(p.LinkPrefix) {
			return Errorf(Conflict, "pod %s: link prefix %s overlaps pool %s of pod %s", p.Name, p.LinkPrefix, q.Prefix, other.Name)
		}
		for _, a := range p.Relays {
			if q.Prefix.Contains(a) {
				return Errorf(Conflict, "pod %s: relay %s is inside pool %s of pod %s", p.Name, a, q.Prefix, other.Name)
			}
		}
	}
	return nil
}

// PoolOf returns the pool of the pod that delegates q.
func (p Pod) PoolOf(q netip.Prefix) (Pool, bool) {
	for _, pool := range p.Pools {
		if pool.Holds(q) {
			return pool, true
		}
	}
	return Pool{}, false
}

// ValidateName refuses names that could not be typed, shown or used as part of
// a key: 1 to 63 letters, digits, dots, dashes and underscores, the first a
// letter or digit.
func ValidateName(noun, name string) error {
	ok := name != "" && len(name) <= 63
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = alnum || i > 0 && (c == '.' || c == '-' || c == '_')
	}
	if !ok {
		return Errorf(Invalid, "%s name %q is not valid: use 1 to 63 letters, digits, dots, dashes and underscores, the first a letter or digit", noun, name)
	}
	return nil
}

func isIPv6(p netip.Prefix) bool { return p.IsValid() && p.Addr().Is6() && !p.Addr().Is4In6() }

func unicast(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsLinkLocalUnicast()
}

// isDomain reports whether d is a name of RFC 1035 section 2.3.4 sizes made of
// letters, digits, dashes and underscores.
func isDomain(d string) bool {
	if d == "" || len(d) > 253 {
		return false
	}
	for label := range strings.SplitSeq(d, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c|0x20 < 'a' && (c < '0' || c > '9') && c != '-' && c != '_' || c|0x20 > 'z' && c != '_' {
				return false
			}
		}
	}
	return true
}

func oneOf[T comparable](v T, of ...T) bool { return slices.Contains(of, v) }

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
