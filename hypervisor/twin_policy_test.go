package hypervisor_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/nft"
)

var (
	policies = flag.Int("policies", 60, "how many random policies TestTwin and TestFuzzedFrames try")
	seed     = flag.Uint64("seed", 0, "the first policy's seed; by chance if 0")
)

// TestTwin sends random packets of every kind through random policies, and what
// comes out where is what the twin says. More of it: go test ./hypervisor -run
// TestTwin -policies 5000
func TestTwin(t *testing.T) { agree(t, (*maker).probe) }

// agree has kernel and twin judge what next makes.
func agree(t *testing.T, next func(*maker) probe) {
	l := newLaboratory(t)
	first := *seed
	if first == 0 {
		first = rand.Uint64()
	}
	for n := range uint64(*policies) {
		c := chance(rand.New(rand.NewPCG(first+n, 0)).IntN)
		host := l.policy(c)
		m := newMaker(c, host)
		var probes []probe
		for range 150 {
			probes = append(probes, next(m))
		}
		if wrong := l.compare(host, probes); len(wrong) > 0 {
			policy, err := json.Marshal(host)
			must(t, err)
			t.Fatalf("with -seed %d -policies 1:\n%s\nwith %s", first+n, strings.Join(wrong, "\n"), policy)
		}
	}
}

// laboratory is a host whose bridge learns nothing and floods no tap, and a
// kernel that one ruleset after the other is given to.
type laboratory struct {
	*host
	mode   firewall.Mode
	filter *nft.Kernel
}

func newLaboratory(t *testing.T) *laboratory {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1)}}) // so that connections are tracked
	h.stop()
	h.stop = func() {}
	sh(t, `for l in eth0 tap1 tap2 tap3; do ip link set $l type bridge_slave learning off; done
		for l in tap1 tap2 tap3; do
			ip link set $l type bridge_slave flood off
			bridge fdb replace 06:00:00:00:00:0${l#tap} dev $l master static
		done
		bridge fdb replace 02:00:00:00:00:fe dev eth0 master static
		sysctl -q -w net.netfilter.nf_conntrack_frag6_timeout=10 net.netfilter.nf_conntrack_frag6_high_thresh=268435456`)
	for _, e := range h.ends {
		must(t, unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
	}
	// Frames that one processor hands on arrive in the order in which they
	// were sent, whatever end they come from.
	runtime.LockOSThread()
	var all, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &all))
	for cpu := range 1024 {
		if all.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	must(t, unix.SchedSetaffinity(0, &one))
	t.Cleanup(func() {
		must(t, unix.SchedSetaffinity(0, &all))
		runtime.UnlockOSThread()
	})
	mode, err := nft.Probe(t.Context())
	must(t, err)
	return &laboratory{host: h, mode: mode, filter: &nft.Kernel{}}
}

// apply makes the kernel's filter the policy's, without any connection.
func (l *laboratory) apply(h firewall.Host) {
	l.Helper()
	must(l, l.filter.Apply(l.Context(), firewall.Compile(h)))
	forgetConnections(l)
}

// compare sends the probes and returns where the kernel and the twin differ.
func (l *laboratory) compare(h firewall.Host, probes []probe) []string {
	l.Helper()
	l.apply(h)
	w := &twin{host: h}
	names := map[string]string{}        // of what the twin knows, whole
	want := map[string]map[string]int{} // how often each end receives what
	for _, p := range probes {
		for i, s := range p.frames {
			whole, why := w.send(s.from, s.frame)
			name := fmt.Sprintf("%s (frame %d from %s: %x)", p.name, i, s.from, s.frame)
			if whole == nil {
				whole = s.frame
			}
			names[string(whole)] = name
			for to, reason := range why {
				if reason == passed {
					if want[to] == nil {
						want[to] = map[string]int{}
					}
					want[to][string(whole)]++
				} else if reason != elsewhere {
					names[string(whole)] += fmt.Sprintf("; not to %s: %s", to, reason)
				}
			}
			l.ends[s.from].send(s.frame)
		}
	}
	var wrong []string
	for to, frames := range l.received(w) {
		var whole reassembler
		for _, f := range frames {
			p := read(f)
			packet := p.frame
			if want[to][string(packet)] == 0 && p.ethertype == ethIPv6 && p.malformed == "" {
				if packet = whole.add(p); packet == nil {
					continue
				}
			}
			switch {
			case want[to][string(packet)] > 0:
				want[to][string(packet)]--
			case names[string(packet)] != "":
				wrong = append(wrong, fmt.Sprintf("%s received what the twin drops: %s", to, names[string(packet)]))
			default:
				wrong = append(wrong, fmt.Sprintf("%s received what nobody sent: %x", to, packet))
			}
		}
		for _, t := range whole {
			wrong = append(wrong, fmt.Sprintf("%s received fragments that make no packet: %x", to, t.pieces[0].frame))
		}
	}
	for to, frames := range want {
		for packet, times := range frames {
			if times > 0 {
				wrong = append(wrong, fmt.Sprintf("%s did not receive what the twin passes: %s", to, names[packet]))
			}
		}
	}
	slices.Sort(wrong)
	return wrong
}

// received returns what has arrived at each end. Behind all that was sent comes a
// marker to every end that one can reach; at the others all is there by then too.
func (l *laboratory) received(w *twin) map[string][][]byte {
	l.Helper()
	var programmed []string
	for _, end := range w.ends() {
		if w.guest(end) != nil {
			programmed = append(programmed, end)
		}
	}
	sent, last := map[string]bool{}, map[string]string{}
	mark := func(from string, to ...string) {
		m := marker(from)
		l.ends[from].send(m)
		sent[string(m)] = true
		for _, end := range to {
			last[end] = string(m)
		}
	}
	if len(programmed) > 0 {
		mark(programmed[0], wire)
	}
	mark(wire, programmed...)

	out := map[string][][]byte{}
	for end, e := range l.ends {
		for waits := last[end] != ""; ; {
			var within time.Duration
			if waits {
				within = 5 * time.Second
			}
			f := e.receive(within)
			if f == nil && waits {
				l.Fatalf("not even the marker arrived at %s", end)
			}
			if f == nil {
				break
			}
			waits = waits && string(f) != last[end]
			if !sent[string(f)] {
				out[end] = append(out[end], f)
			}
		}
	}
	return out
}

// forgetConnections empties connection tracking of this network namespace.
func forgetConnections(t testing.TB) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	must(t, err)
	defer unix.Close(fd)
	const deleteConnections = 1<<8 | 2 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
	request := make([]byte, unix.SizeofNlMsghdr+4)
	request[0] = byte(len(request))
	request[4], request[5] = deleteConnections&0xff, deleteConnections>>8
	request[6] = unix.NLM_F_REQUEST | unix.NLM_F_ACK
	must(t, unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	must(t, err)
	if n < 20 || answer[16]|answer[17]|answer[18]|answer[19] != 0 {
		t.Fatalf("forgetting connections: the kernel answered %x", answer[:n])
	}
}

// guests is a host with these NICs behind tap1, tap2, ….
func (l *laboratory) guests(nics ...sixacre.NIC) firewall.Host {
	h := firewall.Host{
		Mode: l.mode, Taps: []firewall.Pattern{"tap*"}, Limits: manyOf,
		Bridges: []firewall.Bridge{{Name: "br0", Index: index(l, "br0"), Zone: 1}},
		Uplinks: []firewall.Uplink{{Device: "eth0", Index: index(l, "eth0"), Bridge: "br0"}},
	}
	for i, n := range nics {
		tap := fmt.Sprintf("tap%d", i+1)
		h.Ports = append(h.Ports, firewall.Port{Device: tap, Index: index(l, tap), Bridge: "br0", NIC: n})
	}
	return h
}

// policy draws NICs, groups and members.
func (l *laboratory) policy(c chance) firewall.Host {
	var nics []sixacre.NIC
	p := pod
	p.AntiSpoof = pick(c, sixacre.AntiSpoofAddress, sixacre.AntiSpoofAddress, sixacre.AntiSpoofLinkPrefix)
	p.Echo = pick(c, sixacre.EchoAllow, sixacre.EchoRules)
	p.Relays = []netip.Addr{netip.MustParseAddr("2001:db8:100:1::5e1a")}
	names := []string{"a", "b", "c", "d"}
	for n := byte(1); n <= 3; n++ {
		nic := instance(n).NICs[0]
		nic.Prefixes = nil
		for k := range c(4) {
			a := netip.MustParseAddr(fmt.Sprintf("2001:db8:%x:%x::", 0x4000+0x100*int(n)+k, 0x1000*c(16)))
			nic.Prefixes = append(nic.Prefixes, netip.PrefixFrom(a, pick(c, 48, 52, 56, 60, 60, 63, 64)).Masked())
		}
		if c.oneIn(3) {
			nic.Address = netip.MustParseAddr(fmt.Sprintf("2001:db8:100:1:a:b:c:%x", n))
		}
		if c.oneIn(3) {
			nic.LearnedLinkLocal = netip.MustParseAddr(fmt.Sprintf("fe80::7217:%x", n))
		}
		if n > 1 && c.oneIn(4) {
			nic.State = sixacre.Stopped
		}
		for _, g := range names {
			if c.oneIn(3) {
				nic.Groups = append(nic.Groups, g)
			}
		}
		nics = append(nics, nic)
	}
	h := l.guests(nics...)
	h.Pods = []sixacre.Pod{p}
	for _, name := range names {
		g := sixacre.Group{Name: name}
		for id := range c(6) {
			g.Rules = append(g.Rules, rule(c, id+1, names))
		}
		h.Groups = append(h.Groups, g)
		m := sixacre.Members{Group: name}
		for _, port := range h.Ports {
			if slices.Contains(port.NIC.Groups, name) {
				m.Addresses = append(m.Addresses, port.NIC.Address)
				m.Prefixes = append(m.Prefixes, port.NIC.Prefixes...)
			}
		}
		if c.oneIn(2) { // a guest on another host
			m.Addresses = append(m.Addresses, addr.EUI64(pod.LinkPrefix, sixacre.MAC{6, 0, 0, 0, 0, 9}), netip.MustParseAddr("2001:db8:ffff::2"))
			m.Prefixes = append(m.Prefixes, netip.MustParsePrefix("2001:db8:5000::/44"), netip.MustParsePrefix("2001:db8:5000:10::/60"))
		}
		h.Members = append(h.Members, m)
	}
	return h
}

// rule draws one from few ports and few other ends, so that rules overlap.
func rule(c chance, id int, groups []string) sixacre.Rule {
	r := sixacre.Rule{ID: id, Direction: pick(c, sixacre.In, sixacre.In, sixacre.Out)}
	r.Protocol = pick(c, sixacre.TCP, sixacre.TCP, sixacre.UDP, sixacre.UDP, sixacre.ICMPv6, sixacre.AnyProtocol, 47, 50, 253)
	switch r.Protocol {
	case sixacre.TCP, sixacre.UDP:
		for range c(4) {
			first := pick[uint16](c, 0, 20, 21, 22, 23, 79, 80, 443, 546, 1000, 1400)
			last := pick(c, first, first+1, first+3, first+600, 0xffff)
			r.Ports = append(r.Ports, sixacre.PortRange{First: first, Last: max(first, last)})
		}
	case sixacre.ICMPv6:
		if !c.oneIn(4) {
			r.ICMPType = &sixacre.ICMPType{Type: pick[byte](c, 128, 128, 129, 1, 2, 135, 137, 139, 200), Code: byte(c(2)), HasCode: c.oneIn(3)}
		}
	}
	switch c(3) {
	case 0:
		r.Remote.Prefix = netip.MustParsePrefix(pick(c, "2001:db8::/32", "2001:db8:ffff::/48", "2001:db8:ffff::/64", "2001:db8:ffff::1/128", "2001:db8:100:1::/64", "2001:db8:4000::/36", "::/0", "fe80::/10"))
	case 1:
		r.Remote.Group = pick(c, groups...)
		r.IncludePrefixes = c.oneIn(2)
	}
	return r
}
