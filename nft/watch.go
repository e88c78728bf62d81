package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// elsewhere is a range of generations: each commit that made one of them out of
// the one before it touched other tables than ours. A Kernel that is watched need
// not read anything to know that its tables are as they were.
type elsewhere struct {
	mu       sync.Mutex
	from, to uint32
}

// all reports whether all commits between the two were elsewhere.
func (e *elsewhere) all(before, now uint32) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.from <= before && now <= e.to
}

// upTo is the last generation that was heard of.
func (e *elsewhere) upTo() uint32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.to
}

// start forgets what was before.
func (e *elsewhere) start(generation uint32) {
	e.mu.Lock()
	e.from, e.to = generation, generation
	e.mu.Unlock()
}

// next adds the commit that made the generation.
func (e *elsewhere) next(generation uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if generation != e.to+1 {
		e.from = generation
	}
	e.to = generation
}

// Watch calls changed after every commit of somebody else's to our tables, and
// where word of one may have been lost, until ctx ends.
func (k *Kernel) Watch(ctx context.Context, changed func()) error {
	for {
		err := k.watch(ctx, changed)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, unix.ENOBUFS):
			return fmt.Errorf("watching the firewall: %w", err)
		}
		// What comes after a loss may begin in the middle of a commit.
		changed()
	}
}

func (k *Kernel) watch(ctx context.Context, changed func()) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetReadBuffer(buffer); err != nil {
		return err
	}
	asking, err := dial()
	if err != nil {
		return err
	}
	now, err := generation(asking)
	asking.Close()
	if err != nil {
		return err
	}
	k.elsewhere.start(now)
	later := time.AfterFunc(time.Hour, changed)
	later.Stop()
	defer later.Stop()
	touched := false
	for {
		messages, err := conn.Receive()
		if err != nil {
			return err
		}
		for _, m := range messages {
			if len(m.Data) < 4 {
				continue
			}
			family, octets := m.Data[0], m.Data[4:]
			if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
				// Of whatever it is a part, the table's name is the first attribute.
				touched = touched || ours(familyName(family), cString(firstOf(octets, unix.NFTA_TABLE_NAME)))
				continue
			}
			id := firstOf(octets, unix.NFTA_GEN_ID) // ends a commit
			if len(id) != 4 {
				continue
			}
			made := binary.BigEndian.Uint32(id)
			if !touched {
				k.elsewhere.next(made)
				continue
			}
			touched = false
			k.elsewhere.start(made)
			switch k.origin(made) {
			case theirs:
				changed()
			case unsure:
				later.Reset(time.Second)
			}
		}
	}
}

// origin tells a commit of this Kernel's, or one whose tables it looked at, from
// somebody else's. It is unsure where others committed so close to it that nothing
// is known of the tables: they are to be looked at, but not at once, lest each look
// that sets all anew calls for the next.
func (k *Kernel) origin(generation uint32) origin {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case generation > k.generation:
		return theirs
	case k.applied == nil:
		return unsure
	}
	return oursAlone
}

type origin int

const (
	oursAlone origin = iota
	theirs
	unsure
)
