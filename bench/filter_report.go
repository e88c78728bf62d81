package main

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"
)

// report prints everything as Markdown.
func (e *filtering) report(w io.Writer, rounds int) {
	fmt.Fprintf(w, "%s, Linux %s, %s; %d rules for each NIC; %d rounds.\n", processor(), kernel(), runtime.Version(), len(filterRules), rounds)
	for _, s := range e.skipped {
		fmt.Fprintf(w, "Not measured: %s.\n", s)
	}
	if rounds > 0 {
		e.costTable(w)
	}
	if e.resync == nil {
		return
	}
	e.times.table(w)
	e.passageTable(w)
	e.targetTable(w)
}

// cost is what a packet cost in each round.
func (e *filtering) cost(ruleset string, nics int, class string) []float64 {
	return e.costs[costKey{ruleset, nics, class}]
}

func (e *filtering) costTable(w io.Writer) {
	var counts []string
	for _, n := range e.nics {
		counts = append(counts, fmt.Sprint(n))
	}
	fmt.Fprintf(w, "\n| CPU ns a packet, medians, with %s NICs |", strings.Join(counts, " / "))
	rule := "\n| --- |"
	for _, c := range e.classes {
		fmt.Fprintf(w, " %s |", c.name)
		rule += " --- |"
	}
	fmt.Fprintln(w, rule)
	for _, s := range e.rulesets {
		if len(e.cost(s.name, e.nics[0], e.classes[0].name)) == 0 {
			continue
		}
		fmt.Fprintf(w, "| %s |", s.title)
		for _, c := range e.classes {
			var medians []string
			for _, n := range e.nics {
				medians = append(medians, fmt.Sprintf("%.0f", spreadOf(e.cost(s.name, n, c.name)).median))
			}
			fmt.Fprintf(w, " %s |", strings.Join(medians, " / "))
		}
		fmt.Fprintln(w)
	}
}

// milliseconds are durations as figures.
func milliseconds(d []time.Duration) []float64 {
	out := make([]float64, len(d))
	for i := range d {
		out[i] = d[i].Seconds() * 1000
	}
	return out
}

const mebi = 1 << 20

func (t *times) table(w io.Writer) {
	fmt.Fprintf(w, "\n| with %d NICs of %d rules | compiled and in the kernel, ms | told the agent until it reports it in force, ms |\n| --- | --- | --- |\n", loadedNICs, len(filterRules))
	cell := func(d []time.Duration) string {
		if len(d) == 0 {
			return ""
		}
		s := spreadOf(milliseconds(d))
		return fmt.Sprintf("%.1f (%.1f to %.1f)", s.median, s.low, s.high)
	}
	fmt.Fprintf(w, "| all of it, into an empty kernel | %s | |\n", cell(t.empty))
	fmt.Fprintf(w, "| all of it, over itself | %s | |\n", cell(t.resync))
	for _, c := range changeKinds {
		fmt.Fprintf(w, "| %s more | %s | %s |\n", c.name, cell(t.kernel[c.name]), cell(t.through[c.name]))
	}
	if t.peak > 0 {
		fmt.Fprintf(w, "\nThe agent, with that and a group of %d: %d MiB resident, %d at most so far.\n", manyPeers, t.resident/mebi, t.peak/mebi)
	}
}

func (e *filtering) passageTable(w io.Writer) {
	fmt.Fprintf(w, "\n| packets lost, or passed though forbidden, of those sent | while all was set anew %d times | while the agent was killed and started %d times |\n| --- | --- | --- |\n", e.syncs, restarts)
	cell := func(all map[string]passage, c class) string {
		if all == nil {
			return ""
		}
		return fmt.Sprintf("%d of %d", all[c.name].wrong(c), all[c.name].sent)
	}
	for _, c := range steady {
		fmt.Fprintf(w, "| %s | %s | %s |\n", c.name, cell(e.resync, c), cell(e.restart, c))
	}
}

// targetTable holds what was measured against what is wanted.
func (e *filtering) targetTable(w io.Writer) {
	fmt.Fprintf(w, "\n| target | median | rounds | wanted | |\n| --- | --- | --- | --- | --- |\n")
	add := func(what string, figures []float64, limit float64) {
		fmt.Fprintln(w, target{what: what, figures: figures, limit: limit, below: true}.row())
	}
	beside := func(other, title string, c class, limit float64) {
		add(fmt.Sprintf("%s, %d NICs: × %s", c.name, comparedNICs, title),
			ratios(e.cost("sixacre", comparedNICs, c.name), e.cost(other, comparedNICs, c.name)), limit)
	}
	for _, c := range classes {
		if !c.fresh {
			beside("bridge", "the plain bridge", c, 2.3)
		}
	}
	for _, c := range classes {
		beside("cloudstack", "CloudStack's chains", c, 0.65)
		beside("neutron", "Neutron's chains", c, 0.2)
	}
	for _, c := range classes {
		own, bridge := e.unevenness("sixacre", c), e.unevenness("bridge", c)
		add(fmt.Sprintf("%s: dearest number of NICs × cheapest", c.name), own, 1.1+spreadOf(bridge).median-1)
	}
	add("full load, ms", milliseconds(append(e.times.empty, e.times.resync...)), 500)
	for _, c := range changeKinds {
		add(c.name+" more, ms", milliseconds(e.times.kernel[c.name]), 5)
		add(c.name+" more, through the agent, ms", milliseconds(e.times.through[c.name]), 5)
	}
	if e.times.peak > 0 {
		add("the agent's memory at most, MiB", []float64{float64(e.times.peak) / mebi}, 64)
	}
	var wrong uint64
	for _, all := range []map[string]passage{e.resync, e.restart} {
		for _, c := range steady {
			wrong += all[c.name].wrong(c)
		}
	}
	add("packets lost or wrongly passed", []float64{float64(wrong)}, 0)
}

// unevenness is how much dearer a packet of the class is with the worst number
// of NICs than with the best, by medians: one figure.
func (e *filtering) unevenness(ruleset string, c class) []float64 {
	var medians []float64
	for _, n := range e.nics {
		medians = append(medians, spreadOf(e.cost(ruleset, n, c.name)).median)
	}
	s := spreadOf(medians)
	if s.low == 0 {
		return nil
	}
	return []float64{s.high / s.low}
}
