package dhcpd

import (
	"encoding/binary"
	"math/rand/v2"
	"time"
)

// What one relay and one client may ask of one worker.
const (
	// relayWindow is the time over which the packets of relays are counted.
	relayWindow = 100 * time.Millisecond
	// relayShare is how many packets of a relay are answered in that time however
	// much the others ask for: 20,000 in a second.
	relayShare = 2000
	// clientWindow is the time over which the messages of clients are counted.
	clientWindow = 100 * time.Millisecond
	// clientShare is how many messages of a client are answered in that time. A
	// client that follows RFC 9915 section 15 sends two, and each of its routers
	// relays them.
	clientShare = 16
)

// budget keeps a flood of one relay's from starving the others, and one of a
// client's those behind the same relay. It counts in a fixed number of cells that
// senders share by chance: who shares with whom is drawn anew for each window.
type budget struct {
	relays  relayBudget
	clients clientBudget
}

type relayBudget struct {
	until time.Duration
	seed  uint64
	cells [1 << 12]uint32
	// sum is over all cells, and heard how many of them are not zero; others is
	// that of the window before.
	sum, heard, others uint32
}

// take counts a packet of a relay's and reports whether it may be answered.
//
// A relay alone may ask for as much as it likes. One among others may too, as long
// as nothing waits: it is only held to its share while packets queue up and it
// sends more than four times what the others send on the average.
func (b *relayBudget) take(now time.Duration, relay [16]byte, queued bool) bool {
	if now >= b.until {
		b.others = b.heard
		if now >= b.until+relayWindow { // nobody was heard in the window before
			b.others = 0
		}
		clear(b.cells[:])
		b.until, b.seed = now+relayWindow, rand.Uint64()
		b.sum, b.heard = 0, 0
	}
	cell := &b.cells[spread(b.seed, binary.NativeEndian.Uint64(relay[:8]), binary.NativeEndian.Uint64(relay[8:]), len(b.cells))]
	if *cell == 0 {
		b.heard++
	}
	*cell++
	b.sum++
	if *cell <= relayShare || !queued {
		return true
	}
	others := max(b.heard, b.others) - 1
	return uint64(*cell)*uint64(others) <= 4*uint64(b.sum-*cell)
}

type clientBudget struct {
	until time.Duration
	seed  uint64
	// cells are few, so that they stay in the processor's cache, and yet many for
	// what a worker can answer in one window.
	cells [1 << 15]uint8
}

// begin makes the window that of the time.
func (b *clientBudget) begin(now time.Duration) {
	if now >= b.until {
		clear(b.cells[:])
		b.until, b.seed = now+clientWindow, rand.Uint64()
	}
}

// take counts a client's message and reports whether it may be answered.
func (b *clientBudget) take(k key) bool {
	cell := &b.cells[spread(b.seed, k.first(), uint64(k.pod), len(b.cells))]
	if *cell == clientShare {
		return false
	}
	*cell++
	return true
}

// spread picks one of n cells.
func spread(seed, a, b uint64, n int) int { return place(mix(a^seed, b^golden)*golden, n) }
