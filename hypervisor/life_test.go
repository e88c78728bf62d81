package hypervisor_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/rtnl"
)

// TestUnprogrammedTap: a tap that no NIC was found behind passes nothing,
// neither way, from before the first view on.
func TestUnprogrammedTap(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.until("the static part", func() bool {
		present, err := h.kernel.Present()
		return present && err == nil
	})
	one := packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(5000, 6000, 'x')}.frame()
	closed := func(when, guest string) {
		t.Helper()
		// An answer on an established connection, too.
		h.ends["wire"].send(toGuest1(outside, own1, 64, udp, udpTo(53, 4001, 'a')).frame())
		if guest != "guest1" {
			h.drain()
		}
		h.ends[guest].send(one)
		h.ends[guest].send(marker(guest)) // ARP
		h.ends["wire"].send(packet{srcMAC: macWire, src: router, dst: "ff02::1", hops: 255, next: icmp6, payload: icmp(134, 0, "40000708 00000000 00000000")}.frame())
		h.ends["wire"].send(append(make([]byte, 0), marker("wire")...))
		// What the bridge forwards is there when the sending call returns:
		// veth and bridge hand a frame on in the sender's own softirq.
		for _, name := range []string{"wire", guest} {
			if got := h.ends[name].receive(50 * time.Millisecond); got != nil {
				t.Errorf("%s: %s received %x", when, name, got)
			}
		}
	}
	closed("before the first view", "guest1")
	for _, foreign := range []string{"nft flush ruleset", "nft flush table bridge sixacre"} {
		sh(t, foreign)
		h.until("repaired after "+foreign, func() bool { return strings.Contains(sh(t, "nft list ruleset"), `iifname "tap*" meta mark set`) })
		closed("after "+foreign, "guest1")
	}

	v := sixacre.View{Instances: []sixacre.Instance{instance(1), instance(2)}}
	h.follow(v)
	if !h.passes("guest1", "wire", one) {
		t.Error("guest1 is programmed and cannot send")
	}
	h.deliver([]delivery{{"asking", true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(4001, 53, 'q')}}})
	h.drain()
	closed("no NIC", "guest3")

	v.Instances[0].NICs[0].State = sixacre.Stopped
	h.follow(v)
	h.drain()
	closed("stopped", "guest1")

	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1)}})
	h.drain()
	closed("deleted", "guest2")
	if !h.passes("guest1", "wire", one) {
		t.Error("guest1 is running again and cannot send")
	}
}

// drain forgets what has arrived.
func (h *host) drain() {
	for _, e := range h.ends {
		for e.receive(0) != nil {
		}
	}
}

// TestTapComesAndGoes: the agent notices links by itself, and finds a tap by
// libvirt's MAC where the record names none.
func TestTapComesAndGoes(t *testing.T) {
	h := newHost(t, rtnl.Links{})
	i := instance(3)
	i.NICs[0].Device = ""
	v := sixacre.View{Revision: 1, Instances: []sixacre.Instance{i}}
	h.agent.Follow(v)
	h.await("no tap", func(r sixacre.Report) bool {
		return len(r.NICs) == 1 && r.NICs[0].Device == "" && !r.NICs[0].Programmed
	})
	sh(t, `ip link set tap3 address fe:00:00:00:00:03`)
	h.await("found by MAC", func(r sixacre.Report) bool { return r.NICs[0].Device == "tap3" && r.NICs[0].Programmed })
	entries := sh(t, `bridge fdb show dev tap3`)
	if !strings.Contains(entries, "06:00:00:00:00:03 sticky master br0 static") {
		t.Errorf("behind tap3 are\n%s", entries)
	}
	w := sixacre.View{Revision: 2, Instances: []sixacre.Instance{instance(9)}}
	w.Instances[0].NICs[0].Device = "tap3"
	h.agent.Follow(w)
	h.until("another guest's MAC", func() bool {
		return strings.Contains(sh(t, `bridge fdb show dev tap3`), "06:00:00:00:00:09 sticky master")
	})
	if got := sh(t, `bridge fdb show dev tap3`); strings.Contains(got, "06:00:00:00:00:03 sticky master") {
		t.Errorf("the MAC of the guest before is still behind tap3:\n%s", got)
	}
	h.agent.Follow(v)
	h.await("the first again", func(r sixacre.Report) bool { return r.Revision == 1 && r.NICs[0].Programmed })
	sh(t, `ip link set tap3 nomaster`)
	h.await("gone", func(r sixacre.Report) bool { return r.NICs[0].Device == "" && !r.NICs[0].Programmed })
	sh(t, `ip link set tap3 master br0`)
	h.await("back", func(r sixacre.Report) bool { return r.NICs[0].Programmed })
	if !h.passes("guest3", "wire", packet{srcMAC: macOf("guest3"), src: "2001:db8:4000:30::5", dst: outside, next: udp, payload: udpTo(5000, 6000, 'x')}.frame()) {
		t.Error("guest3 cannot send")
	}
}

// TestForeignFlush: after somebody else's nft flush ruleset the filter is back,
// and meanwhile the bridge itself holds taps to their MACs.
func TestForeignFlush(t *testing.T) {
	h := newHost(t, rtnl.Links{})
	sh(t, `nft 'add table ip6 theirs; add chain ip6 theirs c'`)
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1), instance(2)}})
	before := h.listed()

	sh(t, `nft flush ruleset`)
	h.untilListed(before)
	sh(t, `nft delete element bridge sixacre taps '{ "tap1" }'`)
	h.untilListed(before)
	sh(t, `nft add rule bridge sixacre prerouting accept`)
	h.untilListed(before)
	sh(t, `nft delete table ip6 sixacre_ct`)
	h.untilListed(before)

	sh(t, `nft 'add table ip6 theirs; add chain ip6 theirs c'`)
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1)}})
	if got := sh(t, `nft list table ip6 theirs`); !strings.Contains(got, "chain c") {
		t.Errorf("their table is now\n%s", got)
	}
}

// listed is how our tables print.
func (h *host) listed() string {
	h.Helper()
	return firewall.Canonical(sh(h, `nft -s list table bridge sixacre 2>&1 || true; nft -s list table ip6 sixacre_ct 2>&1 || true`))
}

// untilListed waits until our tables print as they should.
func (h *host) untilListed(want string) {
	h.Helper()
	h.until("repaired", func() bool { return h.listed() == want })
}

// until asks again and again, for 10 s at most.
func (h *host) until(what string, ok func() bool) {
	h.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			h.Fatalf("%s: not within 10 s", what)
		}
	}
}

// TestPortSetBack: what the agent set in a bridge and its ports is set again
// when it is gone, however short the tap was off its bridge.
func TestPortSetBack(t *testing.T) {
	h := newHost(t, rtnl.Links{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1)}}) // tap3 stays closed
	shown := func(device string, settings ...string) func() bool {
		return func() bool {
			link := sh(t, "ip -d link show "+device)
			return !slices.ContainsFunc(settings, func(s string) bool { return !strings.Contains(link, s) })
		}
	}
	for range 5 {
		sh(t, `for l in tap1 tap3; do printf "link set $l nomaster\nlink set $l master br0\n"; done | ip -batch -
			ip link set br0 type bridge nf_call_ip6tables 0`)
		h.until("tap1 secured", shown("tap1", "learning off", "locked on", "group_fwd_mask 0xfffd"))
		h.until("tap3 confined", shown("tap3", "group_fwd_mask 0xfffd"))
		if h.agent.Mode == firewall.BridgeNetfilter {
			h.until("br0 tracked", shown("br0", "nf_call_ip6tables 1"))
		}
	}
}

// TestForeignMarks: what others write into the packet mark neither opens a
// connection nor ends one.
func TestForeignMarks(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1)}})
	for i, c := range []struct{ priority, mark string }{
		{"-250", "0x10000000"}, {"0", "0x10000000"}, {"0", "0xffffffff"}, {"-250", "0x1"}, {"0", "0x1"},
	} {
		sh(t, "nft add table ip6 foreign; nft add chain ip6 foreign c '{ type filter hook prerouting priority "+c.priority+"; }'; nft add rule ip6 foreign c meta mark set "+c.mark)
		port := uint16(4000 + i)
		h.deliver([]delivery{
			{"with mark " + c.mark + " at " + c.priority + ": what nobody asked for", false, "wire", "guest1", toGuest1(outside, own1, 64, udp, udpTo(53, port, 'a'))},
			{"with mark " + c.mark + " at " + c.priority + ": the question", true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(port, 53, 'q')}},
			{"with mark " + c.mark + " at " + c.priority + ": the answer", true, "wire", "guest1", toGuest1(outside, own1, 64, udp, udpTo(53, port, 'a'))},
		})
		sh(t, "nft delete table ip6 foreign")
	}
}

// TestSecondBarrier: without any firewall the bridge lets no other MAC in from a
// tap, and ND still reaches the guest.
func TestSecondBarrier(t *testing.T) {
	h := newHost(t, rtnl.Links{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1), instance(2)}})
	h.until("the barrier up", func() bool { return strings.Contains(sh(t, `bridge -d link show dev tap1`), "locked on") })
	h.stop()
	h.stop = func() {}
	sh(t, `nft flush ruleset`)

	hello := udpTo(5000, 6000, 'x')
	h.deliver([]delivery{
		{"its MAC", true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: hello}},
		{"another's MAC", false, "guest1", "wire", packet{srcMAC: mac2, src: own2, dst: outside, next: udp, payload: hello}},
		{"a MAC that nobody has", false, "guest1", "wire", packet{srcMAC: []byte{6, 9, 9, 9, 9, 9}, src: own1, dst: outside, next: udp, payload: hello}},
		{"unicast to it", true, "wire", "guest1", toGuest1(outside, own1, 64, udp, hello)},
		{"NS to it", true, "wire", "guest1", toGuest1(router, "ff02::1:ff00:1", 255, icmp6, ns(own1, macWire))},
	})
	stolen := toGuest1(outside, own1, 64, udp, hello)
	h.drain()
	h.ends["wire"].send(stolen.frame())
	if got := h.ends["guest2"].receive(50 * time.Millisecond); got != nil {
		t.Errorf("guest2 received %x", got)
	}
	if got := sh(t, `bridge -d link show dev tap1`); !strings.Contains(got, "learning off flood off") {
		t.Errorf("bridge port tap1 is %s", got)
	}
}

// TestRestart: an agent that starts again without its server keeps the rules,
// and knows the view for what comes later.
func TestRestart(t *testing.T) {
	h := newHost(t, rtnl.Links{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1), instance(2)}})
	rules := h.listed()
	h.stop()
	h.start()
	h.await("the saved view in force", func(r sixacre.Report) bool { return r.Revision == h.view.Revision && inForce(h.view, r) })
	if got := h.listed(); got != rules {
		t.Errorf("the restart made of\n%s\nthis:\n%s", rules, got)
	}
	sh(t, `nft flush ruleset`)
	h.untilListed(rules)
}
