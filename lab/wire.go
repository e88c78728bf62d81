package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// wire is an interface of a box with whole Ethernet frames in both directions:
// what its kernel receives we see too, and what we send goes out as it is.
type wire struct {
	box, device string
	file        *os.File
	mac         net.HardwareAddr
}

// attach listens to an interface. What it receives from then on is kept until it
// is read.
func (l *Lab) attach(box, device string) (*wire, error) {
	return l.listen(box, device, unix.PACKET_IGNORE_OUTGOING)
}

// bothEnds attaches to the way between a pod's router and a guest.
func (l *Lab) bothEnds(r router, g guest) (atRouter, atGuest *wire, end func(), err error) {
	if atRouter, err = l.attach(r.name, "pod"); err != nil {
		return nil, nil, nil, err
	}
	if atGuest, err = l.attach(g.name, "eth0"); err != nil {
		atRouter.Close()
		return nil, nil, nil, err
	}
	return atRouter, atGuest, func() { atRouter.Close(); atGuest.Close() }, nil
}

// eavesdrop is attach, and hears what its box sends as well.
func (l *Lab) eavesdrop(box, device string) (*wire, error) { return l.listen(box, device) }

func (l *Lab) listen(box, device string, options ...int) (*wire, error) {
	w := &wire{box: box, device: device}
	err := l.in(box, func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", device, box, err)
		}
		w.mac = dev.HardwareAddr
		// With protocol 0 nothing arrives before the socket is bound to the one
		// interface.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		w.file = os.NewFile(uintptr(fd), box+" "+device)
		for _, option := range options {
			if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, option, 1); err != nil {
				return err
			}
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: dev.Index})
	})
	if err != nil {
		if w.file != nil {
			w.file.Close()
		}
		return nil, err
	}
	return w, nil
}

// htons puts a protocol number into network byte order, as packet(7) wants it.
func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func (w *wire) Close() { w.file.Close() }

// send sends frames one after the other. They stay in that order as far as this
// machine's own wires carry them: a frame crosses a veth on the processor that
// sent it.
func (w *wire) send(frames ...[]byte) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its affinity
		done <- func() error {
			if err := stayOnOneProcessor(); err != nil {
				return err
			}
			for _, f := range frames {
				if _, err := w.file.Write(f); err != nil {
					return fmt.Errorf("%s of %s: %w", w.device, w.box, err)
				}
			}
			return nil
		}()
	}()
	return <-done
}

// next returns the next frame with IPv6 for which match is true, or nil when
// there was none before the deadline.
func (w *wire) next(deadline time.Time, match func(frame) bool) (frame, error) {
	return w.nextOfAny(deadline, func(f frame) bool { return f.valid() && match(f) })
}

// nextOfAny is next for frames of all kinds.
func (w *wire) nextOfAny(deadline time.Time, match func(frame) bool) (frame, error) {
	if err := w.file.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	buf := make([]byte, 65536)
	for {
		n, err := w.file.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, nil
		case errors.Is(err, unix.ENETDOWN):
			continue // it is said once; when the interface is up, frames come again
		case err != nil:
			return nil, fmt.Errorf("%s of %s: %w", w.device, w.box, err)
		}
		if f := frame(buf[:n]); match(f) {
			return append(frame(nil), f...), nil
		}
	}
}

// pending passes on what has arrived and is not read yet.
func (w *wire) pending(see func(frame)) error {
	if err := w.file.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	conn, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 65536)
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		for {
			n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return true
			case err != nil:
				failed = fmt.Errorf("%s of %s: %w", w.device, w.box, err)
				return true
			}
			if f := frame(buf[:n]); f.valid() {
				see(f)
			}
		}
	})
	return errors.Join(err, failed)
}

// seenBefore reads until the marker arrives and reports whether a forbidden
// frame arrived before it. That the marker does not arrive is an error, because
// then nothing was shown.
func (w *wire) seenBefore(limit time.Duration, forbidden, marker func(frame) bool) (bool, error) {
	deadline, seen := time.Now().Add(limit), false
	f, err := w.next(deadline, func(f frame) bool {
		seen = seen || forbidden(f)
		return marker(f)
	})
	if err == nil && f == nil {
		err = fmt.Errorf("what is allowed did not arrive at %s of %s within %s", w.device, w.box, limit)
	}
	return seen, err
}
