// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/internal/testenv"
)

// TestReadyHere: a container's probe is content with the daemon of its own container,
// when that is ready, and with no other one.
func TestReadyHere(t *testing.T) {
	for _, tt := range []struct {
		name  string
		pid   int
		ready bool
		want  string // in the error; "": none
	}{
		{"its own", os.Getpid(), true, ""},
		{"its own, not ready", os.Getpid(), false, "not ready"},
		{"another one's", otherMounts(t), true, "another container's"},
		{"nobody's", 1 << 22, true, "see whose the daemon is"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := fakeDaemon(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == admin.PathStatus {
					fmt.Fprintf(w, `{"pid": %d, "ready": %t}`, tt.pid, tt.ready)
				}
			})
			o := call(t, "status", "--ready-here", "--state-dir", dir)
			switch {
			case tt.want == "" && (o.code != exitGood || o.stdout != ""):
				t.Errorf("%+v", o)
			case tt.want != "" && (o.code != exitFinding || !strings.Contains(o.stderr, tt.want)):
				t.Errorf("%+v, want %q", o, tt.want)
			}
		})
	}
	if o := call(t, "status", "--ready-here", "--state-dir", t.TempDir()); o.code != exitFinding {
		t.Errorf("without a daemon: %+v", o)
	}
}

// otherMounts starts a process in a mount namespace of its own and returns its pid.
func otherMounts(t *testing.T) int {
	t.Helper()
	testenv.RequireRoot(t)
	c := exec.Command("sh", "-c", "echo; read end")
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // ends it
		_ = c.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return c.Process.Pid
}
