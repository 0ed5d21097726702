// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/agent/events"
	"github.com/egressd/egressd/internal/connlimit"
	"github.com/egressd/egressd/internal/flow"
)

// TestReadersOfFlows: readers that do not read take no memory, do not keep
// others out, and are left after a while.
func TestReadersOfFlows(t *testing.T) {
	a := &Agent{recorder: events.NewRecorder(slog.New(slog.DiscardHandler)), unload: make(chan struct{})}
	big := strings.Repeat("x", 4<<10)
	for range 4096 {
		a.recorder.Record(flow.Event{Allowed: true, Name: big})
	}
	ctx, cancel := context.WithCancel(t.Context())
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	limit := connlimit.New(ln, admin.MaxConns, 0)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := admin.HTTP(ctx, limit, a.adminHandler(true)); err != nil {
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
	for range 4 * admin.MaxConns {
		dial("GET /flows")
	}
	if body, _ := io.ReadAll(dial("POST /unload")); !strings.Contains(string(body), " 202 ") {
		t.Errorf("unload: %q", body)
	}
	if limit.Closed() == 0 {
		t.Error("nobody made room")
	}
}

// TestFollowerThatDoesNotRead is left and counted.
func TestFollowerThatDoesNotRead(t *testing.T) {
	if testing.Short() {
		t.Skip("takes admin.WriteWait")
	}
	t.Parallel()
	a := &Agent{recorder: events.NewRecorder(slog.New(slog.DiscardHandler))}
	for range 4096 {
		a.recorder.Record(flow.Event{Allowed: true, Name: strings.Repeat("x", 4<<10)})
	}
	s := httptest.NewUnstartedServer(a.adminHandler(false))
	s.Config.WriteTimeout = admin.WriteWait
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
	deadline := time.Now().Add(admin.WriteWait + 5*time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for a.recorder.Dropped() == 0 && time.Now().Before(deadline) {
		<-tick.C
	}
	if n := a.recorder.Dropped(); n != 1 {
		t.Errorf("%d followers dropped", n)
	}
}
