// Package control writes the record: it deploys and retires instances, delegates
// and releases prefixes. Each call is one transaction, made whole or not at all;
// everything else in sixacre follows from what it wrote.
package control

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/alloc"
)

// Store is where the record is kept.
type Store interface {
	// Get returns the record under a key, or one with Revision 0.
	Get(ctx context.Context, key sixacre.Key) (sixacre.Record, error)
	// GetAll returns the records under the keys, in their order.
	GetAll(ctx context.Context, keys []sixacre.Key) ([]sixacre.Record, error)
	// Page returns the records of a kind whose names start with under and come
	// after a name, in their order, and no more than limit of them.
	Page(ctx context.Context, kind sixacre.Kind, under, after string, limit int) ([]sixacre.Record, error)
	// List returns the records of a kind whose names start with under, by name.
	List(ctx context.Context, kind sixacre.Kind, under string) ([]sixacre.Record, int64, error)
	// Commit writes the transaction if its conditions hold.
	Commit(ctx context.Context, txn sixacre.Txn) (ok bool, revision int64, err error)
}

// Control writes the record. Its methods may be called from several goroutines,
// and any number of servers may run one on the same store: what they see of each
// other by Apply only makes good guesses, the transactions' conditions decide.
type Control struct {
	store  Store
	now    func() time.Time     // the wall clock
	uptime func() time.Duration // a clock that nobody sets

	mu      sync.Mutex
	pools   map[netip.Prefix]*pool
	podOf   map[string][]netip.Prefix    // pools of each pod seen
	orphans map[netip.Prefix]struct{}    // delegations of pools that no pod has any more
	resting map[netip.Prefix]rest        // what is in quarantine
	tokens  map[[32]byte]sixacre.Token   // by hash
	hashes  map[string][32]byte          // of the tokens seen, by name
	routers map[sixacre.Key][]netip.Addr // addresses of each pod's relays, and of each peer
	ticked  instant                      // last Tick
}

type pool struct {
	sixacre.Pool
	used *alloc.Set
}

// rest is a prefix's quarantine: the record of it, and its end in the store's
// time.
type rest struct {
	sixacre.Seen
	until time.Time
}

// instant is a moment by both clocks.
type instant struct {
	wall   time.Time
	uptime time.Duration
}

// New returns a Control over the store. now is the wall clock, which may be set
// and may jump; uptime is a clock that nobody sets, such as CLOCK_BOOTTIME.
func New(store Store, now func() time.Time, uptime func() time.Duration) *Control {
	c := &Control{store: store, now: now, uptime: uptime}
	c.ticked = c.instant()
	c.reset()
	return c
}

// instant reads both clocks. Without Round the wall clock would bring Go's own
// monotonic reading along, and a difference would be by that.
func (c *Control) instant() instant { return instant{c.now().Round(0), c.uptime()} }

func (c *Control) reset() {
	c.pools = map[netip.Prefix]*pool{}
	c.podOf = map[string][]netip.Prefix{}
	c.orphans = map[netip.Prefix]struct{}{}
	c.resting = map[netip.Prefix]rest{}
	c.tokens = map[[32]byte]sixacre.Token{}
	c.hashes = map[string][32]byte{}
	c.routers = map[sixacre.Key][]netip.Addr{}
}

// Apply learns from the store what was written, by whomever: the arguments of
// its Watch. It must have seen the first full batch before prefixes are picked.
func (c *Control) Apply(full bool, events []sixacre.Event, _ int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if full {
		c.reset()
		// Pools before the delegations that they hold.
		for _, e := range events {
			if e.Key.Kind == sixacre.KindPod {
				c.apply(e)
			}
		}
	}
	for _, e := range events {
		if !full || e.Key.Kind != sixacre.KindPod {
			c.apply(e)
		}
	}
}

func (c *Control) apply(e sixacre.Event) {
	switch e.Key.Kind {
	case sixacre.KindPod:
		p, _ := e.Noun.(sixacre.Pod)
		c.applyPools(e.Key.Name, p.Pools)
		c.routers[e.Key] = p.Relays
		if e.Noun == nil {
			delete(c.routers, e.Key)
		}
	case sixacre.KindPeer:
		delete(c.routers, e.Key)
		if p, ok := e.Noun.(sixacre.Peer); ok {
			c.routers[e.Key] = []netip.Addr{p.Address}
		}
	case sixacre.KindDelegation:
		prefix, err := netip.ParsePrefix(e.Key.Name)
		if err != nil {
			return
		}
		d, exists := e.Noun.(sixacre.Delegation)
		c.mark(prefix, exists)
		delete(c.resting, prefix)
		if exists && d.State == sixacre.Quarantined {
			c.resting[prefix] = rest{sixacre.Seen{Key: e.Key, Revision: e.Revision}, d.Until}
		}
	case sixacre.KindToken:
		if hash, known := c.hashes[e.Key.Name]; known {
			delete(c.tokens, hash)
			delete(c.hashes, e.Key.Name)
		}
		if t, ok := e.Noun.(sixacre.Token); ok && len(t.Hash) == 32 {
			c.tokens[[32]byte(t.Hash)] = t
			c.hashes[t.Name] = [32]byte(t.Hash)
		}
	}
}

// applyPools makes the pod's pools the given ones. Delegations outlive the pod
// in quarantine, and count again when a pool takes up their block.
func (c *Control) applyPools(pod string, pools []sixacre.Pool) {
	gone := c.podOf[pod]
	delete(c.podOf, pod)
	for _, p := range pools {
		c.podOf[pod] = append(c.podOf[pod], p.Prefix)
		if have, ok := c.pools[p.Prefix]; ok && have.Pool == p {
			continue
		}
		fresh := &pool{Pool: p, used: alloc.NewSet(p.Bits())}
		c.pools[p.Prefix] = fresh
		for prefix := range c.orphans {
			if fresh.Holds(prefix) {
				fresh.used.Add(addr.Index(p, prefix))
				delete(c.orphans, prefix)
			}
		}
	}
	for _, prefix := range gone {
		if !slices.ContainsFunc(pools, func(p sixacre.Pool) bool { return p.Prefix == prefix }) {
			p := c.pools[prefix]
			delete(c.pools, prefix)
			for resting := range c.resting {
				if p.Holds(resting) {
					c.orphans[resting] = struct{}{}
				}
			}
		}
	}
}

// mark notes that a prefix is used, or free again.
func (c *Control) mark(prefix netip.Prefix, used bool) {
	pooled := false
	for _, p := range c.pools {
		if p.Holds(prefix) {
			if used {
				p.used.Add(addr.Index(p.Pool, prefix))
			} else {
				p.used.Remove(addr.Index(p.Pool, prefix))
			}
			pooled = true
		}
	}
	if used && !pooled {
		c.orphans[prefix] = struct{}{}
	} else {
		delete(c.orphans, prefix)
	}
}

// pick takes a free prefix of the first of the pod's pools that has one and
// delegates the length, so that no other caller picks it too.
func (c *Control) pick(pod sixacre.Pod, from []sixacre.Pool) (netip.Prefix, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range from {
		if have, ok := c.pools[p.Prefix]; !ok || have.Pool != p {
			// The pod was read from the store before Apply told of it.
			c.applyPools(pod.Name, pod.Pools)
		}
		if prefix, ok := alloc.Prefix(p, c.pools[p.Prefix].used, rand.Uint64N); ok {
			c.mark(prefix, true)
			return prefix, true
		}
	}
	return netip.Prefix{}, false
}

// attempt is one try at a transaction. What it reads becomes its conditions.
type attempt struct {
	*Control
	ctx context.Context
	sixacre.Txn
	known  map[sixacre.Key]sixacre.Noun // what was read; nil where there is none
	picked []netip.Prefix               // put back if the try fails
}

// tries bounds how often a transaction that met another is begun anew.
const tries = 64

// change tries f, which reads and plans, and writes what it planned, until
// nothing that it read has changed meanwhile.
func (c *Control) change(ctx context.Context, f func(*attempt) error) error {
	for range tries {
		a := &attempt{Control: c, ctx: ctx}
		err := f(a)
		if err == nil && len(a.Put)+len(a.Delete) == 0 {
			return nil // nothing to write, so nothing that it could meet
		}
		written := false
		if err == nil {
			written, _, err = c.store.Commit(ctx, a.Txn)
		}
		if written {
			c.learnTokens(a.Txn)
			return nil
		}
		if err2 := a.putBack(); err == nil {
			err = err2
		}
		if err != nil {
			return err
		}
	}
	return sixacre.Errorf(sixacre.Unavailable, "others changed the same records at the same time, %d times in a row: try again", tries)
}

// putBack frees the prefixes that were picked, except those that somebody holds.
func (a *attempt) putBack() error {
	for _, prefix := range a.picked {
		r, err := a.store.Get(a.ctx, sixacre.DelegationKey(prefix))
		if err != nil {
			return err // left out of use, until the next full Apply counts anew
		}
		if r.Noun == nil {
			a.mu.Lock()
			a.mark(prefix, false)
			a.mu.Unlock()
		}
	}
	return nil
}

// read returns the noun under a key as the attempt leaves it, and makes its
// being unchanged in the store a condition.
func read[T sixacre.Noun](a *attempt, key sixacre.Key) (noun T, found bool, err error) {
	for _, planned := range a.Put {
		if planned.Key() == key {
			noun, found = planned.(T)
			return noun, found, nil
		}
	}
	before, again := a.known[key]
	if !again {
		r, err := a.store.Get(a.ctx, key)
		if err != nil {
			return noun, false, err
		}
		a.learn(key, r)
		before = r.Noun
	}
	noun, found = before.(T)
	return noun, found, nil
}

// readAhead asks the store for several keys at once, for read to find.
func (a *attempt) readAhead(keys []sixacre.Key) error {
	records, err := a.store.GetAll(a.ctx, keys)
	for i, r := range records {
		a.learn(keys[i], r)
	}
	return err
}

// learn makes it a condition that the record under the key stays as it was read.
func (a *attempt) learn(key sixacre.Key, r sixacre.Record) {
	if a.known == nil {
		a.known = map[sixacre.Key]sixacre.Noun{}
	}
	a.known[key] = r.Noun
	a.Seen = append(a.Seen, sixacre.Seen{Key: key, Revision: r.Revision})
}

// put plans to write a noun, instead of what was planned for the same key before.
func (a *attempt) put(noun sixacre.Noun) {
	at := slices.IndexFunc(a.Put, func(planned sixacre.Noun) bool { return planned.Key() == noun.Key() })
	if at < 0 {
		a.Put = append(a.Put, noun)
	} else {
		a.Put[at] = noun
	}
}

// must is read for what has to exist. noun is its name in messages.
func must[T sixacre.Noun](a *attempt, noun string, key sixacre.Key) (T, error) {
	v, found, err := read[T](a, key)
	if err == nil && !found {
		err = sixacre.Errorf(sixacre.NotFound, "%s %s does not exist: see 'sixacre %s list'", noun, key.Name, noun)
	}
	return v, err
}

// fresh makes it a condition that nothing is under the key.
func fresh(a *attempt, noun string, key sixacre.Key) error {
	_, found, err := read[sixacre.Noun](a, key)
	if err == nil && found {
		err = sixacre.Errorf(sixacre.Conflict, "%s %s exists already: choose another name, or delete it first", noun, key.Name)
	}
	return err
}

// get reads one noun outside of any transaction.
func get[T sixacre.Noun](ctx context.Context, c *Control, noun string, key sixacre.Key) (T, error) {
	return must[T](&attempt{Control: c, ctx: ctx}, noun, key)
}

// list reads all nouns of a kind.
func list[T sixacre.Noun](ctx context.Context, c *Control, kind sixacre.Kind) ([]T, error) {
	records, _, err := c.store.List(ctx, kind, "")
	nouns := make([]T, 0, len(records))
	for _, r := range records {
		nouns = append(nouns, r.Noun.(T))
	}
	return nouns, err
}
