package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
)

// Messages of conntrack (linux/netfilter/nfnetlink_conntrack.h): what the kernel
// answers is a new entry, too.
const (
	connectionNew    = unix.NFNL_SUBSYS_CTNETLINK << 8
	connectionGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	connectionDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2
)

// CTA_PROTO_ICMPV6_TYPE and CTA_PROTO_ICMPV6_CODE.
const (
	protoICMPv6Type = 8
	protoICMPv6Code = 9
)

// EndConnections deletes the tracked IPv6 connections that match, of whatever
// zone, and returns how many. They are read as a stream, so that a full table
// takes no memory. A connection that is made meanwhile may be missed.
func (Links) EndConnections(match func(sixacre.Flow) bool) (ended int, err error) {
	deleting, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("ending connections: %w", err)
	}
	defer deleting.Close()
	socket := map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: deleting}}

	var failed error
	list := nl.NewNetlinkRequest(connectionGet, unix.NLM_F_DUMP)
	list.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET6, Version: nl.NFNETLINK_V0})
	err = list.ExecuteIter(unix.NETLINK_NETFILTER, connectionNew, func(message []byte) bool {
		c, ok := connectionOf(message)
		if !ok || !match(c.flow) {
			return true
		}
		request := nl.NewNetlinkRequest(connectionDelete, unix.NLM_F_ACK)
		request.Sockets = socket
		request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET6, Version: nl.NFNETLINK_V0})
		request.AddData(nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, c.tuple))
		if c.zone != nil {
			request.AddData(nl.NewRtAttr(nl.CTA_ZONE, c.zone))
		}
		if c.id != nil {
			request.AddData(nl.NewRtAttr(nl.CTA_ID, c.id))
		}
		switch _, err := request.Execute(unix.NETLINK_NETFILTER, 0); {
		case err == nil:
			ended++
		case !errors.Is(err, unix.ENOENT): // else it ended by itself
			failed = err // and the others are ended all the same
		}
		return true
	})
	if err = errors.Join(failed, err); err != nil {
		return ended, fmt.Errorf("ending connections, after %d: %w", ended, err)
	}
	return ended, nil
}

// connection is an entry of the table: what the flow is, and the very octets that
// name it.
type connection struct {
	flow            sixacre.Flow
	tuple, zone, id []byte
}

// connectionOf reads an entry of an IPv6 connection.
func connectionOf(message []byte) (connection, bool) {
	var c connection
	if len(message) < nl.SizeofNfgenmsg || message[0] != unix.AF_INET6 {
		return c, false
	}
	for kind, value := range attributesOf(message[nl.SizeofNfgenmsg:]) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			c.tuple = value
		case nl.CTA_ZONE:
			c.zone, c.flow.Zone = value, number16(value)
		case nl.CTA_ID:
			c.id = value
		}
	}
	for kind, value := range attributesOf(c.tuple) {
		switch kind {
		case nl.CTA_TUPLE_IP:
			for kind, value := range attributesOf(value) {
				switch a, _ := netip.AddrFromSlice(value); kind {
				case nl.CTA_IP_V6_SRC:
					c.flow.Source = a
				case nl.CTA_IP_V6_DST:
					c.flow.Destination = a
				}
			}
		case nl.CTA_TUPLE_PROTO:
			for kind, value := range attributesOf(value) {
				switch kind {
				case nl.CTA_PROTO_NUM:
					c.flow.Protocol = sixacre.Protocol(number8(value))
				case nl.CTA_PROTO_SRC_PORT:
					c.flow.SourcePort = number16(value)
				case nl.CTA_PROTO_DST_PORT:
					c.flow.DestinationPort = number16(value)
				case protoICMPv6Type:
					c.flow.ICMPType = number8(value)
				case protoICMPv6Code:
					c.flow.ICMPCode = number8(value)
				}
			}
		}
	}
	return c, c.flow.Source.Is6() && c.flow.Destination.Is6()
}

// attributesOf goes through netlink attributes, up to the first that is cut
// short.
func attributesOf(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofRtAttr || length > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[unix.SizeofRtAttr:length]) {
				return
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}

func number8(b []byte) uint8 {
	if len(b) != 1 {
		return 0
	}
	return b[0]
}

func number16(b []byte) uint16 {
	if len(b) != 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}
