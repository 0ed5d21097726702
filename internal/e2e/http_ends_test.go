// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
)

// halfClose asks and ends its side at once, and prints what comes back.
const halfClose = `
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[4])), 20) as s:
    s.sendall(b"GET " + sys.argv[3].encode() + b" HTTP/1.1\r\nHost: " + sys.argv[2].encode() + b"\r\n\r\n")
    s.shutdown(socket.SHUT_WR)
    while p := s.recv(4096):
        sys.stdout.write(p.decode())
`

// requestEndings are rules of which each has requests end in another way.
const requestEndings = `
  - match: [{uri: {exact: /slow}}]
    timeout: 300ms
    route: [{destination: {host: www.googleapis.com}}]
  - match: [{uri: {exact: /patient}}]
    rewrite: {uri: /slow}
    route: [{destination: {host: www.googleapis.com}}]
  - match: [{uri: {prefix: /delayed}}]
    fault: {delay: {fixedDelay: 50ms, percentage: {value: 100}}}
    route: [{destination: {host: www.googleapis.com}}]
  - match: [{uri: {prefix: /abort}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: www.googleapis.com}}]
  - match: [{uri: {prefix: /flaky}}]
    retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}
    route: [{destination: {host: www.googleapis.com}}]
  - match: [{uri: {prefix: /elsewhere}}]
    route: [{destination: {host: undeclared.example}}]
  - match: [{uri: {prefix: /nameless}}]
    route: [{destination: {host: nameless.example}}]
  - match: [{uri: {prefix: /dead}}]
    route: [{destination: {host: dead.internal}}]
  - match: [{uri: {prefix: /busy}}]
    rewrite: {uri: /hold}
    route: [{destination: {host: busy.internal}}]
  - match: [{uri: {prefix: /raw/}}]
    rewrite: {uri: /}
    route: [{destination: {host: raw.internal}}]
  - match: [{uri: {prefix: /hold}}]
    route: [{destination: {host: www.googleapis.com}}]
`

// ending starts a node with the rules, and a server that ends connections.
func ending(t *testing.T, args ...string) *node {
	t.Helper()
	const http = "{number: 80, name: http, protocol: HTTP}"
	n := prepare(t, map[string]string{}, nil, args...)
	api := n.API.V4.String()
	n.serveOutside(t, netip.AddrPortFrom(n.API.V4, 8081), python(t), script(t, "rawserver.py"), api, "8081")
	n.write(t, "policy.yaml", hosts("sites", world.GoogleAPIs)+rules(requestEndings)+hosts("nameless", "nameless.example")+
		service("dead", "dead.internal", http, "240.0.0.11", "{address: "+api+", ports: {http: 9}}")+
		service("raw", "raw.internal", http, "240.0.0.12", "{address: "+api+", ports: {http: 8081}}")+
		service("busy", "busy.internal", http, "240.0.0.13", "{address: "+api+"}")+
		destinationRule("busy", "busy.internal", "{connectionPool: {http: {http2MaxRequests: 1}}}"))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.GoogleAPIs)
	return n
}

// TestResponseFlags: each way in which a request can end has Envoy's flag and status, as
// a client and as the flows see it; what ends well has neither.
func TestResponseFlags(t *testing.T) {
	t.Parallel()
	n := ending(t)
	url := "http://" + world.GoogleAPIs
	var holds *world.Cmd
	for _, tt := range []struct {
		flags, path string
		status      int
		args        []string
	}{
		{"", "/patient?d=1s", 200, nil}, // the twin: no timeout
		{"UT", "/slow?d=30s", 504, nil},
		{"NR", "/", 404, nil},
		{"DI", "/delayed", 200, nil},
		{"FI", "/abort", 418, nil},
		{"URX", "/flaky?key=flags&n=9", 503, nil},
		{"NC", "/elsewhere", 503, nil},
		{"UH,URX", "/nameless", 503, nil}, // and so were the retries that are safe
		{"UF,URX", "/dead", 503, nil},
		{"UC", "/raw/close", 503, nil},
		{"UO", "/busy", 503, nil},
		{"DC", "/raw/events?n=1000000000", 200, []string{"--max-time", "1", "-o", "/dev/null"}},
	} {
		if tt.flags == "UO" {
			before := n.API.Hits()
			holds = n.client(t, n.in, "curl", "-q", "-sS", "--noproxy", "*", url+"/busy")
			holds.Stdout = new(strings.Builder)
			if err := holds.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, soon, "one request has the room", func() bool { return n.API.Hits() > before })
		}
		a := n.curl(t, n.in, append(tt.args, "-4", "-i", url+tt.path)...)
		if a.status != tt.status {
			t.Errorf("%s: %+v, want %d", tt.flags, a, tt.status)
		}
		if overloaded := strings.Contains(a.body, "x-envoy-overloaded: true") || strings.Contains(a.body, "X-Envoy-Overloaded: true"); overloaded != (tt.flags == "UO") {
			t.Errorf("%s: overloaded %v", tt.flags, overloaded)
		}
		path, _, _ := strings.Cut(tt.path, "?")
		e := n.event(t, "the request to "+path, func(e flow.Event) bool { return e.Kind == flow.Request && e.Path == path && e.Status == tt.status })
		if e.ResponseFlags != tt.flags {
			t.Errorf("%s: event %+v", tt.flags, e)
		}
	}
	n.API.Release()
	if err := holds.Wait(); err != nil {
		t.Errorf("the request that had the room: %v", err)
	}
}

// TestHalfCloseAndStreams: a client that ends its side behind its request has its
// answer, as without egressd; a stream of events has as much memory at its end as at its
// beginning.
func TestHalfCloseAndStreams(t *testing.T) {
	t.Parallel()
	n := ending(t)
	for _, addr := range []string{n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()} {
		in := n.run(t, n.in, python(t), "-c", halfClose, addr, world.GoogleAPIs, "/raw/events?n=2", "80")
		twin := n.run(t, nil, python(t), "-c", halfClose, n.API.V4.String(), world.API, "/events?n=2", "8081")
		for who, e := range map[string]ended{"captured": in, "not captured": twin} {
			if !strings.HasPrefix(e.stdout, "HTTP/1.1 200 ") || strings.Count(e.stdout, "data: ") != 2 {
				t.Errorf("%s, %s: %q %s", addr, who, e.stdout, e.stderr)
			}
		}
	}
	const rss = "process_resident_memory_bytes"
	stream := func(events int) {
		a := n.curl(t, n.in, "-4", "-N", "-o", "/dev/null", "-w", "%{size_download}"+curlReport, fmt.Sprint("http://", world.GoogleAPIs, "/raw/events?n=", events))
		if a.exit != 0 || a.body != fmt.Sprint(events<<10) {
			t.Errorf("%d events: %+v", events, a)
		}
	}
	stream(1000)
	before := n.gauge(t, rss)
	stream(64 << 10)
	if after := n.gauge(t, rss); after > before+16<<20 {
		t.Errorf("the daemon has %v MB after 64 MB of events, %v before", after/(1<<20), before/(1<<20))
	}
}

// TestSIGTERMDrains: what is under way is answered when the daemon is told to end, up to
// the hard limit.
func TestSIGTERMDrains(t *testing.T) {
	t.Parallel()
	n := ending(t, "--drain-time", "3s")
	url := "http://" + world.GoogleAPIs
	begin := func(path string) (*world.Cmd, *strings.Builder) {
		c, said := n.client(t, n.in, "curl", "-4", "-q", "-sS", "-i", "--noproxy", "*", url+path), new(strings.Builder)
		c.Stdout, c.Stderr = said, said
		before := n.GoogleAPIs.Hits()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, soon, path+" is under way", func() bool { return n.GoogleAPIs.Hits() > before })
		return c, said
	}
	held, lost := begin("/hold")
	ends, whole := begin("/patient?d=1s")
	n.signal(t, syscall.SIGTERM)
	if err := ends.Wait(); err != nil || !strings.HasPrefix(whole.String(), "HTTP/1.1 200 ") || !strings.Contains(whole.String(), "\r\nConnection: close\r\n") {
		t.Errorf("what ends in time: %v, %q", err, whole)
	}
	if err := held.Wait(); err == nil {
		t.Errorf("what does not end: %q", lost)
	}
	if err := n.d.Ended(); err != nil {
		t.Error(err)
	}
}

// TestReloadsUnderLoad: the policy changes again and again, every 100 ms, while curl asks
// with connections that stay and that do not; every request is answered.
func TestReloadsUnderLoad(t *testing.T) {
	t.Parallel()
	n := ending(t)
	const requests = 40
	before, first := n.GoogleAPIs.Hits(), n.status(t).Policy.Hash
	var loads []*world.Cmd
	for _, flags := range [][]string{{}, {"-H", "Connection: close"}} {
		c := n.client(t, n.in, "curl", append(flags, "-4", "-q", "-sS", "-f", "--noproxy", "*", "-o", "/dev/null", fmt.Sprintf("http://%s/patient?d=50ms&n=[1-%d]", world.GoogleAPIs, requests))...)
		c.Stderr = new(strings.Builder)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		loads = append(loads, c)
	}
	changes := map[string]bool{first: true}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := 0; n.GoogleAPIs.Hits() < before+2*requests && i < 300; i++ {
		n.write(t, "more.yaml", hosts("more", fmt.Sprintf("host%d.example.net", i)))
		<-tick.C
		changes[n.status(t).Policy.Hash] = true
	}
	for _, c := range loads {
		if err := c.Wait(); err != nil {
			t.Errorf("%v: %s", err, c.Stderr)
		}
	}
	if got := n.GoogleAPIs.Hits() - before; got != 2*requests {
		t.Errorf("%d of %d requests reached the origin", got, 2*requests)
	}
	if len(changes) < 5 {
		t.Errorf("%d policies were in force", len(changes))
	}
}
