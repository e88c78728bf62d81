// Package hypervisor is the actor on a host that runs instances: it follows the
// record, finds the tap of each NIC, and keeps the kernel's filter what the
// compiled policy says.
//
// It can be stopped, killed and started at any moment: what it put into the
// kernel stays and goes on filtering, and on start it changes in place what is
// no longer right. Without the server it keeps the last view it was given, also
// across a restart.
package hypervisor

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// Firewall is the kernel's filter.
type Firewall interface {
	// Apply makes it the ruleset, in place and in one transaction.
	Apply(context.Context, firewall.Ruleset) error
	// Intact reports whether it still is what was applied last.
	Intact(context.Context) (bool, error)
	// Present reports whether there is one of ours, closed or filled in.
	Present() (bool, error)
}

// Memory is what the kernel keeps of guests besides the filter.
type Memory interface {
	// Forget drops what was counted of these guests.
	Forget(context.Context, []firewall.Port) error
	// Hold keeps guests from going on with flows that others opened to them.
	Hold(context.Context, []sixacre.Flow) error
	// EndConnections ends the tracked connections that match.
	EndConnections(match func(sixacre.Flow) bool) (ended int, err error)
}

// Links are the bridges of the host.
type Links interface {
	BridgePorts() ([]sixacre.BridgePort, error)
	// Confine has all that the port receives meet the firewall.
	Confine(sixacre.BridgePort) error
	// Secure holds the port to one MAC without the firewall's help.
	Secure(sixacre.BridgePort, sixacre.MAC) error
	// TrackIPv6 makes IPv6 connections on the bridges known to the firewall.
	TrackIPv6(context.Context, []string) (notes []string, err error)
}

// Agent filters for the NICs of one host. Set the fields, then call Run.
type Agent struct {
	Mode     firewall.Mode
	Taps     []firewall.Pattern // which ports are taps; nothing else is ever filtered
	Bridges  []string           // which bridges; if empty, each that has a tap
	Limits   firewall.Limits    // of each NIC; the zero value stands for the defaults
	NFLog    firewall.Log       // who hears of what is dropped, and of link-local addresses to learn
	State    string             // directory that keeps the last view and the status; "" for none
	Firewall Firewall
	Memory   Memory
	Links    Links
	// Report is told after every change, and again every now and then, what
	// is in force.
	Report func(context.Context, sixacre.Report) error
	// Learn asks for a link-local address that a guest takes.
	Learn func(context.Context, sixacre.LinkLocalRequest) error
	Log   *slog.Logger

	mu     sync.Mutex
	view   *sixacre.View   // nil until there was one
	asked  bool            // the server sent a view that no report answers yet
	relook bool            // links may have changed
	behind map[string]find // NICs by tap

	once  sync.Once
	wake  chan struct{}
	chore chan struct{}
	heard chan asking

	ports   []sixacre.BridgePort // as last looked at
	rules   firewall.Ruleset     // as last applied
	tracked []string             // bridges whose IPv6 is tracked
	secured map[int]sixacre.MAC  // ports, by interface index, held to a MAC
	found   map[nicKey]string    // the tap of each NIC, as last logged
	last    map[nicKey]find      // the NICs, as last applied

	keeper keeper
}

// retry is how soon a change that the kernel refused is tried again; look is
// how often the kernel is looked at and the report repeated without any cause.
const (
	retry = time.Second
	look  = 30 * time.Second
)

func (a *Agent) alarm() chan struct{} {
	a.once.Do(a.make)
	return a.wake
}

func (a *Agent) chored() chan struct{} {
	a.once.Do(a.make)
	return a.chore
}

func (a *Agent) make() {
	a.wake, a.chore, a.heard = make(chan struct{}, 1), make(chan struct{}, 1), make(chan asking, maxAsking)
}

// LinksChanged makes the agent look at the links again.
func (a *Agent) LinksChanged() {
	a.mu.Lock()
	a.relook = true
	a.mu.Unlock()
	a.FilterChanged()
}

// FilterChanged makes the agent look at the kernel's filter again.
func (a *Agent) FilterChanged() {
	ring(a.alarm())
}

// ring wakes whoever waits for the channel, now or next.
func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Follow takes the whole current view.
func (a *Agent) Follow(v sixacre.View) {
	a.mu.Lock()
	a.view, a.asked = &v, true
	a.mu.Unlock()
	a.FilterChanged()
}

// Run filters until the context ends, and leaves the filter in force.
func (a *Agent) Run(ctx context.Context) error {
	saved, err := LoadView(a.State)
	if err != nil {
		a.Log.Warn("no saved view", "reason", err)
	}
	a.mu.Lock()
	if a.view == nil {
		a.view = saved
	}
	a.relook = true
	a.mu.Unlock()

	reports := make(chan sixacre.Report, 1)
	taps := a.lastTaps() // before it is written anew
	var others sync.WaitGroup
	left, last := context.WithCancel(context.WithoutCancel(ctx))
	defer others.Wait()
	defer last() // so that what the last change left to do is done
	others.Go(func() { a.report(ctx, reports) })
	others.Go(func() { a.keep(left) })
	others.Go(func() { a.learn(ctx, taps) })

	var said *sixacre.Report
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		repeat := false
		select {
		case <-ctx.Done():
			return nil
		case <-a.alarm():
		case <-timer.C:
			repeat = true
		}
		// A server that started anew sends its view and has no report.
		a.mu.Lock()
		a.relook = a.relook || repeat
		repeat, a.asked = repeat || a.asked, false
		a.mu.Unlock()
		next := look
		report, err := a.reconcile(ctx)
		if err != nil && ctx.Err() == nil {
			a.Log.Error("the filter is not what it should be", "reason", err)
			next = retry
		}
		if report != nil && (repeat || !reflect.DeepEqual(report, said)) {
			select {
			case <-reports: // superseded
			default:
			}
			reports <- *report
			said = report
		}
		timer.Reset(next)
	}
}

// report sends each report, and the last one again after a failure.
func (a *Agent) report(ctx context.Context, reports <-chan sixacre.Report) {
	var r sixacre.Report
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case r = <-reports:
		case <-again:
		}
		again = nil
		if err := a.Report(ctx, r); err != nil && ctx.Err() == nil {
			a.Log.Warn("the server did not take the report", "reason", err)
			again = time.After(5 * retry)
		}
	}
}

// reconcile makes the kernel what the view and the links say. It returns what
// is in force then; nil while there was never a view.
func (a *Agent) reconcile(ctx context.Context) (*sixacre.Report, error) {
	a.mu.Lock()
	view, relook := a.view, a.relook
	a.relook = false
	a.mu.Unlock()
	if relook {
		ports, err := a.Links.BridgePorts()
		if err != nil {
			a.mu.Lock()
			a.relook = true
			a.mu.Unlock()
			return nil, err
		}
		a.ports = ports
		a.confine(ports)
	}
	if view == nil {
		return nil, a.closeTaps(ctx)
	}
	host, finds := a.arrange(*view, a.ports)
	tracked := a.track(ctx, a.ports, host)
	intact, err := a.Firewall.Intact(ctx)
	if err == nil && !intact {
		a.Log.Info("setting all of the filter, in place")
	}
	next := a.rules.Next(host)
	applied := a.Firewall.Apply(ctx, next)
	problem := errors.Join(tracked, applied)
	a.remember(finds)
	now := moment{view, finds, a.ports, next, applied == nil, problem}
	left := chores{now: &now}
	if applied == nil {
		a.secure(finds, next)
		left = a.leftovers(left, finds, next)
		a.rules = next
	}
	a.keeper.add(left)
	ring(a.chored())
	report := sixacre.Report{Revision: view.Revision, NICs: []sixacre.NICReport{}}
	for _, f := range finds {
		report.NICs = append(report.NICs, sixacre.NICReport{
			Pod: f.nic.Pod, MAC: f.nic.MAC, Device: f.port.Device, Programmed: now.programmed(f),
		})
	}
	return &report, problem
}

// Plan returns the ruleset that the view would get at this moment.
func (a *Agent) Plan(v sixacre.View) (firewall.Ruleset, error) {
	ports, err := a.Links.BridgePorts()
	if err != nil {
		return firewall.Ruleset{}, err
	}
	host, _ := a.arrange(v, ports)
	return firewall.Compile(host), nil
}

// closeTaps makes sure that taps are closed before anything is known of them.
// A filter that an earlier process left is left alone: it knows more.
func (a *Agent) closeTaps(ctx context.Context) error {
	present, err := a.Firewall.Present()
	if err != nil || present {
		return err
	}
	// What was applied before may be gone since.
	if _, err := a.Firewall.Intact(ctx); err != nil {
		return err
	}
	return a.Firewall.Apply(ctx, firewall.Compile(firewall.Host{Mode: a.Mode, Taps: a.Taps, Limits: a.Limits, Log: a.NFLog}))
}

// confine sets up taps that are new, whether they have a NIC or not.
func (a *Agent) confine(ports []sixacre.BridgePort) {
	for _, p := range ports {
		if p.Confined || !a.isTap(p.Device) {
			continue
		}
		if err := a.Links.Confine(p); err != nil {
			a.Log.Warn("frames from the tap to reserved groups pass the filter by", "device", p.Device, "reason", err)
		}
	}
}

// track makes connections on the bridges known.
func (a *Agent) track(ctx context.Context, ports []sixacre.BridgePort, h firewall.Host) error {
	if a.Mode != firewall.BridgeNetfilter {
		return nil
	}
	var now []string
	lost := false // a bridge made anew, or set back by others
	for _, b := range h.Bridges {
		i := slices.IndexFunc(ports, func(p sixacre.BridgePort) bool { return p.Bridge == b.Name })
		lost = lost || !ports[i].Tracked
		now = append(now, b.Name)
	}
	if len(now) == 0 || !lost && slices.Equal(now, a.tracked) {
		return nil
	}
	notes, err := a.Links.TrackIPv6(ctx, now)
	if err != nil {
		return err
	}
	for _, n := range notes {
		a.Log.Warn(n)
	}
	a.tracked = now
	return nil
}

// secure sets up the second barrier for taps that are new or changed hands. One
// that was off its bridge for a moment learns again. A guest that is on its way is
// still heard from elsewhere: it is held to its tap when it has arrived.
func (a *Agent) secure(finds []find, rs firewall.Ruleset) {
	now := map[int]sixacre.MAC{}
	for _, f := range finds {
		if !rs.Filters(f.port.Device) || f.nic.MovingTo != "" {
			continue
		}
		if a.secured[f.port.Index] != f.nic.MAC || f.port.Learning {
			if err := a.Links.Secure(f.port, f.nic.MAC); err != nil {
				a.Log.Warn("the bridge does not hold the port to its MAC; the filter does", "device", f.port.Device, "reason", err)
				continue
			}
		}
		now[f.port.Index] = f.nic.MAC
	}
	a.secured = now
}
