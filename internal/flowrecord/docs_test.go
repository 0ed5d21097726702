// SPDX-License-Identifier: Apache-2.0

package flowrecord

import (
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestDocumented: docs/FLOWS.md has each field of a line, in the order of the line, with
// its type, and no other.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/FLOWS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "## A line")
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| ([^|]*)\\| ([^|]+) \\| ").FindAllStringSubmatch(table, -1) {
		documented = append(documented, row[1]+": "+row[2])
	}
	if want := fieldsOf(t, reflect.TypeFor[flow.Event](), ""); !found || !slices.Equal(documented, want) {
		t.Errorf("docs/FLOWS.md has\n%s\nand a line has\n%s", strings.Join(documented, "\n"), strings.Join(want, "\n"))
	}
}

// fieldsOf are the fields of a struct in JSON, with their types.
func fieldsOf(t *testing.T, of reflect.Type, prefix string) (out []string) {
	t.Helper()
	seen := map[reflect.Type]bool{}
	for i := range of.NumField() {
		f := of.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		kind := f.Type
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		switch {
		case name == "-":
		case kind == reflect.TypeFor[time.Time](), kind == reflect.TypeFor[netip.AddrPort](), kind == reflect.TypeFor[policy.Verdict](), kind.Kind() == reflect.String:
			out = append(out, prefix+name+": string")
		case kind.Kind() == reflect.Bool:
			out = append(out, prefix+name+": boolean")
		case kind.Kind() == reflect.Int, kind.Kind() == reflect.Int64, kind.Kind() == reflect.Uint64:
			out = append(out, prefix+name+": number")
		case kind == reflect.TypeFor[[]string]():
			out = append(out, prefix+name+": array of strings")
		case kind.Kind() == reflect.Struct && seen[kind]:
			out = append(out, prefix+name+": object, as `rule`")
		case kind.Kind() == reflect.Struct:
			seen[kind] = true
			out = append(out, fieldsOf(t, kind, prefix+name+".")...)
		default:
			t.Fatalf("the type of %s has no name in JSON", f.Name)
		}
	}
	return out
}
