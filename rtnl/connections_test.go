package rtnl

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
)

// tracking makes the namespace know connections on its loopback interface: those
// to port 5 in zone 5, the others in none.
func tracking(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft (Debian package nftables) to have connections tracked")
	}
	ownNamespace(t)
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(`table inet t {
		chain zones { type filter hook output priority raw; meta l4proto udp th dport 5 ct zone set 5; }
		chain same { type filter hook prerouting priority raw; meta l4proto udp th dport 5 ct zone set 5; }
		chain track { type filter hook input priority 0; ct state new accept; }
	}`)
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("nft: %s: %s", err, out)
	}
}

func say(t *testing.T, to string) {
	t.Helper()
	c, err := net.Dial("udp", to)
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("x"))
	must(t, err)
}

func echoRequest(t *testing.T) {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	must(t, err)
	defer unix.Close(s)
	must(t, unix.Sendto(s, []byte{128, 0, 0, 0, 0, 9, 0, 1}, 0, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}))
}

// flows returns what is tracked, IPv6 as EndConnections shows it.
func flows(t *testing.T) []string {
	t.Helper()
	var out []string
	ended, err := Links{}.EndConnections(func(f sixacre.Flow) bool {
		if f.Protocol == sixacre.ICMPv6 && f.ICMPType != 128 {
			return false // what the kernel itself says on a new link
		}
		out = append(out, fmt.Sprintf("zone %d %s %s>%s port %d type %d/%d", f.Zone, f.Protocol, f.Source, f.Destination, f.DestinationPort, f.ICMPType, f.ICMPCode))
		return false
	})
	must(t, err)
	if ended != 0 {
		t.Errorf("nothing matched and %d connections ended", ended)
	}
	slices.Sort(out)
	return out
}

// TestEndConnections: what matches ends, and nothing else.
func TestEndConnections(t *testing.T) {
	tracking(t)
	for _, to := range []string{"[::1]:5", "[::1]:6", "[::1]:7", "127.0.0.1:6"} {
		say(t, to)
	}
	echoRequest(t)
	five, six, seven, echo := "zone 5 udp ::1>::1 port 5 type 0/0", "zone 0 udp ::1>::1 port 6 type 0/0", "zone 0 udp ::1>::1 port 7 type 0/0", "zone 0 icmpv6 ::1>::1 port 0 type 128/0"
	expect := func(when string, want ...string) {
		t.Helper()
		// The answers "port unreachable" belong to the connections.
		if got := flows(t); !slices.Equal(got, want) {
			t.Fatalf("%s there are\n%s\nwant\n%s", when, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	expect("at first", echo, six, seven, five)
	for _, c := range []struct {
		what  string
		match func(sixacre.Flow) bool
		ended int
		left  []string
	}{
		{"port 5 in no zone", func(f sixacre.Flow) bool { return f.Zone == 0 && f.DestinationPort == 5 }, 0, []string{echo, six, seven, five}},
		{"zone 5", func(f sixacre.Flow) bool { return f.Zone == 5 }, 1, []string{echo, six, seven}},
		{"port 6", func(f sixacre.Flow) bool { return f.DestinationPort == 6 }, 1, []string{echo, seven}},
		{"echo", func(f sixacre.Flow) bool { return f.ICMPType == 128 }, 1, []string{seven}},
		{"all", func(f sixacre.Flow) bool { return true }, 1, nil},
	} {
		ended, err := Links{}.EndConnections(func(f sixacre.Flow) bool {
			return (f.Protocol != sixacre.ICMPv6 || f.ICMPType == 128) && c.match(f)
		})
		must(t, err)
		if ended != c.ended {
			t.Errorf("%s: %d ended, want %d", c.what, ended, c.ended)
		}
		expect("after "+c.what, c.left...)
	}
	if out, err := exec.Command("cat", "/proc/net/nf_conntrack").Output(); err == nil && !strings.Contains(string(out), "127.0.0.1") {
		t.Errorf("the IPv4 connection is gone; there are\n%s", out)
	}
}

// TestEndManyConnections: a large table is read whole, and one that is emptied
// meanwhile too.
func TestEndManyConnections(t *testing.T) {
	tracking(t)
	s, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(s)
	const many = 3000
	for port := range many {
		to := unix.SockaddrInet6{Port: 10000 + port, Addr: netip.IPv6Loopback().As16()}
		for unix.Sendto(s, []byte("x"), 0, &to) == unix.ECONNREFUSED { // the answer to an earlier one
		}
	}
	odd := func(f sixacre.Flow) bool { return f.Protocol == sixacre.UDP && f.DestinationPort%2 == 1 }
	udp := func(f sixacre.Flow) bool { return f.Protocol == sixacre.UDP }
	for _, match := range []func(sixacre.Flow) bool{odd, udp} {
		ended, err := Links{}.EndConnections(match)
		must(t, err)
		if ended != many/2 {
			t.Errorf("%d ended, want %d", ended, many/2)
		}
	}
}

func FuzzConnection(f *testing.F) {
	f.Add([]byte{unix.AF_INET6, 0, 0, 0, 8, 0, 1, 128, 4, 0, 1, 128})
	f.Add([]byte{unix.AF_INET6, 0, 0, 0, 3, 0, 1, 128, 255, 255, 18, 0, 1})
	f.Fuzz(func(t *testing.T, message []byte) {
		if c, ok := connectionOf(message); ok && len(c.tuple) == 0 {
			t.Error("a connection that nothing names: to delete it would delete all")
		}
	})
}
