// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestHostile loads big inputs of the kinds that make parsers slow. Each must
// be over long before a time that something quadratic would take.
func TestHostile(t *testing.T) {
	const size = 1 << 20
	se := "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n"
	hosts := func(item string) string {
		var b strings.Builder
		for i := 0; b.Len() < size; i++ {
			b.WriteString(strings.ReplaceAll(item, "#", strings.Repeat("x", i%40)+string(rune('a'+i%26))+"."+strings.Repeat("y", i/1000%50)))
		}
		return b.String()
	}
	kind := func(name, spec string) string {
		return "---\napiVersion: networking.istio.io/v1\nkind: " + name + "\nmetadata: {name: " + spec[:strings.IndexByte(spec, ' ')] + "}\nspec:" + spec[strings.IndexByte(spec, ' '):]
	}
	many := func(item string, n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(strings.ReplaceAll(item, "#", strconv.Itoa(i)))
		}
		return b.String()
	}
	rules := many("{match: [{port: #1}, {port: #2}], route: [{destination: {host: a.b}}]}, ", 2000)
	tests := map[string]string{
		"delegates": kind("VirtualService", "a {hosts: [a.b], http: ["+many("{match: [{port: #1}], delegate: {name: d}}, ", 2000)+"]}\n") +
			kind("VirtualService", "d {http: ["+rules+"]}\n"),
		"selectors": many(kind("ServiceEntry", "s# {hosts: [s#.b], resolution: STATIC, workloadSelector: {labels: {a: b, c: d#}}}\n"), 2000) +
			many(kind("WorkloadEntry", "w# {address: 10.0.0.1, labels: {a: b, c: d#}}\n"), 2000),
		"exports": kind("ServiceEntry", "s {hosts: [s.b], exportTo: ["+many("n#, ", size/8)+"]}\n"),
		"ciphers": kind("Gateway", "g {servers: [{port: {number: 1, name: a, protocol: TLS}, hosts: ['*'], tls: {cipherSuites: ["+many("-#, ", size/8)+"]}}]}\n"),
		"localities": kind("DestinationRule", "d {host: a.b, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: x, to: {"+
			many("r#/z: 1, ", size/12)+"}}]}}}}\n"),
		"addresses":       many(kind("ServiceEntry", "s# {hosts: [s#.b], addresses: [10.0.0.1], ports: [{number: 1, name: a, protocol: TCP, targetPort: 1#}]}\n"), 4000),
		"sni":             kind("VirtualService", "v {hosts: ["+many("h#.b, ", size/30)+"], tls: [{match: [{sniHosts: ["+many("h#.b, ", size/30)+"]}]}]}\n"),
		"flow lists":      strings.Repeat("[", size),
		"flow maps":       strings.Repeat("{a: ", size/4),
		"block nesting":   strings.Repeat("- ", size/2),
		"keys":            se + hosts("  k#: 1\n"),
		"comments":        strings.Repeat("# x\n", size/4) + se,
		"anchors":         "a: &a x\nb: [" + strings.Repeat("*a, ", size/4) + "]\n",
		"merges":          "a: &a {x: 1}\n" + strings.Repeat("b: {<<: [*a, *a, *a]}\n", size/22),
		"documents":       strings.Repeat("---\n", size/4),
		"hosts":           se + "  hosts:\n" + hosts("  - \"*.#z\"\n"),
		"virtual hosts":   strings.Replace(se, "ServiceEntry", "VirtualService", 1) + "  hosts:\n" + hosts("  - \"*.#z\"\n"),
		"unknown anchors": strings.Repeat("---\na: *b\n", size/10),
		"quotes":          `a: "` + strings.Repeat(`\u00e4`, size/6) + `"`,
		"colons":          strings.Repeat("a: ", size/3),
		"question marks":  strings.Repeat("? ", size/2),
	}
	maps.Copy(tests, hostileScopes(hosts, size))
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, findings := Load([]File{{Name: "f", Data: []byte(text)}}, Options{})
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %v", took)
			}
			if len(findings) == 0 && name != "documents" {
				t.Error("nothing found in it")
			}
		})
	}
}
