package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre/firewall"
)

// attributes are netlink attributes one behind the other, as the kernel reads
// them: numbers are big-endian.
type attributes []byte

func (a *attributes) octets(kind uint16, value []byte) {
	*a = binary.NativeEndian.AppendUint16(*a, uint16(4+len(value)))
	*a = binary.NativeEndian.AppendUint16(*a, kind)
	*a = append(*a, value...)
	a.pad()
}

func (a *attributes) pad() {
	for len(*a)%4 != 0 {
		*a = append(*a, 0)
	}
}

func (a *attributes) text(kind uint16, value string) {
	*a = binary.NativeEndian.AppendUint16(*a, uint16(4+len(value)+1))
	*a = binary.NativeEndian.AppendUint16(*a, kind)
	*a = append(append(*a, value...), 0)
	a.pad()
}

func (a *attributes) number(kind uint16, value uint32) {
	a.octets(kind, binary.BigEndian.AppendUint32(nil, value))
}

// nest opens an attribute that holds others; end closes it.
func (a *attributes) nest(kind uint16) (opened int) {
	opened = len(*a)
	a.octets(kind|unix.NLA_F_NESTED, nil)
	return opened
}

func (a *attributes) end(opened int) {
	binary.NativeEndian.PutUint16((*a)[opened:], uint16(len(*a)-opened))
}

// value appends octets as the kernel's data.
func (a *attributes) value(kind uint16, octets []byte) {
	data := a.nest(kind)
	a.octets(unix.NFTA_DATA_VALUE, octets)
	a.end(data)
}

// each goes through attributes that the kernel sent, whatever follows the first
// that is cut short left out.
func each(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			length := int(binary.NativeEndian.Uint16(b))
			if length < 4 || length > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:length]) {
				return
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}

// cString is what stands before the octet 0.
func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

var families = map[string]byte{"bridge": unix.NFPROTO_BRIDGE, "ip6": unix.NFPROTO_IPV6}

func familyName(family byte) string {
	for name, f := range families {
		if f == family {
			return name
		}
	}
	return ""
}

// ourTables are this program's.
var ourTables = []struct{ family, table string }{{"bridge", firewall.BridgeTable}, {"ip6", firewall.ConntrackTable}}

// ours reports whether the table is one of this program's.
func ours(family, table string) bool {
	for _, t := range ourTables {
		if t.family == family && t.table == table {
			return true
		}
	}
	return false
}

// message returns one of nf_tables' messages.
func message(kind int, flags netlink.HeaderFlags, family byte, a attributes) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, a...), // struct nfgenmsg
	}
}

// buffer is room for the largest batch.
const buffer = 16 << 20

// dial opens a connection to the firewall of the network namespace. Closing one
// may take some milliseconds: the kernel first takes apart all that was deleted.
func dial() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err == nil {
		if err = conn.SetWriteBuffer(buffer); err == nil {
			return conn, nil
		}
		conn.Close()
	}
	return nil, fmt.Errorf("talking to the kernel's firewall: %w", err)
}

// dump asks for all objects of a kind, and gives each one's attributes.
func dump(conn *netlink.Conn, kind int, family byte, filter attributes, take func(family byte, attributes []byte)) error {
	if _, err := conn.Send(message(kind, netlink.Dump, family, filter)); err != nil {
		return err
	}
	for m, err := range conn.ReceiveIter() {
		if err != nil {
			return err
		}
		if len(m.Data) >= 4 {
			take(m.Data[0], m.Data[4:])
		}
	}
	return nil
}

// ask asks for one object and gives its attributes.
func ask(conn *netlink.Conn, kind int, family byte, which attributes) ([]byte, error) {
	if _, err := conn.Send(message(kind, 0, family, which)); err != nil {
		return nil, err
	}
	replies, err := conn.Receive()
	if err != nil {
		return nil, err
	}
	if len(replies) == 0 || len(replies[0].Data) < 4 {
		return nil, errors.New("the kernel's answer is cut short")
	}
	return replies[0].Data[4:], nil
}

// generation returns the number that the kernel counts up with every commit.
func generation(conn *netlink.Conn) (uint32, error) {
	answer, err := ask(conn, unix.NFT_MSG_GETGEN, 0, nil)
	if err != nil {
		return 0, fmt.Errorf("asking the firewall's generation: %w", err)
	}
	for kind, value := range each(answer) {
		if kind == unix.NFTA_GEN_ID && len(value) == 4 {
			return binary.BigEndian.Uint32(value), nil
		}
	}
	return 0, errors.New("the kernel did not say the firewall's generation")
}

// batch is messages that are one transaction.
type batch []netlink.Message

func (b *batch) add(kind int, flags netlink.HeaderFlags, family byte, a attributes) {
	*b = append(*b, message(kind, flags, family, a))
}

// send has the kernel do the whole batch, or nothing of it and ERESTART where
// the generation is not that one any more. After an error the connection is of no
// more use: more may come.
func (b batch) send(conn *netlink.Conn, generation uint32) error {
	const subsystem = unix.NFNL_SUBSYS_NFTABLES // big-endian in the header's last field
	edge := func(kind int, a attributes) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
			Data:   append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, subsystem}, a...),
		}
	}
	var expected attributes
	expected.number(unix.NFNL_BATCH_GENID, generation)
	messages := append(batch{edge(unix.NFNL_MSG_BATCH_BEGIN, expected)}, b...)
	messages[len(messages)-1].Header.Flags |= netlink.Acknowledge
	messages = append(messages, edge(unix.NFNL_MSG_BATCH_END, nil))
	if _, err := conn.SendMessages(messages); err != nil {
		return err
	}
	// The kernel answers when all is done: with the first message that failed, if
	// one did, else with the word that the last one did not.
	_, err := conn.Receive()
	return err
}
