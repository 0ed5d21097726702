// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"strings"
	"testing"
)

// TestLongValues: a finding quotes the beginning of what is too long, wherever
// it stands, and is one line of a terminal.
func TestLongValues(t *testing.T) {
	long := strings.Repeat("x", 2<<20)
	entry := func(spec string) string {
		return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: n}\nspec: {" + spec + "}\n"
	}
	ports := "ports: [{number: 80, name: http, protocol: HTTP}]"
	for what, text := range map[string]string{
		"name":       "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: " + long + "}\nspec: {hosts: [a.b], " + ports + "}\n",
		"namespace":  "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: n, namespace: " + long + "}\nspec: {hosts: [a.b], " + ports + "}\n",
		"kind":       "apiVersion: networking.istio.io/v1\nkind: " + long + "\nmetadata: {name: n}\n",
		"apiVersion": "apiVersion: " + long + "\nkind: ServiceEntry\nmetadata: {name: n}\n",
		"host":       entry("hosts: [" + long + "], " + ports),
		"field":      entry("hosts: [a.b], " + long + ": 1"),
		"resolution": entry("hosts: [a.b], resolution: " + long + ", " + ports),
		"protocol":   entry("hosts: [a.b], ports: [{number: 80, name: http, protocol: " + long + "}]"),
		"port name":  entry("hosts: [a.b], ports: [{number: 80, name: " + long + ", protocol: HTTP}]"),
		"endpoint":   entry("hosts: [a.b], resolution: STATIC, endpoints: [{address: " + long + "}], " + ports),
		"socket":     entry("hosts: [a.b], resolution: STATIC, endpoints: [{address: \"unix:///" + long + "\"}], " + ports),
		"address":    entry("hosts: [a.b], addresses: [" + long + "], " + ports),
		"exportTo":   entry("hosts: [a.b], exportTo: [" + long + "], " + ports),
		"annotation": "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: n, annotations: {egressd.dev/" + long + ": x}}\nspec: {hosts: [a.b], " + ports + "}\n",
		"regex":      "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: n}\nspec: {hosts: [a.b], http: [{match: [{uri: {regex: \"(" + long + "\"}}], route: [{destination: {host: a.b}}]}]}\n",
		"mode":       "apiVersion: egressd.dev/v1\nkind: Workload\nmetadata: {name: n}\nspec: {cgroups: [a], mode: " + long + "}\n",
		"cgroup":     "apiVersion: egressd.dev/v1\nkind: Workload\nmetadata: {name: n}\nspec: {cgroups: [/" + long + "]}\n",
		"no YAML":    "a: [" + long + "\nb: }",
		"alias":      "a: *" + long + "\n",
	} {
		_, findings := Load([]File{{Name: "f.yaml", Data: []byte(text)}}, goldenOptions)
		if len(findings) == 0 {
			t.Errorf("%s: nothing is said", what)
		}
		for _, f := range findings {
			if s := f.String(); len(s) > 8<<10 {
				t.Errorf("%s: a finding of %d bytes: %.200s", what, len(s), s)
			}
		}
	}
	evil := entry(fmt.Sprintf("hosts: [%q], %s", "a\x1b[31m\u202eb\nFAKE: error", ports))
	_, findings := Load([]File{{Name: "f\x1b\n.yaml", Data: []byte(evil)}}, goldenOptions)
	for _, f := range findings {
		if s := f.String(); strings.ContainsAny(s, "\x1b\n\u202e") {
			t.Errorf("%q", s)
		}
	}
	if len(findings) == 0 {
		t.Error("nothing is said")
	}
}
