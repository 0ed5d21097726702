// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// hoard opens connections, each kept alive behind a request, says how many it
// got, and holds them until its input ends.
const hoard = `
import socket, sys
family, addr, host, count = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, sys.argv[1], sys.argv[2], int(sys.argv[3])
held = []
for _ in range(count):
    s = socket.socket(family)
    s.settimeout(5)
    try:
        s.connect((addr, 80))
        s.sendall(b"GET / HTTP/1.1\r\nHost: " + host.encode() + b"\r\n\r\n")
        if s.recv(4096):
            held.append(s)
    except OSError:
        pass
print(len(held), flush=True)
sys.stdin.read()
`

// TestShareOfConnections: a workload that holds all the connections that it may
// have takes neither another workload's nor the daemon's own.
func TestShareOfConnections(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "prlimit")
	const files = 1000 // 558 of them are for forwarding
	for _, family := range []string{"IPv4", "IPv6"} {
		n := prepare(t, seed(t, "googleapis.yaml"), nil)
		addr := n.GoogleAPIs.V4.String()
		if family == "IPv6" {
			addr = n.GoogleAPIs.V6.String()
		}
		hog, err := n.d.Root.Child("hog")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = hog.Close() })
		n.write(t, "workloads.yaml", n.workload(t, "hog", "default", "hog", ""))
		n.d.Prefix = []string{"prlimit", fmt.Sprintf("--nofile=%d:%d", files, files)}
		if err := n.d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.learnIn(t, hog, world.GoogleAPIs)
		// Denied requests cost one descriptor a connection, served ones two.
		for _, host := range []string{"stranger.example", world.GoogleAPIs} {
			c := n.client(t, hog, python(t), "-c", hoard, addr, host, fmt.Sprint(files))
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
			line, err := bufio.NewReader(out).ReadString('\n')
			held := 0
			if _, scanErr := fmt.Sscan(strings.TrimSpace(line), &held); scanErr != nil || held < 100 || held > 558/2 {
				t.Errorf("%s, %s: the workload holds %q, %v; want no more than half of what is for forwarding", addr, host, line, err)
			}
			for _, flag := range []string{"-4", "-6"} {
				if a := n.curl(t, n.in, flag, "http://"+world.GoogleAPIs); a.status != 200 {
					t.Errorf("%s, %s: another workload, %s: %+v", addr, host, flag, a)
				}
			}
			if st := n.status(t); !st.Ready { // by the admin socket
				t.Errorf("%+v", st)
			}
			n.event(t, "a refusal by quota", func(e flow.Event) bool {
				return e.Workload == "default/hog" && !e.Allowed && e.Reason == policy.ReasonQuota && e.Detail != ""
			})
			_ = in.Close()
			_, _ = io.Copy(io.Discard, out)
			_ = c.Wait()
		}
	}
}
