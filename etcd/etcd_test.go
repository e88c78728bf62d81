package etcd

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/sixacre/sixacre"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	store, err := Embed(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

// dial opens a store in an etcd of its own process's kind: one that listens.
func dial(t *testing.T) *Store {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := url.URL{Scheme: "http", Host: listener.Addr().String()}
	listener.Close()
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.ListenPeerUrls = nil
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{at}, []url.URL{at}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	<-server.Server.ReadyNotify()
	store, err := Dial(t.Context(), []string{at.String()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close(); server.Close() })
	return store
}

// everywhere runs a test on the embedded store and on an external one.
func everywhere(t *testing.T, f func(*testing.T, *Store)) {
	t.Run("embedded", func(t *testing.T) { f(t, open(t, t.TempDir())) })
	t.Run("external", func(t *testing.T) { f(t, dial(t)) })
}

func TestTransactionIsAllOrNothing(t *testing.T) { everywhere(t, transactionIsAllOrNothing) }

func transactionIsAllOrNothing(t *testing.T, store *Store) {
	ctx := t.Context()

	host := sixacre.Host{Name: "hv1"}
	commit := func(want bool, txn sixacre.Txn) int64 {
		t.Helper()
		ok, revision, err := store.Commit(ctx, txn)
		if err != nil {
			t.Fatal(err)
		}
		if ok != want {
			t.Fatalf("Commit = %v, want %v", ok, want)
		}
		return revision
	}
	first := commit(true, sixacre.Txn{Seen: []sixacre.Seen{{Key: host.Key()}}, Put: []sixacre.Noun{host}})
	// The second writer saw no hv1 either: nothing of its transaction is written.
	commit(false, sixacre.Txn{Seen: []sixacre.Seen{{Key: host.Key()}}, Put: []sixacre.Noun{host, sixacre.Group{Name: "web"}}})
	if r, err := store.Get(ctx, sixacre.Group{Name: "web"}.Key()); err != nil || r.Noun != nil {
		t.Fatalf("Get = %v, %v: half a transaction was written", r, err)
	}

	// Conditions on a whole kind: empty, unchanged, changed.
	commit(true, sixacre.Txn{RangeSeen: []sixacre.RangeSeen{{Kind: sixacre.KindPod, Revision: first}}, Put: []sixacre.Noun{sixacre.Pod{Name: "pod1"}}})
	commit(false, sixacre.Txn{RangeSeen: []sixacre.RangeSeen{{Kind: sixacre.KindPod, Revision: first}}, Delete: []sixacre.Key{host.Key()}})
	_, now, err := store.List(ctx, sixacre.KindPod, "")
	if err != nil {
		t.Fatal(err)
	}
	commit(true, sixacre.Txn{RangeSeen: []sixacre.RangeSeen{{Kind: sixacre.KindPod, Revision: now}}, Delete: []sixacre.Key{host.Key()}})
}

func TestListIsCompleteAcrossPages(t *testing.T) { everywhere(t, listIsCompleteAcrossPages) }

func listIsCompleteAcrossPages(t *testing.T, store *Store) {
	const n = pageSize + 5
	for i := 0; i < n; i += 100 {
		var txn sixacre.Txn
		for k := i; k < min(i+100, n); k++ {
			txn.Put = append(txn.Put, sixacre.Host{Name: fmt.Sprintf("hv%06d", k)})
		}
		if ok, _, err := store.Commit(t.Context(), txn); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	records, _, err := store.List(t.Context(), sixacre.KindHost, "")
	if err != nil || len(records) != n {
		t.Fatalf("List = %d records, %v; want %d", len(records), err, n)
	}
	for i, r := range records {
		if want := fmt.Sprintf("hv%06d", i); r.Noun.Key().Name != want {
			t.Fatalf("record %d is %s, want %s", i, r.Noun.Key().Name, want)
		}
	}
}

func TestPagesFollowOneAnother(t *testing.T) { everywhere(t, pagesFollowOneAnother) }

func pagesFollowOneAnother(t *testing.T, store *Store) {
	var txn sixacre.Txn
	for i := range 7 {
		txn.Put = append(txn.Put, sixacre.Sighting{Pod: "pod1", MAC: sixacre.MAC{6, 0, 0, 0, 0, byte(i)}})
	}
	// Neighbours in the store on either side.
	txn.Put = append(txn.Put, sixacre.Sighting{Pod: "pod", MAC: sixacre.MAC{6}}, sixacre.Sighting{Pod: "pod2", MAC: sixacre.MAC{6}})
	if ok, _, err := store.Commit(t.Context(), txn); !ok || err != nil {
		t.Fatal(ok, err)
	}
	var sizes []int
	var got []byte
	for after := ""; ; {
		page, err := store.Page(t.Context(), sixacre.KindSighting, sixacre.SightingsIn("pod1"), after, 3)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(page))
		for _, r := range page {
			seen := r.Noun.(sixacre.Sighting)
			got, after = append(got, seen.MAC[5]), seen.Key().Name
		}
		if len(page) < 3 {
			break
		}
	}
	if !slices.Equal(sizes, []int{3, 3, 1}) || !slices.Equal(got, []byte{0, 1, 2, 3, 4, 5, 6}) {
		t.Errorf("pages of %v: %v", sizes, got)
	}
}

func TestGetAllAnswersInOrder(t *testing.T) { everywhere(t, getAllAnswersInOrder) }

func getAllAnswersInOrder(t *testing.T, store *Store) {
	const n = 2*maxOps + 3
	var keys []sixacre.Key
	var last int64
	for i := range n {
		host := sixacre.Host{Name: fmt.Sprint("hv", n-i)}
		keys = append(keys, host.Key())
		if i%2 == 0 {
			continue // is not there
		}
		_, revision, err := store.Commit(t.Context(), sixacre.Txn{Put: []sixacre.Noun{host}})
		if err != nil {
			t.Fatal(err)
		}
		last = revision
	}
	records, err := store.GetAll(t.Context(), keys)
	if err != nil || len(records) != n {
		t.Fatalf("GetAll = %d records, %v; want %d", len(records), err, n)
	}
	for i, r := range records {
		if i%2 == 0 && r != (sixacre.Record{}) || i%2 == 1 && (r.Noun.Key() != keys[i] || r.Revision == 0 || r.Revision > last) {
			t.Errorf("under %s: %+v", keys[i], r)
		}
	}
}

func TestWhatWasAcknowledgedIsThereAfterRestart(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	d := sixacre.Delegation{
		Prefix: netip.MustParsePrefix("2001:db8:4000::/60"), State: sixacre.Delegated, Instance: "i-1",
		MAC: sixacre.MAC{6, 0, 0, 0, 0, 1}, Pod: "pod1", Granted: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if ok, _, err := store.Commit(t.Context(), sixacre.Txn{Put: []sixacre.Noun{d}}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	store.Close()
	store = open(t, dir)
	if r, err := store.Get(t.Context(), d.Key()); err != nil || r.Noun != sixacre.Noun(d) {
		t.Fatalf("Get = %+v, %v; want %+v", r.Noun, err, d)
	}
}

func TestWatchShowsAllThenEveryChangeOnce(t *testing.T) {
	everywhere(t, watchShowsAllThenEveryChangeOnce)
}

func watchShowsAllThenEveryChangeOnce(t *testing.T, store *Store) {
	put := func(name string) {
		if ok, _, err := store.Commit(t.Context(), sixacre.Txn{Put: []sixacre.Noun{sixacre.Host{Name: name}}}); !ok || err != nil {
			t.Error(ok, err)
		}
	}
	put("before")

	type batch struct {
		full   bool
		events []sixacre.Event
	}
	batches := make(chan batch)
	go store.Watch(t.Context(), func(full bool, events []sixacre.Event, _ int64) {
		select {
		case batches <- batch{full, events}:
		case <-t.Context().Done():
		}
	})
	if b := <-batches; !b.full || len(b.events) != 1 || b.events[0].Noun != sixacre.Noun(sixacre.Host{Name: "before"}) {
		t.Fatalf("first batch = %+v, want everything", b)
	}
	go func() {
		for i := range 50 {
			put(fmt.Sprintf("h%02d", i))
		}
		store.Commit(t.Context(), sixacre.Txn{Delete: []sixacre.Key{{Kind: sixacre.KindHost, Name: "before"}}})
	}()
	var got []sixacre.Event
	for len(got) < 51 { // a batch may be empty
		b := <-batches
		if b.full {
			t.Fatalf("a full batch in between: %+v", b)
		}
		got = append(got, b.events...)
	}
	for i, e := range got[:50] {
		if e.Key.Name != fmt.Sprintf("h%02d", i) || e.Noun == nil {
			t.Fatalf("event %d = %+v", i, e)
		}
	}
	if last := got[50]; last.Key.Name != "before" || last.Noun != nil {
		t.Fatalf("last event = %+v, want the deletion", last)
	}
}

// Who asks whether the store is in force also learns when it has seen all of it,
// although what was written last concerns it not at all.
func TestWatchComesAsFarAsConfirmed(t *testing.T) { everywhere(t, watchComesAsFarAsConfirmed) }

func watchComesAsFarAsConfirmed(t *testing.T, store *Store) {
	revisions := make(chan int64)
	go store.Watch(t.Context(), func(_ bool, _ []sixacre.Event, revision int64) {
		select {
		case revisions <- revision:
		case <-t.Context().Done():
		}
	})
	<-revisions
	if _, err := store.client.Put(t.Context(), "/somebody/else", "1"); err != nil {
		t.Fatal(err)
	}
	confirmed, err := store.Confirm(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// A watch that is only being set up misses the question: as a server does, the
	// test asks again.
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for late := time.After(10 * time.Second); ; {
		select {
		case seen := <-revisions:
			if seen >= confirmed {
				return
			}
		case <-again.C:
			if _, err := store.Confirm(t.Context()); err != nil {
				t.Fatal(err)
			}
		case <-late:
			t.Fatalf("the watch never came as far as revision %d", confirmed)
		}
	}
}

func TestPodOfAnOlderVersionHasDefaults(t *testing.T) {
	store := open(t, t.TempDir())
	old := `{"name":"pod1","linkPrefix":"2001:db8:100:1::/64","addressing":"dhcpv6"}`
	key := sixacre.Pod{Name: "pod1"}.Key()
	if _, err := store.client.Put(t.Context(), path(key), old); err != nil {
		t.Fatal(err)
	}
	r, err := store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	p := r.Noun.(sixacre.Pod)
	if p.AntiSpoof != sixacre.AntiSpoofAddress || p.Echo != sixacre.EchoAllow || p.Addressing != sixacre.DHCPv6 {
		t.Errorf("%s is read as %+v", old, p)
	}
}
