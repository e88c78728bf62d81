// Package router is a pod's Linux router but for the Router Advertisements: it
// relays DHCPv6 between the link and the servers (RFC 9915 section 19), and
// routes each delegated prefix to its holder (RFC 8987) for as long as it is
// delegated.
//
// A client is known by the source MAC of its frames alone. Only what a server
// answers, or what the record says, changes a route.
package router

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/dhcp6"
)

// Kernel is the machine's routing table as far as it is ours: the routes of
// protocol 166 over the pod's link, and the unreachable ones.
type Kernel interface {
	Routes() ([]sixacre.Route, error)
	// Replace puts next in the place of old. Without old it adds next, without
	// next it deletes old. It never changes a route that is not ours.
	Replace(old, next sixacre.Route) error
}

// Router is the relay and the routes of one pod on one link.
type Router struct {
	pod     string
	frames  *frames
	metrics metrics
	keeper  keeper

	envelope envelope
	scope    atomic.Pointer[scope]
	limiter  limiter // of the goroutine that reads the link

	mu       sync.Mutex
	releases releases
	inbox    inbox

	wake    chan struct{} // something is in the inbox
	answers chan answer
}

// scope is what the relay needs to know of the link and the pod.
type scope struct {
	link        Link
	pod         sixacre.Pod
	linkAddress netip.Addr // invalid where there is none
}

// inbox is what others told the router and it has not looked at yet.
type inbox struct {
	view *sixacre.View
	lost map[netip.Prefix]bool
	all  bool // any route may be lost
}

// answer is a server's Reply on its way to a client.
type answer struct {
	message  []byte
	exchange exchange
}

// How many Replies wait while routes are written. Clients repeat what got lost.
const backlog = 1024

// OpenAlone takes up the routes of a pod without a record, where the last
// process left them: all routes come from the Replies. Of the pod, only link
// prefix, pools and router addresses are looked at, and any may be missing.
func OpenAlone(dir string, pod sixacre.Pod, link Link, kernel Kernel) (*Router, error) {
	t := newTable(false)
	t.setPod(pod)
	return open(dir, pod.Name, link, kernel, t)
}

// OpenRecorded takes up the routes of a pod whose record comes by Follow, where
// the last process left them. Until the first view comes, the last one that was
// written down counts.
func OpenRecorded(dir, pod string, link Link, kernel Kernel) (*Router, error) {
	return open(dir, pod, link, kernel, newTable(true))
}

func open(dir, pod string, link Link, kernel Kernel, t *table) (*Router, error) {
	j, m, err := openJournal(dir, pod, link.Name)
	if err != nil {
		return nil, err
	}
	if m.broken > 0 {
		slog.Warn("state was damaged", "dir", dir, "parts", m.broken)
	}
	t.restore(m.entries, m.view, pod, time.Now())
	frames, err := listenFrames(link.Index)
	if err != nil {
		j.close()
		return nil, sixacre.Errorf(sixacre.Unavailable, "cannot read frames from link %s: %s", link.Name, err)
	}
	r := &Router{
		pod:      pod,
		frames:   frames,
		metrics:  newMetrics(),
		envelope: envelope{link: link.Name},
		inbox:    inbox{all: true},
		wake:     make(chan struct{}, 1),
		answers:  make(chan answer, backlog),
	}
	rand.Read(r.envelope.key[:])
	r.keeper = keeper{table: t, journal: j, kernel: kernel, metrics: &r.metrics, known: m.pools}
	r.wake <- struct{}{}
	r.setScope(link, t.pod)
	return r, nil
}

// Pod returns the pod as last known, and whether it is known at all. It is not
// to be called once the router runs.
func (r *Router) Pod() (sixacre.Pod, bool) { return r.keeper.table.pod, r.keeper.table.podKnown }

// Follow gives the router a complete view of the record. It may be called at any
// time.
func (r *Router) Follow(v sixacre.View) {
	r.tell(func(in *inbox) { in.view = &v })
}

// Lost says that something may have happened to the kernel's route to a prefix,
// or with the zero prefix to all of them. It may be called at any time.
func (r *Router) Lost(p netip.Prefix) {
	r.tell(func(in *inbox) {
		if !p.IsValid() || len(in.lost) > 1000 {
			in.all = true
			return
		}
		if in.lost == nil {
			in.lost = map[netip.Prefix]bool{}
		}
		in.lost[p] = true
	})
}

// Relink gives the router the link's new addresses. It may be called at any
// time.
func (r *Router) Relink(link Link) {
	r.mu.Lock()
	pod := r.scope.Load().pod
	r.setScope(link, pod)
	r.mu.Unlock()
	r.Lost(netip.Prefix{})
}

func (r *Router) setScope(link Link, pod sixacre.Pod) {
	s := &scope{link: link, pod: pod}
	var ok bool
	if s.linkAddress, ok = link.linkAddress(pod.LinkPrefix); !ok {
		slog.Warn("not relaying: the router has no address in the pod's link prefix on the link", "link", link.Name, "prefix", pod.LinkPrefix)
	}
	r.scope.Store(s)
}

func (r *Router) tell(f func(*inbox)) {
	r.mu.Lock()
	f(&r.inbox)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run relays and keeps the routes until the context ends. It closes the socket.
// The kernel's routes stay when it returns, and the next process takes them up.
func (r *Router) Run(ctx context.Context, servers *net.UDPConn, upstreams []netip.AddrPort) error {
	defer r.keeper.journal.close()
	defer r.frames.close()
	defer servers.Close()
	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { servers.Close() })()
	group.Go(func() error { return ended(ctx, r.relay(ctx, servers, upstreams)) })
	group.Go(func() error { return ended(ctx, r.listen(ctx, servers, upstreams)) })
	group.Go(func() error { r.keep(ctx); return nil })
	return group.Wait()
}

// ended is nil where the error is only that the context ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// relay passes clients' messages on to the servers.
func (r *Router) relay(ctx context.Context, servers *net.UDPConn, upstreams []netip.AddrPort) error {
	b := make([]byte, 65536)
	var out []byte
	for {
		p, mac, err := r.frames.receive(ctx, b)
		if err == nil {
			out, err = r.relayed(out[:0], p, mac, time.Now())
		}
		if err != nil {
			if !r.count(err) {
				return err
			}
			continue
		}
		for _, to := range upstreams {
			if _, err := servers.WriteToUDPAddrPort(out, to); err != nil && !errors.Is(err, net.ErrClosed) {
				r.count(dropSend)
				slog.Debug("not relayed", "upstream", to, "err", err)
			}
		}
	}
}

// relayed appends the Relay-forward that a client's packet makes.
func (r *Router) relayed(b []byte, p packet, mac sixacre.MAC, now time.Time) ([]byte, error) {
	message, x, err := fromClient(p, mac)
	if err != nil {
		return b, err
	}
	s := r.scope.Load()
	switch {
	case x.peer == s.link.LinkLocal || mac == s.link.MAC || slices.Contains(s.pod.RouterLinkLocals, x.peer):
		return b, dropSource
	case !s.linkAddress.IsValid():
		return b, dropNoAddress
	case !r.limiter.allow(mac, now):
		return b, dropRate
	}
	if x.sent == dhcp6.Release {
		if d, err := parseDelegation(message); err == nil {
			r.mu.Lock()
			r.releases.add(x, d, now)
			r.mu.Unlock()
		}
	}
	r.metrics.relayed.WithLabelValues(x.sent.String()).Inc()
	return r.envelope.wrap(b, s.linkAddress, x, message), nil
}

// listen takes the servers' messages. Those that may change a route go to keep;
// the others go to the client at once.
func (r *Router) listen(ctx context.Context, servers *net.UDPConn, upstreams []netip.AddrPort) error {
	b := make([]byte, 65536)
	for {
		n, from, err := servers.ReadFromUDPAddrPort(b)
		if err != nil {
			return err
		}
		if !slices.Contains(upstreams, from) {
			r.count(dropNotUpstream)
			continue
		}
		message, x, err := r.envelope.unwrap(b[:n])
		if err != nil {
			r.count(err)
			continue
		}
		if dhcp6.MessageType(message[0]) != dhcp6.Reply {
			r.deliver(ctx, answer{message, x})
			continue
		}
		select {
		case r.answers <- answer{slices.Clone(message), x}:
		default:
			r.count(dropBacklog)
		}
	}
}

// deliver sends a server's message to the client: to the MAC that asked, from
// the link's own address (RFC 9915 section 19.2).
func (r *Router) deliver(ctx context.Context, a answer) {
	l := r.scope.Load().link
	p := packet{
		src:     netip.AddrPortFrom(l.LinkLocal, dhcp6.ServerPort),
		dst:     netip.AddrPortFrom(a.exchange.peer, dhcp6.ClientPort),
		payload: a.message,
	}
	if ipHeader+udpHeader+len(a.message) > l.MTU {
		r.count(dropTooBig)
		return
	}
	if err := r.frames.send(ctx, p, a.exchange.mac); err != nil {
		r.count(dropSend)
		slog.Debug("not delivered", "mac", a.exchange.mac, "err", err)
		return
	}
	r.metrics.replied.WithLabelValues(dhcp6.MessageType(a.message[0]).String()).Inc()
}

// count counts a drop. It returns false for any other error.
func (r *Router) count(err error) bool {
	var why drop
	if !errors.As(err, &why) {
		return false
	}
	r.metrics.dropped.WithLabelValues(string(why)).Inc()
	return true
}
