// Package api is the HTTP interface: the server, and the client of the same
// types. The nouns of the root package are its bodies; OpenAPI is derived from
// them.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/control"
)

// Server answers the API. It is an http.Handler twice over: for the unix socket,
// whose file permission is the credential, and for the network, where a token
// is.
type Server struct {
	control *control.Control
	views   *control.Views
	ready   func() error
	mux     *http.ServeMux
	now     func() time.Time

	mu      sync.Mutex
	reports map[string]sixacre.HostStatus // by host
}

// New returns a Server. ready says why the server cannot do all of its work, or
// nil.
func New(c *control.Control, v *control.Views, version string, metrics *prometheus.Registry, ready func() error) *Server {
	s := &Server{
		control: c, views: v, ready: ready, now: time.Now,
		mux:     http.NewServeMux(),
		reports: map[string]sixacre.HostStatus{},
	}
	huma.NewError = newError
	config := huma.DefaultConfig("sixacre", version)
	config.Info.Description = "An IPv6 address and routed prefixes for every instance."
	config.CreateHooks = nil // bodies carry no link to their schema
	config.DocsPath = ""     // would load a page from elsewhere
	config.FieldsOptionalByDefault = true
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "As printed by 'sixacre token create' or 'sixacre host create'. Not needed on the unix socket."},
	}
	config.Security = []map[string][]string{{"token": {}}}
	operations(s, humago.New(s.mux, config))

	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	s.mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n"))
	})
	exposition := promhttp.HandlerFor(metrics, promhttp.HandlerOpts{})
	s.mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if caller(r.Context()).Role != sixacre.RoleAdmin {
			writeError(w, sixacre.Errorf(sixacre.Denied, "metrics need an admin token"))
			return
		}
		exposition.ServeHTTP(w, r)
	})
	return s
}

// Local is the handler of the unix socket: whoever may open it is an admin.
func (s *Server) Local() http.Handler {
	return s.as(func(*http.Request) sixacre.Token { return sixacre.Token{Name: "local", Role: sixacre.RoleAdmin} })
}

// Network is the handler of the TLS listener: the caller is whose token it shows.
func (s *Server) Network() http.Handler {
	return s.as(func(r *http.Request) sixacre.Token {
		secret, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		t, _ := s.control.Authenticate(secret)
		return t
	})
}

// maxBody bounds a request's body, in octets.
const maxBody = 1 << 20

func (s *Server) as(who func(*http.Request) sixacre.Token) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		s.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, who(r))))
	})
}

type callerKey struct{}

// caller returns the token that the request came with, or one without role.
func caller(ctx context.Context) sixacre.Token {
	t, _ := ctx.Value(callerKey{}).(sixacre.Token)
	return t
}

// authorize lets a request through only to those roles.
func authorize(api huma.API, roles []sixacre.Role) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		switch who := caller(ctx.Context()); {
		case who.Role == "":
			huma.WriteErr(api, ctx, http.StatusUnauthorized, "a valid token is needed: set SIXACRE_TOKEN, or use the unix socket")
		case !slices.Contains(roles, who.Role):
			huma.WriteErr(api, ctx, http.StatusForbidden, "token "+who.Name+" of role "+string(who.Role)+" does not reach that far")
		default:
			next(ctx)
		}
	}
}

// refusal is an error as the API answers it.
type refusal struct {
	Code    sixacre.Code `json:"code" doc:"Kind of refusal"`
	Message string       `json:"message" doc:"One line: the thing, the value, the way out"`
	status  int
}

func (r *refusal) Error() string  { return r.Message }
func (r *refusal) GetStatus() int { return r.status }

// statusOf maps each code to its HTTP status, once.
var statusOf = map[sixacre.Code]int{
	sixacre.Invalid:     http.StatusUnprocessableEntity,
	sixacre.NotFound:    http.StatusNotFound,
	sixacre.Conflict:    http.StatusConflict,
	sixacre.InUse:       http.StatusConflict,
	sixacre.Exhausted:   http.StatusConflict,
	sixacre.Denied:      http.StatusForbidden,
	sixacre.Unavailable: http.StatusServiceUnavailable,
}

// refuse makes an answer of an error of the control.
func refuse(err error) error {
	var e *sixacre.Error
	if errors.As(err, &e) {
		return &refusal{e.Code, e.Message, statusOf[e.Code]}
	}
	if errors.Is(err, context.Canceled) {
		return &refusal{sixacre.Unavailable, "the request was given up", http.StatusServiceUnavailable}
	}
	slog.Error("a request failed", "reason", err)
	return &refusal{sixacre.Unavailable, "internal error: see the server's log", http.StatusInternalServerError}
}

// newError makes an answer of what huma refuses by itself: one line.
func newError(status int, message string, errs ...error) huma.StatusError {
	code := sixacre.Invalid
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		code = sixacre.Denied
	case http.StatusNotFound:
		code = sixacre.NotFound
	}
	var details []string
	for _, err := range errs {
		if err == nil {
			continue
		}
		var d huma.ErrorDetailer
		if errors.As(err, &d) {
			details = append(details, detail(d.ErrorDetail()))
		} else {
			details = append(details, err.Error())
		}
	}
	if len(details) > 0 {
		message = strings.Join(details, "; ")
	}
	return &refusal{code, message, status}
}

// detail is where, what is wrong, and the value where that is a single one.
func detail(d *huma.ErrorDetail) string {
	if d.Location == "body" {
		return d.Message
	}
	message := strings.TrimPrefix(d.Location, "body.") + ": " + d.Message
	switch v := d.Value.(type) {
	case string:
		message += fmt.Sprintf(", not %.64q", v)
	case float64, bool:
		message += fmt.Sprintf(", not %v", v)
	}
	return message
}

func writeError(w http.ResponseWriter, err error) {
	var r *refusal
	errors.As(refuse(err), &r)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.status)
	json.NewEncoder(w).Encode(r)
}
