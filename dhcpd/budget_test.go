package dhcpd

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

func TestRelayBudget(t *testing.T) {
	noisy, quiet := [16]byte{15: 1}, [16]byte{15: 2}
	// ask lets the noisy relay send many packets, and the quiet one a few now and
	// then, for a second, and returns how many of each may be answered.
	ask := func(queued bool, relays ...[16]byte) map[[16]byte]int {
		var b relayBudget
		taken := map[[16]byte]int{}
		for i := range 500_000 {
			now := time.Duration(i) * 2 * time.Microsecond
			relay := relays[i%len(relays)]
			if relay == quiet && i%1000 >= len(relays) {
				relay = noisy
			}
			if b.take(now, relay, queued) {
				taken[relay]++
			}
		}
		return taken
	}
	if got := ask(true, noisy)[noisy]; got != 500_000 {
		t.Errorf("alone, a relay got %d answers of 500000", got)
	}
	got := ask(true, noisy, quiet)
	if got[quiet] < 400 { // now and then they share a cell for a window
		t.Errorf("beside a noisy one, a quiet relay got %d answers of 500", got[quiet])
	}
	if got[noisy] < 20_000 || got[noisy] > 30_000 {
		t.Errorf("beside a quiet one, a noisy relay got %d answers in a second", got[noisy])
	}
	if got := ask(false, noisy, quiet)[noisy]; got != 500_000-500 {
		t.Errorf("with nothing waiting, a noisy relay got %d answers of 499500", got)
	}
	var even [][16]byte
	for i := range byte(20) {
		even = append(even, [16]byte{0: i, 7: 3, 15: i})
	}
	sum := 0
	for _, n := range ask(true, even...) {
		sum += n
	}
	if sum != 500_000 {
		t.Errorf("many that ask for the same got %d answers of 500000", sum)
	}
}

// Who was heard long ago is nobody to be fair to.
func TestRelayBudgetForgets(t *testing.T) {
	var b relayBudget
	for i := range byte(100) {
		b.take(0, [16]byte{15: i}, true)
	}
	for i := range 10 * relayShare {
		if !b.take(2*relayWindow, [16]byte{15: 1}, true) {
			t.Fatalf("alone for a whole window, a relay got %d answers", i)
		}
	}
}

func TestClientBudget(t *testing.T) {
	var b clientBudget
	take := func(now time.Duration, k key, times int) (taken int) {
		for range times {
			if b.begin(now); b.take(k) {
				taken++
			}
		}
		return taken
	}
	noisy := key{mac: mac1}
	if got := take(0, noisy, 1000); got != clientShare {
		t.Errorf("%d answers for a noisy client", got)
	}
	// Hardly anybody shares its cell.
	others := 0
	for i := range 1000 {
		others += take(0, key{mac: sixacre.MAC{6, 0, 0, 1, byte(i >> 8), byte(i)}}, 1)
	}
	if others < 998 {
		t.Errorf("%d answers for 1000 others", others)
	}
	if got := take(clientWindow, noisy, 1000); got != clientShare {
		t.Errorf("%d answers in the next window", got)
	}
}

func TestRelayBudgetCountsTheOthers(t *testing.T) {
	noisy, quiet := [16]byte{15: 1}, [16]byte{15: 2}
	var b relayBudget
	take := func(now time.Duration, relay [16]byte, times int) (taken int) {
		for range times {
			if b.take(now, relay, true) {
				taken++
			}
		}
		return taken
	}
	for b.heard != 2 { // unless they share a cell by chance
		b = relayBudget{}
		take(0, quiet, relayShare)
		take(0, noisy, 1)
	}
	if n := 1 + take(0, noisy, 5*relayShare); n != 4*relayShare {
		t.Errorf("%d answers beside one that asks for %d", n, relayShare)
	}
	if n := take(relayWindow, noisy, 2*relayShare); n != relayShare {
		t.Errorf("%d answers while the other may still come", n)
	}
	if n := take(2*relayWindow, noisy, 2*relayShare); n != 2*relayShare {
		t.Errorf("%d answers when the other has gone", n)
	}
}

// A client that shares its cell with a noisy one does so for no more than a
// window.
func TestClientsShareCellsByChance(t *testing.T) {
	var b clientBudget
	noisy, neighbour := key{mac: mac1}, key{}
	exhaust := func() {
		for b.take(noisy) {
		}
	}
	b.begin(0)
	exhaust()
	for i := uint32(0); ; i++ {
		neighbour.mac = sixacre.MAC{6, 1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
		if !b.take(neighbour) {
			break
		}
	}
	for now := time.Duration(0); ; now += clientWindow {
		if now == 10*clientWindow {
			t.Fatal("they share a cell for ever")
		}
		b.begin(now + clientWindow)
		exhaust()
		if b.take(neighbour) {
			break
		}
	}
}

// A guest that floods takes nothing of its relay's share from the others behind
// the same relay.
func TestFloodOfOneClientLeavesItsRelayTheRest(t *testing.T) {
	s := newServer()
	quiet := netip.MustParseAddr("2001:db8::2")
	pod := pod1
	pod.Relays = append(slices.Clone(pod.Relays), quiet)
	s.Apply(true, put(pod, serverID, instance("i-1", mac1), instance("i-2", mac2)), 1)
	s.Confirm(0, 1)
	w := s.newWorker(-1, s.at, nil)
	now := s.moment()
	now.queued = true
	locate := func(relay netip.Addr, mac sixacre.MAC) dhcp6.Reason {
		p := packet{payload: forward(t, mac).ToBytes(), from: &unix.RawSockaddrInet6{Addr: relay.As16()}}
		w.locate(&now, &p, &w.queries[0])
		return w.queries[0].why
	}
	if why := locate(quiet, mac2); why != dhcp6.Answered {
		t.Fatal(why)
	}
	for i := range 3 * relayShare {
		if why := locate(pod1.Relays[0], mac1); i >= clientShare && why != dhcp6.NoisyClient {
			t.Fatalf("message %d of the flood: %s", i, why)
		}
	}
	if why := locate(pod1.Relays[0], mac2); why != dhcp6.Answered {
		t.Errorf("another client behind the relay: %s", why)
	}
}
