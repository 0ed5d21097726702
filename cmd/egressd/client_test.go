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
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/agent"
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
		_, err := client{dir, 50 * time.Millisecond}.ask(t.Context(), http.MethodGet, agent.PathStatus, nil)
		if err == nil || !strings.Contains(err.Error(), "does not answer on "+dir) || !strings.Contains(err.Error(), "goes on with the policy") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (client{silent, 50 * time.Millisecond}).follow(t.Context(), agent.PathFlows, nil); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("flows -f: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := daemonAt(silent).ask(ctx, http.MethodGet, agent.PathStatus, nil); err == nil || strings.Contains(err.Error(), "does not answer") {
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
	_, err = client{dir, 50 * time.Millisecond}.ask(t.Context(), http.MethodGet, agent.PathStatus, nil)
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
	body, err := client{dir, wait}.follow(t.Context(), agent.PathFlows, nil)
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
	err := daemonAt("/run/x").failure(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)})
	if !strings.Contains(err.Error(), "sudo") || !strings.Contains(err.Error(), "--admin-group") {
		t.Error(err)
	}
}
