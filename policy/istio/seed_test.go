// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"os"
	"path/filepath"
	"testing"
)

func readFile(t testing.TB, path string) File {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return File{Name: filepath.Base(path), Data: data}
}

// TestSeed loads the examples that must work unmodified, each by itself and
// all that can be loaded together.
func TestSeed(t *testing.T) {
	const dir = "../../examples/seed"
	timeout := `googleapis.yaml:31:14: warning: spec.http.timeout: a bare number is read as seconds; the standard form is "10s" [VirtualService default/timeout-for-googleapis] (EGD0102)`
	tests := map[string]struct {
		files []string
		want  []string
	}{
		"ingress":    {[]string{"bookinfo-gateway.yaml"}, nil},
		"googleapis": {[]string{"googleapis.yaml"}, []string{timeout}},
		"static":     {[]string{"external-db-static.yaml"}, nil},
		"dns":        {[]string{"external-db-dns.yaml"}, nil},
		// Two of the examples are alternatives that carry one name.
		"together": {[]string{"bookinfo-gateway.yaml", "external-db-dns.yaml", "external-db-static.yaml", "googleapis.yaml"}, []string{
			"external-db-static.yaml:27:9: warning: the object is already defined at external-db-dns.yaml:5:9; both are in force here, a cluster keeps the one that was applied last [ServiceEntry default/external-db] (EGD0109)",
			timeout}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var files []File
			for _, f := range tt.files {
				files = append(files, readFile(t, filepath.Join(dir, f)))
			}
			cfg, findings := Load(files, Options{})
			if cfg == nil {
				t.Error("Config is nil")
			}
			compareFindings(t, findings, tt.want)
		})
	}
}

func compareFindings(t *testing.T, got []Finding, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i].String()
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("finding %d:\n got %s\nwant %s", i, g, w)
		}
	}
}
