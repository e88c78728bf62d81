package firewall

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sixacre/sixacre"
)

// TestSegments checks the cutting of port ranges against its dumb twin, which
// asks every rule about every port.
func TestSegments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rules []sixacre.Rule
		for id := range rapid.IntRange(0, 6).Draw(t, "rules") {
			r := sixacre.Rule{ID: id + 1, Direction: sixacre.In, Protocol: sixacre.TCP, Remote: sixacre.Remote{Group: "g"}}
			for range rapid.IntRange(0, 3).Draw(t, "ranges") {
				a, b := edge().Draw(t, "first"), edge().Draw(t, "last")
				r.Ports = append(r.Ports, sixacre.PortRange{First: min(a, b), Last: max(a, b)})
			}
			rules = append(rules, r)
		}
		cut := segments(sixacre.TCP, rules)
		for port := range 0x10000 {
			if port > 40 && port < 0xffff-40 {
				continue // edges are never drawn there
			}
			var want, got []int
			for _, r := range rules {
				if len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p sixacre.PortRange) bool { return int(p.First) <= port && port <= int(p.Last) }) {
					want = append(want, r.ID)
				}
			}
			found := 0
			for _, s := range cut {
				if int(s.ports.First) <= port && port <= int(s.ports.Last) {
					got, found = s.from.rules, found+1
				}
			}
			if found > 1 || !slices.Equal(got, want) {
				t.Fatalf("port %d: rules %v apply, the segments %v say %v", port, want, cut, got)
			}
		}
	})
}

// edge draws ports close together, and at both ends of the range.
func edge() *rapid.Generator[uint16] {
	return rapid.OneOf(rapid.Uint16Range(0, 40), rapid.Uint16Range(0xffff-40, 0xffff))
}
