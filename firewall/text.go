package firewall

import (
	"fmt"
	"slices"
	"strings"
)

// Object is a named part of one of our tables.
type Object struct {
	Family, Table string
	Kind          string // chain, set or map
	Name          string
}

// Static returns the text that a boot unit loads before any tap exists: tables,
// sets and chains, and not one tap programmed. Loaded again it takes nothing
// from what the agent filled in since.
func Static(mode Mode, taps []Pattern) string {
	tables := Compile(Host{Mode: mode, Taps: taps}).tables()
	var p printer
	p.declare(tables)
	for _, t := range tables {
		for _, c := range t.chains {
			if len(c.rules) > 0 { // the empty ones are the agent's to fill
				p.line("flush chain %s %s %s", t.family, t.name, c.name)
			}
		}
	}
	p.tables(tables)
	return p.String()
}

// Sync returns the text that makes the kernel's tables those of the ruleset,
// whatever is in them: one transaction that replaces rules and elements in
// place, so that no packet meets a table that is gone or half filled. Those of
// the present objects that are not the ruleset's are deleted.
func (rs Ruleset) Sync(present []Object) string {
	tables := rs.tables()
	ours := map[Object]bool{}
	var p printer
	p.declare(tables)
	for _, t := range tables {
		p.line("flush table %s %s", t.family, t.name)
		for _, s := range t.sets {
			ours[t.object(s.kind, s.name)] = true
			p.line("flush %s %s %s %s", s.kind, t.family, t.name, s.name)
		}
		for _, c := range t.chains {
			ours[t.object("chain", c.name)] = true
		}
	}
	stale := slices.DeleteFunc(slices.Clone(present), func(o Object) bool { return ours[o] })
	for _, o := range stale {
		if o.Kind != "chain" {
			p.line("flush %s", o)
		}
	}
	p.tables(tables)
	p.remove(stale)
	return p.String()
}

// Replace returns the text that deletes our tables and makes them anew in one
// transaction: for when the kernel holds sets of another version's shape.
// Established connections live on; new ones may fail for a millisecond.
func (rs Ruleset) Replace() string {
	tables := rs.tables()
	var p printer
	for _, t := range tables {
		p.line("add table %s %s", t.family, t.name)
		p.line("delete table %s %s", t.family, t.name)
	}
	p.tables(tables)
	return p.String()
}

// Change returns the text that makes the ruleset of the one before it, touching
// only what differs; "" where nothing does.
func (rs Ruleset) Change(before Ruleset) string {
	var add, swap, fill, drop printer
	was := map[string]table{}
	for _, t := range before.tables() {
		was[t.name] = t
	}
	for _, t := range rs.tables() {
		changeTable(was[t.name], t, &add, &swap, &fill, &drop)
	}
	return add.String() + swap.String() + fill.String() + drop.String()
}

// changeTable prints what is to be made first, then what is to be emptied, then
// filled, and at last deleted.
func changeTable(was, is table, add, swap, fill, drop *printer) {
	oldSets, oldChains := map[string]set{}, map[string]chain{}
	for _, s := range was.sets {
		oldSets[s.name] = s
	}
	for _, c := range was.chains {
		oldChains[c.name] = c
	}
	for _, s := range is.sets {
		old, existed := oldSets[s.name]
		delete(oldSets, s.name)
		if !existed {
			add.line("add %s %s %s %s { %s }", s.kind, is.family, is.name, s.name, s.spec)
		}
		if slices.Equal(old.elements, s.elements) {
			continue
		}
		gone, fresh := s.difference(old)
		if s.interval() && len(gone) > 0 {
			swap.line("flush %s %s %s %s", s.kind, is.family, is.name, s.name)
			gone, fresh = nil, s.elements
		}
		for i, e := range gone {
			gone[i] = s.key(e)
		}
		swap.elements("delete", is, s, gone)
		fill.elements("add", is, s, fresh)
	}
	for _, c := range is.chains {
		old, existed := oldChains[c.name]
		delete(oldChains, c.name)
		if existed && slices.Equal(old.rules, c.rules) {
			continue
		}
		if existed {
			swap.line("flush chain %s %s %s", is.family, is.name, c.name)
		} else {
			add.line("add chain %s %s %s%s", is.family, is.name, c.name, c.hookBlock())
		}
		for _, r := range c.rules {
			fill.line("add rule %s %s %s %s", is.family, is.name, c.name, r)
		}
	}
	var stale []Object
	for _, s := range was.sets {
		if _, left := oldSets[s.name]; left {
			swap.line("flush %s %s %s %s", s.kind, is.family, is.name, s.name)
			stale = append(stale, is.object(s.kind, s.name))
		}
	}
	for _, c := range was.chains {
		if _, left := oldChains[c.name]; left {
			swap.line("flush chain %s %s %s", is.family, is.name, c.name)
			stale = append(stale, is.object("chain", c.name))
		}
	}
	drop.remove(stale)
}

// String is the whole ruleset, as one reads it.
func (rs Ruleset) String() string {
	var p printer
	p.tables(rs.tables())
	return p.String()
}

func (o Object) String() string {
	return fmt.Sprintf("%s %s %s %s", o.Kind, o.Family, o.Table, o.Name)
}

func (t table) object(kind, name string) Object { return Object{t.family, t.name, kind, name} }

func (s set) interval() bool { return strings.Contains(s.spec, "interval") }

// key returns what an element is found by: in a map, all before the verdict.
func (s set) key(element string) string {
	if i := strings.LastIndex(element, " : "); s.kind == "map" && i >= 0 {
		return element[:i]
	}
	return element
}

// difference returns the elements that only old has, and those that only s has.
func (s set) difference(old set) (gone, fresh []string) {
	had, has := map[string]bool{}, map[string]bool{}
	for _, e := range old.elements {
		had[e] = true
	}
	for _, e := range s.elements {
		has[e] = true
		if !had[e] {
			fresh = append(fresh, e)
		}
	}
	for _, e := range old.elements {
		if !has[e] {
			gone = append(gone, e)
		}
	}
	return gone, fresh
}

func (c chain) hookBlock() string {
	if c.hook == "" {
		return ""
	}
	return " { " + c.hook + " }"
}

// printer writes nft's language.
type printer struct{ strings.Builder }

func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(p, format, args...)
	p.WriteByte('\n')
}

// declare makes what is missing: empty sets and chains.
func (p *printer) declare(tables []table) {
	for _, t := range tables {
		p.line("table %s %s {", t.family, t.name)
		for _, s := range t.sets {
			p.line("\t%s %s { %s }", s.kind, s.name, s.spec)
		}
		for _, c := range t.chains {
			p.line("\tchain %s {%s }", c.name, strings.TrimSuffix(" "+c.hook, " "))
		}
		p.line("}")
	}
}

// tables prints all sets with their elements and all chains with their rules.
func (p *printer) tables(tables []table) {
	for _, t := range tables {
		p.line("table %s %s {", t.family, t.name)
		for _, s := range t.sets {
			if len(s.elements) == 0 {
				p.line("\t%s %s { %s }", s.kind, s.name, s.spec)
				continue
			}
			p.line("\t%s %s { %s", s.kind, s.name, s.spec)
			p.line("\t\telements = {\n\t\t\t%s } }", strings.Join(s.elements, ",\n\t\t\t"))
		}
		for _, c := range t.chains {
			p.line("\n\tchain %s {", c.name)
			if c.hook != "" {
				p.line("\t\t%s", c.hook)
			}
			for _, r := range c.rules {
				p.line("\t\t%s", r)
			}
			p.line("\t}")
		}
		p.line("}")
	}
}

func (p *printer) elements(verb string, t table, s set, elements []string) {
	if len(elements) > 0 {
		p.line("%s element %s %s %s { %s }", verb, t.family, t.name, s.name, strings.Join(elements, ", "))
	}
}

// remove deletes chains first: rules and elements that are left may name a set
// or a chain only until they are gone themselves.
func (p *printer) remove(objects []Object) {
	for _, o := range objects {
		if o.Kind == "chain" {
			p.line("delete %s", o)
		}
	}
	for _, o := range objects {
		if o.Kind != "chain" {
			p.line("delete %s", o)
		}
	}
}
