package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
)

// rig is a network namespace that stands for a hypervisor under a ruleset: a
// bridge with its taps and one uplink, all of them veth pairs whose other ends stay
// in the same namespace, so that a packet's whole way is on the processor that
// sends it.
//
// The ends have MACs of their own. What arrives at one is for another machine, so
// that the kernel counts it and drops it at once, whatever the ruleset.
type rig struct {
	namespace
	ruleset   ruleset
	nics      int
	nic       sixacre.NIC // the last one
	guest     *end
	router    *end
	counters  *os.File
	conntrack int // a netlink socket
}

// end is the far end of a veth pair.
type end struct {
	name string
	fd   int // a packet socket that only sends
}

func newRig(ctx context.Context, s ruleset, nics int) (*rig, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	r := &rig{namespace: ns, ruleset: s, nics: nics, nic: filterNIC(nics - 1), conntrack: -1}
	err = ns.inside(func() error {
		if err := r.build(ctx); err != nil {
			return err
		}
		return s.load(ctx, r)
	})
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *rig) close() {
	for _, e := range []*end{r.guest, r.router} {
		if e != nil {
			unix.Close(e.fd)
		}
	}
	if r.counters != nil {
		r.counters.Close()
	}
	unix.Close(r.conntrack)
	unix.Close(int(r.namespace))
}

func (r *rig) build(ctx context.Context) error {
	// Only what the benchmark sends is to be on the way.
	sysctls := []string{"net/ipv6/conf/all/disable_ipv6=1", "net/ipv6/conf/default/disable_ipv6=1"}
	for _, family := range []string{"iptables", "ip6tables", "arptables"} {
		sysctls = append(sysctls, "net/bridge/bridge-nf-call-"+family+"=0")
	}
	for _, s := range sysctls {
		name, value, _ := strings.Cut(s, "=")
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("%w: is br_netfilter loaded?", err)
		}
	}
	var links strings.Builder
	fmt.Fprintf(&links, "link add %s type bridge mcast_snooping 0\nlink set %s up\n", filterBridge, filterBridge)
	pairs := [][2]string{{r.nic.Device, "guest"}, {filterUplink, "router"}} // first, so that their counters are
	for n := range r.nics - 1 {
		pairs = append(pairs, [2]string{tapName(n), fmt.Sprintf("guest%d", n)})
	}
	for _, p := range pairs {
		fmt.Fprintf(&links, "link add %s type veth peer name %s\n", p[0], p[1])
		fmt.Fprintf(&links, "link set %s master %s up\nlink set %s up\n", p[0], filterBridge, p[1])
	}
	if err := ip(ctx, links.String()); err != nil {
		return err
	}
	behind := fmt.Sprintf("fdb add %s dev %s master static\nfdb add %s dev %s master static\n", r.nic.MAC, r.nic.Device, routerMAC, filterUplink)
	if err := feed(ctx, behind, "bridge", "-batch", "-"); err != nil {
		return err
	}
	var err error
	if r.guest, err = newEnd("guest"); err != nil {
		return err
	}
	if r.router, err = newEnd("router"); err != nil {
		return err
	}
	if r.counters, err = os.Open("/proc/thread-self/net/dev"); err != nil {
		return err
	}
	r.conntrack, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	return err
}

func newEnd(name string) (*end, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index}),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &end{name, fd}, nil
}

// received is how many packets have arrived at the guest's end and at the
// router's.
func (r *rig) received() (guest, router uint64, err error) {
	lines := bufio.NewScanner(io.NewSectionReader(r.counters, 0, 1<<20))
	for found := 0; found < 2; {
		if !lines.Scan() {
			return 0, 0, errors.Join(lines.Err(), errors.New("no counters of the veth pairs"))
		}
		name, rest, _ := strings.Cut(strings.TrimSpace(lines.Text()), ":")
		into := map[string]*uint64{"guest": &guest, "router": &router}[name]
		if into == nil {
			continue
		}
		var octets uint64
		if _, err := fmt.Sscan(rest, &octets, into); err != nil {
			return 0, 0, err
		}
		found++
	}
	return guest, router, nil
}

// forget empties the connection table of the namespace.
func (r *rig) forget() error {
	m := make([]byte, unix.SizeofNlMsghdr+4) // struct nfgenmsg: all families
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], unix.NFNL_SUBSYS_CTNETLINK<<8|2) // IPCTNL_MSG_CT_DELETE
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m[unix.SizeofNlMsghdr] = unix.AF_UNSPEC
	if err := unix.Sendto(r.conntrack, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 4096)
	n, _, err := unix.Recvfrom(r.conntrack, reply, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return errors.New("emptying the connection table: no answer")
	}
	if code := int32(binary.NativeEndian.Uint32(reply[unix.SizeofNlMsghdr:])); code != 0 {
		return fmt.Errorf("emptying the connection table: %w", unix.Errno(-code))
	}
	return nil
}
