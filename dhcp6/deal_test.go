package dhcp6

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// Where there is nothing to choose, the short way comes to the same deal.
func TestShortDeal(t *testing.T) {
	own := []netip.Prefix{netip.MustParsePrefix("2001:db8:4000:20::/60"), netip.MustParsePrefix("2001:db8:4000:30::/60"), netip.MustParsePrefix("2001:db8:5000:100::/56")}
	named := append([]netip.Prefix{netip.MustParsePrefix("::/56"), netip.MustParsePrefix("::/60"), netip.MustParsePrefix("2001:db8:9::/60")}, own...)
	addresses := []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}
	short := 0
	rapid.Check(t, func(t *rapid.T) {
		var q Query
		var kinds [2]int
		for range rapid.IntRange(0, 4).Draw(t, "IAs") {
			ia := IA{Option: OptionIANA, ID: [4]byte{3: rapid.Byte().Draw(t, "IAID")}}
			kind := rapid.IntRange(0, 1).Draw(t, "kind")
			if kind == 1 {
				ia.Option = OptionIAPD
			}
			for range rapid.IntRange(0, 3).Draw(t, "leases") {
				if kind == 0 {
					a := rapid.SampledFrom(addresses).Draw(t, "address").As16()
					ia.leases = AppendOption(ia.leases, OptionIAAddress, append(a[:], make([]byte, 8)...))
				} else {
					p := rapid.SampledFrom(named).Draw(t, "prefix")
					a := p.Addr().As16()
					ia.leases = AppendOption(ia.leases, OptionIAPrefix, append(append(make([]byte, 8), byte(p.Bits())), a[:]...))
				}
			}
			q.IAs = append(q.IAs, ia)
			kinds[kind]++
		}
		skip := uint32(rapid.IntRange(0, 15).Draw(t, "skip"))
		address := rapid.SampledFrom([]netip.Addr{{}, addresses[0]}).Draw(t, "own address")
		prefixes := own[:rapid.IntRange(0, 3).Draw(t, "own prefixes")]
		if kinds[0] <= 1 && kinds[1] <= 1 {
			short++
		}
		got, want := newDeal(&q, address, prefixes, skip), dealOut(&q, address, prefixes, skip)
		for k := range prefixes {
			if got.prefixes[k] != want.prefixes[k] {
				t.Errorf("%s goes to %d, expected %d", prefixes[k], got.prefixes[k], want.prefixes[k])
			}
		}
		if got.address != want.address {
			t.Errorf("the address goes to %d, expected %d", got.address, want.address)
		}
	})
	if short < 10 {
		t.Errorf("%d messages with one IA of a kind at most", short)
	}
}
