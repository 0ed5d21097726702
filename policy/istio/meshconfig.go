// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"slices"

	meshapi "istio.io/api/mesh/v1alpha1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// defaultTrustDomain is Istio's (istio.io/istio pkg/config/mesh).
const defaultTrustDomain = "cluster.local"

// meshSource is a MeshConfig, and where it is written: at is its node in the
// object, or in the text that the object holds.
type meshSource struct {
	decoded[meshapi.MeshConfig]
	at *strictyaml.Node
}

// meshFields are what acts on egressd.
var meshFields = []string{"outboundTrafficPolicy", "defaultHttpRetryPolicy", "rootNamespace", "trustDomain",
	"defaultConfig", "defaultServiceExportTo", "defaultVirtualServiceExportTo", "defaultDestinationRuleExportTo",
	"accessLogFile", "accessLogFormat", "accessLogEncoding", "enableTracing", "extensionProviders", "defaultProviders"}

// translateMesh translates the MeshConfig, whatever kind of object it is in.
func translateMesh(l *loader, cfg *policy.Config) {
	cfg.Mesh = l.meshConfig()
	l.remember(l.was)
}

// meshConfig translates the MeshConfig: the first that there is. What is wrong
// with the others is said as well.
func (l *loader) meshConfig() policy.Mesh {
	out := policy.Mesh{RootNamespace: policy.DefaultRootNamespace, TrustDomain: defaultTrustDomain}
	var chosen *meshSource
	for i := range l.meshes {
		m := &l.meshes[i]
		if m.foreign() {
			continue
		}
		mesh, exports := m.translate()
		if chosen != nil {
			m.Errorf(m.root.KeyOf("kind"), "there is a MeshConfig already, at %s; a node has one", chosen.ref.Position())
			continue
		}
		chosen, out, l.exports = m, mesh, exports
	}
	return out
}

// foreign says whether the MeshConfig is that of a ConfigMap outside of the
// root namespace, which is none of Istio's.
func (m *meshSource) foreign() bool {
	root := cmp.Or(m.v.RootNamespace, policy.DefaultRootNamespace)
	ns := m.root.At("metadata").Get("namespace")
	if m.kind != configMapKind || ns == nil || ns.Text == root || ns.Text == policy.DefaultRootNamespace {
		return false
	}
	m.Say(Note, m.root.KeyOf("kind"), "the ConfigMap is not in the root namespace %s, skipped", root)
	return true
}

// translate also returns the defaults of exportTo.
func (m *meshSource) translate() (policy.Mesh, [3]*visibility) {
	out := policy.Mesh{Ref: m.ref}
	m.outbound(&out)
	out.Retries = m.retries(m.at.At("defaultHttpRetryPolicy"), m.v.DefaultHttpRetryPolicy)
	out.RootNamespace = cmp.Or(m.v.RootNamespace, policy.DefaultRootNamespace)
	if !check.IsLabel(out.RootNamespace) {
		m.Errorf(m.at.At("rootNamespace"), "rootNamespace: %q is not a DNS-1123 label", out.RootNamespace)
	}
	out.TrustDomain = cmp.Or(m.v.TrustDomain, defaultTrustDomain)
	if _, err := check.FQDN(out.TrustDomain); err != nil {
		m.Errorf(m.at.At("trustDomain"), "trustDomain: %s", err)
	}
	exports := [...]*visibility{
		m.defaultExport("defaultServiceExportTo", m.v.DefaultServiceExportTo),
		m.defaultExport("defaultVirtualServiceExportTo", m.v.DefaultVirtualServiceExportTo),
		m.defaultExport("defaultDestinationRuleExportTo", m.v.DefaultDestinationRuleExportTo),
	}
	out.Topology = m.topology(m.at.At("defaultConfig", "gatewayTopology"), m.v.DefaultConfig.GetGatewayTopology())
	m.hidden()
	out.Telemetry = m.telemetry()
	for i := range m.at.Fields {
		f := &m.at.Fields[i]
		if name := strictyaml.CamelCase(f.Key); !slices.Contains(meshFields, name) && m.has(name) {
			m.Say(Note, f.Pos(), "%s does not act on egressd", f.Key)
		}
	}
	return out, exports
}

// has says whether the MeshConfig has a field: one that is unknown is an
// error already.
func (m *meshSource) has(name string) bool {
	return slices.ContainsFunc(strictyaml.ProtoNames(m.v.ProtoReflect().Descriptor()), func(n string) bool { return n == name || strictyaml.CamelCase(n) == name })
}

func (m *meshSource) outbound(out *policy.Mesh) {
	p := m.v.OutboundTrafficPolicy
	at := m.at.At("outboundTrafficPolicy")
	if p == nil {
		m.Say(Note, m.at, "no outboundTrafficPolicy: Istio's default is ALLOW_ANY, here what no rule names is denied")
		return
	}
	switch p.Mode {
	case meshapi.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY:
	case meshapi.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY, meshapi.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY_DYNAMIC_DNS:
		out.Outbound = policy.AllowAny
		m.Warnf(at.At("mode"), "outboundTrafficPolicy %s opens the node: what no rule names is allowed", p.Mode)
	default:
		m.Errorf(at.At("mode"), "outboundTrafficPolicy: mode %s is not known", p.Mode)
	}
	if p.Tls != nil {
		m.Unsupported(at.KeyOf("tls"), "outboundTrafficPolicy.tls")
	}
}

// hidden refuses what would hide services that egressd would then open.
func (m *meshSource) hidden() {
	v := m.v.ServiceEntryVisibility
	if v == nil {
		return
	}
	d := v.DefaultVisibility
	public := d == meshapi.ServiceEntryVisibility_VISIBILITY_UNSPECIFIED || d == meshapi.ServiceEntryVisibility_PUBLIC
	if !public || len(v.Policies) > 0 {
		m.Unsupported(m.at.KeyOf("serviceEntryVisibility"), "serviceEntryVisibility (write exportTo in the ServiceEntries)")
	}
}
