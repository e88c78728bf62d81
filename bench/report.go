package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sixacre/sixacre/dhcp6"
)

// titles of the servers in the tables.
var titles = map[string]string{
	"echo":      "echo, recvmmsg/sendmmsg 64",
	"segments":  "echo, recvmmsg + UDP_SEGMENT",
	"trains":    "echo, UDP_GRO + UDP_SEGMENT",
	"sixacre":   "**sixacre**",
	"kea":       "Kea, memfile",
	"coredhcp":  "CoreDHCP, file + prefix plugins",
	"library":   "minimal server on insomniacslk/dhcp",
	updatesName: fmt.Sprintf("sixacre, %d reservations changed per second", updateRate),
	floodName:   fmt.Sprintf("sixacre, in %d unknown clients' Requests per second", pacedRate*floodShare/(100-floodShare)),
}

// target is one figure of the issue.
type target struct {
	what    string
	figures []float64
	limit   float64
	below   bool // whether it is an upper limit
}

func (t target) row() string {
	if len(t.figures) == 0 {
		return fmt.Sprintf("| %s | not measured | | %s | |", t.what, t.bound())
	}
	s := spreadOf(t.figures)
	verdict := "met"
	if over := s.median/t.limit - 1; t.limit == 0 && s.median > 0 {
		verdict = "missed"
	} else if t.below == (over > 0) && over != 0 {
		verdict = fmt.Sprintf("missed by %.0f %%", 100*math.Abs(over))
	}
	return fmt.Sprintf("| %s | %s | %s to %s | %s | %s |", t.what, short(s.median), short(s.low), short(s.high), t.bound(), verdict)
}

func (t target) bound() string {
	if t.below {
		return "at most " + short(t.limit)
	}
	return "at least " + short(t.limit)
}

// short prints three digits or so.
func short(v float64) string {
	switch {
	case v >= 10_000:
		return fmt.Sprintf("%.0fk", v/1000)
	case v >= 1000:
		return fmt.Sprintf("%.1fk", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// report prints everything as Markdown.
func (e *everything) report(w io.Writer, m memory, rounds int) {
	fmt.Fprintf(w, "%s, Linux %s, %s; %d reservations in every server; %d rounds.\n", processor(), kernel(), runtime.Version(), e.known, rounds)
	fmt.Fprintf(w, "veth: %s.\n", offloads())
	fmt.Fprintf(w, "Medians, and the lowest and highest of the rounds.\n\n")
	e.rateTable(w)
	e.latencyTable(w)
	for _, name := range e.peers {
		if v := e.servers[name]; v.wrong > 0 {
			fmt.Fprintf(w, "\n%s: %d answers were another client's, of those that were looked at (one in %d; of a paced run, all).\n", titles[name], v.wrong, sample)
		}
	}
	fmt.Fprintf(w, "\n| what it takes | |\n| --- | --- |\n")
	fmt.Fprintf(w, "| sixacre, resident per reservation | %.1f octets |\n", float64(m.reservations)/float64(e.known))
	fmt.Fprintf(w, "| sixacre, to take the reservations up | %s |\n", m.loaded)
	fmt.Fprintf(w, "| sixacre, resident per client seen, beyond that | %.1f octets |\n", float64(m.seen)/float64(e.known))
	for _, name := range e.peers {
		fmt.Fprintf(w, "| %s, resident per reservation | %.0f octets |\n", titles[name], float64(m.others[name])/float64(e.known))
	}
	e.targetTable(w, m)
}

// rateTable shows messages per CPU-second.
func (e *everything) rateTable(w io.Writer) {
	fmt.Fprintf(w, "| messages per CPU-second, one core | Solicit | Request |\n| --- | --- | --- |\n")
	row := func(title, name, arrival string) {
		fmt.Fprintf(w, "| %s ", title)
		for _, kind := range []dhcp6.MessageType{dhcp6.Solicit, dhcp6.Request} {
			if f := e.rates[rateKey(name, arrival, kind)]; len(f) > 0 {
				s := spreadOf(f)
				fmt.Fprintf(w, "| %s (%s to %s) ", short(s.median), short(s.low), short(s.high))
			} else {
				fmt.Fprint(w, "| ")
			}
		}
		fmt.Fprintln(w, "|")
	}
	for _, name := range append([]string{"echo", "segments", "sixacre"}, e.peers...) {
		row(titles[name], name, "singly")
	}
	row(titles[updatesName], updatesName, "singly")
	row("sixacre, unknown clients alone", "sixacre", "unknown")
	for _, name := range append([]string{"echo", "segments", "trains", "sixacre"}, e.peers...) {
		row(titles[name]+"; requests arrive joined", name, "joined")
	}
	for _, name := range []string{"echo", "sixacre"} {
		row(fmt.Sprintf("%s; %d relays in turn", titles[name], maxRelays), name, "scattered")
	}
	fmt.Fprintln(w)
}

// latencyTable shows how long paced Requests take.
func (e *everything) latencyTable(w io.Writer) {
	fmt.Fprintf(w, "| %d Requests per second | p50, µs | p99, µs | p99.9, µs | unanswered in all |\n| --- | --- | --- | --- | --- |\n", pacedRate)
	for _, name := range append([]string{"echo", "sixacre", updatesName, floodName}, e.peers...) {
		if len(e.p50[name]) == 0 {
			continue
		}
		cell := func(f []float64) string {
			s := spreadOf(f)
			return fmt.Sprintf("%.0f (%.0f to %.0f)", s.median, s.low, s.high)
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %d |\n", titles[name], cell(e.p50[name]), cell(e.p99[name]), cell(e.p999[name]), e.lost[name])
	}
}

// targetTable holds what was measured against what is wanted.
func (e *everything) targetTable(w io.Writer, m memory) {
	fmt.Fprintf(w, "\n| target | median | rounds | wanted | |\n| --- | --- | --- | --- | --- |\n")
	of := func(name, arrival string, kind dhcp6.MessageType) []float64 {
		return e.rates[rateKey(name, arrival, kind)]
	}
	add := func(t target) { fmt.Fprintln(w, t.row()) }
	beside := func(other, arrival string, kind dhcp6.MessageType, limit float64) {
		title, _, _ := strings.Cut(titles[other], ",")
		if other == "segments" {
			title = "echo with UDP_SEGMENT"
		}
		add(target{
			what:    fmt.Sprintf("%s, %s: × %s", kind, arrival, title),
			figures: ratios(of("sixacre", arrival, kind), of(other, arrival, kind)),
			limit:   limit,
		})
	}
	for _, kind := range []dhcp6.MessageType{dhcp6.Solicit, dhcp6.Request} {
		for _, arrival := range []string{"singly", "joined"} {
			beside("echo", arrival, kind, 2.2)
			beside("segments", arrival, kind, 0.7)
			beside("kea", arrival, kind, map[dhcp6.MessageType]float64{dhcp6.Solicit: 25, dhcp6.Request: 40}[kind])
			beside("coredhcp", arrival, kind, 15)
		}
		beside("echo", "scattered", kind, 0.8)
	}
	add(target{
		what: "two cores, per second: × one core",
		figures: ratios(e.rates[rateKey("sixacre2", "spread", dhcp6.Request)+" wall"],
			e.rates[rateKey("sixacre", "spread", dhcp6.Request)+" wall"]),
		limit: 1.7,
	})
	add(target{what: "p50 at 5,000/s: × CoreDHCP", figures: ratios(e.p50["sixacre"], e.p50["coredhcp"]), limit: 1, below: true})
	add(target{what: "p99 at 5,000/s: × Kea", figures: ratios(e.p99["sixacre"], e.p99["kea"]), limit: 0.1, below: true})
	add(target{what: "resident octets per reservation", figures: []float64{float64(m.reservations) / float64(e.known)}, limit: 80, below: true})
}

func processor() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.SplitSeq(string(b), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return fmt.Sprintf("%d cores of %s", runtime.NumCPU(), strings.TrimSpace(value))
		}
	}
	return runtime.GOARCH
}

// offloads is what the kernel does for the generator's end of the veth pair, as
// far as it matters here.
func offloads() string {
	out, err := exec.Command("ethtool", "-k", generatorDevice).Output()
	if err != nil {
		return "offloads unknown, for there is no ethtool"
	}
	var told []string
	for line := range strings.SplitSeq(string(out), "\n") {
		switch feature, value, _ := strings.Cut(strings.TrimSpace(line), ":"); feature {
		case "generic-segmentation-offload", "generic-receive-offload", "tx-udp-segmentation", "rx-udp-gro-forwarding":
			told = append(told, feature+strings.TrimSuffix(value, " [requested on]"))
		}
	}
	return strings.Join(told, ", ")
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
