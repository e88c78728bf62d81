package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/api"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sixacre": main})
}

// The scripts in testdata are what an operator types and sees.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			// An address that a server can answer DHCPv6 on.
			conn, err := net.ListenPacket("udp6", "[::1]:0")
			if err != nil {
				return err
			}
			env.Setenv("DHCP6", conn.LocalAddr().String())
			return conn.Close()
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":  exitStatus,
			"served":  served,
			"relayed": relayed,
			"until":   until,
			"learned": learned,
		},
	})
}

// exitStatus runs a command that must exit with the given status:
//
//	status 2 sixacre pod bogus
func exitStatus(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if exit, ok := err.(*exec.ExitError); ok {
		got = string(rune('0' + exit.ExitCode()))
	}
	if (got == args[0]) == neg {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// served waits until a server listens on the socket in the directory.
func served(ts *testscript.TestScript, _ bool, args []string) {
	socket := filepath.Join(ts.MkAbs(args[0]), api.SocketName)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return
		}
	}
	ts.Fatalf("no server came up on %s", socket)
}

// learned asks as a host's agent does for a link-local address of a NIC:
//
//	learned hv1 pod1 06:00:00:00:00:01 fe80::7217
func learned(ts *testscript.TestScript, _ bool, args []string) {
	server, err := api.Dial(api.Endpoint{Data: ts.Getenv("SIXACRE_DATA")})
	ts.Check(err)
	r := sixacre.LinkLocalRequest{Pod: args[1]}
	ts.Check(r.MAC.UnmarshalText([]byte(args[2])))
	ts.Check(r.Address.UnmarshalText([]byte(args[3])))
	ts.Check(server.LearnLinkLocal(context.Background(), args[0], r))
}

// until runs a command again and again, until its output has a line that matches:
//
//	until 'renew' sixacre instance seen i-1
func until(ts *testscript.TestScript, _ bool, args []string) {
	wanted, err := regexp.Compile(args[0])
	ts.Check(err)
	out := ""
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		ts.Check(ts.Exec(args[1], args[2:]...))
		if out = ts.ReadFile("stdout"); wanted.MatchString(out) {
			return
		}
	}
	ts.Fatalf("nothing matches %s in\n%s", wanted, out)
}

// relayed sends a client's message to $DHCP6, through a relay at ::1 on the link
// with the address, and waits for the answer. The message is about an IA_NA with
// the addresses that are given:
//
//	relayed 2001:db8:100:1:: 06:00:00:00:00:01 decline 2001:db8:100:1::5
func relayed(ts *testscript.TestScript, _ bool, args []string) {
	link, message, leases := net.ParseIP(args[0]), args[2], args[3:]
	mac, err := net.ParseMAC(args[1])
	ts.Check(err)
	conn, err := net.Dial("udp6", ts.Getenv("DHCP6"))
	ts.Check(err)
	defer conn.Close()
	client := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}
	exchange := func(kind dhcpv6.MessageType, server dhcpv6.DUID) *dhcpv6.Message {
		m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(client))
		ts.Check(err)
		m.MessageType = kind
		if server != nil {
			m.AddOption(dhcpv6.OptServerID(server))
		}
		na := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 1}}
		for _, a := range leases {
			na.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a)})
		}
		m.AddOption(na)
		outer, err := dhcpv6.EncapsulateRelay(m, dhcpv6.MessageTypeRelayForward, link, linkLocal(mac))
		ts.Check(err)
		outer.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, mac))
		b := make([]byte, 1<<16)
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
			// The server may have to read first that there is such a NIC.
			_, err := conn.Write(outer.ToBytes())
			ts.Check(err)
			ts.Check(conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)))
			n, err := conn.Read(b)
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ECONNREFUSED) {
				continue
			}
			ts.Check(err)
			reply, err := dhcpv6.RelayMessageFromBytes(b[:n])
			ts.Check(err)
			inner, err := reply.GetInnerMessage()
			ts.Check(err)
			return inner
		}
		ts.Fatalf("no answer to %s", outer.Summary())
		return nil
	}
	kinds := map[string]dhcpv6.MessageType{"request": dhcpv6.MessageTypeRequest, "decline": dhcpv6.MessageTypeDecline}
	server := exchange(dhcpv6.MessageTypeSolicit, nil).Options.ServerID()
	exchange(kinds[message], server)
}

// linkLocal is what a guest with this MAC sends from.
func linkLocal(mac net.HardwareAddr) net.IP {
	return addr.LinkLocal(sixacre.MAC(mac)).AsSlice()
}
