package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// traffic is a steady flow of numbered datagrams from the core to an address of
// a guest, which sends each one back.
type traffic struct {
	core, guest *net.UDPConn
	stop        chan struct{}
	done        sync.WaitGroup
	once        sync.Once

	mu   sync.Mutex
	sent uint32
	back map[uint32]bool
	news chan struct{} // something came back
}

// sendEvery is the pace of the traffic.
const sendEvery = 2 * time.Millisecond

// startTraffic starts a flow through a router, and returns when the first
// datagram has come back.
func (l *Lab) startTraffic(g guest, r router, to netip.Addr) (*traffic, error) {
	t := &traffic{stop: make(chan struct{}), back: map[uint32]bool{}, news: make(chan struct{}, 1)}
	at := netip.AddrPortFrom(to, openPort)
	if err := l.in(g.name, func() (err error) {
		t.guest, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(at))
		return err
	}); err != nil {
		return nil, err
	}
	if err := l.in(coreBox, func() (err error) {
		t.core, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.outside, 0)))
		return err
	}); err != nil {
		t.guest.Close()
		return nil, err
	}
	t.done.Add(3)
	go t.echo()
	go t.receive()
	go t.send(at)
	if err := t.await(func() bool { return len(t.back) > 0 }, answerWithin); err != nil {
		t.end()
		return nil, fmt.Errorf("%s does not answer datagrams through %s: %w", at, r.name, err)
	}
	return t, nil
}

// echo is the guest.
func (t *traffic) echo() {
	defer t.done.Done()
	buf := make([]byte, 64)
	for {
		n, from, err := t.guest.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			t.guest.WriteToUDPAddrPort(buf[:n], from) // what is not sent is counted as lost
		}
	}
}

func (t *traffic) send(to netip.AddrPort) {
	defer t.done.Done()
	tick := time.NewTicker(sendEvery)
	defer tick.Stop()
	for {
		t.mu.Lock()
		number := t.sent
		t.sent++
		t.mu.Unlock()
		t.core.WriteToUDPAddrPort(binary.BigEndian.AppendUint32(nil, number), to)
		select {
		case <-t.stop:
			return
		case <-tick.C:
		}
	}
}

func (t *traffic) receive() {
	defer t.done.Done()
	buf := make([]byte, 64)
	for {
		n, _, err := t.core.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 4 {
			continue
		}
		t.mu.Lock()
		t.back[binary.BigEndian.Uint32(buf)] = true
		t.mu.Unlock()
		select {
		case t.news <- struct{}{}:
		default:
		}
	}
}

// await returns when enough has come back, or with an error after the limit.
func (t *traffic) await(enough func() bool, limit time.Duration) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		t.mu.Lock()
		ok := enough()
		t.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-t.news:
		case <-deadline.C:
			return fmt.Errorf("nothing came back within %s", limit)
		}
	}
}

// flows waits until a datagram that is sent from now on has come back.
func (t *traffic) flows(ctx context.Context) error {
	t.mu.Lock()
	from := t.sent
	t.mu.Unlock()
	return t.await(func() bool {
		for n := from; n < t.sent; n++ {
			if t.back[n] {
				return true
			}
		}
		return ctx.Err() != nil
	}, answerWithin)
}

// finish stops the flow and returns how many datagrams were sent and how many of
// them never came back.
func (t *traffic) finish() (sent, lost int) {
	t.once.Do(func() {
		close(t.stop)
		// The wires keep the order: when the last is back, none is on its way.
		_ = t.await(func() bool { return t.back[t.sent-1] }, 2*time.Second)
		t.core.Close()
		t.guest.Close()
		t.done.Wait()
	})
	return int(t.sent), int(t.sent) - len(t.back)
}

// end is finish for those who do not count.
func (t *traffic) end() { t.finish() }
