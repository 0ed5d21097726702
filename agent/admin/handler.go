// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"time"

	"github.com/egressd/egressd/agent/admin/ui"
	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/explain/learn"
	"github.com/egressd/egressd/policy"
)

// Paths of the admin interface.
const (
	PathStatus  = "/status"
	PathFlows   = "/flows"
	PathSuggest = "/suggestions"
	PathSeen    = "/seen"
	PathConfig  = "/config_dump"
	PathUnload  = "/unload"
	PathReload  = "/reload"
)

// Bounds of one admin interface.
const (
	maxFollowers = 16
	maxDumps     = 2 // a dump is made in memory
)

// Flows are the events of a daemon.
type Flows interface {
	http.Handler
	// Follow writes events as they come; each must be taken within wait.
	Follow(w http.ResponseWriter, r *http.Request, wait time.Duration)
}

// View is what of a daemon the interfaces show.
type View struct {
	Status func() any
	Flows  Flows
	// Events are what the web page shows; nil: there is no page.
	Events  ui.Events
	Suggest func() explain.Suggestions
	// Seen is where the workloads went, to learn a policy from.
	Seen func() (learn.Recording, error)
	// Explain explains a question by the policy in force; Snapshot is that policy, nil:
	// there is none yet.
	Explain  func(*policy.Snapshot, explain.Question) (any, error)
	Snapshot func() *policy.Snapshot
	// Unload asks the daemon to remove everything and end. It does not wait.
	Unload func()
	// Reload reads the policy again, waits until it is in force or found to be wrong,
	// and is how it is then. The error is that of the context.
	Reload func(context.Context) (any, error)
	// Metrics writes the metrics.
	Metrics http.Handler
	// NotReady is why the daemon is not ready, nil: it is. Alive says whether its loops
	// answer.
	NotReady func() error
	Alive    func(context.Context) error
	// Server, Listeners and Levels are for who knows Envoy's admin interface; Certs are
	// the certificates in use, without keys, nil: there are none. Profile shows
	// profiles of the process.
	Server    func() About
	Listeners func() []ListenerAt
	Levels    Levels
	Certs     func() any
	Profile   bool
}

// Admin serves the admin interface. The TCP port, which is there only when it was asked
// for, reads and changes nothing: every process of root and of the admin group that is
// not captured gets there. A web page that such a one shows gets nothing (ui.SameOrigin).
func (s View) Admin(change bool) http.Handler {
	mux := http.NewServeMux()
	follow, dump := atMost(maxFollowers), atMost(maxDumps)
	mux.HandleFunc("GET "+PathStatus, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Status()) })
	mux.HandleFunc("GET "+PathFlows, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("follow") == "" {
			s.Flows.ServeHTTP(w, r)
			return
		}
		follow(w, func() { s.Flows.Follow(w, r, WriteWait) })
	})
	mux.HandleFunc("GET "+PathSuggest, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Suggest()) })
	mux.HandleFunc("GET "+PathSeen, func(w http.ResponseWriter, _ *http.Request) { dump(w, func() { s.serveSeen(w) }) })
	mux.HandleFunc("GET "+explain.Path, s.serveExplain)
	mux.HandleFunc("GET "+PathConfig, func(w http.ResponseWriter, _ *http.Request) {
		dump(w, func() {
			if s := s.Snapshot(); s != nil {
				fmt.Fprint(w, s.Text())
			}
		})
	})
	s.familiar(mux, change)
	if !change && s.Events != nil {
		page := ui.New(s.Events, s.Server().Started)
		mux.Handle("GET "+ui.Path, page)
		mux.Handle("GET "+path.Clean(ui.Path), page)
	}
	if change {
		mux.HandleFunc("POST "+PathUnload, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			s.Unload()
		})
		mux.HandleFunc("POST "+PathReload, s.serveReload)
		return mux
	}
	return ui.SameOrigin(mux)
}

// reloadWait is how long a reload may take.
const reloadWait = 10 * time.Minute

// serveReload answers "egressd reload".
func (s View) serveReload(w http.ResponseWriter, r *http.Request) {
	// WriteWait is for answers that are there. One who hangs up earlier ends the wait.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(reloadWait)) // where there is one
	outcome, err := s.Reload(r.Context())
	if err != nil {
		http.Error(w, "the reload was not finished: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	writeJSON(w, outcome)
}

// atMost bounds how many of a kind of request are served at a time.
func atMost(n int) func(http.ResponseWriter, func()) {
	slots := make(chan struct{}, n)
	return func(w http.ResponseWriter, f func()) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			f()
		default:
			http.Error(w, fmt.Sprintf("%d such requests are served already; end one of them", n), http.StatusServiceUnavailable)
		}
	}
}

// serveSeen answers "egressd suggest".
func (s View) serveSeen(w http.ResponseWriter) {
	seen, err := s.Seen()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(seen)
}

// serveExplain answers "egressd explain" with the live policy.
func (s View) serveExplain(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	t, err := explain.ParseTarget(q.Get("target"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	header, err := explain.ParseHeader(q["header"])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	visit, err := explain.ParseVisit(q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	now := s.Snapshot()
	if now == nil {
		http.Error(w, "no policy yet", http.StatusServiceUnavailable)
		return
	}
	x, err := s.Explain(now, explain.Question{
		Target: t, Method: cmp.Or(q.Get("method"), http.MethodGet), Header: header, Workload: q.Get("workload"), Visit: visit,
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, x)
}

// StatusPort serves metrics and readiness.
func (s View) StatusPort() http.Handler {
	mux := http.NewServeMux()
	metrics := NewPage(s.Metrics)
	mux.Handle("GET /metrics", metrics)
	mux.Handle("GET /stats/prometheus", metrics)
	mux.HandleFunc("GET /healthz/ready", s.serveReady)
	return mux
}

// HealthPort serves readiness, and whether the daemon is alive.
func (s View) HealthPort() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", s.serveReady)
	mux.Handle("GET /healthz/live", NewLive(s.Alive))
	return mux
}

func (s View) serveReady(w http.ResponseWriter, _ *http.Request) {
	if err := s.NotReady(); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(v)
}
