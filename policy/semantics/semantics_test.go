// SPDX-License-Identifier: Apache-2.0

package semantics

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

var update = flag.Bool("update", false, "write the answers that are given into the files")

// TestSemantics asks the questions of all files here and in tenants.
func TestSemantics(t *testing.T) {
	for _, name := range glob(t, "*.txtar", "tenants/*.txtar") {
		t.Run(strings.TrimSuffix(name, ".txtar"), func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			a := txtar.Parse(data)
			cases, err := casesOf(a)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) { c.run(t, name) })
			}
			write(t, name, data, txtar.Format(a))
		})
	}
}

// TestExamples asks the questions in the files NAME.expect beside the examples
// about NAME.yaml, and there is such a file for each.
func TestExamples(t *testing.T) {
	for _, name := range glob(t, "../../examples/istio/*.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			yaml, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			expect := strings.TrimSuffix(name, ".yaml") + ".expect"
			data, err := os.ReadFile(expect)
			if err != nil {
				t.Fatal(err)
			}
			f := txtar.File{Name: expect, Data: data}
			c := &kase{name: filepath.Base(name), files: []istio.File{{Name: name, Data: yaml}}, expect: &f}
			c.run(t, expect)
			write(t, expect, data, f.Data)
		})
	}
}

func glob(t *testing.T, patterns ...string) []string {
	t.Helper()
	var out []string
	for _, p := range patterns {
		names, err := filepath.Glob(p)
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %d files, %v", p, len(names), err)
		}
		out = append(out, names...)
	}
	return out
}

func write(t *testing.T, name string, was, is []byte) {
	t.Helper()
	if !*update || string(was) == string(is) {
		return
	}
	if err := os.WriteFile(name, is, 0o644); err != nil {
		t.Fatal(err)
	}
}

// kase is one case: objects, and what is expected of them.
type kase struct {
	name   string
	files  []istio.File
	flags  istio.Options
	expect *txtar.File // its data is replaced when answers are written
}

// casesOf reads an archive; see README.md.
func casesOf(a *txtar.Archive) ([]*kase, error) {
	var base, own []istio.File
	var flags istio.Options
	var out []*kase
	name := "base"
	for i := range a.Files {
		f := &a.Files[i]
		switch kind, rest, _ := strings.Cut(f.Name, " "); {
		case f.Name == "flags" && len(out) == 0:
			if err := parseFlags(&flags, string(f.Data)); err != nil {
				return nil, err
			}
		case strings.HasSuffix(f.Name, ".yaml") && kind != "case":
			if name != "base" || len(out) > 0 {
				return nil, fmt.Errorf("%s: files for all cases come before them", f.Name)
			}
			base = append(base, istio.File{Name: f.Name, Data: f.Data})
		case kind == "case" && rest != "":
			if own != nil || slices.ContainsFunc(out, func(k *kase) bool { return k.name == rest }) {
				return nil, fmt.Errorf("%s: the case before it has no expect, or there are two of it", f.Name)
			}
			name, own = rest, []istio.File{{Name: "case.yaml", Data: f.Data}}
		case f.Name == "expect":
			if name != "base" && own == nil {
				return nil, fmt.Errorf("case %s has expect twice", name)
			}
			out = append(out, &kase{name: name, files: slices.Concat(base, own), flags: flags, expect: f})
			own = nil
		default:
			return nil, fmt.Errorf("%q is none of NAME.yaml, flags, case NAME, expect", f.Name)
		}
	}
	if own != nil || len(out) == 0 {
		return nil, errors.New("the last case has no expect")
	}
	return out, nil
}

// parseFlags reads flags as egressd has them, one in a line.
func parseFlags(o *istio.Options, text string) error {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case len(f) == 2 && f[0] == "--gateway-selector":
			o.GatewaySelector = map[string]string{}
			for l := range strings.SplitSeq(f[1], ",") {
				k, v, _ := strings.Cut(l, "=")
				o.GatewaySelector[k] = v
			}
		case len(f) == 2 && f[0] == "--allow-endpoint":
			e, err := policy.ParseAllowedEndpoint(f[1])
			if err != nil {
				return err
			}
			o.AllowEndpoints = append(o.AllowEndpoints, e)
		case len(f) == 2 && (f[0] == "--cluster-cidr" || f[0] == "--cluster-domain"):
			var prefixes, domains []string
			if f[0] == "--cluster-cidr" {
				prefixes = strings.Split(f[1], ",")
			} else {
				domains = strings.Split(f[1], ",")
			}
			c, find, err := policy.ParseCluster(prefixes, domains, nil)
			if err != nil {
				return err
			}
			o.Cluster.Prefixes, o.Cluster.Domains = append(o.Cluster.Prefixes, c.Prefixes...), append(o.Cluster.Domains, c.Domains...)
			o.FindCluster = o.FindCluster || find
		default:
			return fmt.Errorf("flags: %q is none of --gateway-selector LABELS, --allow-endpoint PLACE, --cluster-cidr CIDR or auto, --cluster-domain DOMAIN", strings.TrimSpace(line))
		}
	}
	return nil
}

// line is one line of an expectation.
type line struct {
	text string // as it is written, without its end
	q    *question
	ask  string // the question's text
	want string
	dns  *learned
}

// lines reads an expectation.
func (c *kase) lines() ([]*line, error) {
	var out []*line
	asked := 0
	for i, text := range strings.Split(strings.TrimSuffix(string(c.expect.Data), "\n"), "\n") {
		l := &line{text: text}
		out = append(out, l)
		plain := strings.TrimSpace(text)
		if plain == "" || plain[0] == '#' {
			continue
		}
		var err error
		if rest, ok := strings.CutPrefix(plain, "dns "); ok {
			l.dns = new(learned)
			*l.dns, err = parseDNS(words{strings.Fields(rest)})
		} else {
			ask, want, _ := strings.Cut(plain, "=>") // without one, the answer is wanted
			l.ask, l.want = strings.TrimSpace(ask), strings.Join(strings.Fields(want), " ")
			l.q, err = parseQuestion(l.ask)
			asked++
		}
		if err != nil {
			return nil, fmt.Errorf("expect:%d: %s: %w", i+1, plain, err)
		}
	}
	if asked == 0 {
		return nil, errors.New("nothing is asked")
	}
	return out, nil
}

// compile loads the case's objects, and adds the workloads that ask.
func (c *kase) compile(t *testing.T, lines []*line) *policy.Snapshot {
	t.Helper()
	c.flags.ReadFile = func(string) ([]byte, error) { return nil, os.ErrNotExist } // certificates are nobody's here
	cfg, findings := istio.Load(c.files, c.flags)
	if cfg == nil {
		for _, f := range findings {
			t.Log(f)
		}
		t.Fatal("the objects are refused")
	}
	known := map[string]bool{}
	for _, w := range cfg.Workloads {
		known[key(w.Identity)] = true
	}
	for _, l := range lines {
		if l.q == nil || l.q.anyone || known[key(l.q.who)] {
			continue
		}
		known[key(l.q.who)] = true
		cfg.Workloads = append(cfg.Workloads, &policy.Workload{
			Ref: policy.Ref{Kind: "Workload", Namespace: l.q.who.Namespace, Name: l.q.who.Name}, Identity: l.q.who,
		})
	}
	s, err := policy.Compile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (c *kase) run(t *testing.T, file string) {
	lines, err := c.lines()
	if err != nil {
		t.Fatalf("%s, case %s: %v", file, c.name, err)
	}
	a := &asker{s: c.compile(t, lines)}
	var written strings.Builder
	for _, l := range lines {
		got := l.text
		if l.dns != nil {
			a.known = append(a.known, *l.dns)
		}
		if l.q != nil {
			answers, err := a.ask(l.q)
			if err != nil {
				t.Fatalf("%s, case %s: %s: %v", file, c.name, l.ask, err)
			}
			if len(answers) > 1 || answers[0].text != l.want {
				got = render(l.ask, answers)
				if !*update {
					t.Errorf("%s, case %s\n got: %s\nwant: %s", file, c.name, strings.ReplaceAll(got, "\n", "\n      "), strings.TrimSpace(l.text))
				}
			}
		}
		written.WriteString(got + "\n")
	}
	if *update {
		c.expect.Data = []byte(written.String())
	}
}

// render writes lines that can be pasted: one for each address when the
// answers differ.
func render(ask string, answers []answer) string {
	var out []string
	for _, a := range answers {
		at := ""
		if a.at.IsValid() {
			at = " at=" + a.at.String()
		}
		out = append(out, ask+at+" => "+a.text)
	}
	return strings.Join(out, "\n")
}
