package dhcpd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre/dhcp6"
)

// Socket is one UDP address that relays send to. It is one socket of the kernel's
// for each processor: the packets of a relay all come to the same one.
type Socket struct {
	at  netip.AddrPort
	fds []int
}

// receiveBuffer is what the kernel is asked to hold for a socket, in octets, so
// that a burst waits rather than being lost. Without CAP_NET_ADMIN it gives no
// more than net.core.rmem_max.
const receiveBuffer = 8 << 20

// sendBuffer is what the kernel may hold of a socket's replies, in octets. Those
// to a neighbour that does not answer lie there for seconds, up to some 200 KiB
// for each such neighbour, and when it is full nobody is sent anything.
const sendBuffer = 8 << 20

// sendPatience is how long a batch of replies may wait for room in that.
const sendPatience = 100 * time.Millisecond

// Listen opens a socket. An address of :: takes packets to any address of this
// machine; each is answered from the address that it was sent to.
func Listen(at netip.AddrPort) (*Socket, error) {
	if !at.Addr().Is6() || at.Addr().Is4In6() {
		return nil, fmt.Errorf("dhcp6 address %s is not IPv6: write it as [2001:db8::1]:%d", at, dhcp6.ServerPort)
	}
	// Sockets that share a port share it with any other of the same user's, another
	// server by mistake too: so first one that does not share.
	alone, at, err := open(at, false)
	if err != nil {
		return nil, err
	}
	unix.Close(alone)
	k := &Socket{at: at}
	for range runtime.GOMAXPROCS(0) {
		fd, _, err := open(at, true)
		if err != nil {
			k.Close()
			return nil, err
		}
		k.fds = append(k.fds, fd)
	}
	return k, nil
}

// open makes one socket and returns it with the address that it is bound to.
func open(at netip.AddrPort, share bool) (fd int, bound netip.AddrPort, err error) {
	fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return -1, at, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			err = &net.OpError{Op: "listen", Net: "udp6", Addr: net.UDPAddrFromAddrPort(at), Err: err}
		}
	}()
	set := func(level, option int) {
		err = errors.Join(err, unix.SetsockoptInt(fd, level, option, 1))
	}
	set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	if at.Addr().IsUnspecified() {
		// RFC 3542 section 6.1: each packet says where it was sent to. A socket that
		// has one address can be asked at no other.
		set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO)
	}
	if share {
		set(unix.SOL_SOCKET, unix.SO_REUSEPORT)
	}
	if err != nil {
		return fd, at, err
	}
	// Packets that the kernel found to follow one another may come as one.
	// Kernels before 5.0 do not do that.
	_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	}
	timeout := unix.NsecToTimeval(int64(sendPatience))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout)
	to := &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	if zone := at.Addr().Zone(); zone != "" {
		device, err := net.InterfaceByName(zone)
		if err != nil {
			return fd, at, err
		}
		to.ZoneId = uint32(device.Index)
	}
	if err = unix.Bind(fd, to); err != nil {
		return fd, at, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return fd, at, err
	}
	return fd, netip.AddrPortFrom(at.Addr(), uint16(name.(*unix.SockaddrInet6).Port)), nil
}

// Addr returns the address and port that the socket is bound to.
func (k *Socket) Addr() netip.AddrPort { return k.at }

// Close closes a socket that is not served.
func (k *Socket) Close() {
	for _, fd := range k.fds {
		unix.Close(fd)
	}
	k.fds = nil
}

// Serve answers what arrives at the socket until the context ends, and closes
// it.
func (s *Server) Serve(ctx context.Context, k *Socket) error {
	defer k.Close()
	group, ctx := errgroup.WithContext(ctx)
	inquiries := newInquiries()
	group.Go(func() error { s.inquire(ctx, k.fds[0], inquiries); return nil })
	for _, fd := range k.fds {
		w := s.newWorker(fd, k.at, inquiries)
		group.Go(func() error { return w.serve(ctx) })
	}
	// Of the group, for once the sockets are closed their numbers may be another's.
	group.Go(func() error {
		<-ctx.Done()
		// Of a socket without a peer the kernel says that it is not connected, but it
		// wakes who waits for packets all the same.
		for _, fd := range k.fds {
			_ = unix.Shutdown(fd, unix.SHUT_RD)
		}
		return nil
	})
	return group.Wait()
}
