// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

var update = flag.Bool("update", false, "rewrite the golden files and the expected findings")

// TestValid compares what is read from testdata/valid/*.yaml with the .golden
// file of the same name: the findings (no errors), then the Config.
func TestValid(t *testing.T) {
	for _, name := range glob(t, "testdata/valid/*.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			cfg, findings := Load([]File{readFile(t, name)}, goldenOptions)
			var b strings.Builder
			for _, f := range findings {
				fmt.Fprintln(&b, f)
			}
			if cfg == nil {
				t.Fatalf("refused:\n%s", b.String())
			}
			compiles(t, cfg)
			dump(&b, "", reflect.ValueOf(*cfg))
			compareGolden(t, strings.TrimSuffix(name, ".yaml")+".golden", b.String())
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

// dump writes what is set in v, one value a line, each with its path.
func dump(b *strings.Builder, path string, v reflect.Value) {
	switch x := v.Interface().(type) {
	case netip.Addr, netip.Prefix, time.Duration, policy.Protocol, policy.Resolution:
		if !v.IsZero() {
			fmt.Fprintf(b, "%s: %v\n", path, x)
		}
		return
	case policy.Ref:
		if v.IsZero() {
			return
		}
		fmt.Fprintf(b, "%s: %s %s/%s %s:%d:%d\n", path, x.Kind, x.Namespace, x.Name, x.File, x.Line, x.Column)
		return
	case policy.StringMatch:
		fmt.Fprintf(b, "%s: %s %q\n", path, [...]string{"present", "exact", "prefix", "regex", "path prefix"}[x.Kind], x.Value)
		return
	case policy.ValueMatch:
		fmt.Fprintf(b, "%s: %s %q\n", path, [...]string{"exact", "prefix", "suffix", "present"}[x.Kind], x.Value)
		return
	case []byte:
		fmt.Fprintf(b, "%s: %q\n", path, x)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			fmt.Fprintf(b, "%s: {}\n", path)
			dump(b, path, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if !v.Type().Field(i).IsExported() {
				continue
			}
			dump(b, strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			dump(b, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(x, y reflect.Value) int {
			if x.CanUint() {
				return cmp.Compare(x.Uint(), y.Uint())
			}
			return strings.Compare(x.String(), y.String())
		})
		for _, k := range keys {
			name := fmt.Sprint(k)
			if k.Kind() == reflect.String {
				name = strconv.Quote(name)
			}
			dump(b, path+"["+name+"]", v.MapIndex(k))
		}
	default:
		if !v.IsZero() {
			fmt.Fprintf(b, "%s: %v\n", path, v)
		}
	}
}
