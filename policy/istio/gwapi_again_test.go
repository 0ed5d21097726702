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
