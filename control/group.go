package control

import (
	"context"
	"slices"

	"github.com/sixacre/sixacre"
)

// CreateGroup writes a group. The default group exists already; to create it as
// it is changes nothing.
func (c *Control) CreateGroup(ctx context.Context, g sixacre.Group) (sixacre.Group, error) {
	if err := sixacre.ValidateName("group", g.Name); err != nil {
		return g, err
	}
	rules := g.Rules
	return g, c.change(ctx, func(a *attempt) error {
		g.Rules = []sixacre.Rule{}
		if err := fresh(a, "group", g.Key()); err != nil {
			return err
		}
		for _, r := range rules {
			if _, err := a.addRule(&g, r); err != nil {
				return err
			}
		}
		a.Put = append(a.Put, g)
		return nil
	})
}

// group reads a group that has to exist. The default group does even before
// anybody wrote it.
func (a *attempt) group(name string) (sixacre.Group, error) {
	g, found, err := read[sixacre.Group](a, sixacre.Group{Name: name}.Key())
	switch {
	case err != nil || found:
		return g, err
	case name == sixacre.DefaultGroup:
		return sixacre.Group{Name: name, Rules: []sixacre.Rule{}}, nil
	}
	return g, sixacre.Errorf(sixacre.NotFound, "group %s does not exist: see 'sixacre group list', or create it", name)
}

// addRule plans to add a rule to g under the next number.
func (a *attempt) addRule(g *sixacre.Group, r sixacre.Rule) (sixacre.Rule, error) {
	if err := r.Validate(); err != nil {
		return r, sixacre.Errorf(sixacre.CodeOf(err), "group %s: %s", g.Name, err)
	}
	if r.Remote.Group != "" && r.Remote.Group != g.Name {
		if _, err := a.group(r.Remote.Group); err != nil {
			return r, err
		}
	}
	r.ID = 1
	for _, other := range g.Rules {
		r.ID = max(r.ID, other.ID+1)
	}
	g.Rules = append(g.Rules, r)
	if len(g.Rules) > maxRules {
		return r, sixacre.Errorf(sixacre.Invalid, "group %s has the %d rules that a group may have: make another group", g.Name, maxRules)
	}
	return r, nil
}

// maxRules is how many rules a group may have.
const maxRules = 1000

// AddRule adds a rule to a group and returns it with its number.
func (c *Control) AddRule(ctx context.Context, group string, r sixacre.Rule) (sixacre.Rule, error) {
	var made sixacre.Rule
	err := c.change(ctx, func(a *attempt) error {
		g, err := a.group(group)
		if err != nil {
			return err
		}
		made, err = a.addRule(&g, r)
		a.Put = append(a.Put, g)
		return err
	})
	return made, err
}

// DeleteRule removes the rule of that number from a group.
func (c *Control) DeleteRule(ctx context.Context, group string, id int) error {
	return c.change(ctx, func(a *attempt) error {
		g, err := a.group(group)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(g.Rules, func(r sixacre.Rule) bool { return r.ID == id })
		if at < 0 {
			return sixacre.Errorf(sixacre.NotFound, "group %s has no rule %d: see 'sixacre group get %s'", group, id, group)
		}
		g.Rules = slices.Delete(g.Rules, at, at+1)
		a.Put = append(a.Put, g)
		return nil
	})
}

// Groups returns all groups by name.
func (c *Control) Groups(ctx context.Context) ([]sixacre.Group, error) {
	groups, err := list[sixacre.Group](ctx, c, sixacre.KindGroup)
	if !slices.ContainsFunc(groups, func(g sixacre.Group) bool { return g.Name == sixacre.DefaultGroup }) {
		groups = append(groups, sixacre.Group{Name: sixacre.DefaultGroup, Rules: []sixacre.Rule{}})
		sixacre.SortNouns(groups)
	}
	return groups, err
}

// Group returns one group.
func (c *Control) Group(ctx context.Context, name string) (sixacre.Group, error) {
	return (&attempt{Control: c, ctx: ctx}).group(name)
}

// DeleteGroup removes a group that no NIC is in and no other group's rule names.
func (c *Control) DeleteGroup(ctx context.Context, name string) error {
	return c.change(ctx, func(a *attempt) error {
		g, err := a.group(name)
		if err != nil {
			return err
		}
		if err := a.each(sixacre.KindInstance, func(n sixacre.Noun) error {
			for _, nic := range n.(sixacre.Instance).NICs {
				if slices.Contains(nic.Groups, name) {
					return sixacre.Errorf(sixacre.InUse, "group %s is in use by instance %s: delete that first", name, n.Key().Name)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if err := a.each(sixacre.KindGroup, func(n sixacre.Noun) error {
			if other := n.(sixacre.Group); other.Name != name && slices.Contains(other.RemoteGroups(), name) {
				return sixacre.Errorf(sixacre.InUse, "group %s is named by a rule of group %s: delete that rule first", name, other.Name)
			}
			return nil
		}); err != nil {
			return err
		}
		a.Delete = append(a.Delete, g.Key())
		return nil
	})
}
