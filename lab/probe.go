package lab

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// probe is a frame that meets the filter, and what must become of it.
type probe struct {
	what  string
	frame frame
	pass  bool
	token []byte // what the packet is known by; nil for all that it holds
}

func forbidden(what string, f frame) probe { return probe{what: what, frame: f} }
func permitted(what string, f frame) probe { return probe{what: what, frame: f, pass: true} }

// is reports whether a frame that arrived is the probe.
func (p probe) is(f frame) bool {
	switch {
	case p.token != nil:
		return bytes.Contains(f, p.token)
	case p.frame.valid():
		return f.valid() && same(f, p.frame)
	}
	// A VLAN tag is taken off on the way to the socket.
	return bytes.Equal(f[12:], p.frame[12:]) || bytes.Equal(f[12:], p.frame[16:])
}

// same reports whether a frame carries the packet of another, whatever MACs and
// hop limit the way has given it.
func same(a, b frame) bool {
	return a.src() == b.src() && a.dst() == b.dst() && a.proto() == b.proto() && string(a.payload()) == string(b.payload())
}

// token is something to know a packet by.
func token() []byte {
	b := make([]byte, 16)
	rand.Read(b)
	return b
}

// number is a token of 32 bits.
func number() uint32 { return binary.BigEndian.Uint32(token()) }

// probe sends the frames and sees at each of the places that the permitted have
// arrived and nothing else has.
func (l *Lab) probe(from *wire, all []probe, places ...*wire) error {
	refused, passed, err := from.sendProbes(all)
	if err != nil {
		return err
	}
	for _, at := range places {
		if err := at.verdicts(refused, passed); err != nil {
			return err
		}
	}
	return nil
}

// sendProbes sends those that are permitted last: when they have arrived, nothing
// forbidden is on its way any more.
func (w *wire) sendProbes(all []probe) (refused, passed []probe, err error) {
	for _, p := range all {
		if p.pass {
			passed = append(passed, p)
		} else {
			refused = append(refused, p)
		}
	}
	var frames [][]byte
	for _, p := range slices.Concat(refused, passed) {
		frames = append(frames, p.frame)
	}
	return refused, passed, w.send(frames...)
}

// verdicts reads until all that is permitted has arrived.
func (w *wire) verdicts(forbidden, permitted []probe) error {
	return w.verdictsWithin(answerWithin, forbidden, permitted)
}

func (w *wire) verdictsWithin(limit time.Duration, forbidden, permitted []probe) error {
	var leaked []string
	missing := map[int]bool{}
	for i := range permitted {
		missing[i] = true
	}
	_, err := w.nextOfAny(time.Now().Add(limit), func(f frame) bool {
		for _, p := range forbidden {
			if p.is(f) {
				leaked = append(leaked, p.what)
			}
		}
		for i := range missing {
			if permitted[i].is(f) {
				delete(missing, i)
			}
		}
		return len(missing) == 0
	})
	if err != nil {
		return err
	}
	if leaked != nil {
		err = fmt.Errorf("%s arrived at %s of %s", strings.Join(leaked, ", "), w.device, w.box)
	}
	if len(missing) > 0 {
		var late []probe
		for i, p := range permitted {
			if missing[i] {
				late = append(late, p)
			}
		}
		err = errors.Join(err, fmt.Errorf("%s did not arrive at %s of %s within %s", list(late, true), w.device, w.box, limit))
	}
	return err
}

// list names what the probes are, the forbidden or the permitted.
func list(all []probe, pass bool) string {
	var names []string
	for _, p := range all {
		if p.pass == pass {
			names = append(names, p.what)
		}
	}
	return strings.Join(slices.Compact(names), ", ")
}
