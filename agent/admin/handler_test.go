// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/agent/events"
	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/connlimit"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestReadersOfFlows: readers that do not read take no memory, do not keep
// others out, and are left after a while.
func TestReadersOfFlows(t *testing.T) {
	recorder := events.NewRecorder(slog.New(slog.DiscardHandler))
	unloads := 0
	s := View{Flows: recorder, Unload: func() { unloads++ }}
	big := strings.Repeat("x", 4<<10)
	for range 4096 {
		recorder.Record(&flow.Event{Allowed: true, Name: big})
	}
	ctx, cancel := context.WithCancel(t.Context())
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	limit := connlimit.New(ln, MaxConns, 0)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := HTTP(ctx, limit, s.Admin(true)); err != nil {
			t.Error(err)
		}
	})
	defer serving.Wait()
	defer cancel()
	dial := func(request string) net.Conn {
		c, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, request+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for range maxFollowers {
		c := dial("GET /flows?follow=1")
		if _, err := io.ReadFull(c, make([]byte, 64)); err != nil { // it is served
			t.Fatal(err)
		}
	}
	if body, _ := io.ReadAll(dial("GET /flows?follow=1")); !strings.Contains(string(body), " 503 ") {
		t.Errorf("one follower more: %q", body)
	}
	for range 4 * MaxConns {
		dial("GET /flows")
	}
	if body, _ := io.ReadAll(dial("POST /unload")); !strings.Contains(string(body), " 202 ") {
		t.Errorf("unload: %q", body)
	}
	if limit.Closed() == 0 || unloads != 1 {
		t.Errorf("nobody made room, or it was unloaded %d times", unloads)
	}
}

// TestFollowerThatDoesNotRead is left and counted.
func TestFollowerThatDoesNotRead(t *testing.T) {
	if testing.Short() {
		t.Skip("takes WriteWait")
	}
	t.Parallel()
	recorder := events.NewRecorder(slog.New(slog.DiscardHandler))
	for range 4096 {
		recorder.Record(&flow.Event{Allowed: true, Name: strings.Repeat("x", 4<<10)})
	}
	s := httptest.NewUnstartedServer(View{Flows: recorder}.Admin(false))
	s.Config.WriteTimeout = WriteWait
	s.Start()
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /flows?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(WriteWait + 5*time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for recorder.Dropped() == 0 && time.Now().Before(deadline) {
		<-tick.C
	}
	if n := recorder.Dropped(); n != 1 {
		t.Errorf("%d followers dropped", n)
	}
}

// TestAdmin: a port reads and does not change; what cannot be answered says why; what is
// not there yet is no policy of nothing.
func TestAdmin(t *testing.T) {
	snapshot, err := policy.Compile(&policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	refused := errors.New("no such workload")
	var now *policy.Snapshot
	var asked explain.Question
	var unexplained, notReady, cut error
	unloads := 0
	s := View{
		Status: func() any { return map[string]bool{"ready": true} }, Unload: func() { unloads++ }, Snapshot: func() *policy.Snapshot { return now },
		Suggest: func() explain.Suggestions { return explain.Suggestions{} },
		Explain: func(_ *policy.Snapshot, q explain.Question) (any, error) {
			asked = q
			return "explained", unexplained
		},
		Metrics:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "egressd_up 1") }),
		NotReady: func() error { return notReady }, Alive: func(context.Context) error { return notReady },
		Reload: func(context.Context) (any, error) { return map[string]bool{"changed": true}, cut },
	}
	get := func(h http.Handler, method, target string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
		return w.Code, w.Body.String()
	}
	question := explain.Path + "?target=https://a.example/x&header=X-A:+b&workload=shop/web"
	for _, c := range []struct {
		what, method, target string
		set                  func()
		h                    http.Handler
		code                 int
		body                 string
	}{
		{"status", "GET", PathStatus, nil, s.Admin(false), 200, `"ready": true`},
		{"suggestions", "GET", PathSuggest, nil, s.Admin(false), 200, "{"},
		{"no policy to explain", "GET", question, nil, s.Admin(false), 503, "no policy yet"},
		{"no policy to dump", "GET", PathConfig, nil, s.Admin(false), 200, ""},
		{"a dump", "GET", PathConfig, func() { now = snapshot }, s.Admin(false), 200, snapshot.Text()},
		{"explained", "GET", question, nil, s.Admin(false), 200, "explained"},
		{"unexplained", "GET", question, func() { unexplained = refused }, s.Admin(false), 400, refused.Error()},
		{"no target", "GET", explain.Path, nil, s.Admin(false), 400, ""},
		{"a bad header", "GET", explain.Path + "?target=a.example:80&header=x", nil, s.Admin(false), 400, ""},
		{"unload at a port", "POST", PathUnload, nil, s.Admin(false), 404, ""},
		{"unload by a link", "GET", PathUnload, nil, s.Admin(true), 405, ""},
		{"unload", "POST", PathUnload, nil, s.Admin(true), 202, ""},
		{"reload at a port", "POST", PathReload, nil, s.Admin(false), 404, ""},
		{"reload by a link", "GET", PathReload, nil, s.Admin(true), 405, ""},
		{"reload", "POST", PathReload, nil, s.Admin(true), 200, `"changed": true`},
		{"a reload that is cut off", "POST", PathReload, func() { cut = refused }, s.Admin(true), 503, "the reload was not finished: " + refused.Error()},
		{"metrics", "GET", "/metrics", nil, s.StatusPort(), 200, "egressd_up 1"},
		{"metrics as of Envoy", "GET", "/stats/prometheus", nil, s.StatusPort(), 200, "egressd_up 1"},
		{"ready", "GET", "/healthz/ready", nil, s.HealthPort(), 200, "ready"},
		{"alive", "GET", "/healthz/live", nil, s.HealthPort(), 200, "alive"},
		{"not ready", "GET", "/healthz/ready", func() { notReady = refused }, s.StatusPort(), 503, "not ready: " + refused.Error()},
		{"stuck", "GET", "/healthz/live", nil, s.HealthPort(), 503, refused.Error()},
		{"alive is not for the status port", "GET", "/healthz/live", nil, s.StatusPort(), 404, ""},
	} {
		if c.set != nil {
			c.set()
		}
		if code, body := get(c.h, c.method, c.target); code != c.code || !strings.Contains(body, c.body) {
			t.Errorf("%s: %d %q, want %d %q", c.what, code, body, c.code, c.body)
		}
	}
	if asked.Workload != "shop/web" || asked.Method != "GET" || asked.Header.Get("X-A") != "b" || unloads != 1 {
		t.Errorf("asked %+v, unloaded %d times", asked, unloads)
	}
}
