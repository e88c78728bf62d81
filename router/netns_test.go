package router_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/router"
	"github.com/sixacre/sixacre/rtnl"
)

// A test with real packets runs in a process of its own, in a network namespace
// of its own, which ends with the process.
const inNamespace = "SIXACRE_TEST_NAMESPACE"

// namespace returns true in that process. In the other one it has run the test
// there, and there is nothing left to do.
func namespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	runtime.LockOSThread() // the death signal is for the end of this thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, unix.EPERM):
		t.Skip("needs the right to make network namespaces")
	case err != nil:
		t.Errorf("in the namespace: %s\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("%s", out)
	case !bytes.Contains(out, []byte("--- PASS")):
		t.Errorf("the test did not run in the namespace:\n%s", out)
	}
	return false
}

// machine is a network namespace, or the one that the process is in.
type machine struct {
	do      func(func() error) error // in the namespace
	netlink *netlink.Handle
}

// here is the namespace of the process: the router's, and the server's.
func here(t *testing.T) machine {
	h, err := netlink.NewHandle()
	ok(t, err)
	t.Cleanup(h.Close)
	return machine{func(f func() error) error { return f() }, h}
}

// newMachine makes a namespace that lasts as long as the test.
func newMachine(t *testing.T) (machine, netns.NsHandle) {
	t.Helper()
	work := make(chan func())
	started := make(chan error)
	var ns netns.NsHandle
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		var err error
		ns, err = netns.New()
		started <- err
		for f := range work {
			f()
		}
	}()
	ok(t, <-started)
	h, err := netlink.NewHandleAt(ns)
	ok(t, err)
	t.Cleanup(func() {
		h.Close()
		close(work)
		ns.Close()
	})
	return machine{func(f func() error) error {
		done := make(chan error)
		work <- func() { done <- f() }
		return <-done
	}, h}, ns
}

func (m machine) sysctl(t *testing.T, name, value string) {
	t.Helper()
	ok(t, m.do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/"+name, []byte(value), 0o644) }))
}

func (m machine) address(t *testing.T, link, prefix string) {
	t.Helper()
	l, err := m.netlink.LinkByName(link)
	ok(t, err)
	a, err := netlink.ParseAddr(prefix)
	ok(t, err)
	a.Flags = unix.IFA_F_NODAD
	ok(t, m.netlink.AddrAdd(l, a))
}

func (m machine) up(t *testing.T, link string) {
	t.Helper()
	l, err := m.netlink.LinkByName(link)
	ok(t, err)
	ok(t, m.netlink.LinkSetUp(l))
}

// routes lists the routes to a prefix as PROTOCOL via HOP.
func (m machine) routes(t *testing.T, prefix string) []string {
	t.Helper()
	_, dst, err := net.ParseCIDR(prefix)
	ok(t, err)
	list, err := m.netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Dst: dst}, netlink.RT_FILTER_DST)
	ok(t, err)
	out := []string{}
	for _, r := range list {
		if r.Type == unix.RTN_UNREACHABLE {
			out = append(out, fmt.Sprintf("%d unreachable", r.Protocol))
		} else {
			out = append(out, fmt.Sprintf("%d via %s", r.Protocol, r.Gw))
		}
	}
	slices.Sort(out)
	return out
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until the kernel shows what is asked for, looking again when
// it says that a route, address or link changed.
func (m machine) eventually(t *testing.T, what string, seen func() bool) {
	t.Helper()
	done := make(chan struct{})
	defer close(done)
	routes := make(chan netlink.RouteUpdate, 64)
	addrs := make(chan netlink.AddrUpdate, 64)
	links := make(chan netlink.LinkUpdate, 64)
	ok(t, m.do(func() error {
		return errors.Join(netlink.RouteSubscribe(routes, done), netlink.AddrSubscribe(addrs, done), netlink.LinkSubscribe(links, done))
	}))
	deadline := time.After(20 * time.Second)
	for !seen() {
		select {
		case <-routes:
		case <-addrs:
		case <-links:
		case <-deadline:
			t.Fatalf("never seen: %s", what)
		}
	}
}

// The picture of the tests: a router with a guest on its link, and a server.
var (
	routerMAC  = sixacre.MAC{0x06, 0, 0, 0, 0xff, 1}
	guestMAC   = sixacre.MAC{0x06, 0, 0, 0, 0, 1}
	guestLL    = addr.LinkLocal(guestMAC)
	routerLL   = addr.LinkLocal(routerMAC)
	relayAddr  = netip.MustParseAddr("2001:db8:ffff::1")
	serverAddr = netip.MustParseAddrPort("[2001:db8:ffff::547]:547")
	linkAddr   = netip.MustParseAddr("2001:db8:100:1::1")
	pod        = sixacre.Pod{
		Name:       "pod1",
		LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"),
		Pools:      []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:4000::/40")}},
		DNS:        []netip.Addr{netip.MustParseAddr("2001:db8::53")},
		Domains:    []string{"example.net"},
	}.WithDefaults()
)

const prefix = "2001:db8:4000:10::/60"

type picture struct {
	router, guest machine
	server        *net.UDPConn
	client        *net.UDPConn
	dir           string
}

func newPicture(t *testing.T) picture {
	t.Helper()
	p := picture{router: here(t), dir: t.TempDir()}
	guest, ns := newMachine(t)
	p.guest = guest
	for _, m := range []machine{p.router, p.guest} {
		m.sysctl(t, "all/accept_dad", "0")
		m.sysctl(t, "default/accept_dad", "0")
	}
	p.router.sysctl(t, "all/forwarding", "1")
	veth := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: "pod0", HardwareAddr: routerMAC[:], MTU: 1500},
		PeerName:         "eth0",
		PeerHardwareAddr: guestMAC[:],
		PeerNamespace:    netlink.NsFd(ns),
	}
	ok(t, p.router.netlink.LinkAdd(veth))
	p.router.up(t, "lo")
	p.router.up(t, "pod0")
	p.guest.up(t, "lo")
	p.guest.up(t, "eth0")
	p.router.address(t, "pod0", linkAddr.String()+"/64")
	p.router.address(t, "lo", relayAddr.String()+"/128")
	p.router.address(t, "lo", serverAddr.Addr().String()+"/128")

	p.guest.eventually(t, "the guest's link-local address", func() bool { return p.guest.has(t, "eth0", guestLL) })
	var err error
	p.server, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(serverAddr))
	ok(t, err)
	t.Cleanup(func() { p.server.Close() })
	ok(t, p.guest.do(func() error {
		p.client, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(guestLL.WithZone("eth0"), 546)))
		return err
	}))
	t.Cleanup(func() { p.client.Close() })
	return p
}

func (m machine) has(t *testing.T, link string, a netip.Addr) bool {
	t.Helper()
	l, err := m.netlink.LinkByName(link)
	ok(t, err)
	list, err := m.netlink.AddrList(l, netlink.FAMILY_V6)
	ok(t, err)
	return slices.ContainsFunc(list, func(x netlink.Addr) bool {
		return x.IP.Equal(a.AsSlice()) && x.Flags&unix.IFA_F_TENTATIVE == 0
	})
}

// start runs a router until the test ends or stop is called.
func (p picture) start(t *testing.T, open func(link router.Link, k router.Kernel) (*router.Router, error)) (r *router.Router, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, done, err := run(ctx, open)
	ok(t, err)
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	return r, stop
}

// run runs a router as the command does, without Router Advertisements.
func run(ctx context.Context, open func(link router.Link, k router.Kernel) (*router.Router, error)) (*router.Router, chan error, error) {
	at, err := rtnl.Attach(ctx, "pod0")
	if err != nil {
		return nil, nil, err
	}
	routes := rtnl.RoutesOf(at.Index)
	r, err := open(router.Link(at), routes)
	if err != nil {
		return nil, nil, err
	}
	conn, err := router.ListenUpstream(relayAddr, []netip.AddrPort{serverAddr})
	if err != nil {
		return nil, nil, err
	}
	done := make(chan error, 1)
	watched := make(chan error, 1)
	go func() {
		watched <- routes.Watch(ctx, "pod0", func(a rtnl.Attachment) error { r.Relink(router.Link(a)); return nil }, r.Lost)
	}()
	go func() {
		err := r.Run(ctx, conn, []netip.AddrPort{serverAddr})
		done <- errors.Join(err, <-watched)
	}()
	return r, done, nil
}

func (p picture) alone(link router.Link, k router.Kernel) (*router.Router, error) {
	return router.OpenAlone(p.dir, pod, link, k)
}

func (p picture) recorded(link router.Link, k router.Kernel) (*router.Router, error) {
	return router.OpenRecorded(p.dir, pod.Name, link, k)
}

var relays = netip.MustParseAddrPort("[ff02::1:2%eth0]:547")

// say sends a message from the client.
func (p picture) say(t *testing.T, m dhcpv6.DHCPv6) {
	t.Helper()
	_, err := p.client.WriteToUDPAddrPort(m.ToBytes(), relays)
	ok(t, err)
}

// heard is the next message that the client gets.
func (p picture) heard(t *testing.T) *dhcpv6.Message {
	t.Helper()
	b := make([]byte, 65536)
	p.client.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, from, err := p.client.ReadFromUDPAddrPort(b)
	ok(t, err)
	if want := netip.AddrPortFrom(routerLL.WithZone("eth0"), 547); from != want {
		t.Errorf("the reply came from %s, not from %s", from, want)
	}
	m, err := dhcpv6.MessageFromBytes(b[:n])
	ok(t, err)
	return m
}

// relayed is the next message that the server gets.
func (p picture) relayed(t *testing.T) *dhcpv6.RelayMessage {
	t.Helper()
	b := make([]byte, 65536)
	p.server.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, from, err := p.server.ReadFromUDPAddrPort(b)
	ok(t, err)
	if want := netip.AddrPortFrom(relayAddr, 547); from != want {
		t.Errorf("relayed from %s, not from %s", from, want)
	}
	m, err := dhcpv6.RelayMessageFromBytes(b[:n])
	ok(t, err)
	return m
}

// answer answers a relayed message.
func (p picture) answer(t *testing.T, relay *dhcpv6.RelayMessage, with ...dhcpv6.Modifier) {
	t.Helper()
	inner, err := relay.GetInnerMessage()
	ok(t, err)
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: inner.TransactionID}
	for _, f := range with {
		f(m)
	}
	repl, err := dhcpv6.NewRelayReplFromRelayForw(relay, m)
	ok(t, err)
	_, err = p.server.WriteToUDPAddrPort(repl.ToBytes(), netip.AddrPortFrom(relayAddr, 547))
	ok(t, err)
}

func message(kind dhcpv6.MessageType, with ...dhcpv6.Modifier) *dhcpv6.Message {
	m, err := dhcpv6.NewMessage(with...)
	if err != nil {
		panic(err)
	}
	m.MessageType = kind
	return m
}

func withPrefix(prefix string, valid time.Duration) dhcpv6.Modifier {
	_, n, err := net.ParseCIDR(prefix)
	if err != nil {
		panic(err)
	}
	return dhcpv6.WithIAPD([4]byte{0, 0, 0, 1}, &dhcpv6.OptIAPrefix{PreferredLifetime: valid / 2, ValidLifetime: valid, Prefix: n})
}

// request has the guest ask for the prefix and the server give it.
func (p picture) request(t *testing.T, prefix string, valid time.Duration) {
	t.Helper()
	p.say(t, message(dhcpv6.MessageTypeRequest, withPrefix(prefix, 0)))
	p.answer(t, p.relayed(t), withPrefix(prefix, valid))
	p.heard(t)
}

// expect compares the kernel's routes to a prefix.
func (p picture) expect(t *testing.T, prefix string, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	if got := p.router.routes(t, prefix); !slices.Equal(got, want) {
		t.Errorf("routes to %s: %q, not %q", prefix, got, want)
	}
}

// TestMain is a router process where a test wants one to kill.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SIXACRE_TEST_ROUTER"); dir != "" {
		_, done, err := run(context.Background(), picture{dir: dir}.alone)
		if err == nil {
			os.Stdout.WriteString("running\n")
			err = <-done
		}
		slog.Error("router ended", "err", err)
		os.Exit(1)
	}
	if strings.Contains(strings.Join(os.Args, " "), "-test.v") {
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))
	}
	os.Exit(m.Run())
}
