// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
)

// Identity is what rules can ask of a workload. The zero Identity is that of
// processes which nobody described: they are in the namespace "default" and
// have neither labels nor a service account.
type Identity struct {
	Name           string            `json:"name"`
	Namespace      string            `json:"namespace"`
	ServiceAccount string            `json:"serviceAccount,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
}

// Key is "namespace/name", which tells workloads apart.
func (id *Identity) Key() string { return id.Namespace + "/" + id.Name }

// DefaultNamespace is that of workloads and objects which name none.
const DefaultNamespace = "default"

// Workload is a set of processes with an identity, as the operator describes
// it (kind Workload of egressd.dev/v1, a file of our own).
type Workload struct {
	Ref Ref
	Identity
	// Cgroups are the cgroups whose processes the workload is, as paths below
	// the root of the cgroup v2 tree without a leading slash. In one segment
	// '*' stands for any characters; "**" as the last segment stands for
	// everything below. The most specific pattern has precedence.
	Cgroups []string
	// Containers select containers of Docker, podman and containerd: those that one
	// of them fits.
	Containers []ContainerSelector
	// Units and Slices are names of systemd's units, wherever systemd has their
	// cgroups; '*' stands for any characters.
	Units, Slices []string
	// Mode is nil for the mode of the node.
	Mode *Mode
}

// ContainerSelector says what a container runtime tells of a container. What is
// empty is not asked for; all else must fit.
type ContainerSelector struct {
	// Name is the container's; '*' stands for any characters.
	Name string
	// Image is what the container was started from, as in "docker.io/library/nginx:1.27";
	// without a tag and a digest it is any version. '*' stands for any characters but a slash.
	Image string
	// Labels are those of the container, with these values.
	Labels map[string]string
	// Runtime is docker, podman or containerd.
	Runtime string
}

// String is the selector in one line.
func (c ContainerSelector) String() string {
	labels := make([]string, 0, len(c.Labels))
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		labels = append(labels, fmt.Sprintf("%q: %q", k, c.Labels[k]))
	}
	return fmt.Sprintf("name %q image %q labels {%s} runtime %q", c.Name, c.Image, strings.Join(labels, ", "), c.Runtime)
}

// Claims are all that the workload is selected by: of equal ones of several workloads
// the first counts.
func (w *Workload) Claims() []string {
	all := slices.Clone(w.Cgroups)
	for _, c := range w.Containers {
		all = append(all, "container "+c.String())
	}
	for _, u := range w.Units {
		all = append(all, "unit "+u)
	}
	for _, s := range w.Slices {
		all = append(all, "slice "+s)
	}
	return all
}

// Visibility says to which namespaces an object is visible (exportTo). The
// zero value is what the Mesh says for objects that say nothing, which is
// everybody unless it says otherwise.
type Visibility struct {
	// Everybody: the object itself says so.
	Everybody bool

	// Limited: only Namespaces see the object; without any, nobody does.
	Limited    bool
	Namespaces []string // sorted
}

// OutboundMode says what happens to destinations that no rule names.
type OutboundMode uint8

// The outbound modes (istio.io/api mesh/v1alpha1 OutboundTrafficPolicy). The
// zero value, which denies, is the default here and not in Istio.
const (
	RegistryOnly OutboundMode = iota
	AllowAny
)

func (m OutboundMode) String() string {
	if m == AllowAny {
		return "ALLOW_ANY"
	}
	return "REGISTRY_ONLY"
}

// Mesh is what of Istio's MeshConfig acts on egress. The zero value is a node
// without one.
type Mesh struct {
	// Ref is where the MeshConfig is; its zero value says that there is none.
	Ref      Ref
	Outbound OutboundMode
	// Retries is defaultHttpRetryPolicy: for rules that say nothing of
	// retries; nil: the safe default.
	Retries *Retries
	// RootNamespace has the objects that count for every namespace; see Root.
	RootNamespace string
	// TrustDomain begins every principal: TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
	TrustDomain string
	// Topology is where gateways stand whose Gateway says nothing of it.
	Topology Topology
	// The visibility of objects without exportTo.
	DefaultServiceExport, DefaultVirtualServiceExport, DefaultDestinationRuleExport *Visibility
	// Telemetry is for whoever watches.
	Telemetry MeshTelemetry
}

// Topology is where a gateway stands (Istio's gatewayTopology).
type Topology struct {
	// TrustedProxies is how many proxies before it say in X-Forwarded-For where a
	// visitor is.
	TrustedProxies int
	// ProxyProtocol: each connection begins with a PROXY protocol header.
	ProxyProtocol bool
}

// DefaultRootNamespace is the root namespace of a mesh that names none.
const DefaultRootNamespace = "istio-system"

// Root is the root namespace: the one that is named, or Istio's default.
func (m *Mesh) Root() string { return cmp.Or(m.RootNamespace, DefaultRootNamespace) }

// Sidecar limits what the workloads of its namespace see, all of them or
// those that Selector selects (Istio Sidecar.egress). What a workload does
// not see is not open to it.
type Sidecar struct {
	Ref      Ref
	Selector map[string]string // nil: all of the namespace
	// Egress are the listeners; none at all leaves everything visible.
	Egress []SidecarEgress
	// Outbound overrides that of the Mesh; nil: it does not.
	Outbound *OutboundMode
}

// SidecarEgress is one listener of a Sidecar: the hosts on a port.
type SidecarEgress struct {
	Ref   Ref
	Port  uint16 // 0: every port that no other listener of the Sidecar has
	Hosts []SidecarHost
}

// SidecarHost is a "namespace/host" of a Sidecar.
type SidecarHost struct {
	// Namespace is a name, "*" for any, or "." for that of the workload, which
	// is not the Sidecar's where it is in the root namespace.
	Namespace string
	Host      hostname.Pattern
	// Not takes what it names out again ("~namespace/host").
	Not bool
}
