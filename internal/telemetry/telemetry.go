// SPDX-License-Identifier: Apache-2.0

// Package telemetry says what Istio's Telemetry objects want of the access log, the
// metrics and the trace of a flow: which of them are for it, and what they say together
// (istio.io/istio pilot/pkg/model, telemetry.go).
package telemetry

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/egressd/egressd/internal/expression"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// maxKept bounds the answers that are kept for flows to come.
const maxKept = 4096

// Defaults are what counts where no Telemetry says otherwise.
type Defaults struct {
	// Logs are the providers of the access log that act; none: there is no log.
	Logs []string
	// Trace is the provider of traces; "": spans go where the command line or
	// defaultConfig of the MeshConfig has it, if Traced says that one of them does.
	Trace  string
	Traced bool
	// Tracers are the providers that have a collector of their own. OneTracer: the
	// command line names a collector, which takes the spans of all.
	Tracers   []string
	OneTracer bool
	// Percent is how many requests of which nobody has decided are traced.
	Percent float64
}

// DefaultsOf are those of a MeshConfig, without a command line.
func DefaultsOf(m policy.MeshTelemetry) Defaults {
	d := Defaults{Logs: m.DefaultLogs, Trace: m.DefaultTrace, Traced: m.Zipkin != "", Percent: m.TraceSampling}
	if len(d.Logs) == 0 && m.AccessLogFile != "" {
		d.Logs = []string{BuiltIn}
	}
	for _, p := range m.TraceProviders {
		d.Tracers = append(d.Tracers, p.Name)
	}
	return d
}

// BuiltIn is Istio's provider for what accessLogFile or a flag turns on.
const BuiltIn = "envoy"

// Tracer says to which provider's collector spans of a provider go, "" for the one that is
// nobody's own, and whether there is one.
func (d *Defaults) Tracer(provider string) (string, bool) {
	if provider == "" {
		provider = d.Trace
	}
	if !d.OneTracer && slices.Contains(d.Tracers, provider) {
		return provider, true
	}
	return "", d.Traced || d.OneTracer
}

// Rulebook has all Telemetry objects of a snapshot. It is safe for concurrent use; nil:
// there are none.
type Rulebook struct {
	defaults Defaults
	objects  []*policy.Telemetry
	root     string
	gateway  map[string]string // its labels
	identity func(workload string) (policy.Identity, bool)
	targets  map[target]bool
	servers  []server                          // of Gateways that are targets
	programs map[string]*expression.Expression // by text; nil: it has no value

	mu   sync.RWMutex
	kept map[whose]*FlowRules
}

// target is what objects name.
type target struct{ kind, namespace, name string }

// gatewayKind is that of Istio's Gateways and of the Gateway API's.
const gatewayKind = "Gateway"

// server is one of a Gateway.
type server struct {
	of    target
	bind  netip.Addr // invalid: all
	port  uint16
	unix  string
	hosts []hostname.Pattern
}

// whose is all by which rules are found.
type whose struct {
	gateway  bool
	workload string
	to, via  target
}

// New makes the Rulebook of a snapshot. identity is that of a workload.
func New(s *policy.Snapshot, d Defaults, identity func(string) (policy.Identity, bool)) *Rulebook {
	objects := s.Telemetries()
	if len(objects) == 0 {
		return nil
	}
	b := &Rulebook{
		defaults: d, objects: objects, root: s.RootNamespace(), gateway: s.GatewayLabels(), identity: identity,
		targets: map[target]bool{}, programs: map[string]*expression.Expression{}, kept: map[whose]*FlowRules{},
	}
	for _, o := range objects {
		for _, t := range o.Targets {
			b.targets[target{t.Kind, o.Ref.Namespace, t.Name}] = true
		}
		for _, l := range o.Logs {
			if l.Filter != "" {
				b.programs[l.Filter], _, _ = expression.Condition(l.Filter) // it was checked
			}
		}
		for _, m := range o.Metrics {
			for _, v := range m.Tags {
				if v != "" {
					b.programs[v], _, _ = expression.Value(v)
				}
			}
		}
	}
	for _, l := range s.Listeners() {
		for _, x := range l.Servers {
			b.servers = append(b.servers, server{target{gatewayKind, x.Ref.Namespace, x.Ref.Name}, l.Bind, l.Port, l.Unix, x.Hosts})
		}
	}
	if !slices.ContainsFunc(b.servers, func(s server) bool { return b.targets[s.of] }) {
		b.servers = nil
	}
	return b
}

// Scope is what rules are found by: who sends, through which part of egressd, and to what;
// nil: that is not known.
type Scope struct {
	Layer    flow.Layer
	Workload string
	To       *policy.Ref
	// Via is the Gateway that a visitor came by; nil: the one that At or Socket, where it
	// came to, and Host, what it asked for, lead to.
	Via    *policy.Ref
	At     netip.AddrPort
	Socket string
	Host   string
}

// Of is the flow of an observation.
func Of(o *flow.Observation) Scope {
	f := Scope{Layer: o.Layer, Workload: o.Workload, At: o.Dst, Socket: o.Socket, Host: o.Authority}
	if f.Host == "" {
		f.Host = o.Name
	}
	switch {
	case o.To != nil:
		f.To = o.To.Rule
	case o.Host != nil:
		f.To = o.Host.Rule
	}
	return f
}

// Rules are those of a flow. They are immutable.
func (b *Rulebook) Rules(f Scope) *FlowRules {
	k := whose{gateway: f.Layer == flow.Ingress, workload: f.Workload}
	if f.To != nil {
		if t := (target{f.To.Kind, f.To.Namespace, f.To.Name}); b.targets[t] {
			k.to = t
		}
	}
	if f.Via != nil {
		k.via = target{f.Via.Kind, f.Via.Namespace, f.Via.Name}
	} else if k.gateway && b.servers != nil {
		k.via = b.via(f)
	}
	b.mu.RLock()
	r := b.kept[k]
	b.mu.RUnlock()
	if r != nil {
		return r
	}
	r = b.merge(b.acting(k))
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept) >= maxKept {
		clear(b.kept)
	}
	b.kept[k] = r
	return r
}

// via is the Gateway that a visitor came by: of those on the port the one whose host is
// the nearest to what the visitor asked for, or else the first.
func (b *Rulebook) via(f Scope) (found target) {
	host := f.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	var best hostname.Pattern
	for i := range b.servers {
		s := &b.servers[i]
		if s.unix != f.Socket || f.Socket == "" && (s.port != f.At.Port() || s.bind.IsValid() && !s.bind.IsUnspecified() && s.bind != f.At.Addr().Unmap()) {
			continue
		}
		if found == (target{}) {
			found = s.of
		}
		for _, h := range s.hosts {
			if h.Matches(host) && (best == "" || best.IsWildcard() && (!h.IsWildcard() || len(h) > len(best))) {
				best, found = h, s.of
			}
		}
	}
	return found
}

// acting are the objects that are for a flow, the farthest first: of the mesh, of the
// namespace, and those that select the workload or name where the flow goes or came by.
// Of the mesh and of the namespace the oldest has its way; of the others the youngest
// counts last.
func (b *Rulebook) acting(k whose) (out []*policy.Telemetry) {
	id := policy.Identity{Namespace: policy.DefaultNamespace}
	if k.gateway {
		id = policy.Identity{Namespace: b.root, Labels: b.gateway}
	} else if known, ok := b.identity(k.workload); ok {
		id = known
	}
	var mesh, namespace *policy.Telemetry
	var selected, named []*policy.Telemetry
	for _, o := range b.objects {
		switch ns := o.Ref.Namespace; {
		case len(o.Targets) > 0:
			if slices.ContainsFunc(o.Targets, func(t policy.TelemetryTarget) bool {
				x := target{t.Kind, ns, t.Name}
				return x == k.to || x == k.via
			}) {
				named = append(named, o)
			}
		case o.Selector != nil:
			if ns == id.Namespace && has(id.Labels, o.Selector) {
				selected = append(selected, o)
			}
		case ns == b.root && mesh == nil:
			mesh = o
		case ns == id.Namespace && ns != b.root && namespace == nil:
			namespace = o
		}
	}
	for _, o := range []*policy.Telemetry{mesh, namespace} {
		if o != nil {
			out = append(out, o)
		}
	}
	return slices.Concat(out, selected, named)
}

// has says whether labels have all of a selector.
func has(labels, selector map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
