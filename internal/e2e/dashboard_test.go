// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// silent are parts of expressions that have no series on a node on which nothing is wrong
// and that is part of no cluster. All others must have some.
var silent = []string{
	"egressd_kubernetes_", "egressd_endpoint_ejections_total", `"upstream-.+"`, "egressd_hold_repairs_total", `action="lost"`,
	"egressd_log_dropped_total", "egressd_access_log_dropped_total",
	"istio_tcp_connections_opened_total", // of what is forwarded without being HTTP
}

// panelQueries are the expressions of the dashboard's panels, by panel.
func panelQueries(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana/egressd.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			out[strings.NewReplacer("$__rate_interval", "1m", "$job", ".+", "$instance", ".+").Replace(q.Expr)] = p.Title
		}
	}
	if len(out) < 30 {
		t.Fatalf("only %d expressions", len(out))
	}
	return out
}

// query asks a Prometheus.
func (n *node) prometheus(t *testing.T, at netip.AddrPort, path string, args ...string) answer {
	t.Helper()
	a := n.curl(t, nil, append([]string{"-G", "http://" + at.String() + "/api/v1/" + path}, args...)...)
	if a.status != 200 || !strings.Contains(a.body, `"status":"success"`) {
		t.Fatalf("%s %q: %+v", path, args, a)
	}
	return a
}

// TestDashboard: with what a Prometheus scraped of a node with traffic and denials, each panel
// of the dashboard shows something, the variables have values, and every alert is evaluated;
// none of them is about a node on which nothing is wrong.
func TestDashboard(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{"google.yaml": hosts("google", world.GoogleAPIs)}, nil, "--probe-interval", "1s")
	rules, err := filepath.Abs("../../deploy/prometheus/egressd.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort("127.0.0.1:9091")
	n.serveIn(t, n.Node, at, "prometheus", "--web.listen-address="+at.String(), "--storage.tsdb.path="+filepath.Join(n.Dir(), "tsdb"), "--config.file="+n.config(t, "prometheus.yml", `global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: [`+rules+`]
scrape_configs:
- job_name: egressd
  static_configs: [{targets: ["127.0.0.1:15020"]}]
`))
	eventually(t, soon, "Prometheus is ready", func() bool { return n.curl(t, nil, "http://"+at.String()+"/-/ready").status == 200 })
	open := panelQueries(t)
	for expr, title := range open {
		for _, part := range silent {
			if strings.Contains(expr, part) {
				n.prometheus(t, at, "query", "--data-urlencode", "query="+expr) // it is one all the same
				delete(open, expr)
			}
		}
		_ = title
	}
	eventually(t, 12*soon, "every panel shows something", func() bool {
		n.curl(t, n.in, "http://"+world.GoogleAPIs+"/", "http://"+world.API+"/", "http://"+world.StrangerV4+"/", "-H", "Host: "+world.API)
		n.curl(t, n.in, "-H", "Host: "+world.API, "http://"+world.GoogleAPIs+"/")
		for expr := range open {
			if strings.Contains(n.prometheus(t, at, "query", "--data-urlencode", "query="+expr).body, `"value":[`) {
				delete(open, expr)
			}
		}
		if t.Failed() || len(open) > 0 {
			t.Logf("nothing yet: %q", open)
		}
		return len(open) == 0
	})
	for _, label := range []string{"job", "instance"} {
		if a := n.prometheus(t, at, "label/"+label+"/values", "--data-urlencode", "match[]=egressd_ready"); strings.Contains(a.body, `"data":[]`) {
			t.Errorf("the variable %s has no values: %s", label, a.body)
		}
	}
	var r struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, State, LastError string }
			}
		}
	}
	evaluated := func() (all int) {
		if err := json.Unmarshal([]byte(n.prometheus(t, at, "rules").body), &r); err != nil {
			t.Fatal(err)
		}
		for _, g := range r.Data.Groups {
			for _, rule := range g.Rules {
				if rule.Health == "unknown" {
					return 0
				}
				all++
			}
		}
		return all
	}
	eventually(t, 12*soon, "all alerts are evaluated", func() bool { return evaluated() >= 20 })
	for _, g := range r.Data.Groups {
		for _, rule := range g.Rules {
			if rule.Health != "ok" || rule.State != "inactive" {
				t.Errorf("%s is %s, %s: %s", rule.Name, rule.Health, rule.State, rule.LastError)
			}
		}
	}
}
