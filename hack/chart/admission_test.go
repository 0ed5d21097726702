// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// admissions reads the examples, strictly.
func admissions(t *testing.T) (policies map[string]*admissionv1.ValidatingAdmissionPolicy, roles []*rbac.ClusterRole) {
	t.Helper()
	files, err := filepath.Glob(top + "/deploy/kubernetes/admission/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	decode := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	policies = map[string]*admissionv1.ValidatingAdmissionPolicy{}
	bound := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.Split(string(text), "\n---\n") {
			o, _, err := decode.Decode([]byte(part), nil, nil)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			switch o := o.(type) {
			case *admissionv1.ValidatingAdmissionPolicy:
				policies[o.Name] = o
			case *admissionv1.ValidatingAdmissionPolicyBinding:
				bound[o.Spec.PolicyName] = slices.Contains(o.Spec.ValidationActions, admissionv1.Deny)
			case *rbac.ClusterRole:
				roles = append(roles, o)
			default:
				t.Errorf("%s: %T", file, o)
			}
		}
	}
	for name := range policies {
		if !bound[name] {
			t.Errorf("%s denies nothing: there is no binding", name)
		}
	}
	return policies, roles
}

// compile makes a policy's validator as the API server does.
func compile(t *testing.T, p *admissionv1.ValidatingAdmissionPolicy) validating.Validator {
	t.Helper()
	c, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		t.Fatal(err)
	}
	with, without := cel.OptionalVariableDeclarations{HasAuthorizer: true}, cel.OptionalVariableDeclarations{}
	var variables []cel.NamedExpressionAccessor
	for _, v := range p.Spec.Variables {
		variables = append(variables, &validating.Variable{Name: v.Name, Expression: v.Expression})
	}
	c.CompileAndStoreVariables(variables, with, environment.NewExpressions)
	conditions := make([]cel.ExpressionAccessor, len(p.Spec.MatchConditions))
	for i := range p.Spec.MatchConditions {
		conditions[i] = (*matchconditions.MatchCondition)(&p.Spec.MatchConditions[i])
	}
	var validations, messages []cel.ExpressionAccessor
	for _, v := range p.Spec.Validations {
		validations = append(validations, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason})
		if v.MessageExpression == "" {
			messages = append(messages, nil)
		} else {
			messages = append(messages, &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression})
		}
	}
	var matcher matchconditions.Matcher
	if len(conditions) > 0 {
		matcher = matchconditions.NewMatcher(c.CompileCondition(conditions, with, environment.NewExpressions), p.Spec.FailurePolicy, "policy", "validate", p.Name)
	}
	v := validating.NewValidator(c.CompileCondition(validations, with, environment.NewExpressions), matcher, c.CompileCondition(nil, with, environment.NewExpressions),
		c.CompileCondition(messages, without, environment.NewExpressions), p.Spec.FailurePolicy, nil)
	if err := v.CompileError(); err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
	return v
}

// request is one that policies decide on.
type request struct {
	resource string // as in pods
	group    string
	before   string // the object as it is, in YAML; "": it is made
	after    string // as it is to be; "": it is deleted
	around   string // the mode of its namespace
	may      string // what the user may set, as in modes
}

// object is one in YAML.
func (r request) object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	if text == "" {
		return nil
	}
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

// decide says what the policies answer; "": they admit it.
func (r request) decide(t *testing.T, policies map[string]*admissionv1.ValidatingAdmissionPolicy) string {
	t.Helper()
	op, is := admission.Update, r.object(t, r.after)
	before := r.object(t, r.before)
	switch {
	case before == nil:
		op = admission.Create
	case is == nil:
		op = admission.Delete
	}
	named := is
	if named == nil {
		named = before
	}
	gvk := schema.GroupVersionKind{Group: r.group, Version: "v1", Kind: named.GetKind()}
	gvr := schema.GroupVersionResource{Group: r.group, Version: "v1", Resource: r.resource}
	// An interface with a nil pointer in it would be an object.
	var object, old runtime.Object
	if is != nil {
		object = is
	}
	if before != nil {
		old = before
	}
	attr := admission.NewAttributesRecord(object, old, gvk, named.GetNamespace(), named.GetName(), gvr, "", op, nil, false, &user.DefaultInfo{Name: "somebody"})
	namespace := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: named.GetNamespace()}}
	if r.around != "" {
		namespace.Labels = map[string]string{"egressd.dev/mode": r.around}
	}
	asks := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.GetAPIGroup() == "egressd.dev" && a.GetVerb() == "set" && a.GetResource() == r.may && a.GetNamespace() == named.GetNamespace() {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
	said := ""
	for name, p := range policies {
		if !matches(p, r.group, r.resource, op) {
			continue
		}
		v := &admission.VersionedAttributes{Attributes: attr, VersionedKind: gvk, VersionedObject: admission.NewLazyObject(object), VersionedOldObject: admission.NewLazyObject(old)}
		for _, d := range compile(t, p).Validate(t.Context(), gvr, v, nil, namespace, celconfig.RuntimeCELCostBudget, asks).Decisions {
			if d.Evaluation == validating.EvalError {
				t.Errorf("%s: %s", name, d.Message)
			}
			if d.Action == validating.ActionDeny {
				said += name + ": " + d.Message
			}
		}
	}
	return said
}

// matches says whether a policy is asked.
func matches(p *admissionv1.ValidatingAdmissionPolicy, group, resource string, op admission.Operation) bool {
	for _, r := range p.Spec.MatchConstraints.ResourceRules {
		if slices.Contains(r.APIGroups, group) && (slices.Contains(r.Resources, resource) || slices.Contains(r.Resources, "*")) &&
			slices.Contains(r.Operations, admissionv1.OperationType(op)) {
			return true
		}
	}
	return false
}

// labelled is a pod or namespace with a mode; "": without the label.
func labelled(kind, mode string) string {
	text := "{apiVersion: v1, kind: " + kind + ", metadata: {name: x"
	if kind == "Pod" {
		text += ", namespace: shop"
	}
	if mode != "" {
		text += ", labels: {egressd.dev/mode: \"" + mode + "\"}"
	}
	return text + "}}"
}

// custom is an object of Istio's.
func custom(kind, namespace, annotations, spec string) string {
	return "{apiVersion: networking.istio.io/v1, kind: " + kind + ", metadata: {name: x, namespace: " + namespace + ", annotations: {" + annotations + "}}, spec: {" + spec + "}}"
}

// TestAdmission: the example policies admit what they should and nothing else, and
// nobody is denied what the role beside a policy gives.
func TestAdmission(t *testing.T) {
	policies, roles := admissions(t)
	const istio = "networking.istio.io"
	local := "exportTo: ['.']"
	configMap := func(namespace, name string) string {
		return "{apiVersion: v1, kind: ConfigMap, metadata: {name: " + name + ", namespace: " + namespace + "}}"
	}
	for _, tt := range []struct {
		name string
		r    request
		want string // the policy that denies; "": none
	}{
		{"pod without a mode", request{resource: "pods", after: labelled("Pod", "")}, ""},
		{"pod that is stricter", request{resource: "pods", after: labelled("Pod", "enforce"), around: "off"}, ""},
		{"pod as its namespace", request{resource: "pods", after: labelled("Pod", "audit"), around: "audit"}, ""},
		{"pod that opens itself", request{resource: "pods", after: labelled("Pod", "off")}, "egressd-mode"},
		{"pod that is laxer than its namespace", request{resource: "pods", after: labelled("Pod", "audit"), around: "enforce"}, "egressd-mode"},
		{"pod with no mode that there is", request{resource: "pods", after: labelled("Pod", "Off")}, "egressd-mode"},
		{"pod of one who may", request{resource: "pods", after: labelled("Pod", "off"), may: "modes"}, ""},
		{"pod of one who may something else", request{resource: "pods", after: labelled("Pod", "off"), may: "exports"}, "egressd-mode"},
		{"pod that changes otherwise", request{resource: "pods", before: labelled("Pod", "off"), after: labelled("Pod", "off")}, ""},
		{"pod that loosens itself later", request{resource: "pods", before: labelled("Pod", "enforce"), after: labelled("Pod", "off")}, "egressd-mode"},
		{"pod that drops its mode later", request{resource: "pods", before: labelled("Pod", "enforce"), after: labelled("Pod", ""), around: "off"}, "egressd-mode"},
		{"pod that locks itself later", request{resource: "pods", before: labelled("Pod", "off"), after: labelled("Pod", "enforce")}, ""},
		{"namespace without a mode", request{resource: "namespaces", after: labelled("Namespace", "")}, ""},
		{"namespace with a mode", request{resource: "namespaces", after: labelled("Namespace", "enforce")}, "egressd-mode"},
		{"namespace that drops its mode", request{resource: "namespaces", before: labelled("Namespace", "enforce"), after: labelled("Namespace", "")}, "egressd-mode"},
		{"namespace of one who may", request{resource: "namespaces", before: labelled("Namespace", ""), after: labelled("Namespace", "off"), may: "modes"}, ""},
		{"namespace that changes otherwise", request{resource: "namespaces", before: labelled("Namespace", "audit"), after: labelled("Namespace", "audit")}, ""},

		{"entry for its own namespace", request{resource: "serviceentries", group: istio, after: custom("ServiceEntry", "shop", "", local)}, ""},
		{"entry for its own namespace by name", request{resource: "serviceentries", group: istio, after: custom("ServiceEntry", "shop", "", "exportTo: [shop]")}, ""},
		{"entry for all", request{resource: "serviceentries", group: istio, after: custom("ServiceEntry", "shop", "", "exportTo: ['*']")}, "egressd-export"},
		{"entry that says nothing", request{resource: "serviceentries", group: istio, after: custom("ServiceEntry", "shop", "", "hosts: [a.example]")}, "egressd-export"},
		{"entry for nobody by an empty list", request{resource: "serviceentries", group: istio, after: custom("ServiceEntry", "shop", "", "exportTo: []")}, "egressd-export"},
		{"entry for another namespace", request{resource: "serviceentries", group: istio, after: custom("ServiceEntry", "shop", "", "exportTo: ['.', web]")}, "egressd-export"},
		{"entry for all of one who may", request{resource: "serviceentries", group: istio, after: custom("ServiceEntry", "shop", "", "exportTo: ['*']"), may: "exports"}, ""},
		{"entry that is exported later", request{resource: "serviceentries", group: istio, before: custom("ServiceEntry", "shop", "", local), after: custom("ServiceEntry", "shop", "", "hosts: []")}, "egressd-export"},
		{"rules for all", request{resource: "virtualservices", group: istio, after: custom("VirtualService", "shop", "", "")}, "egressd-export"},
		{"settings for all", request{resource: "destinationrules", group: istio, after: custom("DestinationRule", "shop", "", "")}, "egressd-export"},

		{"private addresses", request{resource: "serviceentries", group: istio, after: custom("ServiceEntry", "shop", `egressd.dev/allow-private: "true"`, local)}, "egressd-private"},
		{"private addresses of one who may", request{resource: "serviceentries", group: istio, after: custom("ServiceEntry", "shop", `egressd.dev/allow-private: "true"`, local), may: "privateaddresses"}, ""},
		{"another annotation", request{resource: "serviceentries", group: istio, after: custom("ServiceEntry", "shop", "a: b", local)}, ""},

		{"a team's Sidecar", request{resource: "sidecars", group: istio, after: custom("Sidecar", "shop", "", "egress: []")}, ""},
		{"a team's Sidecar that opens", request{resource: "sidecars", group: istio, after: custom("Sidecar", "shop", "", "outboundTrafficPolicy: {mode: ALLOW_ANY}")}, "egressd-root-namespace"},
		{"the root namespace's Sidecar", request{resource: "sidecars", group: istio, after: custom("Sidecar", "istio-system", "", "")}, "egressd-root-namespace"},
		{"the root namespace's Sidecar of one who may", request{resource: "sidecars", group: istio, after: custom("Sidecar", "istio-system", "", ""), may: "meshpolicies"}, ""},
		{"the root namespace's Sidecar is deleted", request{resource: "sidecars", group: istio, before: custom("Sidecar", "istio-system", "", "")}, "egressd-root-namespace"},
		{"a team's Sidecar is deleted", request{resource: "sidecars", group: istio, before: custom("Sidecar", "shop", "", "")}, ""},
		{"the root namespace's guard", request{resource: "authorizationpolicies", group: "security.istio.io", after: custom("AuthorizationPolicy", "istio-system", "", "")}, "egressd-root-namespace"},
		{"the mesh configuration", request{resource: "configmaps", after: configMap("istio-system", "istio")}, "egressd-root-namespace"},
		{"the mesh configuration is deleted", request{resource: "configmaps", before: configMap("istio-system", "istio")}, "egressd-root-namespace"},
		{"another ConfigMap", request{resource: "configmaps", after: configMap("istio-system", "istio-ca")}, ""},
		{"a ConfigMap elsewhere", request{resource: "configmaps", after: configMap("shop", "istio")}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			said := tt.r.decide(t, policies)
			if tt.want == "" && said != "" || tt.want != "" && !strings.HasPrefix(said, tt.want+": ") {
				t.Errorf("denied by %q, want %q", said, tt.want)
			}
			if said != "" && !strings.Contains(said, "ask who may set the resource ") {
				t.Errorf("it does not say what to do: %s", said)
			}
		})
	}
	given := map[string]bool{}
	for _, r := range roles {
		for _, rule := range r.Rules {
			if !slices.Equal(rule.APIGroups, []string{"egressd.dev"}) || !slices.Equal(rule.Verbs, []string{"set"}) {
				t.Errorf("%s: %+v", r.Name, rule)
			}
			given[rule.Resources[0]] = true
		}
	}
	for _, resource := range []string{"modes", "exports", "privateaddresses", "meshpolicies"} {
		if !given[resource] {
			t.Errorf("no role gives %s", resource)
		}
	}
}
