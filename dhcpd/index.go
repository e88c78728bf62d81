package dhcpd

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

// index is what the record says, as the server asks for it. Lookups take no lock
// that an update holds for longer than it takes to store one NIC.
type index struct {
	mu       sync.Mutex // held by updates
	pods     map[string]sixacre.Pod
	serverID []byte
	holds    map[string][]key // the NICs of each instance

	current atomic.Pointer[snapshot]
}

// snapshot is replaced, not changed, save for the NICs.
type snapshot struct {
	serverID []byte // nil where there is none yet
	pods     *dhcp6.Pods
	nics     *nics
}

// key names a NIC: MACs may repeat across pods.
type key struct {
	pod string
	mac sixacre.MAC
}

// nics is spread over many locks so that a lookup hardly ever meets an update.
type nics struct {
	count  atomic.Int64
	shards [256]struct {
		sync.RWMutex
		nics map[key]*entry
	}
}

// entry does not change once it is in the index.
type entry struct {
	nic      sixacre.NIC // as in the record: not complete
	instance string
}

func newNICs() *nics {
	n := &nics{}
	for i := range n.shards {
		n.shards[i].nics = map[key]*entry{}
	}
	return n
}

// shard picks by the octet of the MAC that differs most within a cloud.
func shard(k key) int { return int(k.mac[5]) }

func (n *nics) get(k key) *entry {
	s := &n.shards[shard(k)]
	s.RLock()
	defer s.RUnlock()
	return s.nics[k]
}

func (n *nics) put(k key, e *entry) {
	s := &n.shards[shard(k)]
	s.Lock()
	defer s.Unlock()
	if s.nics[k] == nil {
		n.count.Add(1)
	}
	s.nics[k] = e
}

// drop removes the NIC if it is still that instance's.
func (n *nics) drop(k key, instance string) {
	s := &n.shards[shard(k)]
	s.Lock()
	defer s.Unlock()
	if e := s.nics[k]; e != nil && e.instance == instance {
		delete(s.nics, k)
		n.count.Add(-1)
	}
}

// each calls f for every NIC. f must not change the index.
func (n *nics) each(f func(*entry)) {
	for i := range n.shards {
		s := &n.shards[i]
		s.RLock()
		for _, e := range s.nics {
			f(e)
		}
		s.RUnlock()
	}
}

// apply takes up a batch of the record's events. full says that the batch is
// everything there is. Pods and instances may come in any order.
func (x *index) apply(full bool, events []sixacre.Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	before := x.current.Load()
	next := &snapshot{}
	if full || before == nil {
		x.pods, x.holds, x.serverID = map[string]sixacre.Pod{}, map[string][]key{}, nil
		next.nics = newNICs()
	} else {
		*next = *before
	}
	redo := full || before == nil
	for _, e := range events {
		switch e.Key.Kind {
		case sixacre.KindPod:
			if pod, ok := e.Noun.(sixacre.Pod); ok {
				x.pods[e.Key.Name] = pod
			} else {
				delete(x.pods, e.Key.Name)
			}
			redo = true
		case sixacre.KindInstance:
			instance, _ := e.Noun.(sixacre.Instance)
			// Only an address that some pod takes for a relay's makes a
			// difference to whom the relays speak for.
			redo = x.replace(next, e.Key.Name, instance.NICs) || redo
		case sixacre.KindSetting:
			if e.Key == sixacre.ServerIDKey {
				id, _ := e.Noun.(sixacre.ServerID)
				x.serverID = id.DUID
			}
		}
	}
	next.serverID = x.serverID
	if redo {
		next.pods = x.directory(next.nics)
	}
	x.current.Store(next)
}

// replace makes the NICs given the instance's only ones. It reports whether an
// address that came or went is one that a pod names as its relay's.
func (x *index) replace(next *snapshot, instance string, now []sixacre.NIC) (relay bool) {
	isRelay := func(e *entry) bool {
		a, ok := x.address(e)
		return ok && next.pods != nil && next.pods.IsRelay(a)
	}
	keep := make([]key, 0, len(now))
	for _, nic := range now {
		k := key{nic.Pod, nic.MAC}
		e := &entry{nic: nic, instance: instance}
		if before := next.nics.get(k); before != nil {
			relay = relay || isRelay(before)
		}
		next.nics.put(k, e)
		relay = relay || isRelay(e)
		keep = append(keep, k)
	}
	for _, k := range x.holds[instance] {
		if slices.Contains(keep, k) {
			continue
		}
		if before := next.nics.get(k); before != nil {
			relay = relay || isRelay(before)
		}
		next.nics.drop(k, instance)
	}
	if len(keep) == 0 {
		delete(x.holds, instance)
	} else {
		x.holds[instance] = keep
	}
	return relay
}

// address returns the address of a NIC whose pod is known.
func (x *index) address(e *entry) (netip.Addr, bool) {
	pod, ok := x.pods[e.nic.Pod]
	if !ok {
		return netip.Addr{}, false
	}
	return addr.Complete(pod, e.nic).Address, true
}

// directory says anew whom each relay speaks for.
func (x *index) directory(nics *nics) *dhcp6.Pods {
	relays := map[netip.Addr]bool{} // whether a NIC has the address
	for _, pod := range x.pods {
		for _, a := range pod.Relays {
			relays[a] = false
		}
	}
	nics.each(func(e *entry) {
		if a, ok := x.address(e); ok {
			if _, is := relays[a]; is {
				relays[a] = true
			}
		}
	})
	return dhcp6.NewPods(slices.Collect(maps.Values(x.pods)), func(a netip.Addr) bool { return relays[a] })
}
