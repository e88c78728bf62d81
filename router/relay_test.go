package router

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// solicitPacket is what a well-behaved client sends.
func solicitPacket() packet {
	return packet{
		src:     netip.AddrPortFrom(llA, 546),
		dst:     netip.AddrPortFrom(dhcp6.AllRelaysAndServers, 547),
		payload: []byte{1, 0xaa, 0xbb, 0xcc, 0, 8, 0, 2, 0, 0},
	}
}

func TestParsePacket(t *testing.T) {
	good := solicitPacket().append(nil)
	for _, test := range []struct {
		name   string
		change func([]byte) []byte
		summed bool
		want   error
	}{
		{"good", func(b []byte) []byte { return b }, false, nil},
		{"padded to the least frame", func(b []byte) []byte { return append(b, 0, 0, 0) }, false, nil},
		{"a bit flipped", func(b []byte) []byte { b[50] ^= 1; return b }, false, dropChecksum},
		{"a bit of the source flipped", func(b []byte) []byte { b[20] ^= 1; return b }, false, dropChecksum},
		{"checksum not filled in yet", func(b []byte) []byte { b[46] ^= 1; return b }, true, nil},
		{"no checksum", func(b []byte) []byte { b[46], b[47] = 0, 0; return b }, false, dropChecksum},
		{"cut", func(b []byte) []byte { return b[:len(b)-1] }, false, dropTruncated},
		{"header alone", func(b []byte) []byte { return b[:40] }, false, dropTruncated},
		{"nothing", func([]byte) []byte { return nil }, false, dropTruncated},
		{"UDP length too long", func(b []byte) []byte { b[45]++; return b }, true, dropTruncated},
		{"length less than a header", func(b []byte) []byte { b[5] = 7; return b }, true, dropTruncated},
		{"IPv4", func(b []byte) []byte { b[0] = 0x45; return b }, false, dropTruncated},
		{"an extension header", func(b []byte) []byte { b[6] = 0; return b }, false, dropNotDHCP},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := parsePacket(test.change(bytes.Clone(good)), test.summed)
			if err != test.want {
				t.Fatalf("%v, want %v", err, test.want)
			}
			if want := solicitPacket(); err == nil && (p.src != want.src || p.dst != want.dst || !bytes.Equal(p.payload, want.payload)) {
				t.Errorf("read %+v, wrote %+v", p, want)
			}
		})
	}
}

// The checksum against x/net's, which knows the pseudo-header of ICMPv6: the
// same sum but for the protocol number and the length.
func TestChecksum(t *testing.T) {
	m := icmp.Message{Type: ipv6.ICMPTypeEchoRequest, Body: &icmp.Echo{ID: 7, Seq: 9, Data: []byte("odd")}}
	b, err := m.Marshal(icmp.IPv6PseudoHeader(net.IP(llA.AsSlice()), net.IP(llB.AsSlice())))
	if err != nil {
		t.Fatal(err)
	}
	// Over the message with its checksum the sum is all ones but for the
	// difference of the protocol numbers, 58 and 17.
	if got := checksum(llA, llB, b); got != 58-17 {
		t.Errorf("checksum %d, want %d", got, 58-17)
	}
}

func TestFromClient(t *testing.T) {
	for kind := range 256 {
		p := solicitPacket()
		p.payload = []byte{byte(kind), 1, 2, 3}
		_, x, err := fromClient(p, macA)
		client := kind >= 1 && kind <= 11 && kind != 2 && kind != 7 && kind != 10 // RFC 9915 section 7.3
		if client != (err == nil) {
			t.Errorf("type %d: %v", kind, err)
		}
		if err == nil && (x != exchange{macA, llA, dhcp6.MessageType(kind), [3]byte{1, 2, 3}}) {
			t.Errorf("type %d: %+v", kind, x)
		}
	}
	for _, test := range []struct {
		name   string
		change func(*packet, *sixacre.MAC)
		want   drop
	}{
		{"from another port", func(p *packet, _ *sixacre.MAC) { p.src = netip.AddrPortFrom(llA, 547) }, dropNotDHCP},
		{"to another port", func(p *packet, _ *sixacre.MAC) { p.dst = netip.AddrPortFrom(p.dst.Addr(), 546) }, dropNotDHCP},
		{"to one router", func(p *packet, _ *sixacre.MAC) { p.dst = netip.AddrPortFrom(llB, 547) }, dropNotDHCP},
		{"to all servers", func(p *packet, _ *sixacre.MAC) { p.dst = netip.AddrPortFrom(dhcp6.AllServers, 547) }, dropNotDHCP},
		{"from a global address", func(p *packet, _ *sixacre.MAC) {
			p.src = netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), 546)
		}, dropSource},
		{"from ::", func(p *packet, _ *sixacre.MAC) { p.src = netip.AddrPortFrom(netip.IPv6Unspecified(), 546) }, dropSource},
		{"from a group's MAC", func(_ *packet, m *sixacre.MAC) { m[0] |= 1 }, dropSource},
		{"from no MAC", func(_ *packet, m *sixacre.MAC) { *m = sixacre.MAC{} }, dropSource},
		{"too short", func(p *packet, _ *sixacre.MAC) { p.payload = p.payload[:3] }, dropTruncated},
	} {
		p, mac := solicitPacket(), macA
		test.change(&p, &mac)
		if _, _, err := fromClient(p, mac); err != test.want {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

var linkAddress = netip.MustParseAddr("2001:db8:100:1::1")

// replied makes the Relay-reply to what wrap made, as another's code reads it.
func replied(t *testing.T, forward []byte, message []byte) []byte {
	t.Helper()
	relay, err := dhcpv6.RelayMessageFromBytes(forward)
	if err != nil {
		t.Fatal(err)
	}
	b := dhcp6.AppendRelay(nil, dhcp6.RelayReply, relay.HopCount,
		netip.AddrFrom16([16]byte(relay.LinkAddr.To16())), netip.AddrFrom16([16]byte(relay.PeerAddr.To16())))
	b = dhcp6.AppendOption(b, dhcp6.OptionInterfaceID, relay.Options.InterfaceID())
	return dhcp6.AppendOption(b, dhcp6.OptionRelayMessage, message)
}

func TestUnwrap(t *testing.T) {
	e := envelope{link: "eth1", key: [32]byte{1}}
	x := exchange{macA, llA, dhcp6.Request, [3]byte{1, 2, 3}}
	forward := e.wrap(nil, linkAddress, x, []byte{3, 1, 2, 3})
	answer := []byte{7, 1, 2, 3}
	good := replied(t, forward, answer)
	if m, got, err := e.unwrap(good); err != nil || got != x || !bytes.Equal(m, answer) {
		t.Errorf("unwrapped %x of %+v: %v", m, got, err)
	}
	for name, test := range map[string]struct {
		e    envelope
		b    []byte
		want drop
	}{
		"another process's": {envelope{link: "eth1", key: [32]byte{2}}, good, dropNotRelayed},
		"another link's":    {envelope{link: "eth2", key: [32]byte{1}}, good, dropNotRelayed},
		"the Relay-forward": {e, forward, dropNotRelayed},
		"another xid":       {e, replied(t, forward, []byte{7, 1, 2, 4}), dropNotRelayed},
		"a Reconfigure":     {e, replied(t, forward, []byte{10, 1, 2, 3}), dropNotServer},
		"a relay inside":    {e, replied(t, forward, good), dropNotServer},
		"a client inside":   {e, replied(t, forward, []byte{3, 1, 2, 3}), dropNotServer},
		"too short inside":  {e, replied(t, forward, []byte{7, 1, 2}), dropTruncated},
		"nothing":           {e, nil, dropNotRelayed},
		"no interface-id":   {e, dhcp6.AppendOption(dhcp6.AppendRelay(nil, dhcp6.RelayReply, 0, linkAddress, llA), dhcp6.OptionRelayMessage, answer), dropNotRelayed},
		"to another peer":   {e, append(append(bytes.Clone(good[:18]), llB.AsSlice()...), good[34:]...), dropNotRelayed},
	} {
		if _, _, err := test.e.unwrap(test.b); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	// Any octet of the Interface-Id matters.
	id := e.interfaceID(linkAddress, x)
	at := bytes.Index(good, id)
	for i := range id {
		b := bytes.Clone(good)
		b[at+i] ^= 1
		if _, _, err := e.unwrap(b); err == nil {
			t.Errorf("unwrapped with octet %d of the interface-id %q changed", i, id)
		}
	}
}

// iaPD writes an IA_PD with what follows its header.
func iaPD(iaid byte, options ...[]byte) []byte {
	data := []byte{0, 0, 0, iaid, 0, 0, 0, 10, 0, 0, 0, 20}
	return dhcp6.AppendOption(nil, dhcp6.OptionIAPD, append(data, bytes.Join(options, nil)...))
}

func iaPrefixOption(p netip.Prefix, preferred, valid byte, options ...[]byte) []byte {
	data := []byte{0, 0, 0, preferred, 0, 0, 0, valid, byte(p.Bits())}
	data = append(data, p.Addr().AsSlice()...)
	return dhcp6.AppendOption(nil, dhcp6.OptionIAPrefix, append(data, bytes.Join(options, nil)...))
}

func status(code byte) []byte {
	return dhcp6.AppendOption(nil, dhcp6.OptionStatusCode, []byte{0, code, 'x'})
}

func TestParseDelegation(t *testing.T) {
	header := []byte{7, 1, 2, 3}
	p, q := prefixP, prefixQ
	hostBits := netip.PrefixFrom(netip.MustParseAddr("2001:db8:4000:1f::1"), 60)
	for _, test := range []struct {
		name    string
		options [][]byte
		want    []iaPrefix
		status  dhcp6.StatusCode
		err     error
	}{
		{"nothing", nil, nil, 0, nil},
		{"one", [][]byte{iaPD(1, iaPrefixOption(p, 5, 9))}, []iaPrefix{{1, p, 9}}, 0, nil},
		{"two in one, two IAs", [][]byte{iaPD(1, iaPrefixOption(p, 5, 9), iaPrefixOption(q, 5, 8)), iaPD(2, iaPrefixOption(q, 0, 0))},
			[]iaPrefix{{1, p, 9}, {1, q, 8}, {2, q, 0}}, 0, nil},
		{"bits beyond the length", [][]byte{iaPD(1, iaPrefixOption(hostBits, 5, 9))}, []iaPrefix{{1, p, 9}}, 0, nil},
		{"preferred longer than valid", [][]byte{iaPD(1, iaPrefixOption(p, 9, 5), iaPrefixOption(q, 5, 5))}, []iaPrefix{{1, q, 5}}, 0, nil},
		{"an IA refused", [][]byte{iaPD(1, iaPrefixOption(p, 5, 9), status(3)), iaPD(2, iaPrefixOption(q, 5, 9))}, []iaPrefix{{2, q, 9}}, 0, nil},
		{"a prefix refused", [][]byte{iaPD(1, iaPrefixOption(p, 5, 9, status(6)), iaPrefixOption(q, 5, 9, status(0)))}, []iaPrefix{{1, q, 9}}, 0, nil},
		{"all refused", [][]byte{status(1)}, nil, dhcp6.StatusUnspecFail, nil},
		{"other options", [][]byte{dhcp6.AppendOption(nil, 1, []byte{0, 3}), iaPD(1, iaPrefixOption(p, 5, 9))}, []iaPrefix{{1, p, 9}}, 0, nil},
		{"an octet too many", [][]byte{iaPD(1, iaPrefixOption(p, 5, 9)), {0}}, nil, 0, dropTruncated},
		{"an octet too many in the IA", [][]byte{iaPD(1, iaPrefixOption(p, 5, 9), []byte{0})}, nil, 0, dropTruncated},
		{"an octet too many in the prefix", [][]byte{iaPD(1, iaPrefixOption(p, 5, 9, []byte{0}))}, nil, 0, dropTruncated},
		{"a short IA", [][]byte{dhcp6.AppendOption(nil, dhcp6.OptionIAPD, make([]byte, 11))}, nil, 0, dropTruncated},
		{"a short prefix", [][]byte{iaPD(1, dhcp6.AppendOption(nil, dhcp6.OptionIAPrefix, make([]byte, 24)))}, nil, 0, dropTruncated},
		{"a short status", [][]byte{dhcp6.AppendOption(nil, dhcp6.OptionStatusCode, []byte{0})}, nil, 0, dropTruncated},
		{"a prefix of 129 bits", [][]byte{iaPD(1, dhcp6.AppendOption(nil, dhcp6.OptionIAPrefix, append([]byte{0, 0, 0, 1, 0, 0, 0, 1, 129}, make([]byte, 16)...)))}, nil, 0, dropTruncated},
	} {
		d, err := parseDelegation(append(bytes.Clone(header), bytes.Join(test.options, nil)...))
		if err != test.err {
			t.Errorf("%s: %v, want %v", test.name, err, test.err)
			continue
		}
		if len(d.prefixes) != len(test.want) || d.status != test.status {
			t.Errorf("%s: %+v, want %+v", test.name, d, test.want)
			continue
		}
		for i := range test.want {
			if d.prefixes[i] != test.want[i] {
				t.Errorf("%s: %+v, want %+v", test.name, d.prefixes, test.want)
			}
		}
	}
}

// Whatever a server sends, what is read of it is within the bounds that routes
// rely on, and another's parser reads no other prefixes.
func FuzzReply(f *testing.F) {
	e := envelope{link: "eth1", key: [32]byte{1}}
	x := exchange{macA, llA, dhcp6.Request, [3]byte{1, 2, 3}}
	f.Add([]byte{7, 1, 2, 3})
	f.Add(append([]byte{7, 1, 2, 3}, iaPD(1, iaPrefixOption(prefixP, 5, 9, status(0)), status(0))...))
	f.Add(e.wrap(nil, linkAddress, x, []byte{3, 1, 2, 3}))
	f.Add(dhcp6.AppendOption(dhcp6.AppendRelay(nil, dhcp6.RelayReply, 0, linkAddress, llA), dhcp6.OptionInterfaceID, e.interfaceID(linkAddress, x)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, got, err := e.unwrap(b); err == nil && (len(m) < 4 || got.mac.Validate() != nil) {
			t.Errorf("unwrapped %x of %+v", m, got)
		}
		d, err := parseDelegation(b)
		if err != nil {
			return
		}
		twin, err := dhcpv6.MessageFromBytes(b)
		if err != nil {
			return // it refuses more than is to be refused here
		}
		theirs := map[netip.Prefix]bool{}
		for _, ia := range twin.Options.IAPD() {
			for _, p := range ia.Options.Prefixes() {
				if p.Prefix == nil {
					continue
				}
				bits, _ := p.Prefix.Mask.Size()
				a, _ := netip.AddrFromSlice(p.Prefix.IP.To16())
				theirs[netip.PrefixFrom(a, bits).Masked()] = true
			}
		}
		for _, p := range d.prefixes {
			if !p.prefix.IsValid() || p.prefix != p.prefix.Masked() {
				t.Errorf("prefix %v", p.prefix)
			}
			if p.prefix.Bits() > 0 && !theirs[p.prefix] {
				t.Errorf("read %v, which the other parser does not: %v", p.prefix, theirs)
			}
		}
	})
}

func TestReleases(t *testing.T) {
	x := exchange{macA, llA, dhcp6.Release, [3]byte{1, 2, 3}}
	d := delegation{prefixes: []iaPrefix{{1, prefixP, 0}, {2, prefixQ, 0}}}
	var r releases
	r.add(x, d, start)
	for _, test := range []struct {
		name  string
		x     exchange
		reply delegation
		at    time.Duration
		want  int
	}{
		{"confirmed", x, delegation{}, 0, 2},
		{"refused", x, delegation{status: dhcp6.StatusUnspecFail}, 0, 0},
		{"one IA unknown", x, delegation{refused: map[uint32]bool{1: true}}, 0, 1},
		{"another's", exchange{macB, llA, dhcp6.Release, x.xid}, delegation{}, 0, 0},
		{"to another message", exchange{macA, llA, dhcp6.Renew, x.xid}, delegation{}, 0, 0},
		{"too late", x, delegation{}, releaseLasts, 0},
	} {
		if got := r.confirmed(test.x, test.reply, start.Add(test.at)); len(got) != test.want {
			t.Errorf("%s: %v, want %d", test.name, got, test.want)
		}
	}
	for i := range 2 * maxReleases {
		r.add(exchange{macA, llA, dhcp6.Release, [3]byte{0, byte(i >> 8), byte(i)}}, d, start)
	}
	if len(r.waiting) != maxReleases || len(r.order) != maxReleases {
		t.Errorf("%d and %d wait, want %d", len(r.waiting), len(r.order), maxReleases)
	}
	r.add(x, d, start.Add(releaseLasts))
	if len(r.waiting) != 1 || len(r.order) != 1 {
		t.Errorf("%d and %d wait after their time, want 1", len(r.waiting), len(r.order))
	}
}

func TestLimiter(t *testing.T) {
	var l limiter
	sent := func(mac sixacre.MAC, at time.Time) (n int) {
		for l.allow(mac, at) {
			n++
		}
		return n
	}
	if n := sent(macA, start); n != limitBurst {
		t.Errorf("%d at once, want %d", n, limitBurst)
	}
	if n := sent(macB, start); n != limitBurst {
		t.Errorf("%d of another at once, want %d", n, limitBurst)
	}
	if n := sent(macA, start.Add(time.Second)); n != limitRate {
		t.Errorf("%d after a second, want %d", n, limitRate)
	}
	if n := sent(macA, start.Add(time.Hour)); n != limitBurst {
		t.Errorf("%d after an hour, want %d", n, limitBurst)
	}
	for i := range 3 * limitMACs {
		l.allow(sixacre.MAC{6, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}, start.Add(time.Hour))
	}
	if len(l.buckets) > limitMACs {
		t.Errorf("%d MACs known, want no more than %d", len(l.buckets), limitMACs)
	}
}
