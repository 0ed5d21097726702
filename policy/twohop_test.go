// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/hostname"
)

const egressHost = "istio-egressgateway.istio-system.svc.cluster.local"

// egressService is the Kubernetes Service of Istio's egress gateway.
func egressService() *Service {
	k := kube("istio-egressgateway")
	k.Ref.Namespace, k.Hosts = "istio-system", names(egressHost)
	k.Selector = map[string]string{"app": "istio-egressgateway", "istio": "egressgateway"}
	k.Ports = []Port{{Number: 80, TargetPort: 8080, Name: "http2", Protocol: ProtocolHTTP2}, {Number: 443, TargetPort: 8443, Name: "https", Protocol: ProtocolHTTPS}}
	return k
}

// egressGateway is a Gateway in namespace default with one server.
func egressGateway(port uint16, pr Protocol, mode *ServerTLSMode, hosts ...hostname.Pattern) *Gateway {
	ref := Ref{Kind: "Gateway", Namespace: "default", Name: "egress", File: "egress.yaml", Line: 4}
	g := &Gateway{Ref: ref, Selector: map[string]string{"istio": "egressgateway"}, Servers: []GatewayServer{{
		Ref: ref, Name: "s", Port: port, Protocol: pr, Hosts: hosts, HostNamespaces: slices.Repeat([]string{"*"}, len(hosts)),
	}}}
	if mode != nil {
		g.Servers[0].TLS = &ServerTLS{Mode: *mode}
	}
	return g
}

var (
	passthrough = new(ServerTLSMode)
	istioMutual = func() *ServerTLSMode { m := ServerIstioMutual; return &m }()
)

// both are the gateways of rules for workloads and for the Gateway.
func both() []string { return []string{"default/egress", "mesh"} }

// atGateway is a match for a port of a gateway.
func atGateway(gateway string, port uint16) *HTTPMatch {
	return &HTTPMatch{Gateways: []string{gateway}, Port: port}
}

func l4on(gateway string, port uint16, sni ...hostname.Pattern) *L4Match {
	return &L4Match{Gateways: []string{gateway}, Port: port, SNIHosts: sni}
}

func toL4(host string, port uint16) []*WeightedDestination {
	return []*WeightedDestination{{Destination: Destination{Host: host, Port: port}}}
}

// twoHopHTTP is istio.io, "Egress Gateways", for HTTP.
func twoHopHTTP() *Config {
	first := to("mesh", egressHost, 80, atGateway("mesh", 80))
	first.Route[0].Destination.Subset = "cnn"
	return &Config{
		Services:        []*Service{with(se("cnn", ResolutionDNS, "edition.cnn.com"), svcPort(80, ProtocolHTTP), svcPort(443, ProtocolHTTPS))},
		Gateways:        []*Gateway{egressGateway(80, ProtocolHTTP, nil, "edition.cnn.com")},
		VirtualServices: []*VirtualService{vs("via", both(), names("edition.cnn.com"), first, to("gateway", "edition.cnn.com", 80, atGateway("default/egress", 80)))},
	}
}

// twoHopTLS is istio.io, "Egress Gateways", for HTTPS.
func twoHopTLS() *Config {
	v := vs("via", both(), names("edition.cnn.com"))
	v.TLS = []*TLSRule{
		{Ref: v.Ref, Matches: []*L4Match{l4on("mesh", 443, "edition.cnn.com")}, Route: toL4(egressHost, 443)},
		{Ref: v.Ref, Matches: []*L4Match{l4on("default/egress", 443, "edition.cnn.com")}, Route: toL4("edition.cnn.com", 443)},
	}
	return &Config{
		Services:        []*Service{with(se("cnn", ResolutionDNS, "edition.cnn.com"), svcPort(443, ProtocolTLS))},
		Gateways:        []*Gateway{egressGateway(443, ProtocolTLS, passthrough, "edition.cnn.com")},
		VirtualServices: []*VirtualService{v},
	}
}

// twoHopOrigination is istio.io, "Egress Gateways with TLS Origination".
func twoHopOrigination() *Config {
	c := twoHopHTTP()
	c.Gateways = []*Gateway{egressGateway(80, ProtocolHTTPS, istioMutual, "edition.cnn.com")}
	c.VirtualServices[0].HTTP[1].Route[0].Destination.Port = 443
	return c
}

// twoHopWildcard is istio.io, "Egress using Wildcard Hosts", by a gateway.
func twoHopWildcard() *Config {
	v := vs("via", both(), names("*.wikipedia.org"))
	v.TLS = []*TLSRule{
		{Ref: v.Ref, Matches: []*L4Match{l4on("mesh", 443, "*.wikipedia.org")}, Route: toL4(egressHost, 443)},
		{Ref: v.Ref, Matches: []*L4Match{l4on("default/egress", 443, "*.wikipedia.org")}, Route: toL4("www.wikipedia.org", 443)},
	}
	return &Config{
		Services: []*Service{
			with(se("www-wiki", ResolutionDNS, "www.wikipedia.org"), svcPort(443, ProtocolTLS)),
		},
		Gateways:        []*Gateway{egressGateway(443, ProtocolHTTPS, passthrough, "*.wikipedia.org")},
		VirtualServices: []*VirtualService{v},
	}
}

// twoHopTCP is istio.io's blog, "Consuming External MongoDB Services".
func twoHopTCP() *Config {
	v := vs("via", both(), names("mongo.example.com"))
	mesh := l4on("mesh", 27017)
	mesh.Subnets = []netip.Prefix{netip.MustParsePrefix("240.1.1.1/32")}
	v.TCP = []*TCPRule{
		{Ref: v.Ref, Matches: []*L4Match{mesh}, Route: toL4(egressHost, 7777)},
		{Ref: v.Ref, Matches: []*L4Match{l4on("default/egress", 7777)}, Route: toL4("mongo.example.com", 27017)},
	}
	return &Config{
		Services:        []*Service{with(se("mongo", ResolutionDNS, "mongo.example.com"), svcPort(27017, ProtocolTCP), svcAddresses("240.1.1.1/32"))},
		Gateways:        []*Gateway{egressGateway(7777, ProtocolTLS, istioMutual, "mongo.example.com")},
		VirtualServices: []*VirtualService{v},
	}
}

// onKubernetes adds the Service of the egress gateway.
func onKubernetes(c *Config) *Config {
	c.Services = append(c.Services, egressService())
	if len(c.Gateways) > 0 && c.Gateways[0].Servers[0].Port == 7777 {
		k := c.Services[len(c.Services)-1]
		k.Ports = append(k.Ports, Port{Number: 7777, Name: "mongo", Protocol: ProtocolTCP})
	}
	return c
}

var twoHops = map[string]func() *Config{
	"http": twoHopHTTP, "tls": twoHopTLS, "origination": twoHopOrigination, "wildcard": twoHopWildcard, "tcp": twoHopTCP,
}

// TestTwoHops: what istio.io's egress gateways do on two hops happens on one,
// with a Kubernetes Service for the gateway and without.
func TestTwoHops(t *testing.T) {
	for name, make := range twoHops {
		for _, c := range []*Config{make(), onKubernetes(make())} {
			s := mustCompile(t, c)
			file := filepath.Join("testdata", "twohop-"+name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(s.Text()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if s.Text() != string(want) {
				t.Errorf("%s: text differs from %s (rewrite with -update):\n%s", name, file, s.Text())
			}
		}
	}
}

func TestTwoHopDecisions(t *testing.T) {
	policy := func(f func() *Config) *Policy { return mustCompile(t, f()).Policy(DefaultPolicy) }
	flow := func(dst string, names ...string) Flow { return Flow{Transport: TCP, Dst: ap(dst), Names: names} }

	d := policy(twoHopHTTP).DecideHTTP(flow("192.0.2.1:80", "edition.cnn.com"), get("edition.cnn.com", "/politics"))
	if d.Verdict != Proxy || d.Destination(0).Upstream.Host != "edition.cnn.com" || d.Destination(0).Upstream.Port != 80 {
		t.Errorf("http: %+v", d)
	}
	if hops := d.Hops(); len(hops) != 1 || hops[0].Action.Rule.Name != "mesh" || d.Action.Rule.Name != "gateway" {
		t.Errorf("http: by way of %+v to %+v", hops, d.Action)
	}
	d = policy(twoHopOrigination).DecideHTTP(flow("192.0.2.1:80", "edition.cnn.com"), get("edition.cnn.com", "/politics"))
	if d.Verdict != Proxy || d.Destination(0).Upstream != nil { // no DestinationRule originates TLS
		t.Errorf("origination: %+v goes in plain text to a port for TLS", d)
	}

	p := policy(twoHopTLS)
	if _, hp := p.LookupPort("edition.cnn.com", TCP, 443); hp.Verdict != Inspect {
		t.Errorf("what leads back to where it would go is %v", hp.Verdict)
	}
	if d, u := p.DecideTLS(flow("192.0.2.1:443", "edition.cnn.com"), "edition.cnn.com"); d.Verdict == Deny || u.Host != "edition.cnn.com" {
		t.Errorf("tls: %+v %+v", d, u)
	}
	for _, ns := range []string{"default", "istio-system"} { // what is seen from the gateway alone counts
		limited := twoHopTLS()
		limited.DestinationRules = []*DestinationRule{{Ref: Ref{Kind: "DestinationRule", Namespace: ns, Name: "limit"}, Host: "edition.cnn.com",
			Export: Visibility{Namespaces: []string{ns}, Limited: true}, Traffic: &TrafficPolicy{Pool: &ConnectionPool{MaxConnections: 1}}}}
		if _, hp := mustCompile(t, limited).Policy(DefaultPolicy).LookupPort("edition.cnn.com", TCP, 443); hp.Verdict != Proxy {
			t.Errorf("a limit of namespace %s, and the kernel has %v", ns, hp.Verdict)
		}
	}
	p = policy(twoHopWildcard)
	if _, hp := p.LookupPort("en.wikipedia.org", TCP, 443); hp.Verdict != Proxy {
		t.Errorf("what leads elsewhere is %v", hp.Verdict)
	}
	if d, u := p.DecideTLS(flow("192.0.2.1:443", "en.wikipedia.org"), "en.wikipedia.org"); d.Verdict != Proxy || u.Host != "www.wikipedia.org" {
		t.Errorf("wildcard: %+v %+v", d, u)
	}
	if d, _ := p.DecideTLS(flow("192.0.2.1:443", "en.wikipedia.org"), "example.org"); d.Verdict != Deny || d.Reason != ReasonName {
		t.Errorf("another name: %+v", d)
	}
	c := policy(twoHopTCP).Candidates(flow("240.1.1.1:27017"))
	if c.Verdict != Proxy || c.Opaque == nil || c.Opaque.Host != "mongo.example.com" || c.Opaque.Port != 27017 {
		t.Errorf("tcp: %+v", c)
	}
}

// TestTwoHopDenials: a gateway that does not lead to what is allowed leads
// nowhere. These are what a file cannot say; semantics/egressgateways.txtar has
// the others.
func TestTwoHopDenials(t *testing.T) {
	request := get("edition.cnn.com", "/")
	f := Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{"edition.cnn.com"}}
	for name, c := range map[string]struct {
		change func(*Config)
		reason Reason
	}{
		"no change":      {func(*Config) {}, ReasonAllowed},
		"rewritten away": {func(c *Config) { c.VirtualServices[0].HTTP[0].Rewrite = &Rewrite{Authority: "-"} }, ReasonNoRoute},
		"no name":        {func(c *Config) { c.VirtualServices[0].HTTP[0].Rewrite = &Rewrite{Authority: "a b"} }, ReasonMalformed},
	} {
		config := onKubernetes(twoHopHTTP())
		c.change(config)
		d := mustCompile(t, config).Policy(DefaultPolicy).DecideHTTP(f, request)
		if d.Reason != c.reason {
			t.Errorf("%s: %q, want %q", name, d.Reason, c.reason)
		}
	}
}

// TestTwoHopRulesOfBoth: the rules of both hops act, the workload's first.
func TestTwoHopRulesOfBoth(t *testing.T) {
	c := twoHopHTTP()
	first, second := c.VirtualServices[0].HTTP[0], c.VirtualServices[0].HTTP[1]
	first.Matches[0].URI = &StringMatch{Kind: MatchPrefix, Value: "/a"}
	first.Rewrite = &Rewrite{URI: "/b"}
	first.Timeout = 2 * time.Second
	first.Retries = &Retries{Attempts: 1}
	first.Headers = &Headers{Request: HeaderOps{Set: []Header{{Name: "x-hop", Value: "1"}}}}
	second.Matches[0].URI = &StringMatch{Kind: MatchPrefix, Value: "/b"}
	second.Matches[0].Headers = map[string]StringMatch{"x-hop": {Kind: MatchExact, Value: "1"}}
	second.Rewrite = &Rewrite{URI: "/c"}
	second.Timeout = 5 * time.Second
	p := mustCompile(t, c).Policy(DefaultPolicy)
	f := Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{"edition.cnn.com"}}
	r := get("edition.cnn.com", "/a/x")
	d := p.DecideHTTP(f, r)
	if d.Verdict != Proxy || d.Timeout() != 2*time.Second || d.RetryPolicy() == nil || d.RetryPolicy().Attempts != 1 {
		t.Fatalf("%+v", d)
	}
	seen := d.Request(r)
	if seen.Path != "/b/x" || seen.Header.Get("X-Hop") != "1" || d.Action.RewritePath(seen.Path) != "/c/x" {
		t.Errorf("the second rule saw %+v", seen)
	}
	if len(r.Header) != 0 || r.Path != "/a/x" {
		t.Errorf("the request itself was changed: %+v", r)
	}
	second.Retries, second.Timeout = &Retries{Attempts: 3}, time.Second
	d = mustCompile(t, c).Policy(DefaultPolicy).DecideHTTP(f, r)
	if d.Timeout() != time.Second || d.RetryPolicy().Attempts != 3 {
		t.Errorf("timeout %v, retries %+v", d.Timeout(), d.RetryPolicy())
	}
}

// TestRuledNames: what a rule for TLS leads to an allowed host goes through the
// forwarding core, and is TLS; semantics/egressgateway-names.txtar says which
// names it opens.
func TestRuledNames(t *testing.T) {
	f := Flow{Transport: TCP, Dst: ap("192.0.2.1:443"), Names: []string{"en.wikipedia.org"}}
	p := mustCompile(t, twoHopWildcard()).Policy(DefaultPolicy)
	open := p.Openings("en.wikipedia.org", f.Dst.Addr())
	if len(open) == 0 {
		t.Error("nothing is open")
	}
	for _, o := range open {
		if o.Verdict != Proxy {
			t.Errorf("open in the kernel: %+v", o)
		}
	}
	if c := p.Candidates(f); c.Opaque != nil || c.HTTP || !c.TLS {
		t.Errorf("%+v", c)
	}
}

// TestTwoHopWeights: a share goes by the gateway, the rest straight.
func TestTwoHopWeights(t *testing.T) {
	c := twoHopHTTP()
	first := c.VirtualServices[0].HTTP[0]
	first.Route[0].Weight = 3
	first.Route = append(first.Route, &WeightedDestination{Destination: Destination{Host: "edition.cnn.com", Port: 80}, Weight: 1})
	p := mustCompile(t, c).Policy(DefaultPolicy)
	by := 0
	for i := range uint64(400) {
		d := p.DecideHTTP(Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{"edition.cnn.com"}, Draw: i}, get("edition.cnn.com", "/"))
		if d.Verdict != Proxy || d.Destination(0).Upstream == nil {
			t.Fatalf("%+v", d)
		}
		by += len(d.Hops())
	}
	if by != 300 {
		t.Errorf("%d of 400 by way of the gateway, want 300", by)
	}
}

// TestTwoHopLoops: a rule that leads to itself is refused; a circle of several
// ends.
func TestTwoHopLoops(t *testing.T) {
	c := twoHopHTTP()
	c.VirtualServices[0].HTTP = []*HTTPRule{to("", egressHost, 80)}
	c.VirtualServices[0].HTTP[0].Ref = c.VirtualServices[0].Ref
	if _, err := Compile(c); err == nil || strings.Count(err.Error(), "leads from gateway default/egress port 80 to the same") != 1 {
		t.Errorf("a rule that leads to itself: %v", err)
	}
	c = onKubernetes(twoHopHTTP())
	c.Gateways[0].Servers = append(c.Gateways[0].Servers, c.Gateways[0].Servers[0])
	c.Gateways[0].Servers[1].Port, c.Gateways[0].Servers[1].Name = 443, "other"
	chain := func(last uint16) []*HTTPRule {
		return []*HTTPRule{
			to("", egressHost, 80, atGateway("mesh", 80)), to("", egressHost, 443, atGateway("default/egress", 80)),
			to("", map[uint16]string{80: egressHost, 8: "edition.cnn.com"}[last], 80, atGateway("default/egress", 443)),
		}
	}
	f := Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{"edition.cnn.com"}}
	c.VirtualServices[0].HTTP = chain(8)
	if d := mustCompile(t, c).Policy(DefaultPolicy).DecideHTTP(f, get("edition.cnn.com", "/")); len(d.Hops()) != 2 || d.Destination(0).Upstream == nil {
		t.Errorf("two gateways: %+v", d)
	}
	c.VirtualServices[0].HTTP = chain(80)
	if d := mustCompile(t, c).Policy(DefaultPolicy).DecideHTTP(f, get("edition.cnn.com", "/")); d.Reason != ReasonGatewayLoop {
		t.Errorf("a circle of two: %+v", d)
	}
}

// TestTwoHopCosts: who goes on as a Gateway allocates nothing either.
func TestTwoHopCosts(t *testing.T) {
	f := Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{"edition.cnn.com"}}
	p, r := mustCompile(t, twoHopHTTP()).Policy(DefaultPolicy), get("edition.cnn.com", "/")
	if n := testing.AllocsPerRun(100, func() {
		if p.DecideHTTP(f, r).Verdict != Proxy {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("DecideHTTP allocates %v times", n)
	}
	c := twoHopWildcard()
	p = mustCompile(t, c).Policy(DefaultPolicy)
	f.Dst, f.Names = ap("192.0.2.1:443"), []string{"en.wikipedia.org"}
	if n := testing.AllocsPerRun(100, func() {
		if d, _ := p.DecideTLS(f, "en.wikipedia.org"); d.Verdict != Proxy {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("DecideTLS allocates %v times", n)
	}
}
