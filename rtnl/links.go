package rtnl

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre"
)

// Links are the bridges and their ports in the network namespace that the
// process is in.
type Links struct{}

// BridgePorts returns every port of every bridge.
func (Links) BridgePorts() ([]sixacre.BridgePort, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	type bridge struct {
		name    string
		tracked bool
	}
	bridges := map[int]bridge{}
	var all []sixacre.BridgePort
	for _, m := range messages {
		link, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, fmt.Errorf("listing links: %w", err)
		}
		own, asPort, err := linkInfo(m)
		if err != nil {
			return nil, fmt.Errorf("listing links: %w", err)
		}
		a := link.Attrs()
		if link.Type() == "bridge" {
			bridges[a.Index] = bridge{a.Name, isOn(own[nl.IFLA_BR_NF_CALL_IP6TABLES])}
		}
		p := sixacre.BridgePort{Device: a.Name, Index: a.Index, BridgeIndex: a.MasterIndex}
		copy(p.MAC[:], a.HardwareAddr)
		mask := asPort[nl.IFLA_BRPORT_GROUP_FWD_MASK].Value
		p.Confined = len(mask) == 2 && binary.NativeEndian.Uint16(mask) == reservedGroups
		p.Learning = isOn(asPort[nl.IFLA_BRPORT_LEARNING])
		all = append(all, p)
	}
	var ports []sixacre.BridgePort
	for _, p := range all {
		if b, isPort := bridges[p.BridgeIndex]; isPort {
			p.Bridge, p.Tracked = b.name, b.tracked
			ports = append(ports, p)
		}
	}
	return ports, nil
}

type attributes = map[uint16]syscall.NetlinkRouteAttr

// linkInfo returns what a link's message says of the link as what it is, such as
// a bridge, and as the port that it is of another.
func linkInfo(message []byte) (own, asPort attributes, err error) {
	all, err := nl.ParseRouteAttrAsMap(message[unix.SizeofIfInfomsg:])
	if err != nil {
		return nil, nil, err
	}
	info, err := nl.ParseRouteAttrAsMap(all[unix.IFLA_LINKINFO].Value)
	if err != nil {
		return nil, nil, err
	}
	if own, err = nl.ParseRouteAttrAsMap(info[nl.IFLA_INFO_DATA].Value); err != nil {
		return nil, nil, err
	}
	asPort, err = nl.ParseRouteAttrAsMap(info[nl.IFLA_INFO_SLAVE_DATA].Value)
	return own, asPort, err
}

func isOn(a syscall.NetlinkRouteAttr) bool { return len(a.Value) > 0 && a.Value[0] != 0 }

// Watch calls changed after every change of a link until ctx ends, and after
// each that was missed.
func (Links) Watch(ctx context.Context, changed func()) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return fmt.Errorf("watching links: %w", err)
	}
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	for {
		_, _, err := s.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR):
			s.Close()
			return fmt.Errorf("watching links: %w", err)
		}
		changed()
	}
}

// reservedGroups are all of the link's own groups, 01:80:c2:00:00:00 to 0f (IEEE
// 802.1Q section 8.6.3), but that of pause frames, which the bridge drops.
const reservedGroups = 0xffff &^ (1 << 1)

// Confine has the bridge treat frames from the port to reserved groups as any
// other. It would hand them to the host as the port's own, and learn their source
// MAC, without showing them to the firewall's prerouting hook; LLDP's and, where
// it speaks STP, that protocol's to no hook at all.
func (Links) Confine(port sixacre.BridgePort) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: port.Index}}
	if err := netlink.LinkSetBRSlaveGroupFwdMask(link, reservedGroups); err != nil {
		return fmt.Errorf("setting group_fwd_mask of bridge port %s: %w", port.Device, err)
	}
	return nil
}

// ntfSticky keeps an entry on its port when a frame with its MAC comes by another
// (NTF_STICKY, Linux 4.20).
const ntfSticky = 1 << 6

// Secure makes the bridge itself hold the port to one MAC, as a second barrier
// behind the firewall's: the MAC is entered for the port, which neither learns
// others nor lets frames from others in (locked), gets no unicast meant for
// others, and takes no part in the spanning tree. Multicast, and so ND, still
// reaches it. A MAC entered for the port before is taken out. Where the kernel
// has no locked ports (before 5.18) the rest is set.
func (Links) Secure(port sixacre.BridgePort, mac sixacre.MAC) error {
	entries, err := netlink.NeighList(port.Index, unix.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("listing the addresses behind %s: %w", port.Device, err)
	}
	for _, e := range entries {
		if e.State == unix.NUD_NOARP && e.MasterIndex == port.BridgeIndex && !bytes.Equal(e.HardwareAddr, mac[:]) {
			e.Flags = netlink.NTF_MASTER
			if err := netlink.NeighDel(&e); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("removing %s from %s: %w", e.HardwareAddr, port.Device, err)
			}
		}
	}
	entry := netlink.Neigh{
		LinkIndex: port.Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER | ntfSticky,
		State: unix.NUD_NOARP, HardwareAddr: mac[:],
	}
	if err := netlink.NeighSet(&entry); err != nil {
		return fmt.Errorf("entering %s for %s in bridge %s: %w", mac, port.Device, port.Bridge, err)
	}
	flags := []portFlag{
		{nl.IFLA_BRPORT_LEARNING, false},
		{nl.IFLA_BRPORT_UNICAST_FLOOD, false},
		{nl.IFLA_BRPORT_GUARD, true},
		{nl.IFLA_BRPORT_PROTECT, true}, // root_block
	}
	if err := setPortFlags(port.Index, flags); err != nil {
		return fmt.Errorf("setting the flags of bridge port %s: %w", port.Device, err)
	}
	err = setPortFlags(port.Index, []portFlag{{nl.IFLA_BRPORT_LOCKED, true}})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("locking bridge port %s: %w", port.Device, err)
	}
	return nil
}

type portFlag struct {
	attribute int
	on        bool
}

func setPortFlags(index int, flags []portFlag) error {
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	request.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for _, f := range flags {
		value := byte(0)
		if f.on {
			value = 1
		}
		info.AddRtAttr(f.attribute, []byte{value})
	}
	request.AddData(info)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// sysctls of br_netfilter; each is 1 when the module is loaded.
const bridgeSysctls = "/proc/sys/net/bridge"

// TrackIPv6 sends the IPv6 packets of these bridges, and of no others, through
// the ip6 hooks of the firewall, where connections are tracked. It loads
// br_netfilter where it is not.
//
// The sysctls that do the same for all bridges and for IPv4 and ARP are set to
// 0 where no other bridge of the namespace could rely on them; else they stay,
// and the notes say what that means.
func (Links) TrackIPv6(ctx context.Context, bridges []string) (notes []string, err error) {
	if _, err := os.Stat(bridgeSysctls); errors.Is(err, os.ErrNotExist) {
		if out, err := exec.CommandContext(ctx, "modprobe", "br_netfilter").CombinedOutput(); err != nil {
			return nil, sixacre.Errorf(sixacre.Unavailable, "br_netfilter is not loaded and modprobe br_netfilter failed (%s): without it connections on the bridge cannot be tracked", strings.TrimSpace(string(out)))
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	ours := map[string]bool{}
	for _, b := range bridges {
		ours[b] = true
	}
	var others []string
	for _, l := range links {
		if l.Type() != "bridge" {
			continue
		}
		if name := l.Attrs().Name; !ours[name] {
			others = append(others, name)
		} else if err := setNFCallIP6Tables(l.Attrs().Index); err != nil {
			return notes, fmt.Errorf("setting nf_call_ip6tables of bridge %s: %w", name, err)
		}
	}
	for _, family := range []string{"iptables", "arptables", "ip6tables"} {
		file := filepath.Join(bridgeSysctls, "bridge-nf-call-"+family)
		value, err := os.ReadFile(file)
		if err != nil {
			return notes, err
		}
		switch {
		case strings.TrimSpace(string(value)) == "0":
		case len(others) > 0:
			notes = append(notes, fmt.Sprintf("bridge-nf-call-%s stays 1 because bridge %s may rely on it: the host's own rules meet bridged packets too", family, others[0]))
		default:
			if err := os.WriteFile(file, []byte("0\n"), 0); err != nil {
				return notes, err
			}
		}
	}
	return notes, nil
}

func setNFCallIP6Tables(bridge int) error {
	request := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(bridge)
	request.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_NF_CALL_IP6TABLES, []byte{1})
	request.AddData(info)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
