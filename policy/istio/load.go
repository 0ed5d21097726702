// SPDX-License-Identifier: Apache-2.0

// Package istio reads Istio and Kubernetes objects from YAML and translates
// them into the policy package's Config.
//
// Nothing is dropped in silence: what is wrong is an error, what restricts or
// redirects traffic and is not implemented is an error too, what only
// decorates is a warning, and what is none of our business is a note. All
// findings of all files come at once, each with its line and column.
package istio

import (
	"maps"
	"slices"
	"strings"
	"time"

	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayapi "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// File is a YAML or JSON file: its name for findings, and its content.
type File struct {
	Name string
	Data []byte
}

// Options of Load.
type Options struct {
	// GatewaySelector holds the labels that this node's gateway carries.
	GatewaySelector map[string]string
	// AllowEndpoints are the node-local endpoints that the node's operator lets
	// the policy lead to.
	AllowEndpoints []policy.AllowedEndpoint
	// Namespace is that of objects that name none; "" means "default".
	Namespace string
	// Now is when certificates must be valid; its zero value means now.
	Now time.Time
	// ReadFile reads the certificates that objects name, to check them; nil
	// reads files.
	ReadFile func(name string) ([]byte, error)
}

// Load translates files. The Config is nil when any finding is an Error.
// Findings are in reading order: by file as given, then by line.
//
// VirtualServices, DestinationRules and Gateways come oldest first: by creationTimestamp, then name and
// namespace; those without a timestamp follow in reading order.
func Load(files []File, o Options) (*policy.Config, []Finding) {
	r := NewReader(o)
	cfg, findings := r.Load(files)
	if cfg == nil {
		return nil, findings
	}
	return cfg, r.l.r.Sorted(slices.Concat(findings, r.Analyze()))
}

// object is one decoded object.
type object struct {
	strictyaml.Reporter
	kind  string
	batch *batch // that it was read in
	// root and meta are nil in ServiceEntries that have been translated; see
	// batch.restore.
	root  *strictyaml.Node
	meta  *meta.ObjectMeta
	ref   policy.Ref
	order int
}

// spec returns the node at path in the spec, as far as it exists.
func (o *object) spec(path ...any) *strictyaml.Node {
	s := o.root.Get("spec")
	if s == nil || s.IsNull() {
		s = &strictyaml.Node{Kind: strictyaml.Mapping, Line: o.root.Line, Col: o.root.Col}
	}
	return s.At(path...)
}

// decoded pairs an object with its official type.
type decoded[T any] struct {
	*object
	v *T
}

// origin is a place in an object.
type origin struct {
	*strictyaml.Reporter
	at *strictyaml.Node
}

// endpoints is what headless Services with hand-written addresses still use.
//
//lint:ignore SA1019 deprecated in Kubernetes 1.33, and in wide use
type endpoints = core.Endpoints

type loader struct {
	r          *strictyaml.Report
	namespace  string
	selector   map[string]string
	allowed    []policy.AllowedEndpoint
	count      int
	seen       map[string]*object // by object.object
	twice      map[string][]*object
	namespaces map[string]bool // for the analysis

	// entries are the ServiceEntries that need other objects, and dependent
	// what they become.
	entries   []decoded[networking.ServiceEntry]
	dependent []*policy.Service
	// kubernetes are the translated Kubernetes Services.
	kubernetes []*policy.Service
	virtuals   []decoded[networking.VirtualService]
	gateways   []decoded[networking.Gateway]
	services   []decoded[core.Service]
	endpoints  []decoded[endpoints]
	slices     []decoded[discovery.EndpointSlice]

	workloadEntries []decoded[networking.WorkloadEntry]
	byLabel         *workloadIndex // of the workloadEntries
	rules           []decoded[networking.DestinationRule]
	// origins is where the destinations of routes are written: what is
	// delegated is in another object.
	origins map[*policy.WeightedDestination]origin

	delegates map[string]*delegateVS // by namespace/name
	merged    int                    // matches that delegation made

	secrets  map[string]secret // by namespace/name
	now      time.Time
	readFile func(string) ([]byte, error)
	// outside says that something was looked at that is in none of the files:
	// the clock, a certificate.
	outside bool

	httpRoutes []decoded[gatewayapi.HTTPRouteSpec]

	sidecars       []decoded[networking.Sidecar]
	authorizations []decoded[security.AuthorizationPolicy]
	workloads      []*policy.Workload
	meshes         []meshSource
	// exports are the MeshConfig's defaults for Services, VirtualServices and
	// DestinationRules.
	exports [3]*visibility
	// shortHosts holds the ServiceEntry hosts without a dot.
	shortHosts map[string]bool
}

// newReport makes a report about objects of the kinds that are read here.
func newReport(t strictyaml.Types) *strictyaml.Report {
	return &strictyaml.Report{Hint: valueHint, ProtoNamed: isProtoNamed, Types: t}
}

func newLoader(o Options) *loader {
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	l := &loader{
		r:          newReport(strictyaml.Types{}),
		namespace:  o.Namespace,
		selector:   o.GatewaySelector,
		allowed:    o.AllowEndpoints,
		seen:       map[string]*object{},
		shortHosts: map[string]bool{},
		origins:    map[*policy.WeightedDestination]origin{},
	}
	l.credentials(o)
	return l
}

// translate builds the Config from what was decoded, but for the ServiceEntries
// that need no other object.
func (l *loader) translate() *policy.Config {
	cfg := &policy.Config{GatewaySelector: maps.Clone(l.selector), AllowedEndpoints: l.allowed}
	for _, se := range l.entries {
		l.dependent = append(l.dependent, l.serviceEntry(se))
	}
	cfg.Services = l.kubernetesServices()
	slices.SortStableFunc(l.gateways, oldestFirst[networking.Gateway])
	for _, gw := range l.gateways {
		cfg.Gateways = append(cfg.Gateways, l.gateway(gw))
	}
	slices.SortStableFunc(l.rules, oldestFirst[networking.DestinationRule])
	for _, dr := range l.rules {
		cfg.DestinationRules = append(cfg.DestinationRules, l.destinationRule(dr))
	}
	slices.SortStableFunc(l.virtuals, oldestFirst[networking.VirtualService])
	l.readDelegates()
	for _, vs := range l.virtuals {
		cfg.VirtualServices = append(cfg.VirtualServices, l.virtualService(vs))
	}
	l.unusedDelegates()
	l.scope(cfg)
	return cfg
}

// created is when an object was made, in seconds since 1970; 0 when it does
// not say.
func created(m *meta.ObjectMeta) int64 {
	if m.CreationTimestamp.IsZero() {
		return 0
	}
	return m.CreationTimestamp.Unix()
}

// oldestFirst orders objects as Istio gives them precedence.
func oldestFirst[T any](a, b decoded[T]) int {
	at, bt := a.meta.CreationTimestamp, b.meta.CreationTimestamp
	switch {
	case at.IsZero() && bt.IsZero():
		return a.order - b.order
	case at.IsZero():
		return 1
	case bt.IsZero():
		return -1
	}
	if c := at.Compare(bt.Time); c != 0 {
		return c
	}
	if c := strings.Compare(a.meta.Name, b.meta.Name); c != 0 {
		return c
	}
	return strings.Compare(a.meta.Namespace, b.meta.Namespace)
}
