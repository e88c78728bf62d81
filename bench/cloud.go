package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

// The cloud that every server is asked about: one slaac pod whose clients hold
// an EUI-64 address and one /60 each. A /40 has 1,048,576 of them.
var (
	linkPrefix = netip.MustParsePrefix("2001:db8:100:1::/64")
	relayNet   = netip.MustParsePrefix("2001:db8:fffe::/64")
	gateway    = netip.MustParseAddr("2001:db8:100:1::1") // the relays' link-address
	pool       = sixacre.Pool{Prefix: netip.MustParsePrefix("2001:db8:4000::/40"), DelegatedLength: 60}
	dnsServer  = netip.MustParseAddr("2001:db8::53")
	serverMAC  = sixacre.MAC{6, 0, 0, 0, 5, 0x47}
	serverDUID = addr.DUIDLL(serverMAC) // all servers have the same, so that all take the same Requests
)

const (
	maxClients = 1 << 20
	maxRelays  = 1024
)

// Lifetimes of all leases.
const (
	preferredLifetime sixacre.Seconds = 4 * 3600
	validLifetime     sixacre.Seconds = 12 * 3600
)

// relayAddr is the address that the nth relay sends from. All are of one /64, so
// that the server reaches them by one route and one neighbour.
func relayAddr(n int) netip.Addr {
	a := relayNet.Addr().As16()
	binary.BigEndian.PutUint64(a[8:], uint64(n)+1)
	return netip.AddrFrom16(a)
}

// cloudPod is the pod in sixacre's own record.
func cloudPod() sixacre.Pod {
	pod := sixacre.Pod{
		Name:              "bench",
		LinkPrefix:        linkPrefix,
		Pools:             []sixacre.Pool{pool},
		DNS:               []netip.Addr{dnsServer},
		PreferredLifetime: preferredLifetime,
		ValidLifetime:     validLifetime,
	}
	for n := range maxRelays {
		pod.Relays = append(pod.Relays, relayAddr(n))
	}
	return pod.WithDefaults()
}

// clientMAC is the MAC of client i. The multiplication by an odd number makes
// distinct MACs of distinct i below 2^40 and leaves no run of them for an index
// to profit by. Clients from the number of reservations on are unknown ones.
func clientMAC(i uint64) sixacre.MAC {
	scattered := i * 0x9e3779b97f
	mac := sixacre.MAC{6}
	for k := range 5 {
		mac[5-k] = byte(scattered >> (8 * k))
	}
	return mac
}

// clientPrefix is the prefix that client i holds.
func clientPrefix(i uint64) netip.Prefix { return addr.Nth(pool, i%maxClients) }

func clientAddr(i uint64) netip.Addr { return addr.EUI64(linkPrefix, clientMAC(i)) }

// clientInstance is client i in sixacre's own record.
func clientInstance(i uint64) sixacre.Instance {
	return sixacre.Instance{
		Name: fmt.Sprintf("i-%d", i),
		NICs: []sixacre.NIC{{
			MAC: clientMAC(i), Pod: "bench", Host: fmt.Sprintf("hv%d", i/64), State: sixacre.Running,
			Prefixes: []netip.Prefix{clientPrefix(i)}, Groups: []string{"default"},
		}},
	}
}

// crowd deals out clients: known ones in a random order in which each comes once
// before any comes again, and unknown ones, none of them twice.
type crowd struct {
	order   []uint32
	next    int
	unknown uint64
}

func newCrowd(known int) *crowd {
	c := &crowd{order: make([]uint32, known), unknown: uint64(maxClients)}
	for i := range c.order {
		c.order[i] = uint32(i)
	}
	random := rand.New(rand.NewPCG(6, 79)) // the same order in every run
	random.Shuffle(known, func(i, j int) { c.order[i], c.order[j] = c.order[j], c.order[i] })
	return c
}

// known returns a client and its turn, which is the same each time.
func (c *crowd) known() (client uint64, turn int) {
	turn = c.next
	if c.next++; c.next == len(c.order) {
		c.next = 0
	}
	return uint64(c.order[turn]), turn
}

func (c *crowd) stranger() uint64 {
	c.unknown++
	return c.unknown
}

// answerSize is how long sixacre's answer to such a message is, in octets. The
// echoes send as much.
func (asked question) answerSize() (int, error) {
	pod := cloudPod()
	nic := addr.Complete(pod, clientInstance(1).NICs[0])
	pods := dhcp6.NewPods([]sixacre.Pod{pod}, func(netip.Addr) bool { return false })
	var q dhcp6.Query
	var client dhcp6.Client
	var answer []byte
	why := q.Parse(asked.template().fill(nil, 1, 1))
	if why == dhcp6.Answered {
		client, why = pods.Locate(&q, relayAddr(0))
	}
	if why == dhcp6.Answered {
		answer, why = dhcp6.Respond(nil, &q, dhcp6.Server{DUID: serverDUID}, client.Pod, &nic)
	}
	if why != dhcp6.Answered {
		return 0, fmt.Errorf("the generator's %s gets no answer: %s", asked.kind, why)
	}
	return len(answer), nil
}
