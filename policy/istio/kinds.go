// SPDX-License-Identifier: Apache-2.0

package istio

import (
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	telemetry "istio.io/api/telemetry/v1alpha1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	kubenet "k8s.io/api/networking/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy/istio/internal/gwapi"
	"github.com/egressd/egressd/policy/istio/internal/model"
)

// newKinds are all kinds that are known, in the order in which they are
// translated: a kind comes behind those that it needs.
func newKinds() []kind {
	all, k8s := []string{"v1", "v1beta1", "v1alpha3"}, []string{"v1"}
	both, alpha := []string{"v1", "v1beta1"}, []string{"v1", "v1alpha2", "v1alpha3"}
	return []kind{
		{group: egressdGroup, name: "MeshConfig", versions: k8s, decode: decodeMeshConfig, translate: translateMesh,
			codes: []string{"EGD0801", "EGD0802", "EGD0803", "EGD0804", "EGD085", "EGD035"}, files: []string{"meshconfig", "meshsource", "meshexport"}},
		{group: operatorGroup, name: operatorKind, versions: []string{"v1alpha1"}, has: hasMeshConfig, decode: decodeOperator,
			codes: []string{"EGD0802", "EGD0803", "EGD0804", "EGD085", "EGD035"}, files: []string{"meshsource"}},
		{name: configMapKind, versions: k8s, has: isReadConfigMap, decode: decodeConfigMap,
			codes: []string{"EGD0801", "EGD0802", "EGD0803", "EGD0804", "EGD085", "EGD035"}, files: []string{"meshsource"}},

		{group: model.NetworkingGroup, name: "WorkloadEntry", versions: all,
			decode:    spec(func(l *loader) *[]decoded[networking.WorkloadEntry] { return &l.workloadEntries }),
			translate: translateWorkloadEntries, codes: []string{"EGD0216", "EGD025"}, files: []string{"workloadentry"}},
		{group: model.NetworkingGroup, name: "ServiceEntry", versions: all, decode: decodeServiceEntry, translate: translateServiceEntries,
			codes: []string{"EGD02", "EGD0312"}, files: []string{"serviceentry", "endpoints", "selected", "addports"}},
		{name: "Service", versions: k8s, decode: whole(func(l *loader) *[]decoded[core.Service] { return &l.services }),
			translate: translateServices, codes: []string{"EGD1003", "EGD1004", "EGD105"}, files: []string{"kubernetes"}},
		// Behind Services, which have names under the cluster's domains. These kinds count
		// with Options.FindCluster.
		{group: "networking.k8s.io", name: "ServiceCIDR", versions: []string{"v1", "v1beta1"},
			decode:    whole(func(l *loader) *[]decoded[kubenet.ServiceCIDR] { return &l.serviceCIDRs }),
			translate: translateCluster, codes: []string{"EGD105"}, files: []string{"cluster"}},
		{name: "Node", versions: k8s, decode: whole(func(l *loader) *[]decoded[core.Node] { return &l.nodes }),
			codes: []string{"EGD105"}, files: []string{"cluster"}},
		{name: "Endpoints", versions: k8s, decode: whole(func(l *loader) *[]decoded[endpoints] { return &l.endpoints }),
			codes: []string{"EGD1001", "EGD1005", "EGD105"}, files: []string{"kubernetes"}},
		{group: "discovery.k8s.io", name: "EndpointSlice", versions: k8s,
			decode: whole(func(l *loader) *[]decoded[discovery.EndpointSlice] { return &l.slices }),
			codes:  []string{"EGD1002", "EGD1005", "EGD105"}, files: []string{"kubernetes"}},
		{name: "Secret", versions: k8s, decode: decodeSecret, codes: []string{"EGD0456"}, files: []string{"credential"}},
		{group: model.NetworkingGroup, name: "Gateway", versions: all,
			decode:    spec(func(l *loader) *[]decoded[networking.Gateway] { return &l.gateways }),
			translate: translateGateways, codes: []string{"EGD0112", "EGD04"}, files: []string{"gateway", "servertls", "credential"}},
		{group: model.NetworkingGroup, name: "DestinationRule", versions: all,
			decode:    spec(func(l *loader) *[]decoded[networking.DestinationRule] { return &l.rules }),
			translate: translateDestinationRules, codes: []string{"EGD05", "EGD04"},
			files: []string{"destinationrule", "internal/traffic/pool", "internal/traffic/loadbalancer", "internal/traffic/locality", "clienttls"}},
		{group: model.NetworkingGroup, name: "VirtualService", versions: all,
			decode:    spec(func(l *loader) *[]decoded[networking.VirtualService] { return &l.virtuals }),
			translate: translateVirtualServices, codes: []string{"EGD03", "EGD0414"},
			files: []string{"virtualservice", "delegate", "httproute", "httpaction", "httpmatch", "internal/requests/match", "l4route", "mirror", "internal/requests/cors"}},
		{group: model.NetworkingGroup, name: "Sidecar", versions: all,
			decode:    spec(func(l *loader) *[]decoded[networking.Sidecar] { return &l.sidecars }),
			translate: translateSidecars, codes: []string{"EGD06", "EGD04", "EGD055"}, files: []string{"sidecar", "sidecar_ingress"}},
		{group: securityGroup, name: "AuthorizationPolicy", versions: []string{"v1", "v1beta1"},
			decode:    spec(func(l *loader) *[]decoded[security.AuthorizationPolicy] { return &l.authorizations }),
			translate: translateAuthorizations, codes: []string{"EGD07", "EGD0312"},
			files: []string{"internal/authorization/authorization", "internal/authorization/operation", "internal/authorization/source"}},
		{group: egressdGroup, name: "Workload", versions: k8s, decode: decodeWorkload, translate: translateWorkloads,
			codes: []string{"EGD0805", "EGD0806", "EGD085"}, files: []string{"workload", "workloadselector"}},
		{group: telemetryGroup, name: "Telemetry", versions: []string{"v1", "v1alpha1"},
			decode:    spec(func(l *loader) *[]decoded[telemetry.Telemetry] { return &l.telemetries }),
			translate: translateTelemetries, codes: []string{"EGD0807", "EGD0808", "EGD0809", "EGD085"},
			files: []string{"telemetry", "internal/telemetry/telemetry", "internal/telemetry/metrics", "internal/telemetry/providers"}},
		// HTTPRoutes are translated when all ServiceEntries are; see Reader.routes.
		{group: gwapi.Group, name: model.HTTPRoute, versions: both, decode: decodeHTTPRoute,
			codes: []string{"EGD0905", "EGD0906", "EGD0907", "EGD0908", "EGD0909", "EGD091", "EGD0920", "EGD0921", "EGD0924", "EGD095"},
			files: []string{"kinds_gateway", "internal/gwapi/route", "internal/gwapi/parent", "internal/gwapi/attach", "internal/gwapi/rule", "internal/gwapi/match", "internal/gwapi/filter"}},
		{group: gwapi.Group, name: "Gateway", versions: both, decode: lateSpec[gateway.GatewaySpec],
			codes: []string{"EGD0903", "EGD0904", "EGD0917", "EGD0918", "EGD0923", "EGD095"}, files: []string{"kinds_gateway", "internal/gwapi/gateway"}},
		{group: gwapi.Group, name: gwapi.GRPCRoute, versions: alpha, decode: lateSpec[gateway.GRPCRouteSpec],
			codes: []string{"EGD0905", "EGD0906", "EGD0919", "EGD0920", "EGD0921", "EGD0924"}, files: []string{"kinds_gateway", "internal/gwapi/grpc"}},
		{group: gwapi.Group, name: gwapi.TLSRoute, versions: alpha, decode: lateSpec[gateway.TLSRouteSpec],
			codes: []string{"EGD0905", "EGD0906", "EGD0919", "EGD0920", "EGD0921", "EGD0924", "EGD0922", "EGD095"}, files: []string{"kinds_gateway", "internal/gwapi/l4"}},
		{group: gwapi.Group, name: gwapi.TCPRoute, versions: alpha, decode: lateSpec[gateway.TCPRouteSpec],
			codes: []string{"EGD0905", "EGD0906", "EGD0919", "EGD0920", "EGD0921", "EGD0924", "EGD0922", "EGD095"}, files: []string{"kinds_gateway", "internal/gwapi/l4"}},
		{group: gwapi.Group, name: "GatewayClass", versions: both, decode: decodeGatewayClass, files: []string{"kinds_gateway"}},
		{group: gwapi.Group, name: "ReferenceGrant", versions: append(both, "v1alpha2"), decode: decodeGrant, files: []string{"kinds_gateway", "internal/gwapi/parent"}},
		{name: namespaceKind, versions: k8s, decode: decodeNamespace, files: []string{"kinds_gateway"}},

		{group: securityGroup, name: "RequestAuthentication", inert: "egressd does not look into JSON web tokens", decode: refused, codes: []string{"EGD0005"}},
		inert(model.NetworkingGroup, "WorkloadGroup", "it is a template for WorkloadEntries that register themselves, which nothing does here"),
		inert(model.NetworkingGroup, "EnvoyFilter", "it configures Envoy, which does not run here"),
		inert(model.NetworkingGroup, "ProxyConfig", "it configures Istio's proxies"),
		inert(securityGroup, "PeerAuthentication", "it speaks about the mutual TLS of sidecars"),
		inertGateway("ListenerSet", "the listeners of a Gateway are those that it has itself"),
		inertGateway("UDPRoute", "UDP goes where the application sends it"),
		inertGateway("BackendTLSPolicy", "a DestinationRule says how TLS is originated"),
	}
}

// inert is a kind that is not acted on.
func inert(group, name, why string) kind {
	return kind{group: group, name: name, inert: why, codes: []string{"EGD0105"}, decode: func(o *object, _ *draft) {
		o.Warnf(o.root.KeyOf("kind"), "%s is not acted on yet: %s", o.kind, why)
	}}
}

// inertGateway is a kind of the Gateway API that is not acted on.
func inertGateway(name, why string) kind {
	return kind{group: gwapi.Group, name: name, inert: why, codes: []string{"EGD0901"}, decode: func(o *object, _ *draft) {
		o.Warnf(o.root.KeyOf("kind"), "%s is not acted on: %s", name, why)
	}}
}

// refused reads an object that restricts what egressd does not know.
func refused(o *object, _ *draft) {
	o.Unsupported(o.root.KeyOf("kind"), "RequestAuthentication (egressd does not look into JSON web tokens)")
}
