package router

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
)

var (
	macA, macB = sixacre.MAC{6, 0, 0, 0, 0, 0xa}, sixacre.MAC{6, 0, 0, 0, 0, 0xb}
	llA, llB   = addr.LinkLocal(macA), addr.LinkLocal(macB)
	llPrivate  = netip.MustParseAddr("fe80::1234") // of a guest that does not make it from its MAC
	llOther    = netip.MustParseAddr("fe80::5678") // another such
	prefixP    = netip.MustParsePrefix("2001:db8:4000:10::/60")
	prefixQ    = netip.MustParsePrefix("2001:db8:4000:20::/60")
	start      = time.Unix(1_800_000_000, 0)
	testPod    = sixacre.Pod{
		Name:       "pod1",
		LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"),
		Pools:      []sixacre.Pool{{Prefix: netip.MustParsePrefix("2001:db8:4000::/40"), DelegatedLength: 60}},
	}
)

// An event and what it does to a table.
type event func(t *table, now time.Time)

func reply(mac sixacre.MAC, from netip.Addr, p netip.Prefix, valid sixacre.Seconds) event {
	return func(t *table, now time.Time) { t.grant(exchange{mac: mac, peer: from}, p, valid, now) }
}

func released(mac sixacre.MAC, from netip.Addr, p netip.Prefix) event {
	return func(t *table, now time.Time) { t.release(exchange{mac: mac, peer: from}, []netip.Prefix{p}) }
}

// view is one of the record at a revision, in which each MAC holds the prefixes
// after it.
func view(revision int64, nics ...sixacre.NIC) event {
	return func(t *table, now time.Time) { t.follow(viewOf(revision, nics...), "pod1", now) }
}

func viewOf(revision int64, nics ...sixacre.NIC) sixacre.View {
	v := sixacre.View{Revision: revision, Full: true, Pods: []sixacre.Pod{testPod}}
	for _, n := range nics {
		v.Instances = append(v.Instances, sixacre.Instance{Name: n.MAC.String(), NICs: []sixacre.NIC{n}})
	}
	return v
}

func nic(mac sixacre.MAC, prefixes ...netip.Prefix) sixacre.NIC {
	return sixacre.NIC{MAC: mac, Pod: "pod1", LinkLocal: addr.LinkLocal(mac), Prefixes: prefixes}
}

func stopped(n sixacre.NIC) sixacre.NIC {
	n.State = sixacre.Stopped
	return n
}

func learned(n sixacre.NIC, linkLocal netip.Addr) sixacre.NIC {
	n.LearnedLinkLocal = linkLocal
	return n
}

func otherPod(revision int64) event {
	return func(t *table, now time.Time) {
		t.follow(sixacre.View{Revision: revision, Pods: []sixacre.Pod{{Name: "pod2"}}}, "pod1", now)
	}
}

// restarted is a new process, with what the last one wrote and the view that it
// had written down.
func restarted(v sixacre.View) event {
	return func(t *table, now time.Time) {
		var entries []entry
		for _, e := range t.entries {
			entries = append(entries, e)
		}
		next := newTable(t.ruled)
		if !t.ruled {
			next.setPod(t.pod)
		}
		next.restore(entries, v, "pod1", now)
		*t = *next
	}
}

// after is the clock at that time after the start.
func after(d time.Duration) event {
	return func(t *table, now time.Time) { t.expire(now.Add(d)) }
}

func TestTable(t *testing.T) {
	const hour = 3600
	p, q := prefixP, prefixQ
	for _, test := range []struct {
		name   string
		ruled  bool
		events []event
		want   routes
	}{
		// Without a record.
		{"a reply makes a route", false, []event{reply(macA, llA, p, hour)}, routes{p: llA}},
		{"two prefixes", false, []event{reply(macA, llA, p, hour), reply(macA, llA, q, hour)}, routes{p: llA, q: llA}},
		{"a reply to a new link-local moves it", false, []event{reply(macA, llA, p, hour), reply(macA, llPrivate, p, hour)}, routes{p: llPrivate}},
		{"lifetime 0 ends it", false, []event{reply(macA, llA, p, hour), reply(macA, llA, p, 0)}, routes{}},
		{"another's lifetime 0 does not", false, []event{reply(macA, llA, p, hour), reply(macB, llB, p, 0)}, routes{p: llA}},
		{"expiry ends it", false, []event{reply(macA, llA, p, hour), after(time.Hour)}, routes{}},
		{"not a second earlier", false, []event{reply(macA, llA, p, hour), after(time.Hour - time.Second)}, routes{p: llA}},
		{"infinity does not expire", false, []event{reply(macA, llA, p, sixacre.Infinity), after(1e6 * time.Hour)}, routes{p: llA}},
		{"a release ends it", false, []event{reply(macA, llA, p, hour), released(macA, llA, p)}, routes{}},
		{"another's release does not", false, []event{reply(macA, llA, p, hour), released(macB, llB, p)}, routes{p: llA}},
		{"nor with the holder's address", false, []event{reply(macA, llA, p, hour), released(macB, llA, p)}, routes{p: llA}},
		{"nor with the holder's MAC alone", false, []event{reply(macA, llA, p, hour), released(macA, llB, p)}, routes{p: llA}},
		{"a reply after the release makes it anew", false, []event{reply(macA, llA, p, hour), released(macA, llA, p), reply(macA, llA, p, hour)}, routes{p: llA}},
		{"never to the link", false, []event{reply(macA, llA, testPod.LinkPrefix, hour)}, routes{}},
		{"never to all of a pool", false, []event{reply(macA, llA, testPod.Pools[0].Prefix, hour)}, routes{}},
		{"never outside the pools", false, []event{reply(macA, llA, netip.MustParsePrefix("2001:db8:9000::/60"), hour)}, routes{}},
		{"kept over a restart", false, []event{reply(macA, llA, p, hour), restarted(sixacre.View{})}, routes{p: llA}},
		{"a release is kept over a restart", false, []event{reply(macA, llA, p, hour), released(macA, llA, p), restarted(sixacre.View{})}, routes{}},

		// With one.
		{"nothing before the first view", true, []event{reply(macA, llA, p, hour)}, routes{}},
		{"a lost reply's route comes", true, []event{view(1, nic(macA, p))}, routes{p: llA}},
		{"a reply to an address that the record does not know moves none", true, []event{view(1, nic(macA, p, q)), reply(macA, llPrivate, p, hour)}, routes{p: llA, q: llA}},
		{"nor to another NIC's", true, []event{view(1, nic(macA, p), nic(macB)), reply(macA, llB, p, hour)}, routes{p: llA}},
		{"nor to another NIC's learned one", true, []event{view(1, learned(nic(macA, p), llOther), learned(nic(macB), llPrivate)), reply(macA, llPrivate, p, hour)}, routes{p: llOther}},
		{"a learned address is the next hop", true, []event{view(1, learned(nic(macA, p, q), llPrivate))}, routes{p: llPrivate, q: llPrivate}},
		{"from when it is learned", true, []event{view(1, nic(macA, p)), view(2, learned(nic(macA, p), llPrivate))}, routes{p: llPrivate}},
		{"until it is evicted", true, []event{view(1, learned(nic(macA, p), llPrivate)), reply(macA, llPrivate, p, hour), view(2, nic(macA, p))}, routes{p: llA}},
		{"or another is learned", true, []event{view(1, learned(nic(macA, p), llPrivate)), reply(macA, llPrivate, p, hour), view(2, learned(nic(macA, p), llOther))}, routes{p: llOther}},
		{"a reply says which of the two it is", true, []event{view(1, learned(nic(macA, p, q), llPrivate)), reply(macA, llA, p, hour)}, routes{p: llA, q: llA}},
		{"the last one does", true, []event{view(1, learned(nic(macA, p), llPrivate)), reply(macA, llA, p, hour), reply(macA, llPrivate, p, hour)}, routes{p: llPrivate}},
		{"but not one to neither", true, []event{view(1, learned(nic(macA, p), llPrivate)), reply(macA, llA, p, hour), reply(macA, llOther, p, hour)}, routes{p: llA}},
		{"nor for a prefix that the record does not have yet", true, []event{view(1, learned(nic(macA, p), llPrivate)), reply(macA, llA, p, hour), reply(macA, llOther, q, hour)}, routes{p: llA, q: llOther}},
		{"which it then routes as the others", true, []event{view(1, learned(nic(macA, p), llPrivate)), reply(macA, llA, p, hour), reply(macA, llOther, q, hour), view(2, learned(nic(macA, p, q), llPrivate))}, routes{p: llA, q: llA}},
		{"nor over a restart", true, []event{view(1, learned(nic(macA, p), llPrivate)), reply(macA, llA, p, hour), reply(macA, llOther, p, hour), restarted(viewOf(1, learned(nic(macA, p), llPrivate)))}, routes{p: llA}},
		{"what is learned after it is newer", true, []event{view(1, nic(macA, p, q)), reply(macA, llA, p, hour), view(2, learned(nic(macA, p, q), llPrivate))}, routes{p: llPrivate, q: llPrivate}},
		{"over a restart too", true, []event{view(1, nic(macA, p)), reply(macA, llA, p, hour), view(2, learned(nic(macA, p), llPrivate)), restarted(viewOf(2, learned(nic(macA, p), llPrivate)))}, routes{p: llPrivate}},
		{"a reply may come before the record knows it", true, []event{view(1, nic(macA, p)), reply(macA, llPrivate, p, hour), view(2, learned(nic(macA, p), llPrivate))}, routes{p: llPrivate}},
		{"a view that says the same changes nothing", true, []event{view(1, learned(nic(macA, p), llPrivate)), reply(macA, llA, p, hour), view(2, learned(nic(macA, p), llPrivate))}, routes{p: llA}},
		{"nor does a stop", true, []event{view(1, learned(nic(macA, p), llPrivate)), reply(macA, llA, p, hour), view(2, stopped(learned(nic(macA, p), llPrivate))), view(3, learned(nic(macA, p), llPrivate))}, routes{p: llA}},
		{"a release from either address counts", true, []event{view(1, learned(nic(macA, p, q), llPrivate)), released(macA, llA, p), released(macA, llPrivate, q)}, routes{}},
		{"one from neither does not", true, []event{view(1, learned(nic(macA, p), llPrivate)), released(macA, llOther, p)}, routes{p: llPrivate}},
		{"expiry changes nothing", true, []event{view(1, learned(nic(macA, p), llPrivate)), reply(macA, llA, p, hour), after(2 * time.Hour)}, routes{p: llA}},
		{"a deletion ends it", true, []event{view(1, nic(macA, p)), reply(macA, llA, p, hour), view(2, nic(macA))}, routes{}},
		{"a late reply does not bring it back", true, []event{view(1, nic(macA, p)), view(2), reply(macA, llA, p, hour)}, routes{}},
		{"nor after a restart", true, []event{view(1, nic(macA, p)), view(2), restarted(viewOf(2)), reply(macA, llA, p, hour)}, routes{}},
		{"nor if the view was not written any more", true, []event{view(1, nic(macA, p)), view(2), restarted(viewOf(1, nic(macA, p)))}, routes{}},
		{"the record does", true, []event{view(1, nic(macA, p)), view(2), view(3, nic(macA, p))}, routes{p: llA}},
		{"a stale server's time is over some day", true, []event{view(1, nic(macA, p)), view(2), after(sixacre.MaxStale), reply(macA, llA, p, hour)}, routes{p: llA}},
		{"a stopped instance has none", true, []event{view(1, stopped(nic(macA, p))), reply(macA, llA, p, hour)}, routes{}},
		{"a started one has", true, []event{view(1, stopped(nic(macA, p))), view(2, nic(macA, p))}, routes{p: llA}},
		{"a release is remembered", true, []event{view(1, nic(macA, p)), released(macA, llA, p), view(2, nic(macA, p))}, routes{}},
		{"over a restart", true, []event{view(1, nic(macA, p)), released(macA, llA, p), restarted(viewOf(1, nic(macA, p)))}, routes{}},
		{"until the next reply", true, []event{view(1, nic(macA, p)), released(macA, llA, p), reply(macA, llA, p, hour)}, routes{p: llA}},
		{"or another holder", true, []event{view(1, nic(macA, p)), released(macA, llA, p), view(2, nic(macB, p))}, routes{p: llB}},
		{"another's release does nothing", true, []event{view(1, nic(macA, p), nic(macB, q)), released(macB, llB, p)}, routes{p: llA, q: llB}},
		{"nor one with the holder's address", true, []event{view(1, nic(macA, p)), released(macB, llA, p)}, routes{p: llA}},
		{"a reply against the record makes none", true, []event{view(1, nic(macA, p)), reply(macB, llB, p, hour)}, routes{p: llA}},
		{"nor undoes the holder's release", true, []event{view(1, nic(macA, p)), released(macA, llA, p), reply(macB, llB, p, hour)}, routes{}},
		{"lifetime 0 against the record ends none", true, []event{view(1, nic(macA, p)), reply(macA, llA, p, hour), reply(macA, llA, p, 0)}, routes{p: llA}},
		{"a reply ahead of the record counts", true, []event{view(1), reply(macA, llA, p, hour)}, routes{p: llA}},
		{"and is confirmed by it", true, []event{view(1), reply(macA, llA, p, hour), view(2, nic(macA, p)), after(2 * time.Hour)}, routes{p: llA}},
		{"or overruled by a newer one", true, []event{view(1), reply(macA, llA, p, hour), view(2)}, routes{}},
		{"not by the same one again", true, []event{view(1), reply(macA, llA, p, hour), view(1)}, routes{p: llA}},
		{"or expires", true, []event{view(1), reply(macA, llA, p, hour), after(time.Hour)}, routes{}},
		{"or is released", true, []event{view(1), reply(macA, llA, p, hour), released(macA, llA, p)}, routes{}},
		{"overruled too early it comes with the view", true, []event{view(1), reply(macA, llA, p, hour), view(2), view(3, nic(macA, p))}, routes{p: llA}},
		{"another pod's view says nothing", true, []event{view(1, nic(macA, p)), otherPod(2)}, routes{p: llA}},
		{"the last view lasts over a restart", true, []event{view(1, nic(macA, p)), restarted(viewOf(1, nic(macA, p)))}, routes{p: llA}},
		{"with the address seen", true, []event{view(1, learned(nic(macA, p), llPrivate)), reply(macA, llA, p, hour), after(2 * time.Hour), restarted(viewOf(1, learned(nic(macA, p), llPrivate)))}, routes{p: llA}},
	} {
		t.Run(test.name, func(t *testing.T) {
			tab := newTable(test.ruled)
			if !test.ruled {
				tab.setPod(testPod)
			}
			// What take says to look at must be all that changed.
			kernel := routes{}
			for _, e := range test.events {
				e(tab, start)
				touched, _ := tab.take()
				for _, p := range touched {
					if hop, ok := tab.nextHop(p); ok {
						kernel[p] = hop
					} else {
						delete(kernel, p)
					}
				}
			}
			got := routes{}
			tab.prefixes(func(p netip.Prefix) {
				if hop, ok := tab.nextHop(p); ok {
					got[p] = hop
				}
			})
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("routes %v, want %v", got, test.want)
			}
			if !reflect.DeepEqual(kernel, got) {
				t.Errorf("following what was touched: %v, all at once: %v", kernel, got)
			}
		})
	}
}

type routes = map[netip.Prefix]netip.Addr

// A journal gives back what was written, whatever a crash did to its last line.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	j, _, err := openJournal(dir, "pod1", "eth1")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := openJournal(dir, "pod1", "eth1"); sixacre.CodeOf(err) != sixacre.InUse {
		t.Errorf("a second process on the same state: %v", err)
	}
	tab := newTable(true)
	tab.setPod(testPod)
	tab.follow(viewOf(1, nic(macA, prefixP)), "pod1", start)
	tab.grant(exchange{mac: macA, peer: llA}, prefixP, 3600, start)
	tab.grant(exchange{mac: macB, peer: llB}, prefixQ, 3600, start)
	write := func() {
		t.Helper()
		_, changed := tab.take()
		var lines []line
		for _, e := range changed {
			lines = append(lines, line{entry: e})
		}
		if err := j.append(lines); err != nil {
			t.Fatal(err)
		}
	}
	write()
	tab.release(exchange{mac: macA, peer: llA}, []netip.Prefix{prefixP})
	tab.grant(exchange{mac: macB, peer: llB}, prefixQ, 0, start)
	write()
	pools := []netip.Prefix{testPod.Pools[0].Prefix}
	if err := j.append([]line{{Pools: &pools}}); err != nil {
		t.Fatal(err)
	}
	if err := j.writeView(viewOf(1, nic(macA, prefixP))); err != nil {
		t.Fatal(err)
	}
	if _, err := j.file.WriteString(`{"prefix":"2001:db8:4000:30::/60","lease":{"mac":"06:00`); err != nil {
		t.Fatal(err)
	}
	j.close()

	j, m, err := openJournal(dir, "pod1", "eth1")
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	if len(m.entries) != 1 || m.entries[0].Prefix != prefixP || m.entries[0].Released == nil || *m.entries[0].Released != macA ||
		m.entries[0].Lease == nil || !m.entries[0].Lease.Expires.Equal(start.Add(time.Hour)) {
		t.Errorf("entries %+v", m.entries)
	}
	if !slices.Equal(m.pools, pools) || m.view.Revision != 1 || m.broken != 0 {
		t.Errorf("pools %v, view %d, %d broken", m.pools, m.view.Revision, m.broken)
	}
	if j.lines != 2 {
		t.Errorf("%d lines after a rewrite, not 2", j.lines)
	}
}

// Without pools every prefix that a server delegates is routed, but for what can
// never be one.
func TestWithoutPools(t *testing.T) {
	tab := newTable(false)
	tab.setPod(sixacre.Pod{Name: "pod1", LinkPrefix: testPod.LinkPrefix})
	for text, want := range map[string]bool{
		"2001:db8:4000:10::/60": true,
		"2001:db8:4000::/48":    true,
		"fd00:1:2:3::/64":       true,
		"2001:db8:100:1::/64":   false, // the link
		"2001:db8:100::/48":     false, // around the link
		"2001:d00::/24":         false,
		"2001:db8:4000::1/128":  false,
		"::/0":                  false,
		"fe80::/64":             false,
		"ff02::/64":             false,
	} {
		p := netip.MustParsePrefix(text)
		tab.grant(exchange{mac: macA, peer: llA}, p, 3600, start)
		if _, got := tab.nextHop(p); got != want {
			t.Errorf("%s: routed %t, want %t", p, got, want)
		}
	}
}
