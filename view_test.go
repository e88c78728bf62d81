package sixacre

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func drawView(t *rapid.T, label string) View {
	v := View{Revision: rapid.Int64Range(1, 1000).Draw(t, label), Full: true}
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 0, 4, rapid.ID)
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
		v.Members = append(v.Members, Members{Group: n, Addresses: make([]netip.Addr, rapid.IntRange(0, 2).Draw(t, "addresses"))})
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
		change, differs := old.Change(next)
		// Printed, because nil and empty are the same to everybody.
		if got := old.Merge(change); fmt.Sprint(got) != fmt.Sprint(next) {
			t.Fatalf("merged\n%+v\nwant\n%+v\nby\n%+v", got, next, change)
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
