package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/api"
	"github.com/sixacre/sixacre/dhcp6"
)

// A router that lost its state asks the server for the routes of the clients that
// it relayed for before. Both are in a network namespace of the test's own.
func TestRouterAsksForItsRoutes(t *testing.T) {
	runtime.LockOSThread() // and never unlocked, so that nothing else runs there
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs root for a network namespace: %v", err)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip, of iproute2")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := func(name string, args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, name, args...)
		c.Stderr = os.Stderr
		return c
	}
	run := func(name string, args ...string) {
		t.Helper()
		if err := command(name, args...).Run(); err != nil {
			t.Fatalf("%s %v: %v", name, args, err)
		}
	}
	run("ip", "link", "set", "lo", "up")
	server, router := netip.MustParseAddrPort("[fd00::1]:547"), netip.MustParseAddrPort("[fd00::2]:547")
	for _, a := range []netip.AddrPort{server, router} {
		run("ip", "address", "add", a.Addr().String()+"/128", "dev", "lo", "nodad")
	}

	data := t.TempDir()
	t.Setenv("SIXACRE_DATA", data)
	serving := command("sixacre", "server", "--api", "none", "--dhcp6", server.String(), "--leasequery")
	if err := serving.Start(); err != nil {
		t.Fatal(err)
	}
	defer serving.Wait()
	defer serving.Process.Signal(syscall.SIGINT)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	until := func(what string, done func() bool) {
		t.Helper()
		for !done() {
			select {
			case <-again.C:
			case <-ctx.Done():
				t.Fatal("never: ", what)
			}
		}
	}
	until("the server serves", func() bool {
		conn, err := net.Dial("unix", filepath.Join(data, api.SocketName))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	run("sixacre", "pod", "create", "pod1", "--link-prefix", "2001:db8:100:1::/64", "--pool", "2001:db8:4000::/40=60", "--relay", router.Addr().String())
	run("sixacre", "instance", "create", "i-1", "--pod", "pod1", "--mac", "06:00:00:00:00:01", "--prefix", "2001:db8:4000:10::/60")

	// The client behind the router gets its prefix.
	mac := sixacre.MAC{6, 0, 0, 0, 0, 1}
	link := addr.LinkLocal(mac)
	relaying, err := net.DialUDP("udp6", net.UDPAddrFromAddrPort(router), net.UDPAddrFromAddrPort(server))
	if err != nil {
		t.Fatal(err)
	}
	defer relaying.Close()
	solicit, err := dhcpv6.NewSolicit(mac[:], dhcpv6.WithIAPD([4]byte{1}), dhcpv6.WithRapidCommit)
	if err != nil {
		t.Fatal(err)
	}
	relayed, err := dhcpv6.EncapsulateRelay(solicit, dhcpv6.MessageTypeRelayForward, net.ParseIP("2001:db8:100:1::1"), link.AsSlice())
	if err != nil {
		t.Fatal(err)
	}
	relayed.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, mac[:]))
	relayed.AddOption(dhcpv6.OptInterfaceID([]byte("eth0")))
	b := make([]byte, 1<<16)
	until("the client is answered", func() bool { // the server learns of the pod in a moment
		if _, err := relaying.Write(relayed.ToBytes()); err != nil {
			t.Fatal(err)
		}
		_ = relaying.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := relaying.Read(b)
		return err == nil && n > 0
	})

	// The router, started anew, asks for the routes of its link.
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(router.Addr(), 0))}
	asking, err := dialer.DialContext(ctx, "tcp6", server.String())
	if err != nil {
		t.Fatal(err)
	}
	defer asking.Close()
	query := dhcp6.LeaseLookup{
		ClientID: addr.DUIDLL(sixacre.MAC{6, 0, 0, 0, 0, 0xff}), Type: dhcp6.QueryByLinkAddress,
		Link: netip.MustParseAddr("2001:db8:100:1::1"), RelayData: true,
	}
	deadline, _ := ctx.Deadline()
	_ = asking.SetDeadline(deadline)
	routes := func() string {
		t.Helper()
		m := query.Append(nil)
		if _, err := asking.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)); err != nil {
			t.Fatal(err)
		}
		var out string
		for more := true; more; {
			if _, err := io.ReadFull(asking, b[:2]); err != nil {
				t.Fatal(err)
			}
			m := b[2 : 2+binary.BigEndian.Uint16(b)]
			if _, err := io.ReadFull(asking, m); err != nil {
				t.Fatal(err)
			}
			var a dhcp6.LeaseAnswer
			if why := a.Parse(m); why != dhcp6.Answered || a.Status != dhcp6.StatusSuccess {
				t.Fatal(why, a.Status, a.Text)
			}
			more = a.Client != nil
			if more {
				for _, p := range a.Client.Prefixes {
					out += fmt.Sprintf("%s via %s on %s\n", p.Prefix, a.Client.Relay.Peer, a.Client.Relay.InterfaceID)
				}
			}
		}
		return out
	}
	// What the client got reaches the store a moment after the client.
	until("the router has its route back", func() bool { return routes() == "2001:db8:4000:10::/60 via fe80::400:ff:fe00:1 on eth0\n" })

	// For one address a datagram will do.
	single := query
	single.Type, single.Address = dhcp6.QueryByAddress, netip.MustParseAddr("2001:db8:4000:1f::1")
	var a dhcp6.LeaseAnswer
	if _, err := relaying.Write(single.Append(nil)); err != nil {
		t.Fatal(err)
	}
	_ = relaying.SetReadDeadline(deadline)
	for a.Type != dhcp6.LeasequeryReply { // after answers to the client
		n, err := relaying.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		a.Parse(b[:n])
	}
	if a.Client == nil || len(a.Client.Prefixes) != 1 || a.Client.Prefixes[0].Prefix.String() != "2001:db8:4000:10::/60" || a.Client.Relay.Peer != link || a.Client.Relay.Link.String() != "2001:db8:100:1::1" {
		t.Errorf("%+v %+v", a, a.Client)
	}

	run("sixacre", "instance", "delete", "i-1")
	until("the route is gone", func() bool { return routes() == "" })
}
