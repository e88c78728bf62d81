package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre/dhcp6"
)

// program is how a server is started, and how its answers are judged.
type program struct {
	name  string
	cores []int
	args  []string
	env   []string
	talks bool // takes lines on its standard input and answers on its standard output
	right judge
	errs  bool // known to give wrong answers now and then: they are counted
}

// server is a running one.
type server struct {
	program
	at      netip.AddrPort
	process *os.Process
	pidfd   int
	sockets []int // copies of the sockets that it listens on
	stdin   io.Writer
	stdout  *bufio.Reader
	log     *os.File
	ended   chan struct{}
	wrong   int // answers, of those judged
}

// start runs the program in the servers' namespace until the context ends. What
// it prints goes to a file in the directory.
func (s *site) start(ctx context.Context, p program, at netip.Addr, dir string) (*server, error) {
	v := &server{program: p, at: netip.AddrPortFrom(at, dhcp6.ServerPort), ended: make(chan struct{})}
	var err error
	if v.log, err = os.Create(filepath.Join(dir, p.name+".log")); err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	go func() {
		defer close(v.ended)
		failed := s.servers.inside(func() error {
			// The child has this thread's namespace and processors, and dies
			// with it: it waits here.
			if err := pin(0, p.cores); err != nil {
				return fmt.Errorf("processors %v: %w", p.cores, err)
			}
			cmd := exec.CommandContext(ctx, p.args[0], p.args[1:]...)
			cmd.Env = append(os.Environ(), p.env...)
			cmd.Dir, cmd.Stderr = dir, v.log
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, PidFD: &v.pidfd}
			if p.talks {
				stdin, err := cmd.StdinPipe()
				if err != nil {
					return err
				}
				stdout, err := cmd.StdoutPipe()
				if err != nil {
					return err
				}
				v.stdin, v.stdout = stdin, bufio.NewReader(stdout)
			} else {
				cmd.Stdout = v.log
			}
			if err := cmd.Start(); err != nil {
				return err
			}
			v.process = cmd.Process
			started <- nil
			return cmd.Wait()
		})
		select {
		case started <- failed:
		default:
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return v, nil
}

// stop ends the server and waits for it.
func (v *server) stop() {
	v.process.Kill()
	<-v.ended
	for _, fd := range v.sockets {
		unix.Close(fd)
	}
	v.log.Close()
}

// cpu is the CPU time that the server's process has had, user and system. The
// kernel charges a process too with the interrupts that it takes while the
// process runs, so the way of each answer through the veth and into the
// generator's socket is in it (unless CONFIG_IRQ_TIME_ACCOUNTING is set).
func (v *server) cpu() time.Duration {
	return clock(int32(^v.process.Pid<<3 | 2)) // clock_getcpuclockid(3)
}

// hold stops the server, and release lets it go on.
func (v *server) hold() error {
	if err := v.process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.process.Pid))
		if err != nil {
			return err
		}
		if i := strings.LastIndexByte(string(stat), ')'); i > 0 && stat[i+2] == 'T' {
			return nil
		}
		time.Sleep(50 * time.Microsecond)
	}
	return fmt.Errorf("%s cannot be stopped", v.name)
}

func (v *server) release() error { return v.process.Signal(syscall.SIGCONT) }

// adopt takes copies of the sockets that the server listens on and makes room in
// them, as much in every server's: what a burst costs each in lost messages is
// not what is measured.
func (v *server) adopt() error {
	fds := fmt.Sprintf("/proc/%d/fd", v.process.Pid)
	entries, err := os.ReadDir(fds)
	if err != nil {
		return err
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if target, _ := os.Readlink(filepath.Join(fds, e.Name())); err != nil || !strings.HasPrefix(target, "socket:") {
			continue
		}
		fd, err := unix.PidfdGetfd(v.pidfd, n, 0)
		if err != nil {
			return err
		}
		name, err := unix.Getsockname(fd)
		if a, is := name.(*unix.SockaddrInet6); err != nil || !is || a.Port != dhcp6.ServerPort || netip.AddrFrom16(a.Addr) != v.at.Addr() {
			unix.Close(fd)
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueLimit); err != nil {
			return err
		}
		v.sockets = append(v.sockets, fd)
	}
	if len(v.sockets) == 0 {
		return fmt.Errorf("%s has no socket at %s", v.name, v.at)
	}
	return nil
}

// waiting is how many octets wait in the server's sockets, the kernel's overhead
// included, and how many messages did not fit into them so far.
func (v *server) waiting() (octets, drops uint32, err error) {
	for _, fd := range v.sockets {
		o, d, err := memInfo(fd)
		if err != nil {
			return 0, 0, err
		}
		octets, drops = octets+o, drops+d
	}
	return octets, drops, nil
}

// ask sends the server a line and returns the one that it answers with; only
// sixacre's listens.
func (v *server) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(v.stdin, line); err != nil {
		return "", err
	}
	return v.line()
}

// resident asks sixacre's how many octets of it are in memory.
func (v *server) resident() (int, error) {
	line, err := v.ask("resident")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(line)
}

func (v *server) line() (string, error) {
	line, err := v.stdout.ReadString('\n')
	return strings.TrimSpace(line), err
}

// ready waits until the server answers, for as long as it takes to load its
// reservations.
func (v *server) ready(ctx context.Context, g *generator, limit time.Duration) error {
	s := g.sender(load{question: question{kind: dhcp6.Solicit}, relays: 1, train: 1}, v.at)
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) {
		select {
		case <-v.ended:
			log, _ := os.ReadFile(v.log.Name())
			return fmt.Errorf("%s ended: %s", v.name, lastLines(string(log)))
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if _, err := s.send(1, 0); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
		n, err := s.receive(v, 1, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		if n > 0 {
			return errors.Join(s.quiet(v), v.adopt())
		}
	}
	log, _ := os.ReadFile(v.log.Name())
	return fmt.Errorf("%s did not answer for %s: %s", v.name, limit, lastLines(string(log)))
}

// quiet takes late answers until none has come for a while.
func (s *sender) quiet(v *server) error {
	const while = 200 * time.Millisecond
	for last := time.Now(); time.Since(last) < while; time.Sleep(time.Millisecond) {
		n, err := s.receive(v, 1, nil)
		if err != nil {
			return err
		}
		if n > 0 {
			last = time.Now()
		}
	}
	return nil
}

// lastLines is the end of what a program wrote, on one line.
func lastLines(log string) string {
	return strings.ReplaceAll(strings.TrimSpace(log[max(0, len(log)-400):]), "\n", "; ")
}
