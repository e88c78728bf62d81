package main

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace without a name, as an open file: nothing is
// left of it when the process and its children end, in whatever way that happens.
type namespace int

// newNamespace makes one.
func newNamespace() (namespace, error) {
	made := make(chan error)
	ns := -1
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, the namespace stays with the open file
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		made <- err
	}()
	if err := <-made; err != nil {
		return -1, fmt.Errorf("the benchmark needs root for network namespaces: %w", err)
	}
	return namespace(ns), nil
}

// inside runs f on a thread of its own in the namespace.
func (n namespace) inside(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with f
		if err := unix.Setns(int(n), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}
