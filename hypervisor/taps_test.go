package hypervisor

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

func TestMatch(t *testing.T) {
	mac := func(first, last byte) sixacre.MAC { return sixacre.MAC{first, 0, 0, 0, 0, last} }
	taps := []sixacre.BridgePort{
		{Device: "tap1", MAC: mac(0xfe, 1)},
		{Device: "tap2", MAC: mac(0xfe, 2)},
		{Device: "tap3", MAC: mac(6, 3)},
		{Device: "tap4a", MAC: mac(0xfe, 4)},
		{Device: "tap4b", MAC: mac(0xfe, 4)},
	}
	var v sixacre.View
	want := map[string]string{}
	add := func(name, device string, m sixacre.MAC, tap string) {
		v.Instances = append(v.Instances, sixacre.Instance{Name: name, NICs: []sixacre.NIC{{MAC: m, Device: device}}})
		want[name] = tap
	}
	add("by libvirt's MAC", "", mac(6, 1), "tap1")
	add("by name, whatever the MAC", "tap2", mac(6, 9), "tap2")
	add("whose tap is named for another", "", mac(6, 2), "")
	add("by the very MAC", "", mac(6, 3), "tap3")
	add("with two taps of its MAC", "", mac(6, 4), "")
	add("of which one is named", "tap4b", mac(6, 4), "tap4b")
	add("with a name that is not there", "tap9", mac(6, 1), "")
	want["with two taps of its MAC"] = "tap4a" // the other one is named
	add("that is stopped", "tap2", mac(6, 5), "")
	add("that is stopped, by the MAC of another", "", mac(6, 3), "")
	for i := range v.Instances[len(v.Instances)-2:] {
		v.Instances[len(v.Instances)-2+i].NICs[0].State = sixacre.Stopped
	}
	for i, f := range match(v, taps) {
		if name := v.Instances[i].Name; f.port.Device != want[name] {
			t.Errorf("the NIC %s has tap %q, want %q", name, f.port.Device, want[name])
		}
	}
	v.Instances = v.Instances[4:5]
	if f := match(v, taps); f[0].port.Device != "" {
		t.Errorf("of two taps with its MAC the NIC got %s", f[0].port.Device)
	}
}

// TestArrange: which bridges are ours, and what their ports are.
func TestArrange(t *testing.T) {
	ports := []sixacre.BridgePort{
		{Device: "eth0", Bridge: "br0", BridgeIndex: 3}, {Device: "tap1", Bridge: "br0", BridgeIndex: 3},
		{Device: "veth9", Bridge: "docker0", BridgeIndex: 4},
		{Device: "eth1", Bridge: "br1", BridgeIndex: 5},
	}
	for _, c := range []struct{ bridges, want string }{
		{"", "br0:eth0"},
		{"br0,br1", "br0:eth0 br1:eth1"},
		{"br1", "br1:eth1"},
	} {
		a := Agent{Taps: []firewall.Pattern{"tap*"}, Log: slog.New(slog.DiscardHandler)}
		if c.bridges != "" {
			a.Bridges = strings.Split(c.bridges, ",")
		}
		h, _ := a.arrange(sixacre.View{}, ports)
		var got []string
		for _, u := range h.Uplinks {
			got = append(got, u.Bridge+":"+u.Device)
		}
		if strings.Join(got, " ") != c.want || len(h.Bridges) != len(got) {
			t.Errorf("--bridge %q: bridges %v with uplinks %v, want %s", c.bridges, h.Bridges, got, c.want)
		}
	}
}

func TestState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "agent")
	if v, err := LoadView(dir); v != nil || err != nil {
		t.Errorf("from no directory came %v, %v", v, err)
	}
	view := sixacre.View{Revision: 7, Full: true, Instances: []sixacre.Instance{{Name: "i-1", NICs: []sixacre.NIC{{MAC: sixacre.MAC{6, 0, 0, 0, 0, 1}, Groups: []string{"web"}}}}}}
	if err := write(dir, viewFile, view); err != nil {
		t.Fatal(err)
	}
	if v, err := LoadView(dir); err != nil || v.Revision != 7 || v.Instances[0].NICs[0].Groups[0] != "web" {
		t.Errorf("saved %v, loaded %v, %v", view, v, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("the directory holds %v", files)
	}
	half := filepath.Join(dir, viewFile)
	if err := os.WriteFile(half, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if v, err := LoadView(""); v != nil || err != nil {
		t.Errorf("without a directory came %v, %v", v, err)
	}
	if v, err := LoadView(dir); v != nil || err == nil || !strings.Contains(err.Error(), half) {
		t.Errorf("from half a file came %v, %v", v, err)
	}
}

// TestDuplicateDetection: only a well-formed question about a link-local address
// of a sender that has none yet is one to learn from.
func TestDuplicateDetection(t *testing.T) {
	asks := func(change func([]byte) []byte) []byte {
		p := append([]byte{0x60, 0, 0, 0, 0, 24, 58, 255}, make([]byte, 56)...)
		p[40] = 135
		copy(p[48:], []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8})
		if change != nil {
			p = change(p)
		}
		return p
	}
	set := func(at int, to byte) func([]byte) []byte {
		return func(p []byte) []byte { p[at] = to; return p }
	}
	if got, ok := duplicateDetection(asks(nil)); !ok || got.String() != "fe80::102:304:506:708" {
		t.Errorf("learned %s, %t", got, ok)
	}
	for name, p := range map[string][]byte{
		"nothing": nil, "IPv4": asks(set(0, 0x45)), "another header": asks(set(6, 0)), "from off the link": asks(set(7, 64)),
		"an advertisement": asks(set(40, 136)), "from an address": asks(set(23, 1)), "for a global address": asks(set(48, 0x20)),
		"cut short": asks(func(p []byte) []byte { return p[:63] }), "of a shorter length": asks(set(5, 23)),
	} {
		if got, ok := duplicateDetection(p); ok {
			t.Errorf("%s: learned %s", name, got)
		}
	}
}
