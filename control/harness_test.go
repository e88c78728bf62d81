package control_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/control"
	"github.com/sixacre/sixacre/etcd"
)

// record is a control over a real store, following it.
type record struct {
	*control.Control
	store *etcd.Store
	views *control.Views
	t     *testing.T

	mu     sync.Mutex
	time   time.Time
	uptime time.Duration
}

func newRecord(t *testing.T) *record {
	t.Helper()
	store, err := etcd.Embed(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	r := &record{store: store, t: t, time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), views: control.NewViews()}
	r.Control = r.serve(r.views)
	return r
}

// another is a second server's control on the same store.
func (r *record) another() *control.Control { return r.serve(control.NewViews()) }

// serve makes a control, and views, that follow the store.
func (r *record) serve(views *control.Views) *control.Control {
	c := control.New(r.store, func() time.Time {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.time
	}, func() time.Duration {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.uptime
	})
	ctx, cancel := context.WithCancel(r.t.Context())
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		var once sync.Once
		r.store.Watch(ctx, func(full bool, events []sixacre.Event, revision int64) {
			c.Apply(full, events, revision)
			views.Apply(full, events, revision)
			once.Do(func() { close(ready) })
		})
	}()
	r.t.Cleanup(func() { cancel(); <-ended })
	<-ready
	return c
}

// pass moves the wall clock and the one that nobody sets.
func (r *record) pass(wall, uptime time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.time, r.uptime = r.time.Add(wall), r.uptime+uptime
}

func (r *record) revision() int64 {
	r.t.Helper()
	rev, err := r.store.Confirm(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return rev
}

func (r *record) pod(p sixacre.Pod) {
	r.t.Helper()
	if _, err := r.CreatePod(r.t.Context(), p); err != nil {
		r.t.Fatal(err)
	}
}

// deploy makes an instance with one NIC.
func (r *record) deploy(name, pod, mac string, change ...func(*control.NICDeployment)) (sixacre.NIC, error) {
	m, err := sixacre.ParseMAC(mac)
	if err != nil {
		r.t.Fatal(err)
	}
	n := control.NICDeployment{NIC: sixacre.NIC{Pod: pod, MAC: m}}
	for _, f := range change {
		f(&n)
	}
	i, err := r.Deploy(r.t.Context(), control.Deployment{Name: name, NICs: []control.NICDeployment{n}})
	if err != nil {
		return sixacre.NIC{}, err
	}
	return i.NICs[0], nil
}

func (r *record) mustDeploy(name, pod, mac string, change ...func(*control.NICDeployment)) sixacre.NIC {
	r.t.Helper()
	n, err := r.deploy(name, pod, mac, change...)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func prefixes(count int) func(*control.NICDeployment) {
	return func(n *control.NICDeployment) { n.PrefixCount = &count }
}

func exactly(prefix string) func(*control.NICDeployment) {
	return func(n *control.NICDeployment) { n.Prefixes = append(n.Prefixes, netip.MustParsePrefix(prefix)) }
}

func address(a string) func(*control.NICDeployment) {
	return func(n *control.NICDeployment) { n.Address = netip.MustParseAddr(a) }
}

func slaac() sixacre.Pod {
	return sixacre.Pod{
		Name:       "pod1",
		LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"),
		Pools:      []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:4000::/40"), DelegatedLength: 60}},
		Relays:     []netip.Addr{netip.MustParseAddr("2001:db8:100:1::1"), netip.MustParseAddr("2001:db8:ffff::1")},

		RouterLinkLocals: []netip.Addr{netip.MustParseAddr("fe80::1")},
	}
}

func dhcpv6() sixacre.Pod {
	return sixacre.Pod{
		Name:       "pod2",
		LinkPrefix: netip.MustParsePrefix("2001:db8:100:2::/64"),
		Addressing: sixacre.DHCPv6,
		Pools: []sixacre.Pool{
			{Prefix: netip.MustParsePrefix("2001:db8:5000::/44"), DelegatedLength: 48},
			{Prefix: netip.MustParsePrefix("2001:db8:6000::/62"), DelegatedLength: 64},
		},
		Relays:           []netip.Addr{netip.MustParseAddr("2001:db8:100:2::1")},
		RouterLinkLocals: []netip.Addr{netip.MustParseAddr("fe80::400:ff:fe00:ff")},
	}
}
