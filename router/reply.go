package router

import (
	"encoding/binary"
	"net/netip"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// iaPrefix is one IA Prefix option inside an IA_PD (RFC 9915 sections 21.21 and
// 21.22).
type iaPrefix struct {
	iaid   uint32
	prefix netip.Prefix
	valid  sixacre.Seconds
}

// delegation is what a message says of prefixes.
type delegation struct {
	status   dhcp6.StatusCode // of the message; Success where it has none (section 21.13)
	prefixes []iaPrefix       // of the IA_PDs whose own status is Success
	refused  map[uint32]bool  // IAIDs of the others
}

const (
	iaHeader     = 12
	prefixHeader = 25
)

// parseDelegation reads the IA_PDs of a client's or a server's message. A
// message that is not well-formed to its last octet says nothing.
func parseDelegation(message []byte) (delegation, error) {
	d := delegation{refused: map[uint32]bool{}}
	if len(message) < 4 {
		return delegation{}, dropTruncated
	}
	options := dhcp6.Options(message[4:])
	for {
		code, data, ok := options.Next()
		if !ok {
			break
		}
		switch code {
		case dhcp6.OptionStatusCode:
			if len(data) < 2 {
				return delegation{}, dropTruncated
			}
			d.status = dhcp6.StatusCode(binary.BigEndian.Uint16(data))
		case dhcp6.OptionIAPD:
			if err := d.readIA(data); err != nil {
				return delegation{}, err
			}
		}
	}
	if len(options) != 0 {
		return delegation{}, dropTruncated
	}
	return d, nil
}

func (d *delegation) readIA(b []byte) error {
	if len(b) < iaHeader {
		return dropTruncated
	}
	iaid := binary.BigEndian.Uint32(b)
	options := dhcp6.Options(b[iaHeader:])
	first := len(d.prefixes)
	status := dhcp6.StatusSuccess
	for {
		code, data, ok := options.Next()
		if !ok {
			break
		}
		switch code {
		case dhcp6.OptionStatusCode:
			if len(data) < 2 {
				return dropTruncated
			}
			status = dhcp6.StatusCode(binary.BigEndian.Uint16(data))
		case dhcp6.OptionIAPrefix:
			p, ok, err := readPrefix(data)
			if err != nil {
				return err
			}
			if ok {
				p.iaid = iaid
				d.prefixes = append(d.prefixes, p)
			}
		}
	}
	if len(options) != 0 {
		return dropTruncated
	}
	if status != dhcp6.StatusSuccess {
		d.refused[iaid] = true
		d.prefixes = d.prefixes[:first]
	}
	return nil
}

// readPrefix reads an IA Prefix. The second result is false for one that a
// client throws away: its preferred lifetime is longer than its valid one
// (section 21.22), or its own status is not Success.
func readPrefix(b []byte) (iaPrefix, bool, error) {
	if len(b) < prefixHeader {
		return iaPrefix{}, false, dropTruncated
	}
	preferred, valid := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if b[8] > 128 {
		return iaPrefix{}, false, dropTruncated
	}
	// The bits beyond the length are reserved, and the receiver ignores them.
	prefix := netip.PrefixFrom(netip.AddrFrom16([16]byte(b[9:25])), int(b[8])).Masked()
	keep := preferred <= valid
	options := dhcp6.Options(b[prefixHeader:])
	for {
		code, data, ok := options.Next()
		if !ok {
			break
		}
		if code != dhcp6.OptionStatusCode {
			continue
		}
		if len(data) < 2 {
			return iaPrefix{}, false, dropTruncated
		}
		keep = keep && dhcp6.StatusCode(binary.BigEndian.Uint16(data)) == dhcp6.StatusSuccess
	}
	if len(options) != 0 {
		return iaPrefix{}, false, dropTruncated
	}
	return iaPrefix{prefix: prefix, valid: sixacre.Seconds(valid)}, keep, nil
}
