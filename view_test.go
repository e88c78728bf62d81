package sixacre

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func drawView(t *rapid.T, label string) View {
	v := View{Revision: rapid.Int64Range(1, 1000).Draw(t, label), Full: true}
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 0, 4, rapid.ID)
	some := rapid.SliceOfNDistinct(rapid.ByteRange(0, 5), 0, 6, rapid.ID)
	for _, n := range names.Draw(t, label+" pods") {
		v.Pods = append(v.Pods, Pod{Name: n, ValidLifetime: Seconds(rapid.IntRange(1, 2).Draw(t, "lifetime"))})
	}
	for _, n := range names.Draw(t, label+" instances") {
		v.Instances = append(v.Instances, Instance{Name: n, NICs: []NIC{{Host: rapid.SampledFrom([]string{"h1", "h2"}).Draw(t, "host")}}})
	}
	for _, n := range names.Draw(t, label+" groups") {
		v.Groups = append(v.Groups, Group{Name: n, Rules: make([]Rule, rapid.IntRange(0, 2).Draw(t, "rules"))})
	}
	for _, n := range names.Draw(t, label+" members") {
		m := Members{Group: n}
		for _, i := range some.Draw(t, "addresses") {
			m.Addresses = append(m.Addresses, netip.AddrFrom16([16]byte{0x20, 1, 15: i}))
		}
		for _, i := range some.Draw(t, "prefixes") {
			m.Prefixes = append(m.Prefixes, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 7: i}), 64))
		}
		slices.SortFunc(m.Addresses, netip.Addr.Compare)
		slices.SortFunc(m.Prefixes, netip.Prefix.Compare)
		v.Members = append(v.Members, m)
	}
	SortNouns(v.Pods)
	SortNouns(v.Instances)
	SortNouns(v.Groups)
	SortNouns(v.Members)
	return v
}

func TestMergeOfTheChangeIsTheNextView(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, next := drawView(t, "old"), drawView(t, "next")
		before := fmt.Sprint(old)
		change, differs := old.Change(next)
		// Printed, because nil and empty are the same to everybody.
		got := old.Merge(overTheWire(t, change))
		if fmt.Sprint(got) != fmt.Sprint(next) {
			t.Fatalf("merged\n%+v\nwant\n%+v\nby\n%+v", got, next, change)
		}
		if after := fmt.Sprint(old); after != before {
			t.Fatalf("the view before was\n%s\nand is now\n%s", before, after)
		}
		// What stayed is not told.
		for _, c := range change.Joined {
			for _, m := range old.Members {
				if m.Group == c.Group && slices.ContainsFunc(c.Addresses, func(a netip.Addr) bool { return slices.Contains(m.Addresses, a) }) {
					t.Fatalf("%+v were members before, by\n%+v", c, change)
				}
			}
		}
		same := next
		same.Revision = old.Revision
		if differs == (fmt.Sprint(old) == fmt.Sprint(same)) {
			t.Fatalf("differs = %v between\n%+v\n%+v", differs, old, next)
		}
		if got := old.Merge(next); !reflect.DeepEqual(got, next) {
			t.Fatalf("a full view does not replace all: %+v", got)
		}
	})
}

// overTheWire is the view as a follower reads it.
func overTheWire(t *rapid.T, v View) View {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var back View
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return back
}

// crowd is a view with a group of n members.
func crowd(n int) View {
	m := Members{Group: "web"}
	for i := range n {
		hi, lo := byte(i>>8), byte(i)
		m.Addresses = append(m.Addresses, netip.AddrFrom16([16]byte{0x20, 1, 14: hi, 15: lo}))
		m.Prefixes = append(m.Prefixes, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 6: hi, 7: lo}), 64))
	}
	return View{Full: true, Members: []Members{m}}
}

// One who joins a large group is all that the others are told of it.
func TestChangeOfALargeGroupIsSmall(t *testing.T) {
	next := crowd(10_000)
	old := next
	old.Members = []Members{{"web", slices.Delete(slices.Clone(next.Members[0].Addresses), 5000, 5001), next.Members[0].Prefixes}}
	for what, views := range map[string][2]View{"joins": {old, next}, "leaves": {next, old}} {
		change, differs := views[0].Change(views[1])
		b, err := json.Marshal(change)
		if err != nil || !differs || len(b) > 100 {
			t.Errorf("one member %s, and the change has %d octets: %.200s (%v)", what, len(b), b, err)
		}
	}
}

// BenchmarkMerge is an agent that hears of one who joins a group of 10,000.
func BenchmarkMerge(b *testing.B) {
	old := crowd(10_000)
	change := View{Joined: []Members{{Group: "web", Addresses: []netip.Addr{netip.MustParseAddr("2001::8000:1")}}}}
	b.ReportAllocs()
	for b.Loop() {
		old.Merge(change)
	}
}

// What is written as text is read back the same, and nothing else is read.
func TestTextForms(t *testing.T) {
	rule := Rule{
		ID: 3, Direction: In, Protocol: 132, Ports: Ports{{22, 22}, {8000, 8999}},
		ICMPType: &ICMPType{1, 4, true}, Remote: Remote{Prefix: netip.MustParsePrefix("2001:db8::/32")},
	}
	b, err := json.Marshal(rule)
	const want = `{"id":3,"direction":"in","protocol":"132","ports":"22,8000-8999","icmpType":"1/4","remote":"2001:db8::/32"}`
	if err != nil || string(b) != want {
		t.Errorf("Marshal = %s, %v; want %s", b, err, want)
	}
	var back Rule
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, rule) {
		t.Errorf("Unmarshal = %+v, %v; want %+v", back, err, rule)
	}
	for text, into := range map[string]interface{ UnmarshalText([]byte) error }{
		"22-":             &Ports{},
		"9-8":             &Ports{},
		"65536":           &Ports{},
		"22,,23":          &Ports{},
		"256":             new(Protocol),
		"sctp":            new(Protocol),
		"1/":              &ICMPType{},
		"300":             &ICMPType{},
		"2001:db8::1/32":  &Remote{},
		"192.0.2.0/24":    &Remote{},
		"group:":          &Remote{},
		"web":             &Remote{},
		"06:00:00:00:00":  &MAC{},
		"060000000001000": &MAC{},
	} {
		if err := into.UnmarshalText([]byte(text)); CodeOf(err) != Invalid {
			t.Errorf("%T of %q: %v, want a refusal", into, text, err)
		}
	}
}

func TestParsePoolAndSeconds(t *testing.T) {
	if p, err := ParsePool("2001:db8:4000::/40"); err != nil || p.DelegatedLength != 60 || p.Bits() != 20 {
		t.Errorf("ParsePool = %v, %v; want /60s, which it has 2^20 of", p, err)
	}
	for _, s := range []string{"", "2001:db8::", "2001:db8::/40=", "2001:db8::/40=x"} {
		if p, err := ParsePool(s); err == nil {
			t.Errorf("ParsePool(%q) = %v", s, p)
		}
	}
	for s, want := range map[string]Seconds{"4h": 14400, "90": 90, "1m30s": 90} {
		if got, err := ParseSeconds(s); err != nil || got != want {
			t.Errorf("ParseSeconds(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0", "0s", "-4h", "1500ms", "2000000h", "soon"} {
		if got, err := ParseSeconds(s); err == nil {
			t.Errorf("ParseSeconds(%q) = %v", s, got)
		}
	}
}
