package dhcp6_test

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// octets reads hexadecimal, in which white space and what follows # mean nothing.
func octets(t testing.TB, text string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A LEASEQUERY, octet by octet as RFC 5007 section 4.1.2.1 draws it.
const byAddress = `
0e 0a0b0c                            # LEASEQUERY, transaction
0001 000a 0003 0001 0600000000ff     # Client-ID: the requestor's
002c 0033                            # Query option, 51 octets
  01                                 # by address
  00000000000000000000000000000000   # link-address ::
  0005 0018                          # IA Address
    20010db8400000120000000000000001 00000000 00000000
  0006 0002 002f                     # Option Request: Relay Data
`

func TestLeasequeryOctets(t *testing.T) {
	var q dhcp6.LeaseLookup
	if why := q.Parse(octets(t, byAddress), ourID); why != dhcp6.Answered {
		t.Fatal(why)
	}
	want := dhcp6.LeaseLookup{
		Transaction: [3]byte{10, 11, 12}, ClientID: octets(t, "00030001 0600000000ff"), Type: dhcp6.QueryByAddress,
		Link: netip.IPv6Unspecified(), Address: netip.MustParseAddr("2001:db8:4000:12::1"), RelayData: true,
	}
	if !reflect.DeepEqual(q, want) {
		t.Errorf("%+v", q)
	}
	if got := q.Append(nil); !bytes.Equal(got, octets(t, byAddress)) {
		t.Errorf("%x", got)
	}
}

// A LEASEQUERY-REPLY, as RFC 5007 sections 4.1.2.2 to 4.1.2.4 and RFC 9915
// sections 9, 21.6 and 21.22 draw it.
const reply = `
0f 0a0b0c                            # LEASEQUERY-REPLY
0002 0007 0002 00000001 5a           # Server-ID
0001 000a 0003 0001 0600000000ff     # Client-ID: the requestor's
002d 008d                            # Client Data, 141 octets
  0001 000a 0003 0001 060000000001   # Client-ID
  0005 0018                          # IA Address
    20010db8010000010400 00fffe000001 00000e0a 00002a2a
  001a 0019                          # IA Prefix
    00000e0a 00002a2a 3c 20010db8400000100000000000000000
  002e 0004 00000096                 # 150 seconds ago
  002f 003a                          # Relay Data
    20010db8ffff00000000000000000001 # heard from this relay
    0c 00                            # Relay-forward, without its Relay Message
    20010db8010000010000000000000000 # link-address
    fe80000000000000040000fffe000001 # peer-address
    0012 0004 65746830               # Interface-Id eth0
`

func clientOctets() *dhcp6.ClientData {
	return &dhcp6.ClientData{
		ClientID:  []byte{0, 3, 0, 1, 6, 0, 0, 0, 0, 1},
		Addresses: []dhcp6.LeasedAddress{{Address: netip.MustParseAddr("2001:db8:100:1:400:ff:fe00:1"), Preferred: 3594, Valid: 10794}},
		Prefixes:  []dhcp6.LeasedPrefix{{Prefix: netip.MustParsePrefix("2001:db8:4000:10::/60"), Preferred: 3594, Valid: 10794}},
		Last:      150,
		Relay: dhcp6.RelayData{
			From: netip.MustParseAddr("2001:db8:ffff::1"), Link: netip.MustParseAddr("2001:db8:100:1::"), Peer: netip.MustParseAddr("fe80::400:ff:fe00:1"),
			InterfaceID: []byte("eth0"),
		},
	}
}

func TestLeaseAnswerOctets(t *testing.T) {
	a := dhcp6.LeaseAnswer{
		Type: dhcp6.LeasequeryReply, Transaction: [3]byte{10, 11, 12},
		ServerID: ourID, ClientID: octets(t, "00030001 0600000000ff"), Client: clientOctets(),
	}
	if got := a.Append(nil); !bytes.Equal(got, octets(t, reply)) {
		t.Errorf("%x\nexpected\n%x", got, octets(t, reply))
	}
	var back dhcp6.LeaseAnswer
	if why := back.Parse(octets(t, reply)); why != dhcp6.Answered || !reflect.DeepEqual(back, a) {
		t.Errorf("%s %+v %+v", why, back, back.Client)
	}
}

// What was heard through two relays: the client is where the inner one says.
func TestRelayDataOfTwoRelays(t *testing.T) {
	inner := dhcp6.AppendOption(dhcp6.AppendRelay(nil, dhcp6.RelayForward, 0, netip.MustParseAddr("2001:db8:100:1::1"), netip.MustParseAddr("fe80::1")),
		dhcp6.OptionInterfaceID, []byte("eth0"))
	data := netip.MustParseAddr("2001:db8:ffff::2").AsSlice()
	data = dhcp6.AppendRelay(data, dhcp6.RelayForward, 1, netip.IPv6Unspecified(), netip.MustParseAddr("2001:db8:ffff::1"))
	data = dhcp6.AppendOption(data, dhcp6.OptionRelayMessage, inner)
	client := dhcp6.AppendOption(nil, dhcp6.OptionClientID, ourID)
	client = dhcp6.AppendOption(client, dhcp6.OptionLastTransaction, make([]byte, 4))
	client = dhcp6.AppendOption(client, dhcp6.OptionRelayData, data)
	var a dhcp6.LeaseAnswer
	if why := a.Parse(dhcp6.AppendOption([]byte{byte(dhcp6.LeasequeryData), 0, 0, 1}, dhcp6.OptionClientData, client)); why != dhcp6.Answered {
		t.Fatal(why)
	}
	want := dhcp6.RelayData{From: netip.MustParseAddr("2001:db8:ffff::2"), Link: netip.MustParseAddr("2001:db8:100:1::1"), Peer: netip.MustParseAddr("fe80::1"), InterfaceID: []byte("eth0")}
	if !reflect.DeepEqual(a.Client.Relay, want) {
		t.Errorf("%+v", a.Client.Relay)
	}
}

// Another implementation reads what we write, as far as it knows the options.
func TestLeaseAnswerAgainstAnotherImplementation(t *testing.T) {
	m, err := dhcpv6.MessageFromBytes(octets(t, reply))
	if err != nil {
		t.Fatal(err)
	}
	if m.MessageType != dhcpv6.MessageTypeLeaseQueryReply || !bytes.Equal(m.Options.ServerID().ToBytes(), ourID) {
		t.Errorf("%v", m)
	}
	var client dhcpv6.Options
	if err := client.FromBytes(m.Options.GetOne(dhcpv6.OptionClientData).ToBytes()); err != nil {
		t.Fatal(err)
	}
	want := clientOctets()
	address, _ := client.GetOne(dhcpv6.OptionIAAddr).(*dhcpv6.OptIAAddress)
	prefix, _ := client.GetOne(dhcpv6.OptionIAPrefix).(*dhcpv6.OptIAPrefix)
	if address == nil || address.IPv6Addr.String() != want.Addresses[0].Address.String() || address.ValidLifetime != want.Addresses[0].Valid.Duration() {
		t.Errorf("address %v", address)
	}
	if prefix == nil || prefix.Prefix.String() != want.Prefixes[0].Prefix.String() || prefix.PreferredLifetime != want.Prefixes[0].Preferred.Duration() {
		t.Errorf("prefix %v", prefix)
	}

	failed := dhcp6.LeaseAnswer{Type: dhcp6.LeasequeryDone, Status: dhcp6.StatusQueryTerminated, Text: "short of time"}
	if m, err = dhcpv6.MessageFromBytes(failed.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if s := m.Options.Status(); m.MessageType != dhcpv6.MessageTypeLeaseQueryDone || s == nil || s.StatusCode != 11 || s.StatusMessage != "short of time" {
		t.Errorf("%v", m)
	}
}

// query makes a LEASEQUERY of a Query option of the type with the options.
func query(kind dhcp6.QueryType, options ...[]byte) []byte {
	q := dhcp6.LeaseLookup{ClientID: ourID, Type: 0, Link: netip.IPv6Unspecified()}
	b := q.Append(nil)
	b = b[:len(b)-21]
	return dhcp6.AppendOption(b, dhcp6.OptionQuery, slices.Concat([]byte{byte(kind)}, make([]byte, 16), slices.Concat(options...)))
}

// zeros is an option of n octets that are all zero.
func zeros(code dhcp6.OptionCode, n int) []byte {
	return dhcp6.AppendOption(nil, code, make([]byte, n))
}

// What is discarded: RFC 5007 section 4.2.1.
func TestLeasequeryValidation(t *testing.T) {
	valid := query(dhcp6.QueryByLinkAddress)
	header, requestor, asked := valid[:4:4], valid[4:8+len(ourID)], valid[8+len(ourID):]
	with := func(options ...[]byte) []byte { return slices.Concat(valid, slices.Concat(options...)) }
	for _, test := range []struct {
		what    string
		payload []byte
		want    dhcp6.Reason
	}{
		{"a valid one", valid, dhcp6.Answered},
		{"one for us", with(dhcp6.AppendOption(nil, dhcp6.OptionServerID, ourID)), dhcp6.Answered},
		{"unknown options", with(zeros(1000, 5), zeros(1000, 5)), dhcp6.Answered},
		{"one for another server", with(zeros(dhcp6.OptionServerID, 7)), dhcp6.OtherServer},
		{"no requestor", slices.Concat(header, asked), dhcp6.NoClientID},
		{"no query", slices.Concat(header, requestor), dhcp6.NoQuery},
		{"two queries", with(asked), dhcp6.DuplicateOption},
		{"two requestors", with(requestor), dhcp6.DuplicateOption},
		{"a query too short", slices.Concat(header, requestor, zeros(dhcp6.OptionQuery, 16)), dhcp6.BadOption},
		{"a DUID too long", slices.Concat(header, zeros(dhcp6.OptionClientID, 131)), dhcp6.BadDUID},
		{"a reply", append([]byte{byte(dhcp6.LeasequeryReply)}, valid[1:]...), dhcp6.NotForServers},
		{"a solicit", append([]byte{byte(dhcp6.Solicit)}, valid[1:]...), dhcp6.UnknownType},
		{"a header cut off", valid[:3], dhcp6.Truncated},
		{"an option cut off", valid[:len(valid)-1], dhcp6.Truncated},
	} {
		var q dhcp6.LeaseLookup
		if got := q.Parse(test.payload, ourID); got != test.want {
			t.Errorf("%s: %s, expected %s", test.what, got, test.want)
		}
	}
}

// What the requestor is told of its query: RFC 5007 section 4.1.2.1, RFC 5460
// section 5.3.
func TestLeasequeryStatus(t *testing.T) {
	address := zeros(dhcp6.OptionIAAddress, 24)
	for _, test := range []struct {
		what    string
		payload []byte
		want    dhcp6.StatusCode
	}{
		{"by address", query(1, address), dhcp6.StatusSuccess},
		{"by address, with more", query(1, address, zeros(dhcp6.OptionRequest, 4), zeros(1000, 1)), dhcp6.StatusSuccess},
		{"by address, without", query(1), dhcp6.StatusMalformedQuery},
		{"by address, twice", query(1, address, address), dhcp6.StatusMalformedQuery},
		{"by address, too short", query(1, zeros(dhcp6.OptionIAAddress, 23)), dhcp6.StatusMalformedQuery},
		{"by address, odd request", query(1, address, zeros(dhcp6.OptionRequest, 3)), dhcp6.StatusMalformedQuery},
		{"by address, cut off", query(1, address, []byte{0, 6, 0}), dhcp6.StatusMalformedQuery},
		{"by client id", query(2, zeros(dhcp6.OptionClientID, 10)), dhcp6.StatusSuccess},
		{"by client id, without", query(2, address), dhcp6.StatusMalformedQuery},
		{"by client id, too short", query(2, zeros(dhcp6.OptionClientID, 2)), dhcp6.StatusMalformedQuery},
		{"by relay id", query(3, zeros(dhcp6.OptionRelayID, 10)), dhcp6.StatusSuccess},
		{"by relay id, without", query(3, zeros(dhcp6.OptionClientID, 10)), dhcp6.StatusMalformedQuery},
		{"by link", query(4), dhcp6.StatusSuccess},
		{"by remote id", query(5, zeros(dhcp6.OptionRemoteID, 10)), dhcp6.StatusSuccess},
		{"by remote id, without", query(5), dhcp6.StatusMalformedQuery},
		{"by remote id, too short", query(5, zeros(dhcp6.OptionRemoteID, 3)), dhcp6.StatusMalformedQuery},
		{"by nothing known", query(0), dhcp6.StatusUnknownQueryType},
		{"by what is not known yet", query(6), dhcp6.StatusUnknownQueryType},
	} {
		var q dhcp6.LeaseLookup
		if why := q.Parse(test.payload, ourID); why != dhcp6.Answered {
			t.Fatalf("%s: %s", test.what, why)
		}
		if q.Status != test.want {
			t.Errorf("%s: %s, expected %s", test.what, q.Status, test.want)
		}
	}
}

// A query reaches no further than the pods that the asker is a relay of, and
// within them it is about the link that it names.
func TestLeasequeryScope(t *testing.T) {
	pods := dhcp6.NewPods([]sixacre.Pod{
		{Name: "a", LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"), Pools: []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:4000::/40")}}},
		{Name: "b", LinkPrefix: netip.MustParsePrefix("2001:db8:100:2::/64"), Pools: []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:5000::/40")}}},
		{Name: "c", LinkPrefix: netip.MustParsePrefix("2001:db8:100:3::/64"), Pools: []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:6000::/40")}}},
	}, func(netip.Addr) bool { return false })
	ours := []int{0, 1}
	for _, test := range []struct {
		kind          dhcp6.QueryType
		link, address string
		want          []int
	}{
		{dhcp6.QueryByAddress, "::", "2001:db8:100:1::5", []int{0}},
		{dhcp6.QueryByAddress, "::", "2001:db8:5000:10::1", []int{1}},
		{dhcp6.QueryByAddress, "::", "2001:db8:6000:10::1", nil},
		{dhcp6.QueryByAddress, "::", "fe80::1", nil},
		{dhcp6.QueryByAddress, "2001:db8:100:2::", "fe80::1", []int{1}},
		{dhcp6.QueryByAddress, "2001:db8:100:3::", "2001:db8:100:1::5", nil},
		{dhcp6.QueryByClientID, "::", "", ours},
		{dhcp6.QueryByClientID, "2001:db8:100:1::1", "", []int{0}},
		{dhcp6.QueryByClientID, "2001:db8:100:3::1", "", nil},
		{dhcp6.QueryByRelayID, "::", "", ours},
		{dhcp6.QueryByRemoteID, "2001:db8:100:2::1", "", []int{1}},
		{dhcp6.QueryByLinkAddress, "2001:db8:100:2::1", "", []int{1}},
		{dhcp6.QueryByLinkAddress, "2001:db8:100:3::1", "", nil},
		{dhcp6.QueryByLinkAddress, "::", "", nil},
	} {
		q := dhcp6.LeaseLookup{Type: test.kind, Link: netip.MustParseAddr(test.link)}
		if test.address != "" {
			q.Address = netip.MustParseAddr(test.address)
		}
		got, status := q.Scope(pods, ours)
		if !slices.Equal(got, test.want) || (status == dhcp6.StatusSuccess) != (test.want != nil) {
			t.Errorf("by %s %s %s: pods %v, %s", test.kind, test.link, test.address, got, status)
		}
	}
}

// What is told of a lease is what is left of it, and nothing of one that is over.
func TestRemainingLifetimes(t *testing.T) {
	pod := sixacre.Pod{PreferredLifetime: 3600, ValidLifetime: 7200}
	nic := sixacre.NIC{Address: netip.MustParseAddr("2001:db8::1"), Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/60"), netip.MustParsePrefix("2001:db8:2::/56")}}
	for _, test := range []struct{ ago, preferred, valid sixacre.Seconds }{
		{0, 3600, 7200}, {1, 3599, 7199}, {3600, 0, 3600}, {7199, 0, 1}, {7200, 0, 0}, {sixacre.Infinity, 0, 0},
	} {
		var d dhcp6.ClientData
		held := d.Hold(&pod, &nic, test.ago)
		if held != (test.valid > 0) || held != (len(d.Addresses) == 1 && len(d.Prefixes) == 2) {
			t.Errorf("after %d s: %v %+v", test.ago, held, d)
		}
		for _, l := range d.Prefixes {
			if l.Preferred != test.preferred || l.Valid != test.valid {
				t.Errorf("after %d s: %+v", test.ago, l)
			}
		}
	}
	var d dhcp6.ClientData
	if d.Hold(&pod, &sixacre.NIC{}, 0) {
		t.Error("a NIC without anything has a lease")
	}
	pod.ValidLifetime, pod.PreferredLifetime = sixacre.Infinity, sixacre.Infinity
	if !d.Hold(&pod, &nic, 1e9) || d.Addresses[0].Valid != sixacre.Infinity {
		t.Errorf("%+v", d)
	}
}

// FuzzLeasequery reads octets both as a requestor's and as a server's message.
// What can be read is written and read again: it must be the same.
func FuzzLeasequery(f *testing.F) {
	f.Add(octets(f, byAddress))
	f.Add(octets(f, reply))
	f.Add(query(dhcp6.QueryByClientID, zeros(dhcp6.OptionClientID, 10), zeros(dhcp6.OptionRequest, 2)))
	f.Add(query(dhcp6.QueryByRelayID, zeros(dhcp6.OptionRelayID, 10)))
	f.Add(query(dhcp6.QueryByRemoteID, zeros(dhcp6.OptionRemoteID, 10)))
	f.Add((&dhcp6.LeaseAnswer{Type: dhcp6.LeasequeryDone, Status: dhcp6.StatusQueryTerminated, Text: "x"}).Append(nil))
	f.Add((&dhcp6.LeaseAnswer{Type: dhcp6.LeasequeryReply, Links: []netip.Addr{netip.IPv6Unspecified()}}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q, q2 dhcp6.LeaseLookup
		if q.Parse(b, ourID) == dhcp6.Answered && q.Status == dhcp6.StatusSuccess {
			if why := q2.Parse(q.Append(nil), ourID); why != dhcp6.Answered {
				t.Fatalf("%+v written: %s", q, why)
			}
			// Only what its type asks by is written.
			if q.Type != dhcp6.QueryByAddress {
				q.Address = netip.Addr{}
			}
			if q.Type != dhcp6.QueryByRemoteID {
				q.RemoteID = nil
			}
			if !reflect.DeepEqual(q, q2) {
				t.Fatalf("%+v became %+v", q, q2)
			}
		}
		var a, a2 dhcp6.LeaseAnswer
		if a.Parse(b) == dhcp6.Answered {
			if a.Status == dhcp6.StatusSuccess {
				a.Text = "" // success is not written
			}
			if why := a2.Parse(a.Append(nil)); why != dhcp6.Answered {
				t.Fatalf("%+v written: %s", a, why)
			}
			if !reflect.DeepEqual(a, a2) {
				t.Fatalf("%+v became %+v", a, a2)
			}
		}
	})
}
