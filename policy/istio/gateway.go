// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

func translateGateways(l *loader, cfg *policy.Config) {
	for _, d := range oldest(l.gateways) {
		cfg.Gateways = append(cfg.Gateways, once(l, d.object, nil, func() *policy.Gateway { return l.gateway(d) }))
	}
}

func (l *loader) gateway(d decoded[networking.Gateway]) *policy.Gateway {
	out := &policy.Gateway{Ref: d.ref, Selector: d.v.Selector, Topology: d.ownTopology()}
	if !check.IsLabel(d.ref.Name) {
		d.Errorf(d.root.At("metadata", "name"), "invalid gateway name: %q", d.ref.Name)
	}
	if len(d.v.Servers) == 0 {
		d.Errorf(d.spec("servers"), "gateway must have at least one server")
	}
	names := map[string]bool{}
	for i, s := range d.v.Servers {
		at := d.spec("servers", i)
		if name := s.GetPort().GetName(); name != "" {
			if names[name] {
				d.Errorf(at.At("port", "name"), "port names in servers must be unique: duplicate name %s", name)
			}
			names[name] = true
		}
		out.Servers = append(out.Servers, l.server(d.object, at, s))
	}
	return out
}

func (l *loader) server(o *object, at *strictyaml.Node, s *networking.Server) policy.GatewayServer {
	out := policy.GatewayServer{Ref: o.ref, Name: s.Name}
	out.Ref.Line, out.Ref.Column = at.Line, at.Col
	o.serverPort(at, s, &out)
	o.serverBind(at.At("bind"), s, &out)
	if s.DefaultEndpoint != "" {
		o.Warnf(at.KeyOf("defaultEndpoint"), "defaultEndpoint has no effect on a Gateway, as in Istio: the routes say where requests go")
	}
	l.serverSecurity(o, at, s, &out)
	if len(s.Hosts) == 0 {
		o.Errorf(at.At("hosts"), "server config must contain at least one host")
	}
	for i, h := range s.Hosts {
		o.serverHost(at.At("hosts", i), h, &out)
	}
	return out
}

func (o *object) serverBind(at *strictyaml.Node, s *networking.Server, out *policy.GatewayServer) {
	socket, unix := strings.CutPrefix(s.Bind, model.UnixPrefix)
	a, err := netip.ParseAddr(s.Bind)
	switch {
	case s.Bind == "":
	case unix:
		if err := unixAddress(socket); err != "" {
			o.SayCode(code.FormGateway, strictyaml.Error, at, "%s", err)
		}
		if n := s.GetPort().GetNumber(); n != 0 {
			o.Errorf(at, "port number must be 0 for unix domain socket: %d", n)
		}
		o.serverSocket(at, socket, out)
	case err != nil || a.Zone() != "" || a.Is4In6():
		o.Errorf(at, "%q is not a valid IP", s.Bind)
	default:
		out.Bind = a
	}
}

// maxSocket is how long the path of a socket may be, in bytes (unix(7), sun_path, with
// the zero that ends it).
const maxSocket = 107

// serverSocket reads the path of a socket, which unixAddress has looked at.
func (o *object) serverSocket(at *strictyaml.Node, socket string, out *policy.GatewayServer) {
	switch {
	case strings.HasPrefix(socket, "@"):
		o.Errorf(at, "an abstract unix socket has no owner and no mode: whoever binds its name first has it, and every process of the network namespace may connect; name a path")
	case !path.IsAbs(socket) || strings.HasSuffix(socket, "/"): // it was said
	case path.Clean(socket) != socket || strings.ContainsRune(socket, 0):
		o.Errorf(at, "unix socket %q: write its path without dots and double slashes", socket)
	case len(socket) > maxSocket:
		o.Errorf(at, "unix socket %q: the path has %d bytes, and the kernel takes %d", socket, len(socket), maxSocket)
	default:
		out.Unix = socket
		o.Say(strictyaml.Note, at, "unix socket %s: a node listens there if --gateway-socket-dir names a directory that it is in", socket)
	}
}

func (o *object) serverPort(at *strictyaml.Node, s *networking.Server, out *policy.GatewayServer) {
	p := s.Port
	if p == nil {
		o.Errorf(at, "port is required")
		return
	}
	pn := at.At("port")
	if p.Name == "" {
		o.Errorf(pn.At("name"), "port name must be set: number %d", p.Number)
	}
	//lint:ignore SA1019 deprecated, and refused
	if p.TargetPort != 0 {
		o.Errorf(pn.At("targetPort"), "targetPort has no impact on Gateways")
	}
	if p.Number != 0 || !strings.HasPrefix(s.Bind, model.UnixPrefix) {
		out.Port = o.Port(pn.At("number"), "number", p.Number)
	}
	proto, ok := check.ProtocolOf(p.Protocol)
	if !ok || p.Protocol == "" || proto == policy.ProtocolUDP {
		o.Errorf(pn.At("protocol"), "invalid protocol %q, supported protocols are HTTP, HTTP2, GRPC, GRPC-WEB, HTTPS, TLS, MONGO, REDIS, MYSQL, TCP", p.Protocol)
		return
	}
	out.Protocol = proto
}

// serverSecurity checks that a server has the TLS settings that go with its
// protocol, and reads them.
func (l *loader) serverSecurity(o *object, at *strictyaml.Node, s *networking.Server, out *policy.GatewayServer) {
	t, tn := s.Tls, at.At("tls")
	known := out.Protocol != policy.ProtocolUnset
	switch {
	case t == nil && out.Protocol.IsTLS():
		o.Errorf(at, "server must have TLS settings for HTTPS/TLS protocols")
		return
	case t == nil:
		return
	case t.HttpsRedirect && known && !out.Protocol.IsHTTP():
		o.Warnf(tn.KeyOf("httpsRedirect"), "tls.httpsRedirect should only be used with http servers")
	}
	out.HTTPSRedirect = t.HttpsRedirect && out.Protocol.IsHTTP()
	settings := l.serverTLS(o, tn, t)
	switch {
	case out.Protocol.IsTLS():
		out.TLS = settings
	case out.Protocol.IsHTTP():
		if t.Mode != networking.ServerTLSSettings_PASSTHROUGH || t.CaCertificates != "" ||
			len(settings.Certificates)+len(settings.CredentialNames) > 0 {
			o.Errorf(tn, "server cannot have TLS settings for plain text HTTP ports")
		}
	case known:
		o.Errorf(tn, "server cannot have TLS settings for non HTTPS/TLS ports")
	}
}

func (o *object) serverHost(at *strictyaml.Node, s string, out *policy.GatewayServer) {
	ns, host, found := strings.Cut(s, "/")
	if !found {
		ns, host = "*", s
	}
	switch {
	case ns == "" || host == "":
		o.Errorf(at, "config namespace and dnsName in host entry cannot be empty")
		return
	case ns == ".":
		ns = o.meta.Namespace
	case ns != "*" && !check.IsLabel(ns):
		o.Errorf(at, "invalid namespace value %q in gateway", ns)
		return
	}
	h, err := check.HostOrIP(host)
	switch {
	case err != nil:
		o.Errorf(at, "invalid host: %s", err)
		return
	case check.IsPartialWildcard(h):
		o.Errorf(at, "partial wildcard %q not allowed", host)
		return
	case h != "*" && !strings.ContainsAny(string(h), ".:"):
		o.Errorf(at, "short names (non FQDN) are not allowed: %q", host)
		return
	}
	out.Hosts = append(out.Hosts, h)
	out.HostNamespaces = append(out.HostNamespaces, ns)
}

// gatewayName makes the reference of a VirtualService absolute: "mesh" or
// "namespace/name".
func (o *object) gatewayName(at *strictyaml.Node, s string) (string, error) {
	if s == "mesh" {
		return s, nil
	}
	if ns, name, found := strings.Cut(s, "/"); found {
		switch {
		case ns == "" || name == "":
			return "", errors.New("config namespace and gateway name cannot be empty")
		case ns == ".":
			return "", fmt.Errorf("invalid value for namespace: %q; the name alone is in the VirtualService's own", ns)
		case !check.IsLabel(ns):
			return "", fmt.Errorf("invalid value for namespace: %q", ns)
		case !check.IsLabel(name):
			return "", fmt.Errorf("invalid value for gateway name: %q", name)
		}
		return ns + "/" + name, nil
	}
	if check.IsLabel(s) && !check.IsNumber(s) {
		return o.meta.Namespace + "/" + s, nil
	}
	if _, err := check.FQDN(s); err != nil {
		return "", fmt.Errorf("gateway %q is not \"mesh\", a name or namespace/name", s)
	}
	// The form from before "ns/name" existed: name.namespace.svc.cluster.local.
	labels := strings.SplitN(s, ".", 3)
	if len(labels) < 2 || !check.IsLabel(labels[0]) || !check.IsLabel(labels[1]) {
		return "", fmt.Errorf("gateway %q is not \"mesh\", a name or namespace/name", s)
	}
	o.Warnf(at, "using legacy gatewayName format %q; prefer the <namespace>/<name> format: \"%s/%s\"", s, labels[1], labels[0])
	return labels[1] + "/" + labels[0], nil
}
