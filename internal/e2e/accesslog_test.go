// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// flowEndings is a policy under which a flow ends in every way.
const flowEndings = `---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: down}
spec:
  hosts: [down.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.66, ports: {http: 81}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo}
spec:
  hosts: [echo.address.internal]
  addresses: [93.184.215.14, '2606:2800:21f:cb07:6820:80da:af6b:8b2c']
  ports: [{number: 7, name: tcp, protocol: TCP}]
  resolution: NONE
`

// lineWith is the line of JSON whose fields are what they must be: a text of a regular
// expression, a number or nil for each that is named, and null for all others.
func lineWith(log string, want map[string]any) bool {
	for line := range strings.Lines(log) {
		var got map[string]any
		if json.Unmarshal([]byte(line), &got) != nil {
			continue
		}
		good := true
		for name, is := range got {
			switch w := want[name].(type) {
			case string:
				s, ok := is.(string)
				good = good && ok && regexp.MustCompile("^(?:"+w+")$").MatchString(s)
			case int:
				good = good && is == float64(w)
			case bool: // any number
				_, ok := is.(float64)
				good = good && ok
			default:
				good = good && is == nil
			}
		}
		if good && len(got) == 24 {
			return true
		}
	}
	return false
}

// TestAccessLogFields: each field of Istio's JSON format, of a request that is answered,
// denied and failed, and of connections that are inspected, let pass, and denied, in both
// families of addresses.
func TestAccessLogFields(t *testing.T) {
	t.Parallel()
	config := seed(t, "googleapis.yaml")
	config["endings.yaml"] = flowEndings
	n := start(t, config, nil, "--access-log", "{dir}/access.log", "--access-log-encoding", "JSON")
	path := filepath.Join(n.Dir(), "access.log")
	t.Cleanup(func() {
		if log, _ := os.ReadFile(path); t.Failed() {
			t.Logf("the access log:\n%s", log)
		}
	})
	const start, v4, v6 = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`, `[0-9.]+:\d+`, `\[[0-9a-f:]+\]:\d+`
	for _, c := range []struct{ family, at, stranger, echo string }{
		{"-4", v4, world.StrangerV4, n.Echo.Addr.String()},
		{"-6", v6, world.StrangerV6, n.Echo6.Addr.String()},
	} {
		n.curl(t, n.in, c.family, "-A", "agent", "-H", "X-Request-Id: id"+c.family, "-H", "X-Forwarded-For: 192.0.2.9", "-d", "abc", "http://"+world.GoogleAPIs+"/echo?x="+c.family)
		n.curl(t, n.in, c.family, "-A", "agent", "-H", "Host: evil.example", "http://"+world.GoogleAPIs+"/denied"+c.family)
		n.curl(t, n.in, c.family, "https://"+world.GoogleAPIs+"/secret")
		n.curl(t, n.in, c.family, "--connect-to", "evil.example:443:"+world.GoogleAPIs+":443", "https://evil.example/")
		n.probe(t, n.in, "dial", hostPort(c.stranger, 443))
		n.probe(t, n.in, "dial", c.echo)
		request := map[string]any{"start_time": start, "user_agent": "agent", "protocol": "HTTP/1.1", "duration": true, "downstream_local_address": c.at, "downstream_remote_address": c.at}
		connection := map[string]any{"start_time": start, "response_code": 0, "response_flags": "-", "duration": true, "downstream_local_address": c.at}
		google := "outbound\\|%d\\|\\|www\\.googleapis\\.com"
		for what, fields := range map[string][2]map[string]any{
			"answered": {request, {
				"method": "POST", "path": `/echo\?x=` + c.family, "response_code": 200, "response_flags": "-", "response_code_details": "via_upstream", "bytes_received": 3, "bytes_sent": true,
				"upstream_service_time": true, "x_forwarded_for": "192\\.0\\.2\\.9", "request_id": "id" + c.family, "authority": "www\\.googleapis\\.com", "upstream_host": v4 + "|" + v6,
				"upstream_cluster": fmt.Sprintf(google, 80),
			}},
			"denied": {request, {
				"method": "GET", "path": "/denied" + c.family, "response_code": 502, "response_flags": "-", "response_code_details": "name_not_allowed", "bytes_received": 0, "bytes_sent": true,
				"authority": "evil\\.example", "upstream_cluster": "BlackHoleCluster",
			}},
			"inspected": {connection, {
				"bytes_received": true, "bytes_sent": true, "upstream_host": c.at, "upstream_cluster": fmt.Sprintf(google, 443), "requested_server_name": "www\\.googleapis\\.com",
			}},
			"denied by its name": {connection, {
				"response_flags": "UH", "connection_termination_details": "name-not-allowed", "bytes_received": true, "bytes_sent": true, "upstream_cluster": "BlackHoleCluster", "requested_server_name": "evil\\.example", "downstream_remote_address": c.at,
			}},
			"let pass": {connection, {
				"bytes_received": true, "bytes_sent": true, "upstream_host": regexp.QuoteMeta(c.echo), "upstream_cluster": "outbound\\|7\\|\\|echo\\.address\\.internal",
			}},
			"denied by its address": {connection, {
				"response_flags": "UH", "connection_termination_details": "no-rule|port-not-allowed", "bytes_received": 0, "bytes_sent": 0, "upstream_cluster": "BlackHoleCluster",
			}},
		} {
			want := map[string]any{}
			for _, some := range fields {
				for name, is := range some {
					want[name] = is
				}
			}
			eventually(t, soon, what+" "+c.family, func() bool { log, _ := os.ReadFile(path); return lineWith(string(log), want) })
		}
	}
	n.curl(t, n.in, "-A", "agent", "http://down.example/")
	want := map[string]any{
		"start_time": start, "method": "GET", "path": "/", "protocol": "HTTP/1.1", "response_code": 503, "response_flags": "UF,URX", "response_code_details": "[a-z_]+", "bytes_received": 0, "bytes_sent": true,
		"duration": true, "user_agent": "agent", "authority": "down\\.example", "upstream_host": "203\\.0\\.113\\.66:81", "upstream_cluster": "outbound\\|80\\|\\|down\\.example",
		"downstream_local_address": v4 + "|" + v6, "downstream_remote_address": v4 + "|" + v6, "upstream_transport_failure_reason": ".+",
	}
	eventually(t, soon, "failed", func() bool { log, _ := os.ReadFile(path); return lineWith(string(log), want) })
}

// TestAccessLogLosesNothing: while others move the file away again and again, each request
// of a load has its line in one of the files.
func TestAccessLogLosesNothing(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil, "--access-log", "{dir}/access.log", "--access-log-format", "%REQ(:PATH)%")
	path := filepath.Join(n.Dir(), "access.log")
	const clients, each, moves = 3, 300, 6
	var load sync.WaitGroup
	for i := range clients {
		c := n.client(t, n.in, "curl", "-q", "-s", "--noproxy", "*", "-m", "60", "-o", "/dev/null", fmt.Sprintf("http://%s/r/%d-[1-%d]", world.GoogleAPIs, i, each))
		load.Go(func() { _ = c.Run() })
	}
	lines := func(file string) []string {
		text, _ := os.ReadFile(file)
		return strings.Fields(string(text))
	}
	for i := range moves {
		eventually(t, soon, "a line", func() bool { return len(lines(path)) > 0 })
		if err := os.Rename(path, fmt.Sprintf("%s.%d", path, i)); err != nil {
			t.Fatal(err)
		}
		if err := n.d.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	load.Wait()
	all := func() (got []string) {
		files, _ := filepath.Glob(path + "*")
		for _, f := range files {
			got = append(got, lines(f)...)
		}
		slices.Sort(got)
		return got
	}
	eventually(t, soon, "all lines", func() bool { return len(all()) >= clients*each })
	if got := all(); len(got) != clients*each || len(slices.Compact(got)) != clients*each {
		t.Errorf("%d lines, %d different ones, want %d", len(got), len(slices.Compact(got)), clients*each)
	}
	if files, _ := filepath.Glob(path + ".*"); len(files) != moves {
		t.Errorf("files: %q", files)
	}
}

// TestProviders: providers of the MeshConfig have formats and places of their own, a
// Telemetry chooses among them for what goes to a ServiceEntry, and has the fields of
// traces not go out.
func TestProviders(t *testing.T) {
	t.Parallel()
	config := seed(t, "googleapis.yaml")
	config["mesh.yaml"] = `apiVersion: egressd.dev/v1
kind: MeshConfig
metadata: {name: mesh}
spec:
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  extensionProviders:
  - name: lines
    envoyFileAccessLog: {path: /dev/stderr, logFormat: {text: "text of %REQ(:PATH)%"}}
  - name: objects
    envoyFileAccessLog: {path: /dev/stderr, omitEmptyValues: true, logFormat: {labels: {object: "%REQ(:PATH)%", none: "%REQ(NONE)%"}}}
  defaultProviders: {accessLogging: [lines]}
`
	n := start(t, config, nil)
	const caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	ask := func(path string) world.Echo {
		t.Helper()
		var e world.Echo
		a := n.curl(t, n.in, "-H", "traceparent: "+caller, "-H", "b3: 0", "http://"+world.GoogleAPIs+path)
		if err := json.Unmarshal([]byte(a.body), &e); a.status != 200 || err != nil {
			t.Errorf("%+v: %v", a, err)
		}
		return e
	}
	if e := ask("/one"); e.Header["Traceparent"][0] != caller || e.Header["B3"][0] != "0" {
		t.Errorf("before, the caller's fields go on: %v", e.Header)
	}
	eventually(t, soon, "a line of text", func() bool { return strings.Contains(n.d.Log(), "text of /one\n") })
	n.write(t, "telemetry.yaml", `apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: google}
spec:
  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: googleapis}]
  accessLogging: [{providers: [{name: objects}]}]
  tracing: [{disableContextPropagation: true}]
`)
	eventually(t, soon, "a line of JSON", func() bool { ask("/two"); return strings.Contains(n.d.Log(), `{"object":"/two"}`+"\n") })
	e := ask("/three")
	if len(e.Header["Traceparent"])+len(e.Header["B3"]) > 0 {
		t.Errorf("the fields of the trace went out: %v", e.Header)
	}
	eventually(t, soon, "a line of JSON", func() bool { return strings.Contains(n.d.Log(), `{"object":"/three"}`+"\n") })
	if strings.Contains(n.d.Log(), "text of /three") {
		t.Error("the other provider has a line as well")
	}
	if strings.Contains(n.d.Log(), `"object":"/one"`) {
		t.Error("there was an object before")
	}
}

// TestStandardLabels: series have the labels that Istio documents, on the port that its
// proxies have as well, and the bound of their number is seen.
func TestStandardLabels(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil, "--mesh-metrics-series", "7", "--status-address", "localhost:15090")
	n.curl(t, n.in, "http://"+world.GoogleAPIs+"/echo")
	labels := []string{
		"reporter", "source_workload", "source_workload_namespace", "source_principal", "source_app", "source_version", "source_canonical_service", "source_canonical_revision", "source_cluster",
		"destination_workload", "destination_workload_namespace", "destination_principal", "destination_app", "destination_version", "destination_service", "destination_service_name",
		"destination_service_namespace", "destination_canonical_service", "destination_canonical_revision", "destination_cluster", "request_protocol", "response_code", "connection_security_policy",
		"response_flags", "grpc_response_status",
	}
	for i, l := range labels {
		labels[i] = l + `="`
	}
	for _, at := range []string{"127.0.0.1", "::1"} {
		page := ""
		eventually(t, soon, "a series", func() bool {
			page = n.curl(t, nil, "http://"+hostPort(at, 15090)+"/stats/prometheus").body
			return series(page, "istio_requests_total", labels...)
		})
		if !strings.Contains(page, "\negressd_mesh_series_max 7\n") {
			t.Errorf("%s does not say how many series there may be", at)
		}
	}
}
