package dhcpd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre/dhcp6"
)

// Socket is one UDP address that relays send to.
type Socket struct{ conn *net.UDPConn }

// receiveBuffer is what the kernel is asked to hold for a socket, in octets, so
// that a burst waits rather than being lost. The kernel may give less.
const receiveBuffer = 4 << 20

// Listen opens a socket. An address of :: takes packets to any address of this
// machine; each is answered from the address that it was sent to.
func Listen(at netip.AddrPort) (*Socket, error) {
	if !at.Addr().Is6() || at.Addr().Is4In6() {
		return nil, fmt.Errorf("dhcp6 address %s is not IPv6: write it as [2001:db8::1]:%d", at, dhcp6.ServerPort)
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
				// RFC 3542 section 6.1: each packet says where it was sent to.
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
		}); e != nil {
			return e
		}
		return err
	}}
	conn, err := config.ListenPacket(context.Background(), "udp6", at.String())
	if err != nil {
		return nil, err
	}
	udp := conn.(*net.UDPConn)
	// As far as net.core.rmem_max allows.
	_ = udp.SetReadBuffer(receiveBuffer)
	return &Socket{udp}, nil
}

// Addr returns the address and port that the socket is bound to.
func (k *Socket) Addr() netip.AddrPort { return k.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// Close closes a socket that is not served.
func (k *Socket) Close() error { return k.conn.Close() }

// Serve answers what arrives at the socket until the context ends, and closes
// it.
func (s *Server) Serve(ctx context.Context, k *Socket) error {
	defer k.conn.Close()
	stop := context.AfterFunc(ctx, func() { k.conn.Close() })
	defer stop()
	var q query
	in, out := make([]byte, 1<<16), make([]byte, 0, 1<<16)
	control := make([]byte, unix.CmsgSpace(unix.SizeofInet6Pktinfo))
	// On a port of its own a server is asked only by who was told of it: what
	// RFC 9915 section 7.2 says of ports does not bind such a relay, and the port
	// that it sends from is the only one known of it.
	standard := k.Addr().Port() == dhcp6.ServerPort
	for {
		n, controlLen, _, source, err := k.conn.ReadMsgUDPAddrPort(in, control)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("dhcp6: reading at %s: %w", k.Addr(), err)
		}
		reply := s.answer(out, &q, in[:n], source)
		if reply == nil {
			continue
		}
		to := source
		if standard {
			to = netip.AddrPortFrom(source.Addr(), q.ReplyPort(source.Port()))
		}
		if _, _, err := k.conn.WriteMsgUDPAddrPort(reply, replyFrom(control[:controlLen]), to); err != nil {
			s.counts.sendErrors.Inc()
			if suppressed, ok := s.counts.errorLogs.take(); ok {
				s.log.Warn("dhcp6: reply not sent", "to", to, "error", err, "suppressed", suppressed)
			}
		}
	}
}

// replyFrom turns the control message that came with a packet (RFC 3542 section
// 6.2) into one that sends the reply from the address that the packet went to.
// It says nothing of the interface, so that routing is free to answer through
// another one, save for link-local addresses, which mean nothing without it.
// Where nothing useful can be said it returns nil and the kernel chooses.
func replyFrom(control []byte) []byte {
	header, data, _, err := unix.ParseOneSocketControlMessage(control)
	if err != nil || header.Level != unix.IPPROTO_IPV6 || header.Type != unix.IPV6_PKTINFO || len(data) < unix.SizeofInet6Pktinfo {
		return nil
	}
	sentTo := netip.AddrFrom16([16]byte(data))
	switch {
	case sentTo.IsMulticast():
		return nil
	case !sentTo.IsLinkLocalUnicast():
		binary.NativeEndian.PutUint32(data[16:], 0)
	}
	return control
}
