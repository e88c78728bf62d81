package firewall_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

const manual = "../docs/firewall.md"

// documented is the host that docs/firewall.md explains.
func documented(t testing.TB, mode firewall.Mode) firewall.Host {
	one, two := port("tap1", guest(1, []string{"2001:db8:4000:10::/60"}, "web")), port("tap2", guest(2, nil, "app"))
	return firewall.Host{
		Mode:    mode,
		Taps:    []firewall.Pattern{"tap*"},
		Log:     firewall.Log{Learning: 1660},
		Bridges: []firewall.Bridge{{Name: "br0", Index: 3, Zone: 4}},
		Uplinks: []firewall.Uplink{{Device: "eth0", Index: 2, Bridge: "br0"}},
		Pods:    []sixacre.Pod{pod},
		Ports:   []firewall.Port{one, two},
		Groups: []sixacre.Group{
			{Name: "web", Rules: []sixacre.Rule{
				rule(t, 1, "in tcp 80,443 - -"),
				rule(t, 2, "in tcp 22 - 2001:db8:99::/48"),
				rule(t, 3, "in udp 7000-7999 - group:app"),
				rule(t, 4, "in 47 - - -"),
			}},
			{Name: "app", Rules: []sixacre.Rule{rule(t, 1, "out any - - 2001:db8::/32")}},
		},
		Members: []sixacre.Members{{Group: "app", Addresses: []netip.Addr{two.NIC.Address}}},
	}
}

// TestManual holds what docs/firewall.md shows of the chains against what nft
// prints of them: all chains are there, rule by rule. In the text "=> source"
// stands for the end of a rule that drops for that reason.
func TestManual(t *testing.T) {
	doc, err := os.ReadFile(manual)
	must(t, err)
	for _, mode := range []firewall.Mode{firewall.BridgeNetfilter, firewall.BridgeConntrack} {
		t.Run(mode.String(), func(t *testing.T) {
			shown := chainsOf(strings.Join(fenced(string(doc), mode), "\n"))
			printed := chainsOf(asOnAHost(t, firewall.Compile(documented(t, mode)).String()))
			for name, rules := range printed {
				if got, ok := shown[name]; !ok && mode == firewall.BridgeNetfilter {
					t.Errorf("%s does not show chain %s:\n%s", manual, name, strings.Join(rules, "\n"))
				} else if ok && !slices.Equal(got, rules) {
					t.Errorf("%s shows chain %s as\n%s\nbut nft prints\n%s", manual, name, strings.Join(got, "\n"), strings.Join(rules, "\n"))
				}
			}
			for name := range shown {
				if _, ok := printed[name]; !ok {
					t.Errorf("%s shows chain %s, which there is not", manual, name)
				}
			}
		})
	}
}

// TestManualNames: the manual speaks of every set, and of every reason by its
// number.
func TestManualNames(t *testing.T) {
	doc, err := os.ReadFile(manual)
	must(t, err)
	var rows []string
	whole := documented(t, firewall.BridgeConntrack)
	whole.Pods = slices.Clone(whole.Pods)
	whole.Pods[0].AntiSpoof = sixacre.AntiSpoofLinkPrefix
	for _, h := range []firewall.Host{documented(t, firewall.BridgeNetfilter), whole} {
		for _, table := range firewall.Compile(h).Tables() {
			for _, s := range table.Sets {
				rows = append(rows, "`"+s.Name+"`")
			}
		}
	}
	for r := firewall.Reason(1); r.Text() != ""; r++ {
		rows = append(rows, fmt.Sprintf("\n| %d | `%s` | ", r, r))
	}
	slices.Sort(rows)
	for _, row := range slices.Compact(rows) {
		if !strings.Contains(string(doc), row) {
			t.Errorf("%s has no %q", manual, row)
		}
	}
}

// fenced returns the listings of the mode.
func fenced(doc string, mode firewall.Mode) []string {
	var out []string
	for _, block := range strings.Split(doc, "\n```nft")[1:] {
		head, body, _ := strings.Cut(block, "\n")
		body, _, _ = strings.Cut(body, "\n```")
		if strings.TrimSpace(head) == "" && mode == firewall.BridgeNetfilter || strings.TrimSpace(head) == mode.String() {
			out = append(out, body)
		}
	}
	return out
}

// numbers are what nft prints of protocols where there is no /etc/protocols.
var numbers = strings.NewReplacer("ipv6-icmp", "58", "ipv6-route", "43", "l4proto gre", "l4proto 47",
	"nexthdr tcp", "nexthdr 6", "nexthdr udp", "nexthdr 17", "{ tcp, udp }", "{ 6, 17 }")

var dropping = regexp.MustCompile(`meta mark set 0x([0-9a-f]{8}) goto dropped_(?:from|to) comment "[^"]*"`)

// chainsOf returns the rules of each chain, by its name and its table's family.
func chainsOf(listing string) map[string][]string {
	out := map[string][]string{}
	family, chain := "", ""
	for line := range strings.Lines(listing) {
		line = dropping.ReplaceAllStringFunc(strings.TrimSpace(line), func(s string) string {
			n, _ := strconv.ParseUint(dropping.FindStringSubmatch(s)[1], 16, 32)
			return "=> " + firewall.Reason(n).String()
		})
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "table":
			family = words[1]
		case words[0] == "chain":
			chain = family + " " + words[1]
			out[chain] = []string{}
		case line == "}":
			chain = ""
		case chain != "":
			out[chain] = append(out[chain], numbers.Replace(line))
		}
	}
	return out
}

// asOnAHost is how nft prints the text where the interfaces are that it names.
func asOnAHost(t testing.TB, text string) string {
	if os.Getuid() != 0 {
		t.Skip("needs root: nft is asked in a network namespace")
	}
	for _, program := range []string{"nft", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs " + program + " (Debian packages nftables and iproute2)")
		}
	}
	file := filepath.Join(t.TempDir(), "ruleset")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	script := "ip link add br0 index 3 type bridge\n"
	for i, name := range []string{"eth0:2", "tap1:149", "tap2:150"} {
		name, index, _ := strings.Cut(name, ":")
		script += fmt.Sprintf("ip link add %s index %s type veth peer name far%d index %d\n", name, index, i, 1000+i)
	}
	cmd := exec.Command("sh", "-ec", script+"nft -f "+file+"\nnft -s list ruleset")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	var out, problems strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		if strings.Contains(problems.String(), "Protocol error") || strings.Contains(problems.String(), "Operation not supported") {
			t.Skip("this kernel has no nf_conntrack_bridge")
		}
		t.Fatal(problems.String())
	}
	return out.String()
}
