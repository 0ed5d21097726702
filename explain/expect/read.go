// SPDX-License-Identifier: Apache-2.0

package expect

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

// APIVersion and Kind are those of the objects that hold cases.
const (
	APIVersion = "egressd.dev/v1"
	Kind       = "PolicyTest"
)

// What may be expected, beside the names of verdicts.
const (
	Allow = "allow"
	Deny  = "deny"
	// Redirect and Respond: an HTTP rule answers itself.
	Redirect = "redirect"
	Respond  = "respond"
)

// object is a PolicyTest.
type object struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   metadata `yaml:"metadata"`
	Spec       spec     `yaml:"spec"`
}

type metadata struct {
	Name        string            `yaml:"name"`
	Namespace   string            `yaml:"namespace"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

type spec struct {
	// Workload is that of the cases that name none.
	Workload string  `yaml:"workload"`
	Cases    []entry `yaml:"cases"`
}

// entry is an item of cases: one case for each target.
type entry struct {
	Target   string            `yaml:"target"`
	Targets  []string          `yaml:"targets"`
	Workload *string           `yaml:"workload"`
	Method   string            `yaml:"method"`
	Headers  map[string]string `yaml:"headers"`
	Expect   string            `yaml:"expect"`
	Reason   string            `yaml:"reason"`
	Rule     string            `yaml:"rule"`
	Says     []string          `yaml:"says"`
}

// Cases reads the cases of all PolicyTests in files, in their order; other objects are
// left to the policy's reader. All errors are returned together, each with its place.
func Cases(files []istio.File) ([]Case, error) {
	var out []Case
	var errs []error
	for _, f := range files {
		if !bytes.Contains(f.Data, []byte(Kind)) {
			continue
		}
		cases, err := casesOf(f)
		out = append(out, cases...)
		errs = append(errs, err...)
	}
	return out, errors.Join(errs...)
}

func casesOf(f istio.File) (out []Case, errs []error) {
	d := yaml.NewDecoder(bytes.NewReader(f.Data))
	for {
		var doc yaml.Node
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return out, errs
		}
		if err != nil {
			return out, append(errs, fmt.Errorf("%s: %w", f.Name, err))
		}
		if !isTest(&doc) {
			continue
		}
		cases, err := casesIn(f.Name, doc.Content[0])
		if err != nil {
			errs = append(errs, err)
		}
		out = append(out, cases...)
	}
}

// isTest says whether a document is a PolicyTest, of whatever version.
func isTest(doc *yaml.Node) bool {
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
		return false
	}
	group, _, _ := strings.Cut(APIVersion, "/")
	return value(doc.Content[0], "kind") == Kind && strings.HasPrefix(value(doc.Content[0], "apiVersion"), group+"/")
}

// value is the text of a key of a mapping; "" without it.
func value(n *yaml.Node, key string) string {
	if v := at(n, key); v != nil {
		return v.Value
	}
	return ""
}

// at is the value of a key of a mapping; nil without it.
func at(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func casesIn(file string, root *yaml.Node) ([]Case, error) {
	var o object
	// A Node has no strict decoding; what it is written as has.
	text, err := yaml.Marshal(root)
	if err != nil {
		return nil, fmt.Errorf("%s:%d: %w", file, root.Line, err)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&o); err != nil {
		return nil, fmt.Errorf("%s:%d: %s %s: %w", file, root.Line, Kind, value(at(root, "metadata"), "name"), plain(err))
	}
	if o.APIVersion != APIVersion {
		return nil, fmt.Errorf("%s:%d: apiVersion %s is not known; %s has %s", file, root.Line, o.APIVersion, Kind, APIVersion)
	}
	var out []Case
	var errs []error
	items := at(at(root, "spec"), "cases")
	for i, e := range o.Spec.Cases {
		line := items.Content[i].Line
		cases, err := e.cases(Case{Test: o.Metadata.Name, File: file, Line: line, Workload: o.Spec.Workload})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", file, line, err))
		}
		out = append(out, cases...)
	}
	if len(o.Spec.Cases) == 0 {
		errs = append(errs, fmt.Errorf("%s:%d: %s %s has no spec.cases, so it tests nothing", file, root.Line, Kind, o.Metadata.Name))
	}
	return out, errors.Join(errs...)
}

// plain is an error of the decoder without the lines, which are not the file's.
func plain(err error) error {
	var types *yaml.TypeError
	if !errors.As(err, &types) {
		return err
	}
	var out []string
	for _, text := range types.Errors {
		if line, rest, ok := strings.Cut(text, ": "); ok && strings.HasPrefix(line, "line ") {
			text = rest
		}
		for name, called := range map[string]string{"entry": "a case", "object": "a " + Kind, "spec": "spec", "metadata": "metadata"} {
			text = strings.Replace(text, "not found in type expect."+name, "is not known in "+called, 1)
			text = strings.Replace(text, "[]expect."+name, "a list, each item of which begins with a hyphen", 1)
			text = strings.Replace(text, "into expect."+name, "into "+called, 1)
		}
		out = append(out, text)
	}
	return errors.New(strings.Join(out, "; "))
}

// cases are those of an item, like but for what it says.
func (e entry) cases(like Case) ([]Case, error) {
	targets := e.Targets
	if e.Target != "" {
		targets = append([]string{e.Target}, targets...)
	}
	expected := []string{Allow, Deny, policy.Direct.String(), policy.Inspect.String(), policy.Proxy.String(), Redirect, Respond}
	switch {
	case len(targets) == 0:
		return nil, errors.New("a case needs a target: a URL, HOST:PORT or IP:PORT")
	case !slices.Contains(expected, e.Expect):
		return nil, fmt.Errorf("expect is %s, not %q", strings.Join(expected, ", "), e.Expect)
	}
	like.Method, like.Expect, like.Reason, like.Rule, like.Says = e.Method, e.Expect, e.Reason, e.Rule, e.Says
	if e.Workload != nil {
		like.Workload = *e.Workload
	}
	for name, v := range e.Headers {
		like.Headers = append(like.Headers, name+": "+v)
	}
	slices.Sort(like.Headers)
	if _, err := explain.ParseHeader(like.Headers); err != nil {
		return nil, err
	}
	var out []Case
	var errs []error
	for _, t := range targets {
		if _, err := explain.ParseTarget(t); err != nil {
			errs = append(errs, err)
			continue
		}
		like.Target = t
		out = append(out, like)
	}
	return out, errors.Join(errs...)
}
