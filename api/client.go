package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sixacre/sixacre"
)

// SocketName is the file name of the unix socket in the server's data directory.
const SocketName = "sixacre.sock"

// Endpoint says where a server is and with which credential to go there: either
// Data, on the server's own machine, or the others.
type Endpoint struct {
	Data      string // the server's data directory
	Server    string // URL, https://[::1]:5460
	CAFile    string // CA of the server's certificate; empty for the system's
	Token     string // the secret
	TokenFile string // file that holds it
}

// Client speaks to a server.
type Client struct {
	base   string
	where  string // for messages
	header http.Header
	http   *http.Client
}

// Dial prepares a client. It connects at the first request.
func Dial(e Endpoint) (*Client, error) {
	transport := &http.Transport{ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 4}
	c := &Client{header: http.Header{}, http: &http.Client{Transport: transport}}
	if e.Server == "" {
		socket := filepath.Join(e.Data, SocketName)
		c.base, c.where = "http://sixacre", socket
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
		return c, nil
	}
	u, err := url.Parse(e.Server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, sixacre.Errorf(sixacre.Invalid, "server %q is not an https URL: write it as https://[::1]:5460", e.Server)
	}
	c.base, c.where = strings.TrimSuffix(u.String(), "/"), u.Host
	if e.TokenFile != "" {
		b, err := os.ReadFile(e.TokenFile)
		if err != nil {
			return nil, err
		}
		e.Token = strings.TrimSpace(string(b))
	}
	if e.Token != "" {
		c.header.Set("Authorization", "Bearer "+e.Token)
	}
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS13}
	if e.CAFile != "" {
		b, err := os.ReadFile(e.CAFile)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(b) {
			return nil, sixacre.Errorf(sixacre.Invalid, "ca file %s holds no certificate", e.CAFile)
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return c, nil
}

// Do sends in, unless it is nil, as JSON to the path under the server's URL and
// decodes the answer into out, unless that is nil.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	req.Header = c.header.Clone()
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, sixacre.Errorf(sixacre.Unavailable, "the server at %s did not answer: %s", c.where, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	refused := &sixacre.Error{}
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(refused) != nil || refused.Message == "" {
		return nil, sixacre.Errorf(sixacre.Unavailable, "the server at %s answered %s", c.where, resp.Status)
	}
	return nil, refused
}

// Report says what the agent of a host sees of its NICs.
func (c *Client) Report(ctx context.Context, host string, r sixacre.Report) error {
	return c.Do(ctx, http.MethodPost, "/v1/hosts/"+url.PathEscape(host)+"/report", r, nil)
}

// LearnLinkLocal asks for a link-local address of a NIC on the host beside the
// predicted one. A refusal is a [sixacre.Error].
func (c *Client) LearnLinkLocal(ctx context.Context, host string, r sixacre.LinkLocalRequest) error {
	return c.Do(ctx, http.MethodPost, "/v1/hosts/"+url.PathEscape(host)+"/link-locals", r, nil)
}

// silence is after how long without a sign of life a watch is begun anew.
const silence = 3 * heartbeat

// Watch calls f with the whole view that the client's token reaches, and again
// after every change. It connects anew by itself, and returns when the context
// ends.
func (c *Client) Watch(ctx context.Context, f func(sixacre.View)) error {
	const least = 100 * time.Millisecond
	for retry := least; ; retry = min(2*retry, 10*time.Second) {
		err := c.watch(ctx, func(v sixacre.View) {
			retry = least // it was there and answered
			f(v)
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		slog.Warn("watching the server anew", "after", retry, "reason", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retry):
		}
	}
}

// maxView bounds one line of a watch, in octets.
const maxView = 256 << 20

func (c *Client) watch(ctx context.Context, f func(sixacre.View)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(fmt.Errorf("no sign of life for %s", silence)) })
	defer quiet.Stop()
	resp, err := c.send(ctx, http.MethodGet, "/v1/watch", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var view sixacre.View
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxView)
	for lines.Scan() {
		quiet.Reset(silence)
		if len(lines.Bytes()) == 0 {
			continue
		}
		var change sixacre.View
		if err := json.Unmarshal(lines.Bytes(), &change); err != nil {
			return err
		}
		view = view.Merge(change)
		f(view)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return errors.New("the server ended it")
}
