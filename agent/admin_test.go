// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/connlimit"
	"github.com/egressd/egressd/internal/flow"
)

func TestLoopbackHost(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:15000": true, "LOCALHOST:1": true, "127.0.0.1:15000": true, "127.0.0.1": true,
		"127.8.9.1:1": true, "[::1]:15000": true, "[::1]": true, "::1": true,
		"": false, "rebind.attacker.test:15000": false, "rebind.attacker.test": false, "localhost.attacker.test": false,
		"192.0.2.1:15000": false, "0.0.0.0:15000": false, "[::]:1": false, "[2001:db8::1]:1": false,
		"127.0.0.1.attacker.test": false, "[::1%25lo]:1": false, "localhost.": false, "127.1:15000": false, "2130706433": false,
	} {
		if got := isLoopbackHost(host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}

func TestInterfaceAddrs(t *testing.T) {
	for in, want := range map[string]string{
		"localhost:15020": "127.0.0.1:15020 [::1]:15020", ":15020": ":15020", "192.0.2.1:1": "192.0.2.1:1",
		"[2001:db8::1]:1": "[2001:db8::1]:1", "0.0.0.0:1": "0.0.0.0:1",
		"": "", "15020": "", "node.example:1": "", "127.0.0.1": "", "127.0.0.1:http": "", "127.0.0.1:70000": "", "[::1]": "",
	} {
		got, err := interfaceAddrs(in)
		joined := strings.Join(got, " ")
		if joined != want && !(in == "localhost:15020" && joined == "127.0.0.1:15020") || (err == nil) != (want != "") {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}

// TestPage: what is asked for often is made once a second, without what the
// one who asks would like.
func TestPage(t *testing.T) {
	made := 0
	now := time.Unix(0, 0)
	p := &page{now: func() time.Time { return now }, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		made++
		w.Header().Set("Content-Type", "text/x")
		fmt.Fprint(w, made, r.Header.Get("Accept"))
	})}
	get := func(want string) {
		t.Helper()
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Header.Set("Accept", "application/openmetrics-text")
		p.ServeHTTP(w, r)
		if w.Body.String() != want || w.Code != 200 || w.Header().Get("Content-Type") != "text/x" {
			t.Errorf("%d %q, want %q", w.Code, w.Body, want)
		}
	}
	for range 100 {
		get("1")
	}
	now = now.Add(fresh)
	get("2")
	calls := 0
	var r recently[int]
	for i := range 10 {
		if got := r.get(now.Add(time.Duration(i)*fresh/5), func() int { calls++; return calls }); got != i/5+1 {
			t.Errorf("%d: %d", i, got)
		}
	}
}

// TestReadersOfFlows: readers that do not read take no memory, do not keep
// others out, and are left after a while.
func TestReadersOfFlows(t *testing.T) {
	a := &Agent{recorder: newRecorder(slog.New(slog.DiscardHandler)), unload: make(chan struct{})}
	big := strings.Repeat("x", 4<<10)
	for range 4096 {
		a.recorder.Record(flow.Event{Allowed: true, Name: big})
	}
	ctx, cancel := context.WithCancel(t.Context())
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	limit := connlimit.New(ln, maxInterfaceConns, 0)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := serveHTTP(ctx, limit, a.adminHandler(true)); err != nil {
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
	for range 4 * maxInterfaceConns {
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
		t.Skip("takes writeWait")
	}
	t.Parallel()
	a := &Agent{recorder: newRecorder(slog.New(slog.DiscardHandler))}
	for range 4096 {
		a.recorder.Record(flow.Event{Allowed: true, Name: strings.Repeat("x", 4<<10)})
	}
	s := httptest.NewUnstartedServer(a.adminHandler(false))
	s.Config.WriteTimeout = writeWait
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
	deadline := time.Now().Add(writeWait + 5*time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for a.dropped.Load() == 0 && time.Now().Before(deadline) {
		<-tick.C
	}
	if n := a.dropped.Load(); n != 1 {
		t.Errorf("%d followers dropped", n)
	}
}

// TestNotOurselves: the admin socket is not for what a policy sends there.
func TestNotOurselves(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		_, err := peers{ln, os.Getpid()}.Accept()
		served <- err
	}()
	c, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v; want the end", n, err)
	}
	ln.Close()
	if err := <-served; err == nil {
		t.Error("it was served")
	}
}
