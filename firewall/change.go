package firewall

import "slices"

// Step is one thing to do to the kernel's tables.
type Step struct {
	Verb   Verb
	Object Object
	Spec   string   // to add a set, map or chain, or elements of one: what it is
	List   []string // elements to add or delete, rules to add
}

// Verb says what a step does.
type Verb int

const (
	Add            Verb = iota // the set, map or chain, empty
	Flush                      // it
	Delete                     // it
	AddElements                // to it
	DeleteElements             // from it, by their keys
	AddRules                   // to it, at its end
)

// Change is a list of steps that are one transaction.
type Change []Step

// Change returns what makes the ruleset of the one before it, touching only what
// differs. It is empty where nothing does.
func (rs Ruleset) Change(before Ruleset) Change {
	var c changes
	if rs.host != before.host {
		if before.host == nil {
			before.host = &host{}
		}
		for _, t := range rs.host.tables {
			i := slices.IndexFunc(before.host.tables, func(o Table) bool { return o.Name == t.Name && o.Family == t.Family })
			was := Table{Family: t.Family, Name: t.Name}
			if i >= 0 {
				was = before.host.tables[i]
			}
			c.table(t, was.Sets, t.Sets, was.Chains, t.Chains)
		}
	}
	bridge := Table{Family: "bridge", Name: BridgeTable}
	shared := map[string]*[2][]string{} // of each set of the host's: gone, new
	note := func(p *part, which int) {
		for _, e := range p.shared {
			if shared[e.set] == nil {
				shared[e.set] = new([2][]string)
			}
			shared[e.set][which] = append(shared[e.set][which], e.element)
		}
	}
	old, now := before.parts(), rs.parts()
	kept := make(map[*part]bool, len(old))
	for _, p := range old {
		kept[p] = true
	}
	was, is := &part{}, &part{}
	for _, p := range now {
		if kept[p] {
			kept[p] = false // and so not gone
			continue
		}
		is.sets, is.chains = append(is.sets, p.sets...), append(is.chains, p.chains...)
		note(p, 1)
	}
	for _, p := range old {
		if kept[p] {
			was.sets, was.chains = append(was.sets, p.sets...), append(was.chains, p.chains...)
			note(p, 0)
		}
	}
	c.table(bridge, was.sets, is.sets, was.chains, is.chains)
	for _, t := range rs.host.tables {
		for _, s := range t.Sets {
			if e := shared[s.Name]; e != nil {
				gone, fresh := difference(e[0], e[1])
				c.elements(t.Object(s.Kind, s.Name), s, rs.unshared(s.Name, gone), fresh)
			}
		}
	}
	return slices.Concat(c.add, c.empty, c.fill, c.drop, c.dropSets)
}

// unshared returns those of the elements that no part brings into the set.
func (rs Ruleset) unshared(set string, elements []string) []string {
	if len(elements) == 0 {
		return nil
	}
	left := map[string]bool{}
	for _, p := range rs.parts() {
		for _, e := range p.shared {
			if e.set == set {
				left[e.element] = true
			}
		}
	}
	return slices.DeleteFunc(elements, func(e string) bool { return left[e] })
}

// changes are steps in the order in which they can be done: what is to be made,
// to be emptied, to be filled, and at last deleted.
type changes struct{ add, empty, fill, drop, dropSets Change }

func (c *changes) table(t Table, oldSets, sets []Set, oldChains, chains []Chain) {
	gone := map[string]Set{}
	for _, s := range oldSets {
		gone[s.Name] = s
	}
	for _, s := range sets {
		old, existed := gone[s.Name]
		delete(gone, s.Name)
		o := t.Object(s.Kind, s.Name)
		if !existed || old.Spec != s.Spec { // the kernel refuses another shape: all is to be replaced then
			c.add = append(c.add, Step{Verb: Add, Object: o, Spec: s.Spec})
		}
		if !slices.Equal(old.Elements, s.Elements) {
			c.elements(o, s, old.Elements, s.Elements)
		}
	}
	goneChains := map[string]Chain{}
	for _, ch := range oldChains {
		goneChains[ch.Name] = ch
	}
	for _, ch := range chains {
		old, existed := goneChains[ch.Name]
		delete(goneChains, ch.Name)
		if existed && slices.Equal(old.Rules, ch.Rules) {
			continue
		}
		o := t.Object("chain", ch.Name)
		if existed {
			c.empty = append(c.empty, Step{Verb: Flush, Object: o})
		} else {
			c.add = append(c.add, Step{Verb: Add, Object: o, Spec: ch.Hook})
		}
		c.fill = append(c.fill, Step{Verb: AddRules, Object: o, List: ch.Rules})
	}
	// Chains go before sets: rules and elements that are left may name a set or a
	// chain only until they are gone themselves.
	for _, ch := range oldChains {
		if _, left := goneChains[ch.Name]; left {
			o := t.Object("chain", ch.Name)
			c.empty = append(c.empty, Step{Verb: Flush, Object: o})
			c.drop = append(c.drop, Step{Verb: Delete, Object: o})
		}
	}
	for _, s := range oldSets {
		if _, left := gone[s.Name]; left {
			o := t.Object(s.Kind, s.Name)
			c.empty = append(c.empty, Step{Verb: Flush, Object: o})
			c.dropSets = append(c.dropSets, Step{Verb: Delete, Object: o})
		}
	}
}

// elements changes those of a set.
func (c *changes) elements(o Object, s Set, old, now []string) {
	gone, fresh := difference(old, now)
	for i, e := range gone {
		gone[i] = s.Key(e)
	}
	if len(gone) > 0 {
		c.empty = append(c.empty, Step{Verb: DeleteElements, Object: o, Spec: s.Spec, List: gone})
	}
	if len(fresh) > 0 {
		c.fill = append(c.fill, Step{Verb: AddElements, Object: o, Spec: s.Spec, List: fresh})
	}
}

// difference returns the elements that only old has, and those that only now has.
func difference(old, now []string) (gone, fresh []string) {
	// Of a large set mostly one element changes: what is before it and behind it
	// stays in order.
	for len(old) > 0 && len(now) > 0 && old[0] == now[0] {
		old, now = old[1:], now[1:]
	}
	for len(old) > 0 && len(now) > 0 && old[len(old)-1] == now[len(now)-1] {
		old, now = old[:len(old)-1], now[:len(now)-1]
	}
	had, has := make(map[string]bool, len(old)), make(map[string]bool, len(now))
	for _, e := range old {
		had[e] = true
	}
	for _, e := range now {
		has[e] = true
		if !had[e] {
			fresh = append(fresh, e)
		}
	}
	for _, e := range old {
		if !has[e] {
			has[e] = true // two NICs may have brought it
			gone = append(gone, e)
		}
	}
	return gone, fresh
}
