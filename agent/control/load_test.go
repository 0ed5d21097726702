// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"os"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy/istio"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestLoadPolicySeed: the examples are taken as they are; the bare number is
// the only thing to say about them.
func TestLoadPolicySeed(t *testing.T) {
	for file, warnings := range map[string]int{
		"googleapis.yaml": 1, "external-db-static.yaml": 0, "external-db-dns.yaml": 0, "bookinfo-gateway.yaml": 0,
	} {
		l, err := LoadPolicy([]string{"../../examples/seed/" + file}, nil)
		if err != nil {
			t.Errorf("%s: %v %v", file, err, l.Findings)
			continue
		}
		n := 0
		for _, f := range l.Findings {
			if f.Severity == istio.Warning {
				n++
			}
		}
		if n != warnings {
			t.Errorf("%s: %d warnings, want %d: %v", file, n, warnings, l.Findings)
		}
	}
}

func TestLoadPolicyErrors(t *testing.T) {
	path := t.TempDir() + "/bad.yaml"
	writeFile(t, path, "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: x\nspec:\n  hots: [a]\n")
	l, err := LoadPolicy([]string{path}, nil)
	if !errors.Is(err, ErrPolicy) || l.Snapshot != nil || len(l.Findings) == 0 || l.Findings[0].Line == 0 {
		t.Errorf("a broken policy: %v, findings %v", err, l.Findings)
	}
	if _, err := LoadPolicy([]string{path + ".missing"}, nil); err == nil {
		t.Error("a missing file is no error")
	}
}
