package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
)

const (
	payloadSize = 18 // octets; the frame has 80
	frameSize   = 14 + 40 + 8 + payloadSize
)

// frame is a small UDP packet.
type frame [frameSize]byte

// packet makes the frame of a flow in one direction, with a right checksum:
// connection tracking looks.
func (r *rig) packet(d sixacre.Direction, guest, remote netip.Addr, own, other uint16) frame {
	var f frame
	to, from := r.nic.MAC, routerMAC
	destination, source := guest, remote
	destinationPort, sourcePort := own, other
	if d == sixacre.Out {
		to, from, destination, source = from, to, source, destination
		destinationPort, sourcePort = sourcePort, destinationPort
	}
	copy(f[:], to[:])
	copy(f[6:], from[:])
	binary.BigEndian.PutUint16(f[12:], 0x86dd)
	f[14] = 6 << 4
	const length = frameSize - 14 - 40
	binary.BigEndian.PutUint16(f[18:], length)
	f[20], f[21] = byte(sixacre.UDP), 64
	copy(f[22:], source.AsSlice())
	copy(f[38:], destination.AsSlice())
	binary.BigEndian.PutUint16(f[54:], sourcePort)
	binary.BigEndian.PutUint16(f[56:], destinationPort)
	binary.BigEndian.PutUint16(f[58:], length)
	sum := uint32(length) + uint32(sixacre.UDP)
	for i := 22; i < frameSize; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(f[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(f[60:], ^uint16(sum))
	return f
}

// volley is frames that are sent in one go.
type volley struct {
	frames   []frame
	vectors  []unix.Iovec
	messages []mmsghdr
}

func newVolley(n int) *volley {
	v := &volley{frames: make([]frame, n), vectors: make([]unix.Iovec, n), messages: make([]mmsghdr, n)}
	for i := range v.frames {
		v.vectors[i].Base = &v.frames[i][0]
		v.vectors[i].SetLen(frameSize)
		v.messages[i].Iov = &v.vectors[i]
		v.messages[i].SetIovlen(1)
	}
	return v
}

// send sends the first n frames. The kernel has brought each to where it ends
// before the next: all of that is charged to the calling thread.
func (v *volley) send(e *end, n int) error {
	for sent := range slices.Chunk(v.messages[:n], 64) {
		if err := sendAll(e.fd, sent); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

// class is a kind of packets, the same under every ruleset.
type class struct {
	name      string
	direction sixacre.Direction
	fresh     bool // each packet is a new flow
	forbidden bool // a filter drops them
	spoofed   bool // the guest's address is another's
	flow      func(i int) (remote netip.Addr, own, other uint16)
}

func (c class) String() string { return c.name }

// establishedFlows is how many flows the packets of established ones are of.
const establishedFlows = 64

func establishedFlow(i int) (netip.Addr, uint16, uint16) {
	return remoteHost, 40000 + uint16(i%establishedFlows), 443
}

// freshPort counts up through the ports that clients use.
func freshPort(i int) uint16 { return 1024 + uint16(i%60000) }

// otherGuest is an address of the link that no NIC of a rig has.
var otherGuest = clientAddr(maxClients - 1)

// spoofing is what a guest sends from another's address.
var spoofing = class{name: "spoofed out", direction: sixacre.Out, fresh: true, forbidden: true, spoofed: true, flow: func(i int) (netip.Addr, uint16, uint16) {
	return remoteHost, freshPort(i), 7000
}}

// classes are those whose cost is measured.
var classes = []class{
	{name: "established in", direction: sixacre.In, flow: establishedFlow},
	{name: "established out", direction: sixacre.Out, flow: establishedFlow},
	{name: "new in", direction: sixacre.In, fresh: true, flow: func(i int) (netip.Addr, uint16, uint16) {
		return officeHost, openPort + uint16(i/60000%100), freshPort(i)
	}},
	{name: "new out", direction: sixacre.Out, fresh: true, flow: func(i int) (netip.Addr, uint16, uint16) {
		return remoteHost, freshPort(i), 7000 + uint16(i/60000%1000)
	}},
	{name: "closed port in", direction: sixacre.In, fresh: true, forbidden: true, flow: func(i int) (netip.Addr, uint16, uint16) {
		return remoteHost, closedPort + uint16(i%10000), freshPort(i)
	}},
}

// fill makes the frames of the next packets of the class.
func (r *rig) fill(v *volley, c class, next int) {
	for i := range v.frames {
		guest := r.nic.Address
		if c.spoofed {
			guest = otherGuest
		}
		remote, own, other := c.flow(next + i)
		v.frames[i] = r.packet(c.direction, guest, remote, own, other)
	}
}

// sender is the end that packets of the direction come from.
func (r *rig) sender(d sixacre.Direction) *end {
	if d == sixacre.In {
		return r.router
	}
	return r.guest
}

// arrived is how many packets of the direction have arrived.
func (r *rig) arrived(d sixacre.Direction) (uint64, error) {
	guest, router, err := r.received()
	if d == sixacre.In {
		return guest, err
	}
	return router, err
}

// establish has each of the established flows seen in both directions.
func (r *rig) establish() error {
	v := newVolley(establishedFlows)
	for _, d := range []sixacre.Direction{sixacre.Out, sixacre.In} {
		r.fill(v, class{direction: d, flow: establishedFlow}, 0)
		if err := v.send(r.sender(d), establishedFlows); err != nil {
			return err
		}
	}
	return nil
}

// volleySize is how many packets are sent between two looks at the counters. The
// new flows of one are forgotten before the next, so that tables stay small.
const volleySize = 2048

// cost sends packets of the class until that much CPU time has gone into them,
// and returns the nanoseconds that each took. All must have arrived, or none.
func (r *rig) cost(c class, v *volley, want time.Duration) (float64, error) {
	if err := r.forget(); err != nil {
		return 0, err
	}
	if !c.fresh {
		if err := r.establish(); err != nil {
			return 0, err
		}
	}
	expected := uint64(len(v.frames))
	if c.forbidden && r.ruleset.filters {
		expected = 0
	}
	var spent time.Duration
	packets := 0
	for first := true; spent < want; first = false {
		if c.fresh || first {
			r.fill(v, c, packets)
		}
		before, err := r.arrived(c.direction)
		if err != nil {
			return 0, err
		}
		began := threadCPU()
		if err := v.send(r.sender(c.direction), len(v.frames)); err != nil {
			return 0, err
		}
		took := threadCPU() - began
		after, err := r.arrived(c.direction)
		if err != nil {
			return 0, err
		}
		if after-before != expected {
			return 0, fmt.Errorf("%s, %d NICs, %s: %d of %d packets arrived, not %d",
				r.ruleset.name, r.nics, c.name, after-before, len(v.frames), expected)
		}
		if c.fresh {
			if err := r.forget(); err != nil {
				return 0, err
			}
		}
		if !first { // the first warms the caches up
			spent += took
			packets += len(v.frames)
		}
	}
	return float64(spent.Nanoseconds()) / float64(packets), nil
}

// threadCPU is the CPU time that the calling thread has had. The kernel charges
// it with the interrupts that it takes meanwhile, and so with the packets' whole
// way.
func threadCPU() time.Duration { return clock(unix.CLOCK_THREAD_CPUTIME_ID) }
