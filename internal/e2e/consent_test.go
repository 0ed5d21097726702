// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// local is a ServiceEntry whose only endpoint is on the node.
func local(name string, n int, endpoint string, port uint16) string {
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %[1]s, namespace: tenant-b}
spec:
  hosts: [%[1]s.example]
  addresses: [240.0.10.%[2]d, "fd00:240::%[2]d"]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: %[4]d}]
  resolution: STATIC
  endpoints: [{address: "%[3]s"}]
---
`, name, n, endpoint, port)
}

// TestNodeLocalEndpoints: who writes ServiceEntries reaches what the node's
// operator allows of the node, and egressd itself not even then.
func TestNodeLocalEndpoints(t *testing.T) {
	t.Parallel()
	config := local("app", 1, "unix://{dir}/app.sock", 80) + local("other", 2, "unix://{dir}/other.sock", 80) +
		local("link", 3, "unix://{dir}/link.sock", 80) + local("admin", 4, "unix://{dir}/egressd/run/admin.sock", 80) +
		local("web4", 5, "127.0.0.1", 8088) + local("web6", 6, "::1", 8088) + local("closed4", 7, "127.0.0.1", 8089) +
		local("closed6", 8, "::1", 8089) + local("port", 9, "127.0.0.1", 15000) +
		local("status4", 10, world.NodeV4, 15020) + local("status6", 11, world.NodeV6, 15020) + `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: metadata, namespace: tenant-b}
spec:
  hosts: [metadata.example]
  addresses: [169.254.169.254, "fd00:ec2::254", 0.0.0.0/0]
  ports: [{number: 7777, name: tcp, protocol: TCP}]
`
	n := prepare(t, map[string]string{"local.yaml": config}, nil,
		"--allow-endpoint", "unix://{dir}/app.sock", "--allow-endpoint", "unix://{dir}/link.sock", "--allow-endpoint", "unix://{dir}/egressd/run/admin.sock",
		"--allow-endpoint", "127.0.0.1:8088", "--allow-endpoint", "[::1]:8088", "--allow-endpoint", "127.0.0.1:15000", "--admin-address", "localhost:15000")
	serve := func(ln net.Listener, err error) {
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "served") })}
		done := make(chan struct{})
		go func() { defer close(done); s.Serve(ln) }()
		t.Cleanup(func() { s.Close(); <-done })
	}
	for _, name := range []string{"app.sock", "other.sock"} {
		serve(net.Listen("unix", filepath.Join(n.Dir(), name)))
	}
	for _, at := range []string{"127.0.0.1:8088", "[::1]:8088", "127.0.0.1:8089", "[::1]:8089"} {
		serve(n.Node.Listen(netip.MustParseAddrPort(at)))
	}
	if err := os.Symlink("other.sock", filepath.Join(n.Dir(), "link.sock")); err != nil {
		t.Fatal(err)
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"app", "web4", "web6"} {
		if a := n.curl(t, n.in, "http://"+name+".example/"); a.status != 200 || a.body != "served" {
			t.Errorf("%s, which is allowed: %+v", name, a)
		}
	}
	for _, name := range []string{"other", "link", "admin", "closed4", "closed6", "port", "status4", "status6"} {
		a := n.curl(t, n.in, "-X", "POST", "http://"+name+".example/unload")
		if a.status != 502 || !strings.Contains(a.body, string(policy.ReasonEndpoint)) {
			t.Errorf("%s: %+v", name, a)
		}
	}
	n.noWire(t, func() {
		if p := n.probe(t, n.in, "dial", "[fd00:ec2::254]:7777"); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("metadata: %+v", p)
		}
		// Within 0.0.0.0/0 the forwarding core says so.
		n.probe(t, n.in, "dial", "169.254.169.254:7777")
		n.event(t, "the metadata service is denied", func(e flow.Event) bool {
			return e.Dst.String() == "169.254.169.254:7777" && e.Reason == policy.ReasonEndpoint && !e.Allowed
		})
	}, "169.254.169.254", "fd00:ec2::254")
	if !n.status(t).Ready {
		t.Error("egressd is gone")
	}
}
