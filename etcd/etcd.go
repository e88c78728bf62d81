// Package etcd keeps the records in etcd: an embedded one in the process by
// default, an external cluster where one machine is not enough. The code path
// and the keys are the same.
//
// Every noun has one key, /sixacre/1/KIND/NAME, and is kept as JSON. The 1 is
// the version of that layout. Sightings lie beside it, under /sixacre/seen/1/:
// there may be as many as NICs, they change all day, and nobody follows them.
package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sixacre/sixacre"
)

const (
	root = "/sixacre/1/"
	seen = "/sixacre/seen/1/"
)

// Store is the record. Its methods may be called from several goroutines.
type Store struct {
	client *clientv3.Client
	stop   func()
}

// Dial connects to an external cluster.
func Dial(ctx context.Context, endpoints []string) (*Store, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   endpoints,
		Context:     ctx,
		DialTimeout: 5 * time.Second,
		Logger:      quiet(),
	})
	if err != nil {
		return nil, sixacre.Errorf(sixacre.Unavailable, "etcd at %s: %s", strings.Join(endpoints, ","), err)
	}
	return &Store{client: client, stop: func() {}}, nil
}

// Close ends the connection, and the embedded etcd where there is one.
func (s *Store) Close() {
	s.client.Close()
	s.stop()
}

// Get returns the record under the key.
func (s *Store) Get(ctx context.Context, key sixacre.Key) (sixacre.Record, error) {
	resp, err := s.client.Get(ctx, path(key))
	if err != nil {
		return sixacre.Record{}, unavailable(err)
	}
	if len(resp.Kvs) == 0 {
		return sixacre.Record{}, nil
	}
	noun, err := decode(key, resp.Kvs[0].Value)
	return sixacre.Record{Noun: noun, Revision: resp.Kvs[0].ModRevision}, err
}

// maxOps is how many operations, or conditions, a transaction may have in an etcd
// with its default limits.
const maxOps = 128

// GetAll returns the records under the keys, in their order.
func (s *Store) GetAll(ctx context.Context, keys []sixacre.Key) ([]sixacre.Record, error) {
	records := make([]sixacre.Record, 0, len(keys))
	for part := range slices.Chunk(keys, maxOps) {
		reads := make([]clientv3.Op, len(part))
		for i, key := range part {
			reads[i] = clientv3.OpGet(path(key))
		}
		resp, err := s.client.Txn(ctx).Then(reads...).Commit()
		if err != nil {
			return nil, unavailable(err)
		}
		for i, key := range part {
			record := sixacre.Record{}
			if kvs := resp.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
				if record.Noun, err = decode(key, kvs[0].Value); err != nil {
					return nil, err
				}
				record.Revision = kvs[0].ModRevision
			}
			records = append(records, record)
		}
	}
	return records, nil
}

// Page returns the records of a kind whose names start with under and come after
// a name, in their order, and no more than limit of them.
func (s *Store) Page(ctx context.Context, kind sixacre.Kind, under, after string, limit int) ([]sixacre.Record, error) {
	all := path(sixacre.Key{Kind: kind, Name: under})
	from := max(all, path(sixacre.Key{Kind: kind, Name: after})+"\x00")
	resp, err := s.client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(all)), clientv3.WithLimit(int64(limit)))
	if err != nil {
		return nil, unavailable(err)
	}
	records := make([]sixacre.Record, 0, len(resp.Kvs))
	err = each(resp.Kvs, func(e sixacre.Event) {
		records = append(records, sixacre.Record{Noun: e.Noun, Revision: e.Revision})
	})
	return records, err
}

// each calls f for every record of ours in an answer of etcd.
func each(kvs []*mvccpb.KeyValue, f func(sixacre.Event)) error {
	for _, kv := range kvs {
		key, ok := keyOf(string(kv.Key))
		if !ok {
			continue
		}
		noun, err := decode(key, kv.Value)
		if err != nil {
			return err
		}
		f(sixacre.Event{Key: key, Noun: noun, Revision: kv.ModRevision})
	}
	return nil
}

// List returns the records of a kind whose names start with under, in the order
// of their names, and the revision of the store at which that was complete.
func (s *Store) List(ctx context.Context, kind sixacre.Kind, under string) ([]sixacre.Record, int64, error) {
	var records []sixacre.Record
	revision, err := s.scan(ctx, path(sixacre.Key{Kind: kind, Name: under}), 0, func(e sixacre.Event) {
		records = append(records, sixacre.Record{Noun: e.Noun, Revision: e.Revision})
	})
	return records, revision, err
}

// pageSize bounds one answer of etcd.
const pageSize = 10_000

// scan calls f for every record under the prefix as of one revision (0: the
// newest), which it returns.
func (s *Store) scan(ctx context.Context, prefix string, revision int64, f func(sixacre.Event)) (int64, error) {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		resp, err := s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		if err != nil {
			return 0, unavailable(err)
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		if err := each(resp.Kvs, f); err != nil {
			return 0, err
		}
		if !resp.More {
			return revision, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// Commit writes the transaction if its conditions hold, and reports whether
// they did and the revision at which it was written.
func (s *Store) Commit(ctx context.Context, txn sixacre.Txn) (ok bool, revision int64, err error) {
	var conditions []clientv3.Cmp
	for _, c := range txn.Seen {
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(path(c.Key)), "=", c.Revision))
	}
	for _, c := range txn.RangeSeen {
		// Holds for an empty range too: etcd then compares with revision 0.
		prefix := path(sixacre.Key{Kind: c.Kind, Name: c.Under})
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(prefix), "<", c.Revision+1).WithPrefix())
	}
	var writes []clientv3.Op
	for _, noun := range txn.Put {
		value, err := json.Marshal(noun)
		if err != nil {
			return false, 0, err
		}
		writes = append(writes, clientv3.OpPut(path(noun.Key()), string(value)))
	}
	for _, key := range txn.Delete {
		writes = append(writes, clientv3.OpDelete(path(key)))
	}
	resp, err := s.client.Txn(ctx).If(conditions...).Then(writes...).Commit()
	if err != nil {
		return false, 0, unavailable(err)
	}
	return resp.Succeeded, resp.Header.Revision, nil
}

// Confirm asks a quorum of the store for its revision: when it returns without
// error, the store could be reached and was in force. Watch then tells that it
// has come as far, even if what was written meanwhile is none of ours; a watch
// that is behind does not hear the question, so it is to be asked now and then.
func (s *Store) Confirm(ctx context.Context) (int64, error) {
	resp, err := s.client.Get(ctx, root, clientv3.WithCountOnly())
	if err == nil {
		err = s.client.RequestProgress(clientv3.WithRequireLeader(ctx))
	}
	if err != nil {
		return 0, unavailable(err)
	}
	return resp.Header.Revision, nil
}

// Watch calls f with everything that the store holds, then with every change,
// each once and in order, until the context ends. A batch is whole: it holds all
// of ours that was written up to its revision, which may be nothing. full is true
// for the first batch, and again where the watch had to start anew because the
// store was compacted past it; what a full batch does not hold is gone.
func (s *Store) Watch(ctx context.Context, f func(full bool, events []sixacre.Event, revision int64)) error {
	for retry := 100 * time.Millisecond; ; retry = min(2*retry, 5*time.Second) {
		var all []sixacre.Event
		revision, err := s.scan(ctx, root, 0, func(e sixacre.Event) { all = append(all, e) })
		if err == nil {
			f(true, all, revision)
			retry = 100 * time.Millisecond
			err = s.follow(ctx, revision, f)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		slog.Warn("following the store anew", "reason", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retry):
		}
	}
}

// follow passes on what changes after the revision until the watch breaks.
func (s *Store) follow(ctx context.Context, revision int64, f func(bool, []sixacre.Event, int64)) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for resp := range s.client.Watch(ctx, root, clientv3.WithPrefix(), clientv3.WithRev(revision+1)) {
		if err := resp.Err(); err != nil {
			return err
		}
		events := make([]sixacre.Event, 0, len(resp.Events))
		for _, e := range resp.Events {
			key, ok := keyOf(string(e.Kv.Key))
			if !ok {
				continue
			}
			event := sixacre.Event{Key: key, Revision: e.Kv.ModRevision}
			if e.Type == clientv3.EventTypePut {
				var err error
				if event.Noun, err = decode(key, e.Kv.Value); err != nil {
					return err
				}
			}
			events = append(events, event)
		}
		f(false, events, resp.Header.Revision)
	}
	return errors.New("the watch ended")
}

func path(key sixacre.Key) string {
	if key.Kind == sixacre.KindSighting {
		return seen + key.String()
	}
	return root + key.String()
}

func keyOf(path string) (sixacre.Key, bool) {
	rest, ok := strings.CutPrefix(path, root)
	if !ok {
		rest, ok = strings.CutPrefix(path, seen)
	}
	if !ok {
		return sixacre.Key{}, false
	}
	kind, name, ok := strings.Cut(rest, "/")
	return sixacre.Key{Kind: sixacre.Kind(kind), Name: name}, ok
}

// decode reads the noun under a key. What this version does not know is an
// error: to pass over it could mean to give twice what a newer version gave.
func decode(key sixacre.Key, value []byte) (sixacre.Noun, error) {
	switch key.Kind {
	case sixacre.KindPod:
		noun, err := unmarshal[sixacre.Pod](value)
		if p, ok := noun.(sixacre.Pod); ok {
			noun = p.WithDefaults() // an older version wrote fewer fields
		}
		return noun, err
	case sixacre.KindInstance:
		return unmarshal[sixacre.Instance](value)
	case sixacre.KindDelegation:
		return unmarshal[sixacre.Delegation](value)
	case sixacre.KindClaim:
		return unmarshal[sixacre.Claim](value)
	case sixacre.KindGroup:
		return unmarshal[sixacre.Group](value)
	case sixacre.KindHost:
		return unmarshal[sixacre.Host](value)
	case sixacre.KindPeer:
		return unmarshal[sixacre.Peer](value)
	case sixacre.KindToken:
		return unmarshal[sixacre.Token](value)
	case sixacre.KindSighting:
		return unmarshal[sixacre.Sighting](value)
	case sixacre.KindSetting:
		switch key {
		case sixacre.ServerIDKey:
			return unmarshal[sixacre.ServerID](value)
		case sixacre.ClockKey:
			return unmarshal[sixacre.Clock](value)
		}
	}
	return nil, fmt.Errorf("the store holds the unknown record %s: a newer version wrote it; run that one", key)
}

func unmarshal[T sixacre.Noun](value []byte) (sixacre.Noun, error) {
	var noun T
	if err := json.Unmarshal(value, &noun); err != nil {
		return nil, fmt.Errorf("the store holds a damaged record: %w", err)
	}
	return noun, nil
}

func unavailable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return sixacre.Errorf(sixacre.Unavailable, "the store is full and takes no more: in an external etcd, raise the quota, compact, defragment and disarm the alarm with etcdctl")
	}
	return sixacre.Errorf(sixacre.Unavailable, "the store did not answer: %s", err)
}
