package dhcp6

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/sixacre/sixacre"
)

// What a client is told when it asks, in seconds: the defaults of section 7.6.
const (
	solMaxRT               = 3600
	infMaxRT               = 3600
	informationRefreshTime = 86400
)

// Pod is a pod together with what an answer says of it, encoded once. It does
// not change, so any number of readers may share it.
type Pod struct {
	sixacre.Pod

	link      uint64 // the first half of the addresses on its link
	options   []podOption
	lifetimes [8]byte // preferred and valid, as in an IA Address
	t1, t2    sixacre.Seconds
}

// podOption is an option that a client gets if it asks for it.
type podOption struct {
	code  OptionCode
	bytes []byte // with code and length
}

// NewPod prepares a pod.
func NewPod(pod sixacre.Pod) *Pod {
	p := &Pod{Pod: pod}
	p.link = firstHalf(pod.LinkPrefix.Addr())
	binary.BigEndian.PutUint32(p.lifetimes[:], uint32(pod.PreferredLifetime))
	binary.BigEndian.PutUint32(p.lifetimes[4:], uint32(pod.ValidLifetime))
	p.t1, p.t2 = timers(pod.PreferredLifetime)

	var servers, domains []byte
	for _, server := range pod.DNS {
		servers = append(servers, server.AsSlice()...)
	}
	for _, name := range pod.Domains {
		domains = appendName(domains, name)
	}
	p.add(OptionDNSServers, servers)
	p.add(OptionDomainList, domains)
	for _, server := range pod.NTP {
		p.add(OptionNTPServer, appendNTP(nil, server))
	}
	for _, o := range pod.Options {
		p.options = append(p.options, podOption{OptionCode(o.Code), AppendOption(nil, OptionCode(o.Code), o.Value)})
	}
	p.add(OptionInformationRefreshTime, binary.BigEndian.AppendUint32(nil, informationRefreshTime))
	p.add(OptionSolMaxRT, binary.BigEndian.AppendUint32(nil, solMaxRT))
	p.add(OptionInfMaxRT, binary.BigEndian.AppendUint32(nil, infMaxRT))
	return p
}

// add keeps an option unless it would be empty.
func (p *Pod) add(code OptionCode, data []byte) {
	if len(data) > 0 {
		p.options = append(p.options, podOption{code, AppendOption(nil, code, data)})
	}
}

// onLink reports whether the address is one of the pod's link: its prefix is a
// /64.
func (p *Pod) onLink(a netip.Addr) bool { return firstHalf(a) == p.link }

func firstHalf(a netip.Addr) uint64 {
	octets := a.As16()
	return binary.BigEndian.Uint64(octets[:])
}

// timers returns T1 and T2 for leases of that preferred lifetime (sections 21.4
// and 21.21). All leases of a pod have the same, so it is the shortest too.
func timers(preferred sixacre.Seconds) (t1, t2 sixacre.Seconds) {
	if preferred == sixacre.Infinity {
		return sixacre.Infinity, sixacre.Infinity
	}
	return preferred / 2, sixacre.Seconds(uint64(preferred) * 4 / 5)
}

// Suboptions of the NTP Server option (RFC 5908 section 4).
const (
	ntpServerAddress    OptionCode = 1
	ntpMulticastAddress OptionCode = 2
	ntpServerName       OptionCode = 3
)

// appendNTP appends the one suboption that an NTP Server option holds.
func appendNTP(b []byte, server sixacre.NTPServer) []byte {
	switch {
	case server.Name != "":
		return AppendOption(b, ntpServerName, appendName(nil, server.Name))
	case server.Address.IsMulticast():
		return AppendOption(b, ntpMulticastAddress, server.Address.AsSlice())
	}
	return AppendOption(b, ntpServerAddress, server.Address.AsSlice())
}

// appendName appends a name in the form of RFC 1035 section 3.1, uncompressed
// (section 10).
func appendName(b []byte, name string) []byte {
	for name != "" {
		label, rest, _ := strings.Cut(name, ".")
		b = append(b, byte(len(label)))
		b = append(b, label...)
		name = rest
	}
	return append(b, 0)
}
