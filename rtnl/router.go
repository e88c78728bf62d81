package rtnl

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
)

// Attachment is a link as a router is attached to it, ready for use.
type Attachment struct {
	Name      string
	Index     int
	MAC       sixacre.MAC
	MTU       int            // octets of an IPv6 packet
	LinkLocal netip.Addr     // the first one that is not tentative
	Addresses []netip.Prefix // the other addresses that are not tentative
}

// Attach waits until the link is up and its link-local address is the machine's
// own: no longer tentative (RFC 4862 section 5.4).
func Attach(ctx context.Context, name string) (Attachment, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed, err := subscribe(ctx)
	if err != nil {
		return Attachment{}, err
	}
	for {
		a, ready, err := look(name)
		if err != nil || ready {
			return a, err
		}
		select {
		case <-ctx.Done():
			return Attachment{}, ctx.Err()
		case _, open := <-changed:
			if !open {
				if changed, err = subscribe(ctx); err != nil {
					return Attachment{}, err
				}
			}
		}
	}
}

// look returns the link as it is, and whether it is ready.
func look(name string) (Attachment, bool, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return Attachment{}, false, sixacre.Errorf(sixacre.NotFound, "link %s does not exist: name the interface to the pod's layer 2", name)
		}
		return Attachment{}, false, err
	}
	attrs := link.Attrs()
	if len(attrs.HardwareAddr) != 6 {
		return Attachment{}, false, sixacre.Errorf(sixacre.Invalid, "link %s is no Ethernet: name the interface to the pod's layer 2", name)
	}
	a := Attachment{Name: name, Index: attrs.Index, MTU: attrs.MTU, MAC: sixacre.MAC(attrs.HardwareAddr)}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return Attachment{}, false, err
	}
	for _, addr := range addrs {
		p, ok := prefixOf(addr.IPNet)
		switch {
		case ok && p.Addr().IsLinkLocalUnicast() && addr.Flags&unix.IFA_F_DADFAILED != 0:
			return Attachment{}, false, sixacre.Errorf(sixacre.Conflict, "address %s of link %s is in use by another machine: give the link another", p.Addr(), name)
		case !ok || addr.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0:
			continue
		case p.Addr().IsLinkLocalUnicast():
			if !a.LinkLocal.IsValid() {
				a.LinkLocal = p.Addr()
			}
		case addr.Flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED) == 0:
			a.Addresses = append(a.Addresses, p)
		}
	}
	// The kernel lists the newest first: an address added later changes nothing.
	slices.Reverse(a.Addresses)
	up := attrs.OperState == netlink.OperUp || attrs.OperState == netlink.OperUnknown && attrs.RawFlags&unix.IFF_RUNNING != 0
	return a, up && a.LinkLocal.IsValid(), nil
}

// Watch calls linked with the link each time that it or its addresses may have
// changed and it is ready, and lost with the prefix of each of our routes that
// was deleted or replaced, by us or by others. It returns an error when the link
// is gone, or that of linked.
func (r Routes) Watch(ctx context.Context, name string, linked func(Attachment) error, lost func(netip.Prefix)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var changed <-chan struct{}
	var routes <-chan netlink.RouteUpdate
	for {
		if changed == nil {
			c, err := subscribe(ctx)
			if err != nil {
				return err
			}
			changed = c
		}
		if routes == nil {
			c, err := subscribeRoutes(ctx)
			if err != nil {
				return err
			}
			routes = c
			lost(netip.Prefix{}) // what came before, or got lost in between
		}
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-changed:
			if !open {
				changed = nil // the kernel had more to say than its buffer holds
			}
			a, ready, err := look(name)
			if err == nil && a.Index != r.link {
				err = sixacre.Errorf(sixacre.Unavailable, "link %s was replaced by another of that name: start again", name)
			}
			if err != nil {
				return err
			}
			if ready {
				if err := linked(a); err != nil {
					return err
				}
			}
		case u, open := <-routes:
			if !open {
				routes = nil
				continue
			}
			if p, ok := r.affected(u); ok {
				lost(p)
			}
		}
	}
}

// affected returns the prefix whose route of ours an update may have ended.
func (r Routes) affected(u netlink.RouteUpdate) (netip.Prefix, bool) {
	p, ok := prefixOf(u.Dst)
	ours := u.Protocol == sixacre.RouteProtocol
	switch {
	case u.Table != unix.RT_TABLE_MAIN:
		return netip.Prefix{}, false
	case u.Type == unix.RTM_DELROUTE:
		return p, ok && ours
	case u.NlFlags&unix.NLM_F_REPLACE != 0:
		return p, ok && !ours
	}
	return netip.Prefix{}, false
}

// subscribe returns a channel with a value after links or addresses changed. It
// is closed when the context ends or notifications were lost.
func subscribe(ctx context.Context) (<-chan struct{}, error) {
	ctx, cancel := context.WithCancel(ctx)
	links := make(chan netlink.LinkUpdate, 16)
	addrs := make(chan netlink.AddrUpdate, 16)
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
		cancel()
		return nil, err
	}
	if err := netlink.AddrSubscribe(addrs, ctx.Done()); err != nil {
		cancel()
		drain(links)
		return nil, err
	}
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		defer drain(links)
		defer drain(addrs)
		defer cancel()
		for {
			open := false
			select {
			case _, open = <-links:
			case _, open = <-addrs:
			}
			if !open {
				return
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, nil
}

// subscribeRoutes returns a channel with the changes of routes. It is closed when
// the context ends or notifications were lost.
func subscribeRoutes(ctx context.Context) (<-chan netlink.RouteUpdate, error) {
	ctx, cancel := context.WithCancel(ctx)
	updates := make(chan netlink.RouteUpdate, 64)
	if err := netlink.RouteSubscribe(updates, ctx.Done()); err != nil {
		cancel()
		return nil, err
	}
	out := make(chan netlink.RouteUpdate)
	go func() {
		defer close(out)
		defer drain(updates)
		defer cancel()
		for u := range updates {
			select {
			case out <- u:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// drain lets the sender of a subscription see that it is over.
func drain[T any](c <-chan T) {
	go func() {
		for range c {
		}
	}()
}
