package dhcpd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/sixacre/sixacre/dhcp6"
)

// bulkLimits bound what bulk leasequery may cost.
type bulkLimits struct {
	connections int           // in all
	perRelay    int           // of one source address
	stalled     time.Duration // for a query to come, or for the requestor to take what waits
	whole       time.Duration // for a connection from beginning to end
}

var bulkDefaults = bulkLimits{
	connections: 10, // BULK_LQ_MAX_CONNS, RFC 5460 section 5.6
	perRelay:    2,
	stalled:     300 * time.Second, // BULK_LQ_DATA_TIMEOUT, RFC 5460 section 5.6
	whole:       time.Hour,
}

const (
	// maxBulkQuery is how long a query may be, in octets: its three DUIDs have 130
	// at most each.
	maxBulkQuery = 4096
	// bulkBuffer is how much may wait for the requestor to take it, in octets, here
	// and as much again in the kernel.
	bulkBuffer = 64 << 10
)

// bulk counts the connections of bulk leasequery.
type bulk struct {
	limits bulkLimits

	mu   sync.Mutex
	open int
	of   map[netip.Addr]int // by source
}

func (b *bulk) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// enter takes a place for a connection from the source, if there is one.
func (b *bulk) enter(source netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open >= b.limits.connections || b.of[source] >= b.limits.perRelay {
		return false
	}
	if b.of == nil {
		b.of = map[netip.Addr]int{}
	}
	b.open++
	b.of[source]++
	return true
}

func (b *bulk) leave(source netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	if b.of[source]--; b.of[source] == 0 {
		delete(b.of, source)
	}
}

// ServeBulk answers bulk leasequery (RFC 5460) on the connections to l until the
// context ends, and closes it and them. AnswerLeasequeries must have been called.
func (s *Server) ServeBulk(ctx context.Context, l net.Listener) error {
	var connections sync.WaitGroup
	defer connections.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("dhcp6: bulk leasequery at %s: %w", l.Addr(), err)
		case err != nil:
			// Of one connection that is gone already, or of a process that has too
			// many files open: others may do better.
			s.leasequery.failed(err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		connections.Go(func() { s.leasequery.connection(ctx, conn) })
	}
}

// connection serves one connection, or closes it at once where its source may not
// ask or has as many as it may (RFC 5460 section 7.1).
func (l *leasequery) connection(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return
	}
	source := from.Addr()
	_, why := l.asker(source)
	reason := why.String()
	switch {
	case why != dhcp6.Answered:
	case !l.bulk.enter(source):
		reason = "too-many-connections"
	default:
		reason = l.converse(ctx, conn, source)
		l.bulk.leave(source)
	}
	l.closed.WithLabelValues(reason).Inc()
	if reason == bulkDone || reason == bulkTimeout || ctx.Err() != nil {
		return
	}
	if suppressed, ok := l.logs.take(); ok {
		l.log.Warn("dhcp6: bulk leasequery connection closed", "reason", reason, "source", from.String(), "suppressed", suppressed)
	}
}

// Reasons why connections end that nobody need look into.
const (
	bulkDone    = "done"    // the requestor closed it, having been answered
	bulkTimeout = "timeout" // nothing happened any more, or it lasted too long
)

// converse answers one query after the other and returns why no more.
func (l *leasequery) converse(ctx context.Context, conn net.Conn, source netip.Addr) string {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(bulkBuffer) // as good as the kernel will have it
	}
	end := time.Now().Add(l.bulk.limits.whole)
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	line := &stalling{conn, l.bulk.limits.stalled, end}
	in, out := bufio.NewReader(conn), bufio.NewWriterSize(line, bulkBuffer)
	message := make([]byte, maxBulkQuery)
	for {
		line.expect()
		query, err := readFrame(in, message)
		switch {
		case err == io.EOF:
			return bulkDone
		case errors.Is(err, errFrame):
			return "message-too-long"
		case err != nil:
			return lineFailure(err)
		}
		if reason := l.answerBulk(ctx, out, query, source); reason != "" {
			_ = out.Flush() // so that the requestor reads why
			return reason
		}
		if err := out.Flush(); err != nil {
			return lineFailure(err)
		}
	}
}

// lineFailure names what became of a connection.
func lineFailure(err error) string {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return bulkTimeout
	}
	return "broken"
}

// stalling is a connection that fails where the other side does nothing for too
// long, or where it has lasted too long in all.
type stalling struct {
	net.Conn
	patience time.Duration
	end      time.Time
}

func (c *stalling) deadline() time.Time {
	if d := time.Now().Add(c.patience); d.Before(c.end) {
		return d
	}
	return c.end
}

// expect gives the other side so much time for the whole of its next query.
func (c *stalling) expect() { _ = c.SetReadDeadline(c.deadline()) }

func (c *stalling) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(c.deadline())
	return c.Conn.Write(b)
}

var errFrame = errors.New("longer than any query")

// readFrame reads a message that its length precedes (RFC 5460 section 5.1) into
// the buffer. io.EOF means that there are no more.
func readFrame(r io.Reader, buffer []byte) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > len(buffer) {
		return nil, errFrame
	}
	_, err := io.ReadFull(r, buffer[:n])
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return buffer[:n], err
}

// writeFrame is the opposite of readFrame.
func writeFrame(w io.Writer, room []byte, a *dhcp6.LeaseAnswer) ([]byte, error) {
	room = a.Append(append(room[:0], 0, 0))
	binary.BigEndian.PutUint16(room, uint16(len(room)-2))
	_, err := w.Write(room)
	return room, err
}

// answerBulk answers one query (RFC 5460 section 7.2). It returns why the
// connection is to be closed, or "".
func (l *leasequery) answerBulk(ctx context.Context, out io.Writer, query []byte, source netip.Addr) string {
	who, why := l.asker(source)
	if why != dhcp6.Answered {
		return why.String()
	}
	var q dhcp6.LeaseLookup
	if why := q.Parse(query, who.self.DUID); why != dhcp6.Answered {
		return why.String()
	}
	a := dhcp6.LeaseAnswer{Type: dhcp6.LeasequeryReply, Transaction: q.Transaction, ClientID: q.ClientID, ServerID: who.self.DUID}
	var scope []string
	scope, a.Status, a.Text = who.scope(&q)
	defer func() { l.queries.WithLabelValues("tcp", q.Type.String(), a.Status.String()).Inc() }()
	var room []byte
	var err error
	// The first client is told in the reply itself, the others in messages that
	// hold nothing but them, and where there was any, another says that it was all
	// (section 5.2).
	told := false
	if a.Status == dhcp6.StatusSuccess {
		for b, failure := range l.bindings(ctx, source, &q, scope) {
			if failure != nil {
				a.Status, a.Text = dhcp6.StatusQueryTerminated, "cannot be answered in full now"
				l.failed(failure)
				break
			}
			a.Client = &b.data
			if room, err = writeFrame(out, room, &a); err != nil {
				return lineFailure(err)
			}
			l.clients.Inc()
			a = dhcp6.LeaseAnswer{Type: dhcp6.LeasequeryData, Transaction: q.Transaction}
			told = true
		}
	}
	if told {
		a.Type = dhcp6.LeasequeryDone
	}
	a.Client = nil
	if _, err = writeFrame(out, room, &a); err != nil {
		return lineFailure(err)
	}
	if a.Status == dhcp6.StatusQueryTerminated {
		return "terminated"
	}
	return ""
}
