// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"io/fs"
	"testing"
	"time"
)

// FuzzLoad proves that no file ends the daemon, that a refusal says why, and
// that what is accepted compiles
// or is refused with its place; and that a Reader's past does not show.
func FuzzLoad(f *testing.F) {
	addDocuments(f, "testdata/valid/*.yaml", "testdata/invalid/*.yaml", "../../examples/seed/*.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		o := Options{
			Now:      time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
			ReadFile: func(string) ([]byte, error) { return nil, fs.ErrNotExist },
		}
		cfg, findings := Load([]File{{Name: "f", Data: data}}, o)
		// A Reader that has read something else says the same.
		r := NewReader(o)
		r.size = 1
		r.Load([]File{{Name: "f", Data: data[:len(data)/2]}})
		fresh := NewReader(o)
		fresh.size = 1
		_, got := r.outcome([]File{{Name: "f", Data: data}})
		if _, want := fresh.outcome([]File{{Name: "f", Data: data}}); got != want {
			t.Errorf("a Reader gives\n%s\na new one\n%s", got, want)
		}
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
