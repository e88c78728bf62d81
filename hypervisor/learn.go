package hypervisor

import (
	"context"
	"encoding/binary"
	"net/netip"

	"github.com/sixacre/sixacre"
)

// Guests may make their link-local address as they like (RFC 7217). The filter
// drops what comes from it, but tells when a guest asks whether such an address
// is free (RFC 4862 section 5.4): the tap proves which NIC that is. The server
// then grants the address, or not.

// asking is a NIC that takes an address.
type asking struct {
	device  string
	address netip.Addr
}

// maxAsking is how many may wait for the server. What guests ask beyond that is
// lost until they take an address again.
const maxAsking = 64

// Heard takes a packet, from its IPv6 header on, that the filter saw from the
// tap.
func (a *Agent) Heard(device string, packet []byte) {
	target, ok := duplicateDetection(packet)
	if !ok {
		return
	}
	select {
	case a.asks() <- asking{device, target}:
	default:
	}
}

// duplicateDetection returns the address that a Neighbor Solicitation asks for
// whose sender has none yet (RFC 4861 section 4.3).
func duplicateDetection(packet []byte) (netip.Addr, bool) {
	const header, solicitation = 40, 24
	if len(packet) < header+solicitation || packet[0]>>4 != 6 || packet[6] != 58 || packet[7] != 255 ||
		packet[header] != 135 || binary.BigEndian.Uint16(packet[4:]) < solicitation {
		return netip.Addr{}, false
	}
	source, target := netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[header+8:]))
	return target, source.IsUnspecified() && target.IsLinkLocalUnicast()
}

func (a *Agent) asks() chan asking {
	a.once.Do(a.make)
	return a.heard
}

// learn asks the server until the context ends. Granted is the interface index of
// each NIC's tap when it last got an address.
func (a *Agent) learn(ctx context.Context, granted map[nicKey]int) {
	refused := map[nicKey]netip.Addr{} // last, so as not to log it again
	for {
		var ask asking
		select {
		case <-ctx.Done():
			return
		case ask = <-a.asks():
		}
		a.mu.Lock()
		f, known := a.behind[ask.device]
		a.mu.Unlock()
		if !known || a.Learn == nil || f.nic.LinkLocal == ask.address || f.nic.LearnedLinkLocal == ask.address {
			continue
		}
		key := f.key()
		index, before := granted[key]
		err := a.Learn(ctx, sixacre.LinkLocalRequest{
			Pod: f.nic.Pod, MAC: f.nic.MAC, Address: ask.address, NewTap: before && index != f.port.Index,
		})
		switch {
		case err == nil:
			granted[key] = f.port.Index
			delete(refused, key)
			a.Log.Info("learned a link-local address", "pod", f.nic.Pod, "mac", f.nic.MAC, "address", ask.address)
		case ctx.Err() == nil && refused[key] != ask.address:
			refused[key] = ask.address
			a.Log.Warn("a link-local address that the guest takes is not learned: what comes from it is dropped", "pod", f.nic.Pod, "mac", f.nic.MAC, "address", ask.address, "reason", err)
		}
	}
}

// lastTaps returns the interface indexes of the taps that an agent before this one
// knew: whether a tap was made anew shows in that.
func (a *Agent) lastTaps() map[nicKey]int {
	out := map[nicKey]int{}
	status, err := LoadStatus(a.State)
	if err != nil || status == nil {
		return out
	}
	for _, n := range status.NICs {
		if n.Device != "" {
			out[nicKey{n.Pod, n.MAC}] = n.Index
		}
	}
	return out
}

// remember notes who is behind which tap.
func (a *Agent) remember(finds []find) {
	behind := make(map[string]find, len(finds))
	for _, f := range finds {
		if f.port.Device != "" {
			behind[f.port.Device] = f
		}
	}
	a.mu.Lock()
	a.behind = behind
	a.mu.Unlock()
}
