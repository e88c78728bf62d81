package dhcpd

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
)

// patience bounds a test that would otherwise wait for ever.
const patience = 10 * time.Second

var (
	pod1 = sixacre.Pod{
		Name:       "pod1",
		LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"),
		Pools:      []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:4000::/40")}},
		Relays:     []netip.Addr{netip.IPv6Loopback()},
		DNS:        []netip.Addr{netip.MustParseAddr("2001:db8::53")},
	}.WithDefaults()
	serverID = sixacre.ServerID{DUID: []byte{0, 2, 0, 0, 0, 1, 42}}
	mac1     = sixacre.MAC{6, 0, 0, 0, 0, 1}
	mac2     = sixacre.MAC{6, 0, 0, 0, 0, 2}
)

func instance(name string, mac sixacre.MAC, prefixes ...string) sixacre.Instance {
	nic := sixacre.NIC{MAC: mac, Pod: "pod1", State: sixacre.Running}
	for _, p := range prefixes {
		nic.Prefixes = append(nic.Prefixes, netip.MustParsePrefix(p))
	}
	return sixacre.Instance{Name: name, NICs: []sixacre.NIC{nic}}
}

// put makes events of nouns.
func put(nouns ...sixacre.Noun) []sixacre.Event {
	var events []sixacre.Event
	for _, n := range nouns {
		events = append(events, sixacre.Event{Key: n.Key(), Noun: n})
	}
	return events
}

// gone makes the events of an instance's retirement.
func gone(i sixacre.Instance) []sixacre.Event {
	events := []sixacre.Event{{Key: i.Key()}}
	for _, nic := range i.NICs {
		events = append(events, sixacre.Event{Key: sixacre.MACClaim(nic.Pod, nic.MAC)})
	}
	return events
}

// server is one that serves [::1], with a clock that the test turns.
type server struct {
	*Server
	at   netip.AddrPort
	now  atomic.Int64
	reg  *prometheus.Registry
	logs *logs
}

type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

func newServer() *server {
	s := &server{reg: prometheus.NewRegistry(), logs: &logs{}}
	s.Server = New(slog.New(slog.NewTextHandler(s.logs, nil)), s.reg, func() time.Duration { return time.Duration(s.now.Load()) })
	return s
}

func start(t *testing.T, listen string) *server {
	t.Helper()
	s := newServer()
	s.serve(t, listen)
	return s
}

// serve serves until the test ends.
func (s *server) serve(t *testing.T, listen string) {
	t.Helper()
	sock, err := Listen(netip.MustParseAddrPort(listen))
	if err != nil {
		t.Skipf("no IPv6 on loopback: %v", err)
	}
	s.at = netip.AddrPortFrom(netip.IPv6Loopback(), sock.Addr().Port())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, sock) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", &s.logs.buf)
		}
	})
}

// count returns the value of a counter or gauge.
func (s *server) count(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == label })) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s %s", name, label)
	return 0
}

// relay is the other side: a relay that sends from a port of its own on behalf
// of clients.
type relay struct {
	t    *testing.T
	conn *net.UDPConn
}

func newRelay(t *testing.T, to netip.AddrPort) *relay {
	t.Helper()
	conn, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(to)) // connected: takes packets from there alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &relay{t, conn}
}

func (r *relay) send(mac sixacre.MAC, m *dhcpv6.Message) {
	r.t.Helper()
	relayed, err := dhcpv6.EncapsulateRelay(m, dhcpv6.MessageTypeRelayForward, net.ParseIP("2001:db8:100:1::1"), addr.LinkLocal(mac).AsSlice())
	if err != nil {
		r.t.Fatal(err)
	}
	relayed.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, mac[:]))
	if _, err := r.conn.Write(relayed.ToBytes()); err != nil {
		r.t.Fatal(err)
	}
}

// receive returns the next message to a client, with the link-local address that
// the relay would send it to.
func (r *relay) receive() (*dhcpv6.Message, netip.Addr) {
	r.t.Helper()
	b := make([]byte, 1<<16)
	if err := r.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	n, err := r.conn.Read(b)
	if err != nil {
		r.t.Fatal(err)
	}
	reply, err := dhcpv6.RelayMessageFromBytes(b[:n])
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := reply.GetInnerMessage()
	if err != nil {
		r.t.Fatal(err)
	}
	peer, _ := netip.AddrFromSlice(reply.PeerAddr)
	return m, peer
}

func solicit(t *testing.T, mac sixacre.MAC) *dhcpv6.Message {
	t.Helper()
	m, err := dhcpv6.NewSolicit(mac[:], dhcpv6.WithIAPD([4]byte{0, 0, 0, 1}))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// ask sends a Solicit and returns the prefixes of the Advertise, which must be
// the answer to it.
func (r *relay) ask(mac sixacre.MAC) []string {
	r.t.Helper()
	m := solicit(r.t, mac)
	r.send(mac, m)
	got, peer := r.receive()
	if got.TransactionID != m.TransactionID || peer != addr.LinkLocal(mac) {
		r.t.Fatalf("the answer is for transaction %s at %s, asked in %s as %s", got.TransactionID, peer, m.TransactionID, addr.LinkLocal(mac))
	}
	return prefixes(got)
}

func prefixes(m *dhcpv6.Message) []string {
	var out []string
	for _, pd := range m.Options.IAPD() {
		for _, p := range pd.Options.Prefixes() {
			out = append(out, p.Prefix.String())
		}
	}
	return out
}

// wait waits for what happens without a word.
func wait(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("it did not happen")
		}
	}
}

// inNamespace moves the test to a network namespace of its own, in which the
// loopback device has the addresses. It ends with the test's thread.
func inNamespace(t *testing.T, addrs ...netip.Addr) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked, so that nothing else runs there
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs root for a network namespace: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	for _, a := range addrs {
		if err == nil {
			err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	// The kernel takes up an address a moment after it was added.
	for _, a := range addrs {
		wait(t, func() bool {
			routes, err := netlink.RouteGet(a.AsSlice())
			return err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
		})
	}
}
