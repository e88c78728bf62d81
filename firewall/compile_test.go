package firewall_test

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/firewall"
)

var update = flag.Bool("update", false, "rewrite testdata with what the compiler prints now")

var pod = sixacre.Pod{Name: "pod1", LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64"), Addressing: sixacre.SLAAC}

// guest makes a NIC of pod1 whose MAC ends in n.
func guest(n byte, prefixes []string, groups ...string) sixacre.NIC {
	nic := sixacre.NIC{MAC: sixacre.MAC{6, 0, 0, 0, 0, n}, Pod: "pod1", Host: "hv1", State: sixacre.Running, Groups: groups}
	for _, p := range prefixes {
		nic.Prefixes = append(nic.Prefixes, netip.MustParsePrefix(p))
	}
	return addr.Complete(pod, nic)
}

func port(device string, n sixacre.NIC) firewall.Port {
	index := 100 + int(device[len(device)-1])
	return firewall.Port{Device: device, Index: index, Bridge: "br0", NIC: n}
}

// rule reads a rule as the command line takes it: direction protocol ports
// icmp-type remote, a dash for what is not given.
func rule(t testing.TB, id int, words string) sixacre.Rule {
	t.Helper()
	f := strings.Fields(words)
	r := sixacre.Rule{ID: id, Direction: sixacre.Direction(f[0])}
	must(t, r.Protocol.UnmarshalText([]byte(f[1])))
	if f[2] != "-" {
		must(t, r.Ports.UnmarshalText([]byte(f[2])))
	}
	if f[3] != "-" {
		r.ICMPType = new(sixacre.ICMPType)
		must(t, r.ICMPType.UnmarshalText([]byte(f[3])))
	}
	if f[4] != "-" {
		must(t, r.Remote.UnmarshalText([]byte(f[4])))
	}
	must(t, r.Validate())
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func base(mode firewall.Mode) firewall.Host {
	return firewall.Host{
		Mode:    mode,
		Taps:    []firewall.Pattern{"vnet*", "tap*"},
		Bridges: []firewall.Bridge{{Name: "br0", Index: 3, Zone: 7}},
		Uplinks: []firewall.Uplink{{Device: "eth0", Index: 2, Bridge: "br0"}},
		Pods:    []sixacre.Pod{pod},
	}
}

// scenarios are hosts whose rulesets are kept in testdata, to be read.
func scenarios(t testing.TB) map[string]firewall.Host {
	one := base(firewall.BridgeNetfilter)
	one.Ports = []firewall.Port{port("tap1", guest(1, []string{"2001:db8:4000:10::/60"}, "default"))}

	two := base(firewall.BridgeNetfilter)
	two.Ports = []firewall.Port{
		port("tap2", guest(2, []string{"2001:db8:4000:20::/60", "2001:db8:5000:100::/56"}, "web", "own")),
		port("tap1", guest(1, []string{"2001:db8:4000:10::/60"}, "web")),
	}
	two.Groups = []sixacre.Group{
		{Name: "web", Rules: []sixacre.Rule{
			rule(t, 1, "in tcp 80,443 - -"),
			rule(t, 2, "in tcp 22,8000-8999 - 2001:db8:ffff::/48"),
			rule(t, 3, "in tcp 8500-9500 - group:own"),
			rule(t, 4, "in udp - - 2001:db8:fffe::/48"),
			rule(t, 5, "in 47 - - -"),
			rule(t, 6, "in icmpv6 - 139/0 2001:db8:fffe::/48"),
			rule(t, 7, "in any - - 2001:db8:fffd::1"),
		}},
		{Name: "own", Rules: []sixacre.Rule{
			rule(t, 1, "in any - - group:own"),
			rule(t, 2, "out tcp 443 - -"),
			rule(t, 3, "out udp 53 - 2001:db8::53"),
			rule(t, 4, "out icmpv6 - 128 group:own"),
		}},
	}
	two.Members = []sixacre.Members{{
		Group:     "own",
		Addresses: []netip.Addr{netip.MustParseAddr("2001:db8:100:1::9"), two.Ports[0].NIC.Address},
		Prefixes:  two.Ports[0].NIC.Prefixes,
	}}
	ct := two
	ct.Mode = firewall.BridgeConntrack
	return map[string]firewall.Host{
		"empty":                base(firewall.BridgeNetfilter),
		"one-guest":            one,
		"two-guests-groups":    two,
		"two-guests-groups-ct": ct,
	}
}

func TestGolden(t *testing.T) {
	for name, h := range scenarios(t) {
		t.Run(name, func(t *testing.T) {
			got := firewall.Compile(h).String()
			path := filepath.Join("testdata", name+".nft")
			if *update {
				must(t, os.WriteFile(path, []byte(got), 0o644))
			}
			want, err := os.ReadFile(path)
			must(t, err)
			if got != string(want) {
				t.Errorf("the ruleset of %s is not that of %s; read the difference, then run go test ./firewall -update", name, path)
			}
		})
	}
}

// nft loads the texts one by one in a network namespace of its own, and returns
// the canonical listing of what is there then. It skips where that cannot be.
func nft(t testing.TB, texts ...string) (string, error) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: nft is asked in a network namespace")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft (Debian package nftables)")
	}
	dir := t.TempDir()
	script := "set -e\n"
	for i, text := range texts {
		file := filepath.Join(dir, string(rune('a'+i)))
		must(t, os.WriteFile(file, []byte(text), 0o600))
		script += "nft -f " + file + "\n"
	}
	cmd := exec.Command("sh", "-c", script+"nft -s list ruleset")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	var out, problems strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return out.String(), &nftError{problems.String()}
	}
	return firewall.Canonical(out.String()), nil
}

type nftError struct{ text string }

func (e *nftError) Error() string { return e.text }
