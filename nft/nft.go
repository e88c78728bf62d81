// Package nft keeps the kernel's firewall what a compiled ruleset says. All of it
// is set by one nft process with the printed text; what changes afterwards goes to
// the kernel by netlink, in one transaction of what differs. Netlink also shows
// what the kernel holds and when somebody touched it.
package nft

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// Kernel is the firewall of the network namespace that the process is in. The
// zero value is ready: it knows nothing yet, so that its first Apply replaces
// whatever our tables hold, in place.
type Kernel struct {
	mu      sync.Mutex
	conn    *netlink.Conn     // nil until it is needed, and after an error
	applied *firewall.Ruleset // nil when the kernel may hold anything
	// After each change: the generation of the kernel's rules, and what our
	// tables were made of then.
	generation uint32
	contents   contents

	elsewhere elsewhere
}

// Apply makes our tables those of the ruleset. Where the last Apply is known to
// be still in force it changes only what differs; else it sets everything, in
// place. Nothing happens where nothing differs.
func (k *Kernel) Apply(ctx context.Context, rs firewall.Ruleset) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.applied != nil {
		change := rs.Change(*k.applied)
		if len(change) == 0 {
			k.applied = &rs
			return nil
		}
		if err := k.change(ctx, rs, change); err == nil || ctx.Err() != nil {
			return err
		}
		// What we believed to be there was not: set everything.
	}
	k.applied = nil
	return k.sync(ctx, rs)
}

// sync sets everything, in place, but for the elements of sets that have them.
func (k *Kernel) sync(ctx context.Context, rs firewall.Ruleset) error {
	conn, err := k.connect()
	if err != nil {
		return err
	}
	began, err := generation(conn)
	if err != nil {
		k.reset()
		return err
	}
	found, err := read(conn)
	if err != nil {
		k.reset()
		return err
	}
	held, err := found.holding(conn, rs)
	if err != nil {
		k.reset()
		return err
	}
	present := slices.DeleteFunc(slices.Collect(maps.Keys(found)), func(o firewall.Object) bool { return o.Kind == "table" })
	err = k.commit(ctx, rs, rs.Sync(present, held))
	if err == nil && k.generation != began+1 {
		// Somebody was between what was read and what was written.
		err = k.commit(ctx, rs, rs.Sync(present, nil))
	}
	if err != nil && ctx.Err() == nil && len(present) > 0 {
		// A table of another version's shape cannot be changed in place.
		err = k.commit(ctx, rs, rs.Replace())
	}
	return err
}

// change does what differs, if the kernel still holds what was applied.
func (k *Kernel) change(ctx context.Context, rs firewall.Ruleset, change firewall.Change) error {
	changes, known := batchOf(change)
	if !known {
		return k.commit(ctx, rs, change.String())
	}
	if err := k.transact(changes); err != nil {
		k.forget()
		return err
	}
	return k.note(rs, change)
}

// note takes in what a change that was committed touched.
func (k *Kernel) note(rs firewall.Ruleset, change firewall.Change) error {
	if err := k.contents.update(k.conn, change); err != nil {
		k.forget() // somebody deleted it since
		return err
	}
	k.applied = &rs
	return k.still()
}

// connect returns the connection to the kernel, which lasts.
func (k *Kernel) connect() (*netlink.Conn, error) {
	if k.conn == nil {
		var err error
		if k.conn, err = dial(); err != nil {
			return nil, err
		}
	}
	return k.conn, nil
}

// reset gives up the connection: more may come on it.
func (k *Kernel) reset() {
	if k.conn != nil {
		k.conn.Close()
		k.conn = nil
	}
}

// forget gives up what is known of the kernel, and the connection.
func (k *Kernel) forget() {
	k.applied = nil
	k.reset()
}

var errDrift = errors.New("the firewall is not what was applied last")

// transact commits the batch on top of what was applied, if anything is known to
// be, and on nothing else.
func (k *Kernel) transact(b batch) error {
	for again := false; ; again = true {
		conn, err := k.connect()
		if err != nil {
			return err
		}
		if k.applied == nil {
			if k.generation, err = generation(conn); err != nil {
				k.reset()
				return err
			}
		}
		if err = b.send(conn, k.generation); err == nil {
			k.generation++
			return nil
		}
		k.reset()
		if again || !errors.Is(err, unix.ERESTART) {
			return err
		}
		// Somebody was quicker; at our tables?
		if k.applied != nil {
			if ok, err := k.intact(); err != nil || !ok {
				return errors.Join(err, errDrift)
			}
		}
	}
}

// still forgets what was applied if the generation has moved: what was read may
// be another's then, and the next Intact says so.
func (k *Kernel) still() error {
	now, err := generation(k.conn)
	if err != nil || now != k.generation {
		k.forget()
	}
	return err
}

// commit runs the text as one transaction and takes note of what the kernel
// then holds. If anybody else committed at the same time, it may not be ours:
// then nothing is known, and the next Intact says so.
func (k *Kernel) commit(ctx context.Context, rs firewall.Ruleset, text string) error {
	if k.applied != nil { // the text is for what was applied
		if ok, err := k.intact(); err != nil || !ok {
			return errors.Join(err, errDrift)
		}
	}
	conn, err := k.connect()
	if err != nil {
		return err
	}
	before, err := generation(conn)
	if err != nil {
		return err
	}
	if k.applied != nil && before != k.generation {
		return errDrift
	}
	k.applied = nil
	if err := run(ctx, text, "-f", "-"); err != nil {
		return err
	}
	k.generation = before + 1
	if k.contents, err = read(conn); err != nil {
		k.forget()
		return err
	}
	if k.contents.of(rs) {
		k.applied = &rs
	}
	return k.still()
}

// Intact reports whether our tables are as the last Apply left them. Asking
// costs next to nothing while nobody changes any rules.
func (k *Kernel) Intact(context.Context) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.intact()
}

func (k *Kernel) intact() (bool, error) {
	if k.applied == nil {
		return false, nil
	}
	conn, err := k.connect()
	if err != nil {
		return false, err
	}
	now, err := generation(conn)
	if err != nil {
		k.forget()
		return false, err
	}
	for range 3 { // others may go on while we read
		if k.elsewhere.all(k.generation, now) {
			k.generation = now
		}
		if now == k.generation {
			return true, nil
		}
		same := k.same(conn)
		after, err := generation(conn)
		if err != nil {
			k.forget()
			return false, err
		}
		if after == now {
			if !same {
				break
			}
			k.generation = now // another's table changed
		}
		now = after
	}
	k.forget()
	return false, nil
}

// same reports whether our tables are what they were made of, and hold what was
// applied. What cannot be read is gone.
func (k *Kernel) same(conn *netlink.Conn) bool {
	have, err := read(conn)
	if err != nil || !maps.Equal(have, k.contents) {
		return false
	}
	same, err := elementsAre(conn, *k.applied)
	return err == nil && same
}

// Present reports whether there is a filter of ours, closed or filled in. One
// whose rules somebody flushed is none.
func (k *Kernel) Present() (bool, error) {
	conn, err := dial()
	if err != nil {
		return false, err
	}
	defer conn.Close()
	var which attributes
	which.text(unix.NFTA_RULE_TABLE, firewall.BridgeTable)
	which.text(unix.NFTA_RULE_CHAIN, "prerouting")
	found := false
	err = dump(conn, unix.NFT_MSG_GETRULE, unix.NFPROTO_BRIDGE, which, func(_ byte, octets []byte) {
		found = found || cString(firstOf(octets, unix.NFTA_RULE_CHAIN)) == "prerouting"
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("listing rules of bridge %s: %w", firewall.BridgeTable, err)
	}
	return found, nil
}

// run gives nft the text and returns its first complaint.
func run(ctx context.Context, text string, args ...string) error {
	cmd := exec.CommandContext(ctx, "nft", args...)
	cmd.Stdin = strings.NewReader(text)
	var problems strings.Builder
	cmd.Stderr = &problems
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return sixacre.Errorf(sixacre.Unavailable, "nft is not installed: install the package nftables (1.0.6 or later)")
	case err != nil:
		first, _, _ := strings.Cut(strings.TrimSpace(problems.String()), "\n")
		return fmt.Errorf("nft refused the ruleset: %s (%w)", first, err)
	}
	return nil
}
