// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/explain/replay"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// logged are the events of flow logs, all of whose lines can be read.
func logged(t *testing.T, paths ...string) (out []flow.Event) {
	t.Helper()
	u, err := flowrecord.LogFiles{Paths: paths}.Each(func(e flow.Event) bool { out = append(out, e); return true })
	if err != nil || u.Bad > 0 {
		t.Errorf("%+v, %v", u, err)
	}
	return out
}

// inLog waits for an event in a flow log.
func inLog(t *testing.T, path, what string, is func(flow.Event) bool) {
	t.Helper()
	eventually(t, soon, what, func() bool {
		for _, e := range logged(t, path) {
			if is(e) {
				return true
			}
		}
		return false
	})
}

// TestFlowLog: what is proxied, inspected, direct and denied is in the flow log, in both
// families; it is filtered and counted, and replayed against policies that deny some of
// it, allow more, or lead it elsewhere.
func TestFlowLog(t *testing.T) {
	t.Parallel()
	echo, echo6 := "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c" // of world.API
	n := start(t, seed(t, "googleapis.yaml"), nil, "--flow-log", "{dir}/flows.jsonl", "--flow-log", "syslog:{dir}/nobody",
		"--allow", echo+":7", "--allow", "["+echo6+"]:7", "--allow", "udp://"+echo+":7", "--allow", "udp://["+echo6+"]:7")
	path := filepath.Join(n.Dir(), "flows.jsonl")
	for _, family := range []string{"-4", "-6"} {
		for _, url := range []string{"http://" + world.GoogleAPIs + "/echo?x=1", "https://" + world.GoogleAPIs + "/echo"} {
			if a := n.curl(t, n.in, family, url); a.status != 200 {
				t.Errorf("%s: %+v", url, a)
			}
		}
	}
	for _, addr := range []string{echo, echo6} {
		if p := n.probe(t, n.in, "dial", hostPort(addr, 7)); p.Errno != 0 {
			t.Errorf("%s: %+v", addr, p)
		}
	}
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		if p := n.probe(t, n.in, "dial", hostPort(addr, 443)); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("%s: %+v", addr, p)
		}
	}
	n.probe(t, n.in, "lookup", world.Stranger)

	v6 := map[bool]string{false: "IPv4", true: "IPv6"}
	for six, family := range v6 {
		of := func(e flow.Event) bool { return e.Dst.Addr().Is6() == six }
		inLog(t, path, "a request, "+family, func(e flow.Event) bool {
			return of(e) && e.Kind == flow.Request && e.Path == "/echo" && e.Verdict == policy.Proxy && e.Status == 200 && e.BytesReceived > 0
		})
		inLog(t, path, "a connection that was inspected has ended, "+family, func(e flow.Event) bool {
			return of(e) && e.Kind == flow.Close && e.Verdict == policy.Inspect && e.Name == world.GoogleAPIs && e.BytesSent > 0
		})
		inLog(t, path, "a direct connection, "+family, func(e flow.Event) bool {
			return of(e) && e.Verdict == policy.Direct && e.Allowed && e.Dst.Port() == 7
		})
		inLog(t, path, "a denial, "+family, func(e flow.Event) bool { return of(e) && e.Denied() && e.Dst.Port() == 443 && e.Process.PID > 0 })
	}
	inLog(t, path, "a question", func(e flow.Event) bool { return e.Kind == flow.Query && e.Name == world.Stranger })
	flowsOfFile(t, n, path)
	replayed(t, n, path)

	// Somebody rotates the file.
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := n.d.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "a new file", func() bool { _, err := os.Stat(path); return err == nil })
	n.curl(t, n.in, "http://"+world.GoogleAPIs+"/after")
	inLog(t, path, "a line in the new file", func(e flow.Event) bool { return e.Path == "/after" })
	if both := logged(t, path, path+".1"); both[0].Time.After(both[len(both)-1].Time) {
		t.Error("the older file is not read first")
	}
}

// flowsOfFile reads a flow log with "egressd flows".
func flowsOfFile(t *testing.T, n *node, path string) {
	t.Helper()
	all := n.egressd(t, "flows", "--file", path, "-o", "json")
	text, err := os.ReadFile(path)
	if err != nil || all.code != 0 || !strings.HasPrefix(string(text), all.stdout) {
		t.Errorf("flows prints other lines than there are: %d %s%s", all.code, all.stderr, all.stdout)
	}
	for _, c := range []struct {
		args []string
		is   func(flow.Event) bool
	}{
		{[]string{"--verdict", "deny"}, func(e flow.Event) bool { return e.Denied() }},
		{[]string{"--verdict", "deny", "--address", world.StrangerV6 + "/64", "--since", "1h"}, func(e flow.Event) bool { return e.Dst.Addr() == netip.MustParseAddr(world.StrangerV6) }},
		{[]string{"--host", "*.googleapis.com", "--port", "80"}, func(e flow.Event) bool { return e.Name == world.GoogleAPIs && e.Dst.Port() == 80 }},
		{[]string{"--process", "curl", "--reason", "allowed"}, func(e flow.Event) bool { return e.Process.Command == "curl" && e.Allowed }},
	} {
		for _, from := range [][]string{nil, {"--file", path}} {
			found := n.flows(t, append(from, c.args...)...)
			if len(found) == 0 {
				t.Errorf("%v %v: nothing", from, c.args)
			}
			for _, e := range found {
				if !c.is(e) {
					t.Errorf("%v %v: %+v", from, c.args, e)
				}
			}
		}
	}
	if e := n.egressd(t, "flows", "--file", path, "--until", "1h"); e.code != 0 || e.stdout != "" {
		t.Errorf("before it began: %+v", e)
	}
	human := n.egressd(t, "flows", "--file", path, "--verdict", "deny").stdout
	for _, want := range []string{"allow: --allow " + world.Stranger + "\n", "allow: --allow " + hostPort(world.StrangerV4, 443) + "\n", "allow: --allow " + hostPort(world.StrangerV6, 443) + "\n"} {
		if !strings.Contains(human, want) {
			t.Errorf("no %q in\n%s", want, human)
		}
	}
	sum := n.egressd(t, "flows", "--summary", "-o", "json").stdout
	var tallies []struct {
		Host            string
		Denied, Allowed int
		BytesReceived   int64
	}
	if err := json.Unmarshal([]byte(sum), &tallies); err != nil || len(tallies) < 6 || tallies[0].Denied == 0 {
		t.Errorf("%v: %s", err, sum)
	}
	for _, r := range tallies {
		if r.Host == world.GoogleAPIs && (r.Allowed != 4 || r.Denied != 0 || r.BytesReceived == 0) {
			t.Errorf("%+v", r)
		}
	}
}

// replayed replays a flow log with "egressd replay".
func replayed(t *testing.T, n *node, path string) {
	t.Helper()
	write := func(name, text string) string {
		file := filepath.Join(n.Dir(), name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	old := seed(t, "googleapis.yaml")["googleapis.yaml"]
	same := write("same.yaml", old)
	echo := []string{"--allow", "93.184.215.14:7", "--allow", "[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:7"}
	run := func(code int, args ...string) (out replay.Outcomes) {
		t.Helper()
		e := finish(t, n.d.Command(t.Context(), append([]string{"replay", path, "-o", "json"}, args...)...))
		if err := json.Unmarshal([]byte(e.stdout), &out); err != nil || e.code != code || out.Flows == 0 || len(out.Unasked) > 0 {
			t.Errorf("%v: exit %d, want %d, %v: %s%s", args, e.code, code, err, e.stdout, e.stderr)
		}
		return out
	}
	count := func(out replay.Outcomes, denied, allowed, otherwise int) {
		t.Helper()
		if out.Count(replay.Denied) != denied || out.Count(replay.Allowed) != allowed || out.Count(replay.Otherwise) != otherwise || out.Flows != out.Same+len(out.Changes) {
			text, _ := json.MarshalIndent(out, "", "  ")
			t.Errorf("want %d denied, %d allowed, %d otherwise: %s", denied, allowed, otherwise, text)
		}
	}
	count(run(0, append(echo, "--config", same)...), 0, 0, 0) // what is in force changes nothing
	count(run(1, "--config", same), 2, 0, 0)                  // both echoes
	count(run(1, append(echo, "--config", write("closed.yaml", strings.Replace(old, "  - number: 443\n    name: https\n    protocol: HTTPS\n", "", 1)))...), 1, 0, 0)
	open := append(echo, "--config", same, "--allow", world.Stranger, "--allow", hostPort(world.StrangerV4, 443))
	count(run(0, open...), 0, 2, 0) // the name, and the address
	count(run(0, append(echo, "--config", write("direct.yaml", strings.Replace(old, "protocol: HTTPS", "protocol: TCP", 1)))...), 0, 0, 1)
}
