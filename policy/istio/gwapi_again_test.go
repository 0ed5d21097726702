// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestHTTPRoutesAgain: what HTTPRoutes make is counted anew at each Load, so
// that a policy is not refused for how often it was read.
func TestHTTPRoutesAgain(t *testing.T) {
	var b strings.Builder
	b.WriteString(sharedEntry)
	for i := range 200 {
		b.WriteString(httpRoute(fmt.Sprintf("name: wide-%d", i), "", "", fmt.Sprintf("{path: {value: /%d}}", i)))
		b.WriteString(httpRoute(fmt.Sprintf("name: narrow-%d", i), "", fmt.Sprintf("h%d.example.com", i), "{path: {value: /}}"))
	}
	r := NewReader(goldenOptions)
	files := []File{{Name: "routes", Data: []byte(b.String())}, {Name: "entries"}}
	for i := range 4 { // some 40,000 matches each
		files = slices.Clone(files)
		files[1].Data = slices.Concat(files[1].Data, fmt.Appendf(nil,
			"---\n{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: n%d}, spec: {hosts: [n%d.example.org], ports: [{number: 80, name: http}]}}\n", i, i))
		cfg, findings := r.Load(files)
		if cfg == nil {
			t.Fatalf("Load %d: %v", i, findings[len(findings)-1])
		}
		if len(cfg.VirtualServices) < 200 {
			t.Fatalf("only %d VirtualServices", len(cfg.VirtualServices))
		}
	}
}

// TestHTTPRouteOriginsAgain: where HTTPRoutes write their destinations is known of
// the last Load alone. A change elsewhere, which leaves the routes as they are, adds
// nothing to it.
func TestHTTPRouteOriginsAgain(t *testing.T) {
	const route = `---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r}, spec: {
  parentRefs: [{kind: ServiceEntry, group: networking.istio.io, name: sites}],
  rules: [{backendRefs: [{kind: Hostname, group: networking.istio.io, name: backend.example.org, port: 80}]}]}}
`
	entry := func(name string) []byte {
		return fmt.Appendf(nil, "---\n{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: %s}, spec: {hosts: [%s.example.org], ports: [{number: 80, name: http}], resolution: DNS}}\n", name, name)
	}
	r := NewReader(goldenOptions)
	routes := File{Name: "routes", Data: []byte(sharedEntry + route)}
	for i := range 4 {
		cfg, findings := r.Load([]File{routes, {Name: "entries", Data: slices.Concat(entry("backend"), entry(fmt.Sprintf("other-%d", i)))}})
		if cfg == nil {
			t.Fatalf("Load %d: %v", i, findings)
		}
		in := 0
		for _, vs := range cfg.VirtualServices {
			for _, rule := range vs.HTTP {
				for _, to := range rule.Route {
					in++
					if _, known := r.l.origins[to]; !known {
						t.Errorf("Load %d: where %v is written is not known", i, to.Destination)
					}
				}
			}
		}
		if in == 0 || len(r.l.origins) != in {
			t.Errorf("Load %d: %d places are known of %d destinations", i, len(r.l.origins), in)
		}
	}
}
