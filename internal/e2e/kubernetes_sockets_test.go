// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/egressd/egressd/internal/kubetest"
	"github.com/egressd/egressd/policy"
)

// TestKubernetesSockets: a ServiceEntry of the API server leads to no unix socket of
// the node, and no flag allows that; to an address of the node it leads when the
// node's operator allows it.
func TestKubernetesSockets(t *testing.T) {
	t.Parallel()
	c := kubetest.Start(t, kubetest.Options{})
	c.InstallIstio(t)
	flags := []string{"--kubernetes", "--kubeconfig", c.Kubeconfig(kubetest.Admin), "--node-name", "node1", "--allow-endpoint", "127.0.0.1:8088"}
	n := prepare(t, nil, nil, flags...)
	n.relay(t, c)
	socket := filepath.Join(n.Dir(), "app.sock")
	var asked atomic.Int32
	serve := func(ln net.Listener, err error, count int32) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "served") })}
		s.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				asked.Add(count)
			}
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(ln) }()
		t.Cleanup(func() { _ = s.Close(); <-done })
	}
	onSocket, err := net.Listen("unix", socket)
	serve(onSocket, err, 1)
	onAddress, err := n.Node.Listen(netip.MustParseAddrPort("127.0.0.1:8088"))
	serve(onAddress, err, 0)
	if e := n.egressd(t, append([]string{"run", "--allow-endpoint", "unix://" + socket}, flags...)...); e.code != 2 || !strings.Contains(e.stderr, "cannot be used with --kubernetes") {
		t.Errorf("a socket is allowed with --kubernetes: %+v", e)
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Apply(t, strings.ReplaceAll(local("app", 1, "unix://"+socket, 80)+local("web", 2, "127.0.0.1", 8088), "tenant-b", "default"))
	eventually(t, soon, "the objects are in force", func() bool {
		return len(n.probe(t, n.in, "lookup", "app.example").Addrs) > 0 && len(n.probe(t, n.in, "lookup", "web.example").Addrs) > 0
	})
	if a := n.curl(t, n.in, "http://web.example/"); a.status != 200 || a.body != "served" {
		t.Errorf("an address that is allowed: %+v", a)
	}
	if a := n.curl(t, n.in, "http://app.example/"); a.status != 502 || !strings.Contains(a.body, string(policy.ReasonEndpoint)) {
		t.Errorf("a socket: %+v", a)
	}
	if got := asked.Load(); got != 0 {
		t.Errorf("the socket was connected to %d times", got)
	}
	if e := n.egressd(t, "explain", "http://app.example/"); e.code != 1 || !strings.Contains(e.stdout, string(policy.ReasonEndpoint)) {
		t.Errorf("explain: %+v", e)
	}
	direct, err := net.Dial("unix", socket) // it is there for whoever may
	if err != nil {
		t.Fatal(err)
	}
	_ = direct.Close()
}
