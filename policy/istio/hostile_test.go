// SPDX-License-Identifier: Apache-2.0

package istio

import (
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
	tests := map[string]string{
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
