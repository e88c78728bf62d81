package router

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"github.com/mdlayher/socket"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// Link is the pod's layer 2 as the router is attached to it.
type Link struct {
	Name      string
	Index     int
	MAC       sixacre.MAC
	MTU       int            // octets of an IPv6 packet
	LinkLocal netip.Addr     // the router's own
	Addresses []netip.Prefix // the router's other addresses
}

// linkAddress returns the router's address that tells the servers which link a
// message came from (RFC 9915 section 19.1.1): one of the pod's link prefix
// where that is known.
func (l Link) linkAddress(linkPrefix netip.Prefix) (netip.Addr, bool) {
	for _, a := range l.Addresses {
		if !linkPrefix.IsValid() || linkPrefix.Contains(a.Addr()) {
			return a.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// frames sends and receives IPv6 packets on a link together with the MAC at the
// other end: what no UDP socket tells.
type frames struct {
	conn  *socket.Conn
	index int
}

func listenFrames(index int) (*frames, error) {
	// Protocol 0 receives nothing until the filter is in place and bind says
	// which protocol and link.
	conn, err := socket.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0, "packet", nil)
	if err != nil {
		return nil, err
	}
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocolUDP, SkipTrue: 5},
		bpf.LoadAbsolute{Off: ipHeader + 2, Size: 2}, // destination port
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: dhcp6.ServerPort, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 24, Size: 4}, // first octets of the destination, ff02::
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0xff020000, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
	if err == nil {
		err = conn.SetBPF(filter)
	}
	if err == nil {
		err = conn.SetsockoptInt(unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)
	}
	if err == nil {
		err = conn.Bind(&unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_IPV6), Ifindex: index})
	}
	if err == nil {
		// The host's own group membership lets a switch that snoops on MLD, and
		// the NIC's filter, pass the group's frames.
		err = joinRelays(conn, index)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &frames{conn, index}, nil
}

// joinRelays adds the MAC of ff02::1:2 (RFC 2464 section 7) to what the
// interface receives.
func joinRelays(conn *socket.Conn, index int) error {
	group := dhcp6.AllRelaysAndServers.As16()
	mreq := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_MULTICAST, Alen: 6}
	copy(mreq.Address[:], []byte{0x33, 0x33, group[12], group[13], group[14], group[15]})
	return conn.SetsockoptPacketMreq(unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq)
}

// receive reads the next packet from the link. Packets that say nothing to a
// relay come with the reason why.
func (f *frames) receive(ctx context.Context, b []byte) (packet, sixacre.MAC, error) {
	var oob [128]byte
	for {
		n, oobn, flags, from, err := f.conn.Recvmsg(ctx, b, oob[:], 0)
		if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.EINTR) {
			continue // said once; packets come again when the link is up again
		}
		if err != nil {
			return packet{}, sixacre.MAC{}, err
		}
		sa, ok := from.(*unix.SockaddrLinklayer)
		if !ok || sa.Pkttype == unix.PACKET_OUTGOING || sa.Pkttype == unix.PACKET_OTHERHOST {
			continue
		}
		if sa.Halen != 6 {
			return packet{}, sixacre.MAC{}, dropSource
		}
		if flags&unix.MSG_TRUNC != 0 {
			return packet{}, sixacre.MAC{}, dropTruncated
		}
		p, err := parsePacket(b[:n], summed(oob[:oobn]))
		return p, sixacre.MAC(sa.Addr[:6]), err
	}
}

// summed reports whether the checksum need not be looked at, as the kernel says.
func summed(oob []byte) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			status := binary.NativeEndian.Uint32(m.Data) // the first field of struct tpacket_auxdata
			return status&(unix.TP_STATUS_CSUMNOTREADY|unix.TP_STATUS_CSUM_VALID) != 0
		}
	}
	return false
}

// send sends a packet to a MAC.
func (f *frames) send(ctx context.Context, p packet, to sixacre.MAC) error {
	sa := &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_IPV6), Ifindex: f.index, Halen: 6}
	copy(sa.Addr[:], to[:])
	return f.conn.Sendto(ctx, p.append(nil), 0, sa)
}

func (f *frames) close() { f.conn.Close() }

func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// ListenUpstream opens the socket that messages are relayed from, at port 547 of
// the source address. Servers know a relay by this address, so it is one and
// stays the same; where none is given it is the one that the kernel takes
// towards the first upstream now.
func ListenUpstream(source netip.Addr, upstreams []netip.AddrPort) (*net.UDPConn, error) {
	if !source.IsValid() {
		probe, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(upstreams[0]))
		if err != nil {
			return nil, sixacre.Errorf(sixacre.Unavailable,
				"no route to upstream %s: add one, or give the address to relay from with --source", upstreams[0])
		}
		source = probe.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
		probe.Close()
	}
	conn, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, dhcp6.ServerPort)))
	if err != nil {
		return nil, sixacre.Errorf(sixacre.Unavailable,
			"cannot relay from [%s]:%d (%s): give an address of this machine with --source, and stop other relays", source, dhcp6.ServerPort, errors.Unwrap(err))
	}
	return conn, nil
}
