package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre/firewall"
)

// contents are the tables, chains, sets and maps that our tables are made of,
// and what tells each from any other: the kernel gives each table, chain, set and
// rule a number that it gives to none after it, and none of them can be changed
// but for what is noted here beside. Elements are not part of it: see
// [elementsAre].
type contents map[firewall.Object]uint64

// seed is of this process, so that nobody can make two things that look the same.
var seed = maphash.MakeSeed()

// note mixes the chosen attributes into what is known of the object.
func (c contents) note(o firewall.Object, octets []byte, chosen ...uint16) {
	var h maphash.Hash
	h.SetSeed(seed)
	var before [8]byte
	binary.NativeEndian.PutUint64(before[:], c[o])
	h.Write(before[:])
	for kind, value := range each(octets) {
		for _, wanted := range chosen {
			if kind == wanted {
				h.WriteByte(byte(kind))
				h.Write(value)
			}
		}
	}
	c[o] = h.Sum64()
}

func (c contents) table(family byte, octets []byte) {
	o := firewall.Object{Family: familyName(family), Table: cString(firstOf(octets, unix.NFTA_TABLE_NAME)), Kind: "table"}
	if ours(o.Family, o.Table) {
		c.note(o, octets, unix.NFTA_TABLE_FLAGS, tableHandle)
	}
}

// tableHandle and setHandle are NFTA_TABLE_HANDLE and NFTA_SET_HANDLE.
const (
	tableHandle = 4
	setHandle   = 16
)

func (c contents) chain(family byte, octets []byte) {
	o := firewall.Object{
		Family: familyName(family), Table: cString(firstOf(octets, unix.NFTA_CHAIN_TABLE)),
		Kind: "chain", Name: cString(firstOf(octets, unix.NFTA_CHAIN_NAME)),
	}
	if ours(o.Family, o.Table) {
		c.note(o, octets, unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE)
	}
}

// set leaves out those that are part of a rule: like it, they cannot be changed.
func (c contents) set(family byte, octets []byte) {
	o := firewall.Object{
		Family: familyName(family), Table: cString(firstOf(octets, unix.NFTA_SET_TABLE)),
		Kind: "set", Name: cString(firstOf(octets, unix.NFTA_SET_NAME)),
	}
	var flags uint32
	if value := firstOf(octets, unix.NFTA_SET_FLAGS); len(value) == 4 {
		flags = binary.BigEndian.Uint32(value)
	}
	if flags&unix.NFT_SET_MAP != 0 {
		o.Kind = "map"
	}
	if ours(o.Family, o.Table) && flags&unix.NFT_SET_ANONYMOUS == 0 {
		c.note(o, octets, unix.NFTA_SET_FLAGS, unix.NFTA_SET_KEY_LEN, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_DATA_LEN,
			unix.NFTA_SET_DESC, unix.NFTA_SET_TIMEOUT, unix.NFTA_SET_GC_INTERVAL, setHandle)
	}
}

// rule is noted with its chain, in its place.
func (c contents) rule(family byte, octets []byte) {
	o := firewall.Object{
		Family: familyName(family), Table: cString(firstOf(octets, unix.NFTA_RULE_TABLE)),
		Kind: "chain", Name: cString(firstOf(octets, unix.NFTA_RULE_CHAIN)),
	}
	if _, known := c[o]; known {
		c.note(o, octets, unix.NFTA_RULE_HANDLE)
	}
}

// read returns what is in our tables.
func read(conn *netlink.Conn) (contents, error) {
	c := contents{}
	for _, kind := range []struct {
		ask  int
		note func(byte, []byte)
	}{
		{unix.NFT_MSG_GETTABLE, c.table}, {unix.NFT_MSG_GETCHAIN, c.chain}, {unix.NFT_MSG_GETSET, c.set}, {unix.NFT_MSG_GETRULE, c.rule},
	} {
		for _, t := range ourTables {
			var which attributes
			if kind.ask == unix.NFT_MSG_GETSET || kind.ask == unix.NFT_MSG_GETRULE {
				which.text(unix.NFTA_SET_TABLE, t.table)
			}
			err := dump(conn, kind.ask, families[t.family], which, kind.note)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return nil, fmt.Errorf("reading the firewall: %w", err)
			}
		}
	}
	return c, nil
}

// update reads again what a change touched.
func (c contents) update(conn *netlink.Conn, change firewall.Change) error {
	touched := map[firewall.Object]bool{}
	for _, s := range change {
		switch s.Verb {
		case firewall.Delete:
			delete(touched, s.Object)
			delete(c, s.Object)
		case firewall.AddElements, firewall.DeleteElements:
		default:
			if s.Verb == firewall.Add || s.Object.Kind == "chain" {
				touched[s.Object] = true
			}
		}
	}
	for o := range touched {
		delete(c, o)
		family := families[o.Family]
		var which attributes
		which.text(unix.NFTA_SET_TABLE, o.Table) // the same number for all of them
		if o.Kind != "chain" {
			which.text(unix.NFTA_SET_NAME, o.Name)
			answer, err := ask(conn, unix.NFT_MSG_GETSET, family, which)
			if err != nil {
				return err
			}
			c.set(family, answer)
			continue
		}
		rules := append(attributes(nil), which...)
		which.text(unix.NFTA_CHAIN_NAME, o.Name)
		answer, err := ask(conn, unix.NFT_MSG_GETCHAIN, family, which)
		if err != nil {
			return err
		}
		c.chain(family, answer)
		rules.text(unix.NFTA_RULE_CHAIN, o.Name)
		err = dump(conn, unix.NFT_MSG_GETRULE, family, rules, func(family byte, octets []byte) {
			if cString(firstOf(octets, unix.NFTA_RULE_CHAIN)) == o.Name { // old kernels give all
				c.rule(family, octets)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// of reports whether these are the ruleset's, none more and none less.
func (c contents) of(rs firewall.Ruleset) bool {
	tables := rs.Tables()
	n := len(tables)
	for _, t := range tables {
		n += len(t.Sets) + len(t.Chains)
		for _, s := range t.Sets {
			if _, found := c[t.Object(s.Kind, s.Name)]; !found {
				return false
			}
		}
		for _, ch := range t.Chains {
			if _, found := c[t.Object("chain", ch.Name)]; !found {
				return false
			}
		}
	}
	return len(c) == n
}

// elementsAre reports whether the sets hold the ruleset's elements and no others.
// Those that packets make are not looked at.
func elementsAre(conn *netlink.Conn, rs firewall.Ruleset) (bool, error) {
	for _, t := range rs.Tables() {
		for _, s := range t.Sets {
			if same, err := holds(conn, t, s); err != nil || !same {
				return false, err
			}
		}
	}
	return true, nil
}

// holding returns which of the ruleset's sets are there with just their elements.
func (c contents) holding(conn *netlink.Conn, rs firewall.Ruleset) (map[firewall.Object]bool, error) {
	held := map[firewall.Object]bool{}
	for _, t := range rs.Tables() {
		for _, s := range t.Sets {
			o := t.Object(s.Kind, s.Name)
			if _, found := c[o]; !found {
				continue
			}
			same, err := holds(conn, t, s)
			if err != nil {
				return nil, err
			}
			held[o] = same
		}
	}
	return held, nil
}

// holds reports whether the kernel's set has the elements of this one and no
// others. If packets make them, it has.
func holds(conn *netlink.Conn, t firewall.Table, s firewall.Set) (bool, error) {
	if s.Dynamic() {
		return true, nil
	}
	l, known := layoutOf(s)
	if !known {
		return false, fmt.Errorf("set %s of table %s is of a kind that cannot be compared: %s", s.Name, t.Name, s.Spec)
	}
	var want, have tally
	var made []element
	for _, text := range s.Elements {
		if made, known = l.elements(made[:0], text); !known {
			return false, fmt.Errorf("an element of set %s of table %s cannot be compared: %s", s.Name, t.Name, text)
		}
		for _, e := range made {
			want.add(e)
		}
	}
	err := elementsOf(conn, families[t.Family], t.Name, s.Name, have.add)
	return want == have, err
}

// elementsOf gives each element of a set.
func elementsOf(conn *netlink.Conn, family byte, table, set string, take func(element)) error {
	var which attributes
	which.text(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	which.text(unix.NFTA_SET_ELEM_LIST_SET, set)
	return dump(conn, unix.NFT_MSG_GETSETELEM, family, which, func(_ byte, octets []byte) {
		for _, e := range each(firstOf(octets, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			take(elementOf(e))
		}
	})
}

// tally tells one collection of elements from another, in whatever order they
// come.
type tally struct{ count, sum uint64 }

func (t *tally) add(e element) {
	if e.opening() {
		return
	}
	var h maphash.Hash
	h.SetSeed(seed)
	part := func(octets []byte) {
		h.WriteByte(byte(len(octets)))
		h.Write(octets)
	}
	part(e.key)
	// Some kernels give the end of a range of one value, and some do not.
	if !bytes.Equal(e.key, e.keyEnd) {
		part(e.keyEnd)
	}
	part(binary.NativeEndian.AppendUint32(nil, e.flags))
	if e.verdict != nil {
		part(binary.NativeEndian.AppendUint32(nil, uint32(e.verdict.code)))
		h.WriteString(e.verdict.chain)
	}
	part(e.data)
	t.count++
	t.sum += h.Sum64()
}
