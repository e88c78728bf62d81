package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// built is a freshly built sixacre and a name for a lab of this test's own.
type built struct {
	t                 *testing.T
	binary, name, dir string
}

// build skips where the lab cannot run, and makes sure that nothing is left.
func build(t *testing.T, name string) built {
	if os.Geteuid() != 0 {
		t.Skip("the lab makes network namespaces, which takes root")
	}
	for program, pkg := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("the lab runs %s, which is not installed (Debian's package is %s)", program, pkg)
		}
	}
	dir := t.TempDir()
	b := built{t, filepath.Join(dir, "sixacre"), fmt.Sprintf("%s%d", name, os.Getpid()), filepath.Join(dir, "lab")}
	cmd := exec.Command("go", "build", "-o", b.binary, "../cmd/sixacre")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %s", out)
	}
	t.Cleanup(func() {
		if out, err := b.lab("down").CombinedOutput(); err != nil {
			t.Errorf("lab down: %s", out)
		}
	})
	return b
}

func (b built) lab(args ...string) *exec.Cmd {
	return exec.CommandContext(context.Background(), b.binary, append(append([]string{"lab"}, args...), "--name", b.name, "--dir", b.dir)...)
}

// run returns what a lab command prints, on either output, and whether it
// succeeded.
func (b built) run(args ...string) (string, bool) {
	out, err := b.lab(args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err == nil
}

// left fails the test if anything of the lab is still there.
func (b built) left(processes map[string]process) {
	b.t.Helper()
	if _, err := os.Stat(b.dir); err == nil {
		b.t.Errorf("%s is still there", b.dir)
	}
	namespaces, err := filepath.Glob(netnsPath(b.name + "-*"))
	if err != nil || len(namespaces) > 0 {
		b.t.Errorf("namespaces are still there: %s (%v)", namespaces, err)
	}
	for name, p := range processes {
		if started, err := startTime(p.PID); err == nil && started == p.Start {
			b.t.Errorf("%s still runs as %d", name, p.PID)
		}
	}
}

func (b built) processes() map[string]process {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, "lab.json"))
	if err != nil {
		b.t.Fatal(err)
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		b.t.Fatal(err)
	}
	return s.Processes
}

// TestLab is the demo with every check as a test.
func TestLab(t *testing.T) {
	b := build(t, "t")
	if out, ok := b.run("up"); !ok {
		t.Fatalf("lab up:\n%s", out)
	}
	if out, ok := b.run("up"); ok || !strings.Contains(out, "is up already") || strings.Contains(out, "\n") {
		t.Errorf("lab up of a lab that is up: %s", out)
	}
	processes := b.processes()

	cmd := b.lab("check")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ran []string
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		result, rest, _ := strings.Cut(lines.Text(), " ")
		name, seen, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if result != "ok" && result != "FAIL" {
			continue
		}
		ran = append(ran, name)
		t.Run(name, func(t *testing.T) {
			if result != "ok" {
				t.Error(strings.TrimSpace(seen))
			}
			t.Log(strings.TrimSpace(seen))
		})
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("lab check: %v: %s", err, stderr.String())
	}
	var all []string
	for _, c := range checks() {
		all = append(all, c.name)
	}
	if !slices.Equal(ran, all) {
		t.Errorf("ran %s instead of %s", ran, all)
	}

	if out, ok := b.run("down"); !ok {
		t.Errorf("lab down: %s", out)
	}
	b.left(processes)
	if out, ok := b.run("check"); ok || !strings.Contains(out, "there is no lab") {
		t.Errorf("lab check without a lab: %s", out)
	}
}

// TestDownAfterCrash kills the process that builds the lab while it is at it.
func TestDownAfterCrash(t *testing.T) {
	b := build(t, "c")
	up := b.lab("up")
	stdout, err := up.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	// The line says that the topology is there; the programs start after it.
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("lab up said %q: %v", line, err)
	}
	if err := until(t.Context(), time.Minute, func() error {
		if _, ok := b.processes()["agent"]; !ok {
			return fmt.Errorf("the agent is not started")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, stdout)
	up.Wait()
	processes := b.processes()

	for _, again := range []string{"up", "check"} {
		if out, ok := b.run(again); ok || !strings.Contains(out, "half built") {
			t.Errorf("lab %s after a crash: %s", again, out)
		}
	}
	if out, ok := b.run("down"); !ok {
		t.Errorf("lab down after a crash: %s", out)
	}
	b.left(processes)
}

// TestGuestAddresses is about what the checks compare the product with.
func TestGuestAddresses(t *testing.T) {
	g := newGuest("i", 0x0a, pod1, nil, 1)
	if want := netip.MustParseAddr("2001:db8:100:1:400:ff:fe00:a"); g.want != want || g.mac != "06:00:00:00:00:0a" {
		t.Errorf("guest 10 has %s and %s", g.mac, g.want)
	}
	if want := netip.MustParseAddr("fe80::400:ff:fe00:a"); g.linkLocal() != want {
		t.Errorf("its link-local is %s instead of %s", g.linkLocal(), want)
	}
}

func TestChoose(t *testing.T) {
	chosen, err := choose("^kill-", nil)
	if err != nil || len(chosen) != 3 {
		t.Errorf("^kill- chose %d checks: %v", len(chosen), err)
	}
	if chosen, err := choose("", []string{"delete", "address"}); err != nil || len(chosen) != 2 || chosen[0].name != "address" {
		t.Errorf("two names chose %v: %v", chosen, err)
	}
	for _, wrong := range []struct {
		match string
		names []string
	}{{"nothing like it", nil}, {"(", nil}, {"", []string{"adress"}}} {
		if _, err := choose(wrong.match, wrong.names); err == nil {
			t.Errorf("%q %q chose checks", wrong.match, wrong.names)
		}
	}
}

// TestChecksum builds a packet whose checksum is known: RFC 1071's sum over the
// pseudo-header of RFC 8200 section 8.1, worked out by hand.
func TestChecksum(t *testing.T) {
	h := ip6{srcMAC: "02:00:00:00:00:01", dstMAC: "02:00:00:00:00:02", src: netip.MustParseAddr("::1"), dst: netip.MustParseAddr("::2")}
	f := h.udp(1, 2, []byte{0xff, 0xff, 3})
	// 1+2 (addresses) + 11+17 (pseudo-header) + 1+2+11 (UDP header) + ffff + 0300
	// = 1032c, folded 032d, inverted fcd2.
	if sum := f.payload()[6:8]; sum[0] != 0xfc || sum[1] != 0xd2 {
		t.Errorf("the checksum is %x", sum)
	}
}
