// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Paths of the admin interface.
const (
	PathStatus  = "/status"
	PathFlows   = "/flows"
	PathSuggest = "/suggestions"
	PathExplain = "/explain"
	PathConfig  = "/config_dump"
	PathUnload  = "/unload"
)

// Bounds of one admin interface.
const (
	maxFollowers = 16
	maxDumps     = 2 // a dump is made in memory
)

// adminHandler serves the admin interface. The TCP port, which is there only
// when it was asked for, reads and changes nothing: every process that is not
// captured can reach it, and a request made by a web page, too.
func (a *Agent) adminHandler(change bool) http.Handler {
	mux := http.NewServeMux()
	follow, dump := atMost(maxFollowers), atMost(maxDumps)
	mux.HandleFunc("GET "+PathStatus, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.Status()) })
	mux.HandleFunc("GET "+PathFlows, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("follow") == "" {
			a.serveFlows(w, r)
			return
		}
		follow(w, func() { a.followFlows(w, r) })
	})
	mux.HandleFunc("GET "+PathSuggest, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.denied().Suggestions) })
	mux.HandleFunc("GET "+PathExplain, a.serveExplain)
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
	metrics := &page{handler: promhttp.HandlerFor(a.registry(), promhttp.HandlerOpts{DisableCompression: true}), now: time.Now}
	mux.Handle("GET /metrics", metrics)
	mux.Handle("GET /stats/prometheus", metrics)
	mux.HandleFunc("GET /healthz/ready", a.serveReady)
	return mux
}

func (a *Agent) readyHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", a.serveReady)
	return mux
}

func (a *Agent) serveReady(w http.ResponseWriter, _ *http.Request) {
	if err := a.status.notReady(); err != nil {
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
