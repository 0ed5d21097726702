// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
)

const sharedEntry = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: sites}
spec:
  hosts: ["*.example.com", example.net]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 8080, name: alt, protocol: HTTP}]
  resolution: NONE
`

// httpRoute is an HTTPRoute whose rules answer by redirecting to a host that says
// which rule it was.
func httpRoute(meta, parent, hostnames string, matches ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {%s}\nspec:\n  parentRefs: [{kind: ServiceEntry, group: networking.istio.io, name: sites%s}]\n  hostnames: [%s]\n  rules:\n", meta, parent, hostnames)
	for _, m := range matches {
		fmt.Fprintf(&b, "  - matches: [%s]\n    filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]\n", m)
	}
	return b.String()
}

// TestHTTPRoutePrecedence asks the compiled policy which rule decides.
func TestHTTPRoutePrecedence(t *testing.T) {
	all := sharedEntry +
		httpRoute("name: wide", "", "", "{path: {value: /}}", "{path: {value: /a}}", "{path: {type: Exact, value: /a}}",
			`{path: {type: RegularExpression, value: "/x.*"}}`, "{path: {value: /a}, method: POST}",
			"{path: {value: /a}, headers: [{name: x-a, value: '1'}, {name: x-b, value: '1'}]}",
			"{path: {value: /a}, headers: [{name: x-a, value: '1'}], queryParams: [{name: q, value: '1'}]}") +
		httpRoute("name: old, creationTimestamp: '2020-01-01T00:00:00Z'", "", "", "{path: {value: /same}}") +
		httpRoute("name: a-new, creationTimestamp: '2021-01-01T00:00:00Z'", "", "", "{path: {value: /same}}") +
		httpRoute("name: narrow", "", "api.example.com", "{path: {value: /n}}") +
		httpRoute("name: root", "", "root.example.com", "{path: {value: /}}") +
		httpRoute("name: port", ", port: 8080", "example.net", "{path: {value: /p}}")
	limited := sharedEntry + httpRoute("name: port", ", sectionName: alt", "", "{path: {value: /p}}")
	consumer := all + httpRoute("name: consumer, namespace: shop", ", namespace: default", "", "{path: {value: /c}}") +
		"---\napiVersion: egressd.dev/v1\nkind: Workload\nmetadata: {name: w, namespace: shop}\nspec: {cgroups: [shop]}\n"
	for _, c := range []struct {
		config, workload string
		method, url      string
		port             uint16
		header           string
		want             string // the rule, "none" or "404"
	}{
		{all, "", "GET", "www.example.com/z", 80, "", "default.wide.0"},
		{all, "", "GET", "www.example.com/a", 80, "", "default.wide.2"},
		{all, "", "POST", "www.example.com/a", 80, "", "default.wide.2"},
		{all, "", "GET", "www.example.com/a/", 80, "", "default.wide.1"},
		{all, "", "GET", "www.example.com/ab", 80, "", "default.wide.0"},
		{all, "", "POST", "www.example.com/a/b", 80, "", "default.wide.4"},
		{all, "", "POST", "www.example.com/a/b", 80, "X-A X-B", "default.wide.4"},
		{all, "", "GET", "www.example.com/a/b", 80, "X-A X-B", "default.wide.5"},
		{all, "", "GET", "www.example.com/a/b?q=1", 80, "X-A X-B", "default.wide.5"},
		{all, "", "GET", "www.example.com/a/b?q=1", 80, "X-A", "default.wide.6"},
		{all, "", "GET", "www.example.com/xyz", 80, "", "default.wide.3"},
		{all, "", "GET", "www.example.com/same", 80, "", "default.old.0"},
		{all, "", "GET", "api.example.com/n", 80, "", "default.narrow.0"},
		{all, "", "GET", "www.example.com/n", 80, "", "default.wide.0"},
		{all, "", "GET", "api.example.com/a", 80, "", "default.wide.2"},
		{all, "", "GET", "root.example.com/a", 80, "", "default.root.0"},
		{all, "", "GET", "example.net/p", 8080, "", "default.port.0"},
		{all, "", "GET", "example.net/p", 80, "", "default.wide.0"},
		{limited, "", "GET", "example.net/p", 8080, "", "default.port.0"},
		{limited, "", "GET", "example.net/q", 8080, "", "404"},
		{limited, "", "GET", "example.net/p", 80, "", "none"},
		{consumer, "", "GET", "example.net/c", 80, "", "default.wide.0"},
		{consumer, "shop", "GET", "example.net/c", 80, "", "shop.consumer.0"},
		{consumer, "shop", "GET", "example.net/a", 80, "", "404"},
	} {
		if got := decided(t, c.config, c.workload, c.method, c.url, c.port, c.header); got != c.want {
			t.Errorf("%s %s:%d %s of %q: %s, want %s", c.method, c.url, c.port, c.header, c.workload, got, c.want)
		}
	}
}

// decided is the rule for a request: its name, "none", or "404".
func decided(t *testing.T, config, workload, method, url string, port uint16, headers string) string {
	t.Helper()
	cfg, findings := Load([]File{{Name: "f", Data: []byte(config)}}, goldenOptions)
	if cfg == nil {
		t.Fatal(findings)
	}
	s, err := policy.Compile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := s.Policy(policy.DefaultPolicy)
	for _, w := range s.Workloads() {
		if workload != "" && w.Namespace == workload {
			p = s.Policy(w.Policy)
		}
	}
	rest, query, _ := strings.Cut(url, "?")
	host, path, _ := strings.Cut(rest, "/")
	r := &policy.Request{Method: method, Scheme: "http", Authority: host, Host: host, Path: "/" + path, Port: port}
	if k, v, ok := strings.Cut(query, "="); ok {
		r.Query = map[string][]string{k: {v}}
	}
	for _, h := range strings.Fields(headers) {
		r.Header.Add(h, "1")
	}
	d := p.DecideHTTP(policy.Flow{Dst: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), port), Names: []string{host}}, r)
	switch {
	case d.Reason == policy.ReasonNoRoute:
		return "404"
	case d.Action == nil && d.Reason == policy.ReasonAllowed:
		return "none"
	case d.Action == nil:
		return string(d.Reason)
	}
	return d.Action.Rule.Name
}

// TestHTTPRoutesAreBounded: matches that hosts share are written for each set
// of hosts, which must not multiply without end.
func TestHTTPRoutesAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString(sharedEntry)
	for i := range 320 {
		b.WriteString(httpRoute(fmt.Sprintf("name: wide-%d", i), "", "", fmt.Sprintf("{path: {value: /%d}}", i)))
		b.WriteString(httpRoute(fmt.Sprintf("name: narrow-%d", i), "", fmt.Sprintf("h%d.example.com", i), "{path: {value: /}}"))
	}
	cfg, findings := Load([]File{{Name: "f", Data: []byte(b.String())}}, goldenOptions)
	if cfg != nil || len(findings) == 0 || !strings.Contains(findings[len(findings)-1].Text, "more than 100000 matches") {
		t.Errorf("accepted: %t, %d findings", cfg != nil, len(findings))
	}
}
