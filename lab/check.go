package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// check is one thing that must be so. It returns what was seen.
type check struct {
	name string
	what string
	run  func(*Lab, context.Context) (seen string, err error)
}

// aside is how the names of the checks begin that wait for a client's timers most
// of their time, in a pod of their own: they run beside all others.
const aside = "lease-"

// checks are all of them in the order in which they run.
func checks() []check {
	return slices.Concat(pictureChecks(), spoofChecks(), inboundChecks(), ruleChecks(), identityChecks(), shownChecks(), dhcpChecks(), recordChecks(), restartChecks(), lifeChecks(), releaseChecks(), loadChecks(), leaseChecks())
}

// List prints the names of all checks and what each is about.
func List(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, c := range checks() {
		fmt.Fprintf(w, "%s\t%s\n", c.name, c.what)
	}
	return w.Flush()
}

// Check runs the named checks, or those whose name matches, or all, and prints
// a line for each.
func (l *Lab) Check(ctx context.Context, match string, names []string) error {
	chosen, err := choose(match, names)
	if err != nil {
		return err
	}
	unlock, err := l.open()
	switch {
	case errors.Is(err, errNoLab):
		return fmt.Errorf("there is no lab at %s: use 'sixacre lab up'", l.dir)
	case err != nil:
		return err
	}
	defer unlock()
	if !l.state.Ready {
		return fmt.Errorf("lab %s was left half built: use 'sixacre lab down', then 'sixacre lab up'", l.name)
	}
	began, failed := time.Now(), 0
	var running sync.WaitGroup
	defer running.Wait() // an interrupted one cleans up
	outcomes := make([]chan outcome, len(chosen))
	for i, c := range chosen {
		if !strings.HasPrefix(c.name, aside) {
			continue
		}
		outcomes[i] = make(chan outcome, 1)
		running.Go(func() {
			seen, err := c.run(l, ctx)
			outcomes[i] <- outcome{seen, err}
		})
	}
	for i, c := range chosen {
		var out outcome
		if outcomes[i] != nil {
			out = <-outcomes[i]
		} else {
			out.seen, out.err = c.run(l, ctx)
		}
		seen, err := out.seen, out.err
		if ctx.Err() != nil {
			return ctx.Err()
		}
		result := "ok  "
		if err != nil {
			failed++
			result, seen = "FAIL", strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		fmt.Fprintf(l.out, "%s %-22s %s\n", result, c.name, seen)
	}
	took := time.Since(began).Seconds()
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed in %.1f s; logs are in %s", failed, len(chosen), took, l.logDir())
	}
	l.sayf("all %d checks passed in %.1f s", len(chosen), took)
	return nil
}

type outcome struct {
	seen string
	err  error
}

func choose(match string, names []string) ([]check, error) {
	pattern, err := regexp.Compile(match)
	if err != nil {
		return nil, fmt.Errorf("--run %q is not a regular expression: %w", match, err)
	}
	for _, name := range names {
		if !slices.ContainsFunc(checks(), func(c check) bool { return c.name == name }) {
			return nil, fmt.Errorf("there is no check %q: 'sixacre lab check --list' has them all", name)
		}
	}
	var chosen []check
	for _, c := range checks() {
		if (len(names) == 0 || slices.Contains(names, c.name)) && pattern.MatchString(c.name) {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no check matches %q: 'sixacre lab check --list' has them all", match)
	}
	return chosen, nil
}
