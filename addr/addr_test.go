package addr

import (
	"math/big"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/sixacre/sixacre"
)

func mac(t *testing.T, s string) sixacre.MAC {
	t.Helper()
	m, err := sixacre.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEUI64(t *testing.T) {
	link := netip.MustParsePrefix("2001:db8:100:1::/64")
	for _, c := range []struct{ mac, address, linkLocal string }{
		// RFC 4291 appendix A: 34-56-78-9A-BC-DE becomes 36-56-78-FF-FE-9A-BC-DE.
		{"34:56:78:9a:bc:de", "2001:db8:100:1:3656:78ff:fe9a:bcde", "fe80::3656:78ff:fe9a:bcde"},
		// RFC 2464 section 4.
		{"34:56:78:9A:BC:DE", "2001:db8:100:1:3656:78ff:fe9a:bcde", "fe80::3656:78ff:fe9a:bcde"},
		{"06:00:00:00:00:01", "2001:db8:100:1:400:ff:fe00:1", "fe80::400:ff:fe00:1"},
		{"52:54:8f:9f:af:61", "2001:db8:100:1:5054:8fff:fe9f:af61", "fe80::5054:8fff:fe9f:af61"},
	} {
		m := mac(t, c.mac)
		if a := EUI64(link, m); a != netip.MustParseAddr(c.address) {
			t.Errorf("EUI64(%s) = %s, want %s", c.mac, a, c.address)
		}
		if a := LinkLocal(m); a != netip.MustParseAddr(c.linkLocal) {
			t.Errorf("LinkLocal(%s) = %s, want %s", c.mac, a, c.linkLocal)
		}
	}
}

func TestMACIsTheInverseOfEUI64(t *testing.T) {
	link := netip.MustParsePrefix("2001:db8:100:1::/64")
	rapid.Check(t, func(t *rapid.T) {
		m := sixacre.MAC(rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "mac"))
		if got, ok := MAC(EUI64(link, m)); !ok || got != m {
			t.Fatalf("MAC(EUI64(%s)) = %s, %v", m, got, ok)
		}
	})
	for _, a := range []string{"2001:db8:100:1::1", "2001:db8::ff:ff00:0:1", "192.0.2.1"} {
		if m, ok := MAC(netip.MustParseAddr(a)); ok {
			t.Errorf("MAC(%s) = %s: there is none in it", a, m)
		}
	}
}

// The dumb twin counts with big integers over all 128 bits.
func TestNthAndIndexAsBigIntegers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.IntRange(48, 64).Draw(t, "delegated length")
		poolLen := rapid.IntRange(length-32, length).Draw(t, "pool length")
		base := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "base")
		pool := sixacre.Pool{
			Prefix:          netip.PrefixFrom(netip.AddrFrom16([16]byte(base)), poolLen).Masked(),
			DelegatedLength: length,
		}
		n := rapid.Uint64Range(0, 1<<(length-poolLen)-1).Draw(t, "n")

		start := pool.Prefix.Addr().As16()
		sum := new(big.Int).SetBytes(start[:])
		sum.Add(sum, new(big.Int).Lsh(new(big.Int).SetUint64(n), uint(128-length)))
		var want [16]byte
		sum.FillBytes(want[:])

		got := Nth(pool, n)
		if got != netip.PrefixFrom(netip.AddrFrom16(want), length) || !pool.Holds(got) {
			t.Fatalf("Nth(%s, %d) = %s, want %s", pool, n, got, netip.AddrFrom16(want))
		}
		if back := Index(pool, got); back != n {
			t.Fatalf("Index(%s, %s) = %d, want %d", pool, got, back, n)
		}
	})
}

func TestReserved(t *testing.T) {
	for a, want := range map[string]bool{
		"2001:db8::":                     true,  // subnet-router anycast, RFC 4291 section 2.6.1
		"2001:db8::fdff:ffff:ffff:ff7f":  false, // the one before RFC 2526's
		"2001:db8::fdff:ffff:ffff:ff80":  true,
		"2001:db8::fdff:ffff:ffff:fffe":  true, // Mobile IPv6 home agents
		"2001:db8::fdff:ffff:ffff:ffff":  true,
		"2001:db8::200:5eff:fe00:0":      true, // RFC 5453
		"2001:db8::200:5eff:fe00:5213":   true, // proxy mobile IPv6
		"2001:db8::200:5eff:feff:ffff":   true,
		"2001:db8::200:5eff:ff00:0":      false,
		"2001:db8::1":                    false,
		"2001:db8::400:ff:fe00:1":        false,
		"2001:db8:0:0:fe00:ffff:ff:ff80": false,
	} {
		if got := Reserved(netip.MustParseAddr(a)); got != want {
			t.Errorf("Reserved(%s) = %v, want %v", a, got, want)
		}
	}
}

func TestDUIDMAC(t *testing.T) {
	m := mac(t, "06:00:00:00:00:01")
	if got, ok := DUIDMAC(DUIDLL(m)); !ok || got != m {
		t.Errorf("DUIDMAC(DUIDLL(%s)) = %s, %v", m, got, ok)
	}
	for name, c := range map[string]struct {
		duid []byte
		want bool
	}{
		"LLT":                {[]byte{0, 1, 0, 1, 9, 9, 9, 9, 6, 0, 0, 0, 0, 1}, true},
		"LL, not Ethernet":   {[]byte{0, 3, 0, 6, 6, 0, 0, 0, 0, 1}, false},
		"LL, eight octets":   {[]byte{0, 3, 0, 1, 6, 0, 0, 0, 0, 1, 0, 0}, false},
		"EN":                 {[]byte{0, 2, 0, 0, 0, 9, 6, 0, 0, 0, 0, 1}, false},
		"UUID":               {append([]byte{0, 4}, make([]byte, 16)...), false},
		"LLT, cut short":     {[]byte{0, 1, 0, 1, 9, 9, 9, 9, 6, 0, 0, 0, 0}, false},
		"nothing whatsoever": {nil, false},
	} {
		if got, ok := DUIDMAC(c.duid); ok != c.want || ok && got != m {
			t.Errorf("%s: DUIDMAC = %s, %v; want %v", name, got, ok, c.want)
		}
	}
}

func TestCompleteComputesOnlyWhatFollows(t *testing.T) {
	nic := sixacre.NIC{MAC: mac(t, "06:00:00:00:00:01"), Pod: "pod1"}
	slaac := sixacre.Pod{LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"), Addressing: sixacre.SLAAC}
	if got := Complete(slaac, nic); got.Address != netip.MustParseAddr("2001:db8:100:1:400:ff:fe00:1") || got.LinkLocal != netip.MustParseAddr("fe80::400:ff:fe00:1") {
		t.Errorf("slaac: %+v", got)
	}
	stored := slaac
	stored.Addressing = sixacre.DHCPv6
	nic.Address = netip.MustParseAddr("2001:db8:100:1::1001")
	if got := Complete(stored, nic); got.Address != nic.Address {
		t.Errorf("dhcpv6: address %s, want the stored %s", got.Address, nic.Address)
	}
}
