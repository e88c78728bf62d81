package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const networkd = "/lib/systemd/systemd-networkd"

// client is a DHCPv6 client program of the distribution, as a guest runs it.
// Each sees a /run and a /var/lib of its own: clients that shared them would
// share a DUID, or take each other for themselves.
type client struct {
	name  string
	twice bool              // it asks with two IA_PDs
	files map[string]string // its configuration, below /run
	shell string            // what else to prepare before it starts
	args  []string
	// first says that it starts before the NIC is up, as on a machine that
	// leaves all of its network to it.
	first bool
	mute  bool // it ends without a Release
	// deaf says that a signal which comes while it is at work is not heeded before
	// its next timer, so that it must be sent again.
	deaf bool
	// release makes it give up its leases and end: a signal, or a command.
	release     unix.Signal
	releaseArgs []string
}

var (
	wide = &client{
		name: "dhcp6c",
		files: map[string]string{"dhcp6c.conf": `interface eth0 { send ia-pd 1; send ia-na 10; request domain-name-servers; request domain-name; };
id-assoc na 10 { };
id-assoc pd 1 { prefix-interface vlan0 { sla-id 1; sla-len 4; }; };
`},
		shell:   "mkdir -p /var/lib/dhcpv6",
		args:    []string{"dhcp6c", "-f", "-D", "-c", "/run/dhcp6c.conf", "-p", "/run/dhcp6c.pid", "eth0"},
		release: unix.SIGTERM,
	}

	wideTwice = &client{
		name:  "dhcp6c",
		twice: true,
		files: map[string]string{"dhcp6c.conf": `interface eth0 { send ia-pd 1; send ia-pd 2; send ia-na 10; };
id-assoc na 10 { };
id-assoc pd 1 { prefix-interface vlan0 { sla-id 1; sla-len 4; }; };
id-assoc pd 2 { prefix-interface vlan0 { sla-id 1; sla-len 4; }; };
`},
		shell:   wide.shell,
		args:    wide.args,
		release: wide.release,
	}

	// Without noipv6rs dhcpcd takes the Router Advertisements over from the
	// kernel, and keeps one default route.
	dhcpcd = &client{
		name: "dhcpcd",
		files: map[string]string{"dhcpcd.conf": `ipv6only
noipv6rs
script /bin/true
interface eth0
ia_pd 1 vlan0/1/64
`},
		shell:   "mkdir -p /var/lib/dhcpcd",
		args:    []string{"dhcpcd", "-B", "-d", "-6", "-f", "/run/dhcpcd.conf", "eth0"},
		release: unix.SIGALRM,
	}

	// dhclient configures nothing by itself: all of it is the script's.
	dhclient = &client{
		name: "dhclient",
		files: map[string]string{"dhclient-script": `#!/bin/sh
case $reason in
BOUND6 | RENEW6 | REBIND6) ip -6 addr replace "${new_ip6_prefix%/*}1/64" dev vlan0 ;;
EXPIRE6 | RELEASE6 | STOP6) ip -6 addr del "${old_ip6_prefix%/*}1/64" dev vlan0 ;;
esac
`},
		shell:       "chmod +x /run/dhclient-script; mkdir -p /var/lib/dhcp",
		args:        dhclientArgs("-P", "-d"),
		releaseArgs: dhclientArgs("-P", "-r"),
	}

	dhclientTwice = &client{
		name:        "dhclient",
		twice:       true,
		files:       dhclient.files,
		shell:       dhclient.shell,
		args:        dhclientArgs("-P", "-P", "-d"),
		releaseArgs: dhclientArgs("-P", "-P", "-r"),
	}

	// dibbler adds a route to each prefix downstream and no address: that is
	// its script's.
	dibbler = &client{
		name: "dibbler-client",
		files: map[string]string{
			"dibbler/client.conf": `log-mode short
log-level 8
downlink-prefix-ifaces "vlan0"
script "/run/dibbler/notify"
iface "eth0" { pd { } }
`,
			"dibbler/notify": `#!/bin/sh
for prefix in $PREFIX1 $PREFIX2 $PREFIX3; do
	case $1 in
	add | update) ip -6 addr replace "${prefix}1/64" dev vlan0 ;;
	delete) ip -6 addr del "${prefix}1/64" dev vlan0 ;;
	esac
done
`},
		// It reads no other directories than these.
		shell: `chmod +x /run/dibbler/notify
mkdir -p /var/lib/dibbler
mount --bind /run/dibbler /etc/dibbler`,
		args:    []string{"dibbler-client", "run"},
		deaf:    true,
		release: unix.SIGTERM,
	}

	systemdNetworkd = &client{
		name: "systemd-networkd",
		files: map[string]string{
			"systemd/network/eth0.network": `[Match]
Name=eth0
[Network]
IPv6AcceptRA=yes
LinkLocalAddressing=ipv6
[DHCPv6]
UseDNS=no
UseHostname=no
`,
			"systemd/network/vlan0.network": `[Match]
Name=vlan0
[Link]
RequiredForOnline=no
[Network]
ConfigureWithoutCarrier=yes
IgnoreCarrierLoss=yes
LinkLocalAddressing=no
IPv6AcceptRA=no
DHCPPrefixDelegation=yes
[DHCPPrefixDelegation]
UplinkInterface=eth0
SubnetId=1
`},
		// With a writable /sys it waits for udev to announce the links.
		shell: `mount -o remount,bind,ro /sys
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp /var/lib/systemd/network
chown -R systemd-network /run/systemd/netif /var/lib/systemd/network
export SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=debug`,
		args:    []string{networkd},
		first:   true,
		mute:    true,
		release: unix.SIGTERM,
	}
)

func dhclientArgs(mode ...string) []string {
	return slices.Concat([]string{"dhclient", "-6", "-v"}, mode,
		[]string{"-cf", "/dev/null", "-lf", "/run/dhclient.leases", "-pf", "/run/dhclient.pid", "-sf", "/run/dhclient-script", "eth0"})
}

// startClient starts a guest's client.
func (l *Lab) startClient(g guest) error {
	return l.start(clientProcess(g), g.name, l.privateDirs(g)+g.client.shell, g.client.args...)
}

func clientProcess(g guest) string { return g.name + "-" + g.client.name }

// releaseClient makes a guest's client release what it holds and end.
func (l *Lab) releaseClient(ctx context.Context, g guest) error {
	name := clientProcess(g)
	if g.client.deaf {
		return until(ctx, 10*time.Second, func() error {
			if !l.alive(name) {
				return nil
			}
			return l.end(name, g.client.release, 2*time.Second)
		})
	}
	if g.client.releaseArgs == nil {
		return l.end(name, g.client.release, 10*time.Second)
	}
	args := append([]string{"/bin/sh", "-ec", l.privateDirs(g) + `exec "$@"`, "sh"}, g.client.releaseArgs...)
	if _, err := l.exec(ctx, g.name, args...); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(g.client.releaseArgs, " "), err)
	}
	return until(ctx, 10*time.Second, func() error {
		if l.alive(name) {
			return fmt.Errorf("%s still runs after %s", name, strings.Join(g.client.releaseArgs, " "))
		}
		return nil
	})
}

// privateDirs is the shell that puts a guest's own directories in place. The
// lab's own directory may be below the /run that the last line hides.
func (l *Lab) privateDirs(g guest) string {
	return fmt.Sprintf("mount --bind '%[1]s/lib' /var/lib\nmount --bind '%[1]s/run' /run\n", l.guestDir(g))
}

func (l *Lab) guestDir(g guest) string { return filepath.Join(l.dir, "guest", g.name) }

// prepareClient writes the client's configuration.
func (l *Lab) prepareClient(g guest) error {
	if err := os.MkdirAll(filepath.Join(l.guestDir(g), "lib"), 0o755); err != nil {
		return err
	}
	for name, content := range g.client.files {
		path := filepath.Join(l.guestDir(g), "run", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
