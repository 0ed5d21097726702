// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

var clientTLSModes = map[networking.ClientTLSSettings_TLSmode]policy.ClientTLSMode{
	networking.ClientTLSSettings_DISABLE:      policy.TLSDisable,
	networking.ClientTLSSettings_SIMPLE:       policy.TLSSimple,
	networking.ClientTLSSettings_MUTUAL:       policy.TLSMutual,
	networking.ClientTLSSettings_ISTIO_MUTUAL: policy.TLSIstioMutual,
}

// clientTLS reads how TLS is originated; nil stays nil.
func (l *loader) clientTLS(o *object, at *strictyaml.Node, t *networking.ClientTLSSettings) *policy.ClientTLS {
	if t == nil {
		return nil
	}
	out := &policy.ClientTLS{
		Mode:        clientTLSModes[t.Mode],
		Certificate: t.ClientCertificate, PrivateKey: t.PrivateKey, CA: t.CaCertificates, CRL: t.CaCrl,
		CredentialName: t.CredentialName, SubjectAltNames: t.SubjectAltNames, SNI: t.Sni,
		InsecureSkipVerify: t.InsecureSkipVerify.GetValue(),
		FromCluster:        strings.HasPrefix(o.ref.File, ObjectPrefix),
	}
	if out.Mode == policy.TLSIstioMutual {
		o.Warnf(at, "tls mode ISTIO_MUTUAL is nothing between a workload and an egress gateway, which are one node here; what it applies to elsewhere is denied (not-supported)")
	}
	files := t.ClientCertificate != "" || t.PrivateKey != "" || t.CaCertificates != "" || t.CaCrl != ""
	o.skipVerify(at.At("insecureSkipVerify"), t)
	switch t.Mode {
	case networking.ClientTLSSettings_ISTIO_MUTUAL:
		if files || t.CredentialName != "" {
			o.Errorf(at, "ISTIO_MUTUAL TLS cannot have associated certificates, keys or credentialName")
		}
		return out
	case networking.ClientTLSSettings_SIMPLE, networking.ClientTLSSettings_MUTUAL:
		if t.CredentialName == "" {
			break
		}
		if files {
			o.Errorf(at.At("credentialName"), "cannot specify client certificates or CA certificate or CA CRL If credentialName is set")
		}
		out.Secret, out.Refused = clientSecret(o.meta.Namespace, t.CredentialName)
		if out.Refused != "" {
			o.Warnf(at.At("credentialName"), "%s: what it applies to is denied (not-supported)", out.Refused)
			return out
		}
		l.credential(o, at.At("credentialName"), t.CredentialName, clientUse(t.Mode))
		return out
	}
	if t.Mode == networking.ClientTLSSettings_MUTUAL {
		if t.ClientCertificate == "" {
			o.Errorf(at, "client certificate required for mutual tls")
		}
		if t.PrivateKey == "" {
			o.Errorf(at, "private key required for mutual tls")
		}
	}
	if out.Mode != policy.TLSDisable {
		l.pairFiles(o, at.At("clientCertificate"), t.ClientCertificate, at.At("privateKey"), t.PrivateKey)
		l.caFile(o, at.At("caCertificates"), t.CaCertificates)
	}
	return out
}

// clientSecret is the Secret of a credentialName, NAMESPACE/NAME, or why it names none
// that may be used: those of the rule's own namespace may.
func clientSecret(namespace, name string) (secret, refused string) {
	scheme, rest, ok := strings.Cut(name, "://")
	switch {
	case !ok:
		rest = name
	case scheme == "kubernetes-gateway":
		own, n, _ := strings.Cut(rest, "/")
		if own != namespace {
			return "", "a credential of another namespace"
		}
		rest = n
	case scheme != "kubernetes":
		return "", "a credential of " + scheme
	}
	if rest == "" || strings.Contains(rest, "/") {
		return "", "a credential of another namespace"
	}
	return namespace + "/" + rest, ""
}

func clientUse(mode networking.ClientTLSSettings_TLSmode) credentialUse {
	if mode == networking.ClientTLSSettings_MUTUAL {
		return credentialUse{pair: true}
	}
	return credentialUse{ca: true}
}

// skipVerify checks that what is not verified is not named either.
func (o *object) skipVerify(at *strictyaml.Node, t *networking.ClientTLSSettings) {
	if !t.InsecureSkipVerify.GetValue() {
		return
	}
	named := t.CaCertificates != "" || len(t.SubjectAltNames) > 0
	switch {
	case t.Mode == networking.ClientTLSSettings_SIMPLE && (named || t.CredentialName != ""):
		o.Errorf(at, "cannot specify CaCertificates or CredentialName or SubjectAltNames when InsecureSkipVerify is set true")
	case t.Mode == networking.ClientTLSSettings_MUTUAL && named:
		o.Errorf(at, "cannot specify CaCertificates or SubjectAltNames when InsecureSkipVerify is set true")
	case t.Mode != networking.ClientTLSSettings_DISABLE:
		o.Warnf(at, "insecureSkipVerify: whoever answers is believed to be the upstream")
	}
}
