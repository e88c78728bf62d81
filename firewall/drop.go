package firewall

import "github.com/sixacre/sixacre"

// Drop is what was dropped at a port for one reason since the filter was loaded,
// or since the port's guest changed.
type Drop struct {
	Device         string // the port
	Direction      sixacre.Direction
	Reason         Reason
	Packets, Bytes uint64
}

// CountedBy reports whether the key of a list of connections, or of the set of
// those refused, is the port's.
func (p Port) CountedBy(mark uint32) bool {
	index, _ := Refused(mark)
	return mark&newMark != 0 && index == p.Index&indexMask
}
