package dhcp6_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

// What is accepted from the network is bounded: one less is fine, one more not.
func TestBounds(t *testing.T) {
	relays := func(n int) []string {
		var lines []string
		for i := range n {
			lines = append(lines, fmt.Sprintf("relay-forward hop=%d link=:: peer=2001:db8:ffff::1", n-i))
		}
		return lines
	}
	ias := func(n int) string { return "solicit client=000401" + strings.Repeat(" pd=1", n) }
	leases := func(n int) string {
		return "solicit client=000401 na=1[" + strings.Repeat("2001:db8::1,", n/2) + "] pd=1[" + strings.Repeat("2001:db8::/60,", n-n/2) + "]"
	}
	for _, test := range []struct {
		what  string
		lines []string
		want  dhcp6.Reason
	}{
		{"32 relays", append(relays(dhcp6.MaxRelays), "solicit"), dhcp6.Answered},
		{"33 relays", append(relays(dhcp6.MaxRelays+1), "solicit"), dhcp6.TooMany},
		{"32 IAs", []string{ias(dhcp6.MaxIAs)}, dhcp6.Answered},
		{"33 IAs", []string{ias(dhcp6.MaxIAs + 1)}, dhcp6.TooMany},
		{"256 leases", []string{leases(dhcp6.MaxLeases)}, dhcp6.Answered},
		{"257 leases", []string{leases(dhcp6.MaxLeases + 1)}, dhcp6.TooMany},
	} {
		payload, _ := encode(t, test.lines)
		var q dhcp6.Query
		if got := q.Parse(payload); got != test.want {
			t.Errorf("%s: %s, expected %s", test.what, got, test.want)
		}
	}
}

// A packet cut off anywhere is refused, or, where the cut falls between the
// options of the client, is a shorter packet; it never panics. A query that
// failed leaves nothing for the next.
func TestEveryCut(t *testing.T) {
	whole, _ := encode(t, []string{
		"relay-forward hop=1 link=:: peer=2001:db8:ffff::2 interface-id=x",
		"relay-forward link=2001:db8:100:1::1 peer=fe80::1 link-layer=06:00:00:00:00:01",
		"solicit client=00030001060000000001 server=us rapid oro=23,24 na=1[2001:db8::1] pd=2[2001:db8::/60]",
	})
	var q, fresh dhcp6.Query
	for n := range whole {
		if why := q.Parse(whole[:n]); why == dhcp6.Answered {
			t.Errorf("the first %d of %d octets are taken for a message", n, len(whole))
		}
		if why := q.Parse(whole); why != dhcp6.Answered {
			t.Fatal(why)
		}
		if why := fresh.Parse(whole); why != dhcp6.Answered || summary(&q) != summary(&fresh) {
			t.Fatalf("after %d octets: %s", n, summary(&q))
		}
	}
	bare, _ := encode(t, []string{"information-request"})
	fresh = dhcp6.Query{}
	if q.Parse(bare) != dhcp6.Answered || fresh.Parse(bare) != dhcp6.Answered || summary(&q) != summary(&fresh) {
		t.Errorf("something of the query before is left: %s", summary(&q))
	}
}

// A reply that no packet could carry is not sent.
func TestTooLong(t *testing.T) {
	pod := fuzzRecord().pods[0]
	ask := func(interfaceID int) dhcp6.Reason {
		payload, _ := encode(t, []string{
			"relay-forward link=2001:db8:100:1::1 peer=fe80::1 link-layer=06:00:00:00:00:02 interface-id=" + strings.Repeat("x", interfaceID),
			"solicit client=00030001060000000002 oro=23 pd=1",
		})
		var q dhcp6.Query
		if why := q.Parse(payload); why != dhcp6.Answered {
			t.Fatal(why)
		}
		nic := fuzzRecord().nics["pod1 06:00:00:00:00:02"]
		before := []byte("before")
		reply, why := dhcp6.Respond(before, &q, dhcp6.Server{DUID: ourID}, dhcp6.NewPod(pod), &nic)
		if why != dhcp6.Answered && string(reply) != "before" {
			t.Errorf("%s, and yet %d octets", why, len(reply))
		}
		return why
	}
	if why := ask(65000); why != dhcp6.Answered {
		t.Error(why)
	}
	if why := ask(65400); why != dhcp6.TooLong { // the packet would be too long
		t.Error(why)
	}
	pod.DNS = slices.Repeat(pod.DNS, 5000)
	if why := ask(0); why != dhcp6.TooLong { // an option would be
		t.Error(why)
	}
}

func TestPodOfAnotherServer(t *testing.T) {
	pod := fuzzRecord().pods[0]
	pod.DHCP = sixacre.Kea
	payload, source := encode(t, []string{"relay-forward link=2001:db8:100:1::1 peer=fe80::1 link-layer=06:00:00:00:00:01", "solicit client=000401"})
	var q dhcp6.Query
	if why := q.Parse(payload); why != dhcp6.Answered {
		t.Fatal(why)
	}
	pods := dhcp6.NewPods([]sixacre.Pod{pod}, func(netip.Addr) bool { return false })
	if _, why := pods.Locate(&q, source.Addr()); why != dhcp6.UntrustedRelay {
		t.Error(why)
	}
}

// A pod that would be refused for it today may be on record since yesterday.
func TestRelayInsideAPool(t *testing.T) {
	r := fuzzRecord()
	r.pods[0].Relays = append(r.pods[0].Relays, netip.MustParseAddr("2001:db8:4000:21::1"))
	payload, _ := encode(t, []string{"relay-forward link=2001:db8:100:1::1 peer=fe80::1 link-layer=06:00:00:00:00:01", "solicit client=000401"})
	var q dhcp6.Query
	if _, _, why := r.answer(&q, payload, netip.MustParseAddr("2001:db8:4000:21::1")); why != dhcp6.GuestAsRelay {
		t.Error(why)
	}
}

// Every reason has a name of its own: it is a label of the counters.
func TestReasons(t *testing.T) {
	seen := map[string]bool{}
	for i := range dhcp6.NumReasons {
		name := dhcp6.Reason(i).String()
		if name == "" || strings.Contains(name, " ") || seen[name] {
			t.Errorf("reason %d is called %q", i, name)
		}
		seen[name] = true
	}
}

// summary says all that a query says.
func summary(q *dhcp6.Query) string {
	var b strings.Builder
	for _, r := range q.Relays {
		fmt.Fprintf(&b, "relay %d %s %s %x %v %x %x %x\n", r.HopCount, r.Link, r.Peer, r.InterfaceID, r.InterfaceID != nil, r.RemoteID, r.LinkLayer, r.SourcePort)
	}
	fmt.Fprintf(&b, "%s %x client %x server %x oro %x rapid %v\n", q.Type, q.Transaction, q.ClientID, q.ServerID, q.Requested, q.RapidCommit)
	for _, ia := range q.IAs {
		fmt.Fprintf(&b, "ia %d %x", ia.Option, ia.ID)
		for a, ok := ia.NextAddress(); ok; a, ok = ia.NextAddress() {
			fmt.Fprintf(&b, " %s", a)
		}
		for p, ok := ia.NextPrefix(); ok; p, ok = ia.NextPrefix() {
			fmt.Fprintf(&b, " %s", p)
		}
		b.WriteString("\n")
	}
	return b.String()
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

// seed adds the packets of all scripts to a fuzz target's corpus.
func seed(f *testing.F) {
	t := &testing.T{}
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
				f.Add(payload)
				packet = nil
			}
		}
	}
}

// FuzzParse: what is read from a packet is all read again from a packet made of
// it.
func FuzzParse(f *testing.F) {
	seed(f)
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
			Identify: []sixacre.Identifier{sixacre.ByDUID, sixacre.ByRemoteID}, UnknownClients: sixacre.Refuse,
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
	return r
}

// FuzzRespond: an answer is well formed and says nothing that the record does
// not say of the NIC, whatever the client says.
func FuzzRespond(f *testing.F) {
	seed(f)
	r := fuzzRecord()
	source := netip.MustParseAddr("2001:db8:ffff::1")
	f.Fuzz(func(t *testing.T, payload []byte) {
		check(t, r, payload, source)
		// The same behind a relay that is trusted, so that more gets an answer.
		if len(payload) < 0xff00 {
			relayed := dhcp6.AppendRelay(nil, dhcp6.RelayForward, 0, netip.MustParseAddr("2001:db8:100:1::1"), source)
			relayed = dhcp6.AppendOption(relayed, dhcp6.OptionClientLinkLayer, []byte{0, 1, 6, 0, 0, 0, 0, 2})
			check(t, r, dhcp6.AppendOption(relayed, dhcp6.OptionRelayMessage, payload), source)
		}
	})
}

// check asks and checks the answer.
func check(t *testing.T, r *record, payload []byte, source netip.Addr) {
	t.Helper()
	var q dhcp6.Query
	reply, client, why := r.answer(&q, payload, source)
	if why != dhcp6.Answered {
		if reply != nil {
			t.Fatalf("%s, and yet %x", why, reply)
		}
		return
	}
	nic := r.nics[client.Pod.Name+" "+client.MAC.String()] // none: the zero NIC, which has nothing
	for _, level := range q.Relays {
		var back dhcp6.Relay
		if why := back.Parse(reply); why != dhcp6.Answered || back.Type != dhcp6.RelayReply || back.HopCount != level.HopCount || back.Link != level.Link ||
			back.Peer != level.Peer || string(back.InterfaceID) != string(level.InterfaceID) || string(back.SourcePort) != string(level.SourcePort) {
			t.Fatalf("%s: %+v is no answer to %+v", why, back, level)
		}
		reply = back.Message
	}
	if (reply[0] != byte(dhcp6.Reply) && (reply[0] != byte(dhcp6.Advertise) || q.Type != dhcp6.Solicit)) || string(reply[1:4]) != string(q.Transaction[:]) {
		t.Fatalf("header %x", reply[:4])
	}
	checkOptions(t, reply[4:], &q, nic)
}

func checkOptions(t *testing.T, rest dhcp6.Options, q *dhcp6.Query, nic sixacre.NIC) {
	t.Helper()
	assigns := q.Type == dhcp6.Solicit || q.Type == dhcp6.Request || q.Type == dhcp6.Renew || q.Type == dhcp6.Rebind
	extends := q.Type == dhcp6.Renew || q.Type == dhcp6.Rebind
	given := map[netip.Prefix]int{}
	var ias [][]byte
	wantsPrefix := false
	for _, ia := range q.IAs {
		wantsPrefix = wantsPrefix || ia.Option == dhcp6.OptionIAPD
	}
	for {
		code, data, ok := rest.Next()
		if !ok {
			break
		}
		switch code {
		case dhcp6.OptionClientID:
			if string(data) != string(q.ClientID) {
				t.Errorf("client %x", data)
			}
		case dhcp6.OptionServerID:
			if string(data) != string(ourID) {
				t.Errorf("server %x", data)
			}
		case dhcp6.OptionDNSServers, dhcp6.OptionDomainList, dhcp6.OptionSolMaxRT, dhcp6.OptionInfMaxRT, dhcp6.OptionInformationRefreshTime:
			if !q.Asks(code) {
				t.Errorf("option %d was not asked for", code)
			}
		case dhcp6.OptionIANA, dhcp6.OptionIAPD:
			n := len(ias)
			ias = append(ias, data[:12])
			if assigns && (n >= len(q.IAs) || q.IAs[n].Option != code || string(q.IAs[n].ID[:]) != string(data[:4])) {
				t.Fatalf("IA %d is %x", n, data)
			}
			leases := dhcp6.Options(data[12:])
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
				case preferred != 0 || !extends || !strings.Contains(summary(q), " "+strings.TrimSuffix(p.String(), "/128")):
					t.Errorf("%s with lifetimes %d and %d was never named", p, preferred, valid)
				}
			}
			if len(leases) != 0 {
				t.Errorf("broken IA %x", data)
			}
		case dhcp6.OptionStatusCode, dhcp6.OptionRapidCommit:
		default:
			t.Errorf("option %d", code)
		}
	}
	if len(rest) != 0 {
		t.Errorf("broken options %x", rest)
	}
	for _, ia := range ias {
		if string(ia[4:12]) != string(ias[0][4:12]) {
			t.Errorf("T1 and T2 differ: %x and %x", ia, ias[0])
		}
	}
	if assigns && len(ias) != len(q.IAs) {
		t.Errorf("%d IAs for %d", len(ias), len(q.IAs))
	}
	for _, p := range nic.Prefixes {
		if n := given[p]; assigns && wantsPrefix && n != 1 {
			t.Errorf("%s was given %d times", p, n)
		}
	}
	for p, n := range given {
		if n != 1 {
			t.Errorf("%s was given %d times", p, n)
		}
	}
}
