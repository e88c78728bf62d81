package dhcpd

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
)

var (
	pool40 = sixacre.Pool{Prefix: netip.MustParsePrefix("2001:db8:4000::/40"), DelegatedLength: 60}
	stored = sixacre.Pod{Name: "stored", LinkPrefix: netip.MustParsePrefix("2001:db8:100:2::/64"), Addressing: sixacre.DHCPv6}.WithDefaults()
)

// randomNIC makes a NIC with any number of prefixes, often none or one.
func randomNIC(random *rand.Rand) sixacre.NIC {
	nic := sixacre.NIC{}
	n := random.IntN(3)
	if random.IntN(10) == 0 {
		n = random.IntN(sixacre.MaxPrefixes + 1)
	}
	for range n {
		nic.Prefixes = append(nic.Prefixes, addr.Nth(pool40, random.Uint64N(1<<pool40.Bits())))
	}
	if random.IntN(2) == 0 {
		a := stored.LinkPrefix.Addr().As16()
		for i := 8; i < 16; i++ {
			a[i] = byte(random.Uint32())
		}
		nic.Address = netip.AddrFrom16(a)
	}
	return nic
}

// The table against a map, in which the same is put and dropped.
func TestTableIsAMap(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	table, twin := newTable(), map[key]sixacre.NIC{}
	var room found
	for range 60_000 {
		k := key{pod: random.Uint32N(2), mac: sixacre.MAC{6, 0, 0, 0, byte(random.IntN(16)), byte(random.Uint32())}}
		if random.IntN(3) == 0 {
			table.put(k, nil)
			delete(twin, k)
		} else {
			nic := randomNIC(random)
			table.put(k, appendRecords(nil, k, nic))
			twin[k] = nic
		}
		k.mac[5] = byte(random.Uint32())
		want, exists := twin[k]
		got, found := table.get(k, &stored, &room)
		if found != exists {
			t.Fatalf("%v: found %v, exists %v", k, found, exists)
		}
		if found && (got.MAC != k.mac || got.Address != want.Address || !slices.Equal(got.Prefixes, want.Prefixes)) {
			t.Fatalf("%v: got %v, put %v", k, got, want)
		}
	}
	if n := table.nics.Load(); n != int64(len(twin)) {
		t.Errorf("%d NICs are counted, there are %d", n, len(twin))
	}
	records, nics := 0, map[key]bool{}
	table.each(func(r *record) { records++; nics[r.nic()] = true })
	if records != table.records || len(nics) != len(twin) {
		t.Errorf("each gave %d records of %d NICs, there are %d of %d", records, len(nics), table.records, len(twin))
	}

	// All at once is the same as one by one.
	var all []record
	for k, nic := range twin {
		all = appendRecords(all, k, nic)
	}
	filled := newTable()
	filled.fill(all)
	for k, want := range twin {
		got, found := filled.get(k, &stored, &room)
		if !found || got.Address != want.Address || !slices.Equal(got.Prefixes, want.Prefixes) {
			t.Fatalf("%v: filled in %v, found %v: %v", k, want, found, got)
		}
	}
	if n := filled.nics.Load(); n != int64(len(twin)) {
		t.Errorf("%d NICs are counted, %d were filled in", n, len(twin))
	}
}

// A NIC that is looked up while it and its neighbours change is one of what it
// was and what it became, never something of both.
func TestLookupsDuringUpdates(t *testing.T) {
	table := newTable()
	k := key{mac: mac1}
	one, two := sixacre.NIC{}, sixacre.NIC{}
	for i := range uint64(5) {
		one.Prefixes = append(one.Prefixes, addr.Nth(pool40, i))
		two.Prefixes = append(two.Prefixes, addr.Nth(pool40, 100+i))
	}
	records := [2][]record{appendRecords(nil, k, one), appendRecords(nil, k, two)}
	table.put(k, records[0])
	stop := make(chan struct{})
	var looking sync.WaitGroup
	for range 2 {
		looking.Go(func() {
			var room found
			for {
				select {
				case <-stop:
					return
				default:
				}
				nic, ok := table.get(k, &pod1, &room)
				if !ok || !slices.Equal(nic.Prefixes, one.Prefixes) && !slices.Equal(nic.Prefixes, two.Prefixes) {
					t.Errorf("found %v, %v", ok, nic)
					return
				}
			}
		})
	}
	for i := range 20_000 { // across several times of making all buckets anew
		table.put(k, records[i%2])
		other := key{pod: 1, mac: sixacre.MAC{6, 0, 0, 0, byte(i >> 8), byte(i)}}
		table.put(other, appendRecords(nil, other, one))
	}
	close(stop)
	looking.Wait()
}

const million = 1 << 20

func filledTable(tb testing.TB) (*table, []key) {
	tb.Helper()
	keys := make([]key, million)
	all := make([]record, 0, million)
	for i := range keys {
		keys[i].mac = sixacre.MAC{6, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}
		all = appendRecords(all, keys[i], sixacre.NIC{Prefixes: []netip.Prefix{addr.Nth(pool40, uint64(i))}})
	}
	t := newTable()
	t.fill(all)
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return t, keys
}

func BenchmarkLookupOfAMillion(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	t, keys := filledTable(b)
	runtime.GC()
	runtime.ReadMemStats(&after)
	octets := float64(after.HeapAlloc-before.HeapAlloc)/million - 12 // less the keys' own
	for _, name := range []string{"quiet", "updated"} {
		b.Run(name, func(b *testing.B) {
			stop := make(chan struct{})
			var updating sync.WaitGroup
			if name == "updated" {
				updating.Go(func() {
					records := make([]record, 0, 1)
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
							k := keys[i%million]
							records = appendRecords(records[:0], k, sixacre.NIC{Prefixes: []netip.Prefix{addr.Nth(pool40, uint64(i%million))}})
							t.put(k, records)
						}
					}
				})
			}
			var room found
			i := 0
			for b.Loop() {
				if _, ok := t.get(keys[i%million], &pod1, &room); !ok {
					b.Fatal(fmt.Sprint(keys[i%million], " is lost"))
				}
				i++
			}
			b.ReportMetric(octets, "octets/NIC")
			close(stop)
			updating.Wait()
		})
	}
}

func BenchmarkUpdateOfAMillion(b *testing.B) {
	t, keys := filledTable(b)
	records := make([]record, 0, 1)
	i := 0
	for b.Loop() {
		k := keys[i%million]
		records = appendRecords(records[:0], k, sixacre.NIC{Prefixes: []netip.Prefix{addr.Nth(pool40, uint64(i%million))}})
		t.put(k, records)
		i++
	}
}
