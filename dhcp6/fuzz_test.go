package dhcp6_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

// seeds returns the packets of all scripts.
func seeds(f *testing.F) [][]byte {
	t := &testing.T{}
	var all [][]byte
	files, _ := filepath.Glob("testdata/*.txt")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var packet []string
		for line := range strings.SplitSeq(string(text), "\n") {
			if rest, ok := strings.CutPrefix(line, "> "); ok {
				packet = append(packet, rest)
			} else if packet != nil {
				payload, _ := encode(t, packet)
				all = append(all, payload)
				packet = nil
			}
		}
	}
	return all
}

// build makes a packet that says what the query says.
func build(q *dhcp6.Query) []byte {
	m := []byte{byte(q.Type), q.Transaction[0], q.Transaction[1], q.Transaction[2]}
	for code, data := range map[dhcp6.OptionCode][]byte{dhcp6.OptionClientID: q.ClientID, dhcp6.OptionServerID: q.ServerID, dhcp6.OptionRequest: q.Requested} {
		if data != nil {
			m = dhcp6.AppendOption(m, code, data)
		}
	}
	if q.RapidCommit {
		m = dhcp6.AppendOption(m, dhcp6.OptionRapidCommit, nil)
	}
	for _, ia := range q.IAs {
		data := append(slices.Clone(ia.ID[:]), make([]byte, 8)...)
		for a, ok := ia.NextAddress(); ok; a, ok = ia.NextAddress() {
			data = dhcp6.AppendOption(data, dhcp6.OptionIAAddress, append(a.AsSlice(), make([]byte, 8)...))
		}
		for p, ok := ia.NextPrefix(); ok; p, ok = ia.NextPrefix() {
			lease := append(make([]byte, 8), byte(p.Bits()))
			data = dhcp6.AppendOption(data, dhcp6.OptionIAPrefix, append(lease, p.Addr().AsSlice()...))
		}
		m = dhcp6.AppendOption(m, ia.Option, data)
	}
	for _, r := range slices.Backward(q.Relays) {
		outer := dhcp6.AppendRelay(nil, dhcp6.RelayForward, r.HopCount, r.Link, r.Peer)
		for code, data := range map[dhcp6.OptionCode][]byte{
			dhcp6.OptionInterfaceID: r.InterfaceID, dhcp6.OptionRemoteID: r.RemoteID,
			dhcp6.OptionClientLinkLayer: r.LinkLayer, dhcp6.OptionRelaySourcePort: r.SourcePort, dhcp6.OptionRelayMessage: m,
		} {
			if data != nil {
				outer = dhcp6.AppendOption(outer, code, data)
			}
		}
		m = outer
	}
	return m
}

// Beside the scripts, testdata/fuzz holds what fuzzing came upon: the shortest
// packet of each kind of outcome.

// FuzzParse: what is read from a packet is all read again from a packet made of
// it.
func FuzzParse(f *testing.F) {
	for _, payload := range seeds(f) {
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		var q, again dhcp6.Query
		if q.Parse(payload) != dhcp6.Answered {
			return
		}
		rebuilt := build(&q)
		if len(rebuilt) > 0xffff {
			return
		}
		if why := again.Parse(rebuilt); why != dhcp6.Answered {
			t.Fatalf("%x, made of %x: %s", rebuilt, payload, why)
		}
		if a, b := summary(&q), summary(&again); a != b {
			t.Errorf("%x:\n%s%x:\n%s", payload, a, rebuilt, b)
		}
	})
}

// fuzzRecord is what is on record for the fuzz targets.
func fuzzRecord() *record {
	pods := []sixacre.Pod{
		{
			Name: "pod1", LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"),
			Relays: []netip.Addr{netip.MustParseAddr("2001:db8:ffff::1"), netip.MustParseAddr("2001:db8:ffff::2")},
			Pools:  []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:4000::/40")}},
			DNS:    []netip.Addr{netip.MustParseAddr("2001:db8::53")}, Domains: []string{"example.net"},
		},
		{
			Name: "pod2", LinkPrefix: netip.MustParsePrefix("2001:db8:100:2::/64"),
			Relays:   []netip.Addr{netip.MustParseAddr("2001:db8:ffff::1")},
			Identify: []sixacre.Identifier{sixacre.ByDUID, sixacre.ByRemoteID, sixacre.ByClientLinkLayer}, UnknownClients: sixacre.Refuse,
			RemoteIDFormat: sixacre.RemoteIDHuawei, InterfaceIDs: []string{"vlan2"},
			NTP:     []sixacre.NTPServer{{Name: "ntp.example.net"}, {Address: netip.MustParseAddr("ff05::101")}},
			Options: []sixacre.Option{{Code: 59, Value: sixacre.Octets("http://[2001:db8::1]/")}, {Code: 1000}}, Preference: 255,
		},
		{
			Name: "pod3", LinkPrefix: netip.MustParsePrefix("2001:db8:100:3::/64"), Addressing: sixacre.DHCPv6,
			Relays: []netip.Addr{netip.MustParseAddr("2001:db8:ffff::1")},
			Pools:  []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:6000::/40")}},
		},
	}
	r := &record{nics: map[string]sixacre.NIC{}}
	for _, p := range pods {
		r.pods = append(r.pods, p.WithDefaults())
	}
	for i, prefixes := range [][]netip.Prefix{
		{},
		{netip.MustParsePrefix("2001:db8:4000:10::/60")},
		{netip.MustParsePrefix("2001:db8:4000:20::/60"), netip.MustParsePrefix("2001:db8:4000:30::/60"), netip.MustParsePrefix("2001:db8:5000:100::/56")},
	} {
		mac := sixacre.MAC{6, 0, 0, 0, 0, byte(i)}
		r.nics["pod1 "+mac.String()] = addr.Complete(r.pods[0], sixacre.NIC{MAC: mac, Pod: "pod1", Prefixes: prefixes})
	}
	mac := sixacre.MAC{6, 0, 0, 0, 0, 2}
	r.nics["pod2 "+mac.String()] = addr.Complete(r.pods[1], sixacre.NIC{MAC: mac, Pod: "pod2"})
	r.nics["pod3 "+mac.String()] = addr.Complete(r.pods[2], sixacre.NIC{
		MAC: mac, Pod: "pod3", Address: netip.MustParseAddr("2001:db8:100:3::77"), Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:6000:10::/60")},
	})
	return r
}

// FuzzRespond: an answer is well formed and says nothing that the record does
// not say of the NIC, whatever the client says. The payload comes from a relay,
// as it is and once more inside a Relay-forward: how says which pod's link and
// which MAC that names (the low bits), and whether the record may be old.
func FuzzRespond(f *testing.F) {
	for _, payload := range seeds(f) {
		for _, how := range []byte{2, 6, 10, 18} {
			f.Add(payload, how)
		}
	}
	r := fuzzRecord()
	source := netip.MustParseAddr("2001:db8:ffff::1")
	f.Fuzz(func(t *testing.T, payload []byte, how byte) {
		r.behind = how&16 != 0
		check(t, r, payload, source)
		if len(payload) < 0xff00 {
			link := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0x01, 0x00, 0, 1 + how>>2&3, 15: 1})
			relayed := dhcp6.AppendRelay(nil, dhcp6.RelayForward, 0, link, source)
			relayed = dhcp6.AppendOption(relayed, dhcp6.OptionClientLinkLayer, []byte{0, 1, 6, 0, 0, 0, 0, how & 3})
			check(t, r, dhcp6.AppendOption(relayed, dhcp6.OptionRelayMessage, payload), source)
		}
	})
}

// reused is used again for query after query: nothing of one may show in the next.
var reused dhcp6.Query

// check asks and checks the answer.
func check(t *testing.T, r *record, payload []byte, source netip.Addr) {
	t.Helper()
	var q dhcp6.Query
	reply, client, why := r.answer(&q, payload, source)
	if again, _, reason := r.answer(&reused, payload, source); reason != why || !bytes.Equal(again, reply) || reused.Effect != q.Effect {
		t.Fatalf("%x, %s, and the second time %x, %s", reply, why, again, reason)
	}
	if why != dhcp6.Answered {
		if reply != nil || q.Effect != sixacre.NoEffect {
			t.Fatalf("%s, and yet %x, effect %d", why, reply, q.Effect)
		}
		return
	}
	if _, err := dhcpv6.FromBytes(payload); err == nil {
		if _, err := dhcpv6.FromBytes(reply); err != nil {
			t.Errorf("another implementation reads %x, but not the answer %x: %v", payload, reply, err)
		}
	}
	nic := r.nics[client.Pod.Name+" "+client.MAC.String()] // none: the zero NIC, which has nothing
	message := unwrap(t, &q, reply)
	if (message[0] != byte(dhcp6.Reply) && (message[0] != byte(dhcp6.Advertise) || q.Type != dhcp6.Solicit)) || string(message[1:4]) != string(q.Transaction[:]) {
		t.Fatalf("header %x", message[:4])
	}
	ias := checkOptions(t, message, &q, client.Pod)
	checkIAs(t, &q, ias)
	checkLeases(t, message, &q, client.Pod, nic, r.behind, ias)
	checkOrder(t, r, &q, source, message)
}

// unwrap returns the message for the client, having checked that the answer goes
// back the way that the query came.
func unwrap(t *testing.T, q *dhcp6.Query, reply []byte) []byte {
	t.Helper()
	for _, level := range q.Relays {
		var back dhcp6.Relay
		if why := back.Parse(reply); why != dhcp6.Answered || back.Type != dhcp6.RelayReply || back.HopCount != level.HopCount || back.Link != level.Link ||
			back.Peer != level.Peer || string(back.InterfaceID) != string(level.InterfaceID) || (back.InterfaceID == nil) != (level.InterfaceID == nil) ||
			string(back.SourcePort) != string(level.SourcePort) {
			t.Fatalf("%s: %+v is no answer to %+v", why, back, level)
		}
		reply = back.Message
	}
	return reply
}

// checkOrder asks once more with the IAs the other way round: where their IAIDs
// are distinct, each must hold the same.
func checkOrder(t *testing.T, r *record, q *dhcp6.Query, source netip.Addr, message []byte) {
	t.Helper()
	names := map[string]bool{}
	for _, ia := range q.IAs {
		names[identity(ia.Option, ia.ID[:])] = true
	}
	if len(names) < 2 || len(names) != len(q.IAs) {
		return
	}
	turned := *q
	turned.IAs = slices.Clone(q.IAs)
	slices.Reverse(turned.IAs)
	payload := build(&turned)
	if len(payload) > 0xffff {
		return
	}
	var again dhcp6.Query
	reply, _, why := r.answer(&again, payload, source)
	if why != dhcp6.Answered {
		t.Fatalf("with its IAs the other way round: %s", why)
	}
	if before, after := held(message), held(unwrap(t, &again, reply)); before != after {
		t.Errorf("the IAs held\n%s\nand the other way round\n%s", before, after)
	}
}

// held returns the IAs of a message in the order of their codes and IAIDs.
func held(message []byte) string {
	var ias []string
	rest := dhcp6.Options(message[4:])
	for code, data, ok := rest.Next(); ok; code, data, ok = rest.Next() {
		if code == dhcp6.OptionIANA || code == dhcp6.OptionIAPD {
			ias = append(ias, describeOptions(dhcp6.AppendOption(nil, code, data), ""))
		}
	}
	slices.Sort(ias)
	return strings.Join(ias, "")
}

// assigns reports whether a message is answered with leases.
func assigns(q *dhcp6.Query) bool {
	return q.Type == dhcp6.Solicit || q.Type == dhcp6.Request || extends(q)
}

func extends(q *dhcp6.Query) bool { return q.Type == dhcp6.Renew || q.Type == dhcp6.Rebind }

// identity is what tells an IA from the client's others.
func identity(code dhcp6.OptionCode, id []byte) string { return string(rune(code)) + string(id) }

// answeredIA is an IA of an answer.
type answeredIA struct {
	code dhcp6.OptionCode
	data []byte
}

// checkOptions checks the options of the message for the client and returns the
// IAs among them.
func checkOptions(t *testing.T, message []byte, q *dhcp6.Query, pod *dhcp6.Pod) []answeredIA {
	t.Helper()
	told := map[dhcp6.OptionCode]int{}
	var ias []answeredIA
	rest := dhcp6.Options(message[4:])
	for {
		code, data, ok := rest.Next()
		if !ok {
			break
		}
		told[code]++
		switch code {
		case dhcp6.OptionClientID:
			if string(data) != string(q.ClientID) {
				t.Errorf("client %x", data)
			}
		case dhcp6.OptionServerID:
			if string(data) != string(ourID) {
				t.Errorf("server %x", data)
			}
		case dhcp6.OptionDNSServers, dhcp6.OptionDomainList, dhcp6.OptionSolMaxRT, dhcp6.OptionInfMaxRT, dhcp6.OptionInformationRefreshTime,
			dhcp6.OptionNTPServer, 59, 1000:
			if !q.Asks(code) {
				t.Errorf("option %d was not asked for", code)
			}
		case dhcp6.OptionPreference:
			if message[0] != byte(dhcp6.Advertise) {
				t.Error("a preference in a Reply")
			}
		case dhcp6.OptionIANA, dhcp6.OptionIAPD:
			ias = append(ias, answeredIA{code, data})
		case dhcp6.OptionStatusCode, dhcp6.OptionRapidCommit:
		default:
			t.Errorf("option %d", code)
		}
	}
	if len(rest) != 0 {
		t.Errorf("broken options %x", rest)
	}
	for _, o := range pod.Options {
		if assigns(q) && q.Asks(dhcp6.OptionCode(o.Code)) && told[dhcp6.OptionCode(o.Code)] != 1 {
			t.Errorf("option %d was asked for and told %d times", o.Code, told[dhcp6.OptionCode(o.Code)])
		}
	}
	return ias
}

// checkIAs checks that the IAs of the answer are those of the query, in their
// order, and that no IAID that holds something is also said to hold nothing.
func checkIAs(t *testing.T, q *dhcp6.Query, ias []answeredIA) {
	t.Helper()
	asked := q.IAs
	times, empty := map[string]int{}, map[string]int{}
	for _, ia := range ias {
		id := identity(ia.code, ia.data[:4])
		times[id]++
		for {
			if len(asked) == 0 {
				t.Fatalf("IA %x is out of place", ia.data)
			}
			next := identity(asked[0].Option, asked[0].ID[:])
			asked = asked[1:]
			if next == id {
				break
			}
		}
		inner := dhcp6.Options(ia.data[12:])
		if code, _, _ := inner.Next(); code != dhcp6.OptionIAAddress && code != dhcp6.OptionIAPrefix {
			empty[id]++
		}
	}
	for _, ia := range q.IAs {
		id := identity(ia.Option, ia.ID[:])
		if assigns(q) && times[id] == 0 {
			t.Errorf("IA %x is not answered", ia.ID)
		}
		if assigns(q) && times[id] > 1 && empty[id] > 0 {
			t.Errorf("IA %x is there %d times, %d times without a lease", ia.ID, times[id], empty[id])
		}
	}
}

// checkLeases checks what the answer says about leases.
func checkLeases(t *testing.T, message []byte, q *dhcp6.Query, pod *dhcp6.Pod, nic sixacre.NIC, behind bool, ias []answeredIA) {
	t.Helper()
	given, revoked := map[netip.Prefix]int{}, map[netip.Prefix]int{}
	for _, ia := range ias {
		leases := dhcp6.Options(ia.data[12:])
		for {
			lease, data, ok := leases.Next()
			if !ok {
				break
			}
			var p netip.Prefix
			var times []byte
			switch lease {
			case dhcp6.OptionIAAddress:
				p, times = netip.PrefixFrom(netip.AddrFrom16([16]byte(data)), 128), data[16:24]
			case dhcp6.OptionIAPrefix:
				p, times = netip.PrefixFrom(netip.AddrFrom16([16]byte(data[9:])), int(data[8])), data[:8]
			case dhcp6.OptionStatusCode:
				continue
			default:
				t.Fatalf("option %d in an IA", lease)
			}
			preferred, valid := binary.BigEndian.Uint32(times), binary.BigEndian.Uint32(times[4:])
			switch {
			case valid != 0:
				given[p]++
				if lease == dhcp6.OptionIAAddress && p.Addr() != nic.Address || lease == dhcp6.OptionIAPrefix && !slices.Contains(nic.Prefixes, p) {
					t.Errorf("%s is given to %s, whose it is not", p, nic.MAC)
				}
			case preferred != 0:
				t.Errorf("%s is preferred for %d seconds and valid for none", p, preferred)
			default:
				revoked[p]++
			}
		}
		if len(leases) != 0 {
			t.Errorf("broken IA %x", ia.data)
		}
	}
	for _, ia := range ias {
		t1, t2 := binary.BigEndian.Uint32(ia.data[4:]), binary.BigEndian.Uint32(ia.data[8:])
		if string(ia.data[4:12]) != string(ias[0].data[4:12]) || len(given) == 0 && t1|t2 != 0 || len(given) > 0 && (t1 != uint32(pod.PreferredLifetime)/2 || t1 > t2) {
			t.Errorf("T1 and T2: %x beside %x, with %d leases", ia.data, ias[0].data, len(given))
		}
	}
	if wrong := wrongs(q, pod, nic, behind); !maps.Equal(revoked, wrong) {
		t.Errorf("of the leases named, %v come back with lifetimes of 0, expected %v", revoked, wrong)
	}
	addresses, prefixes := 0, 0
	for _, ia := range q.IAs {
		if ia.Option == dhcp6.OptionIAPD {
			prefixes++
		} else if message[0] == byte(dhcp6.Advertise) || extends(q) || !offLink(ia, pod) {
			addresses++
		}
	}
	for _, p := range nic.Prefixes {
		if assigns(q) && prefixes > 0 && given[p] != 1 {
			t.Errorf("%s was given %d times", p, given[p])
		}
	}
	if assigns(q) && addresses > 0 && nic.Address.IsValid() && given[netip.PrefixFrom(nic.Address, 128)] != 1 {
		t.Errorf("%s was not given", nic.Address)
	}
	for p, n := range given {
		if n != 1 {
			t.Errorf("%s was given %d times", p, n)
		}
	}
	effect := sixacre.NoEffect
	switch whole, address := names(q, nic); {
	case len(given) > 0 && message[0] == byte(dhcp6.Reply):
		effect = sixacre.Binds
	case q.Type == dhcp6.Decline && address:
		effect = sixacre.Declines
	case q.Type == dhcp6.Release && whole && (address || pod.Addressing == sixacre.SLAAC && len(nic.Prefixes) > 0):
		effect = sixacre.Releases
	}
	if q.Effect != effect {
		t.Errorf("effect %d of a %s with %d leases, expected %d", q.Effect, q.Type, len(given), effect)
	}
}

// wrongs returns how often the client wants to go on with each lease that is not
// its NIC's, as far as the server can know that.
func wrongs(q *dhcp6.Query, pod *dhcp6.Pod, nic sixacre.NIC, behind bool) map[netip.Prefix]int {
	wrong := map[netip.Prefix]int{}
	if !extends(q) {
		return wrong
	}
	for _, ia := range q.IAs {
		for a, ok := ia.NextAddress(); ok; a, ok = ia.NextAddress() {
			if a != nic.Address && !a.IsUnspecified() && (!behind || !pod.LinkPrefix.Contains(a)) {
				wrong[netip.PrefixFrom(a, 128)]++
			}
		}
		for p, ok := ia.NextPrefix(); ok; p, ok = ia.NextPrefix() {
			if !slices.Contains(nic.Prefixes, p) && !p.Addr().IsUnspecified() && !behind {
				wrong[p]++
			}
		}
	}
	return wrong
}

// offLink reports whether an IA_NA names an address of another link.
func offLink(ia dhcp6.IA, pod *dhcp6.Pod) bool {
	for a, ok := ia.NextAddress(); ok; a, ok = ia.NextAddress() {
		if !a.IsUnspecified() && !pod.LinkPrefix.Contains(a) {
			return true
		}
	}
	return false
}

// names reports whether a query names all of the NIC's prefixes, and its address.
func names(q *dhcp6.Query, nic sixacre.NIC) (prefixes, address bool) {
	left := slices.Clone(nic.Prefixes)
	for _, ia := range q.IAs {
		for a, ok := ia.NextAddress(); ok; a, ok = ia.NextAddress() {
			address = address || a == nic.Address
		}
		for p, ok := ia.NextPrefix(); ok; p, ok = ia.NextPrefix() {
			left = slices.DeleteFunc(left, func(own netip.Prefix) bool { return own == p })
		}
	}
	return len(left) == 0, address
}
