// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
)

func (l *loader) gateway(d decoded[networking.Gateway]) *policy.Gateway {
	out := &policy.Gateway{Ref: d.ref, Selector: d.v.Selector}
	if !isLabel(d.ref.Name) {
		d.errorf(d.root.at("metadata", "name"), "gateway name %q is not a DNS label", d.ref.Name)
	}
	if len(d.v.Servers) == 0 {
		d.errorf(d.spec("servers"), "gateway must have at least one server")
	}
	names := map[string]bool{}
	for i, s := range d.v.Servers {
		at := d.spec("servers", i)
		if name := s.GetPort().GetName(); name != "" {
			if names[name] {
				d.errorf(at.at("port", "name"), "port names in servers must be unique: duplicate name %s", name)
			}
			names[name] = true
		}
		out.Servers = append(out.Servers, d.object.server(at, s))
	}
	return out
}

func (o *object) server(at *node, s *networking.Server) policy.GatewayServer {
	out := policy.GatewayServer{Ref: o.ref, Name: s.Name}
	out.Ref.Line, out.Ref.Column = at.line, at.col
	o.serverPort(at, s, &out)
	if s.Bind != "" {
		a, err := netip.ParseAddr(s.Bind)
		switch {
		case strings.HasPrefix(s.Bind, unixPrefix):
			o.unsupported(at.at("bind"), "a unix socket to bind to")
		case err != nil || a.Zone() != "" || a.Is4In6():
			o.errorf(at.at("bind"), "bind: %q is not a valid IP address", s.Bind)
		default:
			out.Bind = a
		}
	}
	if s.DefaultEndpoint != "" {
		o.unsupported(at.keyOf("defaultEndpoint"), "defaultEndpoint")
	}
	o.serverTLS(at, s, &out)
	if len(s.Hosts) == 0 {
		o.errorf(at.at("hosts"), "server config must contain at least one host")
	}
	for i, h := range s.Hosts {
		o.serverHost(at.at("hosts", i), h, &out)
	}
	return out
}

func (o *object) serverPort(at *node, s *networking.Server, out *policy.GatewayServer) {
	p := s.Port
	if p == nil {
		o.errorf(at, "port is required")
		return
	}
	pn := at.at("port")
	if p.Name == "" {
		o.errorf(pn.at("name"), "port name must be set: number %d", p.Number)
	} else if !isPortName(p.Name) {
		o.errorf(pn.at("name"), "invalid port name: %q", p.Name)
	}
	//lint:ignore SA1019 deprecated, and refused
	if p.TargetPort != 0 {
		o.errorf(pn.at("targetPort"), "targetPort has no meaning in a Gateway")
	}
	out.Port = o.port(pn.at("number"), "number", p.Number)
	switch proto, ok := protocolOf(p.Protocol); {
	case !ok || p.Protocol == "" || proto == policy.ProtocolUDP:
		o.errorf(pn.at("protocol"), "unsupported protocol: %q", p.Protocol)
	case !proto.IsHTTP():
		o.unsupported(pn.at("protocol"), "server protocol "+p.Protocol)
	default:
		out.Protocol = proto
	}
}

func (o *object) serverTLS(at *node, s *networking.Server, out *policy.GatewayServer) {
	if s.Tls == nil || !out.Protocol.IsHTTP() {
		return // a server of another protocol is refused as it is
	}
	out.HTTPSRedirect = s.Tls.HttpsRedirect
	rest := proto.CloneOf(s.Tls)
	rest.HttpsRedirect = false
	if !proto.Equal(rest, &networking.ServerTLSSettings{}) {
		o.errorf(at.at("tls"), "server cannot have TLS settings for plain text HTTP ports (only httpsRedirect)")
	}
}

func (o *object) serverHost(at *node, s string, out *policy.GatewayServer) {
	ns, host, found := strings.Cut(s, "/")
	if !found {
		ns, host = "*", s
	}
	switch {
	case ns == ".":
		ns = o.meta.Namespace
	case ns != "*" && !isLabel(ns):
		o.errorf(at, "namespace/hostname %q: namespace is not \"*\", \".\" or a name", s)
		return
	}
	h, err := hostOrIP(host)
	switch {
	case err != nil:
		o.errorf(at, "invalid host: %s", err)
		return
	case isPartialWildcard(h):
		o.errorf(at, "partial wildcard %q is not allowed in Gateway server hosts", host)
		return
	case h != "*" && !strings.ContainsAny(string(h), ".:"):
		o.errorf(at, "short names (non FQDN) are not allowed in Gateway server hosts: %q", host)
		return
	}
	out.Hosts = append(out.Hosts, h)
	out.HostNamespaces = append(out.HostNamespaces, ns)
}

// gatewayName makes the reference of a VirtualService absolute: "mesh" or
// "namespace/name".
func (o *object) gatewayName(at *node, s string) (string, error) {
	if s == "mesh" {
		return s, nil
	}
	if ns, name, found := strings.Cut(s, "/"); found {
		if ns == "." {
			ns = o.meta.Namespace
		}
		if !isLabel(ns) || !isLabel(name) {
			return "", fmt.Errorf("gateway %q is not \"mesh\", a name or namespace/name", s)
		}
		return ns + "/" + name, nil
	}
	if isLabel(s) {
		return o.meta.Namespace + "/" + s, nil
	}
	if _, err := fqdn(s); err != nil {
		return "", fmt.Errorf("gateway %q is not \"mesh\", a name or namespace/name", s)
	}
	// The form from before "ns/name" existed: name.namespace.svc.cluster.local.
	labels := strings.SplitN(s, ".", 3)
	if len(labels) < 2 || !isLabel(labels[0]) || !isLabel(labels[1]) {
		return "", fmt.Errorf("gateway %q is not \"mesh\", a name or namespace/name", s)
	}
	o.warnf(at, "using legacy gatewayName reference %q; prefer namespace/name: \"%s/%s\"", s, labels[1], labels[0])
	return labels[1] + "/" + labels[0], nil
}
