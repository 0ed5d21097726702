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
	"reflect"
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
// VirtualServices come oldest first: by creationTimestamp, then name and
// namespace; those without a timestamp follow in reading order.
func Load(files []File, o Options) (*policy.Config, []Finding) {
	l := newLoader(o)
	for i, f := range files {
		l.r.files[f.Name] = i
		l.source[f.Name] = f.Data
		p := &place{r: l.r, file: f.Name}
		for _, doc := range documents(f.Data, p) {
			l.document(doc, p)
		}
	}
	cfg := l.translate()
	if l.r.errors == 0 {
		l.analyze(cfg)
		l.conflicts(cfg)
	}
	if l.r.errors > 0 {
		cfg = nil
	}
	return cfg, l.r.sorted()
}

// object is one decoded object.
type object struct {
	place
	kind  string
	root  *node
	ref   policy.Ref
	meta  meta.ObjectMeta
	order int
}

// spec returns the node at path in the spec, as far as it exists.
func (o *object) spec(path ...any) *node {
	s := o.root.get("spec")
	if s == nil || s.isNull() {
		s = &node{kind: mapNode, line: o.root.line, col: o.root.col}
	}
	return s.at(path...)
}

// decoded pairs an object with its official type.
type decoded[T any] struct {
	*object
	v *T
}

// origin is a place in an object.
type origin struct {
	*place
	at *node
}

// endpoints is what headless Services with hand-written addresses still use.
//
//lint:ignore SA1019 deprecated in Kubernetes 1.33, and in wide use
type endpoints = core.Endpoints

type loader struct {
	r          *report
	namespace  string
	selector   map[string]string
	count      int
	seen       map[string]*object
	namespaces map[string]bool

	entries   []decoded[networking.ServiceEntry]
	virtuals  []decoded[networking.VirtualService]
	gateways  []decoded[networking.Gateway]
	services  []decoded[core.Service]
	endpoints []decoded[endpoints]
	slices    []decoded[discovery.EndpointSlice]

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

	httpRoutes []decoded[gatewayapi.HTTPRouteSpec]

	sidecars       []decoded[networking.Sidecar]
	authorizations []decoded[security.AuthorizationPolicy]
	workloads      []*policy.Workload
	meshes         []meshSource
	// exports are the MeshConfig's defaults for Services, VirtualServices and
	// DestinationRules.
	exports [3]*visibility
	// source has the text of the files, for what is YAML within YAML.
	source map[string][]byte
	split  map[string][][]byte

	// shortHosts holds the ServiceEntry hosts without a dot.
	shortHosts map[string]bool
}

func newLoader(o Options) *loader {
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	l := &loader{
		r:          &report{files: map[string]int{}, types: map[reflect.Type]map[string]reflect.Type{}},
		namespace:  o.Namespace,
		selector:   o.GatewaySelector,
		seen:       map[string]*object{},
		namespaces: map[string]bool{},
		shortHosts: map[string]bool{},
		origins:    map[*policy.WeightedDestination]origin{},
		source:     map[string][]byte{},
		split:      map[string][][]byte{},
	}
	l.credentials(o)
	return l
}

// document takes one document: an object, or a list of objects.
func (l *loader) document(n *node, p *place) {
	if n.isNull() {
		return
	}
	if n.kind != mapNode {
		p.errorf(n, "expected a Kubernetes object, got %s", n.what())
		return
	}
	version, kind := l.typeMeta(n, p)
	if kind == "" {
		return
	}
	if items := n.get("items"); items != nil && strings.HasSuffix(kind, "List") {
		if items.kind != listNode {
			if !items.isNull() {
				p.errorf(items, "items: expected a list, got %s", items.what())
			}
			return
		}
		for _, item := range items.items {
			l.document(item, p)
		}
		return
	}
	k, ok := l.kind(n, version, kind, p)
	if !ok {
		return
	}
	if o := l.object(n, kind, p); o != nil {
		k.take(l, o)
	}
}

// typeMeta reads apiVersion and kind; kind is "" when there is no object.
func (l *loader) typeMeta(n *node, p *place) (version, kind string) {
	v, k := n.get("apiVersion"), n.get("kind")
	switch {
	case v == nil && k == nil:
		p.warnf(n, "neither apiVersion nor kind: not a Kubernetes object, skipped")
	case v == nil || v.tag != "!!str" || v.text == "":
		p.errorf(n.at("apiVersion"), "apiVersion is missing or not a string")
	case k == nil || k.tag != "!!str" || k.text == "":
		p.errorf(n.at("kind"), "kind is missing or not a string")
	default:
		return v.text, k.text
	}
	return "", ""
}

// object reads the metadata. It returns nil after an error.
func (l *loader) object(n *node, kind string, p *place) *object {
	o := &object{place: *p, kind: kind, root: n, order: l.count}
	l.count++
	o.object = kind
	if kind == operatorKind {
		n = withOperatorName(n)
		o.root = n
	}
	if m := n.get("metadata"); m == nil || m.kind != mapNode {
		o.errorf(n, "metadata is missing or not a mapping")
		return nil
	}
	name := n.at("metadata", "name")
	if name.kind == scalarNode && name.tag == "!!str" {
		o.object = kind + " " + l.namespaceOf(n) + "/" + name.text
	}
	if !decodeGo(n.at("metadata"), &o.meta, "metadata", &o.place) {
		return nil
	}
	if o.meta.Namespace == "" {
		o.meta.Namespace = l.namespace
	}
	if !l.validName(o, name) {
		return nil
	}
	o.ref = policy.Ref{
		Kind: kind, Namespace: o.meta.Namespace, Name: o.meta.Name,
		File: p.file, Line: name.line, Column: name.col,
	}
	switch first := l.seen[o.object]; {
	case first == nil:
		l.seen[o.object] = o
	case kind == "ServiceEntry" && first.file != p.file:
		// A directory may hold alternatives that a cluster would take one
		// after the other. An allowlist can hold both.
		o.warnf(name, "the object is already defined at %s:%d:%d; both are in force here, a cluster keeps the one that was applied last",
			first.file, first.ref.Line, first.ref.Column)
	default:
		o.errorf(name, "the object is already defined at %s:%d:%d", first.file, first.ref.Line, first.ref.Column)
		return nil
	}
	l.namespaces[o.meta.Namespace] = true
	return o
}

func (l *loader) namespaceOf(n *node) string {
	if ns := n.at("metadata").get("namespace"); ns != nil && ns.kind == scalarNode && ns.text != "" {
		return ns.text
	}
	return l.namespace
}

func (l *loader) validName(o *object, name *node) bool {
	if o.meta.Name == "" {
		o.errorf(o.root.at("metadata"), "metadata.name is required")
		return false
	}
	ok := true
	if !isSubdomain(o.meta.Name) {
		o.errorf(name, "metadata.name: %q is not a DNS-1123 subdomain (lower-case letters, digits, '-' and '.')", o.meta.Name)
		ok = false
	}
	if !isLabel(o.meta.Namespace) {
		o.errorf(o.root.at("metadata", "namespace"), "metadata.namespace: %q is not a DNS-1123 label", o.meta.Namespace)
		ok = false
	}
	return ok
}

// translate builds the Config from what was decoded.
func (l *loader) translate() *policy.Config {
	for _, se := range l.entries {
		for _, h := range se.v.Hosts {
			if !strings.Contains(h, ".") {
				l.shortHosts[strings.ToLower(h)] = true
			}
		}
	}
	cfg := &policy.Config{GatewaySelector: maps.Clone(l.selector)}
	for _, se := range l.entries {
		cfg.Services = append(cfg.Services, l.serviceEntry(se))
	}
	cfg.Services = append(cfg.Services, l.kubernetesServices()...)
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
	cfg.VirtualServices = append(cfg.VirtualServices, l.gatewayRoutes(cfg.Services)...)
	l.scope(cfg)
	return cfg
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
