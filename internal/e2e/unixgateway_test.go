// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// socketConfig is the seed's bookinfo behind a unix socket in the place of its port.
func socketConfig(t *testing.T) map[string]string {
	t.Helper()
	config := seed(t, "bookinfo-gateway.yaml")
	config["productpage.yaml"] = productpage
	const port, socket = "      number: 80\n", "      number: 0\n"
	text := config["bookinfo-gateway.yaml"]
	if strings.Count(text, port) != 1 {
		t.Fatalf("the seed's Gateway has changed:\n%s", text)
	}
	config["bookinfo-gateway.yaml"] = strings.Replace(text, "  - port:\n"+port, "  - bind: \"unix://{dir}/web/site.sock\"\n    port:\n"+socket, 1)
	return config
}

// behindSocket is the server that socketConfig leads to.
func behindSocket(t *testing.T) func(*world.World) {
	return func(w *world.World) {
		if _, err := w.AddOrigin(world.OriginConfig{
			Names: []string{"productpage.example"}, V4: netip.MustParseAddr("10.96.7.80"), HTTP: []uint16{9080}, HTTPS: []uint16{},
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStoredGatewaySocket: who connects to a Gateway's unix socket while the daemon is
// started anew waits and is served, if the service manager keeps the listener. The
// twin: without a store nobody listens.
func TestStoredGatewaySocket(t *testing.T) {
	t.Parallel()
	n := prepare(t, socketConfig(t), behindSocket(t), "--gateway-selector", "istio=ingressgateway", "--gateway-socket-dir", "{dir}/web", "--drain-time", "1s")
	at := filepath.Join(n.Dir(), "web", "site.sock")
	if err := os.Mkdir(filepath.Dir(at), 0o750); err != nil {
		t.Fatal(err)
	}
	m := newManager(t)
	n.d.Prefix = m.prefix(time.Minute)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.d.Terminate(); err != nil {
		t.Error(err)
	}
	c, err := net.Dial("unix", at)
	if err != nil {
		t.Fatalf("while no daemon runs: %v", err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /productpage HTTP/1.1\r\nHost: bookinfo.example\r\nConnection: close\r\n\r\n"); err != nil {
		t.Error(err)
	}
	m.give(n.d)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 200 ") {
		t.Errorf("who waited: %q, %v", got, err)
	}
	m.drop()
	if err := n.d.Terminate(); err != nil {
		t.Error(err)
	}
	m.drop()
	if c, err := net.Dial("unix", at); err == nil {
		_ = c.Close()
		t.Error("without a store somebody listens")
	}
}

// TestGatewaySocket: the seed's bookinfo behind a unix socket in the place of its port:
// the same routes, also when another daemon has taken over; the file goes with the last.
func TestGatewaySocket(t *testing.T) {
	t.Parallel()
	n := prepare(t, socketConfig(t), behindSocket(t), "--gateway-selector", "istio=ingressgateway", "--gateway-socket-dir", "{dir}/web", "--drain-time", "1s")
	dir := filepath.Join(n.Dir(), "web")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "site.sock")
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	served := func(when string) {
		t.Helper()
		a := n.visit(t, "--unix-socket", at, "http://bookinfo.example/productpage")
		var e world.Echo
		if err := json.Unmarshal([]byte(a.body), &e); a.status != 200 || err != nil || e.Path != "/productpage" {
			t.Errorf("%s: %+v, %v", when, a, err)
		}
		if a := n.visit(t, "--unix-socket", at, "http://bookinfo.example/admin"); a.status != 404 {
			t.Errorf("%s, without a route: %+v", when, a)
		}
	}
	served("at first")
	if s := n.status(t); len(s.Gateway) != 1 || s.Gateway[0] != "unix:"+at {
		t.Errorf("status shows %q", s.Gateway)
	}
	before, err := os.Lstat(at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.d.Takeover(t.Context()); err != nil {
		t.Fatal(err)
	}
	served("after a takeover")
	if now, err := os.Lstat(at); err != nil || !os.SameFile(before, now) {
		t.Errorf("the file after a takeover: %v", err)
	}
	if err := n.d.Terminate(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(at); !os.IsNotExist(err) {
		t.Errorf("the file at the end: %v", err)
	}
}
