package nft

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre/firewall"
)

// elementsPerMessage keeps a list of elements below the 64 KiB that one
// attribute can hold.
const elementsPerMessage = 400

// batchOf returns the change as one transaction for the kernel. It is false
// where the change is not all of what this package can say itself; nft can.
func batchOf(change firewall.Change) (batch, bool) {
	var b batch
	for _, step := range change {
		if !b.step(step) {
			return nil, false
		}
	}
	return b, true
}

func (b *batch) step(s firewall.Step) bool {
	o := s.Object
	family, known := families[o.Family]
	if !known {
		return false
	}
	isChain := o.Kind == "chain"
	var a attributes
	switch s.Verb {
	case firewall.Add:
		if !isChain {
			return b.addSet(family, firewall.Set{Kind: o.Kind, Name: o.Name, Spec: s.Spec}, o.Table)
		}
		if s.Spec != "" {
			return false // a base chain
		}
		a.text(unix.NFTA_CHAIN_TABLE, o.Table)
		a.text(unix.NFTA_CHAIN_NAME, o.Name)
		b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, family, a)
	case firewall.Delete, firewall.Flush:
		kinds := map[bool]map[firewall.Verb]int{
			true:  {firewall.Delete: unix.NFT_MSG_DELCHAIN, firewall.Flush: unix.NFT_MSG_DELRULE},
			false: {firewall.Delete: unix.NFT_MSG_DELSET, firewall.Flush: unix.NFT_MSG_DELSETELEM},
		}
		kind := kinds[isChain][s.Verb]
		a.text(unix.NFTA_SET_TABLE, o.Table) // the same number in all of them
		if kind == unix.NFT_MSG_DELCHAIN {
			a.text(unix.NFTA_CHAIN_NAME, o.Name)
		} else {
			a.text(unix.NFTA_SET_NAME, o.Name)
		}
		b.add(kind, 0, family, a)
	case firewall.AddElements:
		return b.stepElements(unix.NFT_MSG_NEWSETELEM, netlink.Create, family, s)
	case firewall.DeleteElements:
		return b.stepElements(unix.NFT_MSG_DELSETELEM, 0, family, s)
	case firewall.AddRules:
		return b.addRules(family, s)
	default:
		return false
	}
	return true
}

// stepElements adds or deletes those of a step.
func (b *batch) stepElements(kind int, flags netlink.HeaderFlags, family byte, s firewall.Step) bool {
	l, known := layoutOf(firewall.Set{Kind: s.Object.Kind, Spec: s.Spec})
	if !known {
		return false
	}
	var list []element
	for _, text := range s.List {
		if list, known = l.elements(list, text); !known {
			return false
		}
	}
	b.elements(kind, flags, family, s.Object.Table, s.Object.Name, list)
	return true
}

// elements adds or deletes elements of a set.
func (b *batch) elements(kind int, flags netlink.HeaderFlags, family byte, table, set string, list []element) {
	for part := range slices.Chunk(list, elementsPerMessage) {
		var a attributes
		a.text(unix.NFTA_SET_ELEM_LIST_TABLE, table)
		a.text(unix.NFTA_SET_ELEM_LIST_SET, set)
		all := a.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for _, e := range part {
			e.attach(&a)
		}
		a.end(all)
		b.add(kind, flags, family, a)
	}
}

func (b *batch) addRules(family byte, s firewall.Step) bool {
	if family != unix.NFPROTO_BRIDGE {
		return false
	}
	for _, text := range s.List {
		r, known := ruleOf(text)
		if !known {
			return false
		}
		var a attributes
		a.text(unix.NFTA_RULE_TABLE, s.Object.Table)
		a.text(unix.NFTA_RULE_CHAIN, s.Object.Name)
		all := a.nest(unix.NFTA_RULE_EXPRESSIONS)
		a = append(a, r.expressions...)
		a.end(all)
		if r.comment != "" {
			var note notes
			note.put(0, append([]byte(r.comment), 0)...)
			a.octets(unix.NFTA_RULE_USERDATA, note)
		}
		b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, family, a)
	}
	return true
}

// notes are what nft stores with a set or a rule for its own listings, in
// entries of an octet each for kind and length.
type notes []byte

func (n *notes) put(kind byte, value ...byte) {
	*n = append(append(*n, kind, byte(len(value))), value...)
}

func (n *notes) number(kind byte, value uint32) {
	n.put(kind, binary.NativeEndian.AppendUint32(nil, value)...)
}

// addSet makes a set or map of one of the kinds that come and go with NICs and
// groups.
func (b *batch) addSet(family byte, s firewall.Set, table string) bool {
	l, known := layoutOf(s)
	if !known || s.Dynamic() || l.data == "ct zone" {
		return false
	}
	var a attributes
	a.text(unix.NFTA_SET_TABLE, table)
	a.text(unix.NFTA_SET_NAME, s.Name)
	a.number(unix.NFTA_SET_FLAGS, l.flags())
	var kind uint32 // as nft numbers it
	for _, f := range l.fields {
		kind = kind<<6 | f.number()
	}
	a.number(unix.NFTA_SET_KEY_TYPE, kind)
	a.number(unix.NFTA_SET_KEY_LEN, uint32(l.keyLength()))
	if l.data != "" {
		a.number(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		a.number(unix.NFTA_SET_DATA_LEN, 16)
	}
	a.number(unix.NFTA_SET_ID, uint32(len(*b)+1)) // any that no other has
	if l.flags()&setConcat != 0 {
		description := a.nest(unix.NFTA_SET_DESC)
		fields := a.nest(setDescConcat)
		for _, f := range l.fields {
			one := a.nest(unix.NFTA_LIST_ELEM)
			a.number(setFieldLength, uint32(f.size))
			a.end(one)
		}
		a.end(fields)
		a.end(description)
	}
	a.octets(unix.NFTA_SET_USERDATA, l.notes(strings.HasPrefix(s.Spec, "typeof ")))
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, family, a)
	return true
}

// NFT_SET_CONCAT, NFTA_SET_DESC_CONCAT and NFTA_SET_FIELD_LEN: of ranges of keys
// of several fields.
const (
	setConcat      = 0x80
	setDescConcat  = 2
	setFieldLength = 1
)

func (l layout) flags() uint32 {
	var flags uint32
	if l.interval {
		flags |= unix.NFT_SET_INTERVAL
		if len(l.fields) > 1 {
			flags |= setConcat
		}
	}
	if l.data != "" {
		flags |= unix.NFT_SET_MAP
	}
	return flags
}

// notes are those that nft stores with such a set to print it as it was
// declared. The kernel does not read them.
func (l layout) notes(typeof bool) notes {
	const ( // kinds of notes
		keyOrder = iota
		dataOrder
		_
		keyFields
		_
		_
		dataRange
	)
	const ( // orders of octets
		mixed = iota // of several fields
		host
		network
	)
	several := len(l.fields) > 1
	order := uint32(network)
	switch f := l.fields[0]; {
	case several:
		order = mixed
	case strings.HasPrefix(f.kind, "if") || f.kind == "mark":
		order = host
	}
	var n notes
	n.number(keyOrder, order)
	if l.data != "" {
		n.number(dataOrder, mixed)
	}
	const severalFields = 13
	switch {
	case several:
		var each notes
		if typeof {
			for i, f := range l.fields {
				each.put(byte(i), f.notes()...)
			}
		}
		var all notes
		all.number(0, severalFields)
		all.put(1, each...)
		n.put(keyFields, all...)
	case typeof:
		n.put(keyFields, l.fields[0].notes()...)
	}
	if l.data != "" {
		n.number(dataRange, 0)
	}
	return n
}

// notes are nft's on one field of a packet.
func (f field) notes() notes {
	var which, n notes
	const payload, meta = 7, 9
	switch f.kind {
	case "iifname":
		which.number(0, unix.NFT_META_IIFNAME)
		n.number(0, meta)
	case "oifname":
		which.number(0, unix.NFT_META_OIFNAME)
		n.number(0, meta)
	default: // @th
		const transportHeader = 3
		which.number(0, 0)
		which.number(1, 0)
		which.number(2, transportHeader)
		which.number(3, uint32(f.offset))
		which.number(4, uint32(8*f.size))
		n.number(0, payload)
	}
	n.put(1, which...)
	return n
}
