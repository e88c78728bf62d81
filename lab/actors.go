package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The parts of the command line's JSON that the lab reads.
type (
	instanceRecord struct {
		Name string      `json:"name"`
		NICs []nicRecord `json:"nics"`
	}
	nicRecord struct {
		MAC       string         `json:"mac"`
		Pod       string         `json:"pod"`
		Address   netip.Addr     `json:"address"`
		LinkLocal netip.Addr     `json:"linkLocal"`
		Learned   netip.Addr     `json:"learnedLinkLocal"`
		Prefixes  []netip.Prefix `json:"prefixes"`
	}
	prefixRecord struct {
		Prefix   netip.Prefix `json:"prefix"`
		State    string       `json:"state"`
		Instance string       `json:"instance"`
	}
	hostRecord struct {
		Name   string    `json:"name"`
		Seen   time.Time `json:"seen"`
		Report struct {
			Revision int64 `json:"revision"`
			NICs     []struct {
				MAC        string `json:"mac"`
				Device     string `json:"device"`
				Programmed bool   `json:"programmed"`
			} `json:"nics"`
		} `json:"report"`
	}
)

// Ports that the default group of the lab allows, and one that it does not.
const (
	openPort   = 7000
	closedPort = 7001
)

// Members of the group servers allow those of the group members two ports, one of
// them from their prefixes too.
const (
	serversGroup = "servers"
	membersGroup = "members"
	membersPort  = 7100
	prefixesPort = 7101
)

// sixacre runs the command line against the lab's server.
func (l *Lab) sixacre(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, l.binary, args...)
	cmd.Env = append(os.Environ(), "SIXACRE_DATA="+l.dataDir())
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("sixacre %s: %s", strings.Join(args[:min(3, len(args))], " "), oneLine(exit.Stderr, err))
	}
	return string(out), err
}

// query runs a command with -o json and reads what it says into v.
func (l *Lab) query(ctx context.Context, v any, args ...string) error {
	out, err := l.sixacre(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("sixacre %s -o json: %w", strings.Join(args, " "), err)
	}
	return nil
}

// nic returns what the record says of an instance's only NIC.
func (l *Lab) nic(ctx context.Context, instance string) (nicRecord, error) {
	var r instanceRecord
	if err := l.query(ctx, &r, "instance", "get", instance); err != nil {
		return nicRecord{}, err
	}
	if len(r.NICs) != 1 {
		return nicRecord{}, fmt.Errorf("instance %s has %d NICs, not one", instance, len(r.NICs))
	}
	return r.NICs[0], nil
}

func (l *Lab) apiURL() string { return fmt.Sprintf("https://[%s]:5460", serverAddress) }
func (l *Lab) caFile() string { return filepath.Join(l.dataDir(), "ca.crt") }

func (l *Lab) startServer(ctx context.Context) error {
	err := l.start(serverBox, serverBox, "", l.binary, "server", "--data", l.dataDir(),
		"--api", fmt.Sprintf("[%s]:5460", serverAddress), "--dhcp6", fmt.Sprintf("[%s]:547", serverAddress))
	if err != nil {
		return err
	}
	return l.serverReady(ctx)
}

// serverReady waits until the server answers.
func (l *Lab) serverReady(ctx context.Context) error {
	return until(ctx, 30*time.Second, func() error {
		if !l.alive(serverBox) {
			return fmt.Errorf("the server has ended: %s", l.lastWords(serverBox))
		}
		_, err := l.sixacre(ctx, "pod", "list")
		return err
	})
}

// register tells the server of everything that is in the lab.
func (l *Lab) register(ctx context.Context) error {
	var commands [][]string
	for _, p := range pods {
		create := []string{"pod", "create", p.name, "--link-prefix", p.link.String(), "--pool", p.pool + "=60",
			"--addressing", p.addressing, "--dns", "2001:db8:f::53", "--domain", "lab.example"}
		if p.valid > 0 {
			create = append(create, "--valid-lifetime", p.valid.String(), "--preferred-lifetime", p.preferred.String())
		}
		for _, r := range p.routers {
			create = append(create, "--relay", r.uplink.String(), "--router-link-local", r.linkLocal.String())
		}
		create = append(create, p.flags...)
		commands = append(commands, create)
	}
	for _, protocol := range []string{"tcp", "udp"} {
		commands = append(commands, []string{"group", "rule", "add", "default", "--direction", "in", "--protocol", protocol, "--ports", fmt.Sprint(openPort)})
	}
	rule := func(group string, more ...string) []string {
		return append([]string{"group", "rule", "add", group, "--direction", "in"}, more...)
	}
	commands = append(commands,
		rule("default", "--protocol", "icmpv6", "--icmp-type", fmt.Sprint(icmpEchoRequest), "--remote", pod2.routers[0].outside.String()+"/128"),
		[]string{"group", "create", membersGroup}, []string{"group", "create", serversGroup},
		rule(serversGroup, "--protocol", "udp", "--ports", fmt.Sprint(membersPort), "--remote", "group:"+membersGroup),
		rule(serversGroup, "--protocol", "udp", "--ports", fmt.Sprint(prefixesPort), "--remote", "group:"+membersGroup, "--include-prefixes"))
	for _, args := range commands {
		if _, err := l.sixacre(ctx, args...); err != nil {
			return err
		}
	}
	for _, h := range hosts {
		if err := l.token(ctx, h.name, "host", "create", h.name); err != nil {
			return err
		}
	}
	for _, p := range pods {
		if p.alone {
			continue
		}
		for _, r := range p.routers {
			if err := l.token(ctx, r.name, "token", "create", r.name, "--role", "router", "--pod", p.name); err != nil {
				return err
			}
		}
	}
	for _, g := range registered() {
		if err := l.createInstance(ctx, g, g.name); err != nil {
			return err
		}
	}
	return nil
}

// createInstance registers a guest, in the groups if there are any.
func (l *Lab) createInstance(ctx context.Context, g guest, name string, groups ...string) error {
	args := []string{"instance", "create", name, "--pod", g.pod.name, "--mac", g.mac, "--prefixes", fmt.Sprint(g.prefixes)}
	if g.tap != "" {
		args = append(args, "--host", g.host, "--device", g.tap)
	}
	for _, group := range groups {
		args = append(args, "--group", group)
	}
	_, err := l.sixacre(ctx, args...)
	return err
}

func (l *Lab) stateDir(box string) string { return filepath.Join(l.dir, "state", box) }

func (l *Lab) tokenFile(box string) string { return filepath.Join(l.dir, box+".token") }

// token keeps the token that a command prints for the program of a box.
func (l *Lab) token(ctx context.Context, box string, command ...string) error {
	out, err := l.sixacre(ctx, command...)
	if err != nil {
		return err
	}
	return os.WriteFile(l.tokenFile(box), []byte(out), 0o600)
}

// startActors starts the routers and the agents, and returns when those have
// programmed every tap.
func (l *Lab) startActors(ctx context.Context) error {
	for _, p := range pods {
		for _, r := range p.routers {
			args := []string{l.binary, "router", "--pod", p.name, "--link", "pod", "--upstream", serverAddress.String(), "--state", l.stateDir(r.name)}
			if p.alone {
				args = append(args, "--pool", p.pool+"=60")
			} else {
				args = append(args, "--server", l.apiURL(), "--ca", l.caFile(), "--token-file", l.tokenFile(r.name))
			}
			if err := l.start(r.name, r.name, "", args...); err != nil {
				return err
			}
		}
	}
	for _, h := range hosts {
		args := []string{l.binary, "agent", "--server", l.apiURL(), "--ca", l.caFile(), "--host", h.name,
			"--token-file", l.tokenFile(h.name), "--state", l.stateDir(h.name), "--taps", taps}
		for _, p := range h.pods {
			args = append(args, "--bridge", p.bridge)
		}
		if err := l.start(h.agent, h.name, "", args...); err != nil {
			return err
		}
	}
	for _, g := range registered() {
		if err := l.programmed(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

// taps is the pattern of the taps' names.
const taps = "tap*"

// programmed waits until the guest's agent says that the kernel filters for it.
func (l *Lab) programmed(ctx context.Context, g guest) error {
	return until(ctx, 20*time.Second, func() error {
		agent := hostNamed(g.host).agent
		if !l.alive(agent) {
			return fmt.Errorf("%s has ended: %s", agent, l.lastWords(agent))
		}
		var h hostRecord
		if err := l.query(ctx, &h, "host", "get", g.host); err != nil {
			return err
		}
		for _, n := range h.Report.NICs {
			if n.MAC == g.mac && n.Programmed {
				return nil
			}
		}
		return fmt.Errorf("the agent does not report %s as programmed: %s", g.name, l.lastWords(agent))
	})
}
