package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
)

// Packet is what a log rule of the filter saw.
type Packet struct {
	In, Out string // the bridge's ports, "" where the packet had none yet
	Mark    uint32 // of a packet that is dropped: the firewall.Reason
	Prefix  string // as the rule has it
	Data    []byte // from the IP header on, as much as the rule gives; good only until the call returns
}

// Of linux/netfilter/nfnetlink_log.h.
const (
	logPacket = unix.NFNL_SUBSYS_ULOG << 8
	logConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1

	logCommand      = 1 // NFULA_CFG_CMD
	logBind         = 1
	logMode         = 2 // NFULA_CFG_MODE
	logCopyPacket   = 2
	logQueueLength  = 5 // NFULA_CFG_QTHRESH
	logMark         = 2
	logIn, logOut   = 4, 5
	logPhysicalIn   = 6
	logPhysicalOut  = 7
	logPayload      = 9
	logPrefix       = 10
	logPacketOctets = 256 // at most
)

// Listen calls heard for each packet that log rules give to the nflog group,
// until ctx ends. When more come than can be read they are lost. A group has one
// listener only.
func Listen(ctx context.Context, group uint16, heard func(Packet)) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("listening to nflog group %d: %w", group, err)
	}
	defer conn.Close()
	var a attributes
	a.octets(logCommand, []byte{logBind})
	a.octets(logMode, append(binary.BigEndian.AppendUint32(nil, logPacketOctets), logCopyPacket, 0))
	a.number(logQueueLength, 1) // at once
	_, err = conn.Send(netlink.Message{
		Header: netlink.Header{Type: logConfig, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, group), a...),
	})
	if err != nil {
		return fmt.Errorf("listening to nflog group %d: %w", group, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for { // the answer comes among the packets
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			continue
		case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EPERM):
			return sixacre.Errorf(sixacre.Unavailable, "nflog group %d has a listener already: end that, or choose another group", group)
		case err != nil:
			return fmt.Errorf("listening to nflog group %d: %w", group, err)
		}
		for _, m := range messages {
			if m.Header.Type == logPacket && len(m.Data) >= 4 {
				p, in, out := packetOf(m.Data[4:])
				p.In, p.Out = portName(in), portName(out)
				heard(p)
			}
		}
	}
}

// packetOf reads what the kernel says of a packet, with the ports' interface
// indexes, 0 where there is none.
func packetOf(octets []byte) (p Packet, in, out uint32) {
	number := func(value []byte) uint32 {
		if len(value) != 4 {
			return 0
		}
		return binary.BigEndian.Uint32(value)
	}
	var port [8]uint32
	for kind, value := range each(octets) {
		switch kind {
		case logMark:
			p.Mark = number(value)
		case logIn, logOut, logPhysicalIn, logPhysicalOut:
			port[kind] = number(value)
		case logPayload:
			p.Data = value
		case logPrefix:
			p.Prefix = cString(value)
		}
	}
	// Kernels with br_netfilter call the port physical, and tell the bridge too.
	in, out = port[logPhysicalIn], port[logPhysicalOut]
	if in == 0 {
		in = port[logIn]
	}
	if out == 0 {
		out = port[logOut]
	}
	return p, in, out
}

// portName is that of an interface, or, once it is gone, what ip(8) calls it; ""
// for 0.
func portName(index uint32) string {
	if index == 0 {
		return ""
	}
	request := struct { // struct ifreq
		name  [unix.IFNAMSIZ]byte
		index uint32
		_     [20]byte
	}{index: index}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(s)
		if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCGIFNAME, uintptr(unsafe.Pointer(&request))); no == 0 {
			return cString(request.name[:])
		}
	}
	return fmt.Sprintf("if%d", index)
}
