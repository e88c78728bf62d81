package sixacre

import (
	"net/netip"
	"time"
)

// DelegationState says whether a prefix is held or resting.
type DelegationState string

const (
	Delegated   DelegationState = "delegated"
	Quarantined DelegationState = "quarantine" // released, and not yet to be given again
)

// Delegation binds a prefix to a NIC, or keeps it out of use after its release
// until no lease, route or stale server can still speak for the old holder.
type Delegation struct {
	Prefix   netip.Prefix    `json:"prefix" example:"2001:db8:4000:10::/60"`
	State    DelegationState `json:"state" enum:"delegated,quarantine"`
	Instance string          `json:"instance" doc:"The holder, or the last one" example:"i-1"`
	MAC      MAC             `json:"mac"`
	Pod      string          `json:"pod" example:"pod1"`
	Granted  time.Time       `json:"granted"`
	Released time.Time       `json:"released,omitzero"`
	// Until is in the store's own time (see [Clock]), which never runs ahead
	// of the real one; shown as the earliest moment of reuse.
	Until time.Time `json:"until,omitzero" doc:"End of the quarantine, at the earliest"`
	// LongestLifetime is the longest valid lifetime that a lease on the prefix
	// may have been given since the grant.
	LongestLifetime Seconds `json:"longestLifetime" format:"int64" doc:"Longest valid lifetime since the grant, seconds"`
}
