// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// TestExportTo: who sees an object. The rest of the package's goldens have
// the errors.
func TestExportTo(t *testing.T) {
	limited := func(ns ...string) policy.Visibility { return policy.Visibility{Limited: true, Namespaces: ns} }
	tests := map[string]policy.Visibility{
		``: {}, `"*"`: {}, `"~"`: limited(), `"."`: limited("a"), `a`: limited("a"),
		`c, b`: limited("b", "c"), `b, "."`: limited("a", "b"),
	}
	for exportTo, want := range tests {
		cfg, findings := Load([]File{{Name: "f", Data: fmt.Appendf(nil, `{apiVersion: networking.istio.io/v1, kind: ServiceEntry,
			metadata: {name: x, namespace: a}, spec: {hosts: [x.example.com], ports: [{number: 80, name: http}], exportTo: [%s]}}`, exportTo)}}, Options{})
		if cfg == nil {
			t.Errorf("[%s] refused: %v", exportTo, findings)
			continue
		}
		got := cfg.Services[0].Export
		if got.Limited != want.Limited || !slices.Equal(got.Namespaces, want.Namespaces) {
			t.Errorf("[%s]: %+v, want %+v", exportTo, got, want)
		}
	}
	// A Kubernetes Service says it in an annotation.
	cfg, findings := Load([]File{{Name: "f", Data: []byte(`{apiVersion: v1, kind: Service, spec: {},
		metadata: {name: x, namespace: a, annotations: {networking.istio.io/exportTo: "., b"}}}`)}}, Options{})
	if cfg == nil {
		t.Fatalf("refused: %v", findings)
	}
	if got := cfg.Services[0].Export; !got.Limited || !slices.Equal(got.Namespaces, []string{"a", "b"}) {
		t.Errorf("Service: %+v", got)
	}
}

// TestLoadSeveralFiles: objects of one file complete those of another, and
// findings are in the order of the files.
func TestLoadSeveralFiles(t *testing.T) {
	vs := func(file, host string) File {
		return File{Name: file, Data: fmt.Appendf(nil, `{apiVersion: networking.istio.io/v1, kind: VirtualService,
			metadata: {name: %s}, spec: {hosts: [%s], http: [{route: [{destination: {host: db}}]}]}}`, strings.TrimSuffix(file, ".yaml"), host)}
	}
	se := File{Name: "a.yaml", Data: []byte(`{apiVersion: networking.istio.io/v1, kind: ServiceEntry,
		metadata: {name: db}, spec: {hosts: [db, w.example.com], ports: [{number: 80, name: http, protocol: HTTP}]}}`)}
	cfg, findings := Load([]File{vs("z.yaml", "gone.example.com"), vs("b.yaml", "w.example.com"), se}, Options{Namespace: "prod"})
	if cfg == nil {
		t.Fatalf("refused: %v", findings)
	}
	compareFindings(t, findings, []string{
		"z.yaml:2:40: warning: no ServiceEntry and no Service declares the host gone.example.com: the rules do not apply to anything [VirtualService prod/z] (EGD1205)",
	})
	if got := cfg.VirtualServices[1].HTTP[0].Route[0].Destination.Host; got != "db" {
		t.Errorf("destination = %q; a ServiceEntry has the short name, so it stays", got)
	}
}

// TestRetriesUnset: no retries in the source is not the same as none wanted.
func TestRetriesUnset(t *testing.T) {
	for retries, want := range map[string]*policy.Retries{
		"":                            nil,
		"retries: {},":                {},
		"retries: {attempts: 0},":     {},
		"retries: {attempts: 2},":     {Attempts: 2},
		"retries: {attempts: 2.0},":   {Attempts: 2},
		`retries: {attempts: "0x2"},`: nil, // refused
	} {
		cfg, _ := Load([]File{{Name: "f", Data: []byte(`{apiVersion: networking.istio.io/v1, kind: VirtualService,
			metadata: {name: a}, spec: {hosts: [a.b], http: [{` + retries + ` directResponse: {status: 200}}]}}`)}}, Options{})
		switch {
		case strings.Contains(retries, "0x2"):
			if cfg != nil {
				t.Errorf("%q accepted", retries)
			}
		case cfg == nil:
			t.Errorf("%q refused", retries)
		default:
			got := cfg.VirtualServices[0].HTTP[0].Retries
			if (got == nil) != (want == nil) || got != nil && got.Attempts != want.Attempts {
				t.Errorf("%q: %+v, want %+v", retries, got, want)
			}
		}
	}
}

func TestProtoDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 10 * time.Second: "10s", 1500 * time.Millisecond: "1.5s", -time.Millisecond: "-0.001s",
		90 * time.Second: "90s", 1: "0.000000001s", -1 << 63: "-9223372036.854775808s",
	} {
		if got := strictyaml.ProtoDuration(d); got != want {
			t.Errorf("protoDuration(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	fields := []string{"hosts", "ports", "resolution", "targetPort"}
	for word, want := range map[string]string{
		"host": "hosts", "prots": "ports", "target_port": "targetPort", "Resolution": "resolution", "spec": "", "x": "",
		strings.Repeat("hosts", 1000): "",
	} {
		got := strictyaml.DidYouMean(word, fields)
		if want == "" && got != "" || want != "" && !strings.Contains(got, `"`+want+`"`) {
			t.Errorf("didYouMean(%.20q) = %q, want %q", word, got, want)
		}
	}
}

// BenchmarkLoad reads 100,000 ServiceEntries of one host each.
func BenchmarkLoad(b *testing.B) {
	var text strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&text, "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: h%d\nspec:\n  hosts:\n  - h%d.example.com\n"+
			"  ports:\n  - number: 443\n    name: tls\n    protocol: TLS\n  resolution: DNS\n", i, i)
	}
	data := []byte(text.String())
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if cfg, findings := Load([]File{{Name: "f", Data: data}}, Options{}); cfg == nil {
			b.Fatal(findings[0])
		}
	}
}
