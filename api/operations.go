package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/control"
)

// in and out are the shapes that most operations have.
type (
	none  struct{}
	named struct {
		Name string `path:"name"`
	}
	body[T any]      struct{ Body T }
	namedBody[T any] struct {
		Name string `path:"name"`
		Body T
	}
)

// handle registers an operation for admins, and for the roles that are named.
func handle[I, O any](api huma.API, method, path, summary string, f func(context.Context, *I) (*O, error), roles ...sixacre.Role) {
	status := http.StatusOK
	if method == http.MethodDelete {
		status = http.StatusNoContent
	} else if method == http.MethodPost && !strings.HasSuffix(path, "/report") && !strings.HasSuffix(path, "/move") && !strings.HasSuffix(path, "/link-locals") {
		status = http.StatusCreated
	}
	huma.Register(api, huma.Operation{
		OperationID:   operationID(method, path),
		Method:        method,
		Path:          path,
		Summary:       summary,
		DefaultStatus: status,
		Middlewares:   huma.Middlewares{authorize(api, append(roles, sixacre.RoleAdmin))},
		Errors:        []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, refuse(err)
		}
		return out, nil
	})
}

// operationID makes get-v1-pods-name of GET /v1/pods/{name}.
func operationID(method, path string) string {
	return strings.ToLower(method) + strings.NewReplacer("/", "-", "{", "", "}", "").Replace(path)
}

// show makes an operation's answer of a noun.
func show[T any](v T, err error) (*body[T], error) { return &body[T]{v}, err }

func operations(s *Server, api huma.API) {
	// The schema of what is written as text is a string, whatever its Go type.
	for _, t := range []any{sixacre.MAC{}, sixacre.Ports{}, sixacre.Protocol(0), sixacre.ICMPType{}, sixacre.Remote{}, sixacre.Key{}, sixacre.DUID{}, netip.Prefix{}} {
		api.OpenAPI().Components.Schemas.RegisterTypeAlias(reflect.TypeOf(t), reflect.TypeFor[string]())
	}
	c := s.control

	handle(api, "GET", "/v1/pods", "List the pods", func(ctx context.Context, _ *none) (*body[[]sixacre.Pod], error) {
		return show(c.Pods(ctx))
	})
	handle(api, "POST", "/v1/pods", "Create a pod", func(ctx context.Context, in *body[sixacre.Pod]) (*body[sixacre.Pod], error) {
		return show(c.CreatePod(ctx, in.Body))
	})
	handle(api, "GET", "/v1/pods/{name}", "Show a pod", func(ctx context.Context, in *named) (*body[sixacre.Pod], error) {
		return show(c.Pod(ctx, in.Name))
	})
	handle(api, "DELETE", "/v1/pods/{name}", "Delete a pod that nothing uses", func(ctx context.Context, in *named) (*none, error) {
		return nil, c.DeletePod(ctx, in.Name)
	})

	handle(api, "GET", "/v1/instances", "List the instances", func(ctx context.Context, _ *none) (*body[[]sixacre.Instance], error) {
		return show(c.Instances(ctx))
	})
	handle(api, "POST", "/v1/instances", "Deploy an instance: its addresses and prefixes are picked and recorded", func(ctx context.Context, in *body[control.Deployment]) (*body[sixacre.Instance], error) {
		return show(c.Deploy(ctx, in.Body))
	})
	handle(api, "GET", "/v1/instances/{name}", "Show an instance", func(ctx context.Context, in *named) (*body[sixacre.Instance], error) {
		return show(c.Instance(ctx, in.Name))
	})
	handle(api, "DELETE", "/v1/instances/{name}", "Retire an instance: its prefixes go into quarantine", func(ctx context.Context, in *named) (*none, error) {
		return nil, c.Retire(ctx, in.Name)
	})
	handle(api, "POST", "/v1/instances/{name}/move", "Record that a NIC is on another host", func(ctx context.Context, in *namedBody[control.Move]) (*body[sixacre.Instance], error) {
		if err := c.Move(ctx, in.Name, in.Body); err != nil {
			return nil, err
		}
		return show(c.Instance(ctx, in.Name))
	})

	handle(api, "GET", "/v1/instances/{name}/sightings", "Show what was seen of the DHCPv6 clients of an instance's NICs", func(ctx context.Context, in *named) (*body[[]sixacre.Sighting], error) {
		return show(c.Sightings(ctx, in.Name))
	})

	handle(api, "GET", "/v1/prefixes", "List the prefixes that are delegated or in quarantine", func(ctx context.Context, _ *none) (*body[[]sixacre.Delegation], error) {
		return show(c.Delegations(ctx))
	})
	handle(api, "POST", "/v1/prefixes", "Delegate one more prefix to a NIC", func(ctx context.Context, in *body[control.PrefixRequest]) (*body[sixacre.Delegation], error) {
		return show(c.AddPrefix(ctx, in.Body))
	})
	handle(api, "DELETE", "/v1/prefixes/{address}/{length}", "Release a prefix into quarantine", func(ctx context.Context, in *struct {
		Address netip.Addr `path:"address"`
		Length  int        `path:"length"`
	}) (*none, error) {
		prefix := netip.PrefixFrom(in.Address, in.Length)
		if !prefix.IsValid() {
			return nil, sixacre.Errorf(sixacre.Invalid, "prefix %s/%d is not a prefix: write it as 2001:db8:4000:10::/60", in.Address, in.Length)
		}
		return nil, c.ReleasePrefix(ctx, prefix)
	})

	handle(api, "GET", "/v1/groups", "List the security groups", func(ctx context.Context, _ *none) (*body[[]sixacre.Group], error) {
		return show(c.Groups(ctx))
	})
	handle(api, "POST", "/v1/groups", "Create a security group", func(ctx context.Context, in *body[sixacre.Group]) (*body[sixacre.Group], error) {
		return show(c.CreateGroup(ctx, in.Body))
	})
	handle(api, "GET", "/v1/groups/{name}", "Show a security group", func(ctx context.Context, in *named) (*body[sixacre.Group], error) {
		return show(c.Group(ctx, in.Name))
	})
	handle(api, "DELETE", "/v1/groups/{name}", "Delete a security group that nothing uses", func(ctx context.Context, in *named) (*none, error) {
		return nil, c.DeleteGroup(ctx, in.Name)
	})
	handle(api, "POST", "/v1/groups/{name}/rules", "Add a rule", func(ctx context.Context, in *namedBody[sixacre.Rule]) (*body[sixacre.Rule], error) {
		return show(c.AddRule(ctx, in.Name, in.Body))
	})
	handle(api, "DELETE", "/v1/groups/{name}/rules/{id}", "Delete a rule", func(ctx context.Context, in *struct {
		Name string `path:"name"`
		ID   int    `path:"id"`
	}) (*none, error) {
		return nil, c.DeleteRule(ctx, in.Name, in.ID)
	})

	handle(api, "GET", "/v1/hosts", "List the hypervisors and what their agents said last", func(ctx context.Context, _ *none) (*body[[]sixacre.HostStatus], error) {
		hosts, err := c.Hosts(ctx)
		out := make([]sixacre.HostStatus, len(hosts))
		for i, h := range hosts {
			out[i] = s.status(h)
		}
		return show(out, err)
	})
	handle(api, "POST", "/v1/hosts", "Create a hypervisor; its token is shown once", func(ctx context.Context, in *body[sixacre.Host]) (*body[HostCreated], error) {
		secret, err := c.CreateHost(ctx, in.Body)
		return show(HostCreated{in.Body, secret}, err)
	})
	handle(api, "GET", "/v1/hosts/{name}", "Show a hypervisor and what its agent said last", func(ctx context.Context, in *named) (*body[sixacre.HostStatus], error) {
		h, err := c.Host(ctx, in.Name)
		return show(s.status(h), err)
	})
	handle(api, "DELETE", "/v1/hosts/{name}", "Delete a hypervisor that nothing runs on, and its token", func(ctx context.Context, in *named) (*none, error) {
		err := c.DeleteHost(ctx, in.Name)
		if err == nil {
			s.forget(in.Name)
		}
		return nil, err
	})
	handle(api, "POST", "/v1/hosts/{name}/report", "Report what a hypervisor's agent sees of its own NICs", func(ctx context.Context, in *namedBody[sixacre.Report]) (*none, error) {
		return nil, s.report(ctx, in.Name, in.Body)
	}, sixacre.RoleHost)

	handle(api, "POST", "/v1/hosts/{name}/link-locals", "Ask for the link-local address that the guest behind a NIC of a hypervisor takes beside the predicted one", func(ctx context.Context, in *namedBody[sixacre.LinkLocalRequest]) (*none, error) {
		if err := reaches(ctx, in.Name); err != nil {
			return nil, err
		}
		return nil, c.LearnLinkLocal(ctx, in.Name, in.Body)
	}, sixacre.RoleHost)

	handle(api, "GET", "/v1/peers", "List the BGP peers", func(ctx context.Context, _ *none) (*body[[]sixacre.Peer], error) {
		return show(c.Peers(ctx))
	})
	handle(api, "POST", "/v1/peers", "Create a BGP peer", func(ctx context.Context, in *body[sixacre.Peer]) (*body[sixacre.Peer], error) {
		return show(in.Body, c.CreatePeer(ctx, in.Body))
	})
	handle(api, "GET", "/v1/peers/{name}", "Show a BGP peer", func(ctx context.Context, in *named) (*body[sixacre.Peer], error) {
		return show(c.Peer(ctx, in.Name))
	})
	handle(api, "DELETE", "/v1/peers/{name}", "Delete a BGP peer", func(ctx context.Context, in *named) (*none, error) {
		return nil, c.DeletePeer(ctx, in.Name)
	})

	handle(api, "GET", "/v1/tokens", "List the tokens, without their secrets", func(ctx context.Context, _ *none) (*body[[]sixacre.Token], error) {
		return show(c.Tokens(ctx))
	})
	handle(api, "POST", "/v1/tokens", "Create a token; its secret is shown once", func(ctx context.Context, in *body[sixacre.Token]) (*body[TokenCreated], error) {
		in.Body.Hash = nil
		secret, err := c.CreateToken(ctx, in.Body)
		return show(TokenCreated{in.Body, secret}, err)
	})
	handle(api, "DELETE", "/v1/tokens/{name}", "Revoke a token", func(ctx context.Context, in *named) (*none, error) {
		return nil, c.DeleteToken(ctx, in.Name)
	})

	handle(api, "GET", "/v1/whois", "Say who holds an address, a prefix or a MAC", func(ctx context.Context, in *struct {
		Query string `query:"q" required:"true" doc:"Address, prefix or MAC"`
		Pod   string `query:"pod" doc:"Look in this pod only: a MAC may have a holder in each"`
	}) (*body[control.Holder], error) {
		return show(c.Whois(ctx, in.Query, in.Pod))
	})
	handle(api, "GET", "/v1/watch", "Follow what concerns a host or a pod: a stream of views as NDJSON, the first complete, the others changes to it",
		s.watch, sixacre.RoleHost, sixacre.RoleRouter)
	// A stream has no one body, but each of its lines is a view.
	api.OpenAPI().Paths["/v1/watch"].Get.Responses["200"].Content = map[string]*huma.MediaType{
		"application/x-ndjson": {Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[sixacre.View](), true, "View")},
	}
}

// HostCreated is a new host with the token of its agent.
type HostCreated struct {
	sixacre.Host
	Token string `json:"token" doc:"The secret of its agent, shown this once"`
}

// TokenCreated is a new token with its secret.
type TokenCreated struct {
	sixacre.Token
	Secret string `json:"token" doc:"The secret, shown this once"`
}

func (s *Server) status(h sixacre.Host) sixacre.HostStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := s.reports[h.Name]
	status.Host = h
	if status.Report.NICs == nil {
		status.Report.NICs = []sixacre.NICReport{}
	}
	return status
}

// forget drops what the agent of a host said that is gone: a host that is later
// given the same name is another.
func (s *Server) forget(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.reports, host)
}

// reaches refuses a host's token what is another host's.
func reaches(ctx context.Context, host string) error {
	if who := caller(ctx); who.Role == sixacre.RoleHost && who.Host != host {
		return sixacre.Errorf(sixacre.Denied, "token %s is that of host %s, not of %s", who.Name, who.Host, host)
	}
	return nil
}

// report keeps what an agent says, of its own host and its own NICs.
func (s *Server) report(ctx context.Context, host string, r sixacre.Report) error {
	if err := reaches(ctx, host); err != nil {
		return err
	}
	if _, err := s.control.Host(ctx, host); err != nil {
		return err
	}
	for _, n := range r.NICs {
		if !s.views.OnHost(host, n.Pod, n.MAC) {
			return sixacre.Errorf(sixacre.Denied, "nic %s of pod %s is not on host %s", n.MAC, n.Pod, host)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports[host] = sixacre.HostStatus{Seen: s.now().UTC().Truncate(time.Millisecond), Report: r}
	return nil
}

// heartbeat is how often a watch says that it is alive.
const heartbeat = 10 * time.Second

func (s *Server) watch(ctx context.Context, in *struct {
	Host string `query:"host" doc:"Follow what this host's agent needs"`
	Pod  string `query:"pod" doc:"Follow what this pod's routers need"`
}) (*huma.StreamResponse, error) {
	scope := control.Scope{Host: in.Host, Pod: in.Pod}
	switch who := caller(ctx); who.Role {
	case sixacre.RoleHost:
		scope = control.Scope{Host: who.Host}
	case sixacre.RoleRouter:
		scope = control.Scope{Pod: who.Pod}
	}
	if in.Host != "" && in.Host != scope.Host || in.Pod != "" && in.Pod != scope.Pod {
		return nil, sixacre.Errorf(sixacre.Denied, "token %s shows only %s%s", caller(ctx).Name, scope.Host, scope.Pod)
	}
	switch {
	case (scope.Host == "") == (scope.Pod == ""):
		return nil, sixacre.Errorf(sixacre.Invalid, "watch needs a host or a pod: add ?host=NAME or ?pod=NAME")
	case scope.Host != "":
		if _, err := s.control.Host(ctx, scope.Host); err != nil {
			return nil, err
		}
	default:
		if _, err := s.control.Pod(ctx, scope.Pod); err != nil {
			return nil, err
		}
	}
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		hctx.SetHeader("Content-Type", "application/x-ndjson")
		w := hctx.BodyWriter()
		flusher := w.(http.Flusher)
		ctx, cancel := context.WithCancel(hctx.Context())
		defer cancel()
		views := make(chan sixacre.View)
		go s.views.Follow(ctx, scope, func(v sixacre.View) error {
			select {
			case views <- v:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		alive := time.NewTicker(heartbeat)
		defer alive.Stop()
		for encoder := json.NewEncoder(w); ; flusher.Flush() {
			var change *sixacre.View
			select {
			case <-ctx.Done():
				return
			case v := <-views:
				change = &v
			case <-alive.C:
			}
			// A token that was revoked sees no more than it has: the control
			// learns of that before the views learn of anything later.
			if !s.control.Valid(caller(ctx)) {
				return
			}
			var err error
			if change != nil {
				err = encoder.Encode(change)
			} else {
				_, err = w.Write([]byte("\n"))
			}
			if err != nil {
				return
			}
		}
	}}, nil
}
