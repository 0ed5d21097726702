// SPDX-License-Identifier: Apache-2.0

//go:build node

package nodetest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestRolledUnderLoad: the DaemonSet is rolled without one failed request and without
// one packet that escapes.
func TestRolledUnderLoad(t *testing.T) {
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	underLoad(t, n, ns, func() {
		n.MustKubectl(t, "-n", system, "rollout", "restart", "daemonset")
		if err := n.rollout(); err != nil {
			t.Fatal(err)
		}
	})
}

// daemons has a line for each of egressd's pods: its name, and a part of its status as
// JSONPath has it.
func (n *Node) daemons(t *testing.T, status string) string {
	t.Helper()
	return strings.TrimSpace(n.MustKubectl(t, "-n", system, "get", "pods", "-l", "app.kubernetes.io/name=egressd",
		"-o", `jsonpath={range .items[*]}{.metadata.name} `+status+`{"\n"}{end}`))
}

// unreadied refuses the kubelet's question whether egressd is ready ("GET /healthz/r"
// behind 32 bytes of TCP), and no other.
const unreadied = `table inet unreadied {
	chain in {
		type filter hook input priority 0;
		tcp dport 15021 @th,256,112 0x474554202f6865616c74687a2f72 reject with tcp reset
	}
}
`

// TestRolledNotReady: where the kubelet calls a daemon not ready, as a node that
// is short of processor time does, the DaemonSet's controller deletes its pod as soon as
// there is another one, whether that is ready or not. The daemon serves until the
// other one has taken over: no request fails.
func TestRolledNotReady(t *testing.T) {
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	if err := n.rollout(); err != nil {
		t.Fatal(err)
	}
	pods := func() string {
		return n.daemons(t, `{.status.conditions[?(@.type=="Ready")].status} {.metadata.deletionTimestamp}`)
	}
	old, _, _ := strings.Cut(pods(), " ")
	underLoad(t, n, ns, func() {
		if _, err := n.Run("nft", unreadied); err != nil {
			t.Fatal(err)
		}
		ready := false
		again := func() {
			if !ready {
				ready = true
				if _, err := n.Run("nft", "delete", "table", "inet", "unreadied"); err != nil {
					t.Error(err)
				}
			}
		}
		defer again()
		Eventually(t, 60*time.Second, func() error {
			if now := pods(); strings.TrimSpace(now) != old+" False" {
				return fmt.Errorf("the pods are %q", now)
			}
			return nil
		})
		n.MustKubectl(t, "-n", system, "rollout", "restart", "daemonset")
		Eventually(t, 60*time.Second, func() error { // no pod can be ready yet
			for line := range strings.Lines(pods()) {
				if f := strings.Fields(line); f[0] == old && len(f) < 3 {
					return fmt.Errorf("the pods are %q", pods())
				}
			}
			return nil
		})
		again()
		if err := n.rollout(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestRolledBack: a new pod that has taken over but is never ready is deleted by a
// rollback. The pod before it is still there, whose process serves again at once: nobody
// waits for the kubelet, and nothing escapes.
func TestRolledBack(t *testing.T) {
	n := withEgressd(t)
	ns := n.Namespace(t, "enforce")
	if err := n.rollout(); err != nil {
		t.Fatal(err)
	}
	pods := func() string { return n.daemons(t, "{.status.containerStatuses[0].restartCount}") }
	old := pods()
	if len(strings.Fields(old)) != 2 {
		t.Fatalf("the pods are %q", old)
	}
	n.RunPod(t, Pod{Namespace: ns, Name: "client"})
	asks := func() error { return n.Get(ns, "client", allowed) }
	Eventually(t, 20*time.Second, asks)
	n.nothingEscapes(t, func() {
		n.MustKubectl(t, "-n", system, "patch", "daemonset", "egressd", "--type=json",
			"-p", `[{"op": "replace", "path": "/spec/template/spec/containers/0/readinessProbe/httpGet/path", "value": "/never"}]`)
		// A container is started when its own daemon serves.
		Eventually(t, 60*time.Second, func() error {
			now := n.daemons(t, "{.status.containerStatuses[0].started}")
			for line := range strings.Lines(now) {
				if f := strings.Fields(line); !strings.HasPrefix(old, f[0]+" ") && f[len(f)-1] == "true" {
					return nil
				}
			}
			return fmt.Errorf("nobody has taken over: %q", now)
		})
		Eventually(t, 20*time.Second, asks)
		n.MustKubectl(t, "-n", system, "rollout", "undo", "daemonset", "egressd")
		Eventually(t, 60*time.Second, func() error {
			if now := pods(); now != old {
				return fmt.Errorf("the pods are %q, and were %q", now, old)
			}
			return nil
		})
		// A restart by the kubelet, whose probe fails three times first, takes 30 s.
		Eventually(t, 10*time.Second, asks)
	})
	if err := n.rollout(); err != nil {
		t.Fatal(err)
	}
	if now := pods(); now != old {
		t.Errorf("the pods are %q, and were %q", now, old)
	}
}
