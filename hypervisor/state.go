package hypervisor

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"github.com/sixacre/sixacre"
)

// The last view is kept on disk rather than read back from the kernel: a host
// that starts while the server is away has no rules in its kernel, and taps
// that come while it is away are in no rule yet.

// load returns the last view that was saved; nil where none was.
func (a *Agent) load() (*sixacre.View, error) {
	if a.State == "" {
		return nil, nil
	}
	b, err := os.ReadFile(a.viewFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v := new(sixacre.View)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, sixacre.Errorf(sixacre.Invalid, "%s is not a saved view (%s): it is written anew when the server sends one", a.viewFile(), err)
	}
	a.saved = *v
	return v, nil
}

// save writes the view, whole or not at all, unless it is the last one saved.
func (a *Agent) save(v sixacre.View) error {
	if a.State == "" || reflect.DeepEqual(v, a.saved) {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(a.State, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(a.State, "view-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), a.viewFile())
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	a.saved = v
	return nil
}

func (a *Agent) viewFile() string { return filepath.Join(a.State, "view.json") }
