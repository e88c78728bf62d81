package dhcpd

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// The sockets of one server share a port with each other and with nobody else.
func TestListenShares(t *testing.T) {
	sock, err := Listen(netip.MustParseAddrPort("[::1]:0"))
	if err != nil {
		t.Skipf("no IPv6 on loopback: %v", err)
	}
	defer sock.Close()
	for _, at := range []netip.Addr{netip.IPv6Loopback(), netip.IPv6Unspecified()} {
		other, err := Listen(netip.AddrPortFrom(at, sock.Addr().Port()))
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("a second server at %s: %v", at, err)
		}
		if err == nil {
			other.Close()
		}
	}
	to := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: netip.IPv6Loopback().As16()}
	setPort(&to, sock.Addr().Port())
	for range 64 { // relays, or ports of theirs
		from, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		(&sender{fd: from}).send([]reply{{payload: []byte{1}, to: to}}, func(_ *reply, err error) { t.Error(err) })
		unix.Close(from)
	}
	for i, fd := range sock.fds[:min(2, len(sock.fds))] { // of many one may go without by chance
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(ready, 0); n != 1 || err != nil {
			t.Errorf("socket %d has nothing to do: %d, %v", i, n, err)
		}
	}
}

func TestListenRefusesIPv4(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::ffff:127.0.0.1]:0"} {
		if sock, err := Listen(netip.MustParseAddrPort(at)); err == nil {
			sock.Close()
			t.Errorf("%s is taken", at)
		}
	}
}
