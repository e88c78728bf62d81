package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is one that the lab started. Its start time tells it from another
// that was given its number later.
type process struct {
	Box   string   `json:"box"`
	Args  []string `json:"args"`
	PID   int      `json:"pid"`
	Start string   `json:"start"` // clock ticks after boot, proc_pid_stat(5) field 22
}

// start runs a program inside a box, in a session of its own, so that it
// outlives us. Its output goes to a log of its name.
//
// `ip netns exec` also gives it a mount namespace of its own; shell, which may
// be empty, is run in there first.
func (l *Lab) start(name, box, shell string, args ...string) error {
	log, err := os.OpenFile(l.logPath(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	argv := []string{"netns", "exec", l.ns(box), "/bin/sh", "-ec", shell + "\n" + `exec "$@"`, "sh"}
	cmd := exec.Command("ip", append(argv, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // reaps it if it ends before us; the log says why it did
	started, err := startTime(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("%s ended at once: %s", name, l.lastWords(name))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Processes[name] = process{Box: box, Args: append([]string{shell}, args...), PID: cmd.Process.Pid, Start: started}
	return l.save()
}

// restart starts a process again as it was started before.
func (l *Lab) restart(name string) error {
	p, _ := l.process(name)
	return l.start(name, p.Box, p.Args[0], p.Args[1:]...)
}

// forget leaves a process that was meant to end out of the account.
func (l *Lab) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.state.Processes, name)
	if err := l.save(); err != nil {
		l.sayf("%v", err)
	}
}

func (l *Lab) process(name string) (process, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.state.Processes[name]
	return p, ok
}

// alive reports whether the process runs.
func (l *Lab) alive(name string) bool {
	p, ok := l.process(name)
	if !ok {
		return false
	}
	started, err := startTime(p.PID)
	return err == nil && started == p.Start
}

// end sends a signal to a process of the lab and returns when the process has
// ended, or after the limit with an error.
func (l *Lab) end(name string, sig unix.Signal, limit time.Duration) error {
	p, ok := l.process(name)
	if !ok {
		return fmt.Errorf("the lab runs no %s", name)
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return fmt.Errorf("%s has ended before its time: %s", name, l.lastWords(name))
	}
	defer unix.Close(fd)
	// The number belongs to this process as long as the descriptor is open and
	// the process was there after it was opened.
	if !l.alive(name) {
		return fmt.Errorf("%s has ended before its time: %s", name, l.lastWords(name))
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return waitEnded(fd, name, limit)
}

// waitEnded waits until the process of a pidfd has ended.
func waitEnded(fd int, name string, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(max(0, time.Until(deadline).Milliseconds())))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		case n == 0:
			return fmt.Errorf("%s still runs %s after it was told to end", name, limit)
		default:
			return nil
		}
	}
}

// killAllIn ends every process that is in a namespace: ours, their children,
// and a shell that somebody left open there. A namespace that is not there has
// none.
func killAllIn(namespace string) error {
	var of unix.Stat_t
	if err := unix.Stat(netnsPath(namespace), &of); err != nil {
		return nil
	}
	// A process may start another while we look: look again until none is left.
	for range 20 {
		pids, err := processesIn(of)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := killIn(of, pid); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("processes keep starting in namespace %s", namespace)
}

func killIn(namespace unix.Stat_t, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // gone by itself
	}
	defer unix.Close(fd)
	if !isIn(namespace, pid) {
		return nil // gone, and its number another's
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	return waitEnded(fd, "process "+strconv.Itoa(pid), 10*time.Second)
}

func processesIn(namespace unix.Stat_t) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && isIn(namespace, pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func isIn(namespace unix.Stat_t, pid int) bool {
	var its unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &its)
	return err == nil && its.Dev == namespace.Dev && its.Ino == namespace.Ino
}

// startTime reads when a process started. A zombie has ended.
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name, in parentheses, may hold anything, so count from its end.
	at := strings.LastIndexByte(string(stat), ')')
	fields := strings.Fields(string(stat[at+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return "", os.ErrProcessDone
	}
	return fields[19], nil
}

func (l *Lab) logPath(name string) string { return filepath.Join(l.logDir(), name+".log") }

// lastWords are the last lines of a process's log.
func (l *Lab) lastWords(name string) string {
	log, _ := os.ReadFile(l.logPath(name))
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// steady names the processes that should run whenever the lab is up, in order.
func (l *Lab) steady() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for name, p := range l.state.Processes {
		if !slices.ContainsFunc(tenants, func(g guest) bool { return g.name == p.Box }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
