package nft

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// rule is a rule of the bridge family as the kernel takes it.
type rule struct {
	expressions attributes
	comment     string

	ip6 bool // whether it is established that the packet is IPv6
}

// Registers of 32 bits each: a rule loads a key of several fields into one
// behind the other.
const firstRegister = unix.NFT_REG32_00

// ruleOf reads a rule in those of nft's words that package firewall uses in rules
// that change while the agent runs, and writes the expressions that nft writes
// for them.
func ruleOf(text string) (rule, bool) {
	var r rule
	if text, quoted, found := strings.Cut(text, " comment "); found {
		comment, err := strconv.Unquote(quoted)
		if err != nil || len(comment) > 127 {
			return r, false
		}
		r.comment = comment
		return r, r.statements(text)
	}
	return r, r.statements(text)
}

func (r *rule) statements(text string) bool {
	for text != "" {
		rest, ok := r.statement(text)
		if !ok {
			return false
		}
		text = rest
	}
	return true
}

// statement reads what the text begins with, and returns what follows it.
func (r *rule) statement(text string) (rest string, ok bool) {
	if v, isVerdict := verdictOf(text); isVerdict { // it ends a rule
		r.immediateVerdict(v)
		return "", true
	}
	if after, found := strings.CutPrefix(text, "meta mark set jhash "); found {
		return r.setMarkToHash(after)
	}
	if after, found := strings.CutPrefix(text, "meta mark set "); found {
		number, rest, _ := strings.Cut(after, " ")
		mark, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return "", false
		}
		r.setMark(uint32(mark))
		return rest, true
	}
	if after, found := strings.CutPrefix(text, "meta l4proto "); found && !strings.HasPrefix(after, ". ") {
		number, rest, _ := strings.Cut(after, " ")
		protocol, err := strconv.ParseUint(number, 10, 8)
		if err != nil {
			return "", false
		}
		r.loadMeta(unix.NFT_META_L4PROTO, firstRegister)
		r.compare([]byte{byte(protocol)})
		return rest, true
	}
	if after, found := strings.CutPrefix(text, "icmpv6 type "); found {
		return r.icmp(after)
	}
	if after, found := strings.CutPrefix(text, "ip6 saddr "); found {
		if rest, ok = r.prefix(after, sourceAt); ok {
			return rest, true
		}
	}
	if after, found := strings.CutPrefix(text, "ip6 daddr "); found {
		if rest, ok = r.prefix(after, destinationAt); ok {
			return rest, true
		}
	}
	return r.lookup(text)
}

// Where the addresses are in the IPv6 header, in octets.
const (
	sourceAt      = 8
	destinationAt = 24
)

// prefix matches an address of the header with a prefix: the octets of the prefix
// alone where it ends with one, as nft does it.
func (r *rule) prefix(text string, at int) (rest string, ok bool) {
	word, rest, _ := strings.Cut(text, " ")
	p, err := netip.ParsePrefix(word)
	if err != nil || !p.Addr().Is6() || p.Bits() == 0 {
		return "", false
	}
	r.establishIPv6()
	value := p.Masked().Addr().AsSlice()
	if p.Bits()%8 == 0 {
		value = value[:p.Bits()/8]
		r.loadPayload(unix.NFT_PAYLOAD_NETWORK_HEADER, at, len(value), firstRegister)
	} else {
		r.loadPayload(unix.NFT_PAYLOAD_NETWORK_HEADER, at, len(value), firstRegister)
		r.and(firstRegister, net.CIDRMask(p.Bits(), 128))
	}
	r.compare(value)
	return rest, true
}

// establishIPv6 matches IPv6, on which what follows depends.
func (r *rule) establishIPv6() {
	if !r.ip6 {
		r.ip6 = true
		r.loadMeta(unix.NFT_META_PROTOCOL, firstRegister)
		r.compare(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6))
	}
}

// icmp matches the ICMPv6 type, or type and code at once.
func (r *rule) icmp(text string) (rest string, ok bool) {
	number, rest, _ := strings.Cut(text, " ")
	if number == "echo-request" {
		number = "128"
	}
	kind, err := strconv.ParseUint(number, 10, 8)
	value := []byte{byte(kind)}
	if after, found := strings.CutPrefix(rest, "icmpv6 code "); found && err == nil {
		number, rest, _ = strings.Cut(after, " ")
		var code uint64
		code, err = strconv.ParseUint(number, 10, 8)
		value = append(value, byte(code))
	}
	if err != nil {
		return "", false
	}
	r.loadPayload(unix.NFT_PAYLOAD_LL_HEADER, 12, 2, firstRegister)
	r.compare(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6))
	r.loadMeta(unix.NFT_META_L4PROTO, firstRegister)
	r.compare([]byte{unix.IPPROTO_ICMPV6})
	r.loadPayload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, len(value), firstRegister)
	r.compare(value)
	return rest, true
}

// lookup matches a key against a set, or follows a map's verdict.
func (r *rule) lookup(text string) (rest string, ok bool) {
	key, after, found := strings.Cut(text, "@")
	for found && strings.HasPrefix(after, "th,") { // a field, not the set
		field, more, still := strings.Cut(after, "@")
		key, after, found = key+"@"+field, more, still
	}
	if !found {
		return "", false
	}
	set, rest, _ := strings.Cut(after, " ")
	key, isMap := strings.CutSuffix(key, "vmap ")
	key, not := strings.CutSuffix(key, "!= ")
	if _, loaded := r.loadAll(strings.TrimSuffix(key, " "), firstRegister); !loaded || isMap && (rest != "" || not) {
		return "", false
	}
	r.search(set, isMap, not)
	return rest, true
}

// loadAll puts the fields of a key into registers, one behind the other, and
// returns how many octets they take there.
func (r *rule) loadAll(key string, register uint32) (octets int, ok bool) {
	if strings.Contains(key, "ip6 ") {
		r.establishIPv6() // before them all
	}
	for field := range strings.SplitSeq(key, " . ") {
		size, ok := r.load(field, register+uint32(octets/4))
		if !ok {
			return 0, false
		}
		octets += (size + 3) &^ 3
	}
	return octets, true
}

// setMarkToHash sets the mark to a number that follows from the fields.
func (r *rule) setMarkToHash(text string) (rest string, ok bool) {
	fields, after, _ := strings.Cut(text, " mod ")
	words := strings.Fields(after)
	if len(words) != 5 || words[1] != "seed" || words[3] != "offset" {
		return "", false
	}
	var numbers [3]uint32
	for i := range numbers {
		n, err := strconv.ParseUint(words[2*i], 0, 32)
		if err != nil {
			return "", false
		}
		numbers[i] = uint32(n)
	}
	const fieldsAt = firstRegister + 4
	octets, loaded := r.loadAll(fields, fieldsAt)
	if !loaded {
		return "", false
	}
	r.expression("hash", func(a *attributes) {
		a.number(unix.NFTA_HASH_SREG, fieldsAt)
		a.number(unix.NFTA_HASH_DREG, firstRegister)
		a.number(unix.NFTA_HASH_LEN, uint32(octets))
		a.number(unix.NFTA_HASH_MODULUS, numbers[0])
		a.number(unix.NFTA_HASH_SEED, numbers[1])
		a.number(unix.NFTA_HASH_OFFSET, numbers[2])
		a.number(unix.NFTA_HASH_TYPE, unix.NFT_HASH_JENKINS)
	})
	r.storeMark()
	return "", true
}

// load puts a field of the packet into the register and those behind it.
func (r *rule) load(field string, register uint32) (size int, ok bool) {
	mask := ""
	if inner, found := strings.CutPrefix(field, "("); found {
		if inner, found = strings.CutSuffix(inner, ")"); !found {
			return 0, false
		}
		if field, mask, found = strings.Cut(inner, " & "); !found {
			return 0, false
		}
	}
	switch {
	case field == "iif":
		size = 4
		r.loadMeta(unix.NFT_META_IIF, register)
	case field == "iifname":
		size = unix.IFNAMSIZ
		r.loadMeta(unix.NFT_META_IIFNAME, register)
	case field == "oifname":
		size = unix.IFNAMSIZ
		r.loadMeta(unix.NFT_META_OIFNAME, register)
	case field == "meta l4proto":
		size = 1
		r.loadMeta(unix.NFT_META_L4PROTO, register)
		r.byteOrder(register) // as nft does in a key of several fields
	case field == "th dport":
		size = 2
		r.loadPayload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, size, register)
	case field == "ether saddr":
		size = 6
		r.loadPayload(unix.NFT_PAYLOAD_LL_HEADER, 6, size, register)
	case field == "ip6 saddr":
		size = 16
		r.loadPayload(unix.NFT_PAYLOAD_NETWORK_HEADER, sourceAt, size, register)
	case field == "ip6 daddr":
		size = 16
		r.loadPayload(unix.NFT_PAYLOAD_NETWORK_HEADER, destinationAt, size, register)
	case strings.HasPrefix(field, "@th,"):
		var offset int
		if offset, size, ok = transportField(field[len("@th,"):]); !ok {
			return 0, false
		}
		r.loadPayload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, offset/8, size, register)
	default:
		return 0, false
	}
	if mask == "" {
		return size, true
	}
	var bits []byte
	if digits, isHex := strings.CutPrefix(mask, "0x"); isHex {
		bits, _ = hex.DecodeString(digits)
	} else if a, err := netip.ParseAddr(mask); err == nil {
		bits = a.AsSlice()
	}
	if len(bits) != size {
		return 0, false
	}
	r.and(register, bits)
	return size, true
}

// expression appends one by its name, with the attributes that fill writes.
func (r *rule) expression(name string, fill func(a *attributes)) {
	a := &r.expressions
	whole := a.nest(unix.NFTA_LIST_ELEM)
	a.text(unix.NFTA_EXPR_NAME, name)
	data := a.nest(unix.NFTA_EXPR_DATA)
	fill(a)
	a.end(data)
	a.end(whole)
}

func (r *rule) loadMeta(key int, register uint32) {
	r.expression("meta", func(a *attributes) {
		a.number(unix.NFTA_META_KEY, uint32(key))
		a.number(unix.NFTA_META_DREG, register)
	})
}

func (r *rule) loadPayload(base, offset, size int, register uint32) {
	r.expression("payload", func(a *attributes) {
		a.number(unix.NFTA_PAYLOAD_DREG, register)
		a.number(unix.NFTA_PAYLOAD_BASE, uint32(base))
		a.number(unix.NFTA_PAYLOAD_OFFSET, uint32(offset))
		a.number(unix.NFTA_PAYLOAD_LEN, uint32(size))
	})
}

func (r *rule) compare(value []byte) {
	r.expression("cmp", func(a *attributes) {
		a.number(unix.NFTA_CMP_SREG, firstRegister)
		a.number(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ)
		a.value(unix.NFTA_CMP_DATA, value)
	})
}

func (r *rule) byteOrder(register uint32) {
	r.expression("byteorder", func(a *attributes) {
		a.number(unix.NFTA_BYTEORDER_SREG, register)
		a.number(unix.NFTA_BYTEORDER_DREG, register)
		a.number(unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON)
		a.number(unix.NFTA_BYTEORDER_LEN, 1)
		a.number(unix.NFTA_BYTEORDER_SIZE, 2)
	})
}

func (r *rule) and(register uint32, mask []byte) {
	r.expression("bitwise", func(a *attributes) {
		a.number(unix.NFTA_BITWISE_SREG, register)
		a.number(unix.NFTA_BITWISE_DREG, register)
		a.number(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		a.value(unix.NFTA_BITWISE_MASK, mask)
		a.value(unix.NFTA_BITWISE_XOR, make([]byte, len(mask)))
	})
}

func (r *rule) search(set string, isMap, not bool) {
	r.expression("lookup", func(a *attributes) {
		a.text(unix.NFTA_LOOKUP_SET, set)
		a.number(unix.NFTA_LOOKUP_SREG, firstRegister)
		if isMap {
			a.number(unix.NFTA_LOOKUP_DREG, unix.NFT_REG_VERDICT)
		}
		if not {
			a.number(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
		}
	})
}

func (r *rule) setMark(mark uint32) {
	r.expression("immediate", func(a *attributes) {
		a.number(unix.NFTA_IMMEDIATE_DREG, firstRegister)
		a.value(unix.NFTA_IMMEDIATE_DATA, binary.NativeEndian.AppendUint32(nil, mark))
	})
	r.storeMark()
}

func (r *rule) storeMark() {
	r.expression("meta", func(a *attributes) {
		a.number(unix.NFTA_META_KEY, unix.NFT_META_MARK)
		a.number(unix.NFTA_META_SREG, firstRegister)
	})
}

func (r *rule) immediateVerdict(v verdict) {
	r.expression("immediate", func(a *attributes) {
		a.number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		data := a.nest(unix.NFTA_IMMEDIATE_DATA)
		v.attach(a)
		a.end(data)
	})
}
