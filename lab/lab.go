// Package lab puts the whole picture on one machine, in network namespaces:
//
//	              core: the outside world, and the way to the server
//	   ┌─────────┬─────────┬────┴─────────┬───────────┬──────┬─────┬─────┐
//	router1   router2   router3        router4     server  load  hv1   hv2
//	   └────┬────┘         │              │                   (management)
//	fabric: pod1      fabric: pod2   fabric: pod3
//	   ├── stray           │              │
//	   ├── hv2: br0 ─ e-1  │              │
//	hv1: br0            hv1: br1       hv1: br2
//	   ├ i-1 … i-4, i-6    └ i-5          ├ l-1 … l-5
//	   ├ scratch                          └ p-1
//	   └ stranger
//
// Every box is a namespace with a kernel stack of its own. The server, the
// routers and the agents are the built binary, the instances run DHCPv6 clients
// of the distribution, and i-5 takes its address by DHCPv6; echo requests reach it
// only as a rule allows. Leases in pod3 are short, router4 knows of them only what
// the replies tell it, and guests there may use temporary addresses, as p-1 does;
// the others are switched on by the checks of their leases. What befalls
// hypervisors befalls hv2. Nobody registered the stranger, whose tap is on hv1,
// nor the stray, which sits on the pod's link where no hypervisor filters it. The
// scratch guest is registered and deleted by checks. From load a load generator
// asks as the relay of a pod of its own.
//
// The package knows no other of this module: it drives the binary as any
// operator would.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Lab is one lab of this machine.
type Lab struct {
	name   string // first part of its namespaces' names
	dir    string // its state; gone when it is down
	binary string // sixacre
	out    io.Writer

	mu    sync.Mutex // checks that run side by side start and end processes
	state state
}

// New returns the lab of that name. Two labs with different names and
// directories do not disturb each other.
func New(name, dir, binary string, out io.Writer) (*Lab, error) {
	// The kernel and ip(8) take longer names; the transcript does not.
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,23}$`).MatchString(name) {
		return nil, fmt.Errorf("lab name %q is not valid: use 1 to 24 lower-case letters, digits and dashes", name)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab makes network namespaces, which takes root: run it with sudo")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return &Lab{name: name, dir: dir, binary: binary, out: out}, nil
}

// DefaultDir is where the lab of a name keeps its state.
func DefaultDir(name string) string { return "/run/sixacre-" + name }

// Up builds the lab and returns when every instance has all that is its due.
// The lab outlives the process. What was built of a lab that did not come up is
// taken down again, unless it is to be kept for a look.
func (l *Lab) Up(ctx context.Context, keep bool) error {
	if err := l.requirePrograms(); err != nil {
		return err
	}
	unlock, err := l.create()
	if err != nil {
		return err
	}
	defer unlock()
	began := time.Now()
	if err := l.build(ctx); err != nil {
		if keep {
			return fmt.Errorf("%w; kept as it is, logs in %s", err, l.logDir())
		}
		if down := l.tearDown(); down != nil {
			fmt.Fprintln(l.out, down)
		}
		if ctx.Err() != nil {
			return errors.New("interrupted; what was built of the lab is removed")
		}
		return fmt.Errorf("%w; removed again, 'sixacre lab up --keep' leaves it to be looked at", err)
	}
	l.state.Ready = true
	if err := l.save(); err != nil {
		return err
	}
	l.sayf("up after %.1f s", time.Since(began).Seconds())
	return nil
}

// build is Up without the bookkeeping.
func (l *Lab) build(ctx context.Context) error {
	if err := l.buildTopology(ctx); err != nil {
		return err
	}
	l.sayf("%d namespaces: %s", len(l.state.Namespaces), strings.Join(boxes(), " "))
	if err := l.startServer(ctx); err != nil {
		return err
	}
	if err := l.register(ctx); err != nil {
		return err
	}
	if err := l.startActors(ctx); err != nil {
		return err
	}
	return l.startGuests(ctx)
}

// Hint is what a person needs to know to play in the lab.
func (l *Lab) Hint() string {
	return fmt.Sprintf(`The command line speaks to the lab's server after
  export SIXACRE_DATA=%s
so try: sixacre instance list; sixacre prefix list; sixacre whois 06:00:00:00:00:01
Inside a guest or router:
  ip netns exec %s ip -6 addr
  ip netns exec %s ip -6 route show proto 166
Logs are in %s.
`, l.dataDir(), l.ns("i-1"), l.ns("router1"), l.logDir())
}

// Down removes the lab, whatever state it is in.
func (l *Lab) Down(context.Context) error {
	unlock, err := l.open()
	if errors.Is(err, errNoLab) {
		l.sayf("there is no lab at %s", l.dir)
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.tearDown(); err != nil {
		return err
	}
	l.sayf("down")
	return nil
}

// programs are what the lab runs besides sixacre, and Debian's package for each.
var programs = map[string]string{
	"ip": "iproute2", "nft": "nftables", "ping": "iputils-ping",
	"dhcp6c": "wide-dhcpv6-client", "dhcpcd": "dhcpcd-base", "dhclient": "isc-dhcp-client",
	"dibbler-client": "dibbler-client", "perfdhcp": "kea-admin", networkd: "systemd",
}

func (l *Lab) requirePrograms() error {
	var missing, packages []string
	for program, pkg := range programs {
		if _, err := exec.LookPath(program); err != nil {
			missing, packages = append(missing, program), append(packages, pkg)
		}
	}
	if missing != nil {
		slices.Sort(missing)
		slices.Sort(packages)
		return fmt.Errorf("the lab runs %s, not installed here: apt-get install %s", strings.Join(missing, ", "), strings.Join(packages, " "))
	}
	return nil
}

func (l *Lab) sayf(format string, args ...any) {
	fmt.Fprintf(l.out, "lab: "+format+"\n", args...)
}

func (l *Lab) dataDir() string { return filepath.Join(l.dir, "data") }
func (l *Lab) logDir() string  { return filepath.Join(l.dir, "log") }

// ns names the namespace of a box.
func (l *Lab) ns(box string) string { return l.name + "-" + box }

// state is what a later process needs to know to check the lab or take it
// down. It is written before the thing it speaks of is made.
type state struct {
	Namespaces []string           `json:"namespaces"`
	Processes  map[string]process `json:"processes"`
	Ready      bool               `json:"ready"`
}

var errNoLab = errors.New("there is no lab")

// create makes the directory and state of a lab that is not there yet.
func (l *Lab) create() (unlock func(), err error) {
	unlock, err = l.open()
	switch {
	case err == nil && l.state.Ready:
		unlock()
		return nil, fmt.Errorf("lab %s is up already: use 'sixacre lab check' or 'sixacre lab down'", l.name)
	case err == nil:
		unlock()
		return nil, fmt.Errorf("lab %s was left half built: use 'sixacre lab down' first", l.name)
	case !errors.Is(err, errNoLab):
		return nil, err
	}
	if entries, err := os.ReadDir(l.dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s is there and holds no lab: name another directory with --dir", l.dir)
	}
	l.state = state{Processes: map[string]process{}}
	for _, box := range boxes() {
		name := l.ns(box)
		if _, err := os.Stat(netnsPath(name)); err == nil {
			return nil, fmt.Errorf("namespace %s exists and is not of the lab at %s: name this lab otherwise with --name", name, l.dir)
		}
		l.state.Namespaces = append(l.state.Namespaces, name)
	}
	for _, dir := range []string{l.dir, l.logDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if unlock, err = l.lock(); err != nil {
		return nil, err
	}
	if err := l.save(); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// open reads the state of the lab and keeps other lab commands away from it.
func (l *Lab) open() (unlock func(), err error) {
	if _, err := os.Stat(l.statePath()); errors.Is(err, os.ErrNotExist) {
		return nil, errNoLab
	}
	if unlock, err = l.lock(); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(l.statePath())
	if err == nil {
		err = json.Unmarshal(data, &l.state)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

func (l *Lab) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(l.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another 'sixacre lab' is at work on %s: wait for it to end", l.dir)
	}
	return func() { f.Close() }, nil
}

func (l *Lab) statePath() string { return filepath.Join(l.dir, "lab.json") }

// save replaces the state file whole, so that a crash leaves the old or the new.
func (l *Lab) save() error {
	data, err := json.MarshalIndent(l.state, "", "\t")
	if err != nil {
		return err
	}
	next := l.statePath() + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, l.statePath())
}

// tearDown ends the lab's processes and removes its namespaces and directory.
func (l *Lab) tearDown() error {
	var errs []error
	for _, name := range l.state.Namespaces {
		if err := killAllIn(name); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, deleteNamespaces(l.state.Namespaces))
	if err := errors.Join(errs...); err != nil {
		return err // the state stays, so that another try knows what is left
	}
	return os.RemoveAll(l.dir)
}
