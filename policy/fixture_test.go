// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/config"
	"github.com/egressd/egressd/policy/internal/match"
)

// se returns a ServiceEntry in namespace default. Its line is made of its
// name, so that tests can tell rules apart.
func se(name string, r Resolution, hosts ...hostname.Pattern) *Service {
	return &Service{
		Ref:      Ref{Kind: "ServiceEntry", Namespace: "default", Name: name, File: name + ".yaml", Line: 4},
		External: true, Hosts: hosts, Resolution: r,
	}
}

// with changes an object of a fixture, and returns it.
func with[T any](x *T, changes ...func(*T)) *T {
	for _, change := range changes {
		change(x)
	}
	return x
}

func svcPort(n uint16, p Protocol) func(*Service) {
	return func(s *Service) {
		s.Ports = append(s.Ports, Port{Number: n, Name: p.String(), Protocol: p})
	}
}

func svcTarget(n uint16) func(*Service) {
	return func(s *Service) {
		s.Ports[len(s.Ports)-1].TargetPort = n
	}
}

func svcAddresses(prefixes ...string) func(*Service) {
	return func(s *Service) {
		for _, p := range prefixes {
			s.Addresses = append(s.Addresses, netip.MustParsePrefix(p))
		}
	}
}

func svcEndpoint(addr string) func(*Service) {
	return func(s *Service) {
		e := Endpoint{Host: addr}
		if a, err := netip.ParseAddr(addr); err == nil {
			e = Endpoint{Addr: a}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
}

// svcLabels gives the last endpoint labels.
func svcLabels(labels map[string]string) func(*Service) {
	return func(s *Service) {
		s.Endpoints[len(s.Endpoints)-1].Labels = labels
	}
}

// kube returns a Kubernetes Service in namespace default.
func kube(name string) *Service {
	return &Service{
		Ref:        Ref{Kind: "Service", Namespace: "default", Name: name, File: name + ".yaml", Line: 4},
		Hosts:      []hostname.Pattern{hostname.Pattern(name + ".default.svc.cluster.local")},
		Resolution: ResolutionStatic,
	}
}

func vs(name string, gateways []string, hosts []hostname.Pattern, rules ...*HTTPRule) *VirtualService {
	v := &VirtualService{
		Ref:   Ref{Kind: "VirtualService", Namespace: "default", Name: name, File: name + ".yaml", Line: 4},
		Hosts: hosts, Gateways: gateways, HTTP: rules,
	}
	for _, r := range rules {
		if r.Ref == (Ref{}) {
			r.Ref = v.Ref
		}
	}
	return v
}

func names(p ...hostname.Pattern) []hostname.Pattern { return p }

var mesh = []string{"mesh"}

// to is a rule that routes to one destination.
func to(name, host string, port uint16, matches ...*HTTPMatch) *HTTPRule {
	return &HTTPRule{
		Name: name, Matches: matches,
		Route: []*WeightedDestination{{Destination: Destination{Host: host, Port: port}}},
	}
}

// answer is a rule that answers by itself; its name tells rules apart.
func answer(name string, matches ...*HTTPMatch) *HTTPRule {
	return &HTTPRule{Name: name, Matches: matches, DirectResponse: &DirectResponse{Status: 200}}
}

func uri(k MatchKind, v string) *HTTPMatch { return &HTTPMatch{URI: &StringMatch{Kind: k, Value: v}} }

func mustCompile(t testing.TB, c *Config) *Snapshot {
	t.Helper()
	s, err := Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// defaultOf compiles services and rules into the default policy.
func defaultOf(t testing.TB, services []*Service, rules ...*VirtualService) *Policy {
	t.Helper()
	return mustCompile(t, &Config{Services: services, VirtualServices: rules}).Policy(DefaultPolicy)
}

// allowing is a list of AllowedEndpoints.
func allowing(list ...string) []AllowedEndpoint {
	var out []AllowedEndpoint
	for _, s := range list {
		a, err := ParseAllowedEndpoint(s)
		if err != nil {
			panic(err)
		}
		out = append(out, a)
	}
	return out
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// seedConfig is the four seed cases in one.
func seedConfig() *Config {
	db := kube("external-db")
	db.Ports = []Port{{Number: 3306, Protocol: ProtocolTCP}}
	db.Endpoints = []Endpoint{{Addr: netip.MustParseAddr("190.64.31.232"), Ports: map[string]uint16{"": 3307}}}
	page := kube("productpage")
	page.Ports = []Port{{Number: 9080, Name: "http", Protocol: ProtocolHTTP}}
	page.Endpoints = []Endpoint{{Addr: netip.MustParseAddr("10.0.0.9"), Ports: map[string]uint16{"http": 19080}, Weight: 3}}
	timeout := to("", "www.googleapis.com", 0)
	timeout.Timeout = 10 * time.Second
	gateway := Ref{Kind: "Gateway", Namespace: "default", Name: "bookinfo-gateway", File: "gw.yaml", Line: 5}
	return &Config{
		Services: []*Service{
			with(se("googleapis", ResolutionDNS, "www.googleapis.com"), svcPort(80, ProtocolHTTP), svcPort(443, ProtocolHTTPS)),
			with(se("external-db", ResolutionStatic, "external-db"), svcPort(3306, ProtocolTCP)),
			with(se("external-db-dns", ResolutionDNS, "external-db.xxx.yyy"), svcPort(3306, ProtocolTCP)),
			db, page,
		},
		VirtualServices: []*VirtualService{
			vs("timeout-for-googleapis", mesh, names("www.googleapis.com"), timeout),
			vs("bookinfo", []string{"default/bookinfo-gateway"}, names("*"),
				to("", "productpage.default.svc.cluster.local", 9080, uri(MatchExact, "/productpage"), uri(MatchPrefix, "/static"),
					uri(MatchExact, "/login"), uri(MatchExact, "/logout"), uri(MatchPrefix, "/api/v1/products"))),
		},
		Gateways: []*Gateway{{
			Ref: gateway, Selector: map[string]string{"istio": "ingressgateway"},
			Servers: []GatewayServer{{Ref: gateway, Name: "http", Port: 80, Protocol: ProtocolHTTP, Hosts: names("*"), HostNamespaces: []string{"*"}}},
		}},
		GatewaySelector: map[string]string{"istio": "ingressgateway", "app": "gw"},
	}
}

// richConfig uses every field that Config has, with values of its own.
func richConfig() *Config {
	match := &HTTPMatch{
		Name: "all", URI: &StringMatch{Kind: MatchPrefix, Value: "/v1"}, IgnoreURICase: true, Scheme: &StringMatch{Kind: MatchExact, Value: "http"},
		Method: &StringMatch{Kind: MatchRegex, Value: "GET|HEAD"}, Authority: &StringMatch{Kind: MatchPrefix, Value: "api"},
		Headers:        map[string]StringMatch{"x-a": {Kind: MatchExact, Value: "1"}, "x-b": {Kind: MatchPresent, Value: ""}},
		WithoutHeaders: map[string]StringMatch{"x-c": {Kind: MatchPrefix, Value: "2"}},
		QueryParams:    map[string]StringMatch{"q": {Kind: MatchRegex, Value: "[a-z]+"}},
		Port:           80, Gateways: []string{"mesh", "default/gw"},
	}
	full := &HTTPRule{
		Name: "full", Matches: []*HTTPMatch{match},
		Route: []*WeightedDestination{
			{Destination: Destination{Host: "api.example.com", Port: 8080}, Weight: 3, Headers: &Headers{Request: HeaderOps{Add: []Header{{Name: "x-d", Value: "1"}}}}},
			{Destination: Destination{Host: "x.wild.example.org", Port: 80}, Weight: 1},
			{Destination: Destination{Host: "inside.default.svc.cluster.local", Port: 0}, Weight: 2},
			{Destination: Destination{Host: "unknown.example.net", Port: 0}, Weight: 4},
		},
		Rewrite: &Rewrite{URI: "/v2", Authority: "other", RegexMatch: "a(.)", RegexRewrite: `b\1`},
		Timeout: 3 * time.Second,
		Retries: &Retries{Attempts: 2, PerTryTimeout: time.Second, On: []string{"5xx"}, Codes: []int{418}, Backoff: time.Millisecond, AnyHost: true},
		Fault:   &Fault{Delay: time.Second, DelayPercent: 1, AbortStatus: 500, AbortGRPC: -1, AbortPercent: 2},
		Mirrors: []Mirror{{Destination: Destination{Host: "api.example.com", Port: 80}, Percent: 5}, {Destination: Destination{Host: "x.wild.example.org", Port: 80}, Percent: 100}},
		CORS: &CORS{AllowOrigins: []StringMatch{{Kind: MatchExact, Value: "https://a"}, {Kind: MatchRegex, Value: "https://b.*"}}, AllowMethods: []string{"GET"},
			AllowHeaders: []string{"x-f"}, ExposeHeaders: []string{"x-g"}, MaxAge: new(time.Minute), AllowCredentials: new(true), IgnorePreflights: true},
		Headers: &Headers{Request: HeaderOps{Set: []Header{{Name: "x-e", Value: "1"}}}, Response: HeaderOps{Remove: []string{"server"}}},
	}
	moved := &HTTPRule{Name: "moved", Matches: []*HTTPMatch{uri(MatchExact, "/old")}, Redirect: &Redirect{
		URI: "/new", PrefixRewrite: "/p", Authority: "new.example.com", Port: 8443, DerivePort: "FROM_REQUEST_PORT", Scheme: "https", Code: 302}}
	static := with(se("static", ResolutionStatic, "db.example.com"), svcPort(5432, ProtocolTCP), svcTarget(15432), svcAddresses("240.1.1.1/32", "fd00:5::/64"), svcEndpoint("192.0.2.10"), svcEndpoint("2001:db8::10"))
	static.Endpoints[0].Ports = map[string]uint16{"TCP": 25432}
	static.Endpoints[0].Weight = 5
	wild := with(se("wild", ResolutionNone, "*.wild.example.org"), svcPort(80, ProtocolHTTP), svcPort(443, ProtocolTLS))
	wild.AllowPrivate = true
	inside := kube("inside")
	inside.Ports = []Port{{Number: 80, Name: "http", Protocol: ProtocolHTTP}, {Number: 81, Name: "admin", Protocol: ProtocolHTTP, TargetPort: 9081}}
	inside.Endpoints = []Endpoint{{Addr: netip.MustParseAddr("10.1.1.1")}}
	out := egressGateway(443, ProtocolTLS, passthrough, "*.wild.example.org")
	out.Servers[0].TLS = &ServerTLS{}
	via := vs("via", both(), names("*.wild.example.org"))
	via.TLS = []*TLSRule{
		{Ref: via.Ref, Matches: []*L4Match{l4on("mesh", 443, "*.wild.example.org")}, Route: toL4(egressHost, 443)},
		{Ref: via.Ref, Matches: []*L4Match{l4on("default/egress", 443, "*.wild.example.org")}, Route: toL4("x.wild.example.org", 443)},
	}
	socket := with(se("socket", ResolutionStatic, "socket.example.com"), svcPort(9001, ProtocolTCP), svcAddresses("240.1.1.3/32"))
	socket.Endpoints = []Endpoint{{Unix: "/run/socket", Locality: "r/z", Labels: map[string]string{"version": "v1"}}, {Unix: "/run/other"}}
	full.Route[0].Destination.Subset = "v1"
	gw := Ref{Kind: "Gateway", Namespace: "default", Name: "gw", File: "gw.yaml", Line: 9, Column: 3}
	return &Config{
		Services: []*Service{
			with(se("api", ResolutionDNS, "api.example.com"), svcPort(80, ProtocolHTTP), svcPort(8080, ProtocolHTTP2), svcEndpoint("a.example.net"), svcEndpoint("b.example.net"), svcLabels(map[string]string{"version": "v1"})),
			static, wild, inside,
			with(se("ntp", ResolutionDNS, "time.example.com"), svcPort(123, ProtocolUDP)),
			with(se("vip", ResolutionDNS, "vip.example.com"), svcPort(9000, ProtocolUnset), svcAddresses("240.1.1.2/32")),
			socket,
			with(se("nets", ResolutionNone, "nets.example.com"), svcPort(25, ProtocolTCP), svcAddresses("198.51.100.0/24", "2001:db8:25::/48")),
		},
		AllowedEndpoints: []AllowedEndpoint{{Unix: "/run/socket"}, {Unix: "/run/other"}},
		VirtualServices: []*VirtualService{
			vs("api", []string{"mesh", "default/gw"}, names("api.example.com", "*.b.wild.example.org"), full, moved, answer("rest")),
			via,
		},
		Gateways: []*Gateway{{Ref: gw, Selector: map[string]string{"a": "b"}, Servers: []GatewayServer{
			{Ref: gw, Name: "http", Port: 80, Bind: netip.MustParseAddr("127.0.0.1"), Protocol: ProtocolHTTP,
				Hosts: names("*.example.com", "old.example.net"), HostNamespaces: []string{"*", "default"}},
			{Ref: gw, Name: "local", Unix: "/run/web.sock", Protocol: ProtocolHTTP, Hosts: names("*.example.com"), HostNamespaces: []string{"*"}},
			{Ref: gw, Name: "up", Port: 8081, Protocol: ProtocolHTTP, Hosts: names("secure.example.com"),
				HostNamespaces: []string{"default"}, HTTPSRedirect: true},
			{Ref: gw, Name: "tls", Port: 8443, Protocol: ProtocolHTTPS, Hosts: names("api.example.com"), HostNamespaces: []string{"*"}, TLS: &ServerTLS{
				Mode: ServerMutual, Certificates: []CertificateFiles{{Certificate: "/c", PrivateKey: "/k"}}, CA: "/ca", CRL: "/crl", CredentialNames: []string{"cred"},
				SubjectAltNames: []string{"san"}, VerifySPKI: []string{"spki"}, VerifyHash: []string{"hash"},
				MinVersion: 0x303, MaxVersion: 0x304, CipherSuites: []string{"ECDHE"}}},
		}}, out},
		GatewaySelector: map[string]string{"a": "b"},
		Authorizations:  richAuthorizations(),
		DestinationRules: []*DestinationRule{
			{Ref: Ref{Kind: "DestinationRule", Namespace: "istio-system", Name: "api", File: "dr.yaml", Line: 2, Column: 1},
				Host: "api.example.com", Traffic: richTraffic(), Subsets: []Subset{
					{Name: "v1", Labels: map[string]string{"version": "v1"}, Traffic: &TrafficPolicy{
						LoadBalancer: &LoadBalancer{Hash: &ConsistentHash{Cookie: &HashCookie{Name: "c", Path: "/", TTL: new(time.Minute), Attributes: []Header{{Name: "SameSite", Value: "Lax"}}}}}}},
				}},
		},
		Mesh: Mesh{
			Ref:     Ref{Kind: "MeshConfig", Namespace: "istio-system", Name: "mesh", File: "mesh.yaml", Line: 1, Column: 1},
			Retries: &Retries{Attempts: 1, PerTryTimeout: time.Second, On: []string{"reset"}, Codes: []int{503}, Backoff: time.Second},
		},
	}
}

// richAuthorizations guard the ServiceEntries api and nets of richConfig with
// every field.
func richAuthorizations() []*AuthorizationPolicy {
	ref := func(name string) Ref {
		return Ref{Kind: "AuthorizationPolicy", Namespace: "default", Name: name, File: "authz.yaml", Line: 3, Column: 1}
	}
	match := func(list ...string) []ValueMatch { return match.ParseValues(list) }
	path := []PathMatch{{ValueMatch: config.ParseValueMatch("/v1*")}, {ValueMatch: config.ParseValueMatch("*/v2")}, {Template: "/{*}/{**}"}}
	net := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	full := &AuthRule{
		Ref: ref("full"),
		From: []*AuthSource{{
			Principals: match("cluster.local/ns/default/sa/default"), NotPrincipals: match("x"), Namespaces: match("def*"), NotNamespaces: match("y"),
			ServiceAccounts: match("default/default"), NotServiceAccounts: match("z"), TrustDomains: match("*local"), NotTrustDomains: match("w"),
			IPBlocks: net, NotIPBlocks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
		}},
		To: []*AuthOperation{{
			Hosts: match("api.example.com"), NotHosts: match("b.example.com"), Ports: []uint16{80, 8080}, NotPorts: []uint16{81},
			Methods: match("GET", "P*"), NotMethods: match("PUT"), Paths: path, NotPaths: []PathMatch{{ValueMatch: config.ParseValueMatch("/x")}},
		}},
		When: []*AuthCondition{{Key: "request.headers[x-a]", Values: []string{"*"}, NotValues: []string{"2"}}, {Key: "destination.port", NotValues: []string{"22"}}},
	}
	target := func(name string) []AuthTarget { return []AuthTarget{{Kind: "ServiceEntry", Name: name}} }
	return []*AuthorizationPolicy{
		{Ref: ref("allow"), Targets: target("api"), Rules: []*AuthRule{full}},
		{Ref: ref("audit"), Action: AuthAudit, Targets: target("nets"), Rules: []*AuthRule{{Ref: ref("any")}}},
		{Ref: ref("dry"), Action: AuthDeny, DryRun: true, Targets: target("nets"), Rules: []*AuthRule{{Ref: ref("any")}}},
	}
}

// richTraffic has every field that a DestinationRule can have.
func richTraffic() *TrafficPolicy {
	n := uint32(5)
	yes := true
	return &TrafficPolicy{
		LoadBalancer: &LoadBalancer{Simple: "ROUND_ROBIN", Warmup: &Warmup{Window: time.Second, Least: 20, Aggression: 2},
			Hash:     &ConsistentHash{Header: "x", Query: "q", SourceIP: true, RingSize: 100, Maglev: 101},
			Locality: &Locality{Disabled: true, Distribute: []Distribute{{From: "r/z", To: []LocalityWeight{{Locality: "r/*", Percent: 100}}}}, Failover: []Failover{{From: "r", To: "s"}}}},
		Pool: &ConnectionPool{MaxConnections: 1, ConnectTimeout: time.Second, TCPIdleTimeout: time.Minute, MaxConnectionDuration: time.Hour,
			Keepalive: &Keepalive{Probes: 3, Idle: time.Second, Interval: time.Second}, HTTPIdleTimeout: time.Minute, MaxPendingRequests: 2,
			MaxRequests: 3, MaxRequestsPerConn: 4, MaxRetries: 5, MaxConcurrentStreams: 6, UpgradeHTTP2: &yes, UseClientProtocol: true},
		Outlier: &OutlierDetection{Consecutive5xx: &n, ConsecutiveGateway: &n, ConsecutiveLocal: &n, SplitLocal: true, Interval: time.Second,
			BaseEjection: time.Second, MaxEjectionPercent: 10, MinHealthPercent: 20, Codes: []uint32{500}},
		TLS: &ClientTLS{Mode: TLSMutual, Certificate: "cert", PrivateKey: "key", CA: "ca", CRL: "crl", CredentialName: "name",
			SubjectAltNames: []string{"san"}, SNI: "sni", InsecureSkipVerify: true},
		Tunnel:        &Tunnel{Protocol: "CONNECT", TargetHost: "proxy.example.com", TargetPort: 3128},
		ProxyProtocol: 2, RetryBudget: &RetryBudget{Percent: 25, MinConcurrency: 7},
		Ports: map[uint16]*TrafficPolicy{80: {Pool: &ConnectionPool{MaxConnections: 9}}},
	}
}
