// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// gatewayServer is a server for hosts of any namespace.
func gatewayServer(name string, port uint16, pr Protocol, tls *ServerTLS, hosts ...hostname.Pattern) GatewayServer {
	return GatewayServer{Ref: Ref{Kind: "Gateway", Namespace: "default", Name: name}, Name: name, Port: port, Protocol: pr, TLS: tls,
		Hosts: hosts, HostNamespaces: slices.Repeat([]string{"*"}, len(hosts))}
}

// served is a node that serves the Gateway "default/gw" with Kubernetes
// Services a, b and c on port 1.
func served(servers ...GatewayServer) *Config {
	c := &Config{
		GatewaySelector: map[string]string{"istio": "ingressgateway"},
		Gateways:        []*Gateway{{Ref: Ref{Kind: "Gateway", Namespace: "default", Name: "gw"}, Servers: servers}},
	}
	for i, name := range []string{"a", "b", "c"} {
		k := kube(name)
		k.Ports = []Port{{Number: 1, Protocol: ProtocolTLS}}
		k.Endpoints = []Endpoint{{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}}
		c.Services = append(c.Services, k)
	}
	return c
}

// bindTo adds rules for "default/gw".
func bindTo(c *Config, v *VirtualService) *VirtualService {
	v.Gateways = []string{"default/gw"}
	c.VirtualServices = append(c.VirtualServices, v)
	return v
}

// TestGatewayConflicts: what cannot share a port is left out, and said.
func TestGatewayConflicts(t *testing.T) {
	tls := &ServerTLS{}
	bound := gatewayServer("bound", 80, ProtocolHTTP, nil, "*")
	bound.Bind = netip.MustParseAddr("127.0.0.1")
	for name, c := range map[string]struct {
		servers []GatewayServer
		kept    string
		warning string
	}{
		"http twice":     {[]GatewayServer{gatewayServer("a", 80, ProtocolHTTP, nil, "*"), gatewayServer("b", 80, ProtocolHTTP2, nil, "*")}, "a b", ""},
		"http and tls":   {[]GatewayServer{gatewayServer("a", 80, ProtocolHTTP, nil, "*"), gatewayServer("b", 80, ProtocolTLS, tls, "*")}, "a", "conflict with the server for HTTP"},
		"tls and http":   {[]GatewayServer{gatewayServer("a", 80, ProtocolTLS, tls, "*"), gatewayServer("b", 80, ProtocolHTTP, nil, "*")}, "a", "conflict with the server for TLS"},
		"tcp twice":      {[]GatewayServer{gatewayServer("a", 80, ProtocolTCP, nil, "*"), gatewayServer("b", 80, ProtocolTCP, nil, "*")}, "a", "conflict with the server for TCP"},
		"tls twice":      {[]GatewayServer{gatewayServer("a", 80, ProtocolTLS, tls, "a.b"), gatewayServer("b", 80, ProtocolHTTPS, tls, "c.b")}, "a b", ""},
		"one sni twice":  {[]GatewayServer{gatewayServer("a", 80, ProtocolTLS, tls, "a.b"), gatewayServer("b", 80, ProtocolTLS, tls, "a.b")}, "a", "duplicate host names: [a.b]"},
		"auto":           {[]GatewayServer{gatewayServer("a", 80, ProtocolTLS, &ServerTLS{Mode: ServerAutoPassthrough}, "a.b")}, "", "AUTO_PASSTHROUGH"},
		"all and one":    {[]GatewayServer{gatewayServer("a", 80, ProtocolHTTP, nil, "*"), bound}, "a", "exclude each other"},
		"different port": {[]GatewayServer{gatewayServer("a", 81, ProtocolHTTP, nil, "*"), bound}, "bound a", ""},
	} {
		s := mustCompile(t, served(c.servers...))
		var kept []string
		for _, l := range s.Listeners() {
			for _, x := range l.Servers {
				kept = append(kept, x.Name)
			}
		}
		var said []string
		for _, w := range s.Warnings() {
			said = append(said, w.Text)
		}
		if strings.Join(kept, " ") != c.kept || len(said) > 1 || (len(said) == 1) != (c.warning != "") || !strings.Contains(strings.Join(said, ""), c.warning) {
			t.Errorf("%s: kept %v, said %q", name, kept, said)
		}
		// Who checks files does not say whose gateway a node is.
		anywhere := served(c.servers...)
		anywhere.GatewaySelector = nil
		if w := mustCompile(t, anywhere).Warnings(); c.warning != "exclude each other" && (len(w) != len(said) || len(w) == 1 && w[0].Text != said[0]) {
			t.Errorf("%s: without a node's labels it says %v, with them %q", name, w, said)
		}
	}
}

// TestGatewaySeesItsNamespace: a gateway leads to all that is visible where it
// is, whatever a Sidecar shows to the workloads, and to nothing else.
func TestGatewaySeesItsNamespace(t *testing.T) {
	c := served(gatewayServer("http", 80, ProtocolHTTP, nil, "*"))
	c.Gateways[0].Ref.Namespace = "edge"
	shown, hidden := with(se("shown", ResolutionDNS, "shown.example.com"), svcPort(80, ProtocolHTTP)), with(se("hidden", ResolutionDNS, "hidden.example.com"), svcPort(80, ProtocolHTTP))
	hidden.Export = Visibility{Limited: true, Namespaces: []string{"default"}}
	c.Services = append(c.Services, shown, hidden)
	c.Sidecars = []*Sidecar{{Ref: Ref{Kind: "Sidecar", Namespace: "istio-system", Name: "s"}, Egress: []SidecarEgress{{Hosts: []SidecarHost{{Namespace: "*", Host: "nothing.example.com"}}}}}}
	v := vs("v", []string{"edge/gw"}, names("*"), to("shown", "shown.example.com", 80, uri(MatchPrefix, "/shown")), to("hidden", "hidden.example.com", 80))
	c.VirtualServices = []*VirtualService{v}
	s := mustCompile(t, c)
	if s.Policy(DefaultPolicy).Lookup("shown.example.com") != nil {
		t.Error("the Sidecar does not count for workloads")
	}
	l := s.Listeners()[0]
	if d := l.DecideHTTP(get("x", "/shown")); d.Destination(0).Upstream == nil {
		t.Errorf("what is visible: %+v", d)
	}
	if d := l.DecideHTTP(get("x", "/")); d.Destination(0).Upstream != nil {
		t.Errorf("what is not visible: %+v", d)
	}
	again, err := s.Update(c)
	if err != nil || again.Hash() != s.Hash() {
		t.Errorf("the same again: %v", err)
	}
}
