package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/api"
	"github.com/sixacre/sixacre/control"
	"github.com/sixacre/sixacre/dhcpd"
	"github.com/sixacre/sixacre/etcd"
)

// serverConfig is what the server is told, by flags or by a file with the same
// names.
type serverConfig struct {
	Data          string   `json:"data"`
	EtcdEndpoints []string `json:"etcd-endpoints"`
	API           string   `json:"api"`
	APINames      []string `json:"api-name"`
	DHCP6         []string `json:"dhcp6"`
	Leasequery    bool     `json:"leasequery"`
}

func serverCommand() *cobra.Command {
	var file string
	var flags serverConfig
	c := &cobra.Command{
		Use:   "server [--config FILE] --data DIR [--api ADDR:PORT] [--dhcp6 ADDR:PORT]…",
		Short: "Keep the record, serve the API and answer DHCPv6",
		Long: `Keep the record in an etcd in this process, serve the API on the unix socket
DIR/` + api.SocketName + ` and over TLS on --api, and answer the DHCPv6 of the pods' relays on
--dhcp6.

The socket's file permission is the credential there; over TLS a token is ('sixacre
token create', 'sixacre host create'). DIR/ca.crt is the CA of the TLS listener.

With --leasequery, a pod's relay may ask at --dhcp6 what leases the pod's clients
have, one client at a time over UDP (RFC 5007) or all of them over TCP (RFC 5460):
so a router that lost its routes has them back at once.

--config FILE is YAML with the names of the flags as keys; flags win over it.`,
		Example: `  sixacre server --data /var/lib/sixacre --api '[2001:db8:ffff::53]:5460' --dhcp6 '[2001:db8:ffff::53]:547'`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var config serverConfig
			if file != "" {
				b, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				if err := yaml.UnmarshalStrict(b, &config); err != nil {
					return sixacre.Errorf(sixacre.Invalid, "config %s: %s", file, err)
				}
			}
			for name, take := range map[string]func(){
				"data":           func() { config.Data = flags.Data },
				"etcd-endpoints": func() { config.EtcdEndpoints = flags.EtcdEndpoints },
				"api":            func() { config.API = flags.API },
				"api-name":       func() { config.APINames = flags.APINames },
				"dhcp6":          func() { config.DHCP6 = flags.DHCP6 },
				"leasequery":     func() { config.Leasequery = flags.Leasequery },
			} {
				if c.Flags().Changed(name) {
					take()
				}
			}
			if config.Data == "" {
				config.Data = os.Getenv("SIXACRE_DATA")
			}
			if config.Data == "" {
				return usageError("the server needs a directory for its data: give --data DIR")
			}
			if config.API == "" && !c.Flags().Changed("api") {
				config.API = flags.API
			}
			if len(config.DHCP6) == 0 {
				config.DHCP6 = flags.DHCP6
			}
			if err := config.validate(); err != nil {
				return err
			}
			err := config.run(c.Context())
			if c.Context().Err() != nil && errors.Is(err, context.Canceled) {
				return nil // we were asked to end
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "`file` to read the other flags from")
	f.StringVar(&flags.Data, "data", "", "`directory` of the server's data (SIXACRE_DATA)")
	f.StringSliceVar(&flags.EtcdEndpoints, "etcd-endpoints", nil, "`URLs` of an external etcd; otherwise one runs in this process")
	f.StringVar(&flags.API, "api", "[::1]:5460", "`address` of the TLS listener; none to have only the socket")
	f.StringArrayVar(&flags.APINames, "api-name", nil, "a `name` by which clients call the TLS listener, besides its addresses")
	f.StringArrayVar(&flags.DHCP6, "dhcp6", []string{"[::]:547"}, "`address` to answer relays on; none to answer nobody")
	f.BoolVar(&flags.Leasequery, "leasequery", false, "tell a pod's relays, over UDP and TCP at --dhcp6, what leases its clients have")
	return c
}

const (
	confirmEvery = 5 * time.Second
	tickEvery    = time.Minute
)

// maxSocketPath is how many octets the name of a unix socket may have (unix(7)).
const maxSocketPath = 107

// validate refuses what could not be served, before anything is touched.
func (config serverConfig) validate() error {
	if config.API != "none" {
		if _, _, err := net.SplitHostPort(config.API); err != nil {
			return sixacre.Errorf(sixacre.Invalid, "api %q is not an address and port: write it as [::1]:5460, or none", config.API)
		}
	}
	for _, at := range config.DHCP6 {
		if _, err := netip.ParseAddrPort(at); err != nil && at != "none" {
			return sixacre.Errorf(sixacre.Invalid, "dhcp6 %q is not an address and port: write it as [::]:547, or none", at)
		}
	}
	if socket := filepath.Join(config.Data, api.SocketName); len(socket) > maxSocketPath {
		return sixacre.Errorf(sixacre.Invalid, "data %s: the path of the socket in it has %d octets, more than the %d that the kernel takes: give a shorter one",
			config.Data, len(socket), maxSocketPath)
	}
	return nil
}

func (config serverConfig) run(ctx context.Context) error {
	if err := os.MkdirAll(config.Data, 0o700); err != nil {
		return err
	}
	unlock, err := lock(config.Data)
	if err != nil {
		return err
	}
	defer unlock()

	var store *etcd.Store
	if len(config.EtcdEndpoints) > 0 {
		store, err = etcd.Dial(ctx, config.EtcdEndpoints)
	} else {
		store, err = etcd.Embed(ctx, config.Data)
	}
	if err != nil {
		return err
	}
	defer store.Close()

	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	ctrl := control.New(store, time.Now, dhcpd.Uptime)
	views := control.NewViews()
	dhcp := dhcpd.New(slog.Default(), metrics, dhcpd.Uptime)
	server := api.New(ctrl, views, version, metrics, dhcp.Ready)
	if err := ctrl.EnsureServerID(ctx); err != nil {
		return err
	}

	// Everything follows the record from one watch.
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	// The store is closed only when nobody follows it any more.
	defer group.Wait()
	defer cancel()
	seen := make(chan struct{})
	group.Go(func() error {
		return store.Watch(ctx, func(full bool, events []sixacre.Event, revision int64) {
			ctrl.Apply(full, events, revision)
			views.Apply(full, events, revision)
			dhcp.Apply(full, events, revision)
			select {
			case <-seen:
			default:
				close(seen)
			}
		})
	})
	select {
	case <-seen:
	case <-ctx.Done():
		return group.Wait()
	}
	group.Go(func() error {
		every(ctx, confirmEvery, func() error {
			asked := dhcpd.Uptime()
			revision, err := store.Confirm(ctx)
			if err == nil {
				dhcp.Confirm(asked, revision)
			}
			return err
		})
		return nil
	})
	group.Go(func() error {
		every(ctx, tickEvery, func() error { return ctrl.Tick(ctx) })
		return nil
	})

	group.Go(func() error { return dhcp.Tell(ctx, ctrl.Sight) })

	if config.Leasequery {
		dhcp.AnswerLeasequeries(metrics, ctrl, time.Now)
	}
	for _, at := range config.DHCP6 {
		if at == "none" {
			continue
		}
		address, err := netip.ParseAddrPort(at)
		if err != nil {
			return err
		}
		socket, err := dhcpd.Listen(address)
		if err != nil {
			return sixacre.Errorf(sixacre.Unavailable, "cannot answer DHCPv6 on %s: %s", at, err)
		}
		group.Go(func() error { return dhcp.Serve(ctx, socket) })
		if config.Leasequery {
			bulk, err := net.Listen("tcp6", socket.Addr().String())
			if err != nil {
				return sixacre.Errorf(sixacre.Unavailable, "cannot answer bulk leasequery on %s: %s", at, err)
			}
			group.Go(func() error { return dhcp.ServeBulk(ctx, bulk) })
		}
	}

	socket := filepath.Join(config.Data, api.SocketName)
	os.Remove(socket)           // ours: the lock says that no other server is there
	before := unix.Umask(0o077) // the socket is nobody else's from the first moment
	local, err := net.Listen("unix", socket)
	unix.Umask(before)
	if err != nil {
		return err
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return err
	}
	group.Go(func() error { return serve(ctx, local, server.Local()) })
	if config.API != "none" {
		authority, err := api.OpenAuthority(config.Data, config.APINames)
		if err != nil {
			return err
		}
		network, err := net.Listen("tcp", config.API)
		if err != nil {
			return sixacre.Errorf(sixacre.Unavailable, "cannot serve the API on %s: %s", config.API, err)
		}
		group.Go(func() error { return serve(ctx, authority.Listen(network), server.Network()) })
	}
	slog.Info("serving", "socket", socket, "api", config.API, "dhcp6", config.DHCP6, "version", version)
	return group.Wait()
}

// lock keeps a second server off the directory.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, sixacre.Errorf(sixacre.InUse, "another server runs on %s: stop it, or give another --data", dir)
	}
	return func() { f.Close() }, nil
}

// every calls f now and then at the interval, until the context ends.
func every(ctx context.Context, interval time.Duration, f func() error) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		if err := f(); err != nil && ctx.Err() == nil {
			slog.Warn("the store could not be asked", "reason", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// serve answers HTTP on the listener until the context ends.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
		// Watches end with the server.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		s.Shutdown(grace)
	})
	defer stopped()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	}
	return ctx.Err()
}
