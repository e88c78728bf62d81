package dhcpd

import (
	"context"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/sixacre/sixacre"
)

// A client that finds its address in use gets another, whichever servers it told.
func TestDeclinedAddressIsReplaced(t *testing.T) {
	c := newCluster(t)
	pod := pod1
	pod.Addressing, pod.Pools, pod.Managed = sixacre.DHCPv6, nil, ""
	_, err := c.CreatePod(t.Context(), pod)
	c.must(err)
	c.must(c.Tick(t.Context()))
	i, err := c.deploy("i-1", mac1)
	c.must(err)
	before := i.NICs[0].Address
	for range 2 {
		r := c.replica()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = r.Tell(ctx, c.Sight) }()
		t.Cleanup(func() { cancel(); <-ended })
		wait(t, r.index.seen.on.Load)
	}

	client := dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac1[:]})
	// exchange sends a message with an IA_NA and returns the address in the answer.
	exchange := func(r *replica, kind dhcpv6.MessageType, leases ...dhcpv6.Option) (given netip.Addr) {
		t.Helper()
		m, err := dhcpv6.NewMessage(client)
		c.must(err)
		m.MessageType = kind
		m.AddOption(&dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 1}, Options: dhcpv6.IdentityOptions{Options: leases}})
		if kind == dhcpv6.MessageTypeDecline {
			m.AddOption(dhcpv6.OptServerID(r.serverID()))
		}
		r.send(mac1, m)
		got, _ := r.receive()
		for _, na := range got.Options.IANA() {
			if a := na.Options.OneAddress(); a != nil {
				given, _ = netip.AddrFromSlice(a.IPv6Addr)
			}
		}
		return given
	}
	for _, r := range c.replicas {
		if given := exchange(r, dhcpv6.MessageTypeSolicit); given != before {
			t.Fatalf("before: %s, want %s", given, before)
		}
	}
	for _, r := range c.replicas {
		exchange(r, dhcpv6.MessageTypeDecline, &dhcpv6.OptIAAddress{IPv6Addr: before.AsSlice()})
	}
	wait(t, func() bool {
		i, err = c.Instance(t.Context(), "i-1")
		return err == nil && i.NICs[0].Address != before
	})
	if i.NICs[0].Declined != before {
		t.Errorf("the record has %+v", i.NICs[0])
	}
	c.settle()
	for _, r := range c.replicas {
		if given := exchange(r, dhcpv6.MessageTypeSolicit); given != i.NICs[0].Address {
			t.Errorf("after: %s, want %s", given, i.NICs[0].Address)
		}
	}
}
