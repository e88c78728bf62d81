package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The load generator plays a relay and the clients of a pod of its own. It can
// insert no option as a relay, so that its pod takes a client's DUID for its
// identity.
const (
	loadBox  = "load"
	loadPod  = "load"
	loadPool = "2001:db8:7000::/40"
	// loadClients have the MACs from loadMAC on.
	loadClients = 50
	loadMAC     = "06:01:00:00:00:00"
)

var (
	loadLink  = netip.MustParsePrefix("2001:db8:100:4::/64")
	loadCore  = netip.MustParseAddr("2001:db8:100:4::1")
	loadRelay = netip.MustParseAddr("2001:db8:100:4::2")
)

func loadChecks() []check {
	return []check{
		{"perfdhcp", "Kea's load generator gets an answer to each message, and takes every lease", (*Lab).checkPerfdhcp},
	}
}

// How many exchanges perfdhcp begins in a second, and of how many clients it has
// leases renewed and released in that time.
const (
	perfdhcpRate     = 200
	perfdhcpRenews   = 50
	perfdhcpReleases = 50
	perfdhcpTotal    = 600
)

func (l *Lab) checkPerfdhcp(ctx context.Context) (seen string, err error) {
	defer func() { err = errors.Join(err, l.removeLoad(context.WithoutCancel(ctx))) }()
	if err := l.removeLoad(ctx); err != nil { // of a check that was killed
		return "", err
	}
	if err := l.registerLoad(ctx); err != nil {
		return "", err
	}
	// -A 1 makes it a relay, -d says when a message counts as lost, -W how many
	// microseconds it waits for the last answers.
	out, err := l.exec(ctx, loadBox, "perfdhcp", "-6", "-A", "1", "-l", "eth0", "-L", strconv.Itoa(serverPort),
		"-e", "address-and-prefix", "-b", "mac="+loadMAC, "-R", strconv.Itoa(loadClients),
		"-r", strconv.Itoa(perfdhcpRate), "-f", strconv.Itoa(perfdhcpRenews), "-F", strconv.Itoa(perfdhcpReleases),
		"-n", strconv.Itoa(perfdhcpTotal), "-d", "5", "-W", "1000000", serverAddress.String())
	report, unread := readPerfdhcp(out)
	if unread != nil {
		return "", errors.Join(unread, err)
	}
	var sent []string
	for _, exchange := range report {
		if exchange.sent == 0 || exchange.answers != exchange.sent || exchange.faults > 0 {
			return "", fmt.Errorf("%s: %d sent, %d answered, %d faults", exchange.name, exchange.sent, exchange.answers, exchange.faults)
		}
		sent = append(sent, fmt.Sprintf("%s %d", exchange.name, exchange.sent))
	}
	if err != nil {
		return "", fmt.Errorf("perfdhcp: %w", err)
	}
	return fmt.Sprintf("%d clients, %d exchanges/s: %s; all answered, every lease taken", loadClients, perfdhcpRate, strings.Join(sent, ", ")), nil
}

func (l *Lab) registerLoad(ctx context.Context) error {
	if _, err := l.sixacre(ctx, "pod", "create", loadPod, "--link-prefix", loadLink.String(), "--pool", loadPool+"=60",
		"--relay", loadRelay.String(), "--identify", "duid"); err != nil {
		return err
	}
	for n := range loadClients {
		mac := mustMAC(loadMAC)
		mac[5] += byte(n)
		if _, err := l.sixacre(ctx, "instance", "create", fmt.Sprintf("load-%d", n), "--pod", loadPod, "--mac", mac.String()); err != nil {
			return err
		}
	}
	return nil
}

// removeLoad removes what there is of it.
func (l *Lab) removeLoad(ctx context.Context) error {
	if _, err := l.sixacre(ctx, "pod", "get", loadPod); err != nil {
		return nil
	}
	var all []instanceRecord
	if err := l.query(ctx, &all, "instance", "list"); err != nil {
		return err
	}
	for _, i := range all {
		if len(i.NICs) == 1 && i.NICs[0].Pod == loadPod {
			if _, err := l.sixacre(ctx, "instance", "delete", i.Name); err != nil {
				return err
			}
		}
	}
	_, err := l.sixacre(ctx, "pod", "delete", loadPod)
	return err
}

// exchange is what perfdhcp says of one kind of message and its answers.
type exchange struct {
	name          string // such as SOLICIT-ADVERTISE
	sent, answers int
	faults        int // drops, leases that it would not take, and answers that nobody asked for
	orphans       int
}

// readPerfdhcp reads the statistics that perfdhcp ends with.
func readPerfdhcp(out string) ([]exchange, error) {
	var all []exchange
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		key, value, found := strings.Cut(lines.Text(), ": ")
		if name, ok := strings.CutSuffix(value, "***"); found && ok && strings.HasPrefix(key, "***Statistics for") {
			all = append(all, exchange{name: name})
			continue
		}
		number, err := strconv.Atoi(value)
		if !found || err != nil {
			continue // what it says of rates and times
		}
		if len(all) == 0 {
			if number > 0 && key == "Malformed packets" {
				return nil, fmt.Errorf("perfdhcp got %d malformed packets", number)
			}
			continue
		}
		switch e := &all[len(all)-1]; key {
		case "sent packets":
			e.sent = number
		case "received packets":
			e.answers = number
		case "orphans":
			e.orphans = number
		case "drops", "rejected leases":
			e.faults += number
		}
	}
	if len(all) != 4 {
		return nil, fmt.Errorf("perfdhcp speaks of %d kinds of exchange, not of 4", len(all))
	}
	// It looks for the question to each Reply among its Requests, then its Renews,
	// then its Releases, and counts an orphan at each that has it not.
	later := 0
	for i := len(all) - 1; i > 0; i-- {
		all[i].faults += all[i].orphans - later
		later += all[i].answers
	}
	all[0].faults += all[0].orphans
	return all, nil
}
