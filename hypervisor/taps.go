package hypervisor

import (
	"slices"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/firewall"
)

// nicKey tells NICs apart: MACs may repeat across pods.
type nicKey struct {
	pod string
	mac sixacre.MAC
}

// find is a NIC with the tap that was found for it; without, the port is zero.
type find struct {
	nic  sixacre.NIC
	port sixacre.BridgePort
}

// arrange finds the tap of each NIC of the view, and says what the host's
// filter follows from.
func (a *Agent) arrange(v sixacre.View, ports []sixacre.BridgePort) (firewall.Host, []find) {
	h := firewall.Host{Mode: a.Mode, Taps: a.Taps, Limits: a.Limits, Log: a.NFLog, Pods: v.Pods, Groups: v.Groups, Members: v.Members}
	ours := slices.Clone(a.Bridges)
	for _, p := range ports {
		if len(a.Bridges) == 0 && a.isTap(p.Device) {
			ours = append(ours, p.Bridge)
		}
	}
	var taps []sixacre.BridgePort
	for _, p := range ports {
		if !slices.Contains(ours, p.Bridge) {
			continue
		}
		if !slices.ContainsFunc(h.Bridges, func(b firewall.Bridge) bool { return b.Name == p.Bridge }) {
			h.Bridges = append(h.Bridges, firewall.Bridge{Name: p.Bridge, Index: p.BridgeIndex, Zone: zone(p.BridgeIndex)})
		}
		if a.isTap(p.Device) {
			taps = append(taps, p)
		} else {
			h.Uplinks = append(h.Uplinks, firewall.Uplink{Device: p.Device, Index: p.Index, Bridge: p.Bridge})
		}
	}
	finds := match(v, taps)
	for _, f := range finds {
		if f.port.Device != "" {
			h.Ports = append(h.Ports, firewall.Port{Device: f.port.Device, Index: f.port.Index, Bridge: f.port.Bridge, NIC: f.nic})
		}
	}
	a.logFinds(finds, ports)
	return h, finds
}

func (a *Agent) isTap(device string) bool {
	return slices.ContainsFunc(a.Taps, func(p firewall.Pattern) bool { return p.Match(device) })
}

// zone makes a conntrack zone of a bridge's interface index: it stays the same
// for as long as the bridge exists, whatever bridges come and go beside it.
// Zone 0 is the host's own.
func zone(index int) uint16 { return uint16(index%0xffff) + 1 }

// match finds the tap of each NIC: the device that the record names, or else
// the one tap whose MAC is the NIC's or libvirt's form of it, with fe as the
// first octet. A tap that the record names for one NIC is not another's. A NIC
// that is stopped has none: libvirt may have given its name to the next guest.
func match(v sixacre.View, taps []sixacre.BridgePort) []find {
	byName, byMAC := map[string]sixacre.BridgePort{}, map[sixacre.MAC][]sixacre.BridgePort{}
	for _, t := range taps {
		byName[t.Device] = t
		byMAC[guestOf(t.MAC)] = append(byMAC[guestOf(t.MAC)], t)
	}
	named := map[string]bool{}
	var finds []find
	for _, i := range v.Instances {
		for _, n := range i.NICs {
			finds = append(finds, find{nic: n})
			if n.State != sixacre.Stopped {
				named[n.Device] = true
			}
		}
	}
	for i := range finds {
		n := finds[i].nic
		switch {
		case n.State == sixacre.Stopped:
		case n.Device != "":
			finds[i].port = byName[n.Device]
		default:
			free := slices.DeleteFunc(slices.Clone(byMAC[guestOf(n.MAC)]), func(t sixacre.BridgePort) bool {
				return named[t.Device] || !sameGuest(t.MAC, n.MAC)
			})
			if len(free) == 1 {
				finds[i].port = free[0]
			}
		}
	}
	return finds
}

// guestOf is the same for a guest's MAC and for what libvirt makes of it.
func guestOf(mac sixacre.MAC) sixacre.MAC {
	mac[0] = 0
	return mac
}

func sameGuest(tap, nic sixacre.MAC) bool {
	libvirt := nic
	libvirt[0] = 0xfe
	return tap == nic || tap == libvirt
}

// logFinds says once where each NIC is, and why one is nowhere.
func (a *Agent) logFinds(finds []find, ports []sixacre.BridgePort) {
	now := map[nicKey]string{}
	for _, f := range finds {
		key := nicKey{f.nic.Pod, f.nic.MAC}
		now[key] = f.port.Device
		if was, known := a.found[key]; known && was == f.port.Device {
			continue
		}
		log := a.Log.With("pod", f.nic.Pod, "mac", f.nic.MAC)
		switch {
		case f.nic.State == sixacre.Stopped:
			log.Info("NIC is stopped: its tap is closed")
		case f.port.Device != "":
			log.Info("NIC has a tap", "device", f.port.Device, "bridge", f.port.Bridge)
		case f.nic.Device != "" && slices.ContainsFunc(ports, func(p sixacre.BridgePort) bool { return p.Device == f.nic.Device }):
			log.Warn("NIC is not filtered: its device is no tap by --taps on a bridge of ours", "device", f.nic.Device)
		default:
			log.Info("NIC has no tap yet, or several taps have its MAC")
		}
	}
	a.found = now
}
