// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

var update = flag.Bool("update", false, "rewrite the golden files and the expected findings")

// TestValid compares what is read from testdata/valid/*.yaml with the .golden
// file of the same name: the findings (no errors) as comments, then the Config.
func TestValid(t *testing.T) {
	for _, name := range glob(t, "testdata/valid/*.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			f := readFile(t, name)
			cfg, findings := Load([]File{f}, goldenOptions)
			var b strings.Builder
			for _, x := range findings {
				fmt.Fprintln(&b, "#", x)
			}
			if cfg == nil {
				t.Fatalf("refused:\n%s", b.String())
			}
			compiles(t, cfg)
			b.WriteString(render(cfg))
			compareGolden(t, strings.TrimSuffix(name, ".yaml")+".golden", withinDocuments(f, b.String()))
		})
	}
}

// TestInvalid compares the findings of testdata/invalid/*.yaml with the
// comments "# want: line:col: severity: text [object]" at the file's end.
func TestInvalid(t *testing.T) {
	const mark = "# want: "
	for _, name := range glob(t, "testdata/invalid/*.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			f := readFile(t, name)
			cfg, findings := Load([]File{f}, goldenOptions)
			if cfg != nil {
				t.Error("accepted")
			}
			var input, want, got []string
			for line := range strings.Lines(string(f.Data)) {
				if w, ok := strings.CutPrefix(line, mark); ok {
					want = append(want, strings.TrimSpace(w))
				} else {
					input = append(input, line)
				}
			}
			for _, x := range findings {
				got = append(got, strings.TrimPrefix(x.String(), f.Name+":"))
			}
			if *update {
				text := strings.Join(input, "")
				for _, g := range got {
					text += mark + g + "\n"
				}
				writeFile(t, name, text)
				return
			}
			if !slices.Equal(got, want) {
				t.Errorf("findings:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// goldenOptions fix what else would differ from day to day and between
// machines: the files that objects name are in testdata/files.
var goldenOptions = Options{
	GatewaySelector: map[string]string{"istio": "ingressgateway"},
	Now:             time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
	ReadFile: func(name string) ([]byte, error) {
		return readRegular(filepath.Join("testdata/files", filepath.Base(name)))
	},
}

// compiles checks that what is accepted compiles. What the compiler does not
// know yet is at least an error with its place.
func compiles(t testing.TB, cfg *policy.Config) {
	t.Helper()
	_, err := policy.Compile(cfg)
	if err == nil {
		return
	}
	for _, text := range strings.Split(err.Error(), "\n") {
		if !placed.MatchString(text) {
			t.Errorf("accepted, but does not compile, without a place: %s", text)
		}
	}
}

var placed = regexp.MustCompile(`^[^ ]+:[0-9]+:[0-9]+: .* \[[A-Z][A-Za-z]+ [^ ]+\]$`)

// addDocuments adds each document of the files as a seed.
func addDocuments(f *testing.F, patterns ...string) {
	f.Helper()
	for _, pattern := range patterns {
		for _, name := range glob(f, pattern) {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			for _, c := range strictyaml.Split(data) {
				f.Add(c.Text)
			}
		}
	}
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(names), err)
	}
	return names
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		writeFile(t, name, got)
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (run with -update to rewrite):\n%s", name, got)
	}
}
