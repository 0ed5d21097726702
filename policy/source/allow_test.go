// SPDX-License-Identifier: Apache-2.0

package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy/istio"
)

// TestAllow: what flags and lists allow is a policy without errors, whose places are
// theirs; what has not changed is the same memory, and errors are told with their places.
func TestAllow(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(list, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# one\n\nb.example.com\na.example.com:80\n")
	c := AllowCache{Allow: Allow{Items: []string{"a.example.com:443"}, Paths: []string{list}}}
	files, err := c.Files()
	if err != nil || len(files) != 2 || files[0].Name != AllowFlag || files[1].Name != list {
		t.Fatalf("%v, %v", files, err)
	}
	config, findings := istio.Load(files, istio.Options{})
	if config == nil || len(findings) > 0 {
		t.Fatal(findings)
	}
	for _, s := range config.Services {
		if s.Ref.Name == "allow2-b-example-com" && s.Ref.Line != 3 {
			t.Errorf("%+v is not in its line", s.Ref)
		}
	}
	again, err := c.Files()
	if err != nil || &again[1].Data[0] != &files[1].Data[0] || &again[0].Data[0] != &files[0].Data[0] {
		t.Errorf("not the same memory: %v", err)
	}
	write("c.example.com\n10.0.0.0/8\nx y\n")
	c.Allow.Items = append(c.Allow.Items, "http://")
	_, err = c.Files()
	for _, want := range []string{AllowFlag + ` "http://": `, list + ":2: ", list + ":3: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	if _, err := c.Allow.YAML(); err == nil {
		t.Error("errors are printed as a policy")
	}
	write("c.example.com\n")
	c.Allow.Items = c.Allow.Items[:1]
	text, err := c.Allow.YAML()
	if err != nil || strings.Count(text, "kind: ServiceEntry\n") != 2 || strings.Count(text, "---\n") != 1 {
		t.Errorf("%v\n%s", err, text)
	}
}
