// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"time"

	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	telemetry "istio.io/api/telemetry/v1alpha1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	kubenet "k8s.io/api/networking/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// ObjectPrefix begins the names of Files that are objects of an API server.
const ObjectPrefix = "kubernetes:"

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
	// Cluster is what the node's operator says of the cluster that the node is
	// part of.
	Cluster policy.Cluster
	// FindCluster adds to it what ServiceCIDRs, Nodes and kubeadm's ConfigMap
	// among the files say. Who may write these says what every workload reaches.
	FindCluster bool
	// Namespace is that of objects that name none; "" means "default".
	Namespace string
	// Now is when certificates must be valid; its zero value means now.
	Now time.Time
	// ReadFile reads the certificates that objects name, to check them; nil
	// reads files.
	ReadFile func(name string) ([]byte, error)
}

type loader struct {
	kinds      *kindTable
	was        *loader // the one before; nil: none
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
	origins map[*policy.WeightedDestination]strictyaml.Passage
	// written are the origins of the object that is being translated.
	written []origin

	delegates map[string]*delegateVS // by namespace/name
	merged    int                    // matches that delegation made

	secrets  map[string]secret // by namespace/name
	now      time.Time
	readFile func(string) ([]byte, error)
	// outside says that something was looked at that is in none of the files:
	// the clock, a certificate.
	outside bool
	// leans says that the object which is being translated needed another one,
	// or something outside.
	leans bool
	age   int // see translation

	api gatewayAPI

	sidecars       []decoded[networking.Sidecar]
	authorizations []decoded[security.AuthorizationPolicy]
	telemetries    []decoded[telemetry.Telemetry]
	workloads      []*policy.Workload
	// inside and findCluster are of the Options; the objects are those that
	// say what is inside of the cluster.
	inside       policy.Cluster
	findCluster  bool
	serviceCIDRs []decoded[kubenet.ServiceCIDR]
	nodes        []decoded[core.Node]
	kubeadm      []kubeadm
	meshes       []meshSource
	// exports are the MeshConfig's defaults for Services, VirtualServices and
	// DestinationRules.
	exports [3]*visibility
	// shortHosts holds the ServiceEntry hosts without a dot.
	shortHosts map[string]bool
}

// newReport makes a report about objects of the kinds that are read here.
func newReport(t strictyaml.Types) *strictyaml.Report {
	return &strictyaml.Report{Hint: check.ValueHint, ProtoNamed: isProtoNamed, Types: t, Code: code.Of}
}

// isProtoNamed knows the one field that the schemas of Istio's kinds have in
// the spelling of the .proto file.
func isProtoNamed(key string) bool { return key == "mirror_percent" }

func newLoader(o Options, kinds *kindTable) *loader {
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	l := &loader{
		kinds:     kinds,
		r:         newReport(strictyaml.Types{}),
		namespace: o.Namespace,
		selector:  o.GatewaySelector,
		allowed:   o.AllowEndpoints,
		inside:    o.Cluster, findCluster: o.FindCluster,
		seen:       map[string]*object{},
		shortHosts: map[string]bool{},
		origins:    map[*policy.WeightedDestination]strictyaml.Passage{},
		api:        newGatewayAPI(),
	}
	l.credentials(o)
	return l
}

// objectOf finds the object that a part of the Config came from.
func (l *loader) objectOf(ref policy.Ref) *object {
	name := ref.Kind + " " + ref.Namespace + "/" + ref.Name
	if o := l.seen[name]; o == nil || o.File == ref.File {
		return o
	}
	for _, o := range l.twice[name] { // only ServiceEntries are in force twice
		if o.ref == ref {
			return o
		}
	}
	return nil
}
