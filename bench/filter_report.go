package main

import (
	"fmt"
	"io"
	"runtime"
	"strings"
)

// report prints everything as Markdown.
func (e *filtering) report(w io.Writer, rounds int) {
	fmt.Fprintf(w, "%s, Linux %s, %s; %d rules for each NIC; %d rounds.\n", processor(), kernel(), runtime.Version(), rulesPerNIC, rounds)
	for _, s := range e.skipped {
		fmt.Fprintf(w, "Not measured, %s.\n", s)
	}
	e.costTable(w)
	if len(e.resync) > 0 {
		fmt.Println(e.times, e.resync, e.restart)
	}
}

func (e *filtering) costTable(w io.Writer) {
	fmt.Fprintf(w, "\n| CPU ns a packet, N = %s NICs |", strings.Trim(strings.ReplaceAll(fmt.Sprint(e.nics), " ", " / "), "[]"))
	for _, c := range e.classes {
		fmt.Fprintf(w, " %s |", c.name)
	}
	fmt.Fprint(w, "\n| --- |")
	for range e.classes {
		fmt.Fprint(w, " --- |")
	}
	fmt.Fprintln(w)
	for _, s := range e.rulesets {
		if len(e.costs[costKey{s.name, e.nics[0], e.classes[0].name}]) == 0 {
			continue
		}
		fmt.Fprintf(w, "| %s |", s.title)
		for _, c := range e.classes {
			for i, n := range e.nics {
				if i > 0 {
					fmt.Fprint(w, " /")
				}
				fmt.Fprintf(w, " %.0f", spreadOf(e.costs[costKey{s.name, n, c.name}]).median)
			}
			fmt.Fprint(w, " |")
		}
		fmt.Fprintln(w)
	}
}
