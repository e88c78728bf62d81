package firewall

import (
	"fmt"
	"slices"
	"strings"
)

// Table is an nftables table, in the words of nft(8).
type Table struct {
	Family, Name string // such as bridge and sixacre
	Sets         []Set
	Chains       []Chain
}

// Set is a set or a map.
type Set struct {
	Kind, Name string   // kind: set or map
	Spec       string   // type, flags and what else stands before the elements
	Elements   []string // key, or key : data
}

// Chain is a chain with its rules.
type Chain struct {
	Name  string
	Hook  string // the line that makes it a base chain
	Rules []string
}

// Object is a named part of one of our tables.
type Object struct {
	Family, Table string
	Kind          string // chain, set or map
	Name          string
}

func (o Object) String() string {
	return fmt.Sprintf("%s %s %s %s", o.Kind, o.Family, o.Table, o.Name)
}

// Tables returns the ruleset whole.
func (rs Ruleset) Tables() []Table {
	if rs.host == nil {
		return nil
	}
	elements := map[string][]string{}
	for _, p := range rs.parts() {
		for _, e := range p.shared {
			elements[e.set] = append(elements[e.set], e.element)
		}
	}
	var out []Table
	for _, t := range rs.host.tables {
		t.Sets = slices.Clone(t.Sets)
		for i := range t.Sets {
			t.Sets[i].Elements = append(slices.Clone(t.Sets[i].Elements), elements[t.Sets[i].Name]...)
		}
		if t.Name == BridgeTable {
			t.Chains = slices.Clone(t.Chains)
			for _, p := range rs.parts() {
				t.Sets = append(t.Sets, p.sets...)
				t.Chains = append(t.Chains, p.chains...)
			}
		}
		out = append(out, t)
	}
	return out
}

// parts returns all but the host's: members and groups before those that name
// them.
func (rs Ruleset) parts() []*part {
	out := make([]*part, 0, len(rs.members)+len(rs.groups)+len(rs.nics))
	for _, m := range rs.members {
		out = append(out, &m.part)
	}
	for _, g := range rs.groups {
		out = append(out, &g.part)
	}
	for _, n := range rs.nics {
		out = append(out, &n.part)
	}
	return out
}

// Object returns the name of a part of the table.
func (t Table) Object(kind, name string) Object { return Object{t.Family, t.Name, kind, name} }

// Dynamic reports whether packets make the set's elements: they are not the
// ruleset's to set.
func (s Set) Dynamic() bool { return strings.Contains(s.Spec, "dynamic") }

// Interval reports whether the elements are ranges.
func (s Set) Interval() bool { return strings.Contains(s.Spec, "interval") }

// Key returns what an element is found by: in a map, all before the data.
func (s Set) Key(element string) string {
	if i := strings.LastIndex(element, " : "); s.Kind == "map" && i >= 0 {
		return element[:i]
	}
	return element
}

func (s *Set) add(format string, args ...any) {
	s.Elements = append(s.Elements, fmt.Sprintf(format, args...))
}

func (c *Chain) add(format string, args ...any) {
	c.Rules = append(c.Rules, fmt.Sprintf(format, args...))
}
