// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// TestLastGood: a daemon that is started while its policy is broken goes on
// with the last one, says so, and takes the new one once it is good.
func TestLastGood(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{"policy.yaml": tcp("keep", world.API, "7")}, nil)
	n.learn(t, world.API)
	allowed, refused := n.Echo.Addr.String(), hostPort(world.StrangerV4, 443)
	check := func(when string) {
		t.Helper()
		if p := n.probe(t, n.in, "dial", allowed); p.Error != "" {
			t.Errorf("%s: allowed: %+v", when, p)
		}
		if p := n.probe(t, n.in, "dial", refused); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("%s: not allowed: %+v, want ECONNREFUSED", when, p)
		}
	}
	check("first start")
	eventually(t, soon, "what was learned is on disk", func() bool {
		b, err := os.ReadFile(filepath.Join(n.d.StateDir(), "learned.json"))
		return err == nil && strings.Contains(string(b), n.Echo.Addr.Addr().String())
	})
	_ = n.d.Kill() // the error says that it was killed
	n.write(t, "policy.yaml", "kind: ServiceEntry\n")
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("broken policy")
	if log := n.d.Log(); !strings.Contains(log, "the last good one is in force") {
		t.Errorf("the log does not say so:\n%s", log)
	}
	if s := n.status(t); !strings.Contains(s.Policy.Error, "apiVersion") {
		t.Errorf("status: policy error %q, want what is wrong", s.Policy.Error)
	}
	n.write(t, "policy.yaml", tcp("other", world.GoogleAPIs, "443"))
	eventually(t, 2*time.Second, "the mended policy is in force", func() bool {
		return n.status(t).Policy.Error == ""
	})
	if p := n.probe(t, n.in, "dial", allowed); p.Errno != syscall.ECONNREFUSED {
		t.Errorf("mended policy: no longer allowed: %+v, want ECONNREFUSED", p)
	}
	_ = n.d.Kill() // the error says that it was killed
	// Without a file that can be trusted a broken policy is what it was: no start.
	n.write(t, "policy.yaml", "kind: ServiceEntry\n")
	file := filepath.Join(n.d.StateDir(), "last-good.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(data), `"data"`)
	data[at+20] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.d.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "last good policy could not be read") {
		t.Errorf("a damaged file: %v", err)
	}
	if p := n.probe(t, n.in, "dial", refused); p.Errno != syscall.ECONNREFUSED {
		t.Errorf("after a start that failed: %+v, want ECONNREFUSED", p)
	}
}
