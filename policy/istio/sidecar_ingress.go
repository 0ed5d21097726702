// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
	"github.com/egressd/egressd/policy/istio/internal/traffic"
)

// sidecarIngress checks the listeners on the way in to a workload, which
// egressd has no part in.
func (l *loader) sidecarIngress(o *object, list *strictyaml.Node, listeners []*networking.IstioIngressListener) {
	seen := map[uint32]bool{}
	for i, in := range listeners {
		at := list.At(i)
		if in.Port == nil {
			o.Errorf(at, "sidecar: port is required for ingress listeners")
			continue
		}
		o.sidecarPort(at.At("port"), in.Port)
		o.Port(at.At("port", "number"), "number", in.Port.Number)
		if seen[in.Port.Number] {
			o.Errorf(at.At("port"), "sidecar: ports on IP bound listeners must be unique")
		}
		seen[in.Port.Number] = true
		if _, err := netip.ParseAddr(in.Bind); err != nil && in.Bind != "" {
			o.Errorf(at.At("bind"), "%s is not a valid IP", in.Bind)
		}
		o.ingressEndpoint(at.At("defaultEndpoint"), in.DefaultEndpoint)
		l.ingressTLS(o, at, in)
		traffic.Pool(&o.Checker, at.At("connectionPool"), in.ConnectionPool)
	}
	if len(listeners) > 0 {
		o.Warnf(o.spec().KeyOf("ingress"), "ingress is not acted on: egressd has no part in the way in to a workload")
	}
}

func (o *object) ingressEndpoint(at *strictyaml.Node, s string) {
	if s == "" {
		return
	}
	if path, ok := strings.CutPrefix(s, model.UnixPrefix); ok {
		if wrong := unixAddress(path); wrong != "" {
			o.SayCode(code.FormSidecar, strictyaml.Error, at, "%s", wrong)
		}
		return
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		o.SayCode(code.FormSidecar, strictyaml.Error, at, "%s", err)
		return
	}
	if !slices.Contains([]string{"", "127.0.0.1", "0.0.0.0", "::1", "::"}, host) {
		o.Errorf(at, "sidecar: defaultEndpoint must be of form 127.0.0.1:<port>,0.0.0.0:<port>,[::1]:port,[::]:port,unix://filepath or unset")
	}
	n, err := strconv.ParseUint(port, 10, 32)
	if err != nil {
		o.Errorf(at, "sidecar: defaultEndpoint port (%s) is not a number: %v", port, err)
		return
	}
	o.Port(at, "defaultEndpoint", uint32(n))
}

func (l *loader) ingressTLS(o *object, in *strictyaml.Node, listener *networking.IstioIngressListener) {
	t, at := listener.Tls, in.At("tls")
	if t == nil {
		return
	}
	for _, f := range []struct {
		set bool
		key string
	}{
		{len(t.SubjectAltNames) > 0, "subjectAltNames"}, {t.HttpsRedirect, "httpsRedirect"}, {t.CredentialName != "", "credentialName"},
		{len(t.CredentialNames) > 0, "credentialNames"}, {len(t.TlsCertificates) > 0, "tlsCertificates"},
	} {
		if f.set {
			o.Errorf(at.KeyOf(f.key), "sidecar: %s is not supported in ingress tls", f.key)
		}
	}
	if t.Mode == networking.ServerTLSSettings_ISTIO_MUTUAL || t.Mode == networking.ServerTLSSettings_AUTO_PASSTHROUGH {
		o.Errorf(at.At("mode"), "configuration is invalid: cannot set mode to %s in sidecar ingress tls", t.Mode)
	}
	if proto, ok := check.ProtocolOf(listener.Port.Protocol); ok && !proto.IsTLS() {
		o.Errorf(at, "server cannot have TLS settings for non HTTPS/TLS ports")
	}
	s := newServerTLS(l, o, at, t)
	s.unread = true
	s.check()
}
