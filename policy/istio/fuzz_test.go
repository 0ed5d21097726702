// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// FuzzLoad proves that no file ends the daemon, that a refusal says why, and
// that what is accepted compiles
// or is refused with its place.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/valid/*.yaml", "testdata/invalid/*.yaml", "../../examples/seed/*.yaml"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			f.Fatalf("%s: %d files, %v", pattern, len(names), err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			for _, c := range split(data) {
				f.Add(c.text)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, findings := Load([]File{{Name: "f", Data: data}}, Options{
			ReadFile: func(string) ([]byte, error) { return nil, fs.ErrNotExist },
		})
		refused := false
		for _, x := range findings {
			refused = refused || x.Severity == Error
			if x.Text == "" || x.File != "f" {
				t.Errorf("incomplete finding: %+v", x)
			}
		}
		if refused != (cfg == nil) {
			t.Fatalf("Config is nil: %t, errors: %t", cfg == nil, refused)
		}
		if cfg == nil {
			return
		}
		compiles(t, cfg)
	})
}
