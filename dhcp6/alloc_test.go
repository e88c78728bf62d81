package dhcp6_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

// hot returns what is done for each packet: parse, locate and respond.
func hot(t testing.TB, lines ...string) func() dhcp6.Reason {
	t.Helper()
	return hotAmong(t, fuzzRecord(), lines...)
}

func hotAmong(t testing.TB, r *record, lines ...string) func() dhcp6.Reason {
	t.Helper()
	payload, source := encode(&testing.T{}, lines)
	pods := dhcp6.NewPods(r.pods, r.guest)
	stored := r.nics["pod1 06:00:00:00:00:02"]
	var scratch sixacre.NIC
	var q dhcp6.Query
	out := make([]byte, 0, 4096)
	return func() dhcp6.Reason {
		if why := q.Parse(payload); why != dhcp6.Answered {
			return why
		}
		client, why := pods.Locate(&q, source.Addr())
		if why != dhcp6.Answered {
			return why
		}
		var nic *sixacre.NIC
		if client.MAC == stored.MAC {
			scratch.Address, scratch.Prefixes = addr.EUI64(client.Pod.LinkPrefix, client.MAC), stored.Prefixes
			nic = &scratch
		}
		_, why = dhcp6.Respond(out, &q, dhcp6.Server{DUID: ourID}, client.Pod, nic)
		return why
	}
}

const relayed = "relay-forward link=2001:db8:100:1::1 peer=fe80::2 link-layer=06:00:00:00:00:02 interface-id=eth0 "

func TestNothingIsAllocated(t *testing.T) {
	for _, test := range []struct {
		name  string
		lines []string
		want  dhcp6.Reason
	}{
		{"solicit", []string{relayed, "solicit client=00030001060000000001 oro=23,24,82 na=1 pd=1 pd=2[2001:db8:4000:20::/60,::/56]"}, dhcp6.Answered},
		{"request behind three relays", []string{"relay-forward link=:: peer=2001:db8:ffff::2", "relay-forward link=:: peer=2001:db8:ffff::1", relayed + "source-port=0",
			"request client=00030001060000000002 server=us na=1 pd=1"}, dhcp6.Answered},
		{"rebind of others' leases", []string{relayed, "rebind client=00030001060000000002 na=1[2001:db8:9::1] pd=1[2001:db8:9::/60]"}, dhcp6.Answered},
		{"renew of an IAID three times", []string{relayed, "renew client=00030001060000000002 server=us na=1 na=1[2001:db8:100:1:400:ff:fe00:2] na=1 pd=1 pd=1 pd=1"}, dhcp6.Answered},
		{"confirm", []string{relayed, "confirm client=00030001060000000002 na=1[2001:db8:9::1]"}, dhcp6.Answered},
		{"release", []string{relayed, "release client=00030001060000000002 server=us pd=1[2001:db8:9::/60]"}, dhcp6.Answered},
		{"information-request", []string{relayed, "information-request oro=23,24,32"}, dhcp6.Answered},
		{"unknown client", []string{"relay-forward link=2001:db8:100:1::1 peer=fe80::2 link-layer=06:00:00:00:00:99", "solicit client=00030001060000000002"}, dhcp6.UnknownClient},
		{"a DUID in hexadecimal, and every option", []string{"relay-forward link=2001:db8:100:2::1 peer=fe80::2 remote-id=000007db30303033303030313036303030303030303030322078", "request client=000401 server=us oro=56,59,1000,82 na=1 pd=1"}, dhcp6.Answered},
		{"no hexadecimal", []string{"relay-forward link=2001:db8:100:2::1 peer=fe80::2 remote-id=000007db30303033303030313036303030303030303030672078", "solicit client=000401"}, dhcp6.NoIdentity},
		{"half a digit", []string{"relay-forward link=2001:db8:100:2::1 peer=fe80::2 remote-id=000007db3030303330303031303630303030303030303032322078", "solicit client=000401"}, dhcp6.NoIdentity},
		{"forged", []string{relayed, relayed, "solicit client=00030001060000000002"}, dhcp6.ForgedRelay},
		{"contradiction", []string{relayed + "remote-id=00000001060000000001", "solicit client=00030001060000000002"}, dhcp6.Contradiction},
	} {
		ask := hot(t, test.lines...)
		if why := ask(); why != test.want {
			t.Errorf("%s: %s, expected %s", test.name, why, test.want)
		}
		if n := testing.AllocsPerRun(100, func() { ask() }); n != 0 {
			t.Errorf("%s: %v allocations", test.name, n)
		}
	}
}

func BenchmarkRespond(b *testing.B) {
	for _, bench := range []struct {
		name  string
		lines []string
	}{
		{"solicit", []string{relayed, "solicit client=00030001060000000002 oro=23,24 na=1 pd=1"}},
		{"request", []string{relayed, "request client=00030001060000000002 server=us oro=23,24 na=1[2001:db8:100:1:400:ff:fe00:2] pd=1[2001:db8:4000:20::/60]"}},
		{"unknown", []string{"relay-forward link=2001:db8:100:1::1 peer=fe80::2 link-layer=06:00:00:00:00:99", "solicit client=00030001060000000002 na=1 pd=1"}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			ask := hot(b, bench.lines...)
			b.ReportAllocs()
			for b.Loop() {
				ask()
			}
		})
	}
}

// What a packet costs does not grow with the number of pods behind its relay.
func BenchmarkAmongManyPods(b *testing.B) {
	r := fuzzRecord()
	for i := range 1000 {
		pod := r.pods[0]
		pod.Name, pod.LinkPrefix = fmt.Sprint("pod", 100+i), netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0x02, 0, byte(i >> 8), byte(i)}), 64)
		pod.InterfaceIDs = []string{fmt.Sprint("vlan", 100+i)}
		r.pods = append(r.pods, pod)
	}
	ask := hotAmong(b, r, relayed, "solicit client=00030001060000000002 oro=23,24 na=1 pd=1")
	b.ReportAllocs()
	for b.Loop() {
		if why := ask(); why != dhcp6.Answered {
			b.Fatal(why)
		}
	}
}
