// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"slices"
	"strconv"
	"time"

	"github.com/egressd/egressd/policy"
)

// Paths that people know of Envoy's admin interface.
const (
	PathLogging    = "/logging"
	PathClusters   = "/clusters"
	PathListeners  = "/listeners"
	PathStats      = "/stats"
	PathServerInfo = "/server_info"
	PathReady      = "/ready"
	PathHelp       = "/help"
	PathCerts      = "/certs"
	PathProfile    = "/debug/pprof/"
)

// About is what a daemon says of itself.
type About struct {
	Version string
	Started time.Time
	Ready   bool
}

// state is what Envoy calls how far the daemon is.
func (a About) state() string {
	if a.Ready {
		return "LIVE"
	}
	return "INITIALIZING"
}

// ListenerAt is a socket that the daemon listens on.
type ListenerAt struct {
	Name    string `json:"name"`
	Address string `json:"local_address"`
}

// Levels are the levels of the log.
type Levels interface {
	List() map[string]string
	Set(scope, level string) error
}

// familiar adds what people know of Envoy. Nothing changes but levels, where changes
// are taken.
func (s View) familiar(mux *http.ServeMux, change bool) {
	stats := NewPage(s.Metrics)
	mux.HandleFunc("GET "+PathStats, func(w http.ResponseWriter, r *http.Request) { serveStats(w, r, stats) })
	mux.Handle("GET /stats/prometheus", stats)
	mux.HandleFunc("GET "+PathServerInfo, s.serveServer)
	mux.HandleFunc("GET "+PathReady, s.serveState)
	mux.HandleFunc("GET "+PathHelp, func(w http.ResponseWriter, _ *http.Request) { s.serveHelp(w, change) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { s.serveHelp(w, change) })
	mux.HandleFunc("GET "+PathListeners, func(w http.ResponseWriter, r *http.Request) {
		list := s.Listeners()
		if r.URL.Query().Get("format") == "json" {
			writeJSON(w, map[string]any{"listener_statuses": list})
			return
		}
		for _, l := range list {
			fmt.Fprintf(w, "%s::%s\n", l.Name, l.Address)
		}
	})
	mux.HandleFunc("GET "+PathClusters, func(w http.ResponseWriter, _ *http.Request) {
		for _, line := range clusterLines(s.Snapshot()) {
			fmt.Fprintln(w, line)
		}
	})
	mux.HandleFunc("GET "+PathCerts, func(w http.ResponseWriter, _ *http.Request) {
		certs := any([]string{})
		if s.Certs != nil {
			certs = s.Certs()
		}
		writeJSON(w, map[string]any{"certificates": certs})
	})
	mux.HandleFunc("GET "+PathLogging, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Levels.List()) })
	if change {
		mux.HandleFunc("POST "+PathLogging, s.changeLevels)
	}
	if s.Profile {
		mux.HandleFunc("GET "+PathProfile, pprof.Index)
		mux.HandleFunc("GET "+PathProfile+"profile", pprof.Profile)
		mux.HandleFunc("GET "+PathProfile+"symbol", pprof.Symbol)
		mux.HandleFunc("GET "+PathProfile+"trace", pprof.Trace)
	}
}

// AllLevels stands for the level of all of the log in a change.
const AllLevels = "level"

// changeLevels takes SCOPE=LEVEL in the query, as Envoy does; "level" is that of all.
// An error changes nothing behind it.
func (s View) changeLevels(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	names := make([]string, 0, len(q))
	for name := range q {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		scope := name
		if name == AllLevels {
			scope = ""
		}
		if err := s.Levels.Set(scope, q.Get(name)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	writeJSON(w, s.Levels.List())
}

func (s View) serveServer(w http.ResponseWriter, _ *http.Request) {
	about := s.Server()
	writeJSON(w, map[string]any{
		"version": about.Version, "state": about.state(), "start_time": about.Started.UTC(),
		"uptime_current_epoch": strconv.FormatInt(int64(time.Since(about.Started)/time.Second), 10) + "s",
	})
}

// clusterLines are the destinations of all policies, by Istio's names of clusters.
func clusterLines(s *policy.Snapshot) []string {
	if s == nil {
		return nil
	}
	lines := map[string]bool{}
	for _, id := range s.Policies() {
		for _, h := range s.Policy(id).Hosts() {
			for _, p := range h.Ports {
				addCluster(lines, p.Upstream)
			}
		}
	}
	out := make([]string, 0, len(lines))
	for line := range lines {
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

func addCluster(lines map[string]bool, u *policy.Upstream) {
	if u == nil {
		return
	}
	name := fmt.Sprintf("outbound|%d|%s|%s", u.Port, u.Subset, u.Host)
	lines[fmt.Sprintf("%s::resolution::%v", name, u.Resolution)] = true
	for _, e := range u.Endpoints {
		at := e.Addr.String()
		if e.Unix != "" {
			at = "unix://" + e.Unix
		}
		lines[fmt.Sprintf("%s::%s::weight::%d", name, at, e.Weight)] = true
	}
	for _, n := range u.Names {
		lines[fmt.Sprintf("%s::%s::resolved", name, n.Name)] = true
	}
}
