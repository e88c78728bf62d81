package nft

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// counting is a set whose elements packets make.
type counting struct {
	family      byte
	table, name string
	keyType     uint32
}

// Types of their keys, as nft numbers them: the name of a port, that and the
// mark, the mark alone.
const (
	byPort       = 41
	byPortAndKey = 41<<6 | 19
	byMark       = 19
)

// port is the name of the port that the element is about, "" where it is not the
// name that tells.
func (c counting) port(e element) string {
	if (c.keyType == byPort || c.keyType == byPortAndKey) && len(e.key) >= unix.IFNAMSIZ {
		return cString(e.key[:unix.IFNAMSIZ])
	}
	return ""
}

// mark is the number that the element's key ends with.
func (c counting) mark(e element) (uint32, bool) {
	if c.keyType == byPort || len(e.key) < 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(e.key[len(e.key)-4:]), true
}

// countings returns all such sets of our tables.
func countings(conn *netlink.Conn) ([]counting, error) {
	var out []counting
	for _, t := range ourTables {
		var which attributes
		which.text(unix.NFTA_SET_TABLE, t.table)
		err := dump(conn, unix.NFT_MSG_GETSET, families[t.family], which, func(family byte, octets []byte) {
			c := counting{family: family, table: t.table}
			var flags uint32
			for kind, value := range each(octets) {
				switch {
				case kind == unix.NFTA_SET_NAME:
					c.name = cString(value)
				case kind == unix.NFTA_SET_FLAGS && len(value) == 4:
					flags = binary.BigEndian.Uint32(value)
				case kind == unix.NFTA_SET_KEY_TYPE && len(value) == 4:
					c.keyType = binary.BigEndian.Uint32(value)
				}
			}
			if flags&unix.NFT_SET_EVAL != 0 {
				out = append(out, c)
			}
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("listing sets of %s %s: %w", t.family, t.table, err)
		}
	}
	return out, nil
}

// Drops returns what the filter dropped, by port, direction and reason.
func (k *Kernel) Drops(context.Context) ([]firewall.Drop, error) {
	conn, err := dial() // of its own: reading need not wait for a change
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	sets, err := countings(conn)
	if err != nil {
		return nil, err
	}
	var out []firewall.Drop
	for _, set := range sets {
		directions := map[string]sixacre.Direction{firewall.DroppedFrom: sixacre.Out, firewall.DroppedTo: sixacre.In, firewall.RefusedSet: ""}
		direction, counts := directions[set.name]
		if !counts {
			continue
		}
		err := elementsOf(conn, set.family, set.table, set.name, func(e element) {
			mark, ok := set.mark(e)
			if !ok {
				return
			}
			d := firewall.Drop{Device: set.port(e), Direction: direction, Reason: firewall.Reason(mark), Packets: e.packets, Bytes: e.bytes}
			if set.name == firewall.RefusedSet {
				var index int
				index, d.Direction = firewall.Refused(mark)
				d.Device, d.Reason = portName(uint32(index)), firewall.TooManyConnections
			}
			out = append(out, d)
		})
		if err != nil {
			return nil, fmt.Errorf("reading set %s: %w", set.name, err)
		}
	}
	slices.SortFunc(out, func(a, b firewall.Drop) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), -cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Reason, b.Reason))
	})
	return out, nil
}

// Forget removes what packets left in our tables of the ports' guests: what was
// counted, the state of rate limits, and lists of connections.
func (k *Kernel) Forget(_ context.Context, ports []firewall.Port) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	conn, err := k.connect()
	if err != nil {
		return err
	}
	sets, err := countings(conn)
	if err != nil {
		k.reset()
		return err
	}
	named := map[string]bool{}
	for _, p := range ports {
		named[p.Device] = p.Device != ""
	}
	for _, set := range sets {
		var theirs []element
		err := elementsOf(conn, set.family, set.table, set.name, func(e element) {
			mark, hasMark := set.mark(e)
			if named[set.port(e)] || set.keyType == byMark && hasMark && slices.ContainsFunc(ports, func(p firewall.Port) bool { return p.CountedBy(mark) }) {
				theirs = append(theirs, element{key: e.key})
			}
		})
		if err != nil {
			k.reset()
			return fmt.Errorf("reading set %s: %w", set.name, err)
		}
		if err := k.remove(set, theirs); err != nil {
			return fmt.Errorf("removing elements of set %s: %w", set.name, err)
		}
		if conn, err = k.connect(); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes elements, of which any may be gone by itself meanwhile.
func (k *Kernel) remove(set counting, elements []element) error {
	if len(elements) == 0 {
		return nil
	}
	var b batch
	b.elements(unix.NFT_MSG_DELSETELEM, 0, set.family, set.table, set.name, elements)
	err := k.amend(b)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if len(elements) == 1 {
		return nil
	}
	half := len(elements) / 2
	return cmp.Or(k.remove(set, elements[:half]), k.remove(set, elements[half:]))
}

// amend commits a batch that is about what packets made, whatever else our tables
// hold: drift is not for it to repair.
func (k *Kernel) amend(b batch) error {
	err := k.transact(b)
	if errors.Is(err, errDrift) {
		err = k.transact(b)
	}
	return err
}

// Hold keeps guests from going on with flows that others had opened to them, for
// as long as they try, and 10 minutes more. Where there is no room for all, the
// first are held.
func (k *Kernel) Hold(_ context.Context, flows []sixacre.Flow) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for some := range slices.Chunk(flows, 1000) {
		change := firewall.Hold(some)
		if len(change) == 0 {
			continue
		}
		b, ok := batchOf(change)
		if !ok {
			return fmt.Errorf("holding flows: %s is not understood", change)
		}
		if err := k.amend(b); err != nil {
			return fmt.Errorf("holding flows: %w", err)
		}
	}
	return nil
}
