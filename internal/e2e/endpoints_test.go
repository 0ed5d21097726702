// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// Addresses that nobody has.
const (
	dbVIP            = "240.10.0.1"
	webVIP4, webVIP6 = "240.10.0.2", "fd00:240::2"
	echoVIP4         = "240.10.0.3"
	echoVIP6         = "fd00:240::3"
)

// service is a STATIC ServiceEntry with addresses of its own.
func service(name, host, port, addresses, endpoints string) string {
	return `---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ` + name + `}
spec:
  hosts: [` + host + `]
  addresses: [` + addresses + `]
  ports: [` + port + `]
  resolution: STATIC
  endpoints: [` + endpoints + `]
`
}

// straight waits for the event of a connection that went to an endpoint, and
// fails when the proxy had a part in it.
func (n *node) straight(t *testing.T, vip, endpoint string, v policy.Verdict) flow.Event {
	t.Helper()
	e := n.event(t, vip+" to "+endpoint, func(e flow.Event) bool {
		return e.Layer == flow.Kernel && e.Kind == flow.Decision && e.Dst.String() == vip && e.Allowed
	})
	if e.Verdict != v || e.Upstream.String() != endpoint {
		t.Errorf("%s: %s to %s, want %s to %s", vip, e.Verdict, e.Upstream, v, endpoint)
	}
	for _, e := range n.flows(t) {
		if e.Layer == flow.Egress {
			t.Errorf("the proxy served %+v", e)
		}
	}
	return e
}

// TestVirtualAddress: clients reach a service by addresses that are nowhere;
// the kernel sends them to its endpoints, past the proxy.
func TestVirtualAddress(t *testing.T) {
	t.Parallel()
	var google4, google6 string
	config := map[string]string{}
	n := prepare(t, config, func(w *world.World) {
		mariadb(t, w)
		google4, google6 = w.GoogleAPIs.V4.String(), w.GoogleAPIs.V6.String()
	})
	n.write(t, "services.yaml", service("db", "db.internal", "{number: 3306, name: tcp, protocol: TCP}", dbVIP, "{address: "+world.DBV4+"}")+
		service("web", world.GoogleAPIs, "{number: 443, name: https, protocol: HTTPS}", webVIP4+`, "`+webVIP6+`"`,
			"{address: "+google4+`}, {address: "`+google6+`"}`))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := n.query(t, n.in, "db.internal"); e.code != 0 || e.stdout != "42\n" {
		t.Errorf("the database by name: %+v", e)
	}
	if e := n.straight(t, hostPort(dbVIP, 3306), hostPort(world.DBV4, 3306), policy.Direct); e.Rule == nil || e.Rule.Name != "db" {
		t.Errorf("its event names the rule %v", e.Rule)
	}
	for _, family := range []struct{ flag, vip, endpoint string }{{"-4", webVIP4, google4}, {"-6", webVIP6, google6}} {
		a := n.curl(t, n.in, family.flag, "https://"+world.GoogleAPIs)
		if a.status != 200 || !strings.Contains(a.body, family.endpoint) {
			t.Errorf("%s: %+v, want an answer of %s", family.flag, a, family.endpoint)
		}
		if e := n.straight(t, hostPort(family.vip, 443), hostPort(family.endpoint, 443), policy.Inspect); e.Name != world.GoogleAPIs {
			t.Errorf("%s: the event has the name %q", family.flag, e.Name)
		}
		// Another name at this address, and the endpoint's own address.
		for _, addr := range []string{family.vip, family.endpoint} {
			p := n.probe(t, n.in, "tls", hostPort(addr, 443), world.GoogleAPIs, n.CAFile())
			if p.Status != 200 || p.Peer != hostPort(addr, 443) {
				t.Errorf("%s with its name: %+v", addr, p)
			}
			if p := n.probe(t, n.in, "tls", hostPort(addr, 443), world.Stranger, n.CAFile()); p.Error == "" {
				t.Errorf("%s with a stranger's name: %+v", addr, p)
			}
		}
	}
	e := n.egressd(t, "explain", hostPort(dbVIP, 3306))
	if e.code != 0 || !strings.Contains(e.stdout, "verdict direct") || !strings.Contains(e.stdout, hostPort(world.DBV4, 3306)) {
		t.Errorf("explain: %+v", e)
	}
	// The twins: without egressd the endpoints are there, the addresses are
	// not.
	if e := n.query(t, nil, world.DBV4); e.stdout != "42\n" {
		t.Errorf("uncaptured, the endpoint: %+v", e)
	}
	if e := n.query(t, nil, dbVIP); e.code == 0 {
		t.Errorf("uncaptured, the virtual address: %+v", e)
	}
	if p := n.probe(t, nil, "tls", hostPort(google6, 443), world.Stranger, n.CAFile()); p.Status == 0 && p.Error == "" {
		t.Errorf("uncaptured, TLS: %+v", p)
	}
}

// reload changes a file of the policy and waits until it is in force.
func (n *node) reload(t *testing.T, name, text string) {
	t.Helper()
	before := n.status(t).Policy.Hash
	n.write(t, name, text)
	eventually(t, soon, "the new policy is in force", func() bool { return n.status(t).Policy.Hash != before })
}

// TestEndpointTakenOut: a connection to an endpoint outlives the daemon, and
// ends when a policy change takes the endpoint out.
func TestEndpointTakenOut(t *testing.T) {
	t.Parallel()
	const port = "{number: 7, name: tcp, protocol: TCP}"
	var spare *world.Server
	n := prepare(t, nil, func(w *world.World) {
		var err error
		if spare, err = w.AddTCP(netip.MustParseAddrPort(hostPort(world.DBV4, 7)), ""); err != nil {
			t.Fatal(err)
		}
	})
	entry := func(v4 string) string {
		return service("echo", "echo.internal", port, echoVIP4+`, "`+echoVIP6+`"`, v4+`, {address: "`+n.Echo6.Addr.Addr().String()+`"}`)
	}
	first, second := "{address: "+n.Echo.Addr.Addr().String()+"}", "{address: "+spare.Addr.Addr().String()+"}"
	n.write(t, "echo.yaml", entry(first))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	four, six := n.open(t, hostPort(echoVIP4, 7)), n.open(t, hostPort(echoVIP6, 7))
	if !four.echo("before") || !six.echo("before") {
		t.Fatal("the connections do not work")
	}
	if n.Echo.Hits() != 1 || n.Echo6.Hits() != 1 {
		t.Fatalf("%d and %d connections reached the endpoints", n.Echo.Hits(), n.Echo6.Hits())
	}
	_ = n.d.Kill() // the error says that it was killed
	if !four.echo("killed") || !six.echo("killed") {
		t.Error("a connection did not outlive the daemon")
	}
	if p := n.probe(t, n.in, "dial", hostPort(echoVIP6, 7)); p.Error != "" || p.Peer != hostPort(echoVIP6, 7) {
		t.Errorf("killed: %+v", p)
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !four.echo("back") || !six.echo("back") {
		t.Error("a connection did not outlive the restart")
	}
	n.reload(t, "echo.yaml", entry(first+", "+second))
	if !four.echo("one more") || !six.echo("one more") {
		t.Error("one more endpoint cut a connection")
	}
	n.reload(t, "echo.yaml", entry(second))
	if four.echo("gone") {
		t.Error("a connection to an endpoint that was taken out goes on")
	}
	if !six.echo("gone") {
		t.Error("a connection to an endpoint that stays was cut")
	}
	n.event(t, "the connection that was cut", func(e flow.Event) bool {
		return e.Reason == policy.ReasonPolicyChanged && e.Dst.String() == hostPort(echoVIP4, 7) && e.Upstream == n.Echo.Addr
	})
	again := n.open(t, hostPort(echoVIP4, 7))
	if !again.echo("again") || spare.Hits() != 1 {
		t.Errorf("a new connection; the other endpoint has %d", spare.Hits())
	}
}
