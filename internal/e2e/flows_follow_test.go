// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// text is a buffer that a process writes to while a test reads it.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (x *text) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(p)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

// TestFollowRestart: who follows goes on with the next daemon, and is told.
func TestFollowRestart(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	var out, says text
	f := n.d.Command(t.Context(), "flows", "-f", "--verdict", "deny", "--state-dir", n.d.StateDir())
	f.Stdout, f.Stderr = &out, &says
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	dial := func(port uint16) {
		t.Helper()
		for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
			n.probe(t, n.in, "dial", hostPort(addr, port))
			eventually(t, soon, "a line about "+hostPort(addr, port), func() bool { return strings.Contains(out.String(), " "+hostPort(addr, port)+" ") })
		}
	}
	dial(1001)
	for i := range 2 {
		_ = n.d.Kill() // the error says that it was killed
		eventually(t, soon, "word of the end", func() bool { return strings.Count(says.String(), "waiting for it") == i+1 })
		if err := n.d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, soon, "word of the next one", func() bool { return strings.Count(says.String(), "connected again") == i+1 })
		dial(uint16(1002 + i))
	}
	for _, port := range []uint16{1001, 1002, 1003} {
		if c := strings.Count(out.String(), " "+hostPort(world.StrangerV4, port)+" "); c != 1 {
			t.Errorf("port %d was told %d times:\n%s", port, c, out.String())
		}
	}
	if err := f.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := f.Wait(); err != nil {
		t.Errorf("%v: %s", err, says.String())
	}
}

// TestDNSDenialsHaveTheirProcess: each program that asks, with its pid.
func TestDNSDenialsHaveTheirProcess(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	n.probe(t, n.in, "lookup", world.Stranger)
	n.run(t, n.in, python(t), "-c", "import socket\ntry: socket.getaddrinfo('"+world.Stranger+"', 80)\nexcept OSError: pass")
	for _, command := range []string{"probe", "python3"} {
		n.event(t, "the question of "+command, func(e flow.Event) bool {
			return e.Kind == flow.Query && e.Name == world.Stranger && e.Reason == policy.ReasonName &&
				strings.HasPrefix(e.Process.Command, command) && e.Process.PID > 0
		})
	}
}
