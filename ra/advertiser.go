package ra

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"

	"github.com/sixacre/sixacre"
)

var (
	allNodes   = netip.MustParseAddr("ff02::1") // RFC 4291 section 2.7.1
	allRouters = netip.MustParseAddr("ff02::2")
)

// Advertiser sends Router Advertisements on one link, from when it is first
// told what to say.
type Advertiser struct {
	conn *ndp.Conn

	mu      sync.Mutex
	message *ndp.RouterAdvertisement // nil until Advertise
	plan    schedule
	failing bool

	wake chan struct{}
}

// Listen makes an advertiser for the link with that name and link-local address,
// which is not tentative any more.
func Listen(link string, linkLocal netip.Addr) (*Advertiser, error) {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return nil, err
	}
	conn, _, err := ndp.Listen(ifi, ndp.Addr(linkLocal.String()))
	if err != nil {
		return nil, sixacre.Errorf(sixacre.Unavailable, "cannot send router advertisements on link %s from %s: %s", link, linkLocal, err)
	}
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	err = conn.SetICMPFilter(&filter)
	if err == nil {
		err = conn.SetControlMessage(ipv6.FlagHopLimit, true)
	}
	if err == nil {
		err = conn.JoinGroup(allRouters)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Advertiser{conn: conn, wake: make(chan struct{}, 1)}, nil
}

// Advertise sets what is advertised from now on. If that is something new all
// nodes hear of it soon. It may be called at any time.
func (a *Advertiser) Advertise(m *ndp.RouterAdvertisement) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if reflect.DeepEqual(a.message, m) {
		return
	}
	a.message = m
	a.plan.prompt(time.Now())
	a.nudge()
}

func (a *Advertiser) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run advertises and answers solicitations until the context ends. Then it tells
// all nodes that this is no default router any more.
func (a *Advertiser) Run(ctx context.Context) error {
	defer a.conn.Close()
	listening := make(chan error, 1)
	go func() { listening <- a.listen() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.message != nil {
				a.send(final(*a.message), allNodes)
			}
			return nil
		case err := <-listening:
			return err
		case <-a.wake:
		case <-timer.C:
		}
		if at := a.advertise(); !at.IsZero() {
			timer.Reset(time.Until(at))
		}
	}
}

// advertise sends what is due, and returns when something will be again.
func (a *Advertiser) advertise() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.message == nil {
		return time.Time{}
	}
	now := time.Now()
	all, each := a.plan.due(now)
	if all {
		if a.send(a.message, allNodes) {
			a.plan.advertised(now, rand.Float64())
		} else {
			a.plan.next = now.Add(minDelay) // a link that is down, for instance
		}
	}
	for _, guest := range each {
		a.send(a.message, guest)
	}
	return a.plan.wake()
}

func (a *Advertiser) send(m *ndp.RouterAdvertisement, to netip.Addr) bool {
	err := a.conn.WriteTo(m, nil, to)
	if err != nil && !a.failing {
		slog.Error("router advertisement not sent", "to", to, "err", err)
	}
	a.failing = err != nil
	return err == nil
}

// listen takes Router Solicitations.
func (a *Advertiser) listen() error {
	for {
		m, cm, from, err := a.conn.ReadFrom()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		rs, ok := m.(*ndp.RouterSolicitation)
		if !ok || !valid(rs, cm, from.WithZone("")) {
			continue
		}
		a.mu.Lock()
		if a.message != nil {
			a.plan.solicited(from.WithZone(""), time.Now(), rand.Float64())
			a.nudge()
		}
		a.mu.Unlock()
	}
}

// valid reports whether a Router Solicitation is one (RFC 4861 section 6.1.1):
// from the link itself, and from :: only without a link-layer address.
func valid(rs *ndp.RouterSolicitation, cm *ipv6.ControlMessage, from netip.Addr) bool {
	if cm == nil || cm.HopLimit != ndp.HopLimit {
		return false
	}
	if from.IsUnspecified() {
		for _, o := range rs.Options {
			if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == ndp.Source {
				return false
			}
		}
	}
	return true
}
