package dhcp6_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sixacre/sixacre"
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

// As deep as is accepted, every level comes back.
func TestDeepestRelays(t *testing.T) {
	var lines []string
	for i := range dhcp6.MaxRelays - 1 {
		lines = append(lines, fmt.Sprintf("relay-forward hop=%d link=:: peer=2001:db8:ffff::%d interface-id=level%d", dhcp6.MaxRelays-i-1, 1+i%2, i))
	}
	payload, source := encode(t, append(lines, relayed, "request client=000401 server=us pd=1"))
	r := fuzzRecord()
	var q dhcp6.Query
	reply, _, why := r.answer(&q, payload, source.Addr())
	if why != dhcp6.Answered || len(q.Relays) != dhcp6.MaxRelays {
		t.Fatal(why, len(q.Relays))
	}
	if text := describe(unwrap(t, &q, reply), ""); !strings.Contains(text, "2001:db8:4000:20::/60") {
		t.Error(text)
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
	before := []byte("before")
	ask := func(interfaceID int) (int, dhcp6.Reason) {
		payload, _ := encode(t, []string{
			"relay-forward link=2001:db8:100:1::1 peer=fe80::1 link-layer=06:00:00:00:00:02 interface-id=" + strings.Repeat("x", interfaceID),
			"solicit client=00030001060000000002 oro=23 pd=1",
		})
		var q dhcp6.Query
		if why := q.Parse(payload); why != dhcp6.Answered {
			t.Fatal(why)
		}
		nic := fuzzRecord().nics["pod1 06:00:00:00:00:02"]
		reply, why := dhcp6.Respond(before, &q, dhcp6.Server{DUID: ourID}, dhcp6.NewPod(pod), &nic)
		if !bytes.HasPrefix(reply, before) || why != dhcp6.Answered && len(reply) != len(before) {
			t.Errorf("%s, and yet %d octets", why, len(reply))
		}
		return len(reply) - len(before), why
	}
	short, _ := ask(0)
	longest := dhcp6.MaxPayload - short // all that is longer is the Interface-Id
	if n, why := ask(longest); why != dhcp6.Answered || n != 65527 {
		t.Errorf("%s, %d octets", why, n)
	}
	if _, why := ask(longest + 1); why != dhcp6.TooLong { // the packet would be too long
		t.Error(why)
	}
	pod.DNS = slices.Repeat(pod.DNS, 5000)
	if _, why := ask(0); why != dhcp6.TooLong { // an option would be
		t.Error(why)
	}
}

// The effect is that of the last answer, also where a query is asked again.
func TestEffectOfTheLastAnswer(t *testing.T) {
	payload, source := encode(t, []string{relayed, "request client=000401 server=us pd=1"})
	r := fuzzRecord()
	var q dhcp6.Query
	_, client, why := r.answer(&q, payload, source.Addr())
	if why != dhcp6.Answered || q.Effect != sixacre.Binds {
		t.Fatal(why, q.Effect)
	}
	if _, why := dhcp6.Respond(nil, &q, dhcp6.Server{DUID: []byte("another")}, client.Pod, nil); why != dhcp6.OtherServer || q.Effect != sixacre.NoEffect {
		t.Error(why, q.Effect)
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
