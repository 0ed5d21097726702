// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/egressd/egressd/agent/observe"
	"github.com/egressd/egressd/agent/report"
	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

var writeDocs = flag.Bool("write", false, "write the table of docs/METRICS.md instead of comparing it")

const (
	metricsDoc = "../docs/METRICS.md"
	operations = "../docs/OPERATIONS.md"
	dashboard  = "../deploy/grafana/egressd.json"
	rules      = "../deploy/prometheus/egressd.rules.yaml"
	ruleTests  = "../deploy/prometheus/egressd.rules.test.yaml"
)

// metric is one of the daemon's.
type metric struct {
	name, help string
	labels     []string
}

// registry has all metrics of a daemon of which nothing is known.
func registry(t *testing.T) *prometheus.Registry {
	t.Helper()
	a, err := observe.New(observe.Options{Snapshot: func() *policy.Snapshot { return nil }, Stdout: io.Discard, Stderr: io.Discard, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return report.Registry(report.Source{
		Status: func() report.Status { return report.Status{} }, Events: func() map[flow.CountKey]uint64 { return nil },
		Dropped: func() uint64 { return 0 }, LogDropped: func() uint64 { return 0 }, Closed: func() map[string]uint64 { return nil },
		Unbound: func() int64 { return 0 }, Holding: func() (failures, repairs map[loader.FaultKind]uint64) { return nil, nil },
		Upstreams: func() []dnsproxy.UpstreamStatus { return nil },
	}, a.Collectors()...)
}

// metrics are all that the daemon registers, by name.
func metrics(t *testing.T) map[string]metric {
	t.Helper()
	described := regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: (".*"), unit: "[^"]*", constLabels: \{[^}]*\}, variableLabels: \{([^}]*)\}`)
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		registry(t).Describe(ch)
	}()
	out := map[string]metric{}
	for d := range ch {
		m := described.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("a metric that cannot be read: %s", d)
		}
		one := metric{name: m[1]}
		if _, err := fmt.Sscanf(m[2], "%q", &one.help); err != nil {
			t.Fatal(err)
		}
		if m[3] != "" {
			one.labels = strings.Split(m[3], ",")
		}
		out[one.name] = one
	}
	if len(out) < 50 {
		t.Fatalf("only %d metrics", len(out))
	}
	return out
}

// own says whether a metric is egressd's, and not of the Go runtime or of any process.
func (m metric) own() bool {
	return strings.HasPrefix(m.name, "egressd_") || strings.HasPrefix(m.name, "istio_")
}

// kind is the type, by the name: promtool holds counters to their ending.
func (m metric) kind() string {
	switch {
	case strings.HasSuffix(m.name, "_total"):
		return "counter"
	case strings.HasPrefix(m.name, "istio_"):
		return "histogram"
	}
	return "gauge"
}

func (m metric) unit() string {
	name := strings.TrimSuffix(m.name, "_total")
	for _, unit := range []string{"milliseconds", "seconds", "bytes"} {
		if strings.HasSuffix(name, "_"+unit) {
			return unit
		}
	}
	switch {
	case slices.Contains(m.labels, "resource"):
		return "count; bytes of memory"
	case regexp.MustCompile(`^([01] when|Whether) `).MatchString(m.help):
		return "0 or 1"
	}
	return "count"
}

// table is that of docs/METRICS.md.
func table(all map[string]metric) string {
	var b strings.Builder
	b.WriteString("| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		m := all[name]
		if !m.own() {
			continue
		}
		labels := strings.Join(m.labels, ", ")
		if strings.HasPrefix(name, "istio_") {
			labels = "[Istio's](#labels-of-istios-metrics)"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", name, m.kind(), m.unit(), labels, strings.ReplaceAll(m.help, "|", `\|`))
	}
	return b.String()
}

// read is a file of the source tree; tests also run where there is none.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("needs the source tree around the tests: %v", err)
	}
	return string(text)
}

// TestMetricsAreDocumented: docs/METRICS.md has each metric as the source has it, each
// counter of the kernel, and the labels.
func TestMetricsAreDocumented(t *testing.T) {
	all := metrics(t)
	text := read(t, metricsDoc)
	const begin, end = "<!-- metrics: go test ./agent -run TestMetricsAreDocumented -write -->\n\n", "\n<!-- /metrics -->"
	before, rest, ok := strings.Cut(text, begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", metricsDoc)
	}
	want := table(all)
	if *writeDocs {
		if err := os.WriteFile(metricsDoc, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if got != want {
		t.Errorf("the table of %s is not what the source has; write it with: go test ./agent -run TestMetricsAreDocumented -write\n%s", metricsDoc, want)
	}
	for _, name := range telemetry.CounterNames() {
		action, reason, _ := strings.Cut(name, "/")
		if action != "deny" && !strings.Contains(after, "`"+action+"` | `"+reason+"` |") {
			t.Errorf("%s does not say what %s of egressd_kernel_flows_total is", metricsDoc, name)
		}
	}
	for name, m := range all {
		for _, l := range m.labels {
			if m.own() && !strings.Contains(after, "`"+l+"`") {
				t.Errorf("%s does not say what the label %s of %s is", metricsDoc, l, name)
			}
		}
	}
}

// TestMetricsHaveTheirTypes: what a name says of the type is true, for what a daemon
// tells of which nothing is known.
func TestMetricsHaveTheirTypes(t *testing.T) {
	families, err := registry(t).Gather()
	if err != nil {
		t.Fatal(err)
	}
	all, seen := metrics(t), 0
	for _, f := range families {
		m := all[f.GetName()]
		if !m.own() {
			continue
		}
		seen++
		if strings.ToLower(f.GetType().String()) != m.kind() {
			t.Errorf("%s is a %s, and its name says %s", m.name, f.GetType(), m.kind())
		}
	}
	if seen < 20 {
		t.Errorf("only %d metrics were told", seen)
	}
}

// exprs are the expressions in a tree of JSON or YAML, and what Grafana asks for the
// values of a variable.
func exprs(tree any) (out []string) {
	switch v := tree.(type) {
	case map[string]any:
		for k, below := range v {
			text, is := below.(string)
			switch {
			case is && k == "expr":
				out = append(out, text)
			case is && k == "query" && strings.HasPrefix(text, "label_values("):
				metric, _, _ := strings.Cut(strings.TrimPrefix(text, "label_values("), ", ")
				out = append(out, metric)
			default:
				out = append(out, exprs(below)...)
			}
		}
	case []any:
		for _, below := range v {
			out = append(out, exprs(below)...)
		}
	}
	return out
}

func tree(t *testing.T, path string) (out any) {
	t.Helper()
	unmarshal := yaml.Unmarshal
	if filepath.Ext(path) == ".json" {
		unmarshal = json.Unmarshal
	}
	if err := unmarshal([]byte(read(t, path)), &out); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return out
}

// TestMetricsExist: the dashboard and the alerts name no metric and no label that the
// daemon does not have.
func TestMetricsExist(t *testing.T) {
	all := metrics(t)
	for _, path := range []string{dashboard, rules} {
		list := exprs(tree(t, path))
		if len(list) < 20 {
			t.Errorf("%s: only %d expressions", path, len(list))
		}
		for _, expr := range list {
			names, labels := namesOf(expr)
			if len(names) == 0 {
				t.Errorf("%s: %s names no metric", path, expr)
			}
			known := []string{"job", "instance"}
			for _, name := range names {
				m, ok := all[name]
				for _, suffix := range []string{"_bucket", "_sum", "_count"} {
					if base := all[strings.TrimSuffix(name, suffix)]; !ok && base.name != "" && base.kind() == "histogram" {
						m, ok, known = base, true, append(known, "le")
					}
				}
				switch {
				case name == "up": // Prometheus itself has it
				case name == "ALERTS":
					known = append(known, "alertname", "alertstate")
				case !ok:
					t.Errorf("%s: the daemon has no metric %s: %s", path, name, expr)
				}
				known = append(known, m.labels...)
			}
			for _, l := range labels {
				if !slices.Contains(known, l) {
					t.Errorf("%s: %v have no label %s: %s", path, names, l, expr)
				}
			}
		}
	}
}

// promtool runs promtool in the directory of the rules.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	testenv.RequireTool(t, "promtool")
	cmd := exec.Command("promtool", args...)
	cmd.Dir = filepath.Dir(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestDashboard: its expressions are PromQL, and its panels lie beside each other.
func TestDashboard(t *testing.T) {
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var list []rule
	for i, expr := range exprs(tree(t, dashboard)) {
		expr = strings.NewReplacer("$__rate_interval", "5m", "$job", ".+", "$instance", ".+").Replace(expr)
		list = append(list, rule{fmt.Sprintf("panel:%d", i), expr})
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": list}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)

	var d struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
		}
	}
	if err := json.Unmarshal([]byte(read(t, dashboard)), &d); err != nil {
		t.Fatal(err)
	}
	taken, ids := map[[2]int]string{}, map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W*p.GridPos.H == 0 {
			t.Errorf("panel %q: number %d, at %+v", p.Title, p.ID, p.GridPos)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, ok := taken[at]; ok {
					t.Fatalf("panel %q lies on %q", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
	}
}

// TestAlerts: promtool accepts the rules and their tests; each alert is tested, says
// what it means for traffic and what to do, and has a section of docs/OPERATIONS.md.
func TestAlerts(t *testing.T) {
	promtool(t, "check", "rules", filepath.Base(rules))
	promtool(t, "test", "rules", filepath.Base(ruleTests))
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, rules)), &file); err != nil {
		t.Fatal(err)
	}
	manual, tests := read(t, operations), read(t, ruleTests)
	_, section, _ := strings.Cut(manual, "\n## Alerts\n")
	section, _, _ = strings.Cut(section, "\n## ")
	count := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			count++
			for _, k := range []string{"summary", "description", "action", "runbook_url"} {
				if r.Annotations[k] == "" {
					t.Errorf("%s has no %s", r.Alert, k)
				}
			}
			if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
				t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
			}
			if !strings.HasSuffix(r.Annotations["runbook_url"], "/docs/OPERATIONS.md#"+strings.ToLower(r.Alert)) {
				t.Errorf("%s: its runbook is %s", r.Alert, r.Annotations["runbook_url"])
			}
			if !strings.Contains(section, "\n### "+r.Alert+"\n") {
				t.Errorf("%s has no section %q below Alerts in %s", r.Alert, r.Alert, operations)
			}
			fires := fmt.Sprintf(`ALERTS{alertname="%s",alertstate="firing",`, r.Alert)
			quiet := fmt.Sprintf(`{expr: 'ALERTS{alertname="%s",alertstate="firing"}', eval_time: `, r.Alert)
			if !strings.Contains(tests, fires) || !strings.Contains(tests, quiet) {
				t.Errorf("%s has no test in which it fires, and in which it does not", r.Alert)
			}
		}
	}
	if n := strings.Count(section, "\n### "); n != count {
		t.Errorf("%d sections for %d alerts", n, count)
	}
}
