package control_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sixacre/sixacre"
)

// quarantine is how long a released prefix of slaac() rests.
const quarantine = 12*time.Hour + 24*time.Hour

func TestQuarantine(t *testing.T) {
	r := newRecord(t)
	ctx := t.Context()
	r.pod(sixacre.Pod{
		Name: "one", LinkPrefix: netip.MustParsePrefix("2001:db8:100:3::/64"),
		Pools: []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:7000::/60"), DelegatedLength: 60}},
	})
	tick := func(wall, uptime time.Duration) {
		t.Helper()
		r.pass(wall, uptime)
		if err := r.Tick(ctx); err != nil {
			t.Fatal(err)
		}
	}
	tick(0, 0)
	r.mustDeploy("i-1", "one", "06:00:00:00:00:01")
	if err := r.Retire(ctx, "i-1"); err != nil {
		t.Fatal(err)
	}
	resting := func() bool {
		t.Helper()
		ds, err := r.Delegations(ctx)
		if err != nil || len(ds) > 1 {
			t.Fatal(ds, err)
		}
		return len(ds) == 1 && ds[0].State == sixacre.Quarantined
	}
	if !resting() {
		t.Fatal("the prefix of a retired instance is not in quarantine")
	}
	if _, err := r.deploy("i-2", "one", "06:00:00:00:00:02"); sixacre.CodeOf(err) != sixacre.Exhausted {
		t.Errorf("a prefix in quarantine was given: %v", err)
	}
	if _, err := r.deploy("i-2", "one", "06:00:00:00:00:02", exactly("2001:db8:7000::/60")); sixacre.CodeOf(err) != sixacre.Conflict {
		t.Errorf("a prefix in quarantine was given by name: %v", err)
	}

	const hour = time.Hour
	for _, c := range []struct {
		what         string
		wall, uptime time.Duration
		counted      time.Duration
	}{
		{"both clocks", 10 * hour, 10 * hour, 10 * hour},
		{"the wall clock jumps ahead", 1000 * hour, hour, 11 * hour},
		{"the wall clock is set back", -1000 * hour, hour, 11 * hour},
		{"both clocks, nearly to the end", quarantine - 11*hour - time.Second, quarantine - 11*hour - time.Second, quarantine - time.Second},
	} {
		if tick(c.wall, c.uptime); !resting() {
			t.Errorf("%s: the quarantine ended after %s of %s", c.what, c.counted, quarantine)
		}
	}
	if tick(time.Second, time.Second); resting() {
		t.Error("the quarantine did not end")
	}
	r.mustEventually(func() bool {
		_, err := r.deploy("i-2", "one", "06:00:00:00:00:02")
		return err == nil
	})
}

// mustEventually waits for what follows by watch.
func (r *record) mustEventually(f func() bool) {
	r.t.Helper()
	deadline := time.After(10 * time.Second)
	retry := time.NewTicker(time.Millisecond)
	defer retry.Stop()
	for !f() {
		select {
		case <-deadline:
			r.t.Fatal("it did not happen within ten seconds")
		case <-retry.C:
		}
	}
}

// A server that was away cannot tell a jumped clock from a long night: while no
// server ran, quarantine stands still.
func TestQuarantineStandsStillWhileNoServerRuns(t *testing.T) {
	r := newRecord(t)
	ctx := t.Context()
	r.pod(slaac())
	if err := r.Tick(ctx); err != nil {
		t.Fatal(err)
	}
	r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01")
	if err := r.Retire(ctx, "i-1"); err != nil {
		t.Fatal(err)
	}
	r.pass(10*quarantine, 10*quarantine)
	restarted := r.another()
	if err := restarted.Tick(ctx); err != nil {
		t.Fatal(err)
	}
	if ds, err := r.Delegations(ctx); err != nil || len(ds) != 1 {
		t.Errorf("after a restart on a clock that jumped: %v, %v; want the prefix still in quarantine", ds, err)
	}
}

func TestTheLastHolderMayComeBack(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	n := r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01")
	if err := r.Retire(t.Context(), "i-1"); err != nil {
		t.Fatal(err)
	}
	again := r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01", exactly(n.Prefixes[0].String()))
	if again.Prefixes[0] != n.Prefixes[0] {
		t.Errorf("got %v, want %v", again.Prefixes, n.Prefixes)
	}
}

func TestQuarantineOutlivesThePod(t *testing.T) {
	r := newRecord(t)
	ctx := t.Context()
	p := sixacre.Pod{
		Name: "one", LinkPrefix: netip.MustParsePrefix("2001:db8:100:3::/64"),
		Pools: []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:7000::/60"), DelegatedLength: 60}},
	}
	r.pod(p)
	r.mustDeploy("i-1", "one", "06:00:00:00:00:01")
	for _, err := range []error{r.Retire(ctx, "i-1"), r.DeletePod(ctx, "one")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	p.Name = "two"
	r.pod(p)
	if _, err := r.deploy("i-2", "two", "06:00:00:00:00:02"); sixacre.CodeOf(err) != sixacre.Exhausted {
		t.Errorf("another pod gave a prefix that rests: %v", err)
	}
}

// What rests in quarantine after a pod that is gone is not cut anew, nor put on
// a link.
func TestQuarantineOutlivesTheCutOfItsPool(t *testing.T) {
	r := newRecord(t)
	r.pod(slaac())
	r.mustDeploy("i-1", "pod1", "06:00:00:00:00:01", exactly("2001:db8:4000:10::/60"))
	if err := r.Retire(t.Context(), "i-1"); err != nil {
		t.Fatal(err)
	}
	if err := r.DeletePod(t.Context(), "pod1"); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*sixacre.Pod){
		"longer":  func(p *sixacre.Pod) { p.Pools[0].DelegatedLength = 64 },
		"shorter": func(p *sixacre.Pod) { p.Pools[0].DelegatedLength = 56 },
		"a part of it": func(p *sixacre.Pod) {
			p.Pools[0] = sixacre.Pool{Prefix: netip.MustParsePrefix("2001:db8:4000:10::/62"), DelegatedLength: 64}
		},
		"a link": func(p *sixacre.Pod) { p.LinkPrefix, p.Pools = netip.MustParsePrefix("2001:db8:4000:1f::/64"), nil },
	} {
		p := slaac()
		change(&p)
		if _, err := r.CreatePod(t.Context(), p); sixacre.CodeOf(err) != sixacre.Conflict || !strings.Contains(err.Error(), "2001:db8:4000:10::/60") {
			t.Errorf("%s: %v, want a refusal that names the prefix", name, err)
		}
	}
	r.pod(slaac())
}
