package sixacre_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/sixacre/sixacre"

// The house: which of our packages each may import. Everything may import the
// root; tests may import anything.
var (
	pure     = []string{"addr", "alloc", "dhcp6", "firewall"}
	actors   = []string{"control", "dhcpd", "hypervisor", "router"}
	adapters = map[string][]string{
		"etcd": {},
		"nft":  {"firewall"},
		"rtnl": {},
		"ra":   {},
		"api":  {"control"}, // drives
	}
)

// Heavy libraries have one importer, so that they can be replaced there.
var soleImporter = map[string]string{
	"go.etcd.io/":                          "etcd",
	"github.com/mdlayher/netlink":          "nft",
	"github.com/vishvananda/netlink":       "rtnl",
	"github.com/mdlayher/ndp":              "ra",
	"github.com/danielgtaylor/huma":        "api",
	"github.com/spf13/cobra":               "cmd/sixacre",
	"github.com/insomniacslk/dhcp":         "bench", // to compare with
	"github.com/prometheus/client_golang/": "",      // any but the pure and the root
}

// What a pure package must not reach: the outside world, clocks, chance.
var impure = []string{"os", "net", "net/http", "log", "log/slog", "sync", "sync/atomic", "context", "time", "math/rand", "math/rand/v2", "crypto/rand", "syscall"}

func TestArrowsPointInward(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata" || d.Name() == "bin"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		pkg := filepath.ToSlash(filepath.Dir(path))
		seen[pkg] = true
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if why := forbidden(pkg, imported); why != "" {
				t.Errorf("%s imports %s: %s", path, imported, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range seen {
		if !known(pkg) {
			t.Errorf("package %s has no place in the house: give it one here and in docs/ARCHITECTURE.md", pkg)
		}
	}
}

func known(pkg string) bool {
	_, adapter := adapters[pkg]
	return adapter || slices.Contains(pure, pkg) || slices.Contains(actors, pkg) || pkg == "." || pkg == "cmd/sixacre" || pkg == "lab" || pkg == "bench" || pkg == "firewall/firewalltest"
}

// forbidden says why pkg may not import the package, or "".
func forbidden(pkg, imported string) string {
	for lib, owner := range soleImporter {
		if strings.HasPrefix(imported, lib) {
			if owner == "" && (pkg == "." || slices.Contains(pure, pkg)) {
				return "the root and the pure packages count nothing"
			}
			if owner != "" && pkg != owner {
				return "only " + owner + " does"
			}
		}
	}
	ours, isOurs := strings.CutPrefix(imported, module+"/")
	allowed, isAdapter := adapters[pkg]
	switch {
	case ours == "firewall/firewalltest":
		return "only tests do"
	case pkg == ".":
		if isOurs {
			return "the root imports none of ours"
		}
		return ""
	case slices.Contains(pure, pkg):
		if isOurs && ours != "addr" {
			return "pure packages import only the root and addr"
		}
		if slices.Contains(impure, imported) {
			return "pure packages have no world, no clock and no chance"
		}
	case slices.Contains(actors, pkg):
		if isOurs && !slices.Contains(pure, ours) {
			return "actors import only the root and pure packages, and declare what else they need"
		}
	case isAdapter:
		if isOurs && ours != "addr" && !slices.Contains(allowed, ours) {
			return "adapters import the root, never each other or an actor"
		}
	case pkg == "lab":
		if isOurs {
			return "the lab sees only the built binary"
		}
	case pkg == "bench":
		measured := []string{"dhcpd", "hypervisor", "nft", "rtnl"}
		if isOurs && !slices.Contains(measured, ours) && !slices.Contains(pure, ours) {
			return "the benchmark runs the DHCPv6 server and the agent without a store: it brings the record itself"
		}
	}
	return ""
}
