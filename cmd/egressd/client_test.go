// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/explain"
)

// fakeDaemon answers on the admin socket of a state directory.
func fakeDaemon(t *testing.T, h http.HandlerFunc) (stateDir string) {
	t.Helper()
	dir := t.TempDir()
	ln, err := net.Listen("unix", filepath.Join(dir, agent.AdminSocket))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(ln) }) // it ends when it is closed
	t.Cleanup(func() { s.Close(); serving.Wait() })
	return dir
}

// TestDaemonDoesNotAnswer: a daemon that is stopped, or stuck within an
// answer, is told from one that is not there, and does not hold anybody.
func TestDaemonDoesNotAnswer(t *testing.T) {
	silent := t.TempDir()
	ln, err := net.Listen("unix", filepath.Join(silent, agent.AdminSocket)) // and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	stuck := fakeDaemon(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "{")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	for name, dir := range map[string]string{"silent": silent, "stuck": stuck} {
		_, err := client{dir, 50 * time.Millisecond}.ask(t.Context(), http.MethodGet, admin.PathStatus, nil)
		if err == nil || !strings.Contains(err.Error(), "does not answer on "+dir) || !strings.Contains(err.Error(), "goes on with the policy") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (client{silent, 50 * time.Millisecond}).follow(t.Context(), admin.PathFlows, nil); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("flows -f: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (client{silent, answerWait}).ask(ctx, http.MethodGet, admin.PathStatus, nil); err == nil || strings.Contains(err.Error(), "does not answer") {
		t.Errorf("interrupted: %v", err)
	}
}

// TestDaemonWithFullQueue: the kernel takes no more connections for a stuck
// daemon.
func TestDaemonWithFullQueue(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	at := &unix.SockaddrUnix{Name: filepath.Join(dir, agent.AdminSocket)}
	if err := errors.Join(unix.Bind(fd, at), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", at.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = client{dir, 50 * time.Millisecond}.ask(t.Context(), http.MethodGet, admin.PathStatus, nil)
	if err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
}

// TestFollowGoesOn: what comes later than an answer may take is read by who
// follows.
func TestFollowGoesOn(t *testing.T) {
	const wait = 50 * time.Millisecond
	dir := fakeDaemon(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(3 * wait):
			fmt.Fprint(w, "late")
		case <-r.Context().Done():
		}
	})
	body, err := client{dir, wait}.follow(t.Context(), admin.PathFlows, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	buf := make([]byte, 4)
	if n, err := body.Read(buf); string(buf[:n]) != "late" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

// TestNoPermission: who may not read is told who may.
func TestNoPermission(t *testing.T) {
	dir := fakeDaemon(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "only root may do that; run it with sudo", http.StatusForbidden)
	})
	for _, args := range [][]string{{"status"}, {"flows"}, {"flows", "-f"}, {"explain", "a.example:80"}, {"unload", "--pin-dir", t.TempDir()}} {
		o := call(t, append(args, "--state-dir", dir)...)
		if o.code != exitFinding || o.stdout != "" || !strings.Contains(o.stderr, "the daemon says: only root may do that; run it with sudo") {
			t.Errorf("%v: %+v", args, o)
		}
	}
	err := (client{"/run/x", answerWait}).failure(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)})
	if !strings.Contains(err.Error(), "sudo") || !strings.Contains(err.Error(), "--admin-group") {
		t.Error(err)
	}
}

// TestExitCodes: the verbs that read end with 0 when all is good, 1 when there
// is a finding or a failure, and 2 when they were called wrongly.
func TestExitCodes(t *testing.T) {
	good, bad := filepath.Join("testdata", "policy"), filepath.Join("testdata", "bad.yaml")
	var denied atomic.Bool
	daemon := fakeDaemon(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case explain.Path:
			fmt.Fprintf(w, `{"allowed": %t, "mode": "enforce", "verdict": "deny"}`, !denied.Load())
		case admin.PathStatus:
			fmt.Fprint(w, "{}")
		case admin.PathFlows:
			fmt.Fprintln(w, `{"time": "2026-01-02T03:04:05Z", "kind": "decision", "verdict": "deny", "allowed": false}`) // a denial that is told is no failure of telling
		}
	})
	confused := fakeDaemon(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "no JSON") })
	nobody := t.TempDir()
	for _, tt := range []struct {
		code int
		args []string
	}{
		{exitGood, []string{"check", good}},
		{exitFinding, []string{"check", bad}},
		{exitFinding, []string{"check", "absent.yaml"}},
		{exitFinding, []string{"check", "-o", "json", bad}},
		{exitUsage, []string{"check"}},
		{exitUsage, []string{"check", "--allow-endpoint", "everywhere", good}},
		{exitGood, []string{"explain", "--config", good, "https://www.googleapis.com/"}},
		{exitFinding, []string{"explain", "--config", good, "https://stranger.example/"}},
		{exitFinding, []string{"explain", "--config", good, "--mode", "audit", "https://stranger.example/"}},
		{exitFinding, []string{"explain", "--config", bad, "https://www.googleapis.com/"}},
		{exitFinding, []string{"explain", "--config", good, "--workload", "nobody", "https://www.googleapis.com/"}},
		{exitFinding, []string{"explain", "--state-dir", nobody, "https://www.googleapis.com/"}},
		{exitFinding, []string{"explain", "--state-dir", confused, "https://www.googleapis.com/"}},
		{exitGood, []string{"explain", "--state-dir", daemon, "https://www.googleapis.com/"}},
		{exitUsage, []string{"explain", "https://"}},
		{exitUsage, []string{"explain"}},
		{exitGood, []string{"flows", "--state-dir", daemon}},
		{exitGood, []string{"flows", "--state-dir", daemon, "-o", "json"}},
		{exitFinding, []string{"flows", "--state-dir", nobody}},
		{exitFinding, []string{"flows", "--state-dir", confused}},
		{exitUsage, []string{"flows", "--verdict", "perhaps"}},
		{exitGood, []string{"status", "--state-dir", daemon}},
		{exitFinding, []string{"status", "--state-dir", nobody}},
		{exitFinding, []string{"status", "--state-dir", confused}},
		{exitUsage, []string{"status", "--no-such-flag"}},
		{exitGood, []string{"version"}},
		{exitUsage, []string{"version", "-o", "yaml"}},
		{exitGood, []string{"--help"}},
		{exitUsage, nil},
	} {
		if o := call(t, tt.args...); o.code != tt.code {
			t.Errorf("%v: %+v, want exit code %d", tt.args, o, tt.code)
		}
	}
	denied.Store(true)
	if o := call(t, "explain", "--state-dir", daemon, "https://www.googleapis.com/"); o.code != exitFinding {
		t.Errorf("a denial that the daemon explains: %+v", o)
	}
}
