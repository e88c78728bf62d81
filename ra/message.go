// Package ra sends a pod's Router Advertisements (RFC 4861).
package ra

import (
	"net"
	"time"

	"github.com/mdlayher/ndp"

	"github.com/sixacre/sixacre"
)

// MaxInterval is the longest time between two Router Advertisements to all
// (MaxRtrAdvInterval, RFC 4861 section 6.2.1), and DefaultLifetime how long a
// guest keeps the router as a default router after the last one, by the same
// section's default of three times that.
const (
	MaxInterval     = 600 * time.Second
	minInterval     = 198 * time.Second // MinRtrAdvInterval: 0.33 * MaxInterval
	DefaultLifetime = 3 * MaxInterval
)

// MaxLifetime is the longest that a router may announce itself for (RFC 4861
// section 6.2.1).
const MaxLifetime = 9000 * time.Second

// Source is the router that speaks.
type Source struct {
	MAC      sixacre.MAC
	MTU      uint32        // octets; 0 to say nothing
	Lifetime time.Duration // as a default router, 0 to MaxLifetime; 0 is no default router
}

// Message returns the Router Advertisement of a pod.
func Message(pod sixacre.Pod, from Source) *ndp.RouterAdvertisement {
	m := &ndp.RouterAdvertisement{
		CurrentHopLimit:      64,
		ManagedConfiguration: pod.ManagedFlag(),
		OtherConfiguration:   true, // DNS servers and search list by DHCPv6, too
		RouterLifetime:       from.Lifetime,
		Options: []ndp.Option{
			&ndp.PrefixInformation{
				PrefixLength:                   uint8(pod.LinkPrefix.Bits()),
				OnLink:                         true,
				AutonomousAddressConfiguration: pod.Autonomous(),
				ValidLifetime:                  pod.ValidLifetime.Duration(),
				PreferredLifetime:              pod.PreferredLifetime.Duration(),
				Prefix:                         pod.LinkPrefix.Addr(),
			},
			&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr(from.MAC[:])},
		},
	}
	if from.MTU > 0 {
		m.Options = append(m.Options, ndp.NewMTU(from.MTU))
	}
	// DNS servers and names are good for as long as they take to be announced
	// three times (RFC 8106 section 5.1).
	if len(pod.DNS) > 0 {
		m.Options = append(m.Options, &ndp.RecursiveDNSServer{Lifetime: 3 * MaxInterval, Servers: pod.DNS})
	}
	if len(pod.Domains) > 0 {
		m.Options = append(m.Options, &ndp.DNSSearchList{Lifetime: 3 * MaxInterval, DomainNames: pod.Domains})
	}
	return m
}

// final returns the same message from a router that is none any more (RFC 4861
// section 6.2.5).
func final(m ndp.RouterAdvertisement) *ndp.RouterAdvertisement {
	m.RouterLifetime = 0
	return &m
}
