// SPDX-License-Identifier: Apache-2.0

// Package authorization translates AuthorizationPolicies.
package authorization

import (
	"fmt"
	"slices"
	"strconv"

	security "istio.io/api/security/v1beta1"
	selectors "istio.io/api/type/v1beta1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// Bounds of Istio's schema for AuthorizationPolicies.
const (
	maxTargetRefs = 16
	maxAuthRules  = 512
)

const annotationDryRun = "istio.io/dry-run"

// Object is an AuthorizationPolicy as it was read.
type Object struct {
	check.Checker
	Ref         policy.Ref
	Annotations map[string]string
	Root        *strictyaml.Node // the object
	Spec        *strictyaml.Node // its spec
	V           *security.AuthorizationPolicy
}

// auth is the translation of one AuthorizationPolicy.
type auth struct {
	Object
	out *policy.AuthorizationPolicy
}

// spec returns the node at path in the spec, as far as it exists.
func (a *auth) spec(path ...any) *strictyaml.Node { return a.Spec.At(path...) }

// Translate translates an AuthorizationPolicy, and says what is wrong with it.
func Translate(d Object) *policy.AuthorizationPolicy {
	a := auth{d, &policy.AuthorizationPolicy{Ref: d.Ref}}
	a.action()
	a.target()
	a.dryRun()
	if n := len(d.V.Rules); n > maxAuthRules {
		a.Errorf(a.spec("rules"), "rules: %d are more than %d", n, maxAuthRules)
	}
	for i, r := range d.V.Rules {
		a.out.Rules = append(a.out.Rules, a.rule(i, r))
	}
	return a.out
}

func (a *auth) action() {
	at := a.spec("action")
	none := "%s action without `rules` is meaningless as it will never be triggered, " +
		"add an empty rule `{}` if you want it be triggered for every request"
	switch a.V.Action {
	case security.AuthorizationPolicy_ALLOW:
		a.out.Action = policy.AuthAllow
	case security.AuthorizationPolicy_DENY:
		a.out.Action = policy.AuthDeny
		if len(a.V.Rules) == 0 {
			a.Errorf(at, none, "DENY")
		}
	case security.AuthorizationPolicy_AUDIT:
		a.out.Action = policy.AuthAudit
	case security.AuthorizationPolicy_CUSTOM:
		if len(a.V.Rules) == 0 {
			a.Errorf(at, none, "CUSTOM")
		} else if a.V.GetProvider().GetName() == "" {
			a.Errorf(a.spec("provider"), "`provider.name` must not be empty")
		}
		a.Errorf(at, "action CUSTOM is not supported: egressd asks no external authorizer; write what it would decide as ALLOW and DENY rules")
	default:
		a.Errorf(at, "action %s is not known", a.V.Action)
	}
	if a.V.GetProvider() != nil && a.V.Action != security.AuthorizationPolicy_CUSTOM {
		a.Errorf(a.spec().KeyOf("provider"), "`provider` must not be with non CUSTOM action, found %s", a.V.Action)
	}
}

func (a *auth) target() {
	refs := a.V.TargetRefs
	set := 0
	for _, is := range [...]bool{a.V.Selector != nil, a.V.TargetRef != nil, a.spec().Has("targetRefs")} {
		if is {
			set++
		}
	}
	if set > 1 {
		a.Errorf(a.spec(), "only one of targetRefs or workloadSelector can be set")
	}
	if s := a.V.Selector; s != nil {
		a.Selector(a.spec("selector", "matchLabels"), s.MatchLabels, check.NoLabels)
		if len(s.MatchLabels) > 0 {
			a.out.Selector = s.MatchLabels
		}
	}
	if a.V.TargetRef != nil {
		a.targetRef(a.spec("targetRef"), a.V.TargetRef)
	}
	if len(refs) > maxTargetRefs {
		a.Errorf(a.spec("targetRefs"), "targetRefs: %d are more than %d", len(refs), maxTargetRefs)
	}
	for i, r := range refs {
		a.targetRef(a.spec("targetRefs", i), r)
	}
}

// targetKinds are what Istio lets a policy be attached to, with their groups.
var targetKinds = []struct{ group, version, kind string }{
	{"", "v1", "Service"},
	{model.NetworkingGroup, "v1", "ServiceEntry"},
	{"gateway.networking.k8s.io", "v1", "Gateway"},
	{"gateway.networking.k8s.io", "v1", "GatewayClass"},
}

func (a *auth) targetRef(at *strictyaml.Node, r *selectors.PolicyTargetReference) {
	if r.Name == "" {
		a.Errorf(at.At("name"), "targetRef name must be set")
	} else if len(r.Name) > 253 {
		a.Errorf(at.At("name"), "targetRef name has %d characters, more than 253", len(r.Name))
	}
	if r.Namespace != "" {
		a.Errorf(at.At("namespace"), "targetRef namespace must not be set; cross namespace referencing is not supported")
	}
	group := r.Group
	if group == "core" {
		group = ""
	}
	var names []string
	for _, k := range targetKinds {
		if k.kind == r.Kind && k.group == group {
			a.out.Targets = append(a.out.Targets, policy.AuthTarget{Kind: r.Kind, Name: r.Name})
			return
		}
		if k.group == "" {
			k.group = "core"
		}
		names = append(names, k.group+"/"+k.version+"/"+k.kind)
	}
	a.Errorf(at, "targetRef must be to one of %v but was %s/%s", names, r.Group, r.Kind)
}

func (a *auth) dryRun() {
	value, ok := a.Annotations[annotationDryRun]
	if !ok {
		return
	}
	at := a.Root.At("metadata", "annotations", annotationDryRun)
	dry, err := strconv.ParseBool(value)
	if err != nil {
		a.Errorf(at, "%s: expected \"true\" or \"false\", got %q", annotationDryRun, value)
	}
	a.out.DryRun = dry
}

// rule translates one rule. number counts from 0, as in Istio's messages.
func (a *auth) rule(number int, r *security.Rule) *policy.AuthRule {
	at := a.spec("rules", number)
	out := &policy.AuthRule{Ref: a.Ref}
	out.Ref.Line, out.Ref.Column = at.Line, at.Col
	for _, key := range [...]string{"from", "to"} {
		if f := at.Field(key); f != nil && f.Value.Kind == strictyaml.List && len(f.Value.Items) == 0 {
			a.Errorf(f.Pos(), "`%s` must not be empty, found at rule %d", key, number)
		}
	}
	for i, f := range r.From {
		fn := at.At("from", i)
		if f.Source == nil {
			a.Errorf(fn, "`from.source` must not be nil, found at rule %d", number)
			continue
		}
		out.From = append(out.From, a.source(fn.At("source"), number, f.Source))
	}
	for i, t := range r.To {
		tn := at.At("to", i)
		if t.Operation == nil {
			a.Errorf(tn, "`to.operation` must not be nil, found at rule %d", number)
			continue
		}
		out.To = append(out.To, a.operation(tn.At("operation"), number, t.Operation))
	}
	for i, c := range r.When {
		if w := a.condition(at.At("when", i), c); w != nil {
			out.When = append(out.When, w)
		}
	}
	if a.out.Action == policy.AuthDeny && slices.ContainsFunc(out.To, readsHTTP) {
		a.Warnf(at, "configured AuthorizationPolicy will deny all traffic to TCP ports under its scope "+
			"due to the use of only HTTP attributes in a DENY rule; it is recommended to explicitly specify the port")
	}
	return out
}

// readsHTTP says whether an operation asks for what only plain HTTP shows,
// and for no port that would limit it.
func readsHTTP(o *policy.AuthOperation) bool {
	return model.AsksHTTP(o) && len(o.Ports)+len(o.NotPorts) == 0
}

// empty reports empty values of a list, and says whether there were any.
func (a *auth) empty(at *strictyaml.Node, key, label string, values []string) bool {
	found := false
	for i, v := range values {
		if v == "" {
			a.Errorf(at.At(key, i), "empty value not allowed, found in %s", label)
			found = true
		}
	}
	return found
}

// authPort reads a port of an AuthorizationPolicy, which are strings.
func authPort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("bad port (%s): %v", s, err)
	}
	return uint16(n), nil
}
