// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// series says whether a page of metrics has a series that is not 0.
func series(page, name string, labels ...string) bool {
	for line := range strings.Lines(page) {
		found := strings.HasPrefix(line, name+"{") && !strings.HasSuffix(line, " 0\n")
		for _, l := range labels {
			found = found && strings.Contains(line, l)
		}
		if found {
			return true
		}
	}
	return false
}

// TestObserved: what is proxied, what the kernel inspects and what is denied is in the
// access log and in Istio's metrics, in both families of addresses.
func TestObserved(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "promtool")
	const format = `%EGRESSD(VERDICT)% %EGRESSD(KIND)% %REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% "%REQ(USER-AGENT)%" %UPSTREAM_CLUSTER% %UPSTREAM_HOST% %REQUESTED_SERVER_NAME% %EGRESSD(COMMAND)%`
	n := start(t, seed(t, "googleapis.yaml"), nil, "--access-log", "{dir}/access.log", "--access-log-format", format)
	path := filepath.Join(n.Dir(), "access.log")
	for _, family := range []string{"-4", "-6"} {
		if a := n.curl(t, n.in, family, "-A", `evil" 200`, "http://"+world.GoogleAPIs+"/echo?x=1"); a.status != 200 {
			t.Errorf("%+v", a)
		}
		if a := n.curl(t, n.in, family, "https://"+world.GoogleAPIs+"/echo"); a.status != 200 {
			t.Errorf("%+v", a)
		}
		if a := n.curl(t, n.in, family, "-H", "Host: evil.example", "http://"+world.GoogleAPIs+"/"); a.status != 502 {
			t.Errorf("%+v", a)
		}
	}
	n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 443))
	n.probe(t, n.in, "dial", hostPort(world.StrangerV6, 443))
	has := func(log string, words ...string) bool {
		for line := range strings.Lines(log) {
			found := true
			for _, w := range words {
				found = found && strings.Contains(line, w)
			}
			if found {
				return true
			}
		}
		return false
	}
	const cluster = "outbound|%d||" + world.GoogleAPIs
	for _, words := range [][]string{
		{`proxy request GET /echo?x=1 200 - "evil\" 200" ` + fmt.Sprintf(cluster, 80), "]:80 - curl"},
		{`proxy request GET /echo?x=1 200 - "evil\" 200" ` + fmt.Sprintf(cluster, 80), ".", ":80 - curl"},
		{"inspect close - - 0 - \"-\" " + fmt.Sprintf(cluster, 443), "]:443 " + world.GoogleAPIs + " curl"},
		{"deny request GET / 502 - \"curl", "BlackHoleCluster"},
		{"deny decision - - 0 UH \"-\" BlackHoleCluster"},
	} {
		eventually(t, soon, strings.Join(words, " ... "), func() bool {
			log, _ := os.ReadFile(path)
			return has(string(log), words...)
		})
	}
	var page string
	for _, want := range [][]string{
		{"istio_requests_total", `destination_service="` + world.GoogleAPIs + `"`, `response_code="200"`, `reporter="source"`},
		{"istio_requests_total", `destination_service_name="BlackHoleCluster"`, `response_code="502"`},
		{"istio_tcp_connections_closed_total", `destination_service_name="BlackHoleCluster"`, `response_flags="UH"`},
		{"istio_request_duration_milliseconds_count", `destination_service="` + world.GoogleAPIs + `"`},
		{"istio_response_bytes_sum", `destination_service="` + world.GoogleAPIs + `"`},
		{"istio_tcp_connections_opened_total", `destination_service="` + world.GoogleAPIs + `"`},
		{"istio_tcp_connections_closed_total", `destination_service="` + world.GoogleAPIs + `"`},
		{"istio_tcp_sent_bytes_total", `destination_service="` + world.GoogleAPIs + `"`},
	} {
		eventually(t, soon, strings.Join(want, " "), func() bool {
			page = n.curl(t, nil, "http://127.0.0.1:15020/stats/prometheus").body
			return series(page, want[0], want[1:]...)
		})
	}
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(page + "\n")
	out, err := check.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "istio_request_duration_milliseconds ") { // Istio's choice
			t.Errorf("promtool: %s", line)
		}
	}

	// Somebody rotates the file.
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := n.d.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "a new file", func() bool { _, err := os.Stat(path); return err == nil })
	n.curl(t, n.in, "http://"+world.GoogleAPIs+"/after")
	eventually(t, soon, "a line in the new file", func() bool { log, _ := os.ReadFile(path); return has(string(log), "/after") })
}

// TestMeshAccessLog: a MeshConfig turns the access log on and off.
func TestMeshAccessLog(t *testing.T) {
	t.Parallel()
	config := seed(t, "googleapis.yaml")
	const mesh = "apiVersion: egressd.dev/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec:\n  outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n"
	config["mesh.yaml"] = mesh
	n := start(t, config, nil)
	ask := func(path string) {
		t.Helper()
		if a := n.curl(t, n.in, "http://"+world.GoogleAPIs+path); a.status != 200 {
			t.Errorf("%+v", a)
		}
	}
	ask("/silent")
	n.write(t, "mesh.yaml", mesh+"  accessLogFile: /dev/stderr\n  accessLogFormat: 'line of %REQ(:PATH)%'\n")
	eventually(t, soon, "the log is on", func() bool { ask("/loud"); return strings.Contains(n.d.Log(), "line of /loud\n") })
	if strings.Contains(n.d.Log(), "line of /silent") {
		t.Error("there were lines before")
	}
}

// TestTelemetry: a Telemetry object chooses what is in the access log and what labels
// the metrics have; without it, everything is and they have none of it.
func TestTelemetry(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil, "--access-log", "{dir}/access.log", "--access-log-format", "%REQ(:PATH)% %RESPONSE_CODE%")
	path := filepath.Join(n.Dir(), "access.log")
	lines := func() string { log, _ := os.ReadFile(path); return string(log) }
	ask := func(status int, family, host, path string) {
		t.Helper()
		if a := n.curl(t, n.in, family, "-H", "Host: "+host, "http://"+world.GoogleAPIs+path); a.status != status {
			t.Errorf("%s %s: %+v", family, path, a)
		}
	}
	const tagged = `team="shop"`
	page := func() string { return n.curl(t, nil, "http://127.0.0.1:15020/stats/prometheus").body }
	for _, family := range []string{"-4", "-6"} {
		before := "/echo?before" + family
		ask(200, family, world.GoogleAPIs, before)
		eventually(t, soon, "a line before", func() bool { return strings.Contains(lines(), before+" 200\n") })
	}
	if series(page(), "istio_requests_total", tagged) {
		t.Error("the label was there before")
	}

	n.write(t, "telemetry.yaml", `apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec:
  accessLogging:
  - filter: {expression: response.code >= 400}
  metrics:
  - providers: [{name: prometheus}]
    overrides:
    - match: {metric: REQUEST_COUNT}
      tagOverrides:
        team: {value: "'shop'"}
        path: {value: request.url_path}
        response_flags: {operation: REMOVE}
`)
	eventually(t, soon, "the label is there", func() bool {
		ask(200, "-4", world.GoogleAPIs, "/echo?probe")
		return series(page(), "istio_requests_total", tagged, `path="/echo"`, `response_flags=""`)
	})
	for _, family := range []string{"-4", "-6"} {
		ask(200, family, world.GoogleAPIs, "/echo?good"+family)
		ask(502, family, "evil.example", "/bad"+family)
		// A line comes in the order of its request, so the good one would be there.
		eventually(t, soon, "the line of what was denied", func() bool { return strings.Contains(lines(), "/bad"+family+" 502\n") })
	}
	if strings.Contains(lines(), "/echo?good") {
		t.Errorf("what the filter leaves out has lines:\n%s", lines())
	}
	if series(page(), "istio_request_duration_milliseconds_count", tagged) {
		t.Error("the label is on another metric too")
	}
}
