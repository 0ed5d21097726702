// SPDX-License-Identifier: Apache-2.0

package gwapi

import (
	"slices"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// terminates reads where the certificates of a listener are whose TLS ends at it. One
// that it may not have, or that is none, leaves the listener without any: its
// connections are denied.
func (l *listener) terminates(out *policy.GatewayServer, granted func(namespace, secret string) bool) (kinds []string, ok bool) {
	g, in := l.gateway, l.in
	out.Protocol, kinds = policy.ProtocolHTTPS, []string{"HTTPRoute", "GRPCRoute"}
	if in.Protocol == gateway.TLSProtocolType {
		out.Protocol, kinds = policy.ProtocolTLS, []string{TCPRoute, TLSRoute}
	}
	out.TLS = &policy.ServerTLS{Mode: policy.ServerSimple}
	at := l.at.At("tls", "certificateRefs")
	if in.TLS == nil || len(in.TLS.CertificateRefs) == 0 {
		l.uncertified(l.at, "tls.certificateRefs names none")
		return kinds, true
	}
	var names []string
	for i, ref := range in.TLS.CertificateRefs {
		ns := string(value(ref.Namespace, gateway.Namespace(g.Ref.Namespace)))
		switch {
		case value(ref.Group, "") != "" || value(ref.Kind, "Secret") != "Secret":
			l.uncertified(at.At(i), "a certificate is in a Secret")
			return kinds, true
		case !granted(ns, string(ref.Name)):
			l.uncertified(at.At(i), "no ReferenceGrant of namespace "+ns+" lets it have the Secret "+string(ref.Name))
			return kinds, true
		}
		names = append(names, "kubernetes-gateway://"+ns+"/"+string(ref.Name))
	}
	out.TLS.CredentialNames = names
	if len(in.TLS.Options) > 0 {
		g.Inert(l.at.At("tls").KeyOf("options"), "options of a listener's tls")
	}
	return kinds, true
}

// uncertified says that a listener has no certificate.
func (l *listener) uncertified(at *strictyaml.Node, why string) {
	l.gateway.Warnf(at, "listener %s has no certificate, and its connections are denied (no-certificate): %s", l.in.Name, why)
}

// ends says whether TLS ends at the listener.
func (l *listener) ends() bool {
	return l.in.TLS != nil && value(l.in.TLS.Mode, gateway.TLSModeTerminate) == gateway.TLSModeTerminate
}

// grantedSecret says whether a Gateway of a namespace may have a Secret: one of its
// own, or one that a ReferenceGrant there lets it have.
func (t *translator) grantedSecret(from, namespace, name string) bool {
	if from == namespace {
		return true
	}
	return slices.ContainsFunc(t.grants, func(g Grant) bool {
		return g.Namespace == namespace &&
			slices.ContainsFunc(g.V.From, func(f gateway.ReferenceGrantFrom) bool {
				return f.Group == Group && f.Kind == "Gateway" && string(f.Namespace) == from
			}) &&
			slices.ContainsFunc(g.V.To, func(to gateway.ReferenceGrantTo) bool {
				return to.Group == "" && to.Kind == "Secret" && value(to.Name, gateway.ObjectName(name)) == gateway.ObjectName(name)
			})
	})
}
