package main

import (
	"net/netip"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

// What the generator asks is answered by the server's own code, and the answer is
// taken for right from the client that asked, and from no other.
func TestQuestions(t *testing.T) {
	pod := cloudPod()
	if err := pod.Validate(); err != nil {
		t.Fatal(err)
	}
	pods := dhcp6.NewPods([]sixacre.Pod{pod}, func(netip.Addr) bool { return false })
	for _, asked := range questions {
		template := asked.template()
		for _, i := range []uint64{0, 1, model, maxClients - 1} {
			query := template.fill(nil, i, 0xabcde)
			if len(query) != len(template.b) {
				t.Fatalf("%v of client %d has %d octets, the template %d", asked, i, len(query), len(template.b))
			}
			var q dhcp6.Query
			if why := q.Parse(query); why != dhcp6.Answered {
				t.Fatalf("%v of client %d: %s", asked, i, why)
			}
			client, why := pods.Locate(&q, relayAddr(maxRelays-1))
			if why != dhcp6.Answered || client.MAC != clientMAC(i) || client.Mismatch || client.Peer != addr.LinkLocal(clientMAC(i)) {
				t.Fatalf("%v of client %d is located as %+v, %s", asked, i, client, why)
			}
			for _, ia := range q.IAs {
				if a, named := ia.NextAddress(); named && a != clientAddr(i) {
					t.Errorf("%v of client %d names %s", asked, i, a)
				}
				if p, named := ia.NextPrefix(); named && p != clientPrefix(i) {
					t.Errorf("%v of client %d names %s", asked, i, p)
				}
			}
			nic := addr.Complete(pod, clientInstance(i).NICs[0])
			answer, why := dhcp6.Respond(nil, &q, dhcp6.Server{DUID: serverDUID}, client.Pod, &nic)
			if why != dhcp6.Answered {
				t.Fatalf("%v of client %d gets no answer: %s", asked, i, why)
			}
			if transaction, err := template.transactionOf(answer); err != nil || transaction != 0xabcde {
				t.Errorf("the answer's transaction is %x, %v", transaction, err)
			}
			if size, err := asked.answerSize(); err != nil || size != len(answer) {
				t.Errorf("the answer has %d octets, not %d, %v", len(answer), size, err)
			}
			for _, right := range []judge{exact, pooled} {
				if err := right(asked, i, answer); err != nil {
					t.Errorf("%v of client %d: %s", asked, i, err)
				}
				if right(asked, i+1, answer) == nil {
					t.Errorf("the answer to client %d passes for another's", i)
				}
			}
			wrong := append([]byte(nil), answer...)
			upper := clientPrefix(i).Addr().As16()
			wrong[places(wrong, upper[:8])[0]+7] ^= 0x10 // the next prefix of the pool
			if exact(asked, i, wrong) == nil {
				t.Errorf("client %d may have the prefix of another", i)
			}
		}
	}
}

func TestEchoes(t *testing.T) {
	asked := questions[1]
	template := asked.template()
	sent := template.fill(nil, 7, 0xabcde)
	for _, size := range []int{len(sent) - 20, len(sent) + 20} {
		right := echoed(map[question]int{asked: size})
		answer := append(append([]byte(nil), sent...), make([]byte, 20)...)[:size]
		if err := right(asked, 7, answer); err != nil {
			t.Error(err)
		}
		if right(asked, 8, answer) == nil || right(asked, 7, answer[:size-1]) == nil {
			t.Error("what another sent passes for an echo")
		}
		if transaction, err := template.transactionOf(answer); err != nil || transaction != 0xabcde {
			t.Errorf("the echo's transaction is %x, %v", transaction, err)
		}
	}
}

// Each known client comes once before any comes again, with the same turn each
// time; no unknown one comes twice, and no MAC is a known one's.
func TestCrowd(t *testing.T) {
	const known = 4096
	c := newCrowd(known)
	turns, seen := map[uint64]int{}, map[sixacre.MAC]bool{}
	for n := range 2 * known {
		client, turn := c.known()
		before, again := turns[client]
		if again != (n >= known) || again && before != turn {
			t.Fatalf("client %d comes %dth with turn %d, before %d, %t", client, n, turn, before, again)
		}
		turns[client] = turn
		seen[clientMAC(client)] = true
	}
	if len(seen) != known {
		t.Errorf("%d MACs of %d clients", len(seen), known)
	}
	for range known {
		mac := clientMAC(c.stranger())
		if seen[mac] {
			t.Fatalf("%s comes twice", mac)
		}
		seen[mac] = true
	}
}

func TestFigures(t *testing.T) {
	if s := spreadOf([]float64{5, 1, 3}); s != (spread{3, 1, 5}) {
		t.Errorf("%v", s)
	}
	if s := spreadOf([]float64{4, 1, 3, 2}); s != (spread{2.5, 1, 4}) {
		t.Errorf("%v", s)
	}
	for _, c := range []struct {
		target target
		row    string
	}{
		{target{what: "a", figures: []float64{3}, limit: 2}, "| a | 3.00 | 3.00 to 3.00 | at least 2.00 | met |"},
		{target{what: "a", figures: []float64{1.5}, limit: 2}, "| a | 1.50 | 1.50 to 1.50 | at least 2.00 | missed by 25 % |"},
		{target{what: "a", figures: []float64{90}, limit: 80, below: true}, "| a | 90.0 | 90.0 to 90.0 | at most 80.0 | missed by 12 % |"},
		{target{what: "a", limit: 80, below: true}, "| a | not measured | | at most 80.0 | |"},
	} {
		if got := c.target.row(); got != c.row {
			t.Errorf("%s\nis not\n%s", got, c.row)
		}
	}
}
