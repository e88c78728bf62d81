package dhcpd

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/control"
	"github.com/sixacre/sixacre/etcd"
)

// cluster is a store, those who write it, and the clocks of all machines: they
// go at the same pace, and only when the test says.
type cluster struct {
	t     *testing.T
	store *etcd.Store
	*control.Control

	mu       sync.Mutex
	passed   time.Duration
	replicas []*replica
}

// replica is a server that follows the store by its own watch, unless it is cut
// off.
type replica struct {
	*server
	*relay
	cluster   *cluster
	stop      func() // ends the watch
	following bool
	reaches   bool // whether it can ask the store
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	store, err := etcd.Embed(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	c := &cluster{t: t, store: store}
	c.Control = control.New(store, func() time.Time { return day.Add(c.since()) }, c.since)
	c.must(c.EnsureServerID(t.Context()))
	return c
}

// day is when the clocks start.
var day = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (c *cluster) since() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.passed
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// replica starts one more. What the first is told, those who write are told too.
func (c *cluster) replica() *replica {
	c.t.Helper()
	s := start(c.t, "[::1]:0")
	r := &replica{server: s, relay: newRelay(c.t, s.at), cluster: c, reaches: true}
	s.now.Store(int64(c.since()))
	c.replicas = append(c.replicas, r)
	r.follow()
	c.t.Cleanup(r.unfollow)
	c.settle()
	return r
}

func (r *replica) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	first := r.cluster.replicas[0] == r
	go func() {
		defer close(ended)
		_ = r.cluster.store.Watch(ctx, func(full bool, events []sixacre.Event, revision int64) {
			if first {
				r.cluster.Apply(full, events, revision)
			}
			r.Apply(full, events, revision)
		})
	}()
	r.stop, r.following = func() { cancel(); <-ended }, true
}

func (r *replica) unfollow() {
	r.stop()
	r.following = false
}

// settle lets each replica that reaches the store confirm it, as it does all the
// time, and waits for those that can to catch up with it.
func (c *cluster) settle() {
	c.t.Helper()
	for _, r := range c.replicas {
		if !r.reaches {
			continue
		}
		confirm := func() int64 {
			asked := r.clock()
			revision, err := c.store.Confirm(c.t.Context())
			c.must(err)
			r.Confirm(asked, revision)
			return revision
		}
		newest := confirm()
		if !r.following {
			continue
		}
		wait(c.t, func() bool {
			confirm()
			r.Server.mu.Lock()
			defer r.Server.mu.Unlock()
			return r.applied >= newest && r.pending == (confirmation{})
		})
	}
}

// at turns all clocks to a time, at which quarantines end that are over.
func (c *cluster) at(passed time.Duration) {
	c.t.Helper()
	c.mu.Lock()
	c.passed = passed
	c.mu.Unlock()
	for _, r := range c.replicas {
		r.now.Store(int64(passed))
	}
	c.must(c.Tick(c.t.Context()))
	c.settle()
}

// deploy makes an instance with a prefix of the only pool.
func (c *cluster) deploy(name string, mac sixacre.MAC) (sixacre.Instance, error) {
	return c.Deploy(c.t.Context(), control.Deployment{Name: name, NICs: []control.NICDeployment{{NIC: sixacre.NIC{Pod: "pod1", MAC: mac}}}})
}

// serverID returns the DUID of all replicas.
func (r *replica) serverID() dhcpv6.DUID {
	r.cluster.t.Helper()
	record, err := r.cluster.store.Get(r.cluster.t.Context(), sixacre.ServerIDKey)
	r.cluster.must(err)
	id, err := dhcpv6.DUIDFromBytes(record.Noun.(sixacre.ServerID).DUID)
	r.cluster.must(err)
	return id
}

// renew asks to extend a lease on the prefix.
func (r *replica) renew(mac sixacre.MAC, prefix netip.Prefix) *dhcpv6.Message {
	r.cluster.t.Helper()
	m, err := dhcpv6.NewMessage(
		dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac[:]}),
		dhcpv6.WithServerID(r.serverID()),
		dhcpv6.WithIAPD([4]byte{0, 0, 0, 1}, &dhcpv6.OptIAPrefix{
			Prefix: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), 128)},
		}))
	r.cluster.must(err)
	m.MessageType = dhcpv6.MessageTypeRenew
	r.send(mac, m)
	return m
}

// renews renews a lease and returns until when it is extended: not beyond now
// where the answer takes the prefix away.
func (r *replica) renews(mac sixacre.MAC, prefix netip.Prefix) time.Duration {
	r.cluster.t.Helper()
	m := r.renew(mac, prefix)
	got, _ := r.receive()
	leases := []*dhcpv6.OptIAPrefix{}
	for _, pd := range got.Options.IAPD() {
		leases = append(leases, pd.Options.Prefixes()...)
	}
	if got.TransactionID != m.TransactionID || len(leases) != 1 || leases[0].Prefix.String() != prefix.String() {
		r.cluster.t.Fatalf("a Renew of %s is answered with %s", prefix, got.Summary())
	}
	return r.cluster.since() + leases[0].ValidLifetime
}

// silence sends a Renew and waits for it to be counted as not answered.
func (r *replica) silence(mac sixacre.MAC, prefix netip.Prefix, why string) {
	r.cluster.t.Helper()
	before := r.count(r.cluster.t, "sixacre_dhcp6_silences_total", why)
	r.renew(mac, prefix)
	wait(r.cluster.t, func() bool { return r.count(r.cluster.t, "sixacre_dhcp6_silences_total", why) == before+1 })
}

// A replica that is cut off goes on from what it has for as long as nobody else
// can have been given it, and then is silent: the old holder of a prefix never
// has a lease on it that is in force when its new holder gets it.
func TestPartitionedReplica(t *testing.T) {
	for name, cut := range map[string]func(*replica){
		"neither watch nor store": func(r *replica) { r.unfollow(); r.reaches = false },
		// It reaches the store, which says that there is more than it has seen.
		"no watch": (*replica).unfollow,
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			ctx := t.Context()
			pod := pod1
			pod.Pools = []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:4000::/60"), DelegatedLength: 60}}
			_, err := c.CreatePod(ctx, pod)
			c.must(err)
			c.must(c.Tick(ctx))
			connected, partitioned := c.replica(), c.replica()
			i, err := c.deploy("i-1", mac1)
			c.must(err)
			prefix := i.NICs[0].Prefixes[0]
			c.settle()

			lifetime := pod.ValidLifetime.Duration()
			for _, r := range c.replicas {
				if until := r.renews(mac1, prefix); until != lifetime {
					t.Fatalf("before: extended until %s, want %s", until, lifetime)
				}
			}
			cut(partitioned)
			c.must(c.ReleasePrefix(ctx, prefix))
			c.settle()

			var lease time.Duration // the end of the last that was given
			for _, now := range []time.Duration{0, time.Hour, lifetime, sixacre.MaxStale - time.Second, sixacre.MaxStale} {
				c.at(now)
				if until := connected.renews(mac1, prefix); until != now {
					t.Errorf("at %s: the connected replica extends the released prefix until %s", now, until)
				}
				if lease = partitioned.renews(mac1, prefix); lease != now+lifetime {
					t.Errorf("at %s: the partitioned replica extends until %s, want %s", now, lease, now+lifetime)
				}
				if err := partitioned.Ready(); err != nil {
					t.Errorf("at %s: %v", now, err)
				}
				if got := partitioned.count(t, "sixacre_dhcp6_unconfirmed_seconds", ""); got != now.Seconds() {
					t.Errorf("at %s: the metric says unconfirmed for %v s", now, got)
				}
				if _, err := c.deploy("i-2", mac2); sixacre.CodeOf(err) != sixacre.Exhausted {
					t.Errorf("at %s: the prefix was given to another: %v", now, err)
				}
			}

			c.at(sixacre.MaxStale + time.Second)
			partitioned.silence(mac1, prefix, "stale")
			if err := partitioned.Ready(); err == nil {
				t.Error("a silent replica says that it is ready")
			}
			if partitioned.count(t, "sixacre_dhcp6_ready", "") != 0 || connected.count(t, "sixacre_dhcp6_ready", "") != 1 {
				t.Error("the metric does not say which replica is silent")
			}

			c.at(lease - time.Second)
			if _, err := c.deploy("i-2", mac2); sixacre.CodeOf(err) != sixacre.Exhausted {
				t.Errorf("the prefix was given to another while a lease on it was in force: %v", err)
			}
			c.at(lease)
			wait(t, func() bool { // the end of the quarantine is learnt by watch
				i, err = c.deploy("i-2", mac2)
				return err == nil
			})
			if fmt.Sprint(i.NICs[0].Prefixes) != fmt.Sprint([]netip.Prefix{prefix}) {
				t.Fatalf("the new holder got %v", i.NICs[0].Prefixes)
			}
			c.settle()
			partitioned.silence(mac1, prefix, "stale")
			partitioned.silence(mac2, prefix, "stale")
			if until := connected.renews(mac1, prefix); until != lease {
				t.Errorf("the connected replica extends the old holder's lease until %s", until)
			}
			if until := connected.renews(mac2, prefix); until != lease+lifetime {
				t.Errorf("the connected replica extends the new holder's lease until %s", until)
			}

			partitioned.reaches = true
			partitioned.follow()
			c.settle()
			if err := partitioned.Ready(); err != nil {
				t.Errorf("after the partition: %v", err)
			}
			if until := partitioned.renews(mac1, prefix); until != lease {
				t.Errorf("after the partition the old holder's lease is extended until %s", until)
			}
			if until := partitioned.renews(mac2, prefix); until != lease+lifetime {
				t.Errorf("after the partition the new holder's lease is extended until %s", until)
			}
		})
	}
}
