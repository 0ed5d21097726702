// SPDX-License-Identifier: Apache-2.0

package istio

import (
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	core "k8s.io/api/core/v1"
	kubenet "k8s.io/api/networking/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/analyze"
	"github.com/egressd/egressd/policy/istio/internal/authorization"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// scopeKind knows the kinds that say to whom rules apply.
func scopeKind(group, name string) (kind, bool) {
	switch group + "/" + name {
	case model.NetworkingGroup + "/Sidecar":
		return kind{group, []string{"v1", "v1beta1", "v1alpha3"}, spec(func(l *loader) *[]decoded[networking.Sidecar] { return &l.sidecars })}, true
	case securityGroup + "/AuthorizationPolicy":
		return kind{group, []string{"v1", "v1beta1"}, spec(func(l *loader) *[]decoded[security.AuthorizationPolicy] { return &l.authorizations })}, true
	case egressdGroup + "/Workload":
		return kind{group, []string{"v1"}, decodeWorkload}, true
	case egressdGroup + "/MeshConfig":
		return kind{group, []string{"v1"}, decodeMeshConfig}, true
	case operatorGroup + "/" + operatorKind:
		return kind{group, []string{"v1alpha1"}, decodeOperator}, true
	case "/" + configMapKind:
		return kind{group, []string{"v1"}, decodeConfigMap}, true
	}
	return kind{}, false
}

// isRead says whether an object of a kind that scopeKind knows has something
// for egressd in it: most ConfigMaps have not.
func isRead(group, name string, n *strictyaml.Node) bool {
	switch {
	case name == operatorKind && group == operatorGroup:
		return n.Get("spec").Field("meshConfig") != nil
	case name == configMapKind && group == "":
		return isMeshConfigMap(n) || isKubeadmConfigMap(n)
	}
	return true
}

// scope translates what says to whom rules apply.
func (l *loader) scope(cfg *policy.Config) {
	for _, d := range oldest(l.sidecars) {
		cfg.Sidecars = append(cfg.Sidecars, l.sidecar(d))
	}
	for _, d := range oldest(l.authorizations) {
		cfg.Authorizations = append(cfg.Authorizations, authorization.Translate(authorization.Object{
			Checker: d.Checker, Ref: d.ref, Annotations: d.meta.Annotations, Root: d.root, Spec: d.spec(), V: d.v,
		}))
	}
	for _, d := range l.workloadEntries {
		l.workloadEntry(d)
	}
	cfg.Workloads = l.workloads
	analyze.Workloads(l.workloads, l.written(new([]*batch)))
	cfg.Mesh = l.meshConfig()
	cfg.Cluster = l.cluster()
	clusterNames(cfg)
	l.defaultExports(cfg)
}

// clusterKind knows the kinds that say what is inside of the cluster. They
// count with Options.FindCluster.
func clusterKind(group, name string) (kind, bool) {
	switch group + "/" + name {
	case "networking.k8s.io/ServiceCIDR":
		return kind{group, []string{"v1", "v1beta1"}, whole(func(l *loader) *[]decoded[kubenet.ServiceCIDR] { return &l.serviceCIDRs })}, true
	case "/Node":
		return kind{group, []string{"v1"}, whole(func(l *loader) *[]decoded[core.Node] { return &l.nodes })}, true
	}
	return kind{}, false
}
