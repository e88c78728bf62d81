package nft

import (
	"context"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// alongside runs f beside the test, in its namespace, until the test ends.
func alongside(t *testing.T, f func(context.Context)) {
	t.Helper()
	namespace, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		namespace.Close()
		f(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
}

// eventually asks again and again, for 10 s at most.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// TestWatch: somebody else's commits to our tables are told, their other ones and
// our own are not; and after theirs elsewhere there is nothing to read.
func TestWatch(t *testing.T) {
	inNamespace(t)
	k := new(Kernel)
	must(t, k.Apply(t.Context(), guests(1)))
	told := make(chan uint32, 100)
	start := generationNow(t)
	alongside(t, func(ctx context.Context) {
		k.Watch(ctx, func() { told <- k.elsewhere.upTo() })
	})
	seen := func(generation uint32) func() bool {
		return func() bool { return k.elsewhere.upTo() == generation }
	}
	eventually(t, "watching", seen(start))

	must(t, k.Apply(t.Context(), guests(2)))
	must(t, k.Apply(t.Context(), guests(3)))
	eventually(t, "our own commits seen", seen(start+2))
	foreign(t, "table inet theirs { chain c { accept; }; }\ntable bridge theirs { set sixacre { type mark; }; }\ntable ip6 sixacre { chain guard { accept; }; }")
	eventually(t, "commits elsewhere seen", seen(start+3))
	if !k.elsewhere.all(start+2, start+3) {
		t.Error("a commit elsewhere is taken for one to our tables")
	}
	intact(t, k, true)
	if k.generation != start+3 {
		t.Errorf("the generation taken in is %d, want %d", k.generation, start+3)
	}
	if len(told) > 0 {
		t.Errorf("told of generation %d", <-told)
	}

	for i, text := range []string{
		"add element bridge sixacre echo_by_rule { \"tapx\" }",
		"add rule bridge sixacre guard accept",
		"add chain ip6 sixacre_ct another",
		"delete chain ip6 sixacre_ct another",
		"flush ruleset",
	} {
		foreign(t, text)
		select {
		case got := <-told:
			if want := start + 4 + uint32(i); got != want {
				t.Errorf("%s: told of generation %d, want %d", text, got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: not told", text)
		}
	}
	intact(t, k, false)
}

// TestElsewhere: commits that were not heard of may have been to our tables.
func TestElsewhere(t *testing.T) {
	var e elsewhere
	e.start(5)
	e.next(6)
	e.next(7)
	e.next(9)
	e.next(10)
	for _, c := range []struct {
		before, now uint32
		want        bool
	}{{9, 10, true}, {9, 9, true}, {7, 9, false}, {5, 7, false}, {8, 10, false}, {9, 11, false}} {
		if got := e.all(c.before, c.now); got != c.want {
			t.Errorf("from %d to %d all were elsewhere: %t", c.before, c.now, got)
		}
	}
}

func TestListen(t *testing.T) {
	inNamespace(t)
	sh(t, `ip link set lo up
		nft 'add table ip6 logs; add chain ip6 logs out { type filter hook output priority 0; }; add rule ip6 logs out udp dport 9 meta mark set 19 log prefix "to " group 77 snaplen 48'`)
	heard := make(chan Packet, 1)
	refused := make(chan error, 1)
	alongside(t, func(ctx context.Context) {
		first := true
		err := Listen(ctx, 77, func(p Packet) {
			if first { // while this one listens, no other may
				first = false
				refused <- Listen(ctx, 77, func(Packet) {})
			}
			p.Data = append([]byte(nil), p.Data...)
			select {
			case heard <- p:
			default:
			}
		})
		if ctx.Err() == nil {
			t.Error(err)
		}
	})
	socket, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(socket)
	var got Packet
	eventually(t, "a packet", func() bool {
		must(t, unix.Sendto(socket, []byte("abcdefgh"), 0, &unix.SockaddrInet6{Port: 9, Addr: [16]byte{15: 1}}))
		select {
		case got = <-heard:
			return true
		default:
			return false
		}
	})
	if got.Out != "lo" || got.In != "" || got.Mark != 19 || got.Prefix != "to " || len(got.Data) != 48 || got.Data[0] != 0x60 || got.Data[6] != unix.IPPROTO_UDP {
		t.Errorf("heard %+v", got)
	}
	if err := <-refused; err == nil {
		t.Error("two listen to one group")
	}
}

// TestListenOnBridge: the ports are told, not their bridge.
func TestListenOnBridge(t *testing.T) {
	inNamespace(t)
	sh(t, `ip link add br0 type bridge mcast_snooping 0
		for n in a b; do ip link add tap$n type veth peer name guest$n; ip link set tap$n master br0; done
		sysctl -q -w net.ipv6.conf.br0.disable_ipv6=1 net.ipv6.conf.tapa.disable_ipv6=1 net.ipv6.conf.tapb.disable_ipv6=1 net.ipv6.conf.guestb.disable_ipv6=1
		nft 'add table bridge logs; add chain bridge logs f { type filter hook forward priority 0; }; add rule bridge logs f ether type ip6 log group 78'`)
	heard := make(chan Packet, 1)
	alongside(t, func(ctx context.Context) {
		Listen(ctx, 78, func(p Packet) {
			p.Data = append([]byte(nil), p.Data...)
			select {
			case heard <- p:
			default:
			}
		})
	})
	eventually(t, "listening", func() bool {
		groups, err := os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_log")
		must(t, err)
		return len(groups) > 0
	})
	sh(t, `for l in br0 tapb guestb tapa guesta; do ip link set $l up; done`) // guesta asks for its address and for routers
	select {
	case got := <-heard:
		if got.In != "tapa" || got.Out != "tapb" || len(got.Data) < 40 || got.Data[0]>>4 != 6 {
			t.Errorf("heard %+v", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing is heard of what a port forwards to another")
	}
}

func FuzzPacket(f *testing.F) {
	f.Add([]byte{8, 0, 4, 0, 0, 0, 0, 1, 5, 0, 9, 0, 0x60})
	f.Add([]byte{8, 0, 2, 0, 0, 0, 0, 19, 7, 0, 10, 0, 'a', 'b', 0, 255, 255, 9})
	f.Fuzz(func(t *testing.T, octets []byte) {
		if p, _, _ := packetOf(octets); len(p.Data) > len(octets) || len(p.Prefix) > len(octets) {
			t.Errorf("made more than there is of %x", octets)
		}
		elementOf(octets)
	})
}

// TestWatchUnsure: somebody else's commit that came so close to ours that nothing
// is known of the tables since is told all the same.
func TestWatchUnsure(t *testing.T) {
	inNamespace(t)
	k := new(Kernel)
	must(t, k.Apply(t.Context(), guests(1)))
	told := make(chan struct{}, 100)
	start := generationNow(t)
	alongside(t, func(ctx context.Context) {
		k.Watch(ctx, func() { told <- struct{}{} })
	})
	eventually(t, "watching", func() bool { return k.elsewhere.upTo() == start })
	k.mu.Lock()
	k.applied, k.generation = nil, start+1
	k.mu.Unlock()
	foreign(t, "flush chain bridge sixacre guard")
	eventually(t, "told of it", func() bool { return len(told) > 0 })
}
