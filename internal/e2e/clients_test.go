// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

const (
	plainSite   = "plain.example"
	plainSiteV4 = "198.18.9.9"
	plainSiteV6 = "2001:db8:9::9"
	// keptAlive is how long the site keeps a connection that nobody uses.
	keptAlive = time.Second
	// netcat is that of OpenBSD; busybox has another one.
	netcat = "/usr/bin/nc"
)

// serveSite answers with the request line and header lines that came. It ends a
// connection that is idle for a second, and behind an answer to /once without a
// word.
func serveSite(nc net.Conn) {
	defer nc.Close()
	br := bufio.NewReader(nc)
	for {
		_ = nc.SetReadDeadline(time.Now().Add(keptAlive))
		var head strings.Builder
		for !strings.HasSuffix(head.String(), "\r\n\r\n") {
			line, err := br.ReadString('\n')
			if err != nil {
				return
			}
			head.WriteString(line)
		}
		req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(strings.Replace(head.String(), "%", "_", 1)), br)))
		if err != nil {
			return
		}
		if req.ContentLength > 0 {
			_, _ = io.CopyN(io.Discard, br, req.ContentLength)
		}
		fmt.Fprintf(nc, "HTTP/1.1 200 Gut\r\nserver-NAME: x\r\nContent-Length: %d\r\n\r\n%s", head.Len(), head.String())
		if req.URL.Path == "/once" || req.Close {
			return
		}
	}
}

// addSite starts the site in the little internet.
func addSite(t *testing.T, w *world.World) {
	t.Helper()
	v4, v6 := netip.MustParseAddr(plainSiteV4), netip.MustParseAddr(plainSiteV6)
	// The origin brings the name and the addresses.
	if _, err := w.AddOrigin(world.OriginConfig{Names: []string{plainSite}, V4: v4, V6: v6, HTTP: []uint16{8080}}); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []netip.Addr{v4, v6} {
		ln, err := w.Net.Listen(netip.AddrPortFrom(addr, 80))
		if err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		running.Go(func() {
			for {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				running.Go(func() { serveSite(nc) })
			}
		})
		t.Cleanup(func() { ln.Close(); running.Wait() })
	}
}

// pythonPosts sends POSTs on a connection that the site ends behind each answer.
// As programs do, it opens another one when it finds the end.
const pythonPosts = `
import http.client, sys
c = http.client.HTTPConnection(sys.argv[1], timeout=20)
got = []
for i in range(20):
    for attempt in range(3):
        try:
            c.request("POST", "/once", body="x=1", headers={"X-lower-Case": "Yes"})
            r = c.getresponse()
            r.read()
            got.append(r.status)
            break
        except (ConnectionError, http.client.HTTPException):
            c.close()
    else:
        got.append("gave up")
print(got.count(200), sorted(set(map(str, got))))
`

// nodePosts sends POSTs through an agent that keeps connections, at intervals
// around the time after which the site ends them.
const nodePosts = `
const http = require("http"), agent = new http.Agent({keepAlive: true, maxSockets: 1});
const post = () => new Promise(done => {
  const r = http.request({host: process.argv[1], path: "/x", method: "POST", agent, headers: {"Content-Length": 3}}, m => {
    m.resume().on("end", () => done(m.statusCode + " " + m.statusMessage + " " + m.rawHeaders[0]));
  });
  r.on("error", e => done(e.code)).end("x=1");
});
(async () => {
  const got = {};
  for (const pause of [0, 0, 1500, 0, 1500, 100]) {
    await new Promise(d => setTimeout(d, pause));
    const s = await post();
    got[s] = (got[s] || 0) + 1;
  }
  agent.destroy();
  console.log(JSON.stringify(got));
})();
`

// TestClients: programs see of a plain site what they see without egressd.
func TestClients(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{netcat, "node", "curl"} {
		testenv.RequireTool(t, tool)
	}
	n := start(t, map[string]string{"policy.yaml": hosts("plain", plainSite)}, func(w *world.World) { addSite(t, w) })
	n.learn(t, plainSite)
	for who, cg := range map[string]*world.Cgroup{"captured": n.in, "not captured": nil} {
		for _, flag := range []string{"-4", "-6"} {
			for _, version := range []string{"--http1.0", "--http1.1"} {
				a := n.curl(t, cg, flag, version, "--path-as-is", "-H", "x-ODD: 1", "-i", "http://"+plainSite+"//50%?%zz")
				if a.status != 200 || !strings.Contains(a.body, "GET //50%?%zz HTTP/1.") || !strings.Contains(a.body, "\nx-ODD: 1\r\n") || !strings.Contains(a.body, "200 Gut\r\nserver-NAME: x\r\n") {
					t.Errorf("%s: curl %s %s: %+v", who, flag, version, a)
				}
			}
		}
		for _, addr := range []string{plainSiteV4, plainSiteV6} {
			c := n.client(t, cg, netcat, "-N", addr, "80")
			c.Stdin = strings.NewReader("GET /nc HTTP/1.1\r\nHost: " + plainSite + "\r\nConnection: close\r\n\r\n")
			if e := finish(t, c); !strings.HasPrefix(e.stdout, "HTTP/1.1 200 Gut\r\n") || !strings.Contains(e.stdout, "GET /nc HTTP/1.1\r\n") {
				t.Errorf("%s: nc -N %s: %+v", who, addr, e)
			}
		}
		if e := n.run(t, cg, python(t), "-c", pythonPosts, plainSite); strings.TrimSpace(e.stdout) != "20 ['200']" {
			t.Errorf("%s: Python: %+v", who, e)
		}
		if e := n.run(t, cg, "node", "-e", nodePosts, plainSite); strings.TrimSpace(e.stdout) != `{"200 Gut server-NAME":6}` {
			t.Errorf("%s: node: %+v", who, e)
		}
	}
}
