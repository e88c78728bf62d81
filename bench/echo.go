package main

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// echoBatch is how many messages the echoes take at a time.
const echoBatch = 64

// echo is the limit that a DHCPv6 server is measured by: it takes messages with
// recvmmsg and sends back as many with sendmmsg, from one thread and a socket that
// waits, and looks at nothing but their length. A message as long as one of the
// generator's goes back as long as sixacre's answer to it would be (the beginning
// of what came, and whatever lies behind it in the buffer), so that both move the
// same octets. It is Go, but neither its scheduler nor its collector has anything
// to do in it.
//
// With segments the answers of a batch are sorted by peer and length, whatever
// their order, and each such group is one message for the kernel to cut up
// (UDP_SEGMENT).
func echo(at netip.Addr, sizes map[int]int, segments bool) error {
	fd, err := udpSocket(at)
	if err != nil {
		return err
	}
	in, _, peers := receiveBatch(echoBatch)
	var g *groups
	if segments {
		g = newGroups()
	}
	for {
		for i := range in {
			in[i].Namelen = unix.SizeofSockaddrInet6
			in[i].Iov.SetLen(bufferSize)
		}
		n, err := recvmmsg(fd, in, unix.MSG_WAITFORONE)
		if err != nil {
			return fmt.Errorf("echo: %w", err)
		}
		for i := range n {
			size, known := sizes[int(in[i].n)]
			if !known {
				return fmt.Errorf("echo: a message of %d octets is none of the generator's", in[i].n)
			}
			in[i].Iov.SetLen(size)
		}
		out := in[:n]
		if g != nil {
			out = g.of(in[:n], peers)
		}
		if err := sendAll(fd, out); err != nil {
			return fmt.Errorf("echo: %w", err)
		}
	}
}

// groups are the answers of a batch, those to the same peer and of the same
// length as one message.
type groups struct {
	out     []mmsghdr
	vectors [][]unix.Iovec
	control [][]byte
}

func newGroups() *groups {
	g := &groups{out: make([]mmsghdr, echoBatch), vectors: make([][]unix.Iovec, echoBatch), control: make([][]byte, echoBatch)}
	for i := range g.out {
		g.vectors[i] = make([]unix.Iovec, 0, echoBatch)
		g.control[i] = segmentControl(nil, 0)
	}
	return g
}

func (g *groups) of(in []mmsghdr, peers []unix.RawSockaddrInet6) []mmsghdr {
	n := 0
next:
	for i := range in {
		for k := range n {
			first := (*unix.RawSockaddrInet6)(unsafe.Pointer(g.out[k].Name))
			if g.vectors[k][0].Len == in[i].Iov.Len && *first == peers[i] {
				g.vectors[k] = append(g.vectors[k], *in[i].Iov)
				continue next
			}
		}
		g.vectors[n] = append(g.vectors[n][:0], *in[i].Iov)
		g.out[n].Name, g.out[n].Namelen = in[i].Name, in[i].Namelen
		n++
	}
	for k := range n {
		m, v := &g.out[k], g.vectors[k]
		m.Iov = &v[0]
		m.SetIovlen(len(v))
		m.Control = nil
		m.SetControllen(0)
		if len(v) > 1 {
			*(*uint16)(unsafe.Pointer(&g.control[k][unix.CmsgLen(0)])) = uint16(v[0].Len)
			m.Control = &g.control[k][0]
			m.SetControllen(len(g.control[k]))
		}
	}
	return g.out[:n]
}
