package router

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
)

// journal is what a router knows, on disk, so that the next process goes on
// where this one was killed: a file of one line of JSON per change, the last
// line of a prefix being the one that counts. A line cut off by a crash is no
// line, and no other is ever rewritten in place.
type journal struct {
	path  string // of the lines
	file  *os.File
	lock  *os.File
	lines int // in the file
	kept  int // after the last rewrite

	spoilt bool
}

// line is one change: the new entry of a prefix, an empty one meaning that
// nothing is known of it any more, or the pools that have an unreachable route.
type line struct {
	entry
	Pools *[]netip.Prefix `json:"pools,omitempty"`
}

// memory is what the journal holds.
type memory struct {
	entries []entry
	pools   []netip.Prefix // may have an unreachable route of ours
	view    sixacre.View   // the last that was followed
	broken  int            // lines that made no sense
}

// openJournal reads the journal of a pod's link in dir and makes it this
// process's own.
func openJournal(dir, pod, link string) (*journal, memory, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, memory{}, err
	}
	base := filepath.Join(dir, pod+"-"+link)
	lock, err := os.OpenFile(base+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, memory{}, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, memory{}, sixacre.Errorf(sixacre.InUse,
			"state of pod %s on link %s in %s is in use by another router: stop it, or give another --state", pod, link, dir)
	}
	j := &journal{path: base + ".journal", lock: lock}
	if left, err := filepath.Glob(j.path + "*.new-*"); err == nil {
		for _, name := range left {
			os.Remove(name)
		}
	}
	m, err := j.read()
	if err == nil {
		err = j.rewrite(m.entries, m.pools)
	}
	if err != nil {
		j.close()
		return nil, memory{}, err
	}
	return j, m, nil
}

func (j *journal) read() (memory, error) {
	var m memory
	if b, err := os.ReadFile(j.viewPath()); err == nil {
		if json.Unmarshal(b, &m.view) != nil {
			m.view = sixacre.View{}
			m.broken++
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return memory{}, err
	}
	f, err := os.Open(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return memory{}, err
	}
	defer f.Close()
	entries := map[netip.Prefix]entry{}
	for r := bufio.NewReader(f); ; {
		b, err := r.ReadBytes('\n')
		if err == io.EOF {
			break // a line without an end is no line
		}
		if err != nil {
			return memory{}, err
		}
		var l line
		switch {
		case json.Unmarshal(b, &l) != nil:
			m.broken++
		case l.Pools != nil:
			m.pools = *l.Pools
		case l.Prefix.IsValid():
			entries[l.Prefix] = l.entry
		}
	}
	for _, e := range entries {
		if !e.empty() {
			m.entries = append(m.entries, e)
		}
	}
	return m, nil
}

// append writes lines to disk. It returns once they would survive a crash of
// the machine.
func (j *journal) append(lines []line) error {
	var b []byte
	for _, l := range lines {
		text, err := json.Marshal(l)
		if err != nil {
			return err
		}
		b = append(append(b, text...), '\n')
	}
	if _, err := j.file.Write(b); err != nil {
		j.spoilt = true // there may be half a line
		return err
	}
	j.lines += len(lines)
	return j.file.Sync()
}

// worn reports whether the file is to be rewritten: most of it is history, or a
// line was written in part.
func (j *journal) worn() bool { return j.spoilt || j.lines > 2*j.kept+4096 }

// rewrite replaces the file by one that says the same in the fewest lines.
func (j *journal) rewrite(entries []entry, pools []netip.Prefix) error {
	f, err := os.CreateTemp(filepath.Dir(j.path), filepath.Base(j.path)+".new-")
	if err != nil {
		return err
	}
	next := journal{file: f}
	lines := []line{{Pools: &pools}}
	for _, e := range entries {
		lines = append(lines, line{entry: e})
	}
	err = next.append(lines)
	if err == nil {
		err = os.Rename(f.Name(), j.path)
	}
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return err
	}
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.lines, j.kept, j.spoilt = f, len(lines), len(lines), false
	return syncDir(filepath.Dir(j.path))
}

func (j *journal) viewPath() string { return j.path + ".view" }

// writeView keeps the view for a start without a server.
func (j *journal) writeView(v sixacre.View) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(j.path), filepath.Base(j.viewPath())+".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(f.Name(), j.viewPath())
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func (j *journal) close() {
	if j.file != nil {
		j.file.Close()
	}
	j.lock.Close() // and with it the lock
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
