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

// index is what the record says, as the server asks for it.
type index struct {
	mu       sync.Mutex // held by updates
	pods     map[string]sixacre.Pod
	numbers  map[string]uint32 // of the pods seen, those included that only NICs name
	serverID []byte
	seen     *sightings

	current atomic.Pointer[snapshot]
}

func newIndex() index {
	return index{numbers: map[string]uint32{}, seen: newSightings()}
}

// snapshot is replaced, not changed, save for the NICs.
type snapshot struct {
	serverID []byte // nil where there is none yet
	pods     *dhcp6.Pods
	numbers  []uint32 // of the pods, in the order in which they were given to dhcp6.NewPods
	nics     *table
}

// apply takes up a batch of the record's events. full says that the batch is
// everything there is. A NIC is known from its instance, in whatever order pods
// and instances come, until the claim to its MAC is gone.
func (x *index) apply(full bool, events []sixacre.Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	before := x.current.Load()
	next := &snapshot{}
	anew := full || before == nil
	redo := anew // whether it has to be said again whom each relay speaks for
	if anew {
		x.pods, x.serverID = map[string]sixacre.Pod{}, nil
		next.nics = newTable()
		next.nics.fill(x.records(events))
	} else {
		*next = *before
	}
	var records []record
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
			if anew {
				break // it is in already
			}
			instance, _ := e.Noun.(sixacre.Instance)
			for _, nic := range instance.NICs {
				k := key{x.number(nic.Pod), nic.MAC}
				records = appendRecords(records[:0], k, nic)
				// Only an address that some pod takes for a relay's makes a
				// difference to whom the relays speak for.
				redo = redo || x.isRelay(next, nic.Pod, k)
				next.nics.put(k, records)
				redo = redo || x.isRelay(next, nic.Pod, k)
			}
		case sixacre.KindClaim:
			pod, mac, ok := sixacre.ParseMACClaim(e.Key)
			if ok && e.Noun == nil && !anew {
				k := key{x.number(pod), mac}
				redo = redo || x.isRelay(next, pod, k)
				next.nics.put(k, nil)
				x.seen.forget(k)
			}
		case sixacre.KindSetting:
			if e.Key == sixacre.ServerIDKey {
				id, _ := e.Noun.(sixacre.ServerID)
				x.serverID = id.DUID
			}
		}
	}
	next.serverID = x.serverID
	if redo {
		x.direct(next)
	}
	x.current.Store(next)
	if anew {
		x.seen.keep(x.knows)
	}
}

// knows reports whether the record has such a NIC.
func (x *index) knows(k key) bool { return x.current.Load().nics.has(k) }

// records returns those of all NICs in a full batch.
func (x *index) records(events []sixacre.Event) []record {
	var records []record
	for _, e := range events {
		if instance, ok := e.Noun.(sixacre.Instance); ok {
			for _, nic := range instance.NICs {
				records = appendRecords(records, key{x.number(nic.Pod), nic.MAC}, nic)
			}
		}
	}
	return records
}

// number returns the number that stands for a pod in the table's keys. It is never
// another pod's.
func (x *index) number(pod string) uint32 {
	n, ok := x.numbers[pod]
	if !ok {
		n = uint32(len(x.numbers))
		x.numbers[pod] = n
	}
	return n
}

// isRelay reports whether a NIC has an address that some pod names as its
// relay's.
func (x *index) isRelay(now *snapshot, pod string, k key) bool {
	p, known := x.pods[pod]
	if !known {
		return false
	}
	var room found
	nic, ok := now.nics.get(k, &p, &room)
	return ok && now.pods.IsRelay(nic.Address)
}

// direct says anew whom each relay speaks for.
func (x *index) direct(next *snapshot) {
	pods := slices.Collect(maps.Values(x.pods))
	next.numbers = make([]uint32, len(pods))
	guests := map[netip.Addr]bool{} // of the relays' addresses: whether a NIC has it
	stored := map[uint32]sixacre.Pod{}
	for i, pod := range pods {
		next.numbers[i] = x.number(pod.Name)
		for _, a := range pod.Relays {
			guests[a] = false
		}
	}
	for a := range guests {
		for i, pod := range pods {
			if !pod.LinkPrefix.Contains(a) {
				continue
			}
			if pod.Addressing != sixacre.SLAAC {
				stored[next.numbers[i]] = pod
				continue
			}
			if mac, ok := addr.MAC(a); ok {
				var room found
				_, is := next.nics.get(key{next.numbers[i], mac}, &pod, &room)
				guests[a] = guests[a] || is
			}
		}
	}
	if len(stored) > 0 {
		next.nics.each(func(r *record) {
			if pod, ok := stored[r.pod]; ok {
				if a := r.address(&pod, r.nic().mac); a.IsValid() {
					if _, relay := guests[a]; relay {
						guests[a] = true
					}
				}
			}
		})
	}
	next.pods = dhcp6.NewPods(pods, func(a netip.Addr) bool { return guests[a] })
}
