package etcd

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/sixacre/sixacre"
)

// quota is how large the embedded store may grow, in bytes.
const quota = 8 << 30

// Embed starts an etcd of one member in this process, with its files under dir.
// It listens nowhere: this process is its only client.
func Embed(ctx context.Context, dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// A name for the member, at which nothing listens.
	nowhere := []url.URL{{Scheme: "http", Host: "embedded.invalid:2380"}}
	cfg := embed.NewConfig()
	cfg.Name = "sixacre"
	cfg.Dir = filepath.Join(dir, "etcd")
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = nowhere, nowhere
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.QuotaBackendBytes = quota
	cfg.AutoCompactionMode = "periodic"
	cfg.AutoCompactionRetention = "1h"
	// Large transactions otherwise stay in the raft log, in memory.
	cfg.SnapshotCount = 200
	cfg.SnapshotCatchUpEntries = 50
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(quiet())

	started, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, sixacre.Errorf(sixacre.Unavailable, "the store in %s did not start: %s", cfg.Dir, err)
	}
	// Leading takes an election; recovery before it takes as long as the log.
	select {
	case <-started.Server.ReadyNotify():
	case err := <-started.Err():
		started.Close()
		return nil, sixacre.Errorf(sixacre.Unavailable, "the store in %s ended: %s", cfg.Dir, err)
	case <-time.After(2 * time.Minute):
		started.Close()
		return nil, sixacre.Errorf(sixacre.Unavailable, "the store in %s was not ready after two minutes", cfg.Dir)
	case <-ctx.Done():
		started.Close()
		return nil, ctx.Err()
	}
	return &Store{client: v3client.New(started.Server), stop: sync.OnceFunc(started.Close)}, nil
}

// quiet is etcd's own log: only what somebody must act on. Where etcd finds its
// files damaged it logs that and panics, which nobody could recover from: the
// process ends with the line alone.
func quiet() *zap.Logger {
	encoder := zap.NewProductionEncoderConfig()
	encoder.EncodeTime = zapcore.ISO8601TimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(encoder), zapcore.Lock(os.Stderr), zapcore.ErrorLevel), zap.WithPanicHook(zapcore.WriteThenFatal))
}
