package hypervisor_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

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
