// Package alloc picks free numbers: which prefix of a pool, which address of a
// link. It is pure: the caller keeps the used set and brings the randomness.
package alloc

import (
	"math/bits"
	"net/netip"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
)

// chunkBits is how many slots share one bitmap and one count.
const chunkBits = 4096

// Set is the used slots of a space of up to 2^32, kept so that a free one is
// picked uniformly and in the same time however full the space is: a bitmap for
// each chunk that has a used slot, and a Fenwick tree over the chunks' counts of
// free slots. An empty chunk has no bitmap.
//
// The zero Set has no slots. A Set is not safe for concurrent use.
type Set struct {
	size   uint64
	free   uint64
	chunks []*[chunkBits / 64]uint64
	tree   []uint32 // tree[i] counts the free slots of the chunks (i-lowbit(i), i], from 1
}

// NewSet returns a set of 2^bits free slots. bits is at most 32.
func NewSet(bits int) *Set {
	size := uint64(1) << bits
	n := int((size + chunkBits - 1) / chunkBits)
	s := &Set{size: size, free: size, chunks: make([]*[chunkBits / 64]uint64, n), tree: make([]uint32, n+1)}
	for i := 1; i <= n; i++ {
		s.tree[i] += uint32(min(chunkBits, size))
		if up := i + i&-i; up <= n {
			s.tree[up] += s.tree[i]
		}
	}
	return s
}

// Free is the number of free slots.
func (s *Set) Free() uint64 { return s.free }

// Has reports whether slot n is used.
func (s *Set) Has(n uint64) bool {
	chunk := s.chunks[n/chunkBits]
	return chunk != nil && chunk[n%chunkBits/64]&(1<<(n%64)) != 0
}

// Add marks slot n used, and reports whether it was free.
func (s *Set) Add(n uint64) bool {
	if n >= s.size || s.Has(n) {
		return false
	}
	chunk := &s.chunks[n/chunkBits]
	if *chunk == nil {
		*chunk = new([chunkBits / 64]uint64)
	}
	(*chunk)[n%chunkBits/64] |= 1 << (n % 64)
	s.count(n, ^uint32(0))
	s.free--
	return true
}

// Remove marks slot n free, and reports whether it was used.
func (s *Set) Remove(n uint64) bool {
	if n >= s.size || !s.Has(n) {
		return false
	}
	s.chunks[n/chunkBits][n%chunkBits/64] &^= 1 << (n % 64)
	s.count(n, 1)
	s.free++
	return true
}

// count adds delta to the free slots of n's chunk.
func (s *Set) count(n uint64, delta uint32) {
	for i := int(n/chunkBits) + 1; i < len(s.tree); i += i & -i {
		s.tree[i] += delta
	}
}

// Pick returns a free slot, each with the same chance. below returns a uniform
// number less than its argument. The second result is false where no slot is
// free.
func (s *Set) Pick(below func(uint64) uint64) (uint64, bool) {
	if s.free == 0 {
		return 0, false
	}
	rank := below(s.free)
	// Descend to the chunk that holds the free slot of that rank.
	at := 0
	for step := 1 << (bits.Len(uint(len(s.tree)-1)) - 1); step > 0; step >>= 1 {
		if next := at + step; next < len(s.tree) && uint64(s.tree[next]) <= rank {
			at, rank = next, rank-uint64(s.tree[next])
		}
	}
	chunk := s.chunks[at]
	if chunk == nil {
		return uint64(at)*chunkBits + rank, true
	}
	for w, word := range chunk {
		n := uint64(bits.OnesCount64(^word))
		if rank >= n {
			rank -= n
			continue
		}
		empty := ^word
		for range rank {
			empty &= empty - 1
		}
		return uint64(at)*chunkBits + uint64(w)*64 + uint64(bits.TrailingZeros64(empty)), true
	}
	panic("alloc: the counts disagree with the bitmaps")
}

// Prefix picks a free prefix of the pool, whose used ones are the set.
func Prefix(pool sixacre.Pool, used *Set, below func(uint64) uint64) (netip.Prefix, bool) {
	n, ok := used.Pick(below)
	if !ok {
		return netip.Prefix{}, false
	}
	return addr.Nth(pool, n), true
}

// Address makes an address in the link prefix from 64 random bits, and reports
// whether a NIC may be given it: it is not reserved (addr.Reserved), and cannot
// be taken for the EUI-64 address of some MAC. A /64 is so large that the caller
// simply tries again.
func Address(link netip.Prefix, random uint64) (netip.Addr, bool) {
	b := link.Addr().As16()
	for i := range 8 {
		b[8+i] = byte(random >> (56 - 8*i))
	}
	a := netip.AddrFrom16(b)
	_, eui64 := addr.MAC(a)
	return a, !eui64 && !addr.Reserved(a)
}
