// SPDX-License-Identifier: Apache-2.0

package kube

import (
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	kubenet "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/egressd/egressd/policy"
)

// kind is one that is watched.
type kind struct {
	// name is the kind's, and that in the names of its files. Where two groups have a
	// kind of one name the second one's has its group behind it, as kubectl has it.
	name     string
	kind     string
	group    string
	resource string
	// versions are those that are read, the best one first, of a kind that a
	// CustomResourceDefinition defines; nil: the kind is built in.
	versions []string
	// namespace and object are all that is watched; "": all.
	namespace, object string
	// optional says that egressd does without the kind if it may not read it, or the
	// API server does not have it: its objects open something and close nothing.
	optional bool
	render   func(*table, any) *object
}

// defined says whether a CustomResourceDefinition defines the kind.
func (k kind) defined() bool { return k.versions != nil }

// definition is the name of that.
func (k kind) definition() string { return k.resource + "." + k.group }

func (k kind) version(v string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.group, Version: v, Resource: k.resource}
}

const (
	networkingGroup = "networking.istio.io"
	securityGroup   = "security.istio.io"
	gatewayGroup    = "gateway.networking.k8s.io"

	podKind       = "Pod"
	namespaceKind = "Namespace"
	gatewayKind   = "Gateway"
	ruleKind      = "DestinationRule"
	// gatewayAPIKind is the Gateway API's Gateway.
	gatewayAPIKind = gatewayKind + "." + gatewayGroup
)

// clusterKinds say what is inside of the cluster: the networks of its Services, of
// this node's Pods, and what kubeadm made the cluster with.
func clusterKinds(node string) []kind {
	return []kind{
		{name: "ServiceCIDR", kind: "ServiceCIDR", group: kubenet.GroupName, resource: "servicecidrs", optional: true, render: renderServiceCIDR},
		{name: "Node", kind: "Node", resource: "nodes", object: node, optional: true, render: renderNode},
		{name: "ConfigMap.kubeadm", kind: "ConfigMap", resource: "configmaps", namespace: "kube-system", object: "kubeadm-config", optional: true, render: renderKubeadm},
	}
}

// kinds are all others that are watched, but Secrets, of which single ones are.
func kinds() []kind {
	all := []kind{
		{name: "Service", kind: "Service", resource: "services", render: renderService},
		{name: "EndpointSlice", kind: "EndpointSlice", group: discovery.GroupName, resource: "endpointslices", render: renderSlice},
		{name: namespaceKind, kind: namespaceKind, resource: "namespaces", render: renderNamespace},
		{name: "ConfigMap", kind: "ConfigMap", resource: "configmaps", namespace: policy.DefaultRootNamespace, object: "istio", render: renderConfigMap},
		{name: podKind, kind: podKind, resource: "pods", render: renderPod},
	}
	add := func(group, kindName, resource string, versions ...string) {
		k := kind{name: kindName, kind: kindName, group: group, resource: resource, versions: versions, render: renderCustom}
		if group == gatewayGroup && kindName == gatewayKind {
			k.name = gatewayAPIKind
		}
		// An HTTPRoute may be a rule of a ServiceEntry, which restricts it.
		k.optional = group == gatewayGroup && kindName != "HTTPRoute"
		all = append(all, k)
	}
	for _, k := range [][2]string{
		{"ServiceEntry", "serviceentries"}, {"VirtualService", "virtualservices"}, {gatewayKind, "gateways"},
		{ruleKind, "destinationrules"}, {"Sidecar", "sidecars"}, {"WorkloadEntry", "workloadentries"},
	} {
		add(networkingGroup, k[0], k[1], "v1", "v1beta1", "v1alpha3")
	}
	add(securityGroup, "AuthorizationPolicy", "authorizationpolicies", "v1", "v1beta1")
	add(gatewayGroup, "HTTPRoute", "httproutes", "v1", "v1beta1")
	add(gatewayGroup, gatewayKind, "gateways", "v1", "v1beta1")
	add(gatewayGroup, "GatewayClass", "gatewayclasses", "v1", "v1beta1")
	add(gatewayGroup, "ReferenceGrant", "referencegrants", "v1", "v1beta1")
	add(gatewayGroup, "GRPCRoute", "grpcroutes", "v1")
	add(gatewayGroup, "TLSRoute", "tlsroutes", "v1", "v1alpha3", "v1alpha2")
	add(gatewayGroup, "TCPRoute", "tcproutes", "v1", "v1alpha2")
	return all
}

// secretKind is of the Secrets that objects name.
func secretKind(namespace, name string) kind {
	return kind{name: "Secret", kind: "Secret", resource: "secrets", namespace: namespace, object: name, render: renderSecret}
}

// apiVersion is that of a built-in kind.
func (k kind) apiVersion() string {
	if k.group == "" {
		return core.SchemeGroupVersion.Version
	}
	return k.group + "/v1"
}
