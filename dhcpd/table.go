package dhcpd

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
)

// table holds what the answers need of the NICs, by pod and MAC, in less than 60
// octets for each: a million of them are 60 MB that the garbage collector need
// not look into.
//
// Lookups take no lock and never wait. The records lie in many small buckets;
// none changes once it can be seen: an update makes the one bucket that it
// concerns anew, which is some microseconds' work.
type table struct {
	seeds   [2]uint64
	mu      sync.Mutex // held by updates
	records int
	nics    atomic.Int64
	buckets atomic.Pointer[[]atomic.Pointer[bucket]]
}

// Buckets are made for perBucket records on the average and all made anew when
// they hold twice that.
const perBucket = 24

// bucket is a hash table with linear probing, two fifths of it empty: most are
// found where they are looked for first, and hardly one a second line of the
// processor's cache away.
type bucket []record

// record is one prefix of a NIC, or the one record of a NIC without any. It has
// no pointers.
type record struct {
	key    uint64 // MAC, and which of the NIC's records it is in the last octet; 0 where the slot is empty
	pod    uint32
	length uint8 // of the prefix; 0 where there is none
	count  uint8 // how many records the NIC has
	stored bool  // whether the interface identifier is the NIC's
	prefix uint64
	// iid is the interface identifier of a NIC whose address does not follow from
	// its MAC.
	iid uint64
}

// key names a NIC: MACs may repeat across pods.
type key struct {
	pod uint32 // the index's number of the pod
	mac sixacre.MAC
}

// first is the key of the NIC's first record; those that follow count on.
func (k key) first() uint64 {
	return uint64(binary.BigEndian.Uint32(k.mac[:]))<<32 | uint64(binary.BigEndian.Uint16(k.mac[4:]))<<16
}

// key returns which NIC the record is of.
func (r *record) nic() key {
	k := key{pod: r.pod}
	binary.BigEndian.PutUint32(k.mac[:], uint32(r.key>>32))
	binary.BigEndian.PutUint16(k.mac[4:], uint16(r.key>>16))
	return k
}

func newTable() *table {
	t := &table{seeds: [2]uint64{rand.Uint64(), rand.Uint64() | 1}}
	t.fill(nil)
	return t
}

// hash mixes a key with the table's own secret: MACs of one cloud differ in few
// bits, and those of a guest's choosing must not all end in one place.
func (t *table) hash(k key) uint64 {
	return mix(mix(k.first()^t.seeds[0], uint64(k.pod)<<32^t.seeds[1]), golden)
}

// golden is the golden ratio as a fraction of 2^64: an odd number whose bits look
// like those of chance, to multiply by.
const golden = 0x9e3779b97f4a7c15

// mix folds the product of two numbers.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// place picks one of n by a hash.
func place(hash uint64, n int) int {
	hi, _ := bits.Mul64(hash, uint64(n))
	return int(hi)
}

// start is where in a bucket a hash is looked for first: by other bits than those
// that picked the bucket.
func (b bucket) start(hash uint64) int { return place(hash<<32, len(b)) }

// add puts a record where it belongs. There is room for it.
func (b bucket) add(hash uint64, r record) {
	i := b.start(hash)
	for b[i].key != 0 {
		if i++; i == len(b) {
			i = 0
		}
	}
	b[i] = r
}

// find returns the record with that key, pod and hash, or nil.
func (b bucket) find(hash, key uint64, pod uint32) *record {
	if len(b) == 0 {
		return nil
	}
	for i := b.start(hash); b[i].key != 0; {
		if r := &b[i]; r.key == key && r.pod == pod {
			return r
		}
		if i++; i == len(b) {
			i = 0
		}
	}
	return nil
}

func newBucket(records int) bucket {
	if records == 0 {
		return nil
	}
	return make(bucket, records+(2*records+2)/3) // at least one stays empty, where a search ends
}

// bucketOf returns the bucket of a hash.
func (t *table) bucketOf(hash uint64) *atomic.Pointer[bucket] {
	buckets := *t.buckets.Load()
	return &buckets[place(hash, len(buckets))]
}

// found is room for a NIC that was looked up, to be used again for the next.
type found struct {
	nic      sixacre.NIC
	prefixes [sixacre.MaxPrefixes]netip.Prefix
}

// get looks a NIC of the pod up. What it finds is complete as far as an answer
// needs it: MAC, address and prefixes.
func (t *table) get(k key, pod *sixacre.Pod, into *found) (*sixacre.NIC, bool) {
	hash := t.hash(k)
	return t.bucketOf(hash).Load().get(hash, k, pod, into)
}

func (b bucket) get(hash uint64, k key, pod *sixacre.Pod, into *found) (*sixacre.NIC, bool) {
	r := b.find(hash, k.first(), k.pod)
	if r == nil {
		return nil, false
	}
	nic := &into.nic
	nic.MAC, nic.Address = k.mac, r.address(pod, k.mac)
	nic.Prefixes = into.prefixes[:0]
	if r.length == 0 {
		return nic, true
	}
	nic.Prefixes = append(nic.Prefixes, r.delegated())
	for i := uint64(1); i < uint64(r.count); i++ {
		nic.Prefixes = append(nic.Prefixes, b.find(hash, r.key+i, k.pod).delegated())
	}
	return nic, true
}

// has reports whether there is such a NIC.
func (t *table) has(k key) bool {
	hash := t.hash(k)
	return t.bucketOf(hash).Load().find(hash, k.first(), k.pod) != nil
}

// address returns the address of the record's NIC.
func (r *record) address(pod *sixacre.Pod, mac sixacre.MAC) netip.Addr {
	if pod.Addressing == sixacre.SLAAC {
		return addr.EUI64(pod.LinkPrefix, mac)
	}
	if !r.stored {
		return netip.Addr{}
	}
	a := pod.LinkPrefix.Addr().As16()
	binary.BigEndian.PutUint64(a[8:], r.iid)
	return netip.AddrFrom16(a)
}

// delegated returns the record's prefix, of which no more than 64 bits count.
func (r *record) delegated() netip.Prefix {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], r.prefix)
	return netip.PrefixFrom(netip.AddrFrom16(a), int(r.length))
}

// appendRecords appends the records of a NIC.
func appendRecords(records []record, k key, nic sixacre.NIC) []record {
	r := record{key: k.first(), pod: k.pod, count: uint8(max(1, len(nic.Prefixes)))}
	if nic.Address.IsValid() {
		a := nic.Address.As16()
		r.iid, r.stored = binary.BigEndian.Uint64(a[8:]), true
	}
	if len(nic.Prefixes) == 0 {
		return append(records, r)
	}
	for _, p := range nic.Prefixes {
		a := p.Addr().As16()
		r.prefix, r.length = binary.BigEndian.Uint64(a[:8]), uint8(p.Bits())
		records = append(records, r)
		r.key++
	}
	return records
}

// put makes the records the only ones of their NIC, and drops the NIC where there
// are none.
func (t *table) put(k key, records []record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	hash := t.hash(k)
	at := t.bucketOf(hash)
	before := *at.Load()
	gone := 0
	if r := before.find(hash, k.first(), k.pod); r != nil {
		gone = int(r.count)
	}
	kept := -gone
	for i := range before {
		if before[i].key != 0 {
			kept++
		}
	}
	next := newBucket(kept + len(records))
	for i := range before {
		if r := &before[i]; r.key != 0 && r.nic() != k {
			next.add(t.hash(r.nic()), *r)
		}
	}
	for _, r := range records {
		next.add(hash, r)
	}
	at.Store(&next)
	if gone == 0 && len(records) > 0 {
		t.nics.Add(1)
	} else if gone > 0 && len(records) == 0 {
		t.nics.Add(-1)
	}
	t.records += len(records) - gone
	if buckets := *t.buckets.Load(); t.records > 2*perBucket*len(buckets) {
		all := make([]record, 0, t.records)
		t.each(func(r *record) { all = append(all, *r) })
		t.fill(all)
	}
}

// fill makes the table anew of all the records there are.
func (t *table) fill(all []record) {
	buckets := make([]atomic.Pointer[bucket], max(1, len(all)/perBucket))
	// Sorted by bucket: first how many each has, then where each ends.
	ends := make([]int, len(buckets))
	for i := range all {
		ends[place(t.hash(all[i].nic()), len(buckets))]++
	}
	sum := 0
	for i, n := range ends {
		sum += n
		ends[i] = sum - n
	}
	order := make([]uint32, len(all))
	for i := range all {
		at := place(t.hash(all[i].nic()), len(buckets))
		order[ends[at]] = uint32(i)
		ends[at]++
	}
	from, nics := 0, 0
	for i, end := range ends {
		b := newBucket(end - from)
		for _, k := range order[from:end] {
			r := &all[k]
			b.add(t.hash(r.nic()), *r)
			if uint8(r.key) == 0 {
				nics++
			}
		}
		buckets[i].Store(&b)
		from = end
	}
	t.records = len(all)
	t.nics.Store(int64(nics))
	t.buckets.Store(&buckets)
}

// each calls f for every record. f must not change the table.
func (t *table) each(f func(*record)) {
	buckets := *t.buckets.Load()
	for i := range buckets {
		b := *buckets[i].Load()
		for j := range b {
			if b[j].key != 0 {
				f(&b[j])
			}
		}
	}
}
