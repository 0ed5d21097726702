// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// AdminSocket is the name of the admin socket in the state directory. Only
// root may connect; everything that changes something goes through it.
const AdminSocket = "admin.sock"

// Paths of the admin interface.
const (
	PathStatus  = "/status"
	PathFlows   = "/flows"
	PathExplain = "/explain"
	PathConfig  = "/config_dump"
	PathUnload  = "/unload"
)

// serveInterfaces opens the admin socket and port, the status and metrics
// port and the readiness port. All are bound before any is served.
func (a *Agent) serveInterfaces(ctx context.Context, serve func(func() error)) error {
	path := filepath.Join(a.opts.StateDir, AdminSocket)
	// The lock on the state directory says that nobody listens there.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	socket, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("open the admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, socket.Close())
	}
	open := []struct {
		ln      net.Listener
		handler http.Handler
	}{{others{socket}, a.adminHandler(true)}}
	for _, i := range []struct {
		host    string
		port    int
		handler http.Handler
	}{
		{"127.0.0.1", adminPort, a.adminHandler(false)},
		{"", statusPort, a.statusHandler()},
		{"", readyPort, a.readyHandler()},
	} {
		ln, err := listenInterface(ctx, i.host, i.port)
		if err != nil {
			for _, o := range open {
				err = errors.Join(err, o.ln.Close())
			}
			return err
		}
		open = append(open, struct {
			ln      net.Listener
			handler http.Handler
		}{ln, i.handler})
	}
	for _, o := range open {
		serve(func() error { return serveHTTP(ctx, o.ln, o.handler) })
	}
	return nil
}

// serveHTTP serves until ctx is done.
func serveHTTP(ctx context.Context, ln net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// adminHandler serves the admin interface. The TCP port only reads: any
// process on the node can reach it, and a request made by a web page, too.
func (a *Agent) adminHandler(change bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+PathStatus, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.Status()) })
	mux.HandleFunc("GET "+PathFlows, a.serveFlows)
	mux.HandleFunc("GET "+PathExplain, a.serveExplain)
	mux.HandleFunc("GET "+PathConfig, func(w http.ResponseWriter, _ *http.Request) {
		if s := a.current.p.Load(); s != nil {
			fmt.Fprint(w, s.Text())
		}
	})
	if change {
		mux.HandleFunc("POST "+PathUnload, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			a.unloadOnce.Do(func() { close(a.unload) })
		})
	}
	return mux
}

func (a *Agent) statusHandler() http.Handler {
	mux := http.NewServeMux()
	metrics := promhttp.HandlerFor(a.registry(), promhttp.HandlerOpts{})
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
	if !a.status.isReady() {
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

// serveFlows writes one JSON object a line. With follow it goes on until the
// client leaves; verdict=deny keeps denials (and would-be denials) only.
func (a *Agent) serveFlows(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	keep := r.URL.Query().Get("verdict")
	write := func(e flow.Event) bool { return !matches(e, keep) || enc.Encode(e) == nil }
	if r.URL.Query().Get("follow") == "" {
		for _, e := range a.events.Recent() {
			if !write(e) {
				return
			}
		}
		return
	}
	rc := http.NewResponseController(w)
	rc.Flush()
	a.events.Follow(r.Context(), func(e flow.Event) bool { return write(e) && rc.Flush() == nil })
}

// matches says whether an event has the verdict that was asked for.
func matches(e flow.Event, verdict string) bool {
	switch verdict {
	case "":
		return true
	case policy.Deny.String():
		return !e.Allowed || e.WouldDeny
	}
	return e.Allowed && e.Verdict.String() == verdict
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(v)
}
