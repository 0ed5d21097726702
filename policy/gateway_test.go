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

func in(name string) []*WeightedDestination { return toL4(name+".default.svc.cluster.local", 1) }

func (c *Config) bind(v *VirtualService) *VirtualService {
	v.Gateways = []string{"default/gw"}
	c.VirtualServices = append(c.VirtualServices, v)
	return v
}

func (v *VirtualService) sni(to string, port uint16, hosts ...hostname.Pattern) *VirtualService {
	v.TLS = append(v.TLS, &TLSRule{Ref: v.Ref, Matches: []*L4Match{{SNIHosts: hosts, Port: port}}, Route: in(to)})
	return v
}

// TestGatewayTLS: the exact SNI counts, else the longest wildcard, else the
// server for all; of two rules for one SNI the older.
func TestGatewayTLS(t *testing.T) {
	c := served(
		gatewayServer("pass", 443, ProtocolTLS, &ServerTLS{}, "*.example.com", "one.example.net"),
		gatewayServer("end", 443, ProtocolHTTPS, &ServerTLS{Mode: ServerSimple}, "end.example.com"),
		gatewayServer("opaque", 443, ProtocolTLS, &ServerTLS{Mode: ServerMutual}, "tcp.example.org"),
		gatewayServer("all", 443, ProtocolHTTPS, &ServerTLS{}, "*"),
	)
	c.bind(vs("v1", nil, names("*.example.com", "*.example.net"))).sni("a", 0, "*.example.com").sni("a", 444, "x.example.com").sni("b", 443, "*.example.net")
	c.bind(vs("v2", nil, names("x.example.com", "*.example.com"))).sni("b", 0, "x.example.com", "*.example.com")
	c.bind(vs("v3", nil, names("*"))).sni("c", 0, "*")
	v := c.bind(vs("v4", nil, names("tcp.example.org", "end.example.com"), answer("ended")))
	v.TCP = []*TCPRule{{Ref: v.Ref, Matches: []*L4Match{{Port: 1}}, Route: in("a")}, {Ref: v.Ref, Route: in("b")}}
	hidden := c.bind(vs("v5", nil, names("z.example.com")).sni("c", 0, "z.example.com"))
	hidden.Export = Visibility{Limited: true, Namespaces: []string{"elsewhere"}}
	all := mustCompile(t, c).Listeners()
	if len(all) != 1 || !all[0].IsTLS() {
		t.Fatalf("%d listeners", len(all))
	}
	l := all[0]
	for sni, want := range map[string]string{
		"x.example.com": "b", "y.example.com": "a", "a.b.example.com": "a", "z.example.com": "a",
		"one.example.net": "b", "two.example.net": "b", "x.example.org": "c", "": "c", "tcp.example.org": "b server opaque", "end.example.com": "server end",
	} {
		d := l.DecideTLS(sni, 0)
		got := ""
		if d.Upstream != nil {
			got = d.Upstream.Host[:1]
		}
		if d.Server != nil {
			got = strings.TrimSpace(got + " server " + d.Server.Name)
		}
		if got != want {
			t.Errorf("SNI %q goes to %q (%v), want %q", sni, got, d.Reason, want)
		}
	}
	if d := l.DecideHTTPS("end.example.com", get("end.example.com", "/")); d.Action == nil || d.Action.Rule.Name != "ended" {
		t.Errorf("within TLS: %+v", d)
	}
	if d := l.DecideHTTPS("x.example.com", get("x.example.com", "/")); d.Verdict != Deny {
		t.Errorf("within TLS that nobody terminates: %+v", d)
	}
	if d := l.DecideHTTP(get("end.example.com", "/")); d.Verdict != Deny {
		t.Errorf("plain text on a port for TLS: %+v", d)
	}
	if d, _ := l.DecideTCP(0); d.Verdict != Deny {
		t.Errorf("unread on a port for TLS: %+v", d)
	}
	c.VirtualServices = c.VirtualServices[:1]
	if d := mustCompile(t, c).Listeners()[0].DecideTLS("www.example.org", 0); d.Verdict != Deny || d.Reason != ReasonName {
		t.Errorf("an SNI that no server is for: %+v", d)
	}
}

// TestGatewayTCP: the first VirtualService with a rule for the port wins, and
// nothing but port and gateway is looked at.
func TestGatewayTCP(t *testing.T) {
	c := served(gatewayServer("tcp", 5432, ProtocolTCP, nil, "*"))
	other := c.bind(vs("v1", nil, names("*")))
	other.TCP = []*TCPRule{{Ref: other.Ref, Matches: []*L4Match{{Port: 1}, {Gateways: []string{"default/other"}}}, Route: in("a")}}
	won := c.bind(vs("v2", nil, names("db.example.com")))
	won.TCP = []*TCPRule{{Ref: won.Ref, Matches: []*L4Match{{Port: 5432, SourceNamespace: "x", Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}, Route: in("b")}}
	late := c.bind(vs("v3", nil, names("*")))
	late.TCP = []*TCPRule{{Ref: late.Ref, Route: in("c")}}
	l := mustCompile(t, c).Listeners()[0]
	if d, u := l.DecideTCP(0); d.Verdict != Proxy || u.Host[:1] != "b" {
		t.Errorf("%+v %+v", d, u)
	}
	if d := l.DecideTLS("db.example.com", 0); d.Verdict != Deny {
		t.Errorf("a hello on a port for TCP: %+v", d)
	}
	c.VirtualServices = nil
	if d, _ := mustCompile(t, c).Listeners()[0].DecideTCP(0); d.Verdict != Deny || d.Reason != ReasonNoRoute {
		t.Errorf("without rules: %+v", d)
	}
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
		"http and tls":   {[]GatewayServer{gatewayServer("a", 80, ProtocolHTTP, nil, "*"), gatewayServer("b", 80, ProtocolTLS, tls, "*")}, "a", "conflict with existing server 80.HTTP"},
		"tls and http":   {[]GatewayServer{gatewayServer("a", 80, ProtocolTLS, tls, "*"), gatewayServer("b", 80, ProtocolHTTP, nil, "*")}, "a", "conflict with existing server 80.TLS"},
		"tcp twice":      {[]GatewayServer{gatewayServer("a", 80, ProtocolTCP, nil, "*"), gatewayServer("b", 80, ProtocolTCP, nil, "*")}, "a", "conflict with existing server 80.TCP"},
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
	}
}

// TestGatewaySeesItsNamespace: a gateway leads to all that is visible where it
// is, whatever a Sidecar shows to the workloads, and to nothing else.
func TestGatewaySeesItsNamespace(t *testing.T) {
	c := served(gatewayServer("http", 80, ProtocolHTTP, nil, "*"))
	c.Gateways[0].Ref.Namespace = "edge"
	shown, hidden := se("shown", ResolutionDNS, "shown.example.com").port(80, ProtocolHTTP), se("hidden", ResolutionDNS, "hidden.example.com").port(80, ProtocolHTTP)
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
