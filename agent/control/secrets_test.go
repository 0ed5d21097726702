// SPDX-License-Identifier: Apache-2.0

package control

import (
	"testing"

	"github.com/egressd/egressd/policy/istio"
)

// TestWithoutSecrets: no Secret is kept, of an API server or in files of YAML and JSON,
// and what else there is stays where it was.
func TestWithoutSecrets(t *testing.T) {
	in := []istio.File{
		{Name: "kubernetes:Secret/a/b", Data: []byte("hush")},
		{Name: "a.yaml", Data: []byte("kind: ServiceEntry\n---\nkind: Secret\ndata: {a: hush}\n--- # more\nkind: Gateway\n--- {kind: Secret, data: hush}\n")},
		{Name: "b.json", Data: []byte(`{"kind": "Secret", "data": {"a": "hush"}}`)},
		{Name: "c.yaml", Data: []byte("kind: ServiceEntry\nspec: {hosts: [secret.example]}\n")},
	}
	want := []string{"kind: ServiceEntry\n---\n\n\n--- # more\nkind: Gateway\n---\n", "", string(in[3].Data)}
	got := withoutSecrets(in)
	if len(got) != len(want) {
		t.Fatalf("%d files", len(got))
	}
	for i, f := range got {
		if string(f.Data) != want[i] {
			t.Errorf("%s: %q", f.Name, f.Data)
		}
	}
	if string(in[2].Data) == "" {
		t.Error("what is in force was changed")
	}
}
