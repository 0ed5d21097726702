// SPDX-License-Identifier: Apache-2.0

// Package expression compiles the expressions of Telemetry objects, which are CEL with
// the attributes of Envoy (envoyproxy.io, "Attributes"), and evaluates them.
package expression

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
)

const (
	// maxLength is how long an expression may be, in bytes.
	maxLength = 4 << 10
	// maxCost is how many steps of CEL an evaluation may take: who writes a Telemetry
	// slows down nobody's requests.
	maxCost = 20000
)

// known are the attributes that flows have, by the variable that has them.
var known = map[string][]string{
	"request":     {"duration", "headers", "host", "id", "method", "path", "protocol", "query", "referer", "scheme", "size", "time", "url_path", "useragent"},
	"response":    {"backend_latency", "code", "code_details", "flags", "grpc_status", "headers", "size", "trailers"},
	"connection":  {"mtls", "requested_server_name", "termination_details"},
	"source":      {"address", "port", "workload"},
	"destination": {"address", "port", "service"},
	"upstream":    {"address", "port", "request_attempt_count"},
	"xds":         {"cluster_name", "route_name"},
	"egressd":     {"allowed", "layer", "reason", "verdict"},
}

// foreign are variables of Envoy that nothing here is known of.
var foreign = []string{"filter_state", "metadata", "node", "plugin_name", "upstream_peer", "downstream_peer"}

// Attributes gives the attributes of a variable; nil: it has none.
type Attributes func(variable string) map[string]any

// Expression is a compiled expression. It is immutable.
type Expression struct {
	text string
	run  cel.Program
}

// environment is made when the first expression is compiled: most nodes have none.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	var o []cel.EnvOption
	for name := range known {
		o = append(o, cel.Variable(name, cel.MapType(cel.StringType, cel.DynType)))
	}
	for _, name := range foreign {
		o = append(o, cel.Variable(name, cel.DynType))
	}
	return cel.NewEnv(o...)
})

// Condition compiles an expression that holds or does not. unknown are the attributes in it
// that no flow has: with one of them it never holds.
func Condition(text string) (p *Expression, unknown []string, err error) {
	return compile(text, cel.BoolType)
}

// Value compiles an expression whose value becomes a text.
func Value(text string) (p *Expression, unknown []string, err error) { return compile(text, nil) }

func compile(text string, want *cel.Type) (*Expression, []string, error) {
	if len(text) > maxLength {
		return nil, nil, fmt.Errorf("it has %d bytes, more than %d", len(text), maxLength)
	}
	env, err := environment()
	if err != nil {
		return nil, nil, err
	}
	tree, issues := env.Compile(text)
	if issues.Err() != nil {
		var said []string
		for _, e := range issues.Errors() {
			said = append(said, fmt.Sprintf("column %d: %s", e.Location.Column()+1, e.Message))
		}
		return nil, nil, errors.New(strings.Join(said, "; "))
	}
	if got := tree.OutputType(); want != nil && !got.IsExactType(want) && !got.IsExactType(cel.DynType) {
		return nil, nil, fmt.Errorf("its value is %s, and must be %s", got, want)
	}
	run, err := env.Program(tree, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, nil, err
	}
	return &Expression{text, run}, unknowns(tree.NativeRep().Expr()), nil
}

// unknowns are the attributes that no flow has.
func unknowns(e ast.Expr) (out []string) {
	note := func(name string) {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.IdentKind:
			if slices.Contains(foreign, e.AsIdent()) {
				note(e.AsIdent())
			}
		case ast.SelectKind:
			s := e.AsSelect()
			if s.Operand().Kind() != ast.IdentKind {
				return
			}
			variable := s.Operand().AsIdent()
			if of, ok := known[variable]; ok && !slices.Contains(of, s.FieldName()) {
				note(variable + "." + s.FieldName())
			}
		}
	}))
	return out
}

// String is the expression as it was written.
func (p *Expression) String() string { return p.text }

// Holds says whether a condition holds. One that can't be evaluated does not, as in
// Envoy: an attribute of requests is none of a connection's.
func (p *Expression) Holds(a Attributes) bool {
	v, _, err := p.run.Eval(variables(a))
	return err == nil && v == types.True
}

// Text is the value as a text, and whether there is one.
func (p *Expression) Text(a Attributes) (string, bool) {
	v, _, err := p.run.Eval(variables(a))
	if err != nil {
		return "", false
	}
	s, ok := v.ConvertToType(types.StringType).Value().(string)
	return s, ok
}

// variables are asked for when an expression comes to them.
type variables Attributes

// ResolveName implements cel.Activation.
func (v variables) ResolveName(name string) (any, bool) {
	m := v(name)
	return m, m != nil
}

// Parent implements cel.Activation.
func (variables) Parent() cel.Activation { return nil }
