// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/machine"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// guest is a machine with a stack of its own beside the node.
type guest struct {
	*machine.Machine
	t   *testing.T
	cas *x509.CertPool
}

func newGuest(t *testing.T, w *world.World, name string, number int) *guest {
	t.Helper()
	m, err := machine.New(w, name, number)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	pem, err := os.ReadFile(w.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{Machine: m, t: t, cas: x509.NewCertPool()}
	g.cas.AppendCertsFromPEM(pem)
	return g
}

// lookup resolves by a server of the guest's choice.
func (g *guest) lookup(server, name string) ([]netip.Addr, error) {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		at := netip.AddrPortFrom(netip.MustParseAddr(server), 53)
		if strings.HasPrefix(network, "tcp") {
			return g.Dial(ctx, at)
		}
		return g.DialUDP(at)
	}}
	ctx, cancel := context.WithTimeout(g.t.Context(), soon)
	defer cancel()
	return r.LookupNetIP(ctx, "ip", name+".")
}

// get asks a site at an address; sni is what the ClientHello says.
func (g *guest) get(url, sni string, at netip.Addr) (int, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: g.cas, ServerName: sni, InsecureSkipVerify: sni == world.Stranger},
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			_, port, _ := strings.Cut(addr, ":")
			return g.Dial(ctx, netip.MustParseAddrPort(hostPort(at.String(), map[string]uint16{"80": 80, "443": 443}[port])))
		},
	}
	ctx, cancel := context.WithTimeout(g.t.Context(), soon)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func (g *guest) refused(dst string) bool {
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Second)
	defer cancel()
	c, err := g.Dial(ctx, netip.MustParseAddrPort(dst))
	if err == nil {
		_ = c.Close()
	}
	return err != nil && strings.Contains(err.Error(), "refused")
}

// TestMachine: a machine whose sockets are in no kernel of ours is under the
// same policy as a process: names, TLS, HTTP, and nobody else.
func TestMachine(t *testing.T) {
	t.Parallel()
	testenv.RequireTun(t)
	var g *guest
	n := prepare(t, seed(t, "googleapis.yaml"), func(w *world.World) { g = newGuest(t, w, "tap0", 0) }, "--interfaces", "tap*")
	strangers := []netip.Addr{netip.MustParseAddr(world.StrangerV4), netip.MustParseAddr(world.StrangerV6)}
	for _, a := range strangers { // the twin
		if status, err := g.get("https://"+world.Stranger+"/", world.Stranger, a); status != 200 {
			t.Fatalf("without egressd the stranger at %s: %d, %v", a, status, err)
		}
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.policyHolds(t, g)
	e := n.event(t, "a denial by interface", func(e flow.Event) bool { return !e.Allowed && e.Interface == "tap0" })
	if e.Process.PID != 0 || e.Workload != "node" {
		t.Errorf("%+v", e)
	}
	n.event(t, "what is inspected", func(e flow.Event) bool {
		return e.Interface == "tap0" && e.Name == world.GoogleAPIs && e.Verdict == policy.Inspect && e.Allowed
	})
	text := n.egressd(t, "status").stdout
	for _, want := range []string{"tap0, workload", "eth0, uplink", "egd_tc_from", "egd_tc_uplink"} {
		if !strings.Contains(text, want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}
	// A machine that comes later.
	newer := newGuest(t, n.World, "tap1", 1)
	eventually(t, soon, "tap1 is guarded", func() bool {
		return strings.Contains(n.egressd(t, "status").stdout, "tap1, workload")
	})
	if err := newer.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, soon, "tap1 is gone", func() bool {
		return !strings.Contains(n.egressd(t, "status").stdout, "tap1")
	})
	// Nobody is there: what the kernel decides alone goes on.
	if err := n.d.Kill(); err != nil {
		t.Fatal(err)
	}
	if status, err := g.get("https://"+world.GoogleAPIs+"/", world.GoogleAPIs, n.GoogleAPIs.V4); status != 200 {
		t.Errorf("TLS with no daemon: %d, %v", status, err)
	}
	if !g.refused(hostPort(n.GoogleAPIs.V4.String(), 80)) || !g.refused(hostPort(world.StrangerV4, 443)) {
		t.Error("with no daemon: what is proxied and the stranger are to be refused")
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.policyHolds(t, g)
}

// policyHolds tries what the policy allows and what it does not.
func (n *node) policyHolds(t *testing.T, g *guest) {
	t.Helper()
	for _, server := range []string{world.ResolverV4, world.OtherResolverV6} {
		addrs, err := g.lookup(server, world.GoogleAPIs)
		if err != nil || len(addrs) != 2 {
			t.Fatalf("lookup at %s: %v, %v", server, addrs, err)
		}
		if addrs, err := g.lookup(server, world.Stranger); err == nil {
			t.Errorf("the stranger at %s: %v", server, addrs)
		}
	}
	for _, a := range []netip.Addr{n.GoogleAPIs.V4, n.GoogleAPIs.V6} {
		for _, scheme := range []string{"https", "http"} {
			if status, err := g.get(scheme+"://"+world.GoogleAPIs+"/", world.GoogleAPIs, a); status != 200 {
				t.Errorf("%s at %s: %d, %v", scheme, a, status, err)
			}
		}
		hits := n.GoogleAPIs.Hits()
		if status, err := g.get("https://"+world.Stranger+"/", world.Stranger, a); err == nil || n.GoogleAPIs.Hits() != hits {
			t.Errorf("another SNI at %s: %d", a, status)
		}
		if status, _ := g.get("http://"+world.Stranger+"/", "", a); status == 200 || n.GoogleAPIs.Hits() != hits {
			t.Errorf("another Host at %s: %d", a, status)
		}
	}
	n.noWire(t, func() {
		for _, a := range []string{world.StrangerV4, world.StrangerV6} {
			if !g.refused(hostPort(a, 443)) {
				t.Errorf("%s was not refused", a)
			}
		}
	}, world.StrangerV4, world.StrangerV6)
}

// wholeNode makes the daemon take its captured cgroup for the root of all: it
// starts inside it and sees it through a cgroup namespace.
const wholeNode = `echo $$ >"$0/cgroup.procs" && root=$1 && shift &&
exec unshare --cgroup --mount sh -c 'umount -l "$0"; mount -t cgroup2 cgroup2 "$0" && exec "$@"' "$root" "$@"`

// TestWholeNode: when all is captured, taps and veths are guarded without being
// named.
func TestWholeNode(t *testing.T) {
	t.Parallel()
	testenv.RequireTun(t)
	testenv.RequireTool(t, "unshare")
	root, err := world.CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	var g *guest
	n := prepare(t, seed(t, "googleapis.yaml"), func(w *world.World) {
		g = newGuest(t, w, "tap0", 0)
		if _, err := w.AddNeighbour("pod0", 1); err != nil {
			t.Fatal(err)
		}
	}, "--cgroup", root)
	n.d.Prefix = []string{"sh", "-c", wholeNode, n.d.Root.Path(), root}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	text := n.egressd(t, "status").stdout
	for _, want := range []string{"tap0, workload", "pod0, workload", "eth0, uplink"} {
		if !strings.Contains(text, want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}
	n.policyHolds(t, g)
	n.learn(t, world.GoogleAPIs) // processes, as ever
	// Its cgroup is in the captured one, which it cannot remove from there.
	if err := n.d.Kill(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(n.d.Root.Path(), "egressd")); err != nil {
		t.Error(err)
	}
}
