// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"crypto/tls"
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

var serverTLSModes = map[networking.ServerTLSSettings_TLSmode]policy.ServerTLSMode{
	networking.ServerTLSSettings_PASSTHROUGH:      policy.ServerPassthrough,
	networking.ServerTLSSettings_SIMPLE:           policy.ServerSimple,
	networking.ServerTLSSettings_MUTUAL:           policy.ServerMutual,
	networking.ServerTLSSettings_AUTO_PASSTHROUGH: policy.ServerAutoPassthrough,
	networking.ServerTLSSettings_ISTIO_MUTUAL:     policy.ServerIstioMutual,
	networking.ServerTLSSettings_OPTIONAL_MUTUAL:  policy.ServerOptionalMutual,
}

var tlsVersions = map[networking.ServerTLSSettings_TLSProtocol]uint16{
	networking.ServerTLSSettings_TLSV1_0: tls.VersionTLS10,
	networking.ServerTLSSettings_TLSV1_1: tls.VersionTLS11,
	networking.ServerTLSSettings_TLSV1_2: tls.VersionTLS12,
	networking.ServerTLSSettings_TLSV1_3: tls.VersionTLS13,
}

// serverTLS is the translation of the TLS settings of one gateway server.
type serverTLS struct {
	*loader
	*object
	at  *strictyaml.Node
	in  *networking.ServerTLSSettings
	out *policy.ServerTLS
	// unread says that certificates in files are not looked at.
	unread bool
}

// serverTLS reads the TLS settings at n.
func (l *loader) serverTLS(o *object, n *strictyaml.Node, t *networking.ServerTLSSettings) *policy.ServerTLS {
	s := newServerTLS(l, o, n, t)
	s.check()
	return s.out
}

func newServerTLS(l *loader, o *object, n *strictyaml.Node, t *networking.ServerTLSSettings) *serverTLS {
	s := &serverTLS{loader: l, object: o, at: n, in: t, out: &policy.ServerTLS{
		Mode: serverTLSModes[t.Mode],
		CA:   t.CaCertificates, CRL: t.CaCrl, SubjectAltNames: t.SubjectAltNames,
		VerifySPKI: t.VerifyCertificateSpki, VerifyHash: t.VerifyCertificateHash,
		MinVersion: tlsVersions[t.MinProtocolVersion], MaxVersion: tlsVersions[t.MaxProtocolVersion],
		CredentialNames: slices.Clone(t.CredentialNames), CACredentialName: t.CaCertCredentialName,
	}}
	if t.CredentialName != "" {
		s.out.CredentialNames = append([]string{t.CredentialName}, s.out.CredentialNames...)
	}
	if t.ServerCertificate != "" || t.PrivateKey != "" {
		s.out.Certificates = append(s.out.Certificates, policy.CertificateFiles{Certificate: t.ServerCertificate, PrivateKey: t.PrivateKey})
	}
	for _, c := range t.TlsCertificates {
		s.out.Certificates = append(s.out.Certificates, policy.CertificateFiles{Certificate: c.ServerCertificate, PrivateKey: c.PrivateKey})
	}
	return s
}

// check says what is wrong with the settings.
func (s *serverTLS) check() {
	n, t := s.at, s.in
	s.sources()
	s.versions()
	s.ciphers()
	if t.InsecureSkipVerify.GetValue() {
		s.Inert(n.KeyOf("insecureSkipVerify"), "insecureSkipVerify")
	}
	switch t.Mode {
	case networking.ServerTLSSettings_ISTIO_MUTUAL:
		s.istioMutual()
	case networking.ServerTLSSettings_PASSTHROUGH, networking.ServerTLSSettings_AUTO_PASSTHROUGH:
		if s.named() || t.CaCertificates != "" || t.CaCrl != "" {
			s.Warnf(n, "%v mode does not use certificates, they will be ignored", t.Mode)
		}
	default:
		s.terminates()
	}
}

// sources checks where certificates come from. The mode does not matter.
func (s *serverTLS) sources() {
	t := s.in
	sources := 0
	for _, set := range []bool{
		t.ServerCertificate != "" && t.PrivateKey != "", t.CredentialName != "",
		len(t.CredentialNames) > 0, len(t.TlsCertificates) > 0,
	} {
		if set {
			sources++
		}
	}
	if sources > 1 {
		s.Errorf(s.at, "only one of credential_name, credential_names, server_certificate/private_key, tls_certificates should be specified")
	}
	for key, n := range map[string]int{"credentialNames": len(t.CredentialNames), "tlsCertificates": len(t.TlsCertificates)} {
		if s.at.Has(key) && (n < 1 || n > 2) {
			s.Errorf(s.at.At(key), "%s: there must be 1 or 2 of them, not %d", key, n)
		}
	}
}

// named says whether any certificate is named.
func (s *serverTLS) named() bool { return len(s.out.Certificates)+len(s.out.CredentialNames) > 0 }

func (s *serverTLS) versions() {
	if v := s.out.MinVersion; v != 0 && v < tls.VersionTLS12 && len(s.in.CipherSuites) == 0 {
		s.Warnf(s.at.At("minProtocolVersion"), "TLS version below TLSV1_2 require setting compatible ciphers as by default they no longer include compatible ciphers.")
	}
	lowest := s.out.MinVersion
	if lowest == 0 {
		lowest = tls.VersionTLS12
	}
	if v := s.out.MaxVersion; v != 0 && v < lowest {
		s.Warnf(s.at.At("maxProtocolVersion"), "maxProtocolVersion %s is below the minimum: no client could connect", s.in.MaxProtocolVersion)
	}
}

func (s *serverTLS) istioMutual() {
	t := s.in
	for _, f := range []struct {
		set       bool
		key, what string
	}{
		{t.ServerCertificate != "", "serverCertificate", "server certificate"},
		{t.PrivateKey != "", "privateKey", "private key"},
		{t.CaCertificates != "", "caCertificates", "CA bundle"},
		{len(t.TlsCertificates) > 0, "tlsCertificates", "tlsCertificates"},
		{t.CredentialName != "", "credentialName", "credentialName"},
		{len(t.CredentialNames) > 0, "credentialNames", "credentialNames"},
	} {
		if f.set {
			s.Errorf(s.at.KeyOf(f.key), "ISTIO_MUTUAL TLS cannot have associated %s", f.what)
		}
	}
}

// terminates checks a server that has certificates of its own.
func (s *serverTLS) terminates() {
	t := s.in
	mutual := t.Mode != networking.ServerTLSSettings_SIMPLE
	if t.CredentialName != "" || len(t.CredentialNames) > 0 {
		s.fromSecrets(mutual)
		return
	}
	s.fromFiles(mutual)
}

func (s *serverTLS) fromSecrets(mutual bool) {
	t := s.in
	use := credentialUse{pair: true, ca: mutual && t.CaCertificates == "" && t.CaCertCredentialName == ""}
	if t.CredentialName != "" {
		s.credential(s.object, s.at.At("credentialName"), t.CredentialName, use)
	}
	for i, name := range t.CredentialNames {
		s.credential(s.object, s.at.At("credentialNames", i), name, use)
	}
	s.caCredential(mutual)
	s.caFile(s.object, s.at.At("caCertificates"), t.CaCertificates)
}

// caCredential checks a Secret with the CA of clients alone.
func (s *serverTLS) caCredential(mutual bool) {
	if name := s.in.CaCertCredentialName; name != "" && mutual {
		s.credential(s.object, s.at.At("caCertCredentialName"), name, credentialUse{ca: true})
	}
}

func (s *serverTLS) fromFiles(mutual bool) {
	t := s.in
	if t.CaCrl != "" && !mutual {
		s.Errorf(s.at.KeyOf("caCrl"), "CRL is not supported with SIMPLE TLS")
	}
	s.caCredential(mutual)
	if mutual && t.CaCertificates == "" && t.CaCertCredentialName == "" {
		s.Errorf(s.at, "%s requires a client CA bundle", prefix(mutual))
	}
	check := func(at *strictyaml.Node, cert, key string) {
		if cert == "" {
			s.Errorf(at, "%s requires a server certificate", prefix(mutual))
		}
		if key == "" {
			s.Errorf(at, "%s requires a private key", prefix(mutual))
		}
		if !s.unread {
			s.pairFiles(s.object, at.At("serverCertificate"), cert, at.At("privateKey"), key)
		}
	}
	if len(t.TlsCertificates) == 0 {
		check(s.at, t.ServerCertificate, t.PrivateKey)
	}
	for i, c := range t.TlsCertificates {
		check(s.at.At("tlsCertificates", i), c.ServerCertificate, c.PrivateKey)
	}
	if !s.unread {
		s.caFile(s.object, s.at.At("caCertificates"), t.CaCertificates)
	}
}

// prefix names the mode in the errors about its certificates.
func prefix(mutual bool) string {
	if mutual {
		return "MUTUAL TLS"
	}
	return "SIMPLE TLS"
}
