// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"regexp"
	"strings"
	"testing"
)

// The parts of the policies below.
const (
	toB     = "route: [{destination: {host: b.example.com}}]"
	toAPI   = "route: [{destination: {host: api.example.com}}]"
	tcp5432 = "{number: 5432, name: tcp, protocol: TCP}"
	subsets = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: api}\nspec:\n  host: api.example.com\n  subsets: [{name: v1, labels: {v: '1'}}, {name: v2, labels: {v: '2'}}]\n"
)

// resolved is the ServiceEntry of api.example.com with what follows its ports.
func resolved(ports, more string) string {
	return "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: api}\nspec:\n  hosts: [api.example.com]\n  ports: [" + ports + "]\n  " + more + "\n"
}

func static(endpoints string) string {
	return resolved(http, "resolution: STATIC\n  endpoints: ["+endpoints+"]")
}

func virtual(rules ...string) string {
	return "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: api}\nspec:\n  hosts: [api.example.com]\n  http:\n  - " + strings.Join(rules, "\n  - ") + "\n"
}

func with(what, route string) string { return virtual(what + "\n    " + route) }

func traffic(policy string) string {
	return "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: api}\nspec:\n  host: api.example.com\n  trafficPolicy: {" + policy + "}\n"
}

func authz(action, rules string) string {
	return "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: api}]\n  action: " + action + "\n  rules: [" + rules + "]\n"
}

func shares(a, b string) string {
	return virtual("route: [{destination: {host: api.example.com}, weight: " + a + "}, {destination: {host: b.example.com}, weight: " + b + "}]")
}

// passed is a rule for TLS that is passed on.
func passed(sni, to string) string {
	return "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: api}\nspec:\n  hosts: [" + sni + "]\n  tls:\n  - match: [{port: 443, sniHosts: [" + sni + "]}]\n    route: [{destination: {host: " + to + "}}]\n"
}

func toSubset(name string) string {
	return virtual("route: [{destination: {host: api.example.com, subset: " + name + "}}]")
}

// changedFields are changes of one field each, and all that is said of them.
func changedFields() map[string]struct{ old, next, want string } {
	api, b := entry("api", "api.example.com", http), entry("b", "b.example.com", http)
	one := static("{address: 192.0.2.1, labels: {v: '1'}}, {address: 192.0.2.2, labels: {v: '2'}}")
	modeOf := func(mode string) string { return strings.Replace(workload, "spec: {", "spec: {mode: "+mode+", ", 1) }
	outbound := strings.Replace(sidecar, "spec:\n", "spec:\n  outboundTrafficPolicy: {mode: ALLOW_ANY}\n", 1)
	return map[string]struct{ old, next, want string }{
		"hosts": {
			api, api + b,
			lines(
				"b.example.com:80/tcp becomes reachable: HTTP proxy (ServiceEntry default/b)",
			),
		},
		"ports": {
			api, entry("api", "api.example.com", http+", "+https),
			lines(
				"api.example.com:443/tcp becomes reachable: HTTPS inspect (ServiceEntry default/api)",
			),
		},
		"protocol": {
			api, entry("api", "api.example.com", strings.Replace(http, "HTTP}", "TCP}", 1)),
			lines(
				"the protocol is now TCP (it was HTTP)",
				"what passes is now let through straight to the destination (it was sent through the proxy)",
				"the protocol to the upstream is now TCP (it was HTTP)",
			),
		},
		"addresses": {
			resolved(tcp5432, "resolution: NONE\n  addresses: [10.0.0.0/8, '2001:db8::/32']"), resolved(tcp5432, "resolution: NONE\n  addresses: [10.0.0.0/16, '2001:db8::/48']"),
			lines(
				"10.0.0.0/16:5432/tcp becomes reachable: direct",
				"10.0.0.0/8:5432/tcp becomes unreachable; it was: direct",
				"2001:db8::/32:5432/tcp becomes unreachable; it was: direct",
				"2001:db8::/48:5432/tcp becomes reachable: direct",
				"the list of addresses that are open by themselves is now [10.0.0.0/16 2001:db8::/48] (it was [10.0.0.0/8 2001:db8::/32])",
			),
		},
		"endpoints": {
			static("{address: 192.0.2.1}"), static("{address: 192.0.2.1}, {address: '2001:db8::2'}"),
			lines(
				"2001:db8::2/128:80/tcp becomes reachable: proxy",
				"the list of endpoints is now 192.0.2.1:80 [2001:db8::2]:80 (it was 192.0.2.1:80)",
				"what DNS questions are answered with is now [192.0.2.1 2001:db8::2] (it was [192.0.2.1])",
				"the list of addresses that are open by themselves is now [192.0.2.1/32 2001:db8::2/128] (it was [192.0.2.1/32])",
			),
		},
		"weight of an endpoint": {
			static("{address: 192.0.2.1}, {address: 192.0.2.2}"), static("{address: 192.0.2.1, weight: 3}, {address: 192.0.2.2}"),
			lines(
				"the list of endpoints is now 192.0.2.1:80*3 192.0.2.2:80 (it was 192.0.2.1:80 192.0.2.2:80)",
			),
		},
		"resolution": {
			api, resolved(http, "resolution: NONE"),
			lines(
				"the resolution is now NONE (it was DNS)",
				"the list of endpoints is no longer set (it was api.example.com:80)",
			),
		},
		"workloadSelector": {
			static("{address: 192.0.2.1}"), resolved(http, "resolution: STATIC\n  workloadSelector: {labels: {app: x}}"),
			lines(
				"192.0.2.1/32:80/tcp becomes unreachable; it was: proxy",
				"the list of endpoints is now empty, so that nothing arrives (it was 192.0.2.1:80)",
				"what DNS questions are answered with is now [] (it was [192.0.2.1])",
				"the list of addresses that are open by themselves is no longer set (it was [192.0.2.1/32])",
			),
		},
		"exportTo": {
			api + workload, resolved(http, "resolution: DNS\n  exportTo: ['.']") + workload,
			lines(
				"api.example.com:80/tcp becomes unreachable; it was: HTTP proxy (ServiceEntry default/api)",
			),
		},
		"location": {
			api, resolved(http, "resolution: DNS\n  location: MESH_INTERNAL"),
			"",
		},
		"destination": {
			api + b + virtual(toAPI), api + b + virtual(toB),
			lines(
				"b.example.com now receives everything",
				"api.example.com receives nothing any more (it was everything)",
			),
		},
		"weight": {
			api + b + shares("90", "10"), api + b + shares("50", "50"),
			lines(
				"api.example.com now receives 50% (it was 90%)",
				"b.example.com now receives 50% (it was 10%)",
			),
		},
		"subset": {
			one + subsets + toSubset("v1"), one + subsets + toSubset("v2"),
			lines(
				"api.example.com subset v2 now receives everything",
				"api.example.com subset v1 receives nothing any more (it was everything)",
			),
		},
		"timeout": {
			api + with("timeout: 3s", toAPI), api + with("timeout: 10s", toAPI),
			lines(
				"the timeout is now 10s (it was 3s)",
			),
		},
		"a first timeout": {
			api + virtual(toAPI), api + with("timeout: 10s", toAPI),
			lines(
				"the timeout is now 10s (it was not set)",
			),
		},
		"no timeout any more": {
			api + with("timeout: 10s", toAPI), api + virtual(toAPI),
			lines(
				"the timeout is no longer set (it was 10s)",
			),
		},
		"retries": {
			api + with("retries: {attempts: 1}", toAPI), api + with("retries: {attempts: 3, perTryTimeout: 2s, retryOn: 5xx}", toAPI),
			lines(
				"the retry policy is now 3 retries on 5xx, 2s per try (it was 1 retry where it is safe)",
			),
		},
		"perTryTimeout": {
			api + with("retries: {attempts: 3, perTryTimeout: 1s}", toAPI), api + with("retries: {attempts: 3, perTryTimeout: 2s}", toAPI),
			lines(
				"the retry policy is now 3 retries where it is safe, 2s per try (it was 3 retries where it is safe, 1s per try)",
			),
		},
		"fault": {
			api + virtual(toAPI), api + with("fault: {delay: {fixedDelay: 2s, percentage: {value: 10}}, abort: {httpStatus: 503, percentage: {value: 5}}}", toAPI),
			lines(
				"the injected delay is now 2s for 10% of the requests (it was not set)",
				"the injected answer is now 503 for 5% of the requests (it was not set)",
			),
		},
		"mirror": {
			api + b + virtual(toAPI), api + b + with("mirror: {host: b.example.com}\n    mirrorPercentage: {value: 10}", toAPI),
			lines(
				"the part of the requests that is mirrored to b.example.com is now 10% (it was not set)",
			),
		},
		"rewrite": {
			api + virtual(toAPI), api + with("rewrite: {uri: /v2, authority: x.example.com}", toAPI),
			lines(
				`the path in place of the matched one is now "/v2" (it was not set)`,
				`the authority that is sent is now "x.example.com" (it was not set)`,
			),
		},
		"redirect": {
			api + virtual(toAPI), api + virtual("redirect: {uri: /v2, authority: x.example.com, redirectCode: 302}"),
			lines(
				`the redirect is now 302 to path "/v2", authority "x.example.com" (it was not set)`,
				"api.example.com receives nothing any more (it was everything)",
			),
		},
		"directResponse": {
			api + virtual(toAPI), api + virtual("directResponse: {status: 403, body: {string: nope}}"),
			lines(
				`the answer of the proxy itself is now 403: "nope" (it was not set)`,
				"api.example.com receives nothing any more (it was everything)",
			),
		},
		"headers": {
			api + with("headers: {request: {set: {x-a: b}}}", toAPI), api + with("headers: {request: {set: {x-a: c}, remove: [x-c]}, response: {add: {x-d: e}}}", toAPI),
			lines(
				`request header "x-c" is now removed`,
				`request header "x-a" is now set to "c" (it was set to "b")`,
				`response header "x-d" is now added with "e"`,
			),
		},
		"headers of a destination": {
			api + virtual(toAPI), api + virtual("route: [{destination: {host: api.example.com}, headers: {request: {set: {x-a: b}}}}]"),
			lines(
				`request header "x-a" for api.example.com is now set to "b"`,
			),
		},
		"corsPolicy": {
			api + virtual(toAPI), api + with("corsPolicy: {allowOrigins: [{exact: 'https://x.example'}, {prefix: 'https://y.'}], allowMethods: [GET]}", toAPI),
			lines(
				"the list of origins that CORS allows is now [https://x.example https://y.*] (it was not set)",
				"the list of methods that CORS allows is now [GET] (it was not set)",
			),
		},
		"match": {
			api + virtual(toAPI), api + with("match: [{uri: {prefix: /v1}, method: {exact: GET}}]", toAPI),
			lines(
				`a rule is now for requests with uri^="/v1" method="GET" (it was for all requests)`,
			),
		},
		"a rule comes": {
			api + b + virtual(toAPI), api + b + virtual("match: [{uri: {prefix: /v1}}]\n    timeout: 2s\n    "+toB, toAPI),
			lines(
				`a rule for requests with uri^="/v1" comes: everything to b.example.com, the timeout is 2s`,
			),
		},
		"a timeout of some requests": {
			api + virtual("match: [{uri: {prefix: /v1}}]\n    timeout: 2s\n    "+toAPI, toAPI), api + virtual("match: [{uri: {prefix: /v1}}]\n    timeout: 4s\n    "+toAPI, toAPI),
			lines(
				`of requests with uri^="/v1": the timeout is now 4s (it was 2s)`,
			),
		},
		"rules change places": {
			api + virtual("match: [{uri: {prefix: /v1}}]\n    "+toAPI, "match: [{uri: {prefix: /v2}}]\n    "+toAPI), api + virtual("match: [{uri: {prefix: /v2}}]\n    "+toAPI, "match: [{uri: {prefix: /v1}}]\n    "+toAPI),
			lines(
				`the rule for requests with uri^="/v1" is no longer in this place; it was: everything to api.example.com`,
				`a rule for requests with uri^="/v1" comes: everything to api.example.com`,
			),
		},
		"a route of TLS": {
			entry("api", "api.example.com", https) + entry("b", "b.example.com", https) + passed("api.example.com", "api.example.com"),
			entry("api", "api.example.com", https) + entry("b", "b.example.com", https) + passed("api.example.com", "b.example.com"),
			lines(
				"what passes is now sent through the proxy (it was let through straight after the name in its TLS was read)",
				"of TLS connections with sni [api.example.com] port 443: b.example.com now receives everything",
				"of TLS connections with sni [api.example.com] port 443: api.example.com receives nothing any more (it was everything)",
			),
		},
		"tls mode": {
			api, api + traffic("tls: {mode: SIMPLE}"),
			lines(
				"the object with the traffic policy is now DestinationRule default/api (it was not set)",
				"the TLS mode to the upstream is now SIMPLE (it was not set)",
			),
		},
		"sni": {
			api + traffic("tls: {mode: SIMPLE, sni: a.example}"), api + traffic("tls: {mode: SIMPLE, sni: b.example}"),
			lines(
				`the SNI that is sent to the upstream is now "b.example" (it was "a.example")`,
			),
		},
		"caCertificates": {
			api + traffic("tls: {mode: SIMPLE}"), api + traffic("tls: {mode: SIMPLE, caCertificates: /etc/ca.pem}"),
			lines(
				`the file of CAs that the upstream's certificate must be of is now "/etc/ca.pem" (it was not set)`,
			),
		},
		"loadBalancer": {
			one + traffic("loadBalancer: {simple: ROUND_ROBIN}"), one + traffic("loadBalancer: {simple: RANDOM}"),
			lines(
				`the way in which endpoints are chosen is now "RANDOM" (it was "ROUND_ROBIN")`,
			),
		},
		"consistentHash": {
			one + traffic("loadBalancer: {consistentHash: {httpHeaderName: x-user}}"), one + traffic("loadBalancer: {consistentHash: {httpQueryParameterName: u}}"),
			lines(
				`the parameter by which endpoints are chosen is now "u" (it was not set)`,
				`the header by which endpoints are chosen is no longer set (it was "x-user")`,
			),
		},
		"outlierDetection": {
			one, one + traffic("outlierDetection: {consecutive5xxErrors: 3, interval: 5s, baseEjectionTime: 30s}"),
			lines(
				"the object with the traffic policy is now DestinationRule default/api (it was not set)",
				"the number of 5xx in a row after which an endpoint is ejected is now 3 (it was not set)",
				"the time between the sweeps that eject endpoints is now 5s (it was not set)",
				"the least time for which an endpoint is ejected is now 30s (it was not set)",
			),
		},
		"connectionPool": {
			api + traffic("connectionPool: {tcp: {maxConnections: 10}}"), api + traffic("connectionPool: {tcp: {maxConnections: 20, connectTimeout: 3s}, http: {http1MaxPendingRequests: 5}}"),
			lines(
				"the most connections to the upstream is now 20 (it was 10)",
				"the timeout of a connection to the upstream is now 3s (it was not set)",
				"the most requests that wait for a connection is now 5 (it was not set)",
			),
		},
		"traffic of a destination": {
			api + b + virtual(toAPI), api + b + virtual(toAPI) + traffic("tls: {mode: SIMPLE}"),
			lines(
				"the object with the traffic policy is now DestinationRule default/api (it was not set)",
				"the TLS mode to the upstream is now SIMPLE (it was not set)",
				"the object with the traffic policy of api.example.com is now DestinationRule default/api (it was not set)",
				"the TLS mode to the upstream of api.example.com is now SIMPLE (it was not set)",
			),
		},
		"egress of a Sidecar": {
			api + b + workload, api + b + workload + sidecar,
			lines(
				"b.example.com:80/tcp becomes unreachable; it was: HTTP proxy (ServiceEntry default/b)",
			),
		},
		"outboundTrafficPolicy of a Sidecar": {
			api + workload + sidecar, api + workload + outbound,
			lines(
				"what no object declares is now let through (ALLOW_ANY of Sidecar ci/s)",
			),
		},
		"AuthorizationPolicy": {
			api, api + authz("DENY", "{to: [{operation: {methods: [POST]}}]}"),
			lines(
				"AuthorizationPolicy default/p is now in force: what its rules name is denied",
				"AuthorizationPolicy default/p (DENY) has a new rule: to method [POST]",
			),
		},
		"rules of an AuthorizationPolicy": {
			api + authz("ALLOW", "{to: [{operation: {methods: [GET]}}]}"), api + authz("ALLOW", "{to: [{operation: {methods: [GET, POST], notPaths: [/x]}}]}"),
			lines(
				"a rule of AuthorizationPolicy default/p (ALLOW) is now: to method [GET POST] path not [/x] (it was: to method [GET])",
			),
		},
		"mode of a Workload": {
			api + workload, api + modeOf("audit"),
			lines(
				"the mode is now audit, in which a denial is told and the flow passes (it was the node's)",
			),
		},
		"selectors of a Workload": {
			api + workload, api + strings.Replace(workload, "build.service]", "other.service]", 1),
			lines(
				"the processes of cgroup system.slice/other.service are now of this workload",
				"the processes of cgroup system.slice/build.service are no longer of this workload",
			),
		},
	}
}

// compiled is what no sentence has: a line of the compiled policy, or Go's way to
// write a value.
var compiled = regexp.MustCompile(`\d+/\d+: |\{\w+=|not \[\]|^(now|no longer): |upstream \S+:\d+ |\{\d `)

// TestSentences: each field that can change is told in sentences, forwards and backwards,
// and none of them has a line of the compiled policy.
func TestSentences(t *testing.T) {
	for name, c := range changedFields() {
		old, next := snapshot(t, c.old), snapshot(t, c.next)
		var got []string
		for _, d := range Policies(old, next) {
			got = append(got, d.Says...)
		}
		if s := strings.Join(got, "\n"); s != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, s, c.want)
		}
		for _, d := range append(Policies(old, next), Policies(next, old)...) {
			for _, s := range d.Says {
				if compiled.MatchString(s) {
					t.Errorf("%s: not a sentence: %s", name, s)
				}
			}
			if len(d.Says) == 0 {
				t.Errorf("%s: nothing is said of %s", name, d.What)
			}
		}
	}
}

// TestUnknownLine: what has no words is told as it stands, never left out.
func TestUnknownLine(t *testing.T) {
	got := strings.Join(sentences([]string{"strange 1", "same"}, []string{"same", "strange 2"}), "\n")
	if want := "now: strange 2\nno longer: strange 1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := sentences([]string{"a", "b"}, []string{"b", "a"}); len(got) != 1 || !strings.Contains(got[0], "order") {
		t.Error(got)
	}
}

func lines(all ...string) string { return strings.Join(all, "\n") }

// FuzzSentences: whatever texts are compared, it ends, and something is said when they
// differ and nothing when they do not.
func FuzzSentences(f *testing.F) {
	f.Add("if any\n  to a:0 1/1: a:80 HTTP DNS a:80\nif any", "if any\n  timeout 3s, counted from the request; then 504\ntls any (VirtualService a/b)\n  to a:0 0/0: unknown")
	f.Add("upstream a:1 HTTP DNS traffic {A={B=\"}\" C=[1 2]} D} (X a/b)", "upstream a:1 HTTP DNS traffic {A={} B=1} (X a/b) failover a=b")
	f.Add("    deep\n  DENY (AuthorizationPolicy a/b)\n    if any (AuthorizationPolicy a/b)", "CORS policy {{} not routed")
	f.Fuzz(func(t *testing.T, a, b string) {
		old, next := strings.Split(a, "\n"), strings.Split(b, "\n")
		if got := sentences(old, next); len(got) == 0 && a != b {
			t.Errorf("nothing is said of %q and %q", a, b)
		}
		if got := sentences(old, old); len(got) > 0 {
			t.Errorf("%q differs from itself: %q", a, got)
		}
	})
}
