package dhcpd

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize = 64      // packets that are read, and answered, in one go
	maxPacket = 1 << 16 // octets, of one packet or of those that the kernel joined
	// maxSegments is how many packets the kernel joins at most. A machine that sends
	// to itself may claim more.
	maxSegments = 128
	// maxTrain is how many octets one message to the kernel may have that is cut
	// into packets there: no more than one packet could.
	maxTrain = 65535 - 40 - 8
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	n uint32 // octets received or sent
}

// pktinfo is struct in6_pktinfo (RFC 3542 section 6.1): the address that a packet
// was sent to or is to be sent from, and the interface's index.
type pktinfo [unix.SizeofInet6Pktinfo]byte

// packet is one that was received. It is good until the next receive.
type packet struct {
	payload []byte
	from    *unix.RawSockaddrInet6
	to      pktinfo // all zero where the kernel did not tell
}

func (p *packet) source() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(p.from.Addr), port(p.from))
}

// port returns a socket address's port, which is in network byte order.
func port(a *unix.RawSockaddrInet6) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&a.Port))[:])
}

func setPort(a *unix.RawSockaddrInet6, port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&a.Port))[:], port)
}

// receiver reads packets of a socket, many at a time.
type receiver struct {
	fd       int
	headers  [batchSize]mmsghdr
	vectors  [batchSize]unix.Iovec
	sources  [batchSize]unix.RawSockaddrInet6
	controls [batchSize][128]byte
	buffers  []byte
}

// stride is how far apart the buffers are: were it a power of two, the beginnings
// of all of them would compete for the same few lines of the processor's cache.
const stride = maxPacket + 13*64

func newReceiver(fd int) *receiver {
	r := &receiver{fd: fd, buffers: make([]byte, batchSize*stride)}
	for i := range r.headers {
		r.vectors[i].Base = &r.buffers[i*stride]
		r.vectors[i].SetLen(maxPacket)
		h := &r.headers[i]
		h.Iov = &r.vectors[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&r.sources[i]))
		h.Control = &r.controls[i][0]
	}
	return r
}

// receive waits for a packet and returns how many messages of the kernel's there
// are, each of one or more packets.
func (r *receiver) receive() (int, error) {
	for i := range r.headers {
		h := &r.headers[i]
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(len(r.controls[i]))
	}
	n, errno := mmsg(unix.SYS_RECVMMSG, r.fd, r.headers[:], unix.MSG_WAITFORONE)
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}

// mmsg calls recvmmsg or sendmmsg, and waits. It does not tell Go's scheduler of a call that
// need not wait: being told of one for each batch, it would spend a tenth of a
// busy processor on watching them.
func mmsg(call uintptr, fd int, headers []mmsghdr, flags int) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&headers[0])), uintptr(len(headers)), uintptr(flags|unix.MSG_DONTWAIT), 0, 0)
		if errno == unix.EAGAIN {
			n, _, errno = unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&headers[0])), uintptr(len(headers)), uintptr(flags), 0, 0)
		}
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// appendPackets appends the packets of the ith message.
func (r *receiver) appendPackets(packets []packet, i int) []packet {
	h := &r.headers[i]
	p := packet{from: &r.sources[i]}
	all := r.buffers[i*stride:][:h.n:h.n]
	segment := len(all)
	for control := r.controls[i][:h.Controllen]; len(control) >= unix.SizeofCmsghdr; {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		switch {
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= len(p.to):
			p.to = pktinfo(data)
		case header.Level == unix.SOL_UDP && header.Type == unix.UDP_GRO && len(data) >= 4:
			segment = max(1, int(binary.NativeEndian.Uint32(data)))
		}
		control = rest
	}
	for n := 1; len(all) > segment; n++ {
		if n == maxSegments {
			return packets
		}
		p.payload = all[:segment:segment]
		packets = append(packets, p)
		all = all[segment:]
	}
	p.payload = all
	return append(packets, p)
}

// reply is a packet to be sent.
type reply struct {
	payload []byte
	to      unix.RawSockaddrInet6
	from    pktinfo // all zero to let the kernel choose
}

// replyFrom turns where a packet was sent to into where its reply is sent from.
// It says nothing of the interface, so that routing is free to answer through
// another one, save for link-local addresses, which mean nothing without it.
func replyFrom(to pktinfo) pktinfo {
	if to == (pktinfo{}) {
		return to
	}
	sentTo := netip.AddrFrom16([16]byte(to[:16]))
	switch {
	case sentTo.IsMulticast():
		return pktinfo{}
	case !sentTo.IsLinkLocalUnicast():
		binary.NativeEndian.PutUint32(to[16:], 0)
	}
	return to
}

// sender sends packets, many at a time. Those of one length from one address to
// another go to the kernel as one message, for it to cut (UDP_SEGMENT): sending
// is most of the work otherwise.
type sender struct {
	fd       int
	headers  [batchSize]mmsghdr
	vectors  [batchSize]unix.Iovec
	controls [batchSize][controlSize]byte
	trains   [batchSize]train
	of       [batchSize]uint8     // which train each reply is in
	slots    [2 * batchSize]uint8 // a hash table: 1 + index of a train
}

// train is the replies that go as one message.
type train struct {
	first *reply // which the others are like
	size  int
	end   int // in the vectors
}

// controlSize is room for the address to send from and the length to cut at.
const controlSize = 64

// like reports whether two replies can go in one message.
func (r *reply) like(other *reply) bool {
	return len(r.payload) == len(other.payload) && r.to.Addr == other.to.Addr && r.to.Port == other.to.Port &&
		r.to.Scope_id == other.to.Scope_id && r.from == other.from
}

// slot is where in a hash table of that size a reply's train is looked for first.
func (r *reply) slot(size int) int {
	h := binary.LittleEndian.Uint64(r.to.Addr[:8])*3 ^ binary.LittleEndian.Uint64(r.to.Addr[8:]) ^ uint64(r.to.Port)<<32 ^ uint64(len(r.payload))
	return place(h*golden, size)
}

// group says which train each reply is in and returns how many trains there are.
func (s *sender) group(replies []reply) int {
	clear(s.slots[:])
	n := 0
	for i := range replies {
		r := &replies[i]
		at := r.slot(len(s.slots))
		for s.slots[at] != 0 && !s.trains[s.slots[at]-1].first.like(r) {
			at = (at + 1) % len(s.slots)
		}
		t := int(s.slots[at]) - 1
		if t < 0 || (s.trains[t].size+1)*len(r.payload) > maxTrain {
			t = n
			n++
			s.trains[t] = train{first: r}
			s.slots[at] = uint8(n)
		}
		s.trains[t].size++
		s.of[i] = uint8(t)
	}
	return n
}

// send sends at most batchSize replies. It calls failed for each that the kernel
// did not take.
func (s *sender) send(replies []reply, failed func(*reply, error)) {
	n := s.group(replies)
	sum := 0
	for i := range n {
		t := &s.trains[i]
		h := &s.headers[i]
		s.address(h, t.first, s.controls[i][:])
		if t.size > 1 {
			var length [2]byte
			binary.NativeEndian.PutUint16(length[:], uint16(len(t.first.payload)))
			used := int(h.Controllen)
			h.Control = &s.controls[i][0]
			h.SetControllen(used + putControl(s.controls[i][used:], unix.SOL_UDP, unix.UDP_SEGMENT, length[:]))
		}
		h.Iov = &s.vectors[sum]
		h.SetIovlen(t.size)
		t.end = sum
		sum += t.size
	}
	for i := range replies {
		t := &s.trains[s.of[i]]
		v := &s.vectors[t.end]
		t.end++
		v.Base = &replies[i].payload[0]
		v.SetLen(len(replies[i].payload))
	}
	flags := 0
	for i := 0; i < n; {
		sent, errno := mmsg(unix.SYS_SENDMMSG, s.fd, s.headers[i:n], flags)
		if errno == 0 {
			i += sent
			continue
		}
		// It is the first of them that was not taken.
		switch {
		case errno == unix.EAGAIN:
			// The kernel has had no room for as long as is waited for it.
			flags = unix.MSG_DONTWAIT
			s.each(replies, i, func(r *reply) { failed(r, errno) })
		case s.trains[i].size == 1:
			failed(s.trains[i].first, errno)
		default:
			// Too long for the way, or a device that cannot cut.
			s.each(replies, i, func(r *reply) {
				if err := s.one(r); err != nil {
					failed(r, err)
				}
			})
		}
		i++
	}
}

// each calls f for every reply of a train.
func (s *sender) each(replies []reply, train int, f func(*reply)) {
	for i := range replies {
		if int(s.of[i]) == train {
			f(&replies[i])
		}
	}
}

// one sends one reply.
func (s *sender) one(r *reply) error {
	var h mmsghdr
	var v unix.Iovec
	var control [controlSize]byte
	s.address(&h, r, control[:])
	v.Base = &r.payload[0]
	v.SetLen(len(r.payload))
	h.Iov = &v
	h.SetIovlen(1)
	for {
		_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&h.Msghdr)), 0)
		switch errno {
		case unix.EINTR:
		case 0:
			return nil
		default:
			return errno
		}
	}
}

// address writes where a reply goes to and comes from.
func (s *sender) address(h *mmsghdr, r *reply, control []byte) {
	h.Name, h.Namelen = (*byte)(unsafe.Pointer(&r.to)), unix.SizeofSockaddrInet6
	h.Control = nil
	h.SetControllen(0)
	if r.from != (pktinfo{}) {
		h.Control = &control[0]
		h.SetControllen(putControl(control, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, r.from[:]))
	}
}

// putControl writes a control message (cmsg(3)) and returns its length.
func putControl(b []byte, level, kind int32, data []byte) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return unix.CmsgSpace(len(data))
}
