package sixacre

import (
	"net/netip"
	"strings"
	"time"
)

// Kind is a kind of record.
type Kind string

const (
	KindPod        Kind = "pods"
	KindInstance   Kind = "instances"
	KindDelegation Kind = "delegations"
	KindClaim      Kind = "claims"
	KindGroup      Kind = "groups"
	KindHost       Kind = "hosts"
	KindPeer       Kind = "peers"
	KindToken      Kind = "tokens"
	KindSetting    Kind = "settings"
	KindSighting   Kind = "sightings" // not part of what is watched
)

// Key names one record. It is written as kind/name.
type Key struct {
	Kind Kind
	Name string
}

func (k Key) String() string { return string(k.Kind) + "/" + k.Name }

// MarshalText writes the key as kind/name.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads kind/name.
func (k *Key) UnmarshalText(b []byte) error {
	kind, name, ok := strings.Cut(string(b), "/")
	if !ok {
		return Errorf(Invalid, "key %q is not kind/name", b)
	}
	*k = Key{Kind(kind), name}
	return nil
}

// Noun is a thing with a record of its own.
type Noun interface{ Key() Key }

func (p Pod) Key() Key        { return Key{KindPod, p.Name} }
func (i Instance) Key() Key   { return Key{KindInstance, i.Name} }
func (d Delegation) Key() Key { return DelegationKey(d.Prefix) }
func (g Group) Key() Key      { return Key{KindGroup, g.Name} }
func (h Host) Key() Key       { return Key{KindHost, h.Name} }
func (p Peer) Key() Key       { return Key{KindPeer, p.Name} }
func (t Token) Key() Key      { return Key{KindToken, t.Name} }
func (c Claim) Key() Key      { return Key{KindClaim, c.Name} }
func (s ServerID) Key() Key   { return ServerIDKey }
func (c Clock) Key() Key      { return ClockKey }

// DelegationKey names the delegation of a prefix. One prefix has one key, so
// the key itself is the guard that no two NICs hold it.
func DelegationKey(p netip.Prefix) Key { return Key{KindDelegation, p.String()} }

// Claim keeps a MAC or a learned link-local address of a pod, an address, or a
// device of a host from being that of two NICs.
type Claim struct {
	Name     string `json:"name"`
	Instance string `json:"instance"`
	MAC      MAC    `json:"mac"`
	Pod      string `json:"pod"`
	// Declined is when, in the store's own time, the NIC got another address
	// because its client found this one on the link: the claim then keeps it from
	// being given to anybody. Zero for what the NIC has.
	Declined time.Time `json:"declined,omitzero"`
	// Learned is when, in the store's own time, the NIC was granted the learned
	// link-local address that this claims.
	Learned time.Time `json:"learned,omitzero"`
}

// MACClaim names the claim of a MAC in a pod.
func MACClaim(pod string, mac MAC) Key { return Key{KindClaim, MACClaims(pod) + mac.String()} }

// MACClaims is what the names of all MAC claims of a pod start with.
func MACClaims(pod string) string { return "mac/" + pod + "/" }

// ParseMACClaim returns the pod and the MAC that a key claims, and false if it is
// not that of a MAC claim.
func ParseMACClaim(k Key) (pod string, mac MAC, ok bool) {
	rest, ok := strings.CutPrefix(k.Name, "mac/")
	pod, text, cut := strings.Cut(rest, "/")
	if k.Kind != KindClaim || !ok || !cut {
		return "", MAC{}, false
	}
	mac, err := ParseMAC(text)
	return pod, mac, err == nil
}

// AddressClaim names the claim of an address.
func AddressClaim(a netip.Addr) Key { return Key{KindClaim, "address/" + a.String()} }

// LinkLocalClaim names the claim of a learned link-local address in a pod. That of
// the predicted one is the claim of the MAC that makes it.
func LinkLocalClaim(pod string, a netip.Addr) Key {
	return Key{KindClaim, "link-local/" + pod + "/" + a.String()}
}

// DeviceClaim names the claim of a running NIC to its tap on a host.
func DeviceClaim(host, device string) Key {
	return Key{KindClaim, "device/" + host + "/" + device}
}

// ServerID is the one server DUID under which every replica answers (RFC 9915
// section 11), without option code and length.
type ServerID struct {
	DUID []byte `json:"duid"`
}

// Clock is the store's own time: it advances only while a server runs, never
// faster than that server's monotonic clock and never faster than its wall
// clock. So a wall clock that jumps ahead ends no quarantine early.
type Clock struct {
	Now time.Time `json:"now"`
}

var (
	ServerIDKey = Key{KindSetting, "server-id"}
	ClockKey    = Key{KindSetting, "clock"}
)

// Record is a noun as the store holds it. Where there is none, Noun is nil and
// Revision 0.
type Record struct {
	Noun     Noun
	Revision int64 // store revision of its last change
}

// Event is a change of one record. Noun is nil where the record is gone.
type Event struct {
	Key      Key
	Noun     Noun
	Revision int64
}

// Seen is a condition of a [Txn]: the record still has the revision at which it
// was read, 0 meaning that it does not exist.
type Seen struct {
	Key      Key
	Revision int64
}

// RangeSeen is a condition of a [Txn]: no record of the kind whose name starts
// with Under was made or changed after the revision, 0 meaning that there is
// none at all.
type RangeSeen struct {
	Kind     Kind
	Under    string
	Revision int64
}

// Txn is written whole if all of its conditions hold, or else not at all.
type Txn struct {
	Seen      []Seen
	RangeSeen []RangeSeen
	Put       []Noun
	Delete    []Key
}
