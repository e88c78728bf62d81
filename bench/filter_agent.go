package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sixacre/sixacre"
)

// authority stands for the server that the agent on a rig follows: it streams the
// view and takes reports.
type authority struct {
	http    *http.Server
	url     string
	ca      string // file
	token   string // file
	watches chan chan sixacre.View
	reports chan sixacre.Report
}

// newAuthority listens in the rig's namespace. Its files are in the directory.
func (r *rig) newAuthority(ctx context.Context, dir string) (*authority, error) {
	a := &authority{
		ca:      filepath.Join(dir, "ca.crt"),
		token:   filepath.Join(dir, "token"),
		watches: make(chan chan sixacre.View, 1),
		reports: make(chan sixacre.Report, 64),
	}
	certificate, text, err := selfSigned()
	if err != nil {
		return nil, err
	}
	err = errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(a.ca, text, 0o600), os.WriteFile(a.token, []byte("none"), 0o600))
	if err != nil {
		return nil, err
	}
	var listener net.Listener
	err = r.inside(func() error {
		if err := ip(ctx, "link set lo up\n"); err != nil {
			return err
		}
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		return nil, err
	}
	a.url = "https://" + listener.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/watch", a.watch)
	mux.HandleFunc("POST /v1/hosts/{name}/report", func(w http.ResponseWriter, q *http.Request) {
		var report sixacre.Report
		if err := json.NewDecoder(q.Body).Decode(&report); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		a.reports <- report
	})
	a.http = &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}
	go a.http.ServeTLS(listener, "", "")
	return a, nil
}

// watch streams what is sent to the channel that it hands out.
func (a *authority) watch(w http.ResponseWriter, q *http.Request) {
	views := make(chan sixacre.View, 8)
	select {
	case a.watches <- views:
	case <-q.Context().Done():
		return
	}
	alive := time.NewTicker(time.Second)
	defer alive.Stop()
	for {
		var err error
		select {
		case <-q.Context().Done():
			return
		case <-alive.C:
			_, err = w.Write([]byte("\n"))
		case v := <-views:
			err = json.NewEncoder(w).Encode(v)
		}
		if err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
	}
}

// inForce waits for the agent's report that the view with that revision is in
// force for so many NICs.
func (a *agent) inForce(revision int64, nics int) error {
	late := time.After(30 * time.Second)
	for {
		select {
		case r := <-a.server.reports:
			if r.Revision >= revision && programmed(r) == nics {
				return nil
			}
		case <-a.ended:
			return fmt.Errorf("the agent ended: %s", lastLines(a.log.String()))
		case <-late:
			a.stop(syscall.SIGKILL)
			return fmt.Errorf("the agent did not report revision %d within 30 s: %s", revision, lastLines(a.log.String()))
		}
	}
}

// programmed counts the NICs whose filter is in force.
func programmed(r sixacre.Report) int {
	n := 0
	for _, nic := range r.NICs {
		if nic.Programmed {
			n++
		}
	}
	return n
}

// agent is a running 'sixacre agent'.
type agent struct {
	server  *authority
	process *os.Process
	ended   chan struct{}
	log     bytes.Buffer
	views   chan sixacre.View // what the server has to tell it
}

// startAgent starts the program on the rig. It follows the authority when that has
// handed out its views.
func (r *rig) startAgent(ctx context.Context, program string, from *authority, dir string) (*agent, error) {
	a := &agent{server: from, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(a.ended)
		err := r.inside(func() error {
			// The child dies with this thread: it waits here.
			if err := everyProcessor(); err != nil {
				return err
			}
			cmd := exec.CommandContext(ctx, program, "agent", "--server", from.url, "--ca", from.ca,
				"--host", filterNIC(0).Host, "--token-file", from.token, "--state", filepath.Join(dir, "state"), "--taps", string(filterTaps[0]))
			cmd.Stderr = &a.log
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := cmd.Start(); err != nil {
				return err
			}
			a.process = cmd.Process
			started <- nil
			return cmd.Wait()
		})
		select {
		case started <- err:
		default:
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	select {
	case a.views = <-from.watches:
		return a, nil
	case <-a.ended:
		return nil, fmt.Errorf("the agent ended: %s", lastLines(a.log.String()))
	case <-time.After(10 * time.Second):
		a.stop(syscall.SIGKILL)
		return nil, fmt.Errorf("the agent did not ask for its view within 10 s: %s", lastLines(a.log.String()))
	}
}

// stop ends the agent and waits for it.
func (a *agent) stop(by syscall.Signal) {
	a.process.Signal(by)
	<-a.ended
}

// resident is how many octets of the agent are in memory, and how many there were
// at most.
func (a *agent) resident() (now, peak int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.process.Pid))
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		into := map[string]*int{"VmRSS": &now, "VmHWM": &peak}[name]
		if into != nil {
			fmt.Sscan(value, into)
			*into <<= 10
		}
	}
	return now, peak, err
}

// selfSigned makes a certificate for the loopback address that is its own CA.
func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, text, nil
}
