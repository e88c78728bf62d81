package dhcpd

import (
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

// BenchmarkBatchOfAMillion answers batches of relayed messages of clients that
// were seen before, everything but the system calls.
func BenchmarkBatchOfAMillion(b *testing.B) {
	s := New(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), Uptime)
	s.Apply(true, put(pod1, serverID), 1)
	s.Confirm(Uptime(), 1)
	snapshot := s.index.current.Load()
	nics, keys := filledTable(b)
	snapshot.nics = nics
	relay := netip.IPv6Loopback()
	for _, message := range []dhcpv6.MessageType{dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRequest} {
		b.Run(message.String(), func(b *testing.B) {
			m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac1[:]}),
				dhcpv6.WithIAID([4]byte{1}), dhcpv6.WithIAPD([4]byte{1}), dhcpv6.WithRequestedOptions(23, 24))
			if err != nil {
				b.Fatal(err)
			}
			m.MessageType = message
			if message == dhcpv6.MessageTypeRequest {
				id, _ := dhcpv6.DUIDFromBytes(serverID.DUID)
				m.AddOption(dhcpv6.OptServerID(id))
			}
			w := s.newWorker(-1, netip.AddrPortFrom(relay, dhcp6.ServerPort), nil)
			from := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: relay.As16()}
			packets := make([]packet, len(keys))
			for i, k := range keys {
				relayed, err := dhcpv6.EncapsulateRelay(m, dhcpv6.MessageTypeRelayForward, net.ParseIP("2001:db8:100:1::1"), addr.LinkLocal(k.mac).AsSlice())
				if err != nil {
					b.Fatal(err)
				}
				relayed.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, k.mac[:]))
				relayed.AddOption(dhcpv6.OptInterfaceID([]byte("eth0")))
				packets[i] = packet{payload: relayed.ToBytes(), from: &from}
			}
			s.index.seen.on.Store(true)
			moment := s.moment()
			ask := func(packets []packet) {
				for i := range packets {
					w.locate(&moment, &packets[i], &w.queries[i])
				}
				w.touch(&moment, w.queries[:len(packets)])
				used := 0
				for i := range packets {
					q := &w.queries[i]
					if q.why == dhcp6.Answered {
						var payload []byte
						payload, q.why = w.respond(w.out[used:used], &moment, q)
						used += len(payload)
					}
					if q.why != dhcp6.Answered {
						b.Fatal(q.why)
					}
				}
			}
			round := func(n int) {
				for at := 0; at < min(n, len(packets)); at += batchSize {
					moment.at += 200 * time.Microsecond // as fast as it may be
					w.budget.clients.begin(moment.at)
					ask(packets[at:][:batchSize])
					for len(s.index.seen.queue) > 0 {
						g := <-s.index.seen.queue
						s.index.seen.remember(&g)
					}
				}
			}
			round(len(packets))
			runtime.GC() // of what was made to get here
			b.ResetTimer()
			for left := b.N; left > 0; left -= len(packets) {
				round(left)
			}
			if n := s.index.seen.count(); n != len(packets) {
				b.Errorf("%d of %d clients were seen", n, len(packets))
			}
		})
	}
}
