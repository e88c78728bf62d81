package main

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// library is the least that answers from reservations with insomniacslk/dhcp, the
// library that CoreDHCP is made of: one goroutine, one map.
func library(at netip.Addr, reservations int) error {
	type reservation struct {
		address, prefix net.IP
	}
	byMAC := make(map[sixacre.MAC]reservation, reservations)
	for i := range uint64(reservations) {
		byMAC[clientMAC(i)] = reservation{clientAddr(i).AsSlice(), clientPrefix(i).Addr().AsSlice()}
	}
	mask := net.CIDRMask(pool.DelegatedLength, 128)
	duid, err := dhcpv6.DUIDFromBytes(serverDUID)
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, dhcp6.ServerPort)))
	if err != nil {
		return err
	}
	preferred, valid := preferredLifetime.Duration(), validLifetime.Duration()
	buffer := make([]byte, bufferSize)
	for {
		n, peer, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return err
		}
		relayed, err := dhcpv6.RelayMessageFromBytes(buffer[:n])
		if err != nil {
			continue
		}
		message, err := relayed.GetInnerMessage()
		if err != nil {
			continue
		}
		_, hardware := relayed.Options.ClientLinkLayerAddress()
		if len(hardware) != 6 {
			continue
		}
		r, known := byMAC[sixacre.MAC(hardware)]
		if !known {
			continue
		}
		var answer *dhcpv6.Message
		if message.MessageType == dhcpv6.MessageTypeSolicit {
			answer, err = dhcpv6.NewAdvertiseFromSolicit(message)
		} else {
			answer, err = dhcpv6.NewReplyFromMessage(message)
		}
		if err != nil {
			continue
		}
		answer.AddOption(dhcpv6.OptServerID(duid))
		if ia := message.Options.OneIANA(); ia != nil {
			answer.AddOption(&dhcpv6.OptIANA{IaId: ia.IaId, T1: preferred / 2, T2: preferred * 4 / 5, Options: dhcpv6.IdentityOptions{Options: []dhcpv6.Option{
				&dhcpv6.OptIAAddress{IPv6Addr: r.address, PreferredLifetime: preferred, ValidLifetime: valid},
			}}})
		}
		if ia := message.Options.OneIAPD(); ia != nil {
			answer.AddOption(&dhcpv6.OptIAPD{IaId: ia.IaId, T1: preferred / 2, T2: preferred * 4 / 5, Options: dhcpv6.PDOptions{Options: []dhcpv6.Option{
				&dhcpv6.OptIAPrefix{Prefix: &net.IPNet{IP: r.prefix, Mask: mask}, PreferredLifetime: preferred, ValidLifetime: valid},
			}}})
		}
		answer.AddOption(dhcpv6.OptDNS(dnsServer.AsSlice()))
		reply, err := dhcpv6.NewRelayReplFromRelayForw(relayed, answer)
		if err != nil {
			continue
		}
		if _, err := conn.WriteToUDPAddrPort(reply.ToBytes(), peer); err != nil {
			return err
		}
	}
}
