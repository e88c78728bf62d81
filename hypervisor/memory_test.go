package hypervisor_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/nft"
)

// TestLearn: a guest asks whether a link-local address of its own making is free;
// the agent hears it and asks the server; what the server then grants, passes.
func TestLearn(t *testing.T) {
	defer func(was firewall.Log) { listening = was }(listening)
	listening = firewall.Log{Learning: 1660}
	h := newHost(t, filterAlone{})
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan error, 1)
	go func() {
		heard <- nft.Listen(ctx, listening.Learning, func(p nft.Packet) { h.agent.Heard(p.In, p.Data) })
	}()
	defer func() {
		cancel()
		<-heard
	}()
	v := sixacre.View{Instances: []sixacre.Instance{instance(1), instance(2)}}
	h.follow(v)

	const own = "fe80::1234:5678:9abc:def0"
	asking := packet{srcMAC: mac1, src: "::", dst: "ff02::1:ffbc:def0", hops: 255, next: icmp6, payload: icmp(135, 0, "00000000"+addressHex(own))}
	ping := packet{srcMAC: mac1, src: own, dst: router, next: icmp6, payload: icmp(128, 0, "00010001")}
	h.deliver([]delivery{
		{"asking for an address that is not learned", false, "guest1", "wire", asking},
		{"using it", false, "guest1", "wire", ping},
		{"another guest's link-local", false, "guest1", "wire", packet{srcMAC: mac1, src: "::", dst: "ff02::1:ff00:2", hops: 255, next: icmp6, payload: icmp(135, 0, "00000000"+addressHex("2001:db8::2"))}},
	})
	h.until("the agent asks", func() bool { // the listener may have come after the first question
		h.ends["guest1"].send(asking.frame())
		return len(h.learned) > 0
	})
	if got, want := <-h.learned, (sixacre.LinkLocalRequest{Pod: "pod1", MAC: sixacre.MAC(mac1), Address: netip.MustParseAddr(own)}); got != want {
		t.Errorf("the agent asked for %v, want %v", got, want)
	}
	v.Instances[0].NICs[0].LearnedLinkLocal = netip.MustParseAddr(own)
	h.follow(v)
	h.drain()
	h.deliver([]delivery{
		{"asking again", true, "guest1", "wire", asking},
		{"using it", true, "guest1", "wire", ping},
		{"using it with another MAC", false, "guest2", "wire", packet{srcMAC: mac2, src: own, dst: router, next: icmp6, payload: icmp(128, 0, "00010002")}},
		{"its answer to who has it", true, "guest1", "wire", packet{srcMAC: mac1, src: own, dst: router, hops: 255, next: icmp6, payload: na(own, mac1)}},
		{"who has it", true, "wire", "guest1", toGuest1(router, "ff02::1:ffbc:def0", 255, icmp6, ns(own, macWire))},
		{"the predicted one, still", true, "guest1", "wire", packet{srcMAC: mac1, src: ll1, dst: router, next: icmp6, payload: icmp(128, 0, "00010003")}},
	})
}

// TestCut: a rule that is gone ends what it had let in, if it says so, and
// nothing else.
func TestCut(t *testing.T) {
	h := newHost(t, filterAlone{})
	v := sixacre.View{
		Instances: []sixacre.Instance{instance(1, "web"), instance(2, "web")},
		Groups:    []sixacre.Group{groupOf(t, "web", "in udp ports=1000 cut", "in udp ports=2000", "in udp ports=3000 remote=group:app cut")},
		Members:   []sixacre.Members{{Group: "app", Addresses: []netip.Addr{netip.MustParseAddr(outside)}}},
	}
	h.follow(v)
	open := func(port uint16) []delivery {
		return []delivery{
			{fmt.Sprintf("to port %d", port), true, "wire", "guest1", toGuest1(outside, own1, 64, udp, udpTo(5000, port, 'q'))},
			{fmt.Sprintf("from port %d", port), true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(port, 5000, 'a')}},
		}
	}
	for _, port := range []uint16{1000, 2000, 3000} {
		h.deliver(open(port))
	}
	h.deliver([]delivery{{"what it opened", true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(6000, 1000, 'q')}}})
	goesOn := func(port uint16) bool {
		return h.passes("wire", "guest1", toGuest1(outside, own1, 64, udp, udpTo(5000, port, 'm')).frame())
	}

	v.Groups = []sixacre.Group{groupOf(t, "web", "in udp ports=3000 remote=group:app cut")}
	h.follow(v)
	h.until("the rule's connection ended", func() bool { return !goesOn(1000) })
	if h.passes("guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(1000, 5000, 'm')}.frame()) || goesOn(1000) {
		t.Error("the guest went on with the connection, and so opened it anew")
	}
	if !goesOn(2000) {
		t.Error("a connection ended whose rule does not say so")
	}
	if !goesOn(3000) {
		t.Error("a connection ended whose rule is still there")
	}
	if !h.passes("wire", "guest1", toGuest1(outside, own1, 64, udp, udpTo(1000, 6000, 'a')).frame()) {
		t.Error("what the guest opened ended")
	}
	v.Members = []sixacre.Members{{Group: "app"}}
	h.follow(v)
	h.until("the member's connection ended", func() bool { return !goesOn(3000) })
}

// TestGuestForgotten: of a guest that is gone the kernel keeps no connection and
// counts nothing; of the others it does.
func TestGuestForgotten(t *testing.T) {
	h := newHost(t, filterAlone{})
	v := sixacre.View{Instances: []sixacre.Instance{instance(1), instance(2)}}
	h.follow(v)
	h.deliver([]delivery{
		{"guest1 asks", true, "guest1", "wire", packet{srcMAC: mac1, src: prefix1, dst: outside, next: udp, payload: udpTo(4001, 53, 'q')}},
		{"guest2 asks", true, "guest2", "wire", packet{srcMAC: mac2, src: own2, dst: outside, next: udp, payload: udpTo(4002, 53, 'q')}},
		{"guest1 spoofs", false, "guest1", "wire", packet{srcMAC: mac1, src: own2, dst: outside, next: udp, payload: udpTo(1, 2, 's')}},
		{"guest2 spoofs", false, "guest2", "wire", packet{srcMAC: mac2, src: own1, dst: outside, next: udp, payload: udpTo(1, 2, 's')}},
	})
	counted := func() string {
		drops, err := h.kernel.Drops(t.Context())
		must(t, err)
		var out []string
		for _, d := range drops {
			if d.Reason == firewall.WrongSource {
				out = append(out, fmt.Sprintf("%s %s %d", d.Device, d.Direction, d.Packets))
			}
		}
		return strings.Join(out, ", ")
	}
	connections := func() string { return sh(t, "cat /proc/net/nf_conntrack") }
	if got := counted(); got != "tap1 out 1, tap2 out 1" {
		t.Errorf("dropped: %s", got)
	}
	if got := connections(); !strings.Contains(got, "sport=4001") || !strings.Contains(got, "sport=4002") {
		t.Errorf("connections:\n%s", got)
	}
	v.Instances = v.Instances[1:]
	h.follow(v)
	h.until("guest1's connection ended", func() bool { return !strings.Contains(connections(), "sport=4001") })
	h.until("guest1's drops forgotten", func() bool { return !strings.Contains(counted(), "tap1") })
	if got := connections(); !strings.Contains(got, "sport=4002") {
		t.Errorf("guest2's connection ended too:\n%s", got)
	}
	if got := counted(); got != "tap2 out 1" {
		t.Errorf("dropped: %s", got)
	}
}

// TestRates: what a guest sends beyond what hosts do is dropped, and other guests
// send on.
func TestRates(t *testing.T) {
	defer func(was firewall.Limits) { manyOf = was }(manyOf)
	few := firewall.Rate{PerSecond: 1, Burst: 5}
	manyOf.DHCPv6, manyOf.ND, manyOf.MLD, manyOf.Errors = few, few, few, few
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1), instance(2)}})
	quote := icmp(1, 4, "00000000 60000000 0008 11 40"+addressHex(own1)+addressHex(outside)+"1388 1770 0008 0000")
	guest := func(n string, p packet) delivery {
		p.srcMAC = macOf(n)
		return delivery{from: n, to: "wire", p: p}
	}
	for name, c := range map[string]struct{ flood, other delivery }{
		"DHCPv6": {
			guest("guest1", packet{src: ll1, dst: "ff02::1:2", hops: 1, next: udp, payload: udpTo(546, 547, 1, 1, 2, 3)}),
			guest("guest2", packet{src: ll2, dst: "ff02::1:2", hops: 1, next: udp, payload: udpTo(546, 547, 1, 1, 2, 3)}),
		},
		"ND": {
			guest("guest1", packet{src: ll1, dst: "ff02::1:ff00:fe", hops: 255, next: icmp6, payload: ns(router, mac1)}),
			guest("guest2", packet{src: ll2, dst: "ff02::1:ff00:fe", hops: 255, next: icmp6, payload: ns(router, mac2)}),
		},
		"MLD": {
			guest("guest1", packet{src: ll1, dst: "ff02::16", hops: 1, next: icmp6, payload: icmp(143, 0, "00000000")}),
			guest("guest2", packet{src: ll2, dst: "ff02::16", hops: 1, next: icmp6, payload: icmp(143, 0, "00000000")}),
		},
		"errors": {
			delivery{from: "wire", to: "guest1", p: toGuest1(outside, own1, 64, icmp6, quote)},
			delivery{from: "wire", to: "guest1", p: toGuest1(outside, own1, 64, icmp6, icmp(2, 0, "00000500 60000000 0008 11 40"+addressHex(own1)+addressHex(outside)+"1388 1770 0008 0000"))},
		},
	} {
		passed := 0
		for range 20 {
			if h.passes(c.flood.from, c.flood.to, c.flood.p.frame()) {
				passed++
			}
		}
		// A burst, and one more for each second that this took.
		if passed < few.Burst || passed > 15 {
			t.Errorf("%s: %d of 20 passed, want a burst of %d", name, passed, few.Burst)
		}
		if !h.passes(c.other.from, c.other.to, c.other.p.frame()) {
			t.Errorf("%s: what is not limited did not pass", name)
		}
	}
}
