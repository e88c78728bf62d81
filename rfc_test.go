package sixacre_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRFCNamesTests: each test that docs/rfc.md names exists, in the package that
// it names, and so do the filter's chains and the lab's checks.
func TestRFCNamesTests(t *testing.T) {
	tests := map[string]map[string]bool{} // where each test is
	add := func(name, place string) {
		if tests[name] == nil {
			tests[name] = map[string]bool{}
		}
		tests[name][place] = true
	}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	chain := regexp.MustCompile(`(?m)(?:^chain |Chain\{Name: ")(\w+)`)
	chains, checks := map[string]bool{}, map[string]bool{}
	check := regexp.MustCompile(`(?m)^\t\t(?:check)?\{"([a-z0-9-]+)", "`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		filter, lab := filepath.Dir(path) == "firewall", filepath.Dir(path) == "lab"
		if !filter && !lab && !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, "_test.go") {
			place := filepath.ToSlash(filepath.Dir(path))
			if place == "." {
				place = "sixacre"
			}
			for _, m := range declared.FindAllSubmatch(text, -1) {
				add(string(m[1]), place)
			}
		}
		for re, found := range map[*regexp.Regexp]map[string]bool{chain: chains, check: checks} {
			for _, m := range re.FindAllSubmatch(text, -1) {
				found[string(m[1])] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	doc, err := os.ReadFile("docs/rfc.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(?:([\\w/]+)\\.)?((?:Test|Fuzz)\\w+)(?:/([\\w-]+))?`")
	for _, m := range named.FindAllStringSubmatch(string(doc), -1) {
		place, name, file := m[1], m[2], m[3]
		switch {
		case tests[name] == nil:
			t.Errorf("docs/rfc.md names %s, which there is not", m[0])
		case place != "" && !tests[name][place]:
			t.Errorf("docs/rfc.md names %s, which is not in %s", m[0], place)
		case name == "TestScripts" && file != "" && file != "FILE":
			if _, err := os.Stat("dhcp6/testdata/" + file + ".txt"); err != nil {
				t.Errorf("docs/rfc.md names %s: %s", m[0], err)
			}
		}
	}
	for _, m := range regexp.MustCompile("`chain (\\w+)`").FindAllStringSubmatch(string(doc), -1) {
		if !chains[m[1]] {
			t.Errorf("docs/rfc.md names chain %s, which the filter has not", m[1])
		}
	}
	for _, m := range regexp.MustCompile("lab `([a-z0-9-]+)`").FindAllStringSubmatch(string(doc), -1) {
		if !checks[m[1]] {
			t.Errorf("docs/rfc.md names the lab's check %s, which there is not", m[1])
		}
	}
}
