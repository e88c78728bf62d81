package nft

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/firewall"
)

// inNamespace gives the test a network namespace of its own. It lasts as long
// as the thread, which ends with the test's goroutine.
func inNamespace(t testing.TB) {
	if os.Getuid() != 0 {
		t.Skip("needs root: the kernel's firewall in a network namespace")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft (Debian package nftables)")
	}
	runtime.LockOSThread() // never unlocked, so that nobody inherits the thread
	must(t, unix.Unshare(unix.CLONE_NEWNET))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func foreign(t *testing.T, text string) {
	t.Helper()
	must(t, run(t.Context(), text, "-f", "-"))
}

func intact(t *testing.T, k *Kernel, want bool) {
	t.Helper()
	got, err := k.Intact(t.Context())
	must(t, err)
	if got != want {
		t.Errorf("intact is %t, want %t", got, want)
	}
}

// guests is a host with that many guests.
func guests(n byte) firewall.Ruleset {
	pod := sixacre.Pod{LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"), Addressing: sixacre.SLAAC}
	h := firewall.Host{Taps: []firewall.Pattern{"tap*"}, Bridges: []firewall.Bridge{{Name: "br0", Index: 3, Zone: 1}}}
	for i := range n {
		h.Ports = append(h.Ports, firewall.Port{Device: "tap" + string('a'+rune(i)), Index: 11 + int(i), Bridge: "br0",
			NIC: addr.Complete(pod, sixacre.NIC{MAC: sixacre.MAC{6, 0, 0, 0, 0, i}, State: sixacre.Running})})
	}
	return firewall.Compile(h)
}

func generationNow(t *testing.T) uint32 {
	t.Helper()
	conn, err := dial()
	must(t, err)
	defer conn.Close()
	n, err := generation(conn)
	must(t, err)
	return n
}

func listing(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "-s", "list", "ruleset").Output()
	must(t, err)
	return firewall.Canonical(string(out))
}

func TestApply(t *testing.T) {
	inNamespace(t)
	k := new(Kernel)
	intact(t, k, false)
	must(t, k.Apply(t.Context(), guests(1)))
	intact(t, k, true)
	one := listing(t)

	must(t, k.Apply(t.Context(), guests(3)))
	must(t, k.Apply(t.Context(), guests(1)))
	if got := listing(t); got != one {
		t.Errorf("one guest was\n%s\nand is, after three,\n%s", one, got)
	}
	before := generationNow(t)
	must(t, k.Apply(t.Context(), guests(1)))
	if generationNow(t) != before {
		t.Error("applying the same again changed the kernel")
	}

	// Another process knows nothing of what this one left.
	must(t, k.Apply(t.Context(), guests(3)))
	must(t, new(Kernel).Apply(t.Context(), guests(1)))
	if got := listing(t); got != one {
		t.Errorf("one guest was\n%s\nand is, by a new process,\n%s", one, got)
	}
}

func TestPresent(t *testing.T) {
	inNamespace(t)
	k := new(Kernel)
	for _, c := range []struct {
		text string
		want bool
	}{
		{"add table ip6 theirs", false},
		{firewall.Static(firewall.Host{Taps: []firewall.Pattern{"tap*"}}), true},
		{"delete table bridge sixacre", false},
	} {
		foreign(t, c.text)
		got, err := k.Present()
		must(t, err)
		if got != c.want {
			t.Errorf("after %.40q: present is %t, want %t", c.text, got, c.want)
		}
	}
}

func TestDriftIsSeen(t *testing.T) {
	inNamespace(t)
	k := new(Kernel)
	rs := guests(2)
	must(t, k.Apply(t.Context(), rs))
	want := listing(t)
	for _, drift := range []string{
		"flush ruleset",
		"delete table bridge sixacre",
		"delete table ip6 sixacre_ct",
		"flush chain bridge sixacre guard",
		"add rule bridge sixacre prerouting accept",
		"insert rule bridge sixacre to.tapa accept",
		"flush map bridge sixacre inbound",
		`delete element bridge sixacre macs { "tapa" . 06:00:00:00:00:00 }`,
		`add element bridge sixacre macs { "tapa" . 06:00:00:00:00:07 }`,
		"add chain bridge sixacre another",
		"add map ip6 sixacre_ct another { type mark : verdict; }",
		"add element bridge sixacre inbound { * : accept }",
		"chain bridge sixacre forward { policy drop; }",
		"flush chain bridge sixacre dropped_to\nadd rule bridge sixacre dropped_to accept\nadd rule bridge sixacre dropped_to accept", // as many as before
	} {
		foreign(t, drift)
		intact(t, k, false)
		must(t, k.Apply(t.Context(), rs))
		intact(t, k, true)
		if got := listing(t); got != want {
			t.Errorf("%s: repaired to\n%s", drift, got)
		}
	}
}

func TestOtherTablesAreTheirs(t *testing.T) {
	inNamespace(t)
	k := new(Kernel)
	must(t, k.Apply(t.Context(), guests(1)))
	foreign(t, "table inet theirs { chain input { type filter hook input priority 0; counter; }; }\ntable ip6 sixacre { set s { type ifname; }; }")
	intact(t, k, true)
	theirs := func() string {
		out, err := exec.Command("sh", "-ec", "nft list table inet theirs; nft list table ip6 sixacre").Output()
		must(t, err)
		return string(out)
	}
	before := theirs()
	must(t, k.Apply(t.Context(), guests(2)))
	must(t, new(Kernel).Apply(t.Context(), guests(1)))
	if got := theirs(); got != before {
		t.Errorf("their tables were\n%s\nand are\n%s", before, got)
	}
}

// TestAnotherShape: a table of ours whose sets another version made otherwise
// is replaced in one transaction.
func TestAnotherShape(t *testing.T) {
	inNamespace(t)
	must(t, new(Kernel).Apply(t.Context(), guests(1)))
	want := listing(t)
	foreign(t, "flush ruleset\ntable bridge sixacre { set macs { type ether_addr; elements = { 06:00:00:00:00:01 }; }; chain old { ether saddr @macs accept; }; }")
	must(t, new(Kernel).Apply(t.Context(), guests(1)))
	if got := listing(t); got != want {
		t.Errorf("replaced by\n%s\nwant\n%s", got, want)
	}
}

func TestRefusal(t *testing.T) {
	inNamespace(t)
	err := run(context.Background(), "add rule bridge nowhere c accept\n", "-f", "-")
	if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "No such file or directory") {
		t.Errorf("nft's complaint became %q", err)
	}
	can, err := Examine(t.Context())
	must(t, err)
	if out := listing(t); out != "" {
		t.Errorf("asking what the kernel can do, %+v, left %s", can, out)
	}
}

// TestExamine: what the kernel says that it can do it can.
func TestExamine(t *testing.T) {
	inNamespace(t)
	can, err := Examine(t.Context())
	must(t, err)
	if mode, err := Probe(t.Context()); err != nil || mode != can.Mode {
		t.Errorf("connections are known by %s, or by %s: %v", can.Mode, mode, err)
	}
	rs := firewall.Compile(firewall.Host{Mode: can.Mode, Taps: []firewall.Pattern{"tap*"}, Log: firewall.Log{Drops: 1, Learning: 2}})
	if err := new(Kernel).Apply(t.Context(), rs); (err == nil) != (can.ConnectionLimits && can.Hashes && can.Logs) {
		t.Errorf("the kernel can do %+v, and of the filter it says: %v", can, err)
	}
	if ok, err := takes(t.Context(), "table bridge t { chain c { nonsense; }; }"); ok || err == nil {
		t.Errorf("nonsense: %t, %v", ok, err)
	}
}

func TestObstacles(t *testing.T) {
	inNamespace(t)
	foreign(t, `table inet theirs {
		chain open { type filter hook forward priority 0; policy accept; }
		chain closed { type filter hook forward priority 1; policy drop; }
		chain local { type filter hook input priority 0; policy drop; }
	}`)
	got, err := Obstacles()
	must(t, err)
	if len(got) != 1 || got[0] != "theirs closed" {
		t.Errorf("obstacles are %q", got)
	}
}

// TestOthersCommitMeanwhile: a commit of somebody else's between two of ours costs
// nothing where it was to another table, and where it was to ours all is set again.
func TestOthersCommitMeanwhile(t *testing.T) {
	inNamespace(t)
	k := new(Kernel)
	must(t, k.Apply(t.Context(), guests(1)))
	must(t, new(Kernel).Apply(t.Context(), guests(2)))
	want := listing(t)
	must(t, k.Apply(t.Context(), guests(2))) // after another process of ours
	if got := listing(t); got != want {
		t.Errorf("two guests were\n%s\nand are\n%s", want, got)
	}
	guard := firewall.Object{Family: "bridge", Table: firewall.BridgeTable, Kind: "chain", Name: "guard"}
	for _, c := range []struct {
		foreign string
		again   bool // whether all is set
	}{
		{"table ip6 theirs { chain c { accept; }; }", false},
		{"add rule bridge sixacre guard accept", true},
		{`delete element bridge sixacre macs { "tapa" . 06:00:00:00:00:00 }`, true},
	} {
		must(t, k.Apply(t.Context(), guests(1)))
		before := k.contents[guard]
		foreign(t, c.foreign)
		must(t, k.Apply(t.Context(), guests(2)))
		if again := k.contents[guard] != before; again != c.again {
			t.Errorf("after %q: all was set again: %t", c.foreign, again)
		}
		intact(t, k, true)
		foreign(t, "add table ip6 theirs\ndelete table ip6 theirs")
		if got := listing(t); got != want {
			t.Errorf("after %q two guests are\n%s\nwant\n%s", c.foreign, got, want)
		}
	}
}

// TestOthersCommitBeforeWeRead: what somebody else did to a chain of ours before
// it was read is not taken for ours.
func TestOthersCommitBeforeWeRead(t *testing.T) {
	inNamespace(t)
	k := new(Kernel)
	one, two := guests(1), guests(2)
	must(t, k.Apply(t.Context(), one))
	change := two.Change(one)
	changes, known := batchOf(change)
	if !known {
		t.Fatalf("not all of this can be sent:\n%s", change)
	}
	must(t, k.transact(changes))
	foreign(t, "insert rule bridge sixacre to.tapb accept")
	must(t, k.note(two, change))
	intact(t, k, false)
}

// TestOthersCommitAllTheTime: whenever Intact says yes, our tables are right.
func TestOthersCommitAllTheTime(t *testing.T) {
	inNamespace(t)
	ourTables := func() string {
		out, err := exec.Command("sh", "-c", "nft -s list table bridge sixacre; nft -s list table ip6 sixacre_ct").Output()
		must(t, err)
		return firewall.Canonical(string(out))
	}
	want := map[byte]string{}
	for n := range byte(4) {
		must(t, new(Kernel).Apply(t.Context(), guests(n)))
		want[n] = ourTables()
	}
	foreign(t, "table ip6 theirs { chain c { accept; }; }")
	meddling := []string{
		"add rule bridge sixacre guard accept",
		"add rule ip6 theirs c accept",
		`add element bridge sixacre macs { "tapx" . 06:00:00:00:00:07 }`,
		"add rule ip6 theirs c accept",
		"flush chain bridge sixacre forward",
		"flush chain ip6 theirs c",
	}
	next, done := make(chan string), make(chan struct{})
	alongside(t, func(ctx context.Context) {
		for text := range next {
			run(ctx, text, "-f", "-") // any may be refused
			done <- struct{}{}
		}
	})
	defer close(next)
	k := new(Kernel)
	sure := 0
	for i := range 48 {
		n := byte(i % 4)
		next <- meddling[i%len(meddling)]
		k.Apply(t.Context(), guests(n)) // may be refused because of theirs; the next one sets all
		k.Intact(t.Context())
		<-done
		if ok, err := k.Intact(t.Context()); err != nil || !ok {
			continue
		}
		sure++
		if got := ourTables(); got != want[n] {
			t.Fatalf("said to be intact, with %d guests:\n%s\nwant\n%s", n, got, want[n])
		}
	}
	if sure == 0 {
		t.Error("nothing was ever said to be intact")
	}
}
