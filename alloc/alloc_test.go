package alloc

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
)

// A map is the dumb twin: same answers to every sequence of calls.
func TestSetIsAsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(0, 14).Draw(t, "bits")
		size := uint64(1) << bits
		set, twin := NewSet(bits), map[uint64]bool{}
		for range rapid.IntRange(0, 300).Draw(t, "steps") {
			n := rapid.Uint64Range(0, size-1).Draw(t, "slot")
			switch rapid.IntRange(0, 3).Draw(t, "call") {
			case 0:
				if set.Add(n) == twin[n] {
					t.Fatalf("Add(%d) disagrees with %v", n, twin[n])
				}
				twin[n] = true
			case 1:
				if set.Remove(n) != twin[n] {
					t.Fatalf("Remove(%d) disagrees with %v", n, twin[n])
				}
				delete(twin, n)
			default:
				rank := rapid.Uint64().Draw(t, "rank")
				got, ok := set.Pick(func(below uint64) uint64 {
					if below != size-uint64(len(twin)) {
						t.Fatalf("Pick chooses among %d, want %d", below, size-uint64(len(twin)))
					}
					return rank % below
				})
				if ok != (uint64(len(twin)) < size) {
					t.Fatalf("Pick found %v with %d of %d used", ok, len(twin), size)
				}
				if ok && (got >= size || twin[got] || nth(twin, rank%(size-uint64(len(twin)))) != got) {
					t.Fatalf("Pick = %d", got)
				}
			}
			if set.Free() != size-uint64(len(twin)) || set.Has(n) != twin[n] {
				t.Fatalf("Free = %d, Has(%d) = %v", set.Free(), n, set.Has(n))
			}
		}
	})
}

// nth counts the free slots one by one.
func nth(used map[uint64]bool, rank uint64) uint64 {
	for n := uint64(0); ; n++ {
		if !used[n] {
			if rank == 0 {
				return n
			}
			rank--
		}
	}
}

func TestTheLastFreePrefixIsFound(t *testing.T) {
	pool := sixacre.Pool{Prefix: netip.MustParsePrefix("2001:db8:4000::/40"), DelegatedLength: 60}
	used := NewSet(pool.Bits())
	seen := map[netip.Prefix]bool{}
	for used.Free() > 0 {
		p, ok := Prefix(pool, used, rand.Uint64N)
		if !ok || !pool.Holds(p) || seen[p] {
			t.Fatalf("Prefix = %s, %v", p, ok)
		}
		seen[p] = true
		used.Add(addr.Index(pool, p))
	}
	if len(seen) != 1<<20 {
		t.Fatalf("%d prefixes in a /40 of /60s, want 2^20", len(seen))
	}
	if p, ok := Prefix(pool, used, rand.Uint64N); ok {
		t.Fatalf("%s was picked from a full pool", p)
	}
}

func TestAddressIsNeverReserved(t *testing.T) {
	link := netip.MustParsePrefix("2001:db8:100:1::/64")
	for _, c := range []struct {
		id   uint64
		want bool
	}{
		{0, false},                  // subnet-router anycast
		{0xfdffffffffffff80, false}, // RFC 2526
		{0xfdffffffffffffff, false},
		{0x02005efffe005213, false}, // RFC 5453
		{0x040000fffe000001, false}, // the SLAAC address of 06:00:00:00:00:01
		{1, true},
		{0xfdffffffffffff7f, true},
		{0x1234567890abcdef, true},
	} {
		a, ok := Address(link, c.id)
		if ok != c.want || !link.Contains(a) {
			t.Errorf("Address(%#x) = %s, %v; want %v", c.id, a, ok, c.want)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, full := range []float64{0, 0.5, 0.99, 0.9999} {
		b.Run(fmt.Sprintf("full=%g", full), func(b *testing.B) {
			set := NewSet(20)
			for float64(set.Free()) > (1-full)*(1<<20) {
				n, _ := set.Pick(rand.Uint64N)
				set.Add(n)
			}
			for b.Loop() {
				n, _ := set.Pick(rand.Uint64N)
				set.Add(n)
				set.Remove(n)
			}
		})
	}
}
