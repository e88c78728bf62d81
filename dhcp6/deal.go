package dhcp6

import (
	"bytes"
	"net/netip"

	"github.com/sixacre/sixacre"
)

// deal says which IA of a message carries the NIC's address and each of its
// prefixes. It follows from the message and the NIC alone, so renewals, reboots
// and other replicas come to the same deal with nothing remembered, as long as
// the client names what it was given.
type deal struct {
	address  int                       // index of the IA_NA that gets it, or -1
	prefixes [sixacre.MaxPrefixes]int8 // index of the IA_PD that gets each, or -1
}

// newDeal deals the NIC's leases out over the IAs. What the client names in an
// IA stays there. The rest goes over the IAs in the order of their IAIDs: first
// to an IA that wishes for that length (RFC 8168) and has nothing yet, then to
// the IA that has the fewest, so that none goes without if there is enough.
// skip marks the IAs that get nothing. Only the entries of the NIC's prefixes
// mean something.
func newDeal(q *Query, address netip.Addr, prefixes []netip.Prefix, skip uint32) deal {
	na, pd := -1, -1 // the only IA of its kind
	for i := range q.IAs {
		if skip&(1<<i) != 0 {
			continue
		}
		only := &na
		if q.IAs[i].Option == OptionIAPD {
			only = &pd
		}
		if *only >= 0 {
			return dealOut(q, address, prefixes, skip)
		}
		*only = i
	}
	d := deal{address: -1}
	if address.IsValid() {
		d.address = na
	}
	for k := range prefixes {
		d.prefixes[k] = int8(pd)
	}
	return d
}

// dealOut is newDeal where there is a choice.
func dealOut(q *Query, address netip.Addr, prefixes []netip.Prefix, skip uint32) deal {
	d := deal{address: -1}
	for i := range d.prefixes {
		d.prefixes[i] = -1
	}
	var array [MaxIAs]int8
	order := byIAID(q.IAs, &array)

	named := false
	var has [MaxIAs]uint8
	for _, i := range order {
		ia := q.IAs[i]
		if skip&(1<<i) != 0 {
			continue
		}
		if ia.Option == OptionIANA {
			if !address.IsValid() || named {
				continue
			}
			if d.address < 0 {
				d.address = int(i)
			}
			for a, ok := ia.NextAddress(); ok; a, ok = ia.NextAddress() {
				if a == address {
					d.address, named = int(i), true
					break
				}
			}
			continue
		}
		for p, ok := ia.NextPrefix(); ok; p, ok = ia.NextPrefix() {
			for k, own := range prefixes {
				if own == p && d.prefixes[k] < 0 {
					d.prefixes[k] = i
					has[i]++
				}
			}
		}
	}
	for _, i := range order {
		ia := q.IAs[i]
		if ia.Option != OptionIAPD || has[i] != 0 || skip&(1<<i) != 0 {
			continue
		}
		for p, ok := ia.NextPrefix(); ok && has[i] == 0; p, ok = ia.NextPrefix() {
			if !p.Addr().IsUnspecified() {
				continue
			}
			for k, own := range prefixes {
				if own.Bits() == p.Bits() && d.prefixes[k] < 0 {
					d.prefixes[k] = i
					has[i]++
					break
				}
			}
		}
	}
	for k := range prefixes {
		if d.prefixes[k] >= 0 {
			continue
		}
		best := int8(-1)
		for _, i := range order {
			if q.IAs[i].Option == OptionIAPD && skip&(1<<i) == 0 && (best < 0 || has[i] < has[best]) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		d.prefixes[k] = best
		has[best]++
	}
	return d
}

// byIAID returns the indexes of the IAs ordered by IAID, and among equals as in
// the message, in the array given.
func byIAID(ias []IA, array *[MaxIAs]int8) []int8 {
	order := array[:len(ias)]
	for i := range ias {
		at := i
		for ; at > 0 && bytes.Compare(ias[i].ID[:], ias[order[at-1]].ID[:]) < 0; at-- {
			order[at] = order[at-1]
		}
		order[at] = int8(i)
	}
	return order
}
