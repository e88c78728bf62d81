package firewall

import (
	"fmt"
	"slices"
	"strings"
)

// Static returns the text that a boot unit loads before any tap exists: tables,
// sets and chains, and not one tap programmed. Loaded again it takes nothing
// from what the agent filled in since.
func Static(h Host) string {
	rs := Compile(Host{Mode: h.Mode, Taps: h.Taps, Limits: h.Limits, Log: h.Log})
	lookups := rs.host.lookups() // the agent's to fill
	tables := rs.Tables()
	var p printer
	p.declare(tables)
	for _, t := range tables {
		for i, c := range t.Chains {
			if slices.ContainsFunc(lookups, func(l Chain) bool { return l.Name == c.Name }) {
				t.Chains[i].Rules = nil
				continue
			}
			p.line("flush chain %s %s %s", t.Family, t.Name, c.Name)
		}
	}
	p.tables(tables)
	return p.String()
}

// Sync returns the text that makes the kernel's tables those of the ruleset,
// whatever is in them: one transaction that replaces rules and elements in
// place, so that no packet meets a table that is gone or half filled. Those of
// the present objects that are not the ruleset's are deleted. Sets that are known
// to hold just its elements are left as they are: kernels before 6.17 find none of
// a range's for a moment, when it is made anew.
func (rs Ruleset) Sync(present []Object, held map[Object]bool) string {
	tables := rs.Tables()
	ours := map[Object]bool{}
	var p printer
	p.declare(tables)
	for _, t := range tables {
		p.line("flush table %s %s", t.Family, t.Name)
		for i, s := range t.Sets {
			o := t.Object(s.Kind, s.Name)
			ours[o] = true
			switch {
			case held[o]:
				t.Sets[i].Elements = nil
			case !s.Dynamic():
				p.line("flush %s", o)
			}
		}
		for _, c := range t.Chains {
			ours[t.Object("chain", c.Name)] = true
		}
	}
	stale := slices.DeleteFunc(slices.Clone(present), func(o Object) bool { return ours[o] })
	for _, o := range stale {
		if o.Kind != "chain" {
			p.line("flush %s", o)
		}
	}
	p.tables(tables)
	for _, chains := range []bool{true, false} { // sets are free when no rule names them
		for _, o := range stale {
			if (o.Kind == "chain") == chains {
				p.line("delete %s", o)
			}
		}
	}
	return p.String()
}

// Replace returns the text that deletes our tables and makes them anew in one
// transaction: for when the kernel holds sets of another version's shape, or with
// other limits. Established connections live on; new ones may fail for a
// millisecond, and what was counted is lost.
func (rs Ruleset) Replace() string {
	tables := rs.Tables()
	var p printer
	for _, t := range tables {
		p.line("add table %s %s", t.Family, t.Name)
		p.line("delete table %s %s", t.Family, t.Name)
	}
	p.tables(tables)
	return p.String()
}

// String is the whole ruleset, as one reads it.
func (rs Ruleset) String() string {
	var p printer
	p.tables(rs.Tables())
	return p.String()
}

// String is the change as nft text.
func (c Change) String() string {
	var p printer
	for _, s := range c {
		o := s.Object
		place := fmt.Sprintf("%s %s %s", o.Family, o.Table, o.Name)
		switch s.Verb {
		case Add:
			if s.Spec == "" {
				p.line("add %s", o)
			} else {
				p.line("add %s { %s }", o, s.Spec)
			}
		case Flush:
			p.line("flush %s", o)
		case Delete:
			p.line("delete %s", o)
		case AddElements:
			p.line("add element %s { %s }", place, strings.Join(s.List, ", "))
		case DeleteElements:
			p.line("delete element %s { %s }", place, strings.Join(s.List, ", "))
		case AddRules:
			for _, r := range s.List {
				p.line("add rule %s %s", place, r)
			}
		}
	}
	return p.String()
}

// printer writes nft's language.
type printer struct{ strings.Builder }

func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(p, format, args...)
	p.WriteByte('\n')
}

// declare makes what is missing: empty sets and chains.
func (p *printer) declare(tables []Table) {
	for _, t := range tables {
		p.line("table %s %s {", t.Family, t.Name)
		for _, s := range t.Sets {
			p.line("\t%s %s { %s }", s.Kind, s.Name, s.Spec)
		}
		for _, c := range t.Chains {
			p.line("\tchain %s {%s }", c.Name, strings.TrimSuffix(" "+c.Hook, " "))
		}
		p.line("}")
	}
}

// tables prints all sets with their elements and all chains with their rules.
func (p *printer) tables(tables []Table) {
	for _, t := range tables {
		p.line("table %s %s {", t.Family, t.Name)
		for _, s := range t.Sets {
			if len(s.Elements) == 0 {
				p.line("\t%s %s { %s }", s.Kind, s.Name, s.Spec)
				continue
			}
			p.line("\t%s %s { %s", s.Kind, s.Name, s.Spec)
			p.line("\t\telements = {\n\t\t\t%s } }", strings.Join(s.Elements, ",\n\t\t\t"))
		}
		for _, c := range t.Chains {
			p.line("\n\tchain %s {", c.Name)
			if c.Hook != "" {
				p.line("\t\t%s", c.Hook)
			}
			for _, r := range c.Rules {
				p.line("\t\t%s", r)
			}
			p.line("\t}")
		}
		p.line("}")
	}
}
