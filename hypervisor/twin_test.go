package hypervisor_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// twin is the policy said a second time, packet by packet: slow, naive, and
// written from the RFCs and the guide to the filter, never from the ruleset. The
// tests send the same frames through the kernel and compare what comes out where.
//
// It stands for a host with one bridge whose ports are the uplink behind the end
// "wire" and tap1, tap2, … behind "guest1", "guest2", …. The bridge knows who has
// which MAC and learns nothing, and rates are not limited.
type twin struct {
	host        firewall.Host
	connections []*connection
	waiting     reassembler
}

// guest is a programmed tap: the end of its veth pair, the NIC and its pod.
type guest struct {
	end string
	nic sixacre.NIC
	pod sixacre.Pod
}

const wire = "wire"

const (
	passed    = "" // the reason that is none
	elsewhere = "the bridge sends it elsewhere"

	badRouting = "routing header type 0 (RFC 5095), or two of them"
)

// send hands the twin a frame that comes in at an end. It returns what comes out
// at the others: whole is the frame, or the packet that its fragments make, and
// for each end the reason why it does not come out there.
func (w *twin) send(from string, f []byte) (whole []byte, why map[string]string) {
	p := read(f)
	reason := w.stateless(from, p)
	if reason == passed {
		reason = p.malformed
	}
	if reason == passed && p.ethertype == ethIPv6 {
		if f = w.waiting.add(p); f == nil {
			reason = "waits for other fragments, or overlaps them"
		} else {
			p = read(f)
			reason = p.malformed
		}
	}
	if reason != passed {
		return nil, w.others(from, reason)
	}
	why = w.others(from, elsewhere)
	state, c := w.track(p)
	arrived := false
	for to := range why {
		if !w.bridged(from, to, p.dstMAC) {
			continue
		}
		why[to] = w.stateful(from, to, p, state, c)
		arrived = arrived || why[to] == passed
	}
	if arrived && state == isNew && c != nil && !slices.Contains(w.connections, c) {
		w.connections = append(w.connections, c)
	}
	return f, why
}

// others gives the same reason to all other ends.
func (w *twin) others(from, reason string) map[string]string {
	why := map[string]string{}
	for _, to := range w.ends() {
		if to != from {
			why[to] = reason
		}
	}
	return why
}

func (w *twin) ends() []string { return []string{wire, "guest1", "guest2", "guest3"} }

// guest returns who is behind the end; nil where no NIC that runs is.
func (w *twin) guest(end string) *guest {
	for _, port := range w.host.Ports {
		if "guest"+port.Device[len("tap"):] != end || port.NIC.State == sixacre.Stopped {
			continue
		}
		g := &guest{end: end, nic: port.NIC}
		for _, p := range w.host.Pods {
			if p.Name == port.NIC.Pod {
				g.pod = p
			}
		}
		return g
	}
	return nil
}

// bridged reports whether a bridge that learns nothing and floods no tap sends
// the frame from one end to the other.
func (w *twin) bridged(from, to string, mac sixacre.MAC) bool {
	if mac[0]&1 != 0 {
		return true
	}
	for _, end := range w.ends() {
		if bytes.Equal(macOf(end), mac[:]) {
			return to == end
		}
	}
	return to == wire
}

// single reports whether the address is one that the guest answers for on the
// link: its link-locals, its address, and in a pod that lets it have the whole /64
// each address there that no other NIC of the host has and no relay of the pod.
func (w *twin) single(g *guest, a netip.Addr) bool {
	if a == g.nic.Address || slices.Contains(g.nic.LinkLocals(), a) {
		return true
	}
	if g.pod.AntiSpoof != sixacre.AntiSpoofLinkPrefix || !g.pod.LinkPrefix.Contains(a) {
		return false
	}
	anycast := g.pod.LinkPrefix.Masked().Addr() // of the routers (RFC 4291 section 2.6.1)
	return w.holder(a) == "" && !slices.Contains(g.pod.Relays, a) && a != anycast
}

// holder returns the end of the NIC whose record has the address, or "".
func (w *twin) holder(a netip.Addr) string {
	for _, end := range w.ends() {
		if g := w.guest(end); g != nil && (a == g.nic.Address || slices.Contains(g.nic.LinkLocals(), a) || inside(g.nic.Prefixes, a)) {
			return end
		}
	}
	return ""
}

// holds reports whether the guest may use the address at all.
func (w *twin) holds(g *guest, a netip.Addr) bool {
	return w.single(g, a) || inside(g.nic.Prefixes, a)
}

func inside(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Where ND and DHCPv6 are sent, and how far MLD goes.
var (
	allRouters     = netip.MustParseAddr("ff02::2")
	allDHCPServers = netip.MustParseAddr("ff02::1:2")
	solicitedNodes = netip.MustParsePrefix("ff02::1:ff00:0/104")
	linkScope      = netip.MustParsePrefix("ff02::/16")
)

// stateless judges a frame alone, as it comes in.
func (w *twin) stateless(from string, p reading) string {
	switch {
	case p.srcMAC[0]&1 != 0 || p.srcMAC == sixacre.MAC{}:
		return "no host has such a MAC"
	case from == wire:
		return w.fromUplink(p)
	}
	g := w.guest(from)
	switch {
	case g == nil:
		return "no NIC is behind the tap"
	case p.srcMAC != g.nic.MAC:
		return "MAC not its own"
	case p.ethertype == ethIPv4 || p.ethertype == ethARP:
		return passed
	case p.ethertype != ethIPv6:
		return "VLAN tag, 802.3 or another ethertype"
	case p.malformed != "":
		return p.malformed
	case p.src.IsUnspecified():
		return w.fromUnspecified(g, p)
	case slices.Contains(g.nic.LinkLocals(), p.src):
		return w.fromLinkLocal(g, p)
	case w.holds(g, p.src):
		return w.fromGlobal(g, p)
	}
	return "source not its own"
}

// fromUplink drops fragmented ND (RFC 6980 section 5) and what cannot be read.
func (w *twin) fromUplink(p reading) string {
	switch {
	case p.ethertype != ethIPv6:
		return passed
	case p.malformed != "":
		return p.malformed
	case p.sourceRouted:
		return badRouting
	case p.protocol == unknown && p.offset == 0:
		return "its header chain goes on in another fragment"
	case p.protocol == icmp6 && p.fragmented && p.offset == 0 && !p.errorOrEcho():
		return "fragmented ND"
	}
	return passed
}

// fromUnspecified: an address that is not yet the guest's own may ask whether it
// is free, for routers, and report its groups (RFC 4862 section 5.4.2, RFC 4861
// section 4.1, RFC 3810 section 5.2.13).
func (w *twin) fromUnspecified(g *guest, p reading) string {
	if p.protocol != icmp6 || p.offset > 0 || len(p.upper) == 0 {
		return "source :: for other than DAD, RS and MLD"
	}
	switch p.upper[0] {
	case 135:
		if reason := p.plainND(24); reason != passed {
			return reason
		}
		option := p.upper[24:]
		switch {
		case !solicitedNodes.Contains(p.dst):
			return "DAD to what is no solicited-node address"
		case !w.single(g, p.target()):
			return "DAD for an address not its own"
		case len(option) > 0 && !(len(option) == 8 && option[0] == 14 && option[1] == 1): // RFC 7527 section 3
			return "DAD with an option that is not one nonce"
		}
		return passed
	case 133:
		if reason := p.plainND(8); reason != passed {
			return reason
		}
		if p.dst != allRouters || len(p.upper) > 8 {
			return "RS not to all routers, or with its MAC from no address"
		}
		return passed
	}
	return p.mld()
}

// fromLinkLocal: ICMPv6 and the DHCPv6 client's messages.
func (w *twin) fromLinkLocal(g *guest, p reading) string {
	if p.sourceRouted {
		return badRouting
	}
	if p.protocol == icmp6 {
		return w.fromGuestICMPv6(g, p)
	}
	clients := []byte{1, 3, 4, 5, 6, 8, 9, 11} // Solicit, Request, … (RFC 9915 section 7.3)
	if !p.extended && p.udp(546, 547) && p.dst == allDHCPServers && len(p.upper) > 8 && slices.Contains(clients, p.upper[8]) {
		return passed
	}
	return "link-local: neither ICMPv6 nor a DHCPv6 client"
}

// fromGlobal: the guest's address, or one of its prefixes.
func (w *twin) fromGlobal(g *guest, p reading) string {
	switch {
	case p.sourceRouted:
		return badRouting
	case p.offset > 0:
		return passed // of no use without a first fragment
	case p.protocol == unknown:
		return "its header chain goes on in another fragment"
	case p.protocol == 255:
		return "a protocol that IANA reserves"
	case p.protocol == icmp6:
		return w.fromGuestICMPv6(g, p)
	case p.protocol != tcp && p.protocol != udp:
		return passed
	case len(p.upper) < 4:
		return "a first fragment without ports (RFC 7112)"
	case p.dport() == 547, p.protocol == udp && (p.dport() == 546 || p.sport() == 547):
		return "DHCPv6 server or relay"
	}
	return passed
}

func (w *twin) fromGuestICMPv6(g *guest, p reading) string {
	if p.offset > 0 {
		return passed // of no use without a first fragment
	}
	if len(p.upper) == 0 {
		return "ICMPv6 without a type"
	}
	mac := func(options []byte, kind byte) bool { // none, or that one
		return len(options) == 0 || bytes.Equal(options, append([]byte{kind, 1}, g.nic.MAC[:]...))
	}
	switch p.upper[0] {
	case 1, 2, 3, 4, 128, 129:
		return passed
	case 133:
		if reason := p.plainND(8); reason != passed {
			return reason
		}
		if p.dst != allRouters || !mac(p.upper[8:], 1) {
			return "RS not to all routers, or with a MAC not its own"
		}
		return passed
	case 135:
		if reason := p.plainND(24); reason != passed {
			return reason
		}
		if !mac(p.upper[24:], 1) {
			return "NS with a MAC not its own"
		}
		return passed
	case 136:
		if reason := p.plainND(24); reason != passed {
			return reason
		}
		if !w.single(g, p.target()) || !mac(p.upper[24:], 2) {
			return "NA for an address or with a MAC not its own"
		}
		return passed
	}
	return p.mld()
}

// plainND: what may be asked of any ND message of a guest with so many octets
// before its options (RFC 4861 sections 6.1.1, 7.1.1 and 7.1.2, RFC 6980).
func (p reading) plainND(octets int) string {
	switch {
	case p.extended:
		return "ND behind extension headers"
	case p.hops != 255:
		return "ND with a hop limit below 255"
	case len(p.upper) < octets || p.upper[1] != 0:
		return "malformed ND"
	}
	return passed
}

// mld lets reports through (RFC 2710 section 3.2, RFC 3810 section 5.2).
func (p reading) mld() string {
	switch {
	case p.upper[0] != 131 && p.upper[0] != 132 && p.upper[0] != 143:
		return "an ICMPv6 type that is not a guest's to send"
	case p.fragmented, p.routed, p.hops != 1, !linkScope.Contains(p.dst):
		return "MLD fragmented, routed or to beyond the link"
	}
	return passed
}

// stateful judges a whole packet between two ends.
func (w *twin) stateful(from, to string, p reading, s state, c *connection) string {
	source, target := w.guest(from), w.guest(to)
	if to != wire && target == nil {
		return "no NIC is behind the tap"
	}
	if p.ethertype != ethIPv6 {
		if to != wire && p.ethertype != ethIPv4 && p.ethertype != ethARP {
			return "VLAN tag, 802.3 or another ethertype"
		}
		return passed
	}
	if s == established {
		if target != nil && p.icmp(137) {
			return "redirect"
		}
		return passed
	}
	if source != nil {
		if reason := w.mayLeave(source, p, s); reason != passed {
			return reason
		}
	}
	if target != nil {
		return w.mayEnter(target, from, p, s, c)
	}
	return passed
}

// mayLeave judges what a guest sends that answers nothing.
func (w *twin) mayLeave(g *guest, p reading, s state) string {
	switch {
	case p.protocol == icmp6 && !p.icmp(128):
		return passed // judged as it came in
	case p.udp(546, 547) && p.dst == allDHCPServers && p.src.IsLinkLocalUnicast():
		return passed
	case p.protocol != icmp6 && (p.dst.IsLinkLocalUnicast() || linkScope.Contains(p.dst)):
		return "link-local: neither ICMPv6 nor a DHCPv6 client"
	case p.sourceRouted:
		return badRouting
	case s == invalid:
		return "belongs to no connection"
	case w.allows(g, sixacre.Out, p, p.dst):
		return passed
	}
	return "no rule lets it out"
}

// Errors but Packet Too Big, and types that are for routers or for other hosts
// alone, whatever a rule says (RFC 4890 sections 4.3 and 4.4).
var (
	otherErrors  = []byte{1, 3, 4}
	notForGuests = []byte{131, 132, 133, 137, 138, 141, 142, 143, 148, 149, 151, 152, 153}
)

// mayEnter judges what a guest is sent and did not ask for.
func (w *twin) mayEnter(g *guest, from string, p reading, s state, c *connection) string {
	known := c != nil && slices.Contains(w.connections, c)
	stolen := from == wire && !known && w.holder(p.src) != ""
	opens := !p.dst.IsMulticast() && (p.protocol != icmp6 || len(p.upper) == 0 || p.upper[0] == 128 || p.upper[0] == 139)
	if stolen && opens {
		return "from the uplink, with an address that a guest here holds"
	}
	if p.protocol == icmp6 && len(p.upper) > 0 {
		switch kind := p.upper[0]; {
		case kind == 2:
			return passed
		case slices.Contains(otherErrors, kind):
			if len(p.upper) < 32 || !w.holds(g, p.quoted()) {
				return "an error about a packet that the guest cannot have sent"
			}
			return passed
		case kind == 128 && g.pod.Echo != sixacre.EchoRules && (p.src.IsLinkLocalUnicast() || p.dst.IsLinkLocalUnicast() || p.dst.IsMulticast()):
			return passed
		case kind == 130, kind == 134:
			if p.hops != map[byte]byte{130: 1, 134: 255}[kind] || !p.src.IsLinkLocalUnicast() {
				return "MLD query or RA from off the link"
			}
			return passed
		case kind == 135:
			if p.hops != 255 || len(p.upper) < 24 || !w.single(g, p.target()) {
				return "NS from off the link, or for another"
			}
			return passed
		case kind == 136:
			if p.hops != 255 {
				return "NA from off the link"
			}
			return passed
		case slices.Contains(notForGuests, kind):
			return "an ICMPv6 type that is not for guests"
		}
	}
	switch {
	case p.protocol != icmp6 && s == invalid:
		return "belongs to no connection"
	case !p.extended && p.udp(547, 546) && p.src.IsLinkLocalUnicast() && p.dst.IsLinkLocalUnicast():
		return passed // RFC 9915 section 18.3.10: the server, or a relay, answers from the link
	case p.src.IsLinkLocalUnicast() || p.dst.IsLinkLocalUnicast():
		return "link-local: neither ICMPv6 nor a DHCPv6 answer"
	case p.dst.IsMulticast():
		return "multicast that nobody asked for"
	case p.sourceRouted:
		return badRouting
	case !w.holds(g, p.dst):
		return "to an address that the guest does not hold"
	case p.protocol == icmp6 && len(p.upper) > 0 && p.upper[0] == 128 && g.pod.Echo != sixacre.EchoRules:
		return passed
	case w.allows(g, sixacre.In, p, p.src):
		return passed
	}
	return "no rule lets it in"
}

// allows reports whether a rule of one of the NIC's groups allows a new
// connection with the other end. Everything may go out where no rule says what.
func (w *twin) allows(g *guest, d sixacre.Direction, p reading, other netip.Addr) bool {
	rules := 0
	for _, group := range w.host.Groups {
		if !slices.Contains(g.nic.Groups, group.Name) {
			continue
		}
		for _, r := range group.Rules {
			if r.Direction != d {
				continue
			}
			rules++
			if p.is(r) && w.remote(r, other) {
				return true
			}
		}
	}
	return d == sixacre.Out && rules == 0
}

// is reports whether the packet is of the rule's protocol, ports and types.
func (p reading) is(r sixacre.Rule) bool {
	switch {
	case r.Protocol == sixacre.AnyProtocol:
		return true
	case int(r.Protocol) != p.protocol:
		return false
	case len(r.Ports) > 0:
		return len(p.upper) >= 4 && slices.ContainsFunc(r.Ports, func(q sixacre.PortRange) bool {
			return q.First <= p.dport() && p.dport() <= q.Last
		})
	case r.ICMPType != nil:
		return len(p.upper) >= 2 && p.upper[0] == r.ICMPType.Type && (!r.ICMPType.HasCode || p.upper[1] == r.ICMPType.Code)
	}
	return true
}

// remote reports whether the rule is for that other end.
func (w *twin) remote(r sixacre.Rule, a netip.Addr) bool {
	if r.Remote.Group == "" {
		return !r.Remote.Prefix.IsValid() || r.Remote.Prefix.Contains(a)
	}
	return slices.ContainsFunc(w.host.Members, func(m sixacre.Members) bool {
		return m.Group == r.Remote.Group && (slices.Contains(m.Addresses, a) || r.IncludePrefixes && inside(m.Prefixes, a))
	})
}

func port(octets []byte) uint16 { return binary.BigEndian.Uint16(octets) }
