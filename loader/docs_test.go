// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

var writeDocs = flag.Bool("write", false, "write docs/REASONS.md instead of comparing it")

// document reads a file of the source tree; tests also run where there is none.
func document(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile("../" + path)
	if err != nil {
		t.Skipf("needs the source tree around the tests: %v", err)
	}
	return string(text)
}

// tablesBelow returns the rows of the tables below a heading of a document, cell by cell,
// up to the next heading.
func tablesBelow(t *testing.T, text, heading string) (rows [][]string) {
	t.Helper()
	_, section, found := strings.Cut(text, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("there is no heading %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for l := range strings.Lines(section) {
		if !strings.HasPrefix(l, "| `egd_") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(l), "|"), " | ")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows
}

// kindOf is what the table of maps says of one beside its name.
func kindOf(m *ebpf.MapSpec) string {
	switch m.Type {
	case ebpf.LRUHash:
		return "LRU"
	case ebpf.LPMTrie:
		return "LPM trie"
	case ebpf.SkStorage:
		return "socket storage"
	case ebpf.SockMap:
		return "sockmap"
	case ebpf.RingBuf:
		return "ring buffer"
	case ebpf.PerCPUArray:
		return "per CPU"
	case ebpf.ArrayOfMaps:
		return "grows"
	case ebpf.Array:
		if m.Flags != 0 {
			return "mapped"
		}
	}
	return ""
}

var mapName = regexp.MustCompile("^`(egd_[a-z_]+)`(?: \\(([A-Za-z ]+)\\))?$")

// TestMapsAreDocumented: docs/ARCHITECTURE.md lists every map, with its kind and its
// bound.
func TestMapsAreDocumented(t *testing.T) {
	rows := tablesBelow(t, document(t, "docs/ARCHITECTURE.md"), "Maps")
	spec, err := bpf.LoadEgressd()
	if err != nil {
		t.Fatal(err)
	}
	Sizes{}.withDefaults().apply(spec)
	seen := map[string]bool{}
	for _, cells := range rows {
		name := mapName.FindStringSubmatch(cells[0])
		if name == nil || len(cells) != 5 {
			t.Fatalf("this is no row of a map: %q", cells)
		}
		m := spec.Maps[name[1]]
		if m == nil || seen[m.Name] {
			t.Errorf("there is no map %s, or two rows of it", name[1])
			continue
		}
		seen[m.Name] = true
		if want := kindOf(m); name[2] != want {
			t.Errorf("%s is %q, the document says %q", m.Name, want, name[2])
		}
		if err := sameBound(cells[4], m, spec); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
	for name := range spec.Maps {
		if !strings.HasPrefix(name, ".") && !seen[name] {
			t.Errorf("the document has no row of %s", name)
		}
	}
}

var (
	number    = regexp.MustCompile(`\d{1,3}(?:,\d{3})*`)
	otherName = regexp.MustCompile("^(as|a quarter of) `(egd_[a-z_]+)`$")
)

// sameBound compares what the document says of a map's size with the map.
func sameBound(said string, m *ebpf.MapSpec, spec *ebpf.CollectionSpec) error {
	have := m.MaxEntries
	if m.InnerMap != nil {
		have = uint32(Sizes{}.withDefaults().Addresses)
	}
	if m.Type == ebpf.SkStorage {
		if said != "memory" {
			return fmt.Errorf("it is bounded by memory, the document says %q", said)
		}
		return nil
	}
	if as := otherName.FindStringSubmatch(said); as != nil {
		other := spec.Maps[as[2]]
		switch {
		case other == nil:
			return fmt.Errorf("there is no map %s", as[2])
		case m.InnerMap != nil: // see openGrown
			return nil
		case as[1] == "as" && have != other.MaxEntries, as[1] != "as" && have != other.MaxEntries/4:
			return fmt.Errorf("it has room for %d, %s for %d", have, as[2], other.MaxEntries)
		}
		return nil
	}
	n, err := strconv.ParseUint(strings.ReplaceAll(number.FindString(said), ",", ""), 10, 32)
	if err != nil {
		return fmt.Errorf("no number in %q", said)
	}
	if strings.HasSuffix(said, "MiB") {
		n <<= 20
	}
	if uint32(n) != have {
		return fmt.Errorf("it has room for %d, the document says %q", have, said)
	}
	return nil
}

// TestProgramsAreDocumented: docs/ARCHITECTURE.md lists every program, those of the
// cgroup in the order in which they are attached.
func TestProgramsAreDocumented(t *testing.T) {
	rows := tablesBelow(t, document(t, "docs/ARCHITECTURE.md"), "Programs")
	spec, err := bpf.LoadEgressd()
	if err != nil {
		t.Fatal(err)
	}
	var said, want []string
	for _, cells := range rows {
		for _, name := range twins(cells[0]) {
			hook := cells[1]
			if p := spec.Programs[name]; p != nil && p.SectionName != "tc" {
				if !slices.Contains(twins(hook), p.SectionName) {
					t.Errorf("the hook of %s is %s, the document says %s", name, p.SectionName, hook)
				}
			}
			said = append(said, name)
		}
	}
	for _, h := range new(Datapath).hooks() {
		want = append(want, h.name)
	}
	if len(said) < len(want) || !slices.Equal(said[:len(want)], want) {
		t.Errorf("programs are attached in this order: %v\nthe document says: %v", want, said)
	}
	for name := range spec.Programs {
		if !slices.Contains(said, name) {
			t.Errorf("the document has no row of %s", name)
		}
	}
	if len(said) != len(spec.Programs) {
		t.Errorf("the document has %d programs, there are %d", len(said), len(spec.Programs))
	}
}

// twins reads "`x4`, `6`", which is x4 and x6.
func twins(cell string) []string {
	names := strings.Split(strings.ReplaceAll(cell, "`", ""), ", ")
	if len(names) == 2 && names[1] == "6" {
		names[1] = strings.TrimSuffix(names[0], "4") + "6"
	}
	return names
}

// TestReasonsAreDocumented: docs/REASONS.md is made from the comments of policy's
// reasons.
func TestReasonsAreDocumented(t *testing.T) {
	want := renderReasons(t, document(t, "policy/verdict.go"))
	if *writeDocs {
		if err := os.WriteFile("../docs/REASONS.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if document(t, "docs/REASONS.md") != want {
		t.Error("docs/REASONS.md is not what policy/verdict.go says: run go test ./loader -run TestReasonsAreDocumented -write and commit it")
	}
}

func renderReasons(t *testing.T, source string) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "verdict.go", source, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	byKernel := map[policy.Reason]bool{}
	for _, counter := range telemetry.CounterNames() {
		if r, ok := strings.CutPrefix(counter, "deny/"); ok {
			byKernel[policy.Reason(r)] = true
		}
	}
	var b strings.Builder
	b.WriteString(`# Reasons

Why a flow was allowed or denied, in events and metrics. Those that the kernel finds are counted by
` + "`egressd_kernel_flows_total{action=\"deny\"}`" + ` too; the proxies find the others, and some of these.

| reason | means | in the kernel |
|---|---|---|
`)
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Reason") {
			return true
		}
		lit, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		value, err := strconv.Unquote(lit.Value)
		if err != nil {
			t.Fatal(err)
		}
		_, means, _ := strings.Cut(strings.Join(strings.Fields(spec.Doc.Text()), " "), ": ")
		if means == "" {
			t.Errorf("%s has no comment that says what it means", spec.Names[0].Name)
		}
		kernel := ""
		if byKernel[policy.Reason(value)] {
			kernel = "yes"
			delete(byKernel, policy.Reason(value))
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", value, strings.ReplaceAll(means, "|", `\|`), kernel)
		n++
		return true
	})
	if n < 40 || len(byKernel) > 0 {
		t.Errorf("%d reasons were found, and not %v", n, byKernel)
	}
	return b.String()
}
