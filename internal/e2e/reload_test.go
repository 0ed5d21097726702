// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// line is a client that holds a connection to a server that echoes.
type line struct {
	in   io.WriteCloser
	out  *bufio.Reader
	done chan error
}

// open starts a client that holds a connection to addr.
func (n *node) open(t *testing.T, addr string) *line {
	t.Helper()
	return n.openIn(t, n.in, addr)
}

func (n *node) openIn(t *testing.T, cg *world.Cgroup, addr string) *line {
	t.Helper()
	return n.session(t, n.client(t, cg, probe, "session", addr))
}

// session starts a "session" client.
func (n *node) session(t *testing.T, c *world.Cmd) *line {
	t.Helper()
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	l := &line{in: in, out: bufio.NewReader(out), done: make(chan error, 1)}
	t.Cleanup(func() {
		_ = in.Close() // ends the client
		_, _ = io.Copy(io.Discard, l.out)
		_ = c.Wait()
	})
	if got, err := l.out.ReadString('\n'); got != "open\n" {
		t.Fatalf("%v: %q, %v", c.Args, got, err)
	}
	return l
}

// echo sends a line; ok is false when it does not come back.
func (l *line) echo(text string) (ok bool) {
	if _, err := io.WriteString(l.in, text+"\n"); err != nil {
		return false
	}
	got, err := l.out.ReadString('\n')
	return err == nil && got == text+"\n"
}

// tcp is a ServiceEntry for opaque TCP to a host.
func tcp(name, host, port string) string {
	return `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ` + name + `}
spec:
  hosts: [` + host + `]
  ports: [{number: ` + port + `, name: tcp, protocol: TCP}]
  resolution: DNS
---
`
}

// upgrade asks the site to echo, as a WebSocket handshake would.
const upgrade = "GET /upgrade HTTP/1.1\r\nHost: " + world.API + "\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"

func TestReload(t *testing.T) {
	t.Parallel()
	const within = 2 * time.Second
	keep := tcp("keep", world.API, "7")
	drop := tcp("drop", "echo.example.net", "7") + hosts("drop-web", "gone.example.net")
	var kept *world.Server
	n := start(t, map[string]string{"keep.yaml": keep, "drop.yaml": drop}, func(w *world.World) {
		addr := netip.MustParseAddrPort("151.101.7.7:7")
		var err error
		if kept, err = w.AddTCP(addr, ""); err != nil {
			t.Fatal(err)
		}
		w.DNS.SetA("echo.example.net", time.Minute, addr.Addr())
		w.DNS.SetAAAA("echo.example.net", time.Minute)
	})
	n.learn(t, world.API, "echo.example.net")
	stays := n.open(t, n.Echo.Addr.String())
	goes := n.open(t, kept.Addr.String())
	if !stays.echo("one") || !goes.echo("one") {
		t.Fatal("the connections do not work")
	}
	first := n.status(t).Policy.Hash

	// A host that is added is there at once.
	if a := n.curl(t, n.in, "http://"+world.GoogleAPIs); a.exit != curlResolve {
		t.Fatalf("before it is allowed: %+v", a)
	}
	n.write(t, "added.yaml", hosts("added", world.GoogleAPIs))
	took := eventually(t, within, "the added host is effective", func() bool {
		return n.curl(t, n.in, "http://"+world.GoogleAPIs).status == 200
	})
	t.Logf("an added host was effective after %v", took)
	if !stays.echo("two") || !goes.echo("two") {
		t.Error("adding a host hurt connections that stay allowed")
	}

	// A host that is removed loses its connections.
	n.write(t, "drop.yaml", "")
	eventually(t, within, "the removed host's connection is cut", func() bool { return !goes.echo("three") })
	n.event(t, "policy-changed", func(e flow.Event) bool {
		return e.Reason == policy.ReasonPolicyChanged && e.Dst == kept.Addr
	})
	if p := n.probe(t, n.in, "dial", kept.Addr.String()); p.Error == "" {
		t.Error("the removed host takes new connections")
	}
	if !stays.echo("three") {
		t.Error("removing a host hurt a connection that stays allowed")
	}
	reloadBroken(t, n, first)
	if !stays.echo("four") {
		t.Error("a connection that was allowed all the time was cut")
	}
}

// reloadBroken writes a file with an error, and then repairs it.
func reloadBroken(t *testing.T, n *node, first string) {
	good := n.status(t).Policy
	if good.Hash == first || good.Error != "" {
		t.Errorf("status: %+v", good)
	}
	n.write(t, "broken.yaml", strings.Replace(hosts("broken", world.API2), "number: 80", "number: eighty", 1))
	eventually(t, soon, "status shows the error", func() bool { return n.status(t).Policy.Error != "" })
	now := n.status(t).Policy
	if now.Hash != good.Hash || !strings.Contains(now.Error, "broken.yaml:8:") {
		t.Errorf("status %+v, want hash %s and the error's file and line", now, good.Hash)
	}
	if a := n.curl(t, n.in, "http://"+world.GoogleAPIs); a.status != 200 {
		t.Errorf("while a file is broken: %+v", a)
	}
	if a := n.curl(t, n.in, "http://"+world.API2); a.exit != curlResolve {
		t.Errorf("a host of the broken file: %+v", a)
	}
	n.write(t, "broken.yaml", hosts("broken", world.API2))
	eventually(t, soon, "the repaired file is in force", func() bool { return n.curl(t, n.in, "http://"+world.API2).status == 200 })
	if s := n.status(t).Policy; s.Error != "" || s.Hash == good.Hash {
		t.Errorf("after the repair: %+v", s)
	}
}

// TestReloadKeepsStreams: downloads and upgraded connections of a host that
// stays allowed survive changes of other hosts, and are cut with their own.
func TestReloadKeepsStreams(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{"api.yaml": hosts("api", world.API)}, nil)
	n.learn(t, world.API)
	plain := n.open(t, hostPort(n.API.V4.String(), 80))
	if _, err := io.WriteString(plain.in, upgrade); err != nil {
		t.Fatal(err)
	}
	head := ""
	for {
		got, err := plain.out.ReadString('\n')
		if err != nil {
			t.Fatalf("the upgrade: %q, %v", head, err)
		}
		if head += got; got == "\r\n" {
			break
		}
	}
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("the upgrade: %q", head)
	}
	download := n.client(t, n.in, "curl", "-q", "-sS", "--noproxy", "*", "--cacert", n.CAFile(), "-N", "https://"+world.API+"/hold")
	download.Stdout = new(strings.Builder)
	if err := download.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "the request is held by the site", func() bool { return n.API.Hits() >= 2 })
	before := n.status(t).Policy.Hash
	n.write(t, "more.yaml", hosts("more", world.GoogleAPIs))
	eventually(t, soon, "the change is in force", func() bool { return n.status(t).Policy.Hash != before })
	if !plain.echo("still here") {
		t.Error("the upgraded connection was cut")
	}
	n.API.Release()
	if err := download.Wait(); err != nil {
		t.Errorf("the download: %v", err)
	}
}
