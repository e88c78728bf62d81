package main

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre/dhcp6"
)

// mmsghdr is one message of recvmmsg(2) and sendmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	n uint32 // octets received or sent
	_ [4]byte
}

// The system calls are made without a word to Go's scheduler: each process here
// does nothing else.

func recvmmsg(fd int, m []mmsghdr, flags int) (int, error) {
	return mmsg(unix.SYS_RECVMMSG, fd, m, flags)
}

func sendmmsg(fd int, m []mmsghdr, flags int) (int, error) {
	return mmsg(unix.SYS_SENDMMSG, fd, m, flags)
}

func mmsg(call uintptr, fd int, m []mmsghdr, flags int) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(flags), 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// sendAll sends all of the messages, however many system calls it takes.
func sendAll(fd int, m []mmsghdr) error {
	for len(m) > 0 {
		n, err := sendmmsg(fd, m, 0)
		if err != nil {
			return err
		}
		m = m[n:]
	}
	return nil
}

// udpSocket opens a UDP socket that waits, bound to the DHCPv6 server port.
func udpSocket(at netip.Addr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
		unix.Bind(fd, &unix.SockaddrInet6{Addr: at.As16(), Port: dhcp6.ServerPort}))
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// sockaddr is the address in the kernel's form.
func sockaddr(at netip.Addr, port uint16) *unix.RawSockaddrInet6 {
	s := &unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: at.As16()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&s.Port))[:], port)
	return s
}

// appendControl appends a control message (cmsg(3)) to b.
func appendControl(b []byte, level, kind int32, data []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, unix.CmsgSpace(len(data)))...)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[start]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[start+unix.CmsgLen(0):], data)
	return b
}

// segmentControl asks the kernel to cut what is sent into datagrams of that
// size (UDP_SEGMENT, udp(7)).
func segmentControl(b []byte, size int) []byte {
	return appendControl(b, unix.IPPROTO_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, uint16(size)))
}

// sourceControl gives what is sent its source address (RFC 3542 section 6.1).
func sourceControl(b []byte, from netip.Addr) []byte {
	a := from.As16()
	return appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, append(a[:], 0, 0, 0, 0))
}

// memInfo is what SO_MEMINFO tells of a socket: the octets that wait in it and
// the packets that it dropped.
func memInfo(fd int) (waiting, drops uint32, err error) {
	var info [9]uint32 // SK_MEMINFO_VARS, include/uapi/linux/sock_diag.h
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, 0, errno
	}
	return info[0], info[8], nil
}
