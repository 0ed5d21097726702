// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// outcome is all that is known of files: the Config, and the findings of Load
// and Analyze.
func outcome(cfg *policy.Config, findings ...[]Finding) string {
	var b strings.Builder
	for i, list := range findings {
		for _, f := range list {
			fmt.Fprintln(&b, i, f)
		}
	}
	if cfg == nil {
		b.WriteString("refused\n")
		return b.String()
	}
	b.WriteString(render(cfg))
	return b.String()
}

func (r *Reader) outcome(files []File) (*policy.Config, string) {
	cfg, findings := r.Load(files)
	return cfg, outcome(cfg, findings, r.Analyze())
}

// editor changes files at random.
type editor struct {
	*rand.Rand
	docs  []string // to put into files
	files []File
	names int
}

// newEditor takes the documents of the golden tests, and plain ServiceEntries.
func newEditor(t *testing.T, seed uint64) *editor {
	e := &editor{Rand: rand.New(rand.NewPCG(seed, 1))}
	for _, name := range append(glob(t, "testdata/valid/*.yaml"), glob(t, "testdata/invalid/*.yaml")...) {
		broken := strings.Contains(name, "invalid")
		for _, c := range strictyaml.Split(readFile(t, name).Data) {
			if !broken || e.IntN(20) == 0 {
				e.docs = append(e.docs, strings.TrimPrefix(string(c.Text), "---\n"))
			}
		}
	}
	for i := range len(e.docs) * 2 {
		e.docs = append(e.docs, fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: plain-%d\nspec:\n  hosts:\n  - h%d.example.com\n"+
			"  addresses: [10.0.%d.%d]\n  ports:\n  - number: 443\n    name: tls\n    protocol: %s\n  resolution: NONE\n", i%50, i, i%3, i%5, []string{"TLS", "TCP"}[i%2]))
	}
	return e
}

// text is a file of some documents.
func (e *editor) text() []byte {
	var b bytes.Buffer
	for range 1 + e.IntN(6) {
		b.WriteString("---\n" + e.docs[e.IntN(len(e.docs))])
	}
	return b.Bytes()
}

// edit makes one change. Files are not changed in place: a Reader keeps them.
func (e *editor) edit() string {
	e.files = slices.Clone(e.files)
	if len(e.files) < 3 || e.IntN(8) == 0 {
		e.names++
		i := e.IntN(len(e.files) + 1)
		e.files = slices.Insert(e.files, i, File{fmt.Sprintf("f%d.yaml", e.names%20), e.text()})
		return "a new file"
	}
	f := &e.files[e.IntN(len(e.files))]
	docs := strictyaml.Split(f.Data)
	i := e.IntN(len(docs))
	at := bytes.Index(f.Data, docs[i].Text)
	end := at + len(docs[i].Text)
	doc := "---\n" + e.docs[e.IntN(len(e.docs))]
	switch n := e.IntN(20); {
	case n < 3:
		e.files = slices.DeleteFunc(e.files, func(g File) bool { return g.Name == f.Name })
		return "a file less"
	case n < 5:
		e.Shuffle(len(e.files), func(i, j int) { e.files[i], e.files[j] = e.files[j], e.files[i] })
		return "another order"
	case n < 8:
		f.Data = slices.Concat(f.Data[:at], f.Data[end:])
		return "a document less"
	case n < 12:
		f.Data = slices.Concat(f.Data, []byte(doc))
		return "a document at the end"
	case n < 14:
		f.Data = slices.Concat(f.Data[:at], []byte(doc), f.Data[at:])
		return "a document between others"
	case n < 16:
		f.Data = slices.Concat(f.Data[:at], []byte(doc), f.Data[end:])
		return "another document"
	case n < 17 && len(f.Data) > 0:
		f.Data = slices.Clone(f.Data)
		f.Data[e.IntN(len(f.Data))] ^= byte(1 << e.IntN(6))
		return "one bit"
	case n < 18:
		f.Data = slices.Concat(f.Data[:at], []byte("# one line more\n"), f.Data[at:])
		return "a comment"
	case n < 19:
		f.Data = slices.Clone(f.Data)
		return "nothing"
	default:
		return "nothing at all"
	}
}

// TestReader: after any sequence of edits a Reader gives what a new one does.
func TestReader(t *testing.T) {
	rounds := 1200
	if testing.Short() {
		rounds = 100
	}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			e := newEditor(t, seed)
			kept := NewReader(goldenOptions)
			kept.size = 1 + int(seed)*700
			accepted, same := 0, 0
			var before map[*policy.Service]bool
			for round := range rounds {
				what := e.edit()
				fresh := NewReader(goldenOptions)
				fresh.size = kept.size
				cfg, got := kept.outcome(e.files)
				_, want := fresh.outcome(e.files)
				if got != want {
					t.Fatalf("round %d, %s: got\n%s\nwant\n%s", round, what, got, want)
				}
				if cfg == nil {
					before = nil
					continue
				}
				accepted++
				now := map[*policy.Service]bool{}
				for _, s := range cfg.Services {
					now[s] = true
					if before[s] {
						same++
					}
				}
				before = now
			}
			t.Logf("%d of %d accepted, %d services taken over", accepted, rounds, same)
			if accepted < rounds/20 || same < rounds/20 {
				t.Error("hardly anything was accepted or taken over: the test does not test much")
			}
		})
	}
}

// TestReaderGoldens loads each golden file after each other one, as the
// function does.
func TestReaderGoldens(t *testing.T) {
	names := append(glob(t, "testdata/valid/*.yaml"), glob(t, "testdata/invalid/*.yaml")...)
	r := NewReader(goldenOptions)
	for _, name := range append(names, names...) {
		f := []File{readFile(t, name)}
		cfg, findings := r.Load(f)
		all := r.l.r.Sorted(slices.Concat(findings, r.Analyze()))
		wantCfg, want := Load(f, goldenOptions)
		if got, want := outcome(cfg, all), outcome(wantCfg, want); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", filepath.Base(name), got, want)
		}
	}
}

// manyEntries are files of ServiceEntries with one host each.
func manyEntries(files, entries int) []File {
	out := make([]File, files)
	for i := range out {
		var text strings.Builder
		for j := range entries {
			fmt.Fprintf(&text, "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: f%dh%d\nspec:\n  hosts:\n  - f%dh%d.example.com\n"+
				"  ports:\n  - number: 443\n    name: tls\n    protocol: TLS\n  resolution: DNS\n", i, j, i, j)
		}
		out[i] = File{Name: fmt.Sprintf("f%03d.yaml", i), Data: []byte(text.String())}
	}
	return out
}

// TestReaderTakesOver: what did not change is the same *policy.Service, also
// beside other kinds, and with a default for exportTo.
func TestReaderTakesOver(t *testing.T) {
	files := manyEntries(5, 100)
	mesh := "apiVersion: egressd.dev/v1\nkind: MeshConfig\nmetadata: {name: m}\nspec: {defaultServiceExportTo: [default]}\n"
	for name, other := range map[string]string{
		"alone": "",
		"others": `{apiVersion: v1, kind: Service, metadata: {name: k}, spec: {ports: [{port: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: w}, spec: {address: 10.0.0.1, labels: {a: b}}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: w}, spec: {hosts: [w.example.com], resolution: STATIC,
  ports: [{number: 80, name: http, protocol: HTTP}], workloadSelector: {labels: {a: b}}}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: short}, spec: {hosts: [short], ports: [{number: 80, name: http}]}}
`,
		"mesh": mesh,
	} {
		t.Run(name, func(t *testing.T) {
			files := append(slices.Clone(files), File{"other.yaml", []byte(other)})
			r := NewReader(Options{})
			first, findings := r.Load(files)
			if first == nil {
				t.Fatal(findings)
			}
			more := func(at int, doc string) {
				files[at].Data = slices.Concat(files[at].Data, []byte("---\n"+doc))
			}
			more(1, "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: new}, spec: {hosts: [new.example.com], ports: [{number: 80, name: http}]}}\n")
			second, findings := r.Load(files)
			if second == nil {
				t.Fatal(findings)
			}
			compareServices(t, first.Services, second.Services, batchSize/150)
			more(5, "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v}, spec: {hosts: [f0h0.example.com], http: [{route: [{destination: {host: short}}]}]}}\n")
			third, findings := r.Load(files)
			if third == nil {
				t.Fatal(findings)
			}
			if name == "mesh" && third.Services[0].Export.Namespaces == nil {
				t.Errorf("no default for exportTo: %+v", third.Services[0].Export)
			}
			compareServices(t, second.Services, third.Services, 1) // "short" is in the changed file
		})
	}
}

// compareServices checks that at most some of after were not there before.
func compareServices(t *testing.T, before, after []*policy.Service, some int) {
	t.Helper()
	n := 0
	for _, s := range after {
		if !slices.Contains(before, s) {
			n++
		}
	}
	if n > some {
		t.Errorf("%d of %d services are others than before, want at most %d", n, len(after), some)
	}
}

// TestReaderOutside: what is not in the files is looked at each time.
func TestReaderOutside(t *testing.T) {
	there := false
	r := NewReader(Options{ReadFile: func(string) ([]byte, error) {
		if there {
			return []byte("no certificate"), nil
		}
		return nil, fmt.Errorf("not there")
	}})
	files := []File{{"f", []byte(`{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: d},
		spec: {host: a.example.com, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /ca.pem}}}}`)}}
	for _, want := range []string{"cannot be read: not there", "no certificate"} {
		_, findings := r.Load(files)
		if !slices.ContainsFunc(findings, func(f Finding) bool { return strings.Contains(f.Text, want) }) {
			t.Errorf("no %q in %v", want, findings)
		}
		there = true
	}
}

// BenchmarkReader adds a ServiceEntry to one of 100 files with 100,000.
func BenchmarkReader(b *testing.B) {
	files := manyEntries(100, 1000)
	r := NewReader(Options{})
	r.Load(files)
	i := 0
	for b.Loop() {
		files = slices.Clone(files)
		files[50].Data = slices.Concat(files[50].Data, fmt.Appendf(nil,
			"---\n{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: n%d}, spec: {hosts: [n%d.example.com], ports: [{number: 80, name: http}]}}\n", i, i))
		i++
		if cfg, findings := r.Load(files); cfg == nil || len(cfg.Services) != 100_000+i {
			b.Fatal(findings)
		}
	}
}
