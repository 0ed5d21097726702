// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// atOnce is less than any client waits for a server that does not answer.
const atOnce = 2 * time.Second

// libraries are programs that resolve their argument, by the library.
func libraries(t *testing.T) map[string][]string {
	t.Helper()
	for _, tool := range []string{"gcc", "musl-gcc", "node"} {
		testenv.RequireTool(t, tool)
	}
	dir := t.TempDir()
	build := func(compiler string) string {
		t.Helper()
		to := filepath.Join(dir, compiler)
		// Against musl it is static: there the name of the loader is another.
		args := []string{"-o", to, "testdata/resolve/resolve.c"}
		if compiler == "musl-gcc" {
			args = append(args, "-static")
		}
		if out, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", compiler, err, out)
		}
		return to
	}
	all := map[string][]string{
		"glibc":   {build("gcc")},
		"musl":    {build("musl-gcc")},
		"Node.js": {"node", "-e", `require("dns").resolve4(process.argv[1], (e, a) => { console.log(e ? e.code : a.join("\n")); process.exitCode = e ? 1 : 0 })`},
		"Go":      {probe, "lookup"},
	}
	// Debian's package is for Debian's interpreter.
	cares := exec.Command("/usr/bin/python3", "-c", "import pycares")
	if err := cares.Run(); err != nil {
		if os.Getenv("EGRESSD_CI") != "" {
			t.Fatalf("python3-pycares is not installed: %v", err)
		}
		t.Logf("without c-ares: %v", err)
		return all
	}
	all["c-ares"] = []string{"/usr/bin/python3", "testdata/resolve/cares.py"}
	return all
}

// resolve runs a program with a resolv.conf of its own, as a container has.
func (n *node) resolve(t *testing.T, cg *world.Cgroup, conf string, command []string, name string) (out string, took time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), clientTimeout)
	defer cancel()
	c := n.Node.Command(ctx, cg, command[0], append(command[1:], name)...).Bind(
		conf, "/etc/resolv.conf",
		filepath.Join(n.Dir(), "hosts"), "/etc/hosts",
		filepath.Join(n.Dir(), "nsswitch.conf"), "/etc/nsswitch.conf",
		os.DevNull, "/run/nscd/socket",
	)
	began := time.Now()
	e := finish(t, c)
	return e.stdout + e.stderr, time.Since(began)
}

// TestDeniedNames: in whatever library, a name that is not allowed fails at
// once, and an allowed one is found behind search suffixes, which may be the
// program's own.
func TestDeniedNames(t *testing.T) {
	t.Parallel()
	programs := libraries(t)
	for _, rcode := range []string{"", "REFUSED"} {
		t.Run("rcode="+rcode, func(t *testing.T) {
			t.Parallel()
			var flags []string
			if rcode != "" {
				flags = []string{"--dns-denied-rcode", rcode}
			}
			n := start(t, map[string]string{"policy.yaml": hosts("google", world.GoogleAPIs)}, nil, flags...)
			conf := filepath.Join(n.Dir(), "pod.conf")
			text := fmt.Sprintf("nameserver %s\nsearch ns.svc.cluster.example svc.cluster.example\noptions ndots:5\n", world.ResolverV4)
			if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			for library, program := range programs {
				t.Run(library, func(t *testing.T) {
					out, took := n.resolve(t, n.in, conf, program, world.GoogleAPIs)
					if !strings.Contains(out, n.GoogleAPIs.V4.String()) || took > atOnce {
						t.Errorf("an allowed name, after %s: %s", took, out)
					}
					if rcode != "" {
						return // this is what the default is for
					}
					out, took = n.resolve(t, n.in, conf, program, world.Stranger)
					if strings.Contains(out, world.StrangerV4) || took > atOnce {
						t.Errorf("a name that is not, after %s: %s", took, out)
					}
					if out, _ := n.resolve(t, nil, conf, program, world.Stranger); !strings.Contains(out, world.StrangerV4) {
						t.Errorf("the same, not captured: %s", out)
					}
				})
			}
			if asked := n.DNS.Asked(world.GoogleAPIs + ".svc.cluster.example"); asked > 0 {
				t.Errorf("search steps were asked outside %d times", asked)
			}
		})
	}
}

// TestResolvedOnce: the address of an exact host stays open after its time,
// that of a name under a wildcard does not, and the denial says why.
func TestResolvedOnce(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{"policy.yaml": `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: both
spec:
  hosts: ["` + world.GoogleAPIs + `", "*.example.com"]
  ports: [{number: 443, name: https, protocol: HTTPS}]
  resolution: NONE
`}, func(w *world.World) {
		for _, o := range []*world.Origin{w.GoogleAPIs, w.API} {
			w.DNS.SetA(o.Name, 0, o.V4)
			w.DNS.SetAAAA(o.Name, 0, o.V6)
		}
	}, "--dns-min-ttl", "1s", "--dns-grace", "1s")
	kept := []string{hostPort(n.GoogleAPIs.V4.String(), 443), hostPort(n.GoogleAPIs.V6.String(), 443)}
	gone := []string{hostPort(n.API.V4.String(), 443), hostPort(n.API.V6.String(), 443)}
	n.learn(t, world.GoogleAPIs)
	n.learn(t, world.API)
	for _, addr := range gone {
		// To dial it would keep it: an address that is in use stays.
		eventually(t, 4*soon, addr+" is closed", func() bool {
			return strings.Contains(n.egressd(t, "explain", addr).stdout, "was learned for "+world.API+" until ")
		})
		if p := n.probe(t, n.in, "dial", addr); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("%s: %+v", addr, p)
		}
		n.event(t, "a denial that says what the address was", func(e flow.Event) bool {
			return !e.Allowed && e.Dst.String() == addr && strings.Contains(e.Detail, "was learned for "+world.API+" until ")
		})
	}
	for _, addr := range kept {
		if p := n.probe(t, n.in, "tls", addr, world.GoogleAPIs, n.CAFile()); p.Status != 200 {
			t.Errorf("%s: %+v", addr, p)
		}
	}
	if asked := n.DNS.Asked(world.GoogleAPIs); asked < 4 {
		t.Errorf("the name was asked for %d times", asked)
	}
}

// TestNAT64: where a network reaches IPv4 through a translator, an allowed host
// has an address that has the IPv4 address inside.
func TestNAT64(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "curl")
	const name = "only4.example.org"
	inside := map[string]string{"well-known prefix": "64:ff9b::5db8:d70f", "local prefix": "64:ff9b:1:fffe::5db8:d70f"}
	for what, addr := range inside {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			n := start(t, map[string]string{"policy.yaml": hosts("only4", name)}, func(w *world.World) {
				if _, err := w.AddOrigin(world.OriginConfig{Names: []string{name}, V6: netip.MustParseAddr(addr)}); err != nil {
					t.Fatal(err)
				}
			})
			for _, scheme := range []string{"http", "https"} {
				if a := n.curl(t, n.in, scheme+"://"+name+"/"); a.status != 200 {
					t.Errorf("%s: %+v", scheme, a)
				}
			}
		})
	}
}

// TestServiceRecords: a program finds the services of an allowed host, and may
// ask under a wildcard for what it is not told.
func TestServiceRecords(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "node")
	wild := strings.Replace(hosts("wild", `"*.wild.example"`), "resolution: DNS", "resolution: NONE", 1)
	n := start(t, map[string]string{"policy.yaml": hosts("db", "db.example.org") + wild}, func(w *world.World) {
		err := w.DNS.Set("_mongodb._tcp.db.example.org. 60 IN SRV 0 5 27017 one.db.example.org.",
			`db.example.org. 60 IN TXT "authSource=admin"`, `x.wild.example. 60 IN TXT "data"`, "x.wild.example. 60 IN A 192.0.2.9")
		if err != nil {
			t.Fatal(err)
		}
	})
	const script = `const d = require("dns"); d.resolve(process.argv[2], process.argv[1], (e, a) => console.log(e ? e.code : JSON.stringify(a)))`
	for _, tt := range []struct{ kind, name, want, free string }{
		{"SRV", "_mongodb._tcp.db.example.org", `one.db.example.org`, `one.db.example.org`},
		{"TXT", "db.example.org", "authSource=admin", "authSource=admin"},
		{"A", "_mongodb._tcp.db.example.org", "ENODATA", "ENODATA"},
		{"TXT", "x.wild.example", "ENODATA", "data"},
		{"A", "x.wild.example", "192.0.2.9", "192.0.2.9"},
		{"SRV", "_mongodb._tcp.example.org", "ENOTFOUND", "ENOTFOUND"},
	} {
		for cg, want := range map[*world.Cgroup]string{n.in: tt.want, nil: tt.free} {
			if e := n.run(t, cg, "node", "-e", script, tt.kind, tt.name); !strings.Contains(e.stdout, want) {
				t.Errorf("%s %s, captured %v: %+v, want %s", tt.kind, tt.name, cg != nil, e, want)
			}
		}
	}
}

// TestRootDot: a name with the dot of the root behind it is the same name, in
// DNS, in a Host field and in a ClientHello.
func TestRootDot(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "curl")
	n := start(t, map[string]string{"policy.yaml": hosts("google", world.GoogleAPIs+".")}, nil)
	for _, url := range []string{"http://" + world.GoogleAPIs + "/", "http://" + world.GoogleAPIs + "./", "https://" + world.GoogleAPIs + "./"} {
		if a := n.curl(t, n.in, "-k", url); a.status != 200 {
			t.Errorf("%s: %+v", url, a)
		}
	}
	at := hostPort(n.GoogleAPIs.V4.String(), 80)
	for _, host := range []string{world.GoogleAPIs, world.GoogleAPIs + "."} {
		if p := n.probeWith(t, n.in, strings.NewReader(last(host)), "send", at); !strings.HasPrefix(p.Text, "HTTP/1.1 200 ") {
			t.Errorf("Host: %s: %+v", host, p)
		}
	}
	if p := n.probeWith(t, n.in, strings.NewReader(last(world.Stranger+".")), "send", at); !strings.HasPrefix(p.Text, "HTTP/1.1 502 ") {
		t.Errorf("the stranger: %+v", p)
	}
}
