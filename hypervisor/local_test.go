package hypervisor_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
)

// TestHostItself: between a guest and the host that it runs on the same holds
// as between guests: the host is reached by what a guest may send, and reaches
// the guest by what it may receive.
func TestHostItself(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{
		Instances: []sixacre.Instance{instance(1, "web", "strict"), instance(2)},
		Groups: []sixacre.Group{
			groupOf(t, "strict", "out udp ports=7000-7001"),
			groupOf(t, "web", "in udp ports=8000"),
		},
	})
	const address = "2001:db8:100:1::aa"
	sh(t, `sysctl -q -w net.ipv6.conf.br0.disable_ipv6=0
		ip addr add `+address+`/64 dev br0 nodad
		ip neigh replace `+own1+` lladdr 06:00:00:00:00:01 dev br0 nud permanent`)
	h.until("the address is local", func() bool { // the kernel's work queue makes it so
		return strings.Contains(sh(t, "ip -6 route show table local"), "local "+address)
	})
	bridge, err := net.InterfaceByName("br0")
	must(t, err)
	listen := func(port uint16) *net.UDPConn {
		c, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), port)))
		must(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	open, closed := listen(7000), listen(7002)
	toHost := func(src string, dport uint16, word string) []byte {
		return packet{srcMAC: mac1, dstMAC: bridge.HardwareAddr, src: src, dst: address, next: udp, payload: udpTo(9000, dport, []byte(word)...)}.frame()
	}
	h.ends["guest1"].send(toHost(own2, 7000, "spoofed"))
	h.ends["guest1"].send(toHost(own1, 7002, "no rule"))
	h.ends["guest1"].send(toHost(own1, 7000, "hello"))
	buf := make([]byte, 100)
	must(t, open.SetReadDeadline(time.Now().Add(5*time.Second)))
	n, guest, err := open.ReadFromUDPAddrPort(buf)
	must(t, err)
	if got := string(buf[:n]); got != "hello" {
		t.Errorf("the host first received %q", got)
	}
	// All was delivered in order: what is not there now never comes.
	must(t, closed.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	if n, _, err := closed.ReadFromUDPAddrPort(buf); err == nil {
		t.Errorf("the host received %q, which no rule lets out", buf[:n])
	}

	h.drain()
	send := func(from *net.UDPConn, port uint16, word string) {
		_, err := from.WriteToUDPAddrPort([]byte(word), netip.AddrPortFrom(netip.MustParseAddr(own1), port))
		must(t, err)
	}
	send(closed, 8001, "no rule")
	send(closed, guest.Port(), "from another port")
	send(closed, 8000, "by a rule")
	send(open, guest.Port(), "the answer")
	var got []string
	for f := h.ends["guest1"].receive(50 * time.Millisecond); f != nil; f = h.ends["guest1"].receive(50 * time.Millisecond) {
		if len(f) > 62 && f[20] == udp {
			got = append(got, string(f[62:]))
		}
	}
	if strings.Join(got, ", ") != "by a rule, the answer" {
		t.Errorf("the guest received %q", got)
	}

	// A closed tap gets nothing from the host either.
	h.drain()
	_, err = open.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort("[2001:db8:100:1::77]:9"))
	must(t, err) // the host asks everybody by ND
	if h.ends["wire"].receive(time.Second) == nil {
		t.Error("the wire received no NS from the host")
	}
	if h.ends["guest3"].receive(50*time.Millisecond) != nil {
		t.Error("guest3's tap is closed, and received NS from the host")
	}

	// IPv4 is not ours to filter, but a closed tap gets none.
	sh(t, `ip addr add 192.0.2.1/24 dev br0`)
	h.drain()
	four, err := net.Dial("udp4", "192.0.2.9:9")
	must(t, err)
	defer four.Close()
	_, err = four.Write([]byte("x")) // the host asks everybody by ARP
	must(t, err)
	if h.ends["guest1"].receive(time.Second) == nil {
		t.Error("guest1 received no ARP from the host")
	}
	if h.ends["guest3"].receive(50*time.Millisecond) != nil {
		t.Error("guest3's tap is closed, and received ARP from the host")
	}
}

// TestReservedGroups: a bridge does not forward frames to 01:80:c2:00:00:0x
// (IEEE 802.1Q section 8.6.3) but hands them to the host itself, past the hook
// where sources are checked. From a tap none gets there, nor into the bridge's
// table of MACs.
func TestReservedGroups(t *testing.T) {
	h := newHost(t, filterAlone{})
	h.follow(sixacre.View{Instances: []sixacre.Instance{instance(1)}}) // tap3 stays closed
	// A socket of one protocol sees what the bridge hands over, one of all
	// protocols what the port received.
	const ip6 = unix.ETH_P_IPV6>>8 | unix.ETH_P_IPV6&0xff<<8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, ip6)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	host := &end{t, "the host", fd}

	twin := []byte{2, 0, 0, 0, 0, 0xfd}
	check := func(last byte) {
		group := []byte{0x01, 0x80, 0xc2, 0, 0, last}
		advertisement := func(from []byte) []byte {
			return packet{srcMAC: from, dstMAC: group, src: "fe80::bad", dst: "ff02::1", hops: 255, next: icmp6, payload: icmp(134, 0, "40000708 00000000 00000000")}.frame()
		}
		if !h.passes("wire", "guest1", marker("wire")) { // so the bridge knows the wire's MAC
			t.Error("guest1 received nothing from the wire")
		}
		for _, guest := range []string{"guest1", "guest3"} {
			h.ends[guest].send(advertisement(macOf(guest)))
			h.ends[guest].send(advertisement(macWire))
			h.ends[guest].send(append(append(append([]byte(nil), group...), macWire...), append([]byte{0x88, 0xcc}, make([]byte, 46)...)...)) // LLDP
		}
		h.ends["wire"].send(advertisement(twin))
		for {
			f := host.receive(5 * time.Second)
			if f == nil {
				t.Fatalf("group %02x: the host did not receive what came from the wire", last)
			}
			if string(f[:6]) != string(group) {
				continue
			}
			if string(f[6:12]) == string(twin) {
				break
			}
			t.Errorf("group %02x: the host received a Router Advertisement of %s from a tap", last, net.HardwareAddr(f[6:12]))
		}
		if table := sh(t, "bridge fdb show br br0"); !strings.Contains(table, "02:00:00:00:00:fe dev eth0") {
			t.Errorf("group %02x: a guest took the wire's MAC:\n%s", last, table)
		}
	}
	for _, last := range []byte{0x02, 0x03, 0x0e, 0x0f} {
		check(last)
	}
	// Before there is an agent, the filter loaded at boot does what it can.
	h.stop()
	h.stop = func() {}
	sh(t, "for l in tap1 tap3; do ip link set $l type bridge_slave group_fwd_mask 0; done")
	check(0x02)
}
