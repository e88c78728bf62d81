package hypervisor

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// The last view is kept on disk rather than read back from the kernel: a host
// that starts while the server is away has no rules in its kernel, and taps
// that come while it is away are in no rule yet.
const (
	viewFile   = "view.json"
	statusFile = "status.json"
)

// LoadView returns the last view that an agent kept in the directory; nil where
// none did.
func LoadView(dir string) (*sixacre.View, error) { return load[sixacre.View](dir, viewFile) }

// LoadStatus returns what an agent last wrote down of itself in the directory;
// nil where none did.
func LoadStatus(dir string) (*Status, error) { return load[Status](dir, statusFile) }

func load[T any](dir, name string) (*T, error) {
	if dir == "" {
		return nil, nil
	}
	file := filepath.Join(dir, name)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, sixacre.Errorf(sixacre.Invalid, "%s is not what an agent wrote (%s): a running agent writes it anew", file, err)
	}
	return v, nil
}

// write writes the file whole or not at all.
func write(dir, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, name+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// moment is what the agent looked at, and what became of it.
type moment struct {
	view    *sixacre.View
	finds   []find
	ports   []sixacre.BridgePort
	rules   firewall.Ruleset
	applied bool // the rules are in force
	problem error
}

// programmed reports whether the kernel filters for the NIC as the view says.
func (m moment) programmed(f find) bool {
	return m.applied && f.port.Device != "" && m.rules.Filters(f.port.Device)
}

// status is what there is to say of the moment.
func (a *Agent) status(m moment) *Status {
	s := &Status{PID: os.Getpid(), Time: time.Now(), Connections: a.Mode.String(), Revision: m.view.Revision, NICs: []NICStatus{}, Closed: []string{}}
	if m.problem != nil {
		s.Problem = m.problem.Error()
	}
	instances := map[nicKey]string{}
	for _, i := range m.view.Instances {
		for _, n := range i.NICs {
			instances[nicKey{n.Pod, n.MAC}] = i.Name
		}
	}
	for _, f := range m.finds {
		s.NICs = append(s.NICs, NICStatus{
			Instance: instances[f.key()], Pod: f.nic.Pod, MAC: f.nic.MAC, Device: f.port.Device, Bridge: f.port.Bridge, Index: f.port.Index,
			Programmed: m.programmed(f),
		})
	}
	for _, p := range m.ports {
		if a.isTap(p.Device) && !m.rules.Filters(p.Device) {
			s.Closed = append(s.Closed, p.Device)
		}
	}
	return s
}
