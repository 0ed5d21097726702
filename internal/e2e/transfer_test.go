// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// TestTransfers: what HTTP clients do every day passes unchanged.
func TestTransfers(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	const size = 20 << 20
	upload := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(upload, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"http", "https"} {
		site := scheme + "://" + world.GoogleAPIs
		t.Run(scheme, func(t *testing.T) {
			a := n.curl(t, n.in, "-o", "/dev/null", "-w", "\n%{size_download}"+curlReport, fmt.Sprintf("%s/bytes/%d", site, size))
			if a.status != 200 || strings.TrimSpace(a.body) != fmt.Sprint(size) {
				t.Errorf("download: %+v", a)
			}
			for _, how := range [][]string{
				{"-T", upload},
				{"-H", "Transfer-Encoding: chunked", "-T", upload},
				{"-H", "Expect: 100-continue", "--data-binary", "@" + upload},
			} {
				a := n.curl(t, n.in, append(how, site+"/put")...)
				var e world.Echo
				if err := json.Unmarshal([]byte(a.body), &e); a.status != 200 || err != nil || e.Body != size {
					t.Errorf("upload %v: status %d, %d bytes arrived, %s", how[:1], a.status, e.Body, a.stderr)
				}
			}
			if a := n.curl(t, n.in, "-I", site+"/x"); a.status != 200 || !strings.Contains(strings.ToLower(a.body), "x-origin: "+world.GoogleAPIs) {
				t.Errorf("HEAD: %+v", a)
			}
			if a := n.curl(t, n.in, "-o", "/dev/null", site+"/status/404"); a.status != 404 {
				t.Errorf("the site's own 404: %+v", a)
			}
			http2 := "--http2"
			if scheme == "http" {
				http2 = "--http2-prior-knowledge"
			}
			if a := n.curl(t, n.in, http2, site+"/two"); a.status != 200 || !strings.Contains(a.body, `"path":"/two"`) || scheme == "https" && !strings.Contains(a.body, "HTTP/2.0") {
				t.Errorf("HTTP/2: %+v", a)
			}
			events(t, n, site)
		})
	}
}

// events wants each server-sent event when it is sent, not at the end.
func events(t *testing.T, n *node, site string) {
	testenv.RequireTool(t, "curl")
	c := n.client(t, n.in, "curl", "-q", "-sS", "-N", "--noproxy", "*", "--cacert", n.CAFile(), site+"/sse?n=2&d=8s")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	took := stopwatch()
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "data: 0\n" || took() > soon {
		t.Errorf("the first event: %q, %v after %v", line, err, took())
	}
	_ = c.Process.Kill() // the rest does not matter
	_ = c.Wait()
}

// TestFollow: flows -f shows what happens while it happens.
func TestFollow(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	c := n.d.Command(t.Context(), "flows", "-f", "--verdict", "deny", "--state-dir", n.d.StateDir())
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	// Nothing says that the follower is there yet, so the stranger is dialled
	// until a line comes.
	var line string
	eventually(t, soon, "a line of flows -f", func() bool {
		n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 443))
		select {
		case line = <-lines:
			return true
		default:
			return false
		}
	})
	if !strings.Contains(line, " DENY ") || !strings.Contains(line, hostPort(world.StrangerV4, 443)) || !strings.Contains(line, "probe[") {
		t.Errorf("%q", line)
	}
	_ = c.Process.Kill()
	for range lines {
		continue // until the pipe ends
	}
	_ = c.Wait()
}
