package hypervisor_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/nft"
)

// busyView is two guests in a group whose rules take every path: a port, a
// range with a prefix, and the members of a group.
func busyView(t testing.TB) sixacre.View {
	return sixacre.View{
		Instances: []sixacre.Instance{instance(1, "web"), instance(2, "web")},
		Groups:    []sixacre.Group{groupOf(t, "web", "in tcp ports=80", "in udp ports=1000-1999 remote=2001:db8:ffff::/48", "in udp ports=3000 remote=group:web prefixes")},
		Members:   []sixacre.Members{{Group: "web", Prefixes: instance(9).NICs[0].Prefixes}}, // on another host
	}
}

// TestResyncUnderTraffic: a process that knows nothing of what the kernel holds
// sets everything, over and over.
func TestResyncUnderTraffic(t *testing.T) {
	h := newHost(t, filterAlone{})
	v := busyView(t)
	h.follow(v)
	rs, err := h.agent.Plan(v)
	must(t, err)
	h.stop()
	h.stop = func() {}
	h.underTraffic(func(int) error { return new(nft.Kernel).Apply(t.Context(), rs) })
}

// TestChangesUnderTraffic: guests, prefixes, rules and members come and go
// beside what the packets need.
func TestChangesUnderTraffic(t *testing.T) {
	h := newHost(t, filterAlone{})
	v := busyView(t)
	h.follow(v)
	more := busyView(t)
	more.Instances = append(more.Instances, instance(3, "web", "db"))
	more.Instances[0].NICs[0].Groups = []string{"db", "web"}
	more.Instances[1].NICs[0].Prefixes = append(more.Instances[1].NICs[0].Prefixes, instance(4).NICs[0].Prefixes...)
	more.Groups = []sixacre.Group{
		groupOf(t, "db", "in tcp ports=5432 remote=group:web", "in udp ports=1500-1600"),
		groupOf(t, "web", "in tcp ports=80", "in udp ports=1000-1999 remote=2001:db8:ffff::/48", "in udp ports=3000 remote=group:web prefixes",
			"in tcp ports=79-82 remote=2001:db8:cccc::/48", "in udp ports=1100-1200 remote=2001:db8:dddd::/48"),
	}
	more.Members[0].Prefixes = append(more.Members[0].Prefixes, instance(3).NICs[0].Prefixes...)
	var rulesets []firewall.Ruleset
	for _, v := range []sixacre.View{more, v} {
		rs, err := h.agent.Plan(v)
		must(t, err)
		rulesets = append(rulesets, rs)
	}
	h.stop()
	h.stop = func() {}
	kernel := new(nft.Kernel)
	h.underTraffic(func(n int) error { return kernel.Apply(t.Context(), rulesets[n%2]) })
}

// underTraffic applies again and again, twenty times at least, while packets run:
// of an established connection, new ones that a rule allows, and forbidden ones.
// None of the first two may be lost, and none of the last may pass. Kernels before
// 6.17 excuse new ones: for a moment they find nothing of a range that changes,
// neither as it was nor as it will be.
func (h *host) underTraffic(apply func(n int) error) {
	h.Helper()
	h.deliver([]delivery{{"asking", true, "guest1", "wire", packet{srcMAC: mac1, src: own1, dst: outside, next: udp, payload: udpTo(4001, 53, 'q')}}})
	h.drain()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	applied, begun := 0, time.Now()
	var applying sync.WaitGroup
	applying.Go(func() {
		for ; ctx.Err() == nil; applied++ {
			if err := apply(applied); err != nil {
				h.Error(err)
				cancel()
			}
			if applied >= 20 && time.Since(begun) > 3*time.Second {
				cancel()
			}
		}
	})
	sent, lost, late, leaked := 0, 0, 0, 0
	for port := uint16(0); ctx.Err() == nil; port++ {
		fresh := 1024 + port
		allowed := [][]byte{
			toGuest1(outside, own1, 64, udp, udpTo(53, 4001, 'a', byte(port>>8), byte(port))).frame(), // established
			toGuest1(outside, own1, 64, tcp, tcpTo(fresh, 80, syn, uint32(port), 0)).frame(),          // new
			toGuest1(outside, own1, 64, udp, udpTo(fresh, 1000+port%1000, 'n', 1)).frame(),            // new, by a range and a prefix
			toGuest1("2001:db8:4000:90::7", own1, 64, udp, udpTo(fresh, 3000, 'm', 1)).frame(),        // new, by a member's prefix
		}
		forbidden := [][]byte{
			toGuest1(outside, own1, 64, tcp, tcpTo(fresh, 81, syn, uint32(port), 0)).frame(),
			toGuest1("2001:db8:eeee::1", own1, 64, udp, udpTo(fresh, 1000, 'f')).frame(),
			toGuest1(router, own1, 64, udp, udpTo(fresh, 1000, 'f')).frame(),
		}
		missing := map[string]bool{}
		for _, f := range allowed {
			missing[string(f)] = true
			h.ends["wire"].send(f)
		}
		for _, f := range forbidden {
			h.ends["wire"].send(f)
		}
		h.ends["guest1"].send(packet{srcMAC: mac1, src: own2, dst: outside, next: udp, payload: udpTo(1, 2, 's')}.frame())
		sent += len(allowed)
		mark := marker("wire")
		h.ends["wire"].send(mark)
		for got := h.ends["guest1"].receive(5 * time.Second); got != nil && string(got) != string(mark); got = h.ends["guest1"].receive(5 * time.Second) {
			if !missing[string(got)] {
				leaked++
			}
			delete(missing, string(got))
		}
		if missing[string(allowed[0])] {
			lost++
			delete(missing, string(allowed[0]))
		}
		late += len(missing)
		for h.ends["wire"].receive(0) != nil {
			leaked++
		}
	}
	applying.Wait()
	result := fmt.Sprintf("applied %d times: of %d packets %d were lost of an established connection, %d of new ones, and %d leaked", applied, sent, lost, late, leaked)
	h.Log(result)
	if lost > 0 || late > 0 && !kernelBefore(h, 6, 17) || leaked > 0 || applied < 20 {
		h.Error(result)
	}
}

func kernelBefore(t testing.TB, major, minor int) bool {
	var name unix.Utsname
	must(t, unix.Uname(&name))
	var a, b int
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &a, &b)
	must(t, err)
	return a < major || a == major && b < minor
}
