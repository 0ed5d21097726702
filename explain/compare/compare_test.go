// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"fmt"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

func entry(name, host, ports string) string {
	return "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: " + name + "}\nspec:\n  hosts: ['" + host + "']\n  ports: [" + ports + "]\n  resolution: DNS\n"
}

const (
	http  = "{number: 80, name: http, protocol: HTTP}"
	https = "{number: 443, name: https, protocol: HTTPS}"
)

func route(timeout string) string {
	return "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: api}\nspec:\n  hosts: [api.example.com]\n  http:\n  - timeout: " + timeout + "\n    route: [{destination: {host: api.example.com}}]\n"
}

const (
	network  = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: net}\nspec:\n  hosts: [net.address.internal]\n  addresses: [10.0.0.0/8, '2001:db8::/32']\n  ports: [{number: 5432, name: tcp, protocol: TCP}]\n  resolution: NONE\n"
	workload = "---\napiVersion: egressd.dev/v1\nkind: Workload\nmetadata: {name: build, namespace: ci}\nspec: {cgroups: [system.slice/build.service]}\n"
	sidecar  = "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: ci}\nspec:\n  egress: [{hosts: [default/api.example.com]}]\n"
	mesh     = "---\napiVersion: egressd.dev/v1\nkind: MeshConfig\nmetadata: {name: mesh, namespace: istio-system}\nspec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}, extensionProviders: [{name: z, zipkin: {service: zipkin, port: 9411}}]}\n"
	spans    = "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: t, namespace: ci}\nspec: {tracing: [{providers: [{name: z}], randomSamplingPercentage: 5, customTags: {team: {literal: {value: shop}}}}]}\n"
	counted  = "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: t}\nspec: {targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: api}], metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {team: {value: \"'shop'\"}, response_code: {operation: REMOVE}}}, {match: {metric: REQUEST_SIZE}, disabled: true}]}]}\n"
	allowAny = "---\napiVersion: egressd.dev/v1\nkind: MeshConfig\nmetadata: {name: mesh, namespace: istio-system}\nspec: {outboundTrafficPolicy: {mode: ALLOW_ANY}}\n"
)

// logged turns the access log on.
func logged(more string) string {
	return "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: log, namespace: istio-system}\nspec: {accessLogging: [{providers: [{name: envoy}]" + more + "}]}\n"
}

func snapshot(t *testing.T, text string) *policy.Snapshot {
	t.Helper()
	l, err := load.With([]istio.File{{Name: "policy.yaml", Data: []byte(text)}}, istio.Options{})
	if err != nil {
		t.Fatalf("%v: %v\n%s", err, l.Findings, text)
	}
	return l.Snapshot
}

// told is differences as lines.
func told(list []Delta) string {
	var out []string
	for _, d := range list {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s -%q +%q", d.Workload, d.Kind, d.What, d.Old, d.New)))
	}
	return strings.Join(out, "\n")
}

// TestPolicies: what comes, what goes, what acts in another way and for whom; where
// objects stand, and in which order, is no difference.
func TestPolicies(t *testing.T) {
	api, other := entry("api", "api.example.com", http), entry("other", "other.example", https)
	for _, c := range []struct {
		name, old, next string
		want            []string // parts of all lines, in their order
	}{
		{"same", api + other, "# moved\n" + other + api, nil},
		{"a host comes", api, api + other, []string{"reachable other.example:443/tcp"}},
		{"a host goes", api + other, api, []string{"unreachable other.example:443/tcp"}},
		{"a port comes", api, entry("api", "api.example.com", http+", "+https), []string{"reachable api.example.com:443/tcp"}},
		{"another protocol", api, entry("api", "api.example.com", strings.Replace(http, "HTTP}", "TCP}", 1)), []string{`changed api.example.com:80/tcp -["HTTP proxy`}},
		{"a timeout", api + route("3s"), api + route("10s"), []string{`changed rules of api.example.com -["  timeout 3s`}},
		{"a rule comes", api, api + route("3s"), []string{"changed rules of api.example.com -[] +["}},
		{"addresses", api, api + network, []string{"reachable 10.0.0.0/8:5432/tcp", "reachable 2001:db8::/32:5432/tcp", "reachable net.address.internal:5432/tcp", "changed answers and addresses of net.address.internal"}},
		{"one workload", api + other + workload, api + other + workload + sidecar, []string{"ci/build unreachable other.example:443/tcp"}},
		{"a workload with a policy of its own", api + other, api + other + workload + sidecar, []string{"ci/build unreachable other.example:443/tcp"}},
		{"a workload like everybody", api, api + workload, nil},
		{"a filter of the access log", api + logged(""), api + logged(`, filter: {expression: "response.code >= 400"}`), []string{`changed access log -["a line of each by provider envoy"] +["a line by provider envoy where response.code >= 400"]`}},
		{"traces, of one namespace", api + workload + mesh, api + workload + mesh + spans, []string{`ci/build changed traces -["no span is sent"] +["a span of 5% of the requests of which the caller has not decided, to provider z, with team"]`}},
		{"metrics of what goes to a host", api, api + counted, []string{`changed metrics of what goes to ServiceEntry default/api -[] +["istio_requests_total without response_code, with team = 'shop'" "istio_request_bytes does not count"]`}},
		{"everything", api, api + allowAny, []string{"changed outbound settings"}},
	} {
		old, next := snapshot(t, c.old), snapshot(t, c.next)
		got := Policies(old, next)
		lines := strings.Split(told(got), "\n")
		if c.want == nil && len(got) > 0 || len(c.want) > 0 && len(lines) != len(c.want) {
			t.Errorf("%s:\n%s", c.name, told(got))
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(lines[i], want) {
				t.Errorf("%s: %s, want %s", c.name, lines[i], want)
			}
		}
		if back := Policies(next, old); len(back) != len(got) {
			t.Errorf("%s: backwards\n%s", c.name, told(back))
		}
		if len(c.want) > 0 && old.Hash() == next.Hash() && !strings.Contains(c.next, "kind: Telemetry") {
			t.Errorf("%s: the hash is the same", c.name)
		}
	}
}

// TestDiffering: what is left of two texts when what they share is taken out.
func TestDiffering(t *testing.T) {
	a, b := differing([]string{"1", "2", "3"}, []string{"2", "3", "4"})
	if fmt.Sprint(a, b) != "[1] [4]" {
		t.Error(a, b)
	}
	if a, b = differing(nil, []string{"x"}); len(a) != 0 || len(b) != 1 {
		t.Error(a, b)
	}
}
