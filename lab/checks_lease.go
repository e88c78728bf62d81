package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// leaseChecks have each client live through its leases, in the pod where they
// are short. Its router knows no record, so that a route is there only as long
// as the client keeps its lease.
func leaseChecks() []check {
	var all []check
	for _, g := range tenants {
		what := "%s obtains, renews, rebinds and releases %d prefixes"
		if g.client.mute {
			what = "%s obtains, renews and rebinds %d prefixes, and ends without a Release"
		}
		all = append(all, check{
			aside + g.client.name, fmt.Sprintf(what, g.client.name, g.prefixes),
			func(l *Lab, ctx context.Context) (string, error) { return l.checkLease(ctx, g) },
		})
	}
	return all
}

func (l *Lab) checkLease(ctx context.Context, g guest) (seen string, err error) {
	nic, err := l.nic(ctx, g.name)
	if err != nil {
		return "", err
	}
	if len(nic.Prefixes) != g.prefixes {
		return "", fmt.Errorf("the record gives %s instead of %d prefixes", join(nic.Prefixes), g.prefixes)
	}
	// An earlier check may have been killed.
	if err := l.switchOff(ctx, g); err != nil {
		return "", err
	}
	t, err := l.overhear(g, nic)
	if err != nil {
		return "", err
	}
	defer t.wire.Close()
	defer func() { err = errors.Join(err, l.switchOff(ctx, g)) }()
	if err := l.switchOn(ctx, g); err != nil {
		return "", err
	}

	if err := t.until(ctx, dhcpRequest, 30*time.Second); err != nil {
		return "", err
	}
	iapds := 1
	if g.client.twice {
		iapds = 2
	}
	if t.iapds != iapds {
		return "", fmt.Errorf("it asks with %d IA_PDs instead of %d", t.iapds, iapds)
	}
	if err := l.guestReady(ctx, g); err != nil {
		return "", err
	}
	if err := l.routed(ctx, g, nic.Prefixes, true); err != nil {
		return "", err
	}

	if err := t.until(ctx, dhcpRenew, 2*g.pod.valid); err != nil {
		return "", err
	}
	if err := l.dropRenews(ctx, g); err != nil {
		return "", err
	}
	if err := t.until(ctx, dhcpRebind, 2*g.pod.valid); err != nil {
		return "", err
	}
	if !t.unanswered(dhcpRenew) {
		return "", errors.New("it rebound, and no Renew of its was left without an answer")
	}
	if err := l.routed(ctx, g, nic.Prefixes, true); err != nil {
		return "", err
	}
	targets, err := l.innerAddresses(g, nic.Prefixes)
	if err != nil {
		return "", err
	}
	for _, to := range targets {
		if err := l.ping(ctx, g.pod.routers[0], to); err != nil {
			return "", err
		}
	}

	ending, err := l.endLease(ctx, g, t)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s in %d IA_PD: obtained; renewed; rebound while its Renews were dropped; each answers a ping; %s", join(nic.Prefixes), iapds, ending), nil
}

// endLease has the client release what it holds and end.
func (l *Lab) endLease(ctx context.Context, g guest, t *talk) (string, error) {
	if err := l.releaseClient(ctx, g); err != nil {
		return "", err
	}
	// Whatever it had to say it has said.
	if err := t.wire.pending(t.hear); err != nil {
		return "", err
	}
	switch {
	case t.sent[dhcpRelease] > 0:
		if err := t.until(ctx, dhcpRelease, answerWithin); err != nil {
			return "", err
		}
		return "released, and the routes went", l.routed(ctx, g, t.nic.Prefixes, false)
	case g.client.mute:
		return "it ended without a Release, and the routes stay", l.routed(ctx, g, t.nic.Prefixes, true)
	}
	return "", errors.New("it ended without a Release")
}

// dropRenews has the switch of a guest's pod lose the guest's Renews.
func (l *Lab) dropRenews(ctx context.Context, g guest) error {
	// The message type is the first octet after the UDP header.
	_, err := l.exec(ctx, fabric, "nft", fmt.Sprintf(`add table bridge %[1]s
add chain bridge %[1]s forward { type filter hook forward priority 0; }
add rule bridge %[1]s forward ether saddr %[2]s udp dport %[3]d @th,64,8 %[4]d drop`, g.name, g.mac, serverPort, dhcpRenew))
	return err
}

// switchOn starts a guest with nothing left of an earlier life.
func (l *Lab) switchOn(ctx context.Context, g guest) error {
	if err := os.RemoveAll(l.guestDir(g)); err != nil {
		return err
	}
	if !g.client.first {
		// dhcpcd leaves a NIC behind that makes no link-local address when it
		// comes up.
		if err := l.ip(ctx, g.name, "link set eth0 addrgenmode eui64 up\n"); err != nil {
			return err
		}
	}
	return l.runClient(ctx, g)
}

// switchOff undoes what switchOn and dropRenews did, also where the check was
// interrupted.
func (l *Lab) switchOff(ctx context.Context, g guest) error {
	ctx = context.WithoutCancel(ctx)
	name := clientProcess(g)
	var killed error
	// dhcpcd's helpers end with it when it is asked.
	if l.alive(name) && l.end(name, unix.SIGTERM, 2*time.Second) != nil && l.alive(name) {
		killed = l.end(name, unix.SIGKILL, 10*time.Second)
	}
	l.forget(name)
	_, restored := l.exec(ctx, fabric, "nft", fmt.Sprintf("add table bridge %[1]s; delete table bridge %[1]s", g.name))
	return errors.Join(killed, restored, l.ip(ctx, g.name, fmt.Sprintf("link set eth0 down\naddr flush dev %[1]s scope global\nroute flush dev %[1]s proto boot\n", inner)))
}

// talk is what a client and its server say to each other, as heard at the
// client's NIC.
type talk struct {
	wire  *wire
	nic   nicRecord
	valid uint32 // what every lease must be valid for, seconds

	iapds int                 // the most in one message of the client
	sent  map[byte]int        // how many messages of each type the client sent
	asked map[uint32]dhcpSeen // those without an answer, by transaction
	// done are the prefixes that answers to messages of a type granted, or took
	// back.
	done map[byte][]netip.Prefix
	last string // the last answer, for a client that did not get what it should
}

// overhear listens to a guest's client from now on.
func (l *Lab) overhear(g guest, nic nicRecord) (*talk, error) {
	w, err := l.eavesdrop(g.name, "eth0")
	return newTalk(w, nic, uint32(g.pod.valid.Seconds())), err
}

func newTalk(w *wire, nic nicRecord, valid uint32) *talk {
	return &talk{
		wire: w, nic: nic, valid: valid,
		sent: map[byte]int{}, asked: map[uint32]dhcpSeen{}, done: map[byte][]netip.Prefix{},
	}
}

// until listens until all of the NIC's prefixes are done in answers to messages
// of the type, one or several.
func (t *talk) until(ctx context.Context, typ byte, limit time.Duration) error {
	var missing []netip.Prefix
	enough := func() bool {
		missing = slices.DeleteFunc(slices.Clone(t.nic.Prefixes), func(p netip.Prefix) bool { return slices.Contains(t.done[typ], p) })
		return len(missing) == 0
	}
	if enough() {
		return nil
	}
	interrupt := context.AfterFunc(ctx, func() { t.wire.file.SetReadDeadline(time.Now()) })
	defer interrupt()
	_, err := t.wire.next(time.Now().Add(limit), func(f frame) bool {
		t.hear(f)
		return enough()
	})
	if err == nil && !enough() {
		err = fmt.Errorf("it sent %d messages of type %d within %s, and none was answered for %s; %s", t.sent[typ], typ, limit, join(missing), t.last)
	}
	return err
}

// hear takes in a frame.
func (t *talk) hear(f frame) {
	switch {
	case f.isUDP(clientPort, serverPort) && f.src() == t.nic.LinkLocal:
		if m, ok := parseDHCP(bytes.Clone(f.payload()[udpSize:])); ok {
			t.sent[m.typ]++
			t.asked[m.id] = m
			t.iapds = max(t.iapds, m.iapds)
		}
	case f.isUDP(serverPort, clientPort) && f.dst() == t.nic.LinkLocal:
		if m, ok := parseDHCP(f.payload()[udpSize:]); ok && m.typ == dhcpReply {
			t.answered(m)
		}
	}
}

func (t *talk) answered(reply dhcpSeen) {
	asked, ok := t.asked[reply.id]
	if !ok {
		return
	}
	delete(t.asked, reply.id)
	t.last = fmt.Sprintf("the last answer, to type %d with [%s], had [%s] valid for %d s and status %d",
		asked.typ, join(asked.prefixes), join(reply.prefixes), reply.valid, reply.status)
	granted := reply.status == statusSuccess && reply.valid == t.valid
	switch {
	case asked.typ == dhcpRelease && reply.status == statusSuccess:
		t.done[dhcpRelease] = append(t.done[dhcpRelease], asked.prefixes...)
	case (asked.typ == dhcpRenew || asked.typ == dhcpRebind) && granted:
		for _, p := range asked.prefixes {
			if slices.Contains(reply.prefixes, p) {
				t.done[asked.typ] = append(t.done[asked.typ], p)
			}
		}
	case (asked.typ == dhcpSolicit || asked.typ == dhcpRequest) && granted:
		// A Solicit with rapid commit has its Reply at once.
		t.done[dhcpRequest] = append(t.done[dhcpRequest], reply.prefixes...)
	}
}

// unanswered reports whether a message of the type has got no answer.
func (t *talk) unanswered(typ byte) bool {
	for _, m := range t.asked {
		if m.typ == typ {
			return true
		}
	}
	return false
}
