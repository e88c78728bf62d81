package dhcp6_test

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"pgregory.net/rapid"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// drawn is a message of a client, as another implementation says it.
type drawn struct {
	message *dhcpv6.Message
	payload []byte
}

// draw makes a message of any client type with options in any order, from the
// fuzz record's NIC 2 behind one to four relays.
func draw(t *rapid.T) drawn {
	var d drawn
	octets := func(label string, least, most int) []byte {
		return rapid.SliceOfN(rapid.Byte(), least, most).Draw(t, label)
	}
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageType(rapid.SampledFrom([]byte{1, 3, 4, 5, 6, 8, 9, 11}).Draw(t, "type"))}
	copy(m.TransactionID[:], octets("transaction", 3, 3))
	var options []dhcpv6.Option
	client := &dhcpv6.DUIDOpaque{Type: dhcpv6.DUIDType(rapid.Uint16Range(5, 0xffff).Draw(t, "duid type")), Data: octets("duid", 1, 128)}
	options = append(options, dhcpv6.OptClientID(client))
	switch m.MessageType {
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		options = append(options, dhcpv6.OptServerID(&dhcpv6.DUIDEN{EnterpriseNumber: 1, EnterpriseIdentifier: []byte{0x5a}}))
	}
	if rapid.Bool().Draw(t, "rapid") {
		options = append(options, &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
	}
	if rapid.Bool().Draw(t, "oro") {
		var codes dhcpv6.OptionCodes
		for _, c := range rapid.SliceOf(rapid.SampledFrom([]uint16{23, 24, 32, 82, 83, 17, 999})).Draw(t, "codes") {
			codes = append(codes, dhcpv6.OptionCode(c))
		}
		options = append(options, dhcpv6.OptRequestedOption(codes...))
	}
	if rapid.Bool().Draw(t, "elapsed") {
		options = append(options, dhcpv6.OptElapsedTime(time.Duration(rapid.Uint16().Draw(t, "time"))*10*time.Millisecond))
	}
	for range rapid.IntRange(0, 2).Draw(t, "unknown") {
		options = append(options, &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionCode(rapid.Uint16Range(200, 300).Draw(t, "code")), OptionData: octets("data", 0, 20)})
	}
	if m.MessageType != dhcpv6.MessageTypeInformationRequest {
		for range rapid.IntRange(0, 5).Draw(t, "IAs") {
			options = append(options, drawIA(t))
		}
	}
	for _, o := range rapid.Permutation(options).Draw(t, "order") {
		m.AddOption(o)
	}
	d.message = m

	var relayed dhcpv6.DHCPv6 = m
	n := rapid.IntRange(1, 4).Draw(t, "relays")
	for i := range n {
		link, peer := net.ParseIP("2001:db8:100:1::1"), net.ParseIP("2001:db8:ffff::2")
		if i > 0 {
			link = net.IPv6zero
		} else {
			peer = net.ParseIP("fe80::1")
		}
		outer := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward, HopCount: uint8(i), LinkAddr: link, PeerAddr: peer}
		if rapid.Bool().Draw(t, "interface") {
			outer.AddOption(dhcpv6.OptInterfaceID(octets("interface-id", 0, 30)))
		}
		outer.AddOption(dhcpv6.OptRelayMessage(relayed))
		if i == 0 {
			outer.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, net.HardwareAddr{6, 0, 0, 0, 0, 2}))
		}
		if rapid.Bool().Draw(t, "port") {
			outer.AddOption(dhcpv6.OptRelayPort(rapid.Uint16().Draw(t, "downstream")))
		}
		relayed = outer
	}
	d.payload = relayed.ToBytes()
	return d
}

func drawIA(t *rapid.T) dhcpv6.Option {
	var id [4]byte
	copy(id[:], rapid.SliceOfN(rapid.ByteRange(0, 3), 4, 4).Draw(t, "IAID"))
	n := rapid.IntRange(0, 3).Draw(t, "leases")
	if rapid.Bool().Draw(t, "NA") {
		ia := &dhcpv6.OptIANA{IaId: id, T1: time.Minute, T2: time.Hour}
		for range n {
			a := rapid.SampledFrom([]string{"2001:db8:100:1:400:ff:fe00:2", "2001:db8:100:1::77", "2001:db8:9::1", "::"}).Draw(t, "address")
			ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a), PreferredLifetime: time.Second})
		}
		return ia
	}
	ia := &dhcpv6.OptIAPD{IaId: id, T1: time.Minute, T2: time.Hour}
	for range n {
		_, p, _ := net.ParseCIDR(rapid.SampledFrom([]string{
			"2001:db8:4000:20::/60", "2001:db8:4000:30::/60", "2001:db8:5000:100::/56", "2001:db8:4000:40::/60", "2001:db8:4000:20::/64", "::/56", "::/60",
		}).Draw(t, "prefix"))
		ia.Options.Add(&dhcpv6.OptIAPrefix{Prefix: p, ValidLifetime: time.Second})
	}
	return ia
}

// We read what another implementation writes, and it reads what we write.
func TestAgainstAnotherImplementation(t *testing.T) {
	r := fuzzRecord()
	source := netip.MustParseAddr("2001:db8:ffff::2")
	answered := map[dhcp6.MessageType]int{}
	rapid.Check(t, func(rt *rapid.T) {
		d := draw(rt)
		var q dhcp6.Query
		if why := q.Parse(d.payload); why != dhcp6.Answered {
			rt.Fatalf("%s: %x", why, d.payload)
		}
		sameMessage(rt, &q, d.message)
		outer, err := dhcpv6.FromBytes(d.payload)
		if err != nil {
			rt.Fatal(err)
		}
		for i, level := range q.Relays {
			relay := outer.(*dhcpv6.RelayMessage)
			if relay.HopCount != level.HopCount || !relay.LinkAddr.Equal(level.Link.AsSlice()) || !relay.PeerAddr.Equal(level.Peer.AsSlice()) ||
				!bytes.Equal(relay.Options.InterfaceID(), level.InterfaceID) || (relay.Options.RelayPort() != nil) != (level.SourcePort != nil) {
				rt.Errorf("level %d: %+v, and to them %s", i, level, relay.Summary())
			}
			outer = relay.Options.RelayMessage()
		}
		reply, _, why := r.answer(&q, d.payload, source)
		if why == dhcp6.NothingToConfirm && q.Type == dhcp6.Confirm {
			return
		}
		if why != dhcp6.Answered {
			rt.Fatalf("%s: %s", why, summary(&q))
		}
		answered[q.Type]++
		theirs, err := dhcpv6.FromBytes(reply)
		if err != nil {
			rt.Fatalf("%v: %x", err, reply)
		}
		if again := theirs.ToBytes(); !bytes.Equal(again, reply) {
			rt.Errorf("our %x is their %x", reply, again)
		}
		check(t, r, d.payload, source)
	})
	if len(answered) < 8 {
		t.Errorf("not every type of message was tried: %v", answered)
	}
}

func sameMessage(t *rapid.T, q *dhcp6.Query, m *dhcpv6.Message) {
	if byte(q.Type) != byte(m.MessageType) || q.Transaction != m.TransactionID || !bytes.Equal(q.ClientID, m.Options.ClientID().ToBytes()) ||
		q.RapidCommit != (m.GetOneOption(dhcpv6.OptionRapidCommit) != nil) {
		t.Errorf("%s, and to them %s", summary(q), m.Summary())
	}
	if server := m.Options.ServerID(); server != nil && !bytes.Equal(q.ServerID, server.ToBytes()) || server == nil && q.ServerID != nil {
		t.Errorf("server %x, and to them %s", q.ServerID, server)
	}
	for _, code := range m.Options.RequestedOptions() {
		if !q.Asks(dhcp6.OptionCode(code)) {
			t.Errorf("%s is asked for, and we do not see it", code)
		}
	}
	var ours, theirs []string
	for _, ia := range q.IAs {
		line := []string{string(ia.ID[:])}
		for a, ok := ia.NextAddress(); ok; a, ok = ia.NextAddress() {
			line = append(line, a.String())
		}
		for p, ok := ia.NextPrefix(); ok; p, ok = ia.NextPrefix() {
			line = append(line, p.String())
		}
		ours = append(ours, strings.Join(line, " "))
	}
	for _, o := range m.Options.Options {
		var line []string
		switch ia := o.(type) {
		case *dhcpv6.OptIANA:
			line = []string{string(ia.IaId[:])}
			for _, a := range ia.Options.Addresses() {
				line = append(line, a.IPv6Addr.String())
			}
		case *dhcpv6.OptIAPD:
			line = []string{string(ia.IaId[:])}
			for _, p := range ia.Options.Prefixes() {
				line = append(line, p.Prefix.String())
			}
		default:
			continue
		}
		theirs = append(theirs, strings.Join(line, " "))
	}
	if !slices.Equal(ours, theirs) {
		t.Errorf("IAs %q, and to them %q", ours, theirs)
	}
}

// A client that names what it was given keeps each lease where it is: in a
// Request, a Renew and a Rebind, from any replica, in any order of its IAs.
func TestDealIsStable(t *testing.T) {
	r := fuzzRecord()
	mac := sixacre.MAC{6, 0, 0, 0, 0, 2}
	nic, pod := r.nics["pod1 "+mac.String()], r.pods[0]
	leases := func(rt *rapid.T, b []byte) map[string][]string {
		m, err := dhcpv6.MessageFromBytes(b)
		if err != nil {
			rt.Fatal(err)
		}
		out := map[string][]string{}
		for _, ia := range m.Options.IANA() {
			for _, a := range ia.Options.Addresses() {
				out["na "+string(ia.IaId[:])] = append(out["na "+string(ia.IaId[:])], a.String())
			}
		}
		for _, ia := range m.Options.IAPD() {
			for _, p := range ia.Options.Prefixes() {
				out["pd "+string(ia.IaId[:])] = append(out["pd "+string(ia.IaId[:])], p.String())
			}
		}
		return out
	}
	rapid.Check(t, func(rt *rapid.T) {
		first := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeSolicit}
		first.AddOption(dhcpv6.OptClientID(&dhcpv6.DUIDOpaque{Type: 9, Data: []byte{1}}))
		for i := range rapid.IntRange(1, 5).Draw(rt, "IA_PDs") {
			_, wish, _ := net.ParseCIDR(rapid.SampledFrom([]string{"::/56", "::/60", "2001:db8:4000:30::/60", "2001:db8:4000:40::/60"}).Draw(rt, "hint"))
			first.AddOption(&dhcpv6.OptIAPD{IaId: [4]byte{byte(i)}, Options: dhcpv6.PDOptions{Options: dhcpv6.Options{&dhcpv6.OptIAPrefix{Prefix: wish}}}})
		}
		for i := range rapid.IntRange(0, 3).Draw(rt, "IA_NAs") {
			first.AddOption(&dhcpv6.OptIANA{IaId: [4]byte{byte(i)}})
		}
		respond := func(m *dhcpv6.Message) []byte {
			var q dhcp6.Query
			if why := q.Parse(m.ToBytes()); why != dhcp6.Answered {
				rt.Fatal(why)
			}
			b, why := dhcp6.Respond(nil, &q, dhcp6.Server{DUID: ourID}, dhcp6.NewPod(pod), &nic)
			if why != dhcp6.Answered {
				rt.Fatal(why)
			}
			return b
		}
		advertised := respond(first)
		offer, err := dhcpv6.MessageFromBytes(advertised)
		if err != nil {
			rt.Fatal(err)
		}
		for _, next := range []dhcpv6.MessageType{dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind} {
			m := &dhcpv6.Message{MessageType: next}
			for _, o := range rapid.Permutation(offer.Options.Options).Draw(rt, "order") {
				if o.Code() != dhcpv6.OptionServerID || next != dhcpv6.MessageTypeRebind {
					m.AddOption(o)
				}
			}
			if a, b := leases(rt, advertised), leases(rt, respond(m)); !sameLeases(a, b) {
				rt.Errorf("advertised %v, after a %s %v", a, next, b)
			}
		}
	})
}

func sameLeases(a, b map[string][]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if !slices.Equal(a[k], b[k]) {
			return false
		}
	}
	return true
}
