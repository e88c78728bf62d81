package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// site is the two network namespaces that a benchmark runs in: the generator's,
// with the relays' addresses, and the servers'. A veth pair joins them. They have
// no names, so nothing is left of them when the process and its children end, in
// whatever way that happens.
type site struct {
	servers int // the namespace, as an open file
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
func newSite(ctx context.Context, servers int) (*site, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("the benchmark needs root for network namespaces: %w", err)
	}
	s := &site{}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, the namespace stays with the open file
		ready <- func() (err error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			s.servers, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			return err
		}()
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	var here, there strings.Builder
	fmt.Fprintf(&here, "link add %s type veth peer name %s netns /proc/%d/fd/%d\n", generatorDevice, serverDevice, os.Getpid(), s.servers)
	fmt.Fprintf(&here, "link set lo up\nlink set %s up\n", generatorDevice)
	fmt.Fprintf(&here, "addr add %s/64 dev %s nodad\n", generatorAddr, generatorDevice)
	for n := range maxRelays {
		fmt.Fprintf(&here, "addr add %s/128 dev lo nodad\n", relayAddr(n))
	}
	fmt.Fprintf(&there, "link set lo up\nlink set %s up\n", serverDevice)
	for n := range servers {
		fmt.Fprintf(&there, "addr add %s/64 dev %s nodad\n", serverAddr(n), serverDevice)
	}
	fmt.Fprintf(&there, "route add %s via %s\n", relayNet, generatorAddr)
	if err := ip(ctx, here.String()); err != nil {
		return nil, err
	}
	return s, s.inside(func() error { return ip(ctx, there.String()) })
}

// inside runs f on a thread of its own in the servers' namespace.
func (s *site) inside(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with f
		if err := unix.Setns(s.servers, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// ip runs lines of ip(8) commands.
func ip(ctx context.Context, lines string) error {
	cmd := exec.CommandContext(ctx, "ip", "-6", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.New("ip: " + strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "; "))
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
