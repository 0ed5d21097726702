// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// render writes a Config as YAML: a section for each of its lists, objects in
// the order of the list under "Kind namespace/name", and what is set in them
// under the names of the Go fields. Zero values are left out where that says
// the same, so that one more object, or field, adds its own lines and changes
// no others.
func render(c *policy.Config) string {
	var b strings.Builder
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(renderer{}.structure(reflect.ValueOf(*c))); err != nil {
		panic(err)
	}
	return b.String()
}

// renderer renders what is within one object.
type renderer struct{ object string }

var (
	refType    = reflect.TypeFor[policy.Ref]()
	matchKinds = [...]string{"present", "exact", "prefix", "regex", "path prefix"}
	valueKinds = [...]string{"exact", "prefix", "suffix", "present"}
)

// node renders one value.
func (r renderer) node(v reflect.Value) *yaml.Node {
	switch x := v.Interface().(type) {
	case policy.Ref:
		return text(r.place(x))
	case policy.StringMatch:
		return pair(matchKinds[x.Kind], x.Value)
	case policy.ValueMatch:
		return pair(valueKinds[x.Kind], x.Value)
	case []byte:
		return text(string(x))
	case netip.Addr:
		if !x.IsValid() {
			return text("")
		}
		return text(x.String())
	case fmt.Stringer:
		if v.Kind() != reflect.Pointer && v.Kind() != reflect.Struct || v.Type() == reflect.TypeFor[netip.Prefix]() {
			return text(x.String())
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		return r.node(v.Elem())
	case reflect.Struct:
		return r.structure(v)
	case reflect.Slice:
		return r.slice(v)
	case reflect.Map:
		return r.dict(v)
	case reflect.String:
		return text(v.String())
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v)}
	}
}

// place says where something of an object is written; the object is told only
// where it is another than the one around it.
func (r renderer) place(x policy.Ref) string {
	if object := x.Kind + " " + x.Namespace + "/" + x.Name; object != r.object {
		return object + " " + x.Position()
	}
	return x.Position()
}

// structure renders the fields that are set; those of an embedded struct are
// its own.
func (r renderer) structure(v reflect.Value) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode}
	for i := range v.NumField() {
		field, f := v.Type().Field(i), v.Field(i)
		if !field.IsExported() || f.IsZero() && field.Type != reflect.TypeFor[policy.ValueMatch]() || empty(f) {
			continue
		}
		n := r.node(f)
		if field.Anonymous {
			out.Content = append(out.Content, n.Content...)
			continue
		}
		out.Content = append(out.Content, text(field.Name), n)
	}
	return out
}

func empty(v reflect.Value) bool {
	return (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0
}

// slice renders objects under their names, and everything else as a sequence:
// short elements on one line each (whatever their position is, which is why
// one that has it is never short), plain values on one line together.
func (r renderer) slice(v reflect.Value) *yaml.Node {
	if r.object == "" && v.Len() > 0 && hasRef(v.Type().Elem()) {
		return objects(v)
	}
	out := &yaml.Node{Kind: yaml.SequenceNode}
	plain := true
	for i := range v.Len() {
		n := r.node(v.Index(i))
		if n.Kind != yaml.ScalarNode {
			plain = false
		}
		if n.Kind == yaml.MappingNode && !hasRef(v.Type().Elem()) && short(n) {
			n.Style = yaml.FlowStyle
		}
		out.Content = append(out.Content, n)
	}
	if plain && short(out) {
		out.Style = yaml.FlowStyle
	}
	return out
}

func hasRef(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return false
	}
	f, ok := t.FieldByName("Ref")
	return ok && f.Type == refType
}

// objects renders a list of the Config. What one object became in several
// pieces has them numbered.
func objects(v reflect.Value) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode}
	pieces := map[string]int{}
	for i := range v.Len() {
		x := reflect.Indirect(v.Index(i))
		ref := x.FieldByName("Ref").Interface().(policy.Ref)
		r := renderer{ref.Kind + " " + ref.Namespace + "/" + ref.Name}
		key := r.object
		if pieces[key]++; pieces[key] > 1 {
			key += " (" + strconv.Itoa(pieces[key]) + ")"
		}
		out.Content = append(out.Content, text(key), r.structure(x))
	}
	return out
}

// dict renders a map in the order of its keys.
func (r renderer) dict(v reflect.Value) *yaml.Node {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(x, y reflect.Value) int {
		if x.CanUint() {
			return int(x.Uint()) - int(y.Uint())
		}
		return strings.Compare(x.String(), y.String())
	})
	out := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range keys {
		out.Content = append(out.Content, r.node(k), r.node(v.MapIndex(k)))
	}
	if short(out) {
		out.Style = yaml.FlowStyle
	}
	return out
}

// short says whether a node fits on a line.
func short(n *yaml.Node) bool { return width(n) <= 100 }

func width(n *yaml.Node) int {
	w := len(n.Value) + len(": ")
	for _, c := range n.Content {
		w += width(c)
	}
	return w
}

func text(s string) *yaml.Node {
	var n yaml.Node
	n.SetString(s)
	return &n
}

func pair(key, value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle, Content: []*yaml.Node{text(key), text(value)}}
}

// withinDocuments makes the lines of a file, which shift with every object
// before them, those of its documents: "+1" is a document's first line.
func withinDocuments(f File, s string) string {
	place := regexp.MustCompile(`(^|[\s("'])` + regexp.QuoteMeta(f.Name) + `:(\d+)`)
	var starts []int
	for _, c := range strictyaml.Split(f.Data) {
		starts = append(starts, c.Line)
	}
	return place.ReplaceAllStringFunc(s, func(found string) string {
		m := place.FindStringSubmatch(found)
		line, _ := strconv.Atoi(m[2])
		i, _ := slices.BinarySearch(starts, line)
		return m[1] + f.Name + ":+" + strconv.Itoa(line-starts[i-1])
	})
}

// TestRender: a value that is set is told, a zero one where it says something,
// and another object leaves the lines of the rest as they are.
func TestRender(t *testing.T) {
	no, none := false, uint32(0)
	ref := policy.Ref{Kind: "DestinationRule", Namespace: "shop", Name: "api", File: "f.yaml", Line: 3, Column: 5}
	rule := &policy.DestinationRule{Ref: ref, Host: "api.example.com", Traffic: &policy.TrafficPolicy{
		Pool:    &policy.ConnectionPool{UpgradeHTTP2: &no},
		Outlier: &policy.OutlierDetection{Consecutive5xx: &none},
		TLS:     &policy.ClientTLS{},
	}}
	service := func(name string) *policy.Service {
		return &policy.Service{
			Ref:   policy.Ref{Kind: "ServiceEntry", Namespace: "shop", Name: name, File: "f.yaml", Line: 9, Column: 1},
			Ports: []policy.Port{{Number: 443, Protocol: policy.ProtocolTLS}, {}},
			Endpoints: []policy.Endpoint{{Addr: netip.MustParseAddr("::1"), Ports: map[string]uint16{"b": 2, "a": 0}},
				{Labels: map[string]string{"version": "1"}}},
		}
	}
	rest := `DestinationRules:
  DestinationRule shop/api:
    Ref: f.yaml:3:5
    Host: api.example.com
    Traffic:
      Pool:
        UpgradeHTTP2: false
      Outlier:
        Consecutive5xx: 0
      TLS: {}
`
	entry := func(key string) string {
		return "  " + key + `:
    Ref: f.yaml:9:1
    Ports:
      - {Number: 443, Protocol: TLS}
      - {}
    Endpoints:
      - {Addr: '::1', Ports: {a: 0, b: 2}}
      - {Labels: {version: "1"}}
`
	}
	cfg := &policy.Config{Services: []*policy.Service{service("b")}, DestinationRules: []*policy.DestinationRule{rule}}
	if got, want := render(cfg), "Services:\n"+entry("ServiceEntry shop/b")+rest; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	cfg.Services = []*policy.Service{service("a"), service("b"), service("a")}
	want := "Services:\n" + entry("ServiceEntry shop/a") + entry("ServiceEntry shop/b") + entry("ServiceEntry shop/a (2)") + rest
	if got := render(cfg); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	f := File{Name: "f.yaml", Data: bytes.Repeat([]byte("---\na: 1\nb: 2\n"), 4)}
	if got, want := withinDocuments(f, "x f.yaml:1:2 of.yaml:7 (f.yaml:3:5)\nf.yaml:9:1"), "x f.yaml:+1:2 of.yaml:7 (f.yaml:+3:5)\nf.yaml:+3:1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
