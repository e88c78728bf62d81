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

// TestForms is about what the forgeries hide in (RFC 8200 sections 4.2 to 4.5).
func TestForms(t *testing.T) {
	h := ip6{srcMAC: "02:00:00:00:00:01", dstMAC: "02:00:00:00:00:02", src: netip.MustParseAddr("::1"), dst: netip.MustParseAddr("::2")}
	plain := h.udp(1, 2, make([]byte, 16))
	hidden := plain.behind(routerAlert, padding)
	want := slices.Concat([]byte{destinationOptions, 0, 5, 2, 0, 0, 1, 0}, []byte{protoUDP, 0, 1, 4, 0, 0, 0, 0}, plain.payload())
	if hidden.proto() != hopByHop || !bytes.Equal(hidden.payload(), want) {
		t.Errorf("behind options it is %d %x", hidden.proto(), hidden.payload())
	}
	pieces := hidden.fragments(16)
	first, second := pieces[0].payload(), pieces[1].payload()
	switch {
	case pieces[0].proto() != fragment || pieces[1].proto() != fragment || first[0] != hopByHop || second[0] != hopByHop:
		t.Errorf("fragments are of %d and %d", first[0], second[0])
	case !bytes.Equal(first[2:4], []byte{0, 1}) || !bytes.Equal(second[2:4], []byte{0, 16}) || !bytes.Equal(first[4:8], second[4:8]):
		t.Errorf("fragments begin with %x and %x", first[:8], second[:8])
	case !bytes.Equal(slices.Concat(first[8:], second[8:]), want):
		t.Errorf("fragments make %x and %x", first[8:], second[8:])
	}
	// A header of IPv4 with its checksum sums up to ffff (RFC 791 section 3.1).
	if sum := onesSum(0, ipv4(token())[:20]); sum != 0xffff {
		t.Errorf("the IPv4 header sums up to %x", sum)
	}
}

// perfdhcpSays is the end of what perfdhcp 2.2 prints, cut to what is read, with
// two Renews and three Releases beside ten exchanges.
const perfdhcpSays = `***Rate statistics***
Rate: 171.396 4-way exchanges/second, expected rate: 200

***Malformed Packets***
Malformed packets: 0
***Statistics for: SOLICIT-ADVERTISE***
sent packets: 10
received packets: 10
drops: 0
drops ratio: 0 %
orphans: 0
rejected leases: 0

min delay: 0.069 ms
***Statistics for: REQUEST-REPLY***
sent packets: 10
received packets: 10
drops: 0
orphans: 5
rejected leases: 0
***Statistics for: RENEW-REPLY***
sent packets: 2
received packets: 2
drops: 0
orphans: 3
rejected leases: 0
***Statistics for: RELEASE-REPLY***
sent packets: 3
received packets: 3
drops: 0
orphans: 0
rejected leases: 0
`

func TestReadPerfdhcp(t *testing.T) {
	report, err := readPerfdhcp(perfdhcpSays)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []exchange{
		{name: "SOLICIT-ADVERTISE", sent: 10, answers: 10},
		{name: "REQUEST-REPLY", sent: 10, answers: 10, orphans: 5},
		{name: "RENEW-REPLY", sent: 2, answers: 2, orphans: 3},
		{name: "RELEASE-REPLY", sent: 3, answers: 3},
	} {
		if report[i] != want {
			t.Errorf("read %+v instead of %+v", report[i], want)
		}
	}
	for _, fault := range []struct{ from, to string }{
		{"drops: 0\norphans: 5", "drops: 1\norphans: 5"},
		{"orphans: 5", "orphans: 6"},
		{"orphans: 0\nrejected leases: 0\n\nmin", "orphans: 1\nrejected leases: 0\n\nmin"},
		{"orphans: 3\nrejected leases: 0", "orphans: 3\nrejected leases: 1"},
	} {
		report, err := readPerfdhcp(strings.Replace(perfdhcpSays, fault.from, fault.to, 1))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(report, func(e exchange) bool { return e.faults == 1 }) {
			t.Errorf("%q was not seen as a fault: %+v", fault.to, report)
		}
	}
	for _, wrong := range []string{"", strings.Replace(perfdhcpSays, "Malformed packets: 0", "Malformed packets: 1", 1)} {
		if report, err := readPerfdhcp(wrong); err == nil {
			t.Errorf("read %+v", report)
		}
	}
}

// TestTalk is about when a prefix counts as obtained, renewed or released.
func TestTalk(t *testing.T) {
	a, b := netip.MustParsePrefix("2001:db8:6000:10::/60"), netip.MustParsePrefix("2001:db8:6000:20::/60")
	grant := func(valid byte, prefixes ...netip.Prefix) []byte {
		ia := iapd(prefixes...)
		for at := 4 + 12; at < len(ia); at += 4 + 25 {
			ia[at+4+7] = valid // the last octet of the valid lifetime
		}
		return ia
	}
	const ours = 60
	for _, test := range []struct {
		name       string
		asks       byte
		asked      []netip.Prefix
		answer     []byte
		done       byte
		want       []netip.Prefix
		unanswered bool
	}{
		{"a Request", dhcpRequest, nil, grant(ours, a, b), dhcpRequest, []netip.Prefix{a, b}, false},
		{"a Solicit with rapid commit", dhcpSolicit, nil, grant(ours, a), dhcpRequest, []netip.Prefix{a}, false},
		{"a Renew", dhcpRenew, []netip.Prefix{a}, grant(ours, a, b), dhcpRenew, []netip.Prefix{a}, false},
		{"a Renew of what ends", dhcpRenew, []netip.Prefix{a}, grant(0, a), dhcpRenew, nil, false},
		{"a Rebind without binding", dhcpRebind, []netip.Prefix{a}, option(optStatus, []byte{0, 3}), dhcpRebind, nil, false},
		{"a Release", dhcpRelease, []netip.Prefix{a, b}, option(optStatus, []byte{0, 0}), dhcpRelease, []netip.Prefix{a, b}, false},
		{"a Renew that is lost", dhcpRenew, []netip.Prefix{a}, nil, dhcpRenew, nil, true},
	} {
		g := newGuest("l", 1, pod3, nil, 2)
		talk := newTalk(nil, nicRecord{LinkLocal: g.linkLocal()}, ours)
		talk.hear(g.client546(dhcpMessage(test.asks, 7, iapd(test.asked...))))
		server := ip6{srcMAC: pod3.routers[0].mac, dstMAC: g.mac, src: pod3.routers[0].linkLocal, dst: g.linkLocal()}
		talk.hear(server.udp(serverPort, clientPort, dhcpMessage(dhcpReply, 8, grant(ours, a, b)))) // another's
		if test.answer != nil {
			talk.hear(server.udp(serverPort, clientPort, dhcpMessage(dhcpReply, 7, test.answer)))
		}
		if got := talk.done[test.done]; !slices.Equal(got, test.want) {
			t.Errorf("%s: %s are done instead of %s", test.name, join(got), join(test.want))
		}
		if talk.unanswered(test.asks) != test.unanswered {
			t.Errorf("%s: unanswered is %t", test.name, !test.unanswered)
		}
	}
}
