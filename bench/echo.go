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
// In the mode segments the answers of a batch are sorted by peer and length, whatever
// their order, and each such group is one message for the kernel to cut up
// (UDP_SEGMENT). In the mode trains the socket takes messages that the kernel has
// joined (UDP_GRO) too, and what came as one goes back as one.
func echo(at netip.Addr, sizes map[int]int, mode string) error {
	fd, err := udpSocket(at)
	if err != nil {
		return err
	}
	if mode == "trains" {
		return echoTrains(fd, sizes)
	}
	in, _, peers := receiveBatch(echoBatch, bufferSize)
	var g *groups
	if mode == "segments" {
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

// echoTrains is the echo in the mode trains.
func echoTrains(fd int, sizes map[int]int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1); err != nil {
		return fmt.Errorf("echo: UDP_GRO: %w", err)
	}
	const room = 1 << 16
	in, buffers, _ := receiveBatch(echoBatch, room)
	out := make([]mmsghdr, echoBatch)
	vectors := make([][maxTrain]unix.Iovec, echoBatch)
	heard, said := make([][64]byte, echoBatch), make([][]byte, echoBatch)
	for i := range in {
		said[i] = segmentControl(nil, 0)
	}
	for {
		for i := range in {
			in[i].Namelen = unix.SizeofSockaddrInet6
			in[i].Control = &heard[i][0]
			in[i].SetControllen(len(heard[i]))
		}
		n, err := recvmmsg(fd, in, unix.MSG_WAITFORONE)
		if err != nil {
			return fmt.Errorf("echo: %w", err)
		}
		for i := range n {
			length, whole := int(in[i].n), int(in[i].n)
			if in[i].Controllen > 0 { // of what is joined: how long each message is
				length = int(*(*int32)(unsafe.Pointer(&heard[i][unix.CmsgLen(0)])))
			}
			size, known := sizes[length]
			if !known || whole > maxTrain*length {
				return fmt.Errorf("echo: %d octets of messages of %d are not the generator's", whole, length)
			}
			pieces := vectors[i][:whole/length]
			for k := range pieces {
				pieces[k].Base = &buffers[i][k*length]
				pieces[k].SetLen(size)
			}
			*(*uint16)(unsafe.Pointer(&said[i][unix.CmsgLen(0)])) = uint16(size)
			out[i].Name, out[i].Namelen = in[i].Name, in[i].Namelen
			out[i].Iov = &pieces[0]
			out[i].SetIovlen(len(pieces))
			out[i].Control = &said[i][0]
			out[i].SetControllen(len(said[i]))
		}
		if err := sendAll(fd, out[:n]); err != nil {
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
