package nft

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

func sh(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s\n%s: %s", script, err, out)
	}
}

// markOf is the mark of connections of that port and direction.
func markOf(index int, d sixacre.Direction) uint32 {
	for m := uint32(0x80000000); ; m += 2048 {
		if i, is := firewall.Refused(m); i == index && is == d {
			return m
		}
	}
}

// TestDrops: what a NIC sends that is not its own is counted, and so is what
// was refused.
func TestDrops(t *testing.T) {
	inNamespace(t)
	sh(t, `ip link add br0 type bridge
		ip link add tapa type veth peer name guest
		ip link set tapa master br0`)
	h := firewall.Host{Taps: []firewall.Pattern{"tap*"}}
	k := new(Kernel)
	must(t, k.Apply(t.Context(), firewall.Compile(h)))
	drops := func() []firewall.Drop {
		t.Helper()
		got, err := new(Kernel).Drops(t.Context())
		must(t, err)
		return got
	}
	if got := drops(); len(got) != 0 {
		t.Errorf("before any packet: %v", got)
	}
	sh(t, `sysctl -q -w net.ipv6.conf.br0.disable_ipv6=1 net.ipv6.conf.tapa.disable_ipv6=1
		for l in br0 tapa guest; do ip link set $l up; done`) // the guest's kernel asks for its address and for routers
	sent := func(d firewall.Drop) bool {
		return d.Device == "tapa" && d.Direction == sixacre.Out && d.Reason == firewall.NotProgrammed && d.Packets > 0 && d.Bytes >= 40*d.Packets
	}
	var got []firewall.Drop
	for deadline := time.Now().Add(10 * time.Second); !slices.ContainsFunc(got, sent); got = drops() {
		if time.Now().After(deadline) {
			t.Fatalf("an unprogrammed tap sent IPv6 and dropped are %+v", got)
		}
	}
	foreign(t, fmt.Sprintf(`add element ip6 sixacre_ct refused { 0x%x counter packets 7 bytes 700, 0x%x counter packets 8 bytes 800 }
		add element bridge sixacre dropped_to { "tapa" . 19 counter packets 9 bytes 900 }`, markOf(1, sixacre.In), markOf(4000, sixacre.Out)))
	want := []firewall.Drop{
		{Device: "if4000", Direction: sixacre.Out, Reason: firewall.TooManyConnections, Packets: 8, Bytes: 800},
		{Device: "lo", Direction: sixacre.In, Reason: firewall.TooManyConnections, Packets: 7, Bytes: 700},
		{Device: "tapa", Direction: sixacre.In, Reason: firewall.NoRule, Packets: 9, Bytes: 900},
	}
	if got := slices.DeleteFunc(drops(), func(d firewall.Drop) bool { return d.Reason == firewall.NotProgrammed }); !slices.Equal(got, want) {
		t.Errorf("dropped are\n%+v\nwant\n%+v", got, want)
	}
}

// TestForget: all that packets left of a port goes, and nothing of the others;
// the filter stays what was applied.
func TestForget(t *testing.T) {
	inNamespace(t)
	k := new(Kernel)
	rs := guests(2)
	must(t, k.Apply(t.Context(), rs))
	fill := func(port string, index int) string {
		var lines []string
		for _, set := range []string{"dropped_from", "dropped_to"} {
			lines = append(lines, fmt.Sprintf(`add element bridge sixacre %s { %q . 2 counter packets 1 bytes 60, %q . 19 counter packets 1 bytes 60 }`, set, port, port))
		}
		for _, set := range []string{"dhcpv6_rate", "nd_rate", "mld_rate", "error_rate"} {
			lines = append(lines, fmt.Sprintf(`add element bridge sixacre %s { %q }`, set, port))
		}
		for _, d := range []sixacre.Direction{sixacre.In, sixacre.Out} {
			m := markOf(index, d)
			lines = append(lines, fmt.Sprintf("add element ip6 sixacre_ct refused { 0x%x counter packets 1 bytes 60 }", m))
			lines = append(lines, fmt.Sprintf("add element ip6 sixacre_ct connections_%d { 0x%x ct count over 24, 0x%x ct count over 24 }", firewall.DefaultLimits.Connections, m, m+2047))
		}
		return strings.Join(lines, "\n")
	}
	// The kernel itself takes lists away in which there is no connection.
	lasting := func() string {
		return strings.Join(slices.DeleteFunc(strings.Split(listing(t), "\n"), func(l string) bool { return strings.Contains(l, "ct count over") }), "\n")
	}
	empty := lasting()
	foreign(t, fill("tapa", 11))
	one := lasting()
	foreign(t, fill("tapb", 12))
	intact(t, k, true) // what packets make is no drift
	must(t, k.Forget(t.Context(), []firewall.Port{{Device: "tapb", Index: 12}}))
	if got := lasting(); got != one {
		t.Errorf("without tapb there should be\n%s\nand is\n%s", one, got)
	}
	if got := fmt.Sprintf("0x%08x ct count", markOf(12, sixacre.In)); strings.Contains(listing(t), got) {
		t.Errorf("a list of tapb's connections is left: %s", got)
	}
	must(t, k.Forget(t.Context(), []firewall.Port{{Device: "tapb", Index: 12}, {Device: "tapa", Index: 11}}))
	if got := lasting(); got != empty {
		t.Errorf("without both there should be\n%s\nand is\n%s", empty, got)
	}
	before := generationNow(t)
	intact(t, k, true)
	must(t, k.Apply(t.Context(), guests(2)))
	if generationNow(t) != before {
		t.Error("to forget cost a full sync")
	}
	// Elements that go meanwhile are no failure.
	foreign(t, fill("tapa", 11))
	conn, err := dial()
	must(t, err)
	defer conn.Close()
	sets, err := countings(conn)
	must(t, err)
	for _, set := range sets {
		var all []element
		must(t, elementsOf(conn, set.family, set.table, set.name, func(e element) { all = append(all, element{key: e.key}) }))
		if len(all) > 0 {
			must(t, k.remove(set, all[:1]))
			must(t, k.remove(set, all))
		}
	}
	if got := lasting(); got != empty {
		t.Errorf("after all of them went one by one there is\n%s", got)
	}
}
