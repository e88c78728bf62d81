package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/api"
	"github.com/sixacre/sixacre/control"
	"github.com/sixacre/sixacre/etcd"
)

// served is a server with both of its listeners.
type served struct {
	t     *testing.T
	dir   string
	url   string
	admin *api.Client // over the socket
}

func serve(t *testing.T) *served {
	t.Helper()
	dir := t.TempDir()
	store, err := etcd.Embed(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctrl := control.New(store, time.Now, func() time.Duration { return 0 })
	views := control.NewViews()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		store.Watch(ctx, func(full bool, events []sixacre.Event, revision int64) {
			ctrl.Apply(full, events, revision)
			views.Apply(full, events, revision)
		})
	}()
	server := api.New(ctrl, views, "test", prometheus.NewRegistry(), func() error { return errors.New("not ready for a test") })

	authority, err := api.OpenAuthority(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	local, err := net.Listen("unix", filepath.Join(dir, api.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	network, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	base := func(net.Listener) context.Context { return ctx }
	servers := []*http.Server{{Handler: server.Local(), BaseContext: base}, {Handler: server.Network(), BaseContext: base}}
	go servers[0].Serve(local)
	go servers[1].Serve(authority.Listen(network))
	t.Cleanup(func() {
		cancel()
		for _, s := range servers {
			s.Close()
		}
		<-ended
		store.Close()
	})
	s := &served{t: t, dir: dir, url: "https://" + network.Addr().String()}
	s.admin = s.dial(api.Endpoint{Data: dir})
	return s
}

func (s *served) dial(e api.Endpoint) *api.Client {
	s.t.Helper()
	c, err := api.Dial(e)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// with is a client over TLS that shows the token.
func (s *served) with(secret string) *api.Client {
	return s.dial(api.Endpoint{Server: s.url, CAFile: filepath.Join(s.dir, "ca.crt"), Token: secret})
}

func (s *served) post(path string, in, out any) {
	s.t.Helper()
	if err := s.admin.Do(s.t.Context(), "POST", path, in, out); err != nil {
		s.t.Fatal(err)
	}
}

// furnish makes two pods, two hosts and an instance on each, and returns the
// secrets of hv1, of a router of pod1 and of an admin.
func (s *served) furnish() (host, router, admin string) {
	s.t.Helper()
	var made api.HostCreated
	for i := 1; i <= 2; i++ {
		pod := sixacre.Pod{
			Name: fmt.Sprintf("pod%d", i), LinkPrefix: netip.MustParsePrefix(fmt.Sprintf("2001:db8:100:%d::/64", i)),
			Pools: []sixacre.Pool{{Prefix: netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d000::/40", i))}},

			RouterLinkLocals: []netip.Addr{netip.MustParseAddr("fe80::1")},
		}
		s.post("/v1/pods", pod, nil)
		s.post("/v1/hosts", sixacre.Host{Name: fmt.Sprintf("hv%d", i)}, &made)
		if i == 1 {
			host = made.Token
		}
		s.post("/v1/instances", control.Deployment{Name: fmt.Sprintf("i-%d", i), NICs: []control.NICDeployment{{
			NIC: sixacre.NIC{Pod: pod.Name, Host: fmt.Sprintf("hv%d", i), MAC: sixacre.MAC{6, 0, 0, 0, 0, byte(i)}},
		}}}, nil)
	}
	var token api.TokenCreated
	s.post("/v1/tokens", sixacre.Token{Name: "r1", Role: sixacre.RoleRouter, Pod: "pod1"}, &token)
	router = token.Secret
	s.post("/v1/tokens", sixacre.Token{Name: "ops", Role: sixacre.RoleAdmin}, &token)

	// The views follow the store by watch. They know all of it when they know the
	// last instance on its host.
	last := sixacre.Report{NICs: []sixacre.NICReport{{Pod: "pod2", MAC: sixacre.MAC{6, 0, 0, 0, 0, 2}}}}
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := s.admin.Do(s.t.Context(), "POST", "/v1/hosts/hv2/report", last, nil)
		if err == nil {
			return host, router, token.Secret
		}
		if time.Now().After(deadline) {
			s.t.Fatal(err)
		}
	}
}

func TestWhoReachesWhat(t *testing.T) {
	s := serve(t)
	host, router, admin := s.furnish()
	clients := map[string]*api.Client{
		"socket": s.admin, "admin": s.with(admin), "host": s.with(host), "router": s.with(router),
		"nobody": s.with(""), "forged": s.with(host + "x"),
	}
	own := sixacre.Report{NICs: []sixacre.NICReport{{Pod: "pod1", MAC: sixacre.MAC{6, 0, 0, 0, 0, 1}, Programmed: true}}}
	foreign := sixacre.Report{NICs: []sixacre.NICReport{{Pod: "pod2", MAC: sixacre.MAC{6, 0, 0, 0, 0, 2}, Programmed: true}}}
	takes := func(n byte) sixacre.LinkLocalRequest {
		return sixacre.LinkLocalRequest{Pod: fmt.Sprintf("pod%d", n), MAC: sixacre.MAC{6, 0, 0, 0, 0, n}, Address: netip.MustParseAddr("fe80::7217")}
	}
	for _, c := range []struct {
		method, path string
		in           any
		allowed      string
	}{
		{"GET", "/v1/pods", nil, "socket admin"},
		{"GET", "/v1/instances", nil, "socket admin"},
		{"GET", "/v1/instances/i-1", nil, "socket admin"},
		{"GET", "/v1/instances/i-1/sightings", nil, "socket admin"},
		{"GET", "/v1/tokens", nil, "socket admin"},
		{"GET", "/v1/hosts/hv1", nil, "socket admin"},
		{"GET", "/v1/whois?q=06:00:00:00:00:01", nil, "socket admin"},
		{"POST", "/v1/groups/default/rules", sixacre.Rule{Direction: sixacre.In, Protocol: sixacre.AnyProtocol}, "socket admin"},
		{"POST", "/v1/hosts/hv1/report", own, "socket admin host"},
		{"POST", "/v1/hosts/hv1/report", foreign, ""},
		{"POST", "/v1/hosts/hv2/report", foreign, "socket admin"},
		{"POST", "/v1/hosts/hv1/link-locals", takes(1), "socket admin host"},
		{"POST", "/v1/hosts/hv1/link-locals", takes(2), ""},
		{"POST", "/v1/hosts/hv2/link-locals", takes(2), "socket admin"},
		{"DELETE", "/v1/peers/none", nil, ""},
	} {
		for name, client := range clients {
			err := client.Do(t.Context(), c.method, c.path, c.in, nil)
			if allowed := strings.Contains(c.allowed, name); allowed != (err == nil) {
				t.Errorf("%s by %s: %v, want allowed = %v", c.method+" "+c.path, name, err, allowed)
			}
			if (name == "nobody" || name == "forged") && sixacre.CodeOf(err) != sixacre.Denied {
				t.Errorf("%s by %s: %v, want a denial", c.path, name, err)
			}
		}
	}
	if err := s.with(host).LearnLinkLocal(t.Context(), "hv1", takes(1)); err != nil {
		t.Error(err)
	}
	for address, want := range map[string]sixacre.Code{"2001:db8::1": sixacre.Invalid, "fe80::7218": sixacre.Conflict} {
		r := takes(1)
		r.Address = netip.MustParseAddr(address)
		if err := s.with(host).LearnLinkLocal(t.Context(), "hv1", r); sixacre.CodeOf(err) != want || !strings.Contains(err.Error(), address) {
			t.Errorf("learning %s: %v, want %s", address, err, want)
		}
	}
	var status sixacre.HostStatus
	if err := s.admin.Do(t.Context(), "GET", "/v1/hosts/hv1", nil, &status); err != nil || len(status.Report.NICs) != 1 || !status.Report.NICs[0].Programmed || status.Seen.IsZero() {
		t.Errorf("host status %+v, %v; want what its agent reported", status, err)
	}
}

func TestWatchShowsATokenItsScope(t *testing.T) {
	s := serve(t)
	host, router, _ := s.furnish()
	first := func(c *api.Client) sixacre.View {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var view sixacre.View
		c.Watch(ctx, func(v sixacre.View) {
			if view.Revision == 0 {
				view = v
			}
			cancel()
		})
		return view
	}
	for name, c := range map[string]*api.Client{"host": s.with(host), "router": s.with(router)} {
		if v := first(c); len(v.Instances) != 1 || v.Instances[0].Name != "i-1" || len(v.Pods) != 1 {
			t.Errorf("the %s's view is %+v, want i-1 on pod1 alone", name, v)
		}
	}
	for _, path := range []string{"/v1/watch?host=hv2", "/v1/watch?pod=pod2", "/v1/watch?pod=pod1"} {
		if err := s.with(host).Do(t.Context(), "GET", path, nil, nil); sixacre.CodeOf(err) != sixacre.Denied {
			t.Errorf("%s with the token of hv1: %v, want a denial", path, err)
		}
	}
	if err := s.admin.Do(t.Context(), "GET", "/v1/watch", nil, nil); sixacre.CodeOf(err) != sixacre.Invalid {
		t.Errorf("a watch of nothing: %v", err)
	}
}

func TestWatchFollowsUntilTheTokenIsRevoked(t *testing.T) {
	s := serve(t)
	host, _, _ := s.furnish()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	views := make(chan sixacre.View)
	client := s.with(host)
	go client.Watch(ctx, func(v sixacre.View) {
		select {
		case views <- v:
		case <-ctx.Done():
		}
	})
	wait := func(n int) {
		t.Helper()
		for {
			select {
			case v := <-views:
				if len(v.Instances) == n {
					return
				}
			case <-ctx.Done():
				t.Fatalf("the watcher never saw %d instances", n)
			}
		}
	}
	wait(1)
	for i := 3; i < 6; i++ {
		s.post("/v1/instances", control.Deployment{Name: fmt.Sprintf("i-%d", i), NICs: []control.NICDeployment{{
			NIC: sixacre.NIC{Pod: "pod1", Host: "hv1", MAC: sixacre.MAC{6, 0, 0, 0, 0, byte(i)}},
		}}}, nil)
		wait(i - 1)
	}
	// A token that is revoked shows nothing more from then on, to one who watches
	// already too.
	if err := s.admin.Do(ctx, "DELETE", "/v1/tokens/host:hv1", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.with(host).Do(ctx, "GET", "/v1/watch", nil, nil); !strings.Contains(fmt.Sprint(err), "a valid token is needed") {
		t.Fatalf("a revoked token: %v", err)
	}
	for i := 6; i < 9; i++ {
		s.post("/v1/instances", control.Deployment{Name: fmt.Sprintf("i-%d", i), NICs: []control.NICDeployment{{
			NIC: sixacre.NIC{Pod: "pod1", Host: "hv1", MAC: sixacre.MAC{6, 0, 0, 0, 0, byte(i)}},
		}}}, nil)
	}
	select {
	case v := <-views:
		t.Errorf("a revoked token was shown %d instances", len(v.Instances))
	case <-first(ctx, s.admin, "/v1/watch?host=hv1"):
	}
}

// first reads the first view of a watch.
func first(ctx context.Context, c *api.Client, path string) <-chan sixacre.View {
	views := make(chan sixacre.View, 1)
	go func() {
		var v sixacre.View
		if c.Do(ctx, "GET", path, nil, &v) == nil {
			views <- v
		}
	}()
	return views
}

// A host that gets the name of one that is gone has not said anything yet.
func TestANewHostHasNoReport(t *testing.T) {
	s := serve(t)
	do := func(method, path string, in, out any) {
		t.Helper()
		if err := s.admin.Do(t.Context(), method, path, in, out); err != nil {
			t.Fatal(err)
		}
	}
	do("POST", "/v1/hosts", sixacre.Host{Name: "hv1"}, nil)
	do("POST", "/v1/hosts/hv1/report", sixacre.Report{Revision: 7}, nil)
	do("DELETE", "/v1/hosts/hv1", nil, nil)
	do("POST", "/v1/hosts", sixacre.Host{Name: "hv1"}, nil)
	var status sixacre.HostStatus
	if do("GET", "/v1/hosts/hv1", nil, &status); !status.Seen.IsZero() || status.Report.Revision != 0 {
		t.Errorf("%+v, want nothing that the host before it said", status)
	}
}

// The document says what a body must hold, and numbers as large as they may be.
func TestOpenAPI(t *testing.T) {
	s := serve(t)
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Required   []string
				Properties map[string]struct{ Type, Format any }
			}
		}
	}
	if err := s.admin.Do(t.Context(), "GET", "/openapi.json", nil, &doc); err != nil {
		t.Fatal(err)
	}
	for schema, required := range map[string]string{
		"Pod": "[linkPrefix name]", "Pool": "[prefix]", "Deployment": "[name nics]", "NICDeployment": "[mac pod]",
		"Rule": "[direction protocol]", "Group": "[name]", "Host": "[name]", "Peer": "[address asn name pod]",
		"Token": "[name role]", "PrefixRequest": "[instance]", "Move": "[host]", "LinkLocalRequest": "[address mac pod]",
	} {
		got := doc.Components.Schemas[schema].Required
		slices.Sort(got)
		if fmt.Sprint(got) != required {
			t.Errorf("%s requires %s, want %s", schema, got, required)
		}
	}
	for field, format := range map[string]string{"Peer.asn": "int64", "Pod.validLifetime": "int64", "Delegation.longestLifetime": "int64"} {
		schema, name, _ := strings.Cut(field, ".")
		if got := doc.Components.Schemas[schema].Properties[name].Format; got != format {
			t.Errorf("%s has format %v, want %s", field, got, format)
		}
	}
	for field, typ := range map[string]string{"View.members": "array", "View.joined": "array", "View.left": "array", "Rule.includePrefixes": "boolean", "Rule.cut": "boolean"} {
		schema, name, _ := strings.Cut(field, ".")
		got := doc.Components.Schemas[schema].Properties[name].Type
		if list, ok := got.([]any); ok {
			got = list[0] // or null
		}
		if got != typ {
			t.Errorf("%s has type %v, want %s", field, got, typ)
		}
	}
	for _, field := range []string{"NICDeployment.mac", "Rule.ports", "Rule.protocol", "Rule.icmpType", "Rule.remote", "Pod.linkPrefix", "Sighting.duid", "Sighting.mac", "Path.relay", "Path.link", "Path.interfaceId", "Option.value", "Pod.antiSpoof", "Pod.echo", "NIC.learnedLinkLocal", "LinkLocalRequest.address"} {
		schema, name, _ := strings.Cut(field, ".")
		if got := doc.Components.Schemas[schema].Properties[name].Type; got != "string" {
			t.Errorf("%s has type %v, want string", field, got)
		}
	}
}

func TestRefusalsAreOneLineThatNamesTheField(t *testing.T) {
	s := serve(t)
	for _, c := range []struct{ method, path, body, says string }{
		{"POST", "pods", `{"name":"p","linkPrefix":"2001:db8::/63"}`, "2001:db8::/63"},
		{"POST", "pods", `{"name":"p","linkPrefix":"what"}`, `"what"`},
		{"POST", "pods", `{"name":"p","linkPrefix":"2001:db8::/64","relay":["::1"]}`, "relay"},
		{"POST", "pods", `{"name":"p","linkPrefix":"2001:db8::/64","addressing":"static"}`, `addressing: expected value to be one of "slaac, dhcpv6", not "static"`},
		{"POST", "pods", `{"name":"p"}`, "linkPrefix"},
		{"POST", "pods", `{"name":`, ""},
		{"POST", "instances", `{"name":"i","nics":[{"pod":"p","mac":"06:00:00:00:00:01","prefixCount":33}]}`, "not 33"},
		{"POST", "instances", `{"name":"i","nics":[{"mac":"06:00:00:00:00:01"}]}`, "pod"},
		{"POST", "groups/default/rules", `{"direction":"in"}`, "protocol"},
		{"POST", "groups/default/rules", `{"direction":"in","protocol":"sctp"}`, `protocol "sctp" is not known`},
		{"DELETE", "groups/default/rules/x", "", `id: invalid integer, not "x"`},
		{"DELETE", "prefixes/2001:db8::/129", "", "2001:db8::/129"},
	} {
		client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return net.Dial("unix", filepath.Join(s.dir, api.SocketName))
		}}}
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://server/v1/"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var refused sixacre.Error
		if err := json.NewDecoder(resp.Body).Decode(&refused); err != nil {
			t.Error(err)
		}
		resp.Body.Close()
		if resp.StatusCode < 400 || refused.Message == "" || !strings.Contains(refused.Message, c.says) || strings.HasPrefix(refused.Message, "body") || strings.Contains(refused.Message, "\n") {
			t.Errorf("%s %s: %s %+v, want a line that says %q", c.path, c.body, resp.Status, refused, c.says)
		}
	}
}

func TestReadiness(t *testing.T) {
	s := serve(t)
	if err := s.admin.Do(t.Context(), "GET", "/readyz", nil, nil); err == nil {
		t.Error("ready although it is not")
	}
}

// The secret of the CA and the socket are nobody else's to read.
func TestFilePermissions(t *testing.T) {
	s := serve(t)
	info, err := os.Stat(filepath.Join(s.dir, "ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("ca.key: %v, %v; want 0600", info.Mode(), err)
	}
}
