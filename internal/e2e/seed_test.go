// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// reply is what the Python and Node.js clients print.
type reply struct {
	Status int    `json:"status"`
	Body   string `json:"body"`
	Error  string `json:"error"`
	Errno  int    `json:"errno"`
	Type   string `json:"type"` // Python: the exception
	Code   string `json:"code"` // Node.js: the error's name
	Addrs  []string
	Peer   []any
	Ways   map[string]string // what bypass tried
}

// scripted runs one of the scripts of testdata.
func (n *node) scripted(t *testing.T, cg *world.Cgroup, args ...string) reply {
	t.Helper()
	e := n.run(t, cg, args[0], args[1:]...)
	var r reply
	if err := json.Unmarshal([]byte(e.stdout), &r); err != nil {
		t.Fatalf("%v: %v: %q %s", args, err, e.stdout, e.stderr)
	}
	return r
}

// TestSeedGoogleAPIs is the seed's ServiceEntry with every client that people
// use: what it names is reached, everything else is refused at once.
func TestSeedGoogleAPIs(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	strangers := []string{world.StrangerV4, world.StrangerV6, world.OtherResolverV4, world.OtherResolverV6}
	n.noWire(t, func() {
		t.Run("curl", func(t *testing.T) { seedCurl(t, n) })
		t.Run("python", func(t *testing.T) { seedPython(t, n) })
		t.Run("node", func(t *testing.T) { seedNode(t, n) })
		t.Run("go", func(t *testing.T) { seedGo(t, n) })
		t.Run("dns", func(t *testing.T) { seedDNS(t, n) })
	}, strangers...)
	if asked := n.DNS.Asked(world.Stranger); asked != 0 {
		t.Errorf("%d questions about %s were forwarded", asked, world.Stranger)
	}
	// The twin: what was refused is there for whoever is not captured.
	for _, a := range []string{hostPort(world.StrangerV4, 80), hostPort(world.StrangerV6, 80)} {
		if p := n.probe(t, nil, "dial", a); p.Error != "" {
			t.Errorf("uncaptured: %s: %s", a, p.Error)
		}
	}
	if a := n.curl(t, nil, "http://"+world.Stranger); a.status != 200 {
		t.Errorf("uncaptured: %+v", a)
	}
}

func seedCurl(t *testing.T, n *node) {
	for _, family := range []string{"-4", "-6"} {
		for _, scheme := range []string{"http", "https"} {
			a := n.curl(t, n.in, family, scheme+"://"+world.GoogleAPIs+"/x?y=1")
			var e world.Echo
			if err := json.Unmarshal([]byte(a.body), &e); a.status != 200 || err != nil ||
				e.Origin != world.GoogleAPIs || e.Host != world.GoogleAPIs || e.Path != "/x" || e.Query != "y=1" {
				t.Errorf("%s %s: %+v", family, scheme, a)
			}
		}
	}
	tests := []struct {
		args []string
		exit int
	}{
		{[]string{"http://" + world.Stranger}, curlResolve},
		{[]string{"https://" + world.API}, curlResolve},
		{[]string{"http://" + world.StrangerV4}, curlConnect},
		{[]string{"http://[" + world.StrangerV6 + "]"}, curlConnect},
		{[]string{"https://" + world.StrangerV4}, curlConnect},
		{[]string{"http://" + world.GoogleAPIs + ":8080"}, curlConnect},
		{[]string{"https://" + world.OtherResolverV4 + "/dns-query"}, curlConnect},
	}
	for _, tt := range tests {
		if a := n.curl(t, n.in, tt.args...); a.exit != tt.exit || a.status != 0 {
			t.Errorf("%v: %+v, want exit code %d", tt.args, a, tt.exit)
		}
	}
}

func seedPython(t *testing.T, n *node) {
	py := []string{python(t), script(t, "client.py")}
	run := func(args ...string) reply { return n.scripted(t, n.in, append(slices.Clone(py), args...)...) }
	google := n.GoogleAPIs
	for _, args := range [][]string{{"urlopen", "http://" + google.Name + "/"}, {"urlopen", "https://" + google.Name + "/"}, {"https", google.Name}} {
		if r := run(args...); r.Status != 200 || !strings.Contains(r.Body, google.Name) {
			t.Errorf("%v: %+v", args, r)
		}
	}
	for _, addr := range []string{google.V4.String(), google.V6.String()} {
		for _, verb := range []string{"connect", "nonblocking"} {
			for _, port := range []string{"80", "443"} {
				// getpeername shows what was dialled, not a listener of egressd.
				if r := run(verb, addr, port); len(r.Peer) != 2 || r.Peer[0] != addr {
					t.Errorf("%s %s %s: %+v", verb, addr, port, r)
				}
			}
		}
	}
	for _, addr := range []string{world.StrangerV4, world.StrangerV6, "::ffff:" + world.StrangerV4} {
		for _, verb := range []string{"connect", "nonblocking"} {
			if r := run(verb, addr, "80"); r.Errno != int(syscall.ECONNREFUSED) {
				t.Errorf("%s %s: %+v, want ECONNREFUSED", verb, addr, r)
			}
		}
	}
	mapped := "::ffff:" + google.V4.String()
	if r := run("connect", mapped, "443"); len(r.Peer) != 2 || r.Peer[0] != mapped {
		t.Errorf("connect %s: %+v", mapped, r)
	}
	if r := run("lookup", world.Stranger); r.Type != "gaierror" {
		t.Errorf("lookup: %+v", r)
	}
	if r := run("urlopen", "http://"+world.Stranger+"/"); r.Type != "gaierror" {
		t.Errorf("urlopen: %+v", r)
	}
}

func seedNode(t *testing.T, n *node) {
	testenv.RequireTool(t, "node")
	run := func(args ...string) reply {
		return n.scripted(t, n.in, append([]string{"node", script(t, "client.mjs")}, args...)...)
	}
	google := n.GoogleAPIs
	for _, args := range [][]string{
		{"get", "http://" + google.Name + "/", "4"}, {"get", "http://" + google.Name + "/", "6"},
		{"get", "https://" + google.Name + "/", "4"}, {"get", "https://" + google.Name + "/", "6"},
		{"fetched", "https://" + google.Name + "/"},
	} {
		if r := run(args...); r.Status != 200 || !strings.Contains(r.Body, google.Name) {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if r := run("resolve", google.Name); !slices.Equal(r.Addrs, []string{google.V4.String()}) {
		t.Errorf("resolve: %+v", r)
	}
	if r := run("connect", google.V4.String(), "443"); len(r.Peer) != 2 || r.Peer[0] != google.V4.String() {
		t.Errorf("connect: %+v", r)
	}
	if r := run("resolve", world.Stranger); r.Code != "ENOTFOUND" {
		t.Errorf("resolve: %+v, want ENOTFOUND", r)
	}
	for _, args := range [][]string{{"connect", world.StrangerV4, "443"}, {"connect", world.StrangerV6, "443"}, {"get", "http://" + world.StrangerV4 + "/"}} {
		if r := run(args...); r.Code != "ECONNREFUSED" {
			t.Errorf("%v: %+v, want ECONNREFUSED", args, r)
		}
	}
	if r := run("fetched", "https://"+world.Stranger+"/"); r.Status != 0 || r.Error == "" {
		t.Errorf("fetch: %+v", r)
	}
}

// seedGo uses a static binary: no libc whose calls could be intercepted.
func seedGo(t *testing.T, n *node) {
	for _, scheme := range []string{"http", "https"} {
		if p := n.probe(t, n.in, "get", scheme+"://"+world.GoogleAPIs+"/", n.CAFile()); p.Status != 200 {
			t.Errorf("%s: %+v", scheme, p)
		}
	}
	for _, addr := range []string{n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()} {
		if p := n.probe(t, n.in, "dial", hostPort(addr, 443)); p.Peer != hostPort(addr, 443) {
			t.Errorf("%s: %+v", addr, p)
		}
		for _, port := range []uint16{22, 8443} {
			if p := n.probe(t, n.in, "dial", hostPort(addr, port)); p.Errno != syscall.ECONNREFUSED {
				t.Errorf("%s port %d: %+v, want ECONNREFUSED", addr, port, p)
			}
		}
		// connect() of UDP sends nothing, and getaddrinfo sorts addresses with
		// it (RFC 6724); so the first datagram is what is refused.
		if p := n.probe(t, n.in, "udp", hostPort(addr, 443), "quic"); p.Errno != syscall.EPERM {
			t.Errorf("UDP %s: %+v, want EPERM", addr, p)
		}
	}
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		for _, port := range []uint16{80, 443, 9} {
			if p := n.probe(t, n.in, "dial", hostPort(addr, port)); p.Errno != syscall.ECONNREFUSED {
				t.Errorf("%s port %d: %+v, want ECONNREFUSED", addr, port, p)
			}
		}
		if p := n.probe(t, n.in, "udp", hostPort(addr, 443), "quic"); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("UDP %s: %+v, want ECONNREFUSED", addr, p)
		}
	}
	if p := n.probe(t, n.in, "lookup", world.Stranger); p.Error == "" || len(p.Addrs) > 0 {
		t.Errorf("lookup: %+v", p)
	}
}

// seedDNS asks every resolver in every way.
func seedDNS(t *testing.T, n *node) {
	const blocked = 15 // RFC 8914, 4.16
	for _, server := range []string{world.ResolverV4, world.ResolverV6, world.OtherResolverV4, world.OtherResolverV6, world.StrangerV4} {
		for _, network := range []string{"udp", "tcp", "sendto"} {
			at := hostPort(server, 53)
			if p := n.probe(t, n.in, "dns", network, at, world.GoogleAPIs, "A"); p.Rcode != "NOERROR" || !slices.Equal(p.Addrs, []string{n.GoogleAPIs.V4.String()}) {
				t.Errorf("%s %s: %+v", network, at, p)
			}
			for _, name := range []string{world.Stranger, "x." + world.GoogleAPIs, "googleapis.com", "nowhere.invalid"} {
				if p := n.probe(t, n.in, "dns", network, at, name, "A"); p.Rcode != "NXDOMAIN" || p.EDE != blocked || len(p.Addrs) > 0 {
					t.Errorf("%s %s %s: %+v, want NXDOMAIN with extended error %d", network, at, name, p, blocked)
				}
			}
		}
	}
	if p := n.probe(t, nil, "dns", "udp", hostPort(world.ResolverV4, 53), world.API, "A"); p.Rcode != "NOERROR" || len(p.Addrs) != 1 {
		t.Errorf("uncaptured: %+v", p)
	}
}
