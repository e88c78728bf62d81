package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func netnsPath(name string) string { return filepath.Join("/run/netns", name) }

// in runs f inside the namespace of a box. The sockets that f opens stay there.
func (l *Lab) in(box string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so that nothing
		// else ever runs on a thread that is in the wrong namespace.
		runtime.LockOSThread()
		done <- func() error {
			fd, err := unix.Open(netnsPath(l.ns(box)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("namespace %s: %w", l.ns(box), err)
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("namespace %s: %w", l.ns(box), err)
			}
			return f()
		}()
	}()
	return <-done
}

// exec runs a program inside a box and returns what it printed.
func (l *Lab) exec(ctx context.Context, box string, args ...string) (string, error) {
	return output(ctx, "ip", append([]string{"netns", "exec", l.ns(box)}, args...)...)
}

// ip runs lines of ip(8) commands inside a box.
func (l *Lab) ip(ctx context.Context, box, lines string) error {
	return ipBatch(ctx, lines, "-6", "-n", l.ns(box))
}

func ipBatch(ctx context.Context, lines string, args ...string) error {
	cmd := exec.CommandContext(ctx, "ip", append(args, "-batch", "-")...)
	cmd.Stdin = strings.NewReader(lines)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %s", strings.Join(args, " "), oneLine(out, err))
	}
	return nil
}

// output runs a program and returns its standard output; an error is the last
// line that it wrote to standard error.
func output(ctx context.Context, program string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), errors.New(oneLine(stderr.Bytes(), err))
	}
	return stdout.String(), nil
}

// oneLine is what a program that failed had to say.
func oneLine(out []byte, err error) string {
	text := strings.TrimSpace(string(out))
	if text == "" {
		return err.Error()
	}
	return strings.ReplaceAll(text, "\n", "; ")
}

// sysctl sets values below /proc/sys/net inside a box.
func (l *Lab) sysctl(box string, values map[string]string) error {
	return l.in(box, func() error {
		for key, value := range values {
			if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0); err != nil {
				return fmt.Errorf("%s: %w", l.ns(box), err)
			}
		}
		return nil
	})
}

func deleteNamespaces(names []string) error {
	var lines strings.Builder
	for _, name := range names {
		if _, err := os.Stat(netnsPath(name)); err == nil {
			fmt.Fprintf(&lines, "netns del %s\n", name)
		}
	}
	if lines.Len() == 0 {
		return nil
	}
	return ipBatch(context.Background(), lines.String())
}

// until asks again in short intervals, because other people's programs tell
// nobody when they are done, until there is no error or the limit has passed.
func until(ctx context.Context, limit time.Duration, ask func() error) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("after %s: %w", limit, err)
		case <-tick.C:
		}
	}
}
