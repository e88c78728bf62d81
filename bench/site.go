package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// site is the two network namespaces that a benchmark runs in: the generator's,
// with the relays' addresses, and the servers'. A veth pair joins them.
type site struct {
	servers namespace
}

var (
	generatorAddr = netip.MustParseAddr("2001:db8:ffff::1")
	serverNet     = netip.MustParsePrefix("2001:db8:ffff::/64")
)

// device names of the veth pair.
const (
	generatorDevice = "relays"
	serverDevice    = "servers"
)

// serverAddr is where the nth server listens.
func serverAddr(n int) netip.Addr {
	a := serverNet.Addr().As16()
	a[14], a[15] = 0x05, byte(0x47+n)
	return netip.AddrFrom16(a)
}

// newSite makes the namespaces, with addresses for so many servers, and moves
// the calling thread, which must be locked, into the generator's.
func newSite(ctx context.Context, count int) (*site, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("the benchmark needs root for network namespaces: %w", err)
	}
	servers, err := newNamespace()
	if err != nil {
		return nil, err
	}
	s := &site{servers}
	var here, there strings.Builder
	fmt.Fprintf(&here, "link add %s type veth peer name %s netns /proc/%d/fd/%d\n", generatorDevice, serverDevice, os.Getpid(), s.servers)
	fmt.Fprintf(&here, "link set lo up\nlink set %s up\n", generatorDevice)
	fmt.Fprintf(&here, "addr add %s/64 dev %s nodad\n", generatorAddr, generatorDevice)
	for n := range maxRelays {
		fmt.Fprintf(&here, "addr add %s/128 dev lo nodad\n", relayAddr(n))
	}
	fmt.Fprintf(&there, "link set lo up\nlink set %s up\n", serverDevice)
	for n := range count {
		fmt.Fprintf(&there, "addr add %s/64 dev %s nodad\n", serverAddr(n), serverDevice)
	}
	fmt.Fprintf(&there, "route add %s via %s\n", relayNet, generatorAddr)
	if err := ip(ctx, here.String()); err != nil {
		return nil, err
	}
	return s, s.servers.inside(func() error { return ip(ctx, there.String()) })
}

// ip runs lines of ip(8) commands.
func ip(ctx context.Context, lines string) error {
	return feed(ctx, lines, "ip", "-6", "-batch", "-")
}

// feed runs a program with that as its standard input.
func feed(ctx context.Context, input string, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", args[0], err, lastLines(string(out)))
	}
	return nil
}

// pin binds a thread and all that it starts to some processors; 0 is the calling
// thread.
func pin(thread int, cores []int) error {
	var set unix.CPUSet
	for _, c := range cores {
		set.Set(c)
	}
	return unix.SchedSetaffinity(thread, &set)
}
