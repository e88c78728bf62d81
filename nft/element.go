package nft

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// layout is how a set's elements are laid out.
type layout struct {
	fields   []field // of the key
	data     string  // of a map: verdict or ct zone
	interval bool
}

// field is a part of a key.
type field struct {
	kind   string // as nft calls it
	size   int    // octets
	offset int    // of @th, in bits
}

// padded is the field's share of a key of several: whole registers.
func (f field) padded() int { return (f.size + 3) &^ 3 }

// kinds are the sizes of fields, and nft's numbers for their types.
var kinds = map[string]struct {
	size   int
	number uint32
}{
	"ifname": {unix.IFNAMSIZ, 41}, "iifname": {unix.IFNAMSIZ, 41}, "oifname": {unix.IFNAMSIZ, 41},
	"iface_index": {4, 20}, "iif": {4, 20},
	"ether_addr": {6, 9}, "ipv6_addr": {16, 8}, "ip6 daddr": {16, 8},
	"inet_proto": {1, 12}, "inet_service": {2, 13}, "mark": {4, 19},
	"@th": {0, 4},
}

func (f field) number() uint32 { return kinds[f.kind].number }

// layoutOf reads a set's specification, as package firewall writes it.
func layoutOf(s firewall.Set) (layout, bool) {
	spec, _, _ := strings.Cut(s.Spec, ";")
	_, spec, found := strings.Cut(spec, " ") // type or typeof
	if !found {
		return layout{}, false
	}
	l := layout{interval: s.Interval()}
	if s.Kind == "map" {
		if spec, l.data, found = strings.Cut(spec, " : "); !found || l.data != "verdict" && l.data != "ct zone" {
			return layout{}, false
		}
	}
	for name := range strings.SplitSeq(spec, " . ") {
		f := field{kind: name, size: kinds[name].size}
		if where, isRaw := strings.CutPrefix(name, "@th,"); isRaw {
			if f.offset, f.size, found = transportField(where); !found {
				return layout{}, false
			}
			f.kind = "@th"
		}
		if f.size == 0 {
			return layout{}, false
		}
		l.fields = append(l.fields, f)
	}
	return l, true
}

// transportField reads where a field is behind the start of the transport header:
// its offset in bits and its size, here in octets.
func transportField(where string) (offset, size int, ok bool) {
	from, length, _ := strings.Cut(where, ",")
	offset, err1 := strconv.Atoi(from)
	bits, err2 := strconv.Atoi(length)
	ok = err1 == nil && err2 == nil && offset >= 0 && offset%8 == 0 && bits >= 8 && bits <= 128 && bits%8 == 0
	return offset, bits / 8, ok
}

// keyLength is that of the whole key in octets.
func (l layout) keyLength() int {
	if len(l.fields) == 1 {
		return l.fields[0].size
	}
	n := 0
	for _, f := range l.fields {
		n += f.padded()
	}
	return n
}

// element is one of a set, as the kernel has it. A range of single values is two
// of them, its first value and, marked so, the first behind it; a range of keys
// of several fields is one with both ends.
type element struct {
	key, keyEnd []byte
	flags       uint32
	verdict     *verdict
	data        []byte

	packets, bytes uint64 // of a set that counts
}

// verdict is what a packet meets next.
type verdict struct {
	code  int32
	chain string
}

const rangeEnd = unix.NFT_SET_ELEM_INTERVAL_END

// elements appends what the kernel has for an element of that text. With no data
// a map's element is its key alone, as it is named to be deleted.
func (l layout) elements(to []element, text string) ([]element, bool) {
	var e element
	if l.data != "" {
		if i := strings.LastIndex(text, " : "); i >= 0 {
			data := text[i+3:]
			text = text[:i]
			if !l.dataOf(&e, data) {
				return nil, false
			}
		}
	}
	single := len(l.fields) == 1
	e.key = make([]byte, 0, l.keyLength())
	var end []byte
	for i, f := range l.fields {
		value, rest, more := text, "", false
		if !single {
			value, rest, more = strings.Cut(text, " . ")
		}
		if more != (i+1 < len(l.fields)) {
			return nil, false
		}
		text = rest
		first, last, ok := f.encode(value, l.interval)
		if !ok {
			return nil, false
		}
		e.key = append(e.key, first...)
		if l.interval {
			end = append(end, last...)
		}
		if !single {
			e.key = append(e.key, make([]byte, f.padded()-f.size)...)
			if l.interval {
				end = append(end, make([]byte, f.padded()-f.size)...)
			}
		}
	}
	switch {
	case !l.interval:
		return append(to, e), true
	case !single:
		e.keyEnd = end
		return append(to, e), true
	}
	for i := len(end) - 1; ; i-- { // the first behind the range
		if i < 0 {
			return nil, false // there is none: nft writes another form
		}
		if end[i]++; end[i] != 0 {
			break
		}
	}
	return append(to, e, element{key: end, flags: rangeEnd}), true
}

func (l layout) dataOf(e *element, text string) bool {
	if l.data == "verdict" {
		v, ok := verdictOf(text)
		e.verdict = &v
		return ok
	}
	zone, err := strconv.ParseUint(text, 10, 16)
	e.data = binary.NativeEndian.AppendUint16(nil, uint16(zone))
	return err == nil
}

// verdictOf reads a verdict.
func verdictOf(text string) (verdict, bool) {
	word, chain, hasChain := strings.Cut(text, " ")
	v := verdict{chain: chain}
	switch {
	case hasChain && word == "jump":
		v.code = unix.NFT_JUMP
	case hasChain && word == "goto":
		v.code = unix.NFT_GOTO
	case hasChain:
		return v, false
	case word == "accept":
		v.code = 1
	case word == "drop":
	case word == "return":
		v.code = unix.NFT_RETURN
	default:
		return v, false
	}
	return v, hasChain == (chain != "") && !strings.Contains(chain, " ")
}

// encode returns the octets of the first and the last value that the text
// stands for.
func (f field) encode(text string, interval bool) (first, last []byte, ok bool) {
	switch f.kind {
	case "ifname", "iifname", "oifname":
		name, err := strconv.Unquote(text)
		if err != nil || len(name) >= f.size {
			return nil, nil, false
		}
		first = append(make([]byte, 0, f.size), name...)[:f.size]
	case "iface_index", "iif", "mark":
		n, err := strconv.ParseUint(text, 0, 32)
		if err != nil {
			return nil, nil, false
		}
		first = binary.NativeEndian.AppendUint32(nil, uint32(n))
	case "ether_addr":
		mac, err := sixacre.ParseMAC(text)
		if err != nil {
			return nil, nil, false
		}
		first = mac[:]
	case "ipv6_addr", "ip6 daddr":
		if interval {
			return addresses(text)
		}
		a, err := netip.ParseAddr(text)
		if err != nil || !a.Is6() || a.Zone() != "" {
			return nil, nil, false
		}
		first = a.AsSlice()
	case "inet_proto":
		switch text {
		case "tcp":
			first = []byte{unix.IPPROTO_TCP}
		case "udp":
			first = []byte{unix.IPPROTO_UDP}
		default:
			return nil, nil, false
		}
	case "inet_service":
		from, to, isRange := strings.Cut(text, "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.ParseUint(from, 10, 16)
		b, errB := strconv.ParseUint(to, 10, 16)
		if errA != nil || errB != nil || isRange && !interval {
			return nil, nil, false
		}
		return binary.BigEndian.AppendUint16(nil, uint16(a)), binary.BigEndian.AppendUint16(nil, uint16(b)), true
	case "@th":
		digits, isHex := strings.CutPrefix(text, "0x")
		octets, err := hex.DecodeString(digits)
		if !isHex || err != nil || len(octets) != f.size {
			return nil, nil, false
		}
		first = octets
	default:
		return nil, nil, false
	}
	return first, first, true
}

// addresses returns the ends of a prefix, or an address twice.
func addresses(text string) (first, last []byte, ok bool) {
	if !strings.Contains(text, "/") {
		text += "/128"
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is6() || p.Masked() != p {
		return nil, nil, false
	}
	first, last = p.Addr().AsSlice(), p.Addr().AsSlice()
	for i := range last {
		host := max(0, min(8, 8*(i+1)-p.Bits()))
		last[i] |= byte(1<<host - 1)
	}
	return first, last, true
}

// attach writes the element into a list of elements.
func (e element) attach(a *attributes) {
	whole := a.nest(unix.NFTA_LIST_ELEM)
	if e.flags != 0 {
		a.number(unix.NFTA_SET_ELEM_FLAGS, e.flags)
	}
	a.value(unix.NFTA_SET_ELEM_KEY, e.key)
	if e.keyEnd != nil {
		a.value(setElemKeyEnd, e.keyEnd)
	}
	switch {
	case e.verdict != nil:
		data := a.nest(unix.NFTA_SET_ELEM_DATA)
		e.verdict.attach(a)
		a.end(data)
	case e.data != nil:
		a.value(unix.NFTA_SET_ELEM_DATA, e.data)
	}
	a.end(whole)
}

// setElemKeyEnd is NFTA_SET_ELEM_KEY_END, the last key of a range of several
// fields.
const setElemKeyEnd = 10

func (v verdict) attach(a *attributes) {
	nested := a.nest(unix.NFTA_DATA_VERDICT)
	a.number(unix.NFTA_VERDICT_CODE, uint32(v.code))
	if v.chain != "" {
		a.text(unix.NFTA_VERDICT_CHAIN, v.chain)
	}
	a.end(nested)
}

// elementOf reads an element that the kernel sent.
func elementOf(octets []byte) element {
	var e element
	for kind, value := range each(octets) {
		switch kind {
		case unix.NFTA_SET_ELEM_FLAGS:
			if len(value) == 4 {
				e.flags = binary.BigEndian.Uint32(value)
			}
		case unix.NFTA_SET_ELEM_KEY:
			e.key = firstOf(value, unix.NFTA_DATA_VALUE)
		case setElemKeyEnd:
			e.keyEnd = firstOf(value, unix.NFTA_DATA_VALUE)
		case unix.NFTA_SET_ELEM_EXPR:
			if cString(firstOf(value, unix.NFTA_EXPR_NAME)) == "counter" {
				e.packets, e.bytes = counter(firstOf(value, unix.NFTA_EXPR_DATA))
			}
		case unix.NFTA_SET_ELEM_DATA:
			e.data = firstOf(value, unix.NFTA_DATA_VALUE)
			for kind, value := range each(firstOf(value, unix.NFTA_DATA_VERDICT)) {
				if e.verdict == nil {
					e.verdict = new(verdict)
				}
				switch {
				case kind == unix.NFTA_VERDICT_CODE && len(value) == 4:
					e.verdict.code = int32(binary.BigEndian.Uint32(value))
				case kind == unix.NFTA_VERDICT_CHAIN:
					e.verdict.chain = cString(value)
				}
			}
		}
	}
	return e
}

func counter(octets []byte) (packets, bytes uint64) {
	for kind, value := range each(octets) {
		switch {
		case kind == unix.NFTA_COUNTER_PACKETS && len(value) == 8:
			packets = binary.BigEndian.Uint64(value)
		case kind == unix.NFTA_COUNTER_BYTES && len(value) == 8:
			bytes = binary.BigEndian.Uint64(value)
		}
	}
	return packets, bytes
}

// firstOf returns the value of the first attribute of that kind, or nil.
func firstOf(octets []byte, wanted uint16) []byte {
	for kind, value := range each(octets) {
		if kind == wanted {
			return value
		}
	}
	return nil
}

// opening reports whether the element only says that no range holds 0. nft puts
// it into a set when it fills an empty one.
func (e element) opening() bool {
	return e.flags == rangeEnd && !slices.ContainsFunc(e.key, func(b byte) bool { return b != 0 })
}
