// SPDX-License-Identifier: Apache-2.0

// Package telemetry translates Telemetry objects.
package telemetry

import (
	"maps"
	"slices"
	"strings"

	telemetry "istio.io/api/telemetry/v1alpha1"
	selectors "istio.io/api/type/v1beta1"

	"github.com/egressd/egressd/internal/expression"
	"github.com/egressd/egressd/internal/logformat"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// Input is a Telemetry as it was read.
type Input struct {
	check.Checker
	Ref       policy.Ref
	Spec      *strictyaml.Node
	V         *telemetry.Telemetry
	Providers Providers
}

// translation is that of one Telemetry.
type translation struct {
	Input
	out *policy.Telemetry
}

// Translate translates a Telemetry, and says what is wrong with it; nil: it is for
// nothing that there is here.
func Translate(o Input) *policy.Telemetry {
	t := translation{o, &policy.Telemetry{Ref: o.Ref}}
	acts := t.scope()
	for i, l := range o.V.AccessLogging {
		t.log(t.Spec.At("accessLogging", i), l)
	}
	for i, x := range o.V.Tracing {
		t.tracing(t.Spec.At("tracing", i), x)
	}
	for i, m := range o.V.Metrics {
		t.metrics(t.Spec.At("metrics", i), m)
	}
	if !acts {
		return nil
	}
	return t.out
}

// inert says that what is written does nothing here, and why.
func (t *translation) inert(at *strictyaml.Node, what, why string) {
	t.Warnf(at, "%s does not act on egressd: %s", what, why)
}

// scope says whether the object is for anything.
func (t *translation) scope() bool {
	set := 0
	for _, is := range [...]bool{t.V.Selector != nil, t.V.TargetRef != nil, t.Spec.Has("targetRefs")} {
		if is {
			set++
		}
	}
	if set > 1 {
		t.Errorf(t.Spec, "only one of targetRefs or selector can be set")
	}
	if s := t.V.Selector; s != nil {
		t.Selector(t.Spec.At("selector", "matchLabels"), s.MatchLabels, check.NoLabels)
		if len(s.MatchLabels) > 0 {
			t.out.Selector = s.MatchLabels
		}
	}
	if t.V.TargetRef != nil {
		t.target(t.Spec.At("targetRef"), t.V.TargetRef)
	}
	for i, r := range t.V.TargetRefs {
		t.target(t.Spec.At("targetRefs", i), r)
	}
	return t.V.TargetRef == nil && len(t.V.TargetRefs) == 0 || len(t.out.Targets) > 0
}

// Groups of what targetRefs name.
const gatewayGroup = "gateway.networking.k8s.io"

func (t *translation) target(at *strictyaml.Node, r *selectors.PolicyTargetReference) {
	is := func(kind string, groups ...string) bool { return r.Kind == kind && slices.Contains(groups, r.Group) }
	switch {
	case r.Name == "":
		t.Errorf(at, "%s: name is required", "targetRefs")
	case r.Namespace != "" && r.Namespace != t.Ref.Namespace:
		t.inert(at.At("namespace"), "a targetRef to another namespace", "write the Telemetry in the namespace of what it names, without namespace here")
	case is("ServiceEntry", model.NetworkingGroup), is("Service", "", "core"), is("Gateway", gatewayGroup, model.NetworkingGroup):
		t.out.Targets = append(t.out.Targets, policy.TelemetryTarget{Kind: r.Kind, Name: r.Name})
	case is("GatewayClass", gatewayGroup):
		t.inert(at, "a targetRef to a GatewayClass", "there are no waypoints here; without targetRefs the Telemetry of the root namespace is for all that leaves")
	default:
		what := r.Kind
		if r.Group != "" {
			what += " of " + r.Group
		}
		t.inert(at, "a targetRef to a "+what, "there are kind: ServiceEntry with group: networking.istio.io, kind: Service with group: core, and kind: Gateway with group: gateway.networking.k8s.io or networking.istio.io")
	}
}

// outgoing says whether a mode is for what leaves: egressd is at the client's side.
func (t *translation) outgoing(at *strictyaml.Node, mode telemetry.WorkloadMode) bool {
	if mode == telemetry.WorkloadMode_SERVER {
		t.inert(at.At("match", "mode"), "mode SERVER", "Istio counts what leaves a workload and what passes a gateway as CLIENT, and egressd sees nothing else; the item is left out: write CLIENT, or no mode")
		return false
	}
	return true
}

// providers are those of a list that are here; ok is false when there are others alone.
func (t *translation) providers(at *strictyaml.Node, list []*telemetry.ProviderRef, signal string) (out []string, ok bool) {
	for i, p := range list {
		n := at.At("providers", i, "name")
		switch {
		case p.Name == "":
			t.Errorf(at.At("providers", i), "%s: name is required", "providers")
		case t.Providers.find(signal, p.Name) != "":
			out = append(out, t.Providers.find(signal, p.Name))
		default:
			t.Warnf(n, "there is no provider %q for %s, and what is said of it does nothing; there are %s", p.Name, words[signal], strings.Join(t.Providers.names(signal), ", "))
		}
	}
	return out, len(list) == 0 || len(out) > 0
}

func (t *translation) log(at *strictyaml.Node, l *telemetry.AccessLogging) {
	if !t.outgoing(at, l.GetMatch().GetMode()) {
		return
	}
	names, ok := t.providers(at, l.Providers, Logs)
	if !ok {
		return
	}
	out := policy.TelemetryLog{Providers: names, Disabled: l.GetDisabled().GetValue()}
	if text := l.GetFilter().GetExpression(); text != "" {
		n := at.At("filter", "expression")
		_, unknown, err := expression.Condition(text)
		switch {
		case err != nil:
			t.Errorf(n, "the expression cannot be read: %s", err)
		case len(unknown) > 0:
			t.Warnf(n, "nothing is known here of %s: %s", strings.Join(unknown, ", "), "the filter is left out, so that no line is missing")
		default:
			out.Filter = text
		}
	} else if l.Filter != nil {
		t.Errorf(at.At("filter"), "%s: name is required", "expression")
	}
	t.out.Logs = append(t.out.Logs, out)
}

func (t *translation) tracing(at *strictyaml.Node, x *telemetry.Tracing) {
	if !t.outgoing(at, x.GetMatch().GetMode()) {
		return
	}
	names, ok := t.providers(at, x.Providers, Traces)
	if !ok {
		return
	}
	var out policy.TelemetryTrace
	if len(names) > 0 {
		out.Provider = names[0]
	}
	if len(names) > 1 {
		t.inert(at.At("providers", 1), "a second provider of traces", "spans go to the first, "+names[0]+", as in Istio")
	}
	if p := x.RandomSamplingPercentage; p != nil {
		if v := p.Value; !(v >= 0 && v <= 100) {
			t.Errorf(at.At("randomSamplingPercentage"), "randomSamplingPercentage: %v is not in percent, 0 to 100", v)
		}
		out.Sampling = &p.Value
	}
	if d := x.DisableSpanReporting; d != nil {
		out.Disabled = &d.Value
	}
	if d := x.DisableContextPropagation; d != nil {
		out.NoContext = &d.Value
	}
	if x.CustomTags != nil {
		out.Tags = map[string]policy.TelemetryTag{} // in the place of those above, whatever is known of them
	}
	for _, key := range []string{"useRequestIdForTraceSampling", "enableIstioTags"} {
		if at.Has(key) {
			t.inert(at.KeyOf(key), key, "sampling goes by the trace's identifier and by what the request says of its trace, which goes on; spans have egressd's attributes")
		}
	}
	tags := strictyaml.EntriesOf(at.At("customTags"))
	for _, name := range slices.Sorted(maps.Keys(x.CustomTags)) {
		if tag, ok := t.tag(tags.At(name), name, x.CustomTags[name]); ok {
			out.Tags[name] = tag
		}
	}
	t.out.Traces = append(t.out.Traces, out)
}

// credentials are fields whose values no span shows.
var credentials = []string{"authorization", "cookie", "proxy-authorization", "set-cookie"}

func (t *translation) tag(at *strictyaml.Node, name string, v *telemetry.Tracing_CustomTag) (policy.TelemetryTag, bool) {
	if l := v.GetLiteral(); l != nil {
		return policy.TelemetryTag{Value: l.Value}, true
	}
	if e := v.GetEnvironment(); e != nil {
		t.inert(at, "a customTag from the environment", "the daemon's is not a workload's, and may have secrets; the default value is used")
		return policy.TelemetryTag{Value: e.DefaultValue}, e.DefaultValue != ""
	}
	if f := v.GetFormatter(); f != nil {
		if _, err := logformat.Text(f.Value); err != nil {
			t.Errorf(at, "customTag %s: %s", name, err)
		}
		return policy.TelemetryTag{Format: f.Value}, true
	}
	h := v.GetHeader()
	switch {
	case h == nil:
		t.inert(at, "customTag "+name, "literal, header and formatter can be written")
		return policy.TelemetryTag{}, false
	case h.Name == "":
		t.Errorf(at, "%s: name is required", "header")
	case slices.Contains(credentials, strings.ToLower(h.Name)):
		t.inert(at, "a customTag from the field "+h.Name, "it has credentials, which no span shows; the tag is left out")
		return policy.TelemetryTag{}, false
	}
	return policy.TelemetryTag{Header: h.Name, Value: h.DefaultValue}, true
}
