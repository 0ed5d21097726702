// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/report"
	"github.com/egressd/egressd/explain"
)

// Paths of the admin interface.
const (
	PathStatus  = "/status"
	PathFlows   = "/flows"
	PathSuggest = "/suggestions"
	PathConfig  = "/config_dump"
	PathUnload  = "/unload"
)

// Bounds of one admin interface.
const (
	maxFollowers = 16
	maxDumps     = 2 // a dump is made in memory
)

// registry has the metrics of the daemon.
func (a *Agent) registry() *prometheus.Registry {
	return report.Registry(report.Source{
		Status: a.Status, Events: a.recorder.Counts, Dropped: a.recorder.Dropped, LogDropped: a.opts.LogDropped,
		Closed: a.surfaces.Closed, Holding: a.holding.Counts, Upstreams: a.dns.Upstreams,
		Unbound: func() int64 { n, _ := a.workloads.Unbound(); return n },
		Saved:   []string{control.SavedNames, control.SavedPolicy},
	})
}

// serveInterfaces opens the interfaces of the daemon.
func (a *Agent) serveInterfaces(ctx context.Context, serve func(func() error)) error {
	return a.surfaces.Serve(ctx, serve, admin.Options{
		StateDir: a.opts.StateDir, Group: a.opts.AdminGroup, Log: a.log,
		Change: a.adminHandler(true),
		Read:   a.adminHandler(false), AdminAddress: a.opts.AdminAddress,
		Status: a.statusHandler(), StatusAddress: a.opts.StatusAddress,
		Health: a.readyHandler(), HealthAddress: a.opts.HealthAddress,
	})
}

// adminHandler serves the admin interface. The TCP port, which is there only
// when it was asked for, reads and changes nothing: every process that is not
// captured can reach it, and a request made by a web page, too.
func (a *Agent) adminHandler(change bool) http.Handler {
	mux := http.NewServeMux()
	follow, dump := atMost(maxFollowers), atMost(maxDumps)
	mux.HandleFunc("GET "+PathStatus, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.Status()) })
	mux.HandleFunc("GET "+PathFlows, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("follow") == "" {
			a.recorder.ServeHTTP(w, r)
			return
		}
		follow(w, func() { a.recorder.Follow(w, r, admin.WriteWait) })
	})
	mux.HandleFunc("GET "+PathSuggest, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.denied().Suggestions) })
	mux.HandleFunc("GET "+explain.Path, a.serveExplain)
	mux.HandleFunc("GET "+PathConfig, func(w http.ResponseWriter, _ *http.Request) {
		dump(w, func() {
			if s := a.control.Snapshot(); s != nil {
				fmt.Fprint(w, s.Text())
			}
		})
	})
	if change {
		mux.HandleFunc("POST "+PathUnload, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			a.unloadOnce.Do(func() { close(a.unload) })
		})
	}
	return mux
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

func (a *Agent) statusHandler() http.Handler {
	mux := http.NewServeMux()
	metrics := admin.NewPage(promhttp.HandlerFor(a.registry(), promhttp.HandlerOpts{DisableCompression: true}))
	mux.Handle("GET /metrics", metrics)
	mux.Handle("GET /stats/prometheus", metrics)
	mux.HandleFunc("GET /healthz/ready", a.serveReady)
	return mux
}

func (a *Agent) readyHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", a.serveReady)
	mux.Handle("GET /healthz/live", admin.NewLive(a.check))
	return mux
}

func (a *Agent) serveReady(w http.ResponseWriter, _ *http.Request) {
	if err := a.ready.Err(); err != nil {
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
