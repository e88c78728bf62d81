package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/firewall"
	"github.com/sixacre/sixacre/hypervisor"
	"github.com/sixacre/sixacre/nft"
	"github.com/sixacre/sixacre/rtnl"
)

// TestMain runs the tests in a network namespace that ends with the process: a
// host with bridge br0, uplink eth0 and taps tap1, tap2 and tap3. The other
// ends of the veth pairs stand for the wire and for the guests; they have no
// IPv6 of their own, so that every frame is one that a test sent.
func TestMain(m *testing.M) {
	const inside = "SIXACRE_TEST_IN_NAMESPACE"
	if os.Getenv(inside) != "" || cannotRun() != "" {
		os.Exit(m.Run())
	}
	self := exec.Command("/proc/self/exe", os.Args[1:]...)
	self.Env = append(os.Environ(), inside+"=1")
	self.Stdin, self.Stdout, self.Stderr = os.Stdin, os.Stdout, os.Stderr
	self.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	var exit *exec.ExitError
	if err := self.Run(); errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// cannotRun names what real packets need and this machine lacks.
func cannotRun() string {
	if os.Getuid() != 0 {
		return "needs root: real packets in a network namespace"
	}
	for _, program := range []string{"nft", "ip", "bridge"} {
		if _, err := exec.LookPath(program); err != nil {
			return "needs " + program + " (Debian packages nftables and iproute2)"
		}
	}
	return ""
}

func sh(t testing.TB, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%s: %s", script, err, out)
	}
	return string(out)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is the machine under test, with an agent running on it.
type host struct {
	testing.TB
	agent   *hypervisor.Agent
	kernel  *nft.Kernel
	reports chan sixacre.Report
	learned chan sixacre.LinkLocalRequest
	links   hypervisor.Links
	state   string
	stop    func()
	view    sixacre.View
	ends    map[string]*end
}

// end is the far end of a veth pair: a guest, or the wire.
type end struct {
	testing.TB
	name string
	fd   int
}

// filterAlone are links without the bridge's own barrier, so that what a test
// sees blocked is what the firewall blocked.
type filterAlone struct{ rtnl.Links }

func (filterAlone) Secure(sixacre.BridgePort, sixacre.MAC) error { return nil }

// memory is what the kernel keeps of guests.
type memory struct {
	*nft.Kernel
	rtnl.Links
}

// manyOf are limits that no test meets by chance.
var manyOf = func() firewall.Limits {
	many := firewall.Rate{PerSecond: 1 << 20, Burst: 1 << 20}
	return firewall.Limits{DHCPv6: many, ND: many, MLD: many, Errors: many, Connections: 1 << 20}
}()

// listening is the nflog groups of the next agent.
var listening firewall.Log

// index is the interface index of a port or bridge.
func index(t testing.TB, name string) int {
	t.Helper()
	link, err := net.InterfaceByName(name)
	must(t, err)
	return link.Index
}

// newHost makes the interfaces and starts an agent that has no view yet.
func newHost(t *testing.T, links hypervisor.Links) *host {
	if why := cannotRun(); why != "" {
		t.Skip(why)
	}
	sh(t, `
		sysctl -q -w net.ipv6.conf.default.disable_ipv6=1 net.ipv6.conf.all.disable_ipv6=1
		ip link add br0 type bridge mcast_snooping 0
		ip link set br0 up
		for pair in eth0:wire tap1:guest1 tap2:guest2 tap3:guest3; do
			ip link add ${pair%:*} type veth peer name ${pair#*:}
			ip link set ${pair%:*} master br0 up
			ip link set ${pair#*:} up
		done`)
	h := &host{TB: t, links: links, state: t.TempDir(), ends: map[string]*end{}}
	t.Cleanup(func() {
		h.stop()
		sh(t, `nft flush ruleset; for l in eth0 tap1 tap2 tap3; do ip link del $l; done; ip link del br0`)
	})
	for _, name := range []string{"wire", "guest1", "guest2", "guest3"} {
		h.ends[name] = newEnd(t, name)
	}
	h.start()
	return h
}

// start starts the agent as a new process would.
func (h *host) start() {
	h.Helper()
	mode, err := nft.Probe(context.Background())
	must(h, err)
	ctx, cancel := context.WithCancel(context.Background())
	h.kernel = &nft.Kernel{}
	reports := make(chan sixacre.Report, 1)
	h.reports = reports
	h.agent = &hypervisor.Agent{
		Mode: mode, Taps: []firewall.Pattern{"tap*"}, State: h.state, Limits: manyOf, NFLog: listening,
		Firewall: h.kernel, Memory: memory{h.kernel, rtnl.Links{}}, Links: h.links, Log: slog.New(slog.NewTextHandler(h.Output(), nil)),
		Report: func(ctx context.Context, r sixacre.Report) error {
			select {
			case <-reports:
			default:
			}
			reports <- r
			return nil
		},
	}
	h.learned = make(chan sixacre.LinkLocalRequest, 100)
	learned := h.learned
	h.agent.Learn = func(_ context.Context, q sixacre.LinkLocalRequest) error {
		learned <- q
		return nil
	}
	done := make(chan struct{}, 3)
	agent := h.agent
	go func() { agent.Run(ctx); done <- struct{}{} }()
	go func() { rtnl.Links{}.Watch(ctx, agent.LinksChanged); done <- struct{}{} }()
	go func() { h.kernel.Watch(ctx, agent.FilterChanged); done <- struct{}{} }()
	h.stop = func() {
		cancel()
		for range 3 {
			<-done
		}
	}
}

// follow gives the agent the view and waits until it is in force.
func (h *host) follow(v sixacre.View) {
	h.Helper()
	v.Revision = h.view.Revision + 1
	h.view = v
	h.agent.Follow(v)
	h.await("the view in force", func(r sixacre.Report) bool { return r.Revision == v.Revision && inForce(v, r) })
}

func inForce(v sixacre.View, r sixacre.Report) bool {
	running := 0
	for _, i := range v.Instances {
		for _, n := range i.NICs {
			if n.State == sixacre.Running {
				running++
			}
		}
	}
	for _, n := range r.NICs {
		if n.Programmed {
			running--
		}
	}
	return running == 0
}

func (h *host) await(what string, ok func(sixacre.Report) bool) {
	h.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case r := <-h.reports:
			if ok(r) {
				return
			}
		case <-deadline:
			h.Fatalf("%s: not within 10 s", what)
		}
	}
}

// newEnd opens a packet socket that sees what arrives at the end.
func newEnd(t testing.TB, name string) *end {
	ifi, err := net.InterfaceByName(name)
	must(t, err)
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}))
	return &end{t, name, fd}
}

func (e *end) send(frame []byte) {
	e.Helper()
	if _, err := unix.Write(e.fd, frame); err != nil {
		e.Fatalf("sending from %s: %s", e.name, err)
	}
}

// receive returns the next frame, or nil if none comes in time.
func (e *end) receive(within time.Duration) []byte {
	e.Helper()
	buf := make([]byte, 65536)
	for deadline := time.Now().Add(within); ; {
		left := max(0, time.Until(deadline))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}, int((left + time.Millisecond - 1).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n == 0 && left > 0:
			continue
		case err == nil && n == 0:
			return nil
		}
		must(e, err)
		n, err = unix.Read(e.fd, buf)
		must(e, err)
		return buf[:n]
	}
}

// passes sends frame at one end and tells whether it arrived at another. To
// know that it will not without waiting, a marker that always passes is sent
// after it by way of the same ports: whatever the bridge forwards keeps its
// order on a veth pair.
func (h *host) passes(from, to string, frame []byte) bool {
	h.Helper()
	src, dst := h.ends[from], h.ends[to]
	mark := marker(from)
	src.send(frame)
	src.send(mark)
	if frame[12] == 0x81 || frame[12] == 0x88 && frame[13] == 0xa8 { // packet sockets show it without its outer tag
		frame = append(append([]byte(nil), frame[:12]...), frame[16:]...)
	}
	arrived := false
	for {
		got := dst.receive(5 * time.Second)
		switch {
		case got == nil:
			h.Fatalf("from %s to %s: not even the marker arrived", from, to)
		case string(got) == string(mark):
			return arrived
		case len(got) >= len(frame) && string(got[:len(frame)]) == string(frame):
			arrived = true
		}
	}
}

var markers uint32

// marker is an ARP frame from the end's own MAC to everybody: the filter lets
// IPv4 and ARP pass by MAC alone.
func marker(from string) []byte {
	markers++
	f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, macOf(from)...)
	f = append(f, 0x08, 0x06)
	f = append(f, "sixacre marker "...)
	f = fmt.Appendf(f, "%032d", markers)
	return f
}

func macOf(name string) []byte {
	switch name {
	case "wire":
		return []byte{2, 0, 0, 0, 0, 0xfe}
	default:
		return []byte{6, 0, 0, 0, 0, name[len(name)-1] - '0'}
	}
}

var pod = sixacre.Pod{Name: "pod1", LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"), Addressing: sixacre.SLAAC}

// instance is guest n behind tap n with one prefix.
func instance(n byte, groups ...string) sixacre.Instance {
	nic := sixacre.NIC{
		MAC: sixacre.MAC{6, 0, 0, 0, 0, n}, Pod: "pod1", Host: "hv1", State: sixacre.Running,
		Device:   fmt.Sprintf("tap%d", n),
		Prefixes: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("2001:db8:4000:%d0::/60", n))},
		Groups:   groups,
	}
	return sixacre.Instance{Name: fmt.Sprintf("i-%d", n), NICs: []sixacre.NIC{addr.Complete(pod, nic)}}
}

func groupOf(t testing.TB, name string, rules ...string) sixacre.Group {
	g := sixacre.Group{Name: name}
	for i, words := range rules {
		f := strings.Fields(words)
		r := sixacre.Rule{ID: i + 1, Direction: sixacre.Direction(f[0])}
		must(t, r.Protocol.UnmarshalText([]byte(f[1])))
		for _, w := range f[2:] {
			key, value, _ := strings.Cut(w, "=")
			switch key {
			case "ports":
				must(t, r.Ports.UnmarshalText([]byte(value)))
			case "type":
				r.ICMPType = new(sixacre.ICMPType)
				must(t, r.ICMPType.UnmarshalText([]byte(value)))
			case "remote":
				must(t, r.Remote.UnmarshalText([]byte(value)))
			case "prefixes":
				r.IncludePrefixes = true
			case "cut":
				r.Cut = true
			default:
				t.Fatalf("rule %q: what is %s?", words, key)
			}
		}
		must(t, r.Validate())
		g.Rules = append(g.Rules, r)
	}
	return g
}
