// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// TestAudit: everything passes, and what would be denied is told.
func TestAudit(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil, "--mode", "audit")
	google := n.GoogleAPIs.V4.String()
	n.learn(t, world.GoogleAPIs)
	for _, url := range []string{"http://" + world.StrangerV4, "http://[" + world.StrangerV6 + "]", "http://" + world.Stranger, "https://" + world.API, "https://" + world.GoogleAPIs} {
		if a := n.curl(t, n.in, url); a.status != 200 {
			t.Errorf("%s: %+v", url, a)
		}
	}
	if p := n.probe(t, n.in, "udp", n.StrangerUDP.Addr.String(), "hello"); p.Text != "hello" {
		t.Errorf("UDP: %+v", p)
	}
	if p := n.probe(t, n.in, "tls", hostPort(google, 443), "", n.CAFile()); p.Status != 200 {
		t.Errorf("no SNI: %+v", p)
	}
	wanted := []struct {
		what   string
		layer  flow.Layer
		reason policy.Reason
		match  func(flow.Event) bool
	}{
		{"the stranger's address", flow.Kernel, policy.ReasonNoRule, to(hostPort(world.StrangerV4, 80))},
		{"its IPv6 address", flow.Kernel, policy.ReasonNoRule, to(hostPort(world.StrangerV6, 80))},
		{"its name", flow.DNS, policy.ReasonName, func(e flow.Event) bool { return strings.TrimSuffix(e.Name, ".") == world.Stranger }},
		{"UDP", flow.Kernel, policy.ReasonNoRule, to(n.StrangerUDP.Addr.String())},
		{"no SNI", flow.Kernel, policy.ReasonNoName, to(hostPort(google, 443))},
	}
	for _, w := range wanted {
		n.event(t, w.what, func(e flow.Event) bool {
			return e.WouldDeny && e.Allowed && e.Layer == w.layer && e.Reason == w.reason && w.match(e)
		})
	}
	for _, e := range n.flows(t) {
		if !e.Allowed {
			t.Errorf("denied in audit mode: %+v", e)
		}
	}
	if e := n.egressd(t, "flows", "--verdict", "deny"); !strings.Contains(e.stdout, " AUDIT ") || strings.Contains(e.stdout, " DENY ") {
		t.Errorf("flows: %+v", e)
	}
	if e := n.egressd(t, "status"); !strings.Contains(e.stdout, "mode audit") {
		t.Errorf("status: %+v", e)
	}
}

// to matches TCP and UDP events by destination.
func to(addr string) func(flow.Event) bool {
	want := netip.MustParseAddrPort(addr)
	return func(e flow.Event) bool { return e.Dst == want }
}

// explained is the part of `egressd explain -o json` that tests look at.
type explained struct {
	Allowed         bool
	Verdict, Reason string
	Rule            *policy.Ref
	Steps           []string
	Suggestion      string
}

// TestCommands: the reading commands against a running daemon.
func TestCommands(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml", "external-db-static.yaml"), nil)
	n.learn(t, world.GoogleAPIs)
	t.Run("explain", func(t *testing.T) { explain(t, n) })
	t.Run("flows", func(t *testing.T) {
		if a := n.curl(t, n.in, "-X", "DELETE", "http://"+world.GoogleAPIs+"/a/b?secret=1"); a.status != 200 {
			t.Fatalf("%+v", a)
		}
		e := n.event(t, "the request", func(e flow.Event) bool { return e.Kind == flow.Request && e.Method == "DELETE" })
		if !e.Allowed || e.Path != "/a/b" || e.Status != 200 || e.Name != world.GoogleAPIs || e.Rule == nil || e.Process.Command != "curl" || e.Process.PID == 0 {
			t.Errorf("%+v", e)
		}
		n.curl(t, n.in, "http://"+world.StrangerV4)
		e = n.event(t, "the denial", func(e flow.Event) bool { return !e.Allowed && e.Dst.String() == hostPort(world.StrangerV4, 80) })
		if e.Layer != flow.Kernel || e.Reason != policy.ReasonNoRule || e.Verdict != policy.Deny || e.Process.Command != "curl" {
			t.Errorf("%+v", e)
		}
		for _, e := range n.flows(t, "--verdict", "deny") {
			if e.Allowed {
				t.Errorf("--verdict deny shows %+v", e)
			}
		}
		if e := n.egressd(t, "flows"); !strings.Contains(e.stdout, "DELETE "+world.GoogleAPIs+"/a/b -> 200") || !strings.Contains(e.stdout, " DENY ") {
			t.Errorf("%+v", e)
		}
	})
	t.Run("status", func(t *testing.T) {
		s := n.status(t)
		if !s.Ready || len(s.Policy.Hash) != 64 || s.Policy.Error != "" || s.Denials["kernel/no-rule"] == 0 || s.DNS["learned"] == 0 {
			t.Errorf("%+v", s)
		}
		if e := n.egressd(t, "status"); e.code != 0 || !strings.Contains(e.stdout, s.Policy.Hash[:12]) || !strings.Contains(e.stdout, "mode enforce") {
			t.Errorf("%+v", e)
		}
	})
	t.Run("exit codes", func(t *testing.T) { exitCodes(t, n) })
	t.Run("second daemon", func(t *testing.T) {
		e := n.run(t, nil, egressd, "run", "--config", n.d.ConfigDir(), "--cgroup", n.in.Path(), "--state-dir", n.d.StateDir(), "--pin-dir", n.d.PinDir(), "--dns-server", world.ResolverV4)
		if e.code != 1 || !strings.Contains(e.stderr, "another egressd runs") {
			t.Errorf("%+v", e)
		}
		if a := n.curl(t, n.in, "https://"+world.GoogleAPIs); a.status != 200 {
			t.Errorf("the first after the second: %+v", a)
		}
	})
}

func explain(t *testing.T, n *node) {
	rule := filepath.Join(n.d.ConfigDir(), "googleapis.yaml") + ":"
	tests := []struct {
		args            []string
		code            int
		verdict, reason string
		step            string
	}{
		{[]string{"https://" + world.GoogleAPIs + "/x"}, 0, "inspect", "allowed", "learned now: " + n.GoogleAPIs.V4.String()},
		{[]string{"http://" + world.GoogleAPIs + "/x"}, 0, "proxy", "allowed", "timeout 10s"},
		{[]string{hostPort(n.GoogleAPIs.V4.String(), 443)}, 0, "inspect", "allowed", "was learned for " + world.GoogleAPIs},
		{[]string{hostPort(n.GoogleAPIs.V4.String(), 22)}, 1, "deny", "port-not-allowed", "was learned for " + world.GoogleAPIs},
		{[]string{world.GoogleAPIs + ":443/udp"}, 1, "deny", "transport-not-allowed", ""},
		{[]string{"https://" + world.Stranger}, 1, "deny", "name-not-allowed", "the query is denied"},
		{[]string{hostPort(world.StrangerV6, 443)}, 1, "deny", "no-rule", "was not learned"},
		{[]string{"external-db:3306"}, 0, "direct", "allowed", "egressd answers external-db itself with " + world.DBV4},
	}
	for _, tt := range tests {
		e := n.egressd(t, append([]string{"explain", "-o", "json"}, tt.args...)...)
		var x explained
		if err := json.Unmarshal([]byte(e.stdout), &x); err != nil {
			t.Errorf("%v: %v in %+v", tt.args, err, e)
			continue
		}
		if e.code != tt.code || x.Allowed != (tt.code == 0) || x.Verdict != tt.verdict || x.Reason != tt.reason || !strings.Contains(strings.Join(x.Steps, "\n"), tt.step) {
			t.Errorf("%v: exit code %d, %+v; want %+v", tt.args, e.code, x, tt)
		}
		if strings.Contains(tt.args[0], world.GoogleAPIs) && x.Allowed && (x.Rule == nil || !strings.HasPrefix(x.Rule.Position(), rule)) {
			t.Errorf("%v: rule %v, want one in %s", tt.args, x.Rule, rule)
		}
		if x.Allowed != (x.Suggestion == "") {
			t.Errorf("%v: suggestion %q", tt.args, x.Suggestion)
		}
	}
	// What explain says is what happens.
	if e := n.egressd(t, "explain", "https://"+world.Stranger); e.code != 1 || !strings.Contains(e.stdout, "denied") || !strings.Contains(e.stdout, "kind: ServiceEntry") {
		t.Errorf("%+v", e)
	}
}

func exitCodes(t *testing.T, n *node) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(broken, []byte(strings.Replace(hosts("x", world.API), "number: 80", "number: 80000", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	nobody := []string{"--state-dir", filepath.Join(dir, "nobody")}
	tests := []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"check", n.d.ConfigDir()}, 0, "googleapis.yaml:31:14: warning: ", "policy is good"},
		{[]string{"check", broken}, 1, broken + ":8:", "policy is not good"},
		{[]string{"check", "-o", "json", broken}, 1, `"valid": false`, ""},
		{[]string{"check", filepath.Join(dir, "absent.yaml")}, 1, "", "absent.yaml"},
		{[]string{"check"}, 2, "", "--help"},
		{[]string{"check", "--no-such-flag", broken}, 2, "", "no-such-flag"},
		{[]string{"no-such-command"}, 2, "", "no-such-command"},
		{[]string{}, 2, "", "say what to do"},
		{[]string{"exec", "--config", broken}, 125, "", "after --"},
		{[]string{"exec", "--", "true"}, 125, "", "--config"},
		{[]string{"run"}, 2, "", "--config"},
		{[]string{"run", "--config", broken, "--mode", "lax"}, 2, "", "--mode"},
		{[]string{"run", "--config", broken, "--cgroup", "/"}, 3, "", "all traffic is open"},
		{[]string{"explain", "nonsense"}, 2, "", "nonsense"},
		{append([]string{"status"}, nobody...), 1, "", "no daemon"},
		{append([]string{"flows"}, nobody...), 1, "", "no daemon"},
		{append([]string{"explain", "a.example:80"}, nobody...), 1, "", "--config"},
		{[]string{"explain", "--config", n.d.ConfigDir(), "https://" + world.GoogleAPIs}, 0, "allowed, verdict inspect", ""},
		{[]string{"version"}, 0, "egressd ", ""},
	}
	for _, tt := range tests {
		e := n.run(t, nil, egressd, tt.args...)
		if e.code != tt.code || !strings.Contains(e.stdout, tt.stdout) || !strings.Contains(e.stderr, tt.stderr) {
			t.Errorf("egressd %v: %+v; want exit code %d, %q and %q", tt.args, e, tt.code, tt.stdout, tt.stderr)
		}
	}
}
