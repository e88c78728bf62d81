package dhcpd

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

const (
	// glimpseQueue is how many glimpses may wait to be told. What finds no room is
	// not remembered either, so that the client's next message tells it.
	glimpseQueue = 1 << 14
	// toldAtOnce bounds how many glimpses are told in one go.
	toldAtOnce = 512
	// A NIC is told of newsShare times in newsWindow at most, so that a client which
	// changes with each message does not keep the store busy. What is left out then
	// is told when the client speaks again; as one that released its leases may not,
	// releases are told twice as often.
	newsShare  = 8
	newsWindow = 10 * time.Second
	// timesEvery is how often it is told when clients were last heard that have
	// nothing new to say.
	timesEvery = 5 * time.Minute
)

// sightings remembers what was told of the clients, so that only news is: each
// relay of a NIC has 32 octets, in an open hash table that messages are looked up
// in without any lock. A message that has nothing new writes its time there.
type sightings struct {
	on     atomic.Bool
	seed   maphash.Seed
	seeds  [2]uint64
	queue  chan glimpse
	missed atomic.Uint64 // glimpses that found no room in the queue

	mu     sync.Mutex // held by who adds and removes
	used   int        // slots that are not empty
	gone   int        // of them, those that were emptied
	pods   map[uint32]podSeen
	remade bool // whether the slots were, since somebody went through them
	slots  atomic.Pointer[[]slot]
}

// podSeen is a pod of which somebody was seen, and by which relays.
type podSeen struct {
	name   string
	relays []netip.Addr
}

// slot is one relay of one NIC.
type slot struct {
	id    atomic.Uint64 // hash of NIC and relay; 0 in an empty slot, emptied in one that was not always
	who   atomic.Uint64 // the MAC, and in the last two octets which of the pod's relays
	where atomic.Uint64 // the pod's number, and in the lower half the mark
	when  atomic.Uint64
}

const emptied = 1

// glimpse is a message with news, all of it in the value: to queue one allocates
// nothing.
type glimpse struct {
	key
	podName     string
	at          time.Time
	id          uint64
	message     dhcp6.MessageType
	effect      sixacre.Effect
	mark        uint32
	relay, peer netip.Addr
	declined    netip.Addr
	link        netip.Addr // invalid where the Relay-forward is not kept
	interfaceID [sixacre.MaxInterfaceID]byte
	duid        [130]byte
	// The lengths of what the arrays hold.
	interfaceIDLength, duidLength uint8
}

// times packs the time of the last message, its type, and the time since when
// the client is bound, or 0.
type times uint64

// epoch is where those times count from, in seconds; 30 bits last until 2060.
const epoch = 1767225600 // 2026-01-01

func newTimes(last uint32, message dhcp6.MessageType, bound uint32) times {
	return times(last)<<34 | times(message&15)<<30 | times(bound&(1<<30-1))
}

func (t times) last() uint32               { return uint32(t >> 34) }
func (t times) message() dhcp6.MessageType { return dhcp6.MessageType(t >> 30 & 15) }
func (t times) bound() uint32              { return uint32(t & (1<<30 - 1)) }

func clockTime(seconds uint32) time.Time { return time.Unix(int64(seconds)+epoch, 0).UTC() }

func newSightings() *sightings {
	s := &sightings{
		seed:  maphash.MakeSeed(),
		seeds: [2]uint64{rand.Uint64(), rand.Uint64()},
		queue: make(chan glimpse, glimpseQueue),
		pods:  map[uint32]podSeen{},
	}
	empty := make([]slot, 64)
	s.slots.Store(&empty)
	return s
}

// id is a secret hash, so that nobody can choose whom to be mistaken for.
func (s *sightings) id(k key, relay netip.Addr) uint64 {
	a := relay.As16()
	h := mix(k.first()^s.seeds[0], binary.NativeEndian.Uint64(a[:8])^s.seeds[1])
	h = mix(h^uint64(k.pod)<<20, binary.NativeEndian.Uint64(a[8:])^s.seeds[0])
	return max(mix(h^s.seeds[1], golden), emptied+1)
}

// find returns the slot with the id, or nil.
func find(slots []slot, id uint64) *slot {
	for i := place(id, len(slots)); ; {
		switch slots[i].id.Load() {
		case id:
			return &slots[i]
		case 0:
			return nil
		}
		if i++; i == len(slots) {
			i = 0
		}
	}
}

// mark is a hash of what makes a message news where it changes.
func (s *sightings) mark(q *query, interfaceID []byte) uint32 {
	var by [32]byte
	peer, link := q.client.Peer.As16(), q.client.Link.As16()
	copy(by[:], peer[:])
	copy(by[16:], link[:])
	mark := uint32(maphash.Bytes(s.seed, q.ClientID)>>32) ^ uint32(maphash.Bytes(s.seed, by[:]))
	if interfaceID != nil {
		// Of a longer one nothing is kept, and so what comes after is no news.
		interfaceID = interfaceID[:min(len(interfaceID), sixacre.MaxInterfaceID+1)]
		mark ^= uint32(maphash.Bytes(s.seed, interfaceID) >> 16)
	}
	return mark
}

// note takes up that a query of a NIC with that address was answered.
func (s *sightings) note(q *query, address netip.Addr, now time.Time) {
	if q.ClientID == nil {
		return // an Information-request may come from anybody
	}
	interfaceID := q.Relays[len(q.Relays)-1].InterfaceID
	mark := s.mark(q, interfaceID)
	last := uint32(now.Unix() - epoch)
	slot := find(*s.slots.Load(), q.sighting)
	if slot != nil && uint32(slot.where.Load()) == mark {
		before := times(slot.when.Load())
		bound, news := before.bound(), false
		switch q.Effect {
		case sixacre.Binds:
			news = bound == 0
			bound = last
		case sixacre.Releases, sixacre.Declines:
			// The lease may have come through another relay or server, or before this
			// one was started.
			news = true
		}
		if !news {
			if after := newTimes(last, q.Type, bound); after != before {
				slot.when.Store(uint64(after))
			}
			return
		}
	}
	if len(s.queue) == cap(s.queue) {
		s.missed.Add(1)
		return
	}
	g := glimpse{
		key: q.key, podName: q.client.Pod.Name, at: now, id: q.sighting, message: q.Type, effect: q.Effect, mark: mark,
		relay: q.relay, peer: q.client.Peer, duidLength: uint8(len(q.ClientID)),
	}
	copy(g.duid[:], q.ClientID)
	if n := len(interfaceID); interfaceID == nil || n > 0 && n <= sixacre.MaxInterfaceID {
		g.link, g.interfaceIDLength = q.client.Link, uint8(n)
		copy(g.interfaceID[:], interfaceID)
	}
	if q.Effect == sixacre.Declines {
		g.declined = address
	}
	select {
	case s.queue <- g:
		if slot != nil && q.Effect == sixacre.Releases {
			// The lease that follows is news even if this still waits to be told.
			slot.when.Store(uint64(newTimes(last, q.Type, 0)))
		}
	default:
		s.missed.Add(1)
	}
}

// remember notes that a glimpse is told.
func (s *sightings) remember(g *glimpse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pod := s.pods[g.pod]
	relay := slices.Index(pod.relays, g.relay)
	if relay < 0 {
		relay = len(pod.relays)
		pod.relays = append(pod.relays, g.relay)
	}
	pod.name = g.podName
	s.pods[g.pod] = pod
	slots := *s.slots.Load()
	at := find(slots, g.id)
	if at == nil {
		if 3*(s.used+1) > 2*len(slots) {
			slots = s.grow(slots)
		}
		at = vacant(slots, g.id)
		s.used++
		at.who.Store(g.first() | uint64(uint16(relay)))
	}
	bound := times(at.when.Load()).bound()
	last := uint32(g.at.Unix() - epoch)
	switch g.effect {
	case sixacre.Binds:
		bound = last
	case sixacre.Releases:
		bound = 0
	}
	at.where.Store(uint64(g.pod)<<32 | uint64(g.mark))
	at.when.Store(uint64(newTimes(last, g.message, bound)))
	at.id.Store(g.id) // from now on it is found
}

// vacant returns the empty slot where an id belongs.
func vacant(slots []slot, id uint64) *slot {
	i := place(id, len(slots))
	for slots[i].id.Load() != 0 {
		if i++; i == len(slots) {
			i = 0
		}
	}
	return &slots[i]
}

// grow makes room for a third more. A time that is written to the old slots
// meanwhile is lost.
func (s *sightings) grow(old []slot) []slot {
	slots := make([]slot, 2*(s.used-s.gone)+64)
	for i := range old {
		from := &old[i]
		if id := from.id.Load(); id > emptied {
			to := vacant(slots, id)
			to.who.Store(from.who.Load())
			to.where.Store(from.where.Load())
			to.when.Store(from.when.Load())
			to.id.Store(id)
		}
	}
	s.used, s.gone, s.remade = s.used-s.gone, 0, true
	s.slots.Store(&slots)
	return slots
}

func (s *slot) key() key {
	r := record{key: s.who.Load(), pod: uint32(s.where.Load() >> 32)}
	return r.nic()
}

// forget empties the slots of a NIC.
func (s *sightings) forget(k key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, relay := range s.pods[k.pod].relays {
		if slot := find(*s.slots.Load(), s.id(k, relay)); slot != nil {
			slot.id.Store(emptied)
			s.gone++
		}
	}
}

// keep empties the slots of all NICs but those that are known.
func (s *sightings) keep(known func(key) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slots := *s.slots.Load()
	for i := range slots {
		if slots[i].id.Load() > emptied && !known(slots[i].key()) {
			slots[i].id.Store(emptied)
			s.gone++
		}
	}
}

// count returns how many slots are in use.
func (s *sightings) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used - s.gone
}

// since returns some of those who were heard after a time and had nothing new to
// say, and where to go on for the others: at 0 when that was all.
func (s *sightings) since(last uint32, from int) (heard []sixacre.Glimpse, next int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slots := *s.slots.Load()
	if s.remade {
		s.remade, from = false, 0
	}
	for i := from; i < len(slots); i++ {
		slot := &slots[i]
		when := times(slot.when.Load())
		if slot.id.Load() <= emptied || when.last() <= last {
			continue
		}
		if len(heard)+2 > toldAtOnce {
			return heard, i
		}
		k := slot.key()
		g := sixacre.Glimpse{
			Pod: s.pods[k.pod].name, MAC: k.mac, Time: clockTime(when.last()), Message: when.message().String(),
			Relay: s.pods[k.pod].relays[uint16(slot.who.Load())],
		}
		if bound := when.bound(); bound > last {
			// A lease ages from when it was given, whatever the client said since.
			lease := g
			lease.Time, lease.Effect = clockTime(bound), sixacre.Binds
			heard = append(heard, lease)
			if bound == when.last() {
				continue
			}
		}
		heard = append(heard, g)
	}
	return heard, 0
}

// news returns a glimpse that was queued, and others that wait behind it, save
// those of NICs that were told of too often or are not known any more.
func (s *sightings) news(g glimpse, told map[key]int, known func(key) bool) []sixacre.Glimpse {
	var batch []sixacre.Glimpse
	for {
		share := newsShare
		if g.effect == sixacre.Releases {
			share = 2 * newsShare
		}
		if told[g.key] < share {
			told[g.key]++
			s.remember(&g)
			if known(g.key) {
				batch = append(batch, g.glimpse())
			} else {
				// It went while this waited. If it goes after this, that empties the slot.
				s.forget(g.key)
			}
		}
		if len(batch) == toldAtOnce {
			return batch
		}
		select {
		case g = <-s.queue:
		default:
			return batch
		}
	}
}

// Tell calls tell with what is seen of clients, until the context ends: what is
// new at once, and now and then who was heard at all. Where tell fails it is
// called again with the same. Answers never wait for it.
func (s *Server) Tell(ctx context.Context, tell func(context.Context, []sixacre.Glimpse) error) error {
	tick := time.NewTicker(timesEvery)
	defer tick.Stop()
	return s.tell(ctx, tick.C, tell)
}

func (s *Server) tell(ctx context.Context, tick <-chan time.Time, tell func(context.Context, []sixacre.Glimpse) error) error {
	seen := s.index.seen
	seen.on.Store(true)
	defer seen.on.Store(false)
	told := map[key]int{} // news in this window
	var window time.Duration
	// A second ago: who is heard within one may be told twice, but not left out.
	lately := func() uint32 { return uint32(max(1, time.Now().Unix()-epoch-1)) }
	heard, next := lately(), 0
	ticked := heard
	ready := make(chan struct{})
	close(ready)
	for {
		// Who was heard after heard is told from slot next on, in turn with news.
		var times <-chan struct{}
		if ticked != heard {
			times = ready
		}
		var batch []sixacre.Glimpse
		select {
		case <-ctx.Done():
			return ctx.Err()
		case g := <-seen.queue:
			if now := s.clock(); now >= window {
				clear(told)
				window = now + newsWindow
			}
			batch = seen.news(g, told, s.index.knows)
		case <-tick:
			if ticked == heard {
				heard = min(heard, lately()) // a clock that was ahead may be put back
				ticked, next = max(lately(), heard+1), 0
			}
		case <-times:
			if batch, next = seen.since(heard, next); next == 0 {
				heard = ticked
			}
		}
		if err := s.insist(ctx, tell, batch); err != nil {
			return err
		}
	}
}

// insist calls tell until it took the batch or the context ends. What is refused
// for another reason than that the store is away is told in halves, so that it
// keeps nothing else from being told, and left out in the end.
func (s *Server) insist(ctx context.Context, tell func(context.Context, []sixacre.Glimpse) error, batch []sixacre.Glimpse) error {
	if len(batch) == 0 {
		return nil
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		err := tell(ctx, batch)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case sixacre.CodeOf(err) == sixacre.Unavailable:
			s.log.Warn("dhcp6: what is seen of clients is not recorded: it is tried again", "error", err, "after", wait)
		case len(batch) > 1:
			if err := s.insist(ctx, tell, batch[:len(batch)/2]); err != nil {
				return err
			}
			return s.insist(ctx, tell, batch[len(batch)/2:])
		default:
			s.log.Error("dhcp6: what is seen of a client cannot be recorded", "pod", batch[0].Pod, "mac", batch[0].MAC, "error", err)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (g *glimpse) glimpse() sixacre.Glimpse {
	var interfaceID sixacre.Octets // nil where there is none, as it is read from the store
	if n := g.interfaceIDLength; n > 0 {
		interfaceID = slices.Clone(g.interfaceID[:n])
	}
	return sixacre.Glimpse{
		Pod: g.podName, MAC: g.mac, Time: g.at.UTC(), Message: g.message.String(), Effect: g.effect,
		DUID: slices.Clone(g.duid[:g.duidLength]), Relay: g.relay, Peer: g.peer, Link: g.link, InterfaceID: interfaceID, Declined: g.declined,
	}
}
