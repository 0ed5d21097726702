// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"
	"time"
)

// TestWhyAuthorization: which AuthorizationPolicy denies, or that one allows
// others only, wherever on the way it guards; and what DestinationRules do.
func TestWhyAuthorization(t *testing.T) {
	closed := on(&AuthOperation{Paths: paths("/closed*")})
	originate := dr("default", "originate", "edition.cnn.com", time.Second)
	originate.Traffic.TLS = &ClientTLS{Mode: TLSIstioMutual}
	withRules := func(c *Config, rules ...*DestinationRule) *Config { c.DestinationRules = rules; return c }
	dry := authorize(AuthDeny, "http", &AuthRule{})
	dry.DryRun = true
	led := guarded(authorize(AuthDeny, "http", &AuthRule{}))
	led.VirtualServices = []*VirtualService{vs("lead", mesh, names("any.example.com"), to("", "http.example.com", 80))}
	http, tls, cnn := "http.example.com", "tls.example.com", "edition.cnn.com"
	for _, c := range []struct {
		name   string
		config *Config
		dst    string
		host   string // with an SNI on port 443
		path   string // with a request
		want   Reason
		class  string
		near   string
		says   []string
	}{
		{"denied", guarded(authorize(AuthDeny, "http", closed)), "192.0.2.1:80", http, "/closed/x", ReasonAuthorization, "",
			"DENY policy for ServiceEntry default/http: rule 1 matches", []string{"AuthorizationPolicy default/deny-http a.yaml:7 counts: DENY"}},
		{"not denied", guarded(authorize(AuthDeny, "http", closed)), "192.0.2.1:80", http, "/open", ReasonAllowed, "requests are read", "",
			[]string{"deny-http a.yaml:7 does not count: DENY policy for ServiceEntry default/http: no rule matches (rule 1: to: path /open does not match)"}},
		{"by nobody", guarded(authorize(AuthAllow, "http")), "192.0.2.1:80", http, "/", ReasonNoAllow, "", "ALLOW policy for ServiceEntry default/http: no rule matches", nil},
		{"for others", guarded(authorize(AuthAllow, "http", from(&AuthSource{Namespaces: values("prod")}), on(&AuthOperation{Methods: values("PUT")}), when("source.ip", "10.0.0.1"))),
			"192.0.2.1:80", http, "/", ReasonNoAllow, "",
			"no rule matches (rule 1: is not about this workload; rule 2: to: method GET does not match; rule 3: when: source.ip is not known of the flow)", nil},
		{"the kernel", guarded(authorize(AuthAllow, "tls", when("source.ip", "10.0.0.1"))), "192.0.2.1:443", tls, "-", ReasonAllowed,
			"AuthorizationPolicies ask for what only the forwarding core can read", "", []string{"the forwarding core will know whether rule 1 matches"}},
		{"dry-run", guarded(dry), "192.0.2.1:80", http, "/", ReasonAllowed, "", "", []string{"DENY policy for ServiceEntry default/http, dry-run: rule 1 matches"}},
		{"where a rule leads", led, "192.0.2.1:9000", "any.example.com", "/", ReasonAuthorization, "", "DENY policy for ServiceEntry default/http: rule 1 matches", nil},
		{"gateway, http", guardGateway(twoHopHTTP(), AuthDeny, closed), "192.0.2.1:80", cnn, "/closed", ReasonAuthorization, "",
			"DENY policy for gateway default/egress port 80: rule 1 matches", []string{"AuthorizationPolicy istio-system/guard guard.yaml:1 counts"}},
		{"gateway, tls", guardGateway(twoHopTLS(), AuthAllow, on(&AuthOperation{Hosts: values("www.cnn.com")})), "192.0.2.1:443", cnn, "", ReasonNoAllow, "",
			"ALLOW policy for gateway default/egress port 443: no rule matches (rule 1: to: the host edition.cnn.com does not match)", nil},
		{"gateway, tls, allowed", guardGateway(twoHopTLS(), AuthAllow, on(&AuthOperation{Hosts: values(cnn)})), "192.0.2.1:443", cnn, "", ReasonAllowed, "the kernel reads the ClientHello", "",
			[]string{"ALLOW policy for gateway default/egress port 443: rule 1 matches"}},
		{"gateway, tcp", guardGateway(twoHopTCP(), AuthDeny, &AuthRule{}), "240.1.1.1:27017", "", "", ReasonAuthorization, "", "DENY policy for gateway default/egress port 7777: rule 1 matches", nil},
		{"not done", withRules(twoHopTLS(), originate), "192.0.2.1:443", cnn, "", ReasonNotSupported, "",
			"is for edition.cnn.com port 443: TLS origination (ISTIO_MUTUAL), which egressd does not do", nil},
		{"not done, http", withRules(twoHopOrigination(), originate), "192.0.2.1:80", cnn, "/", ReasonNotSupported, "", "TLS origination (ISTIO_MUTUAL)", nil},
		{"done", withRules(twoHopHTTP(), dr("default", "pool", "edition.cnn.com", time.Second)), "192.0.2.1:80", cnn, "/", ReasonAllowed, "", "",
			[]string{"DestinationRule default/pool pool.yaml:1 counts: is for edition.cnn.com port 80"}},
	} {
		f := Flow{Transport: TCP, Dst: ap(c.dst)}
		var r *Request
		switch {
		case c.host == "":
		case c.path == "-":
			f.Names = []string{c.host}
		case c.path != "":
			f.Names, r = []string{c.host}, get(c.host, c.path)
		default:
			f.Names, f.Host, f.HostFrom = []string{c.host}, c.host, EvidenceSNI
		}
		w := mustCompile(t, c.config).Policy(DefaultPolicy).Why(f, r)
		near, said := "", ""
		if w.Nearest != nil {
			near = w.Nearest.Why
		}
		for _, x := range w.Considered {
			said += x.String() + "\n"
		}
		if w.Reason != c.want || !strings.Contains(w.Class, c.class) || !strings.Contains(near, c.near) || c.near == "" && near != "" {
			t.Errorf("%s: %v, class %q, nearest %q:\n%s", c.name, w.Reason, w.Class, near, said)
		}
		for _, s := range c.says {
			if !strings.Contains(said, s) {
				t.Errorf("%s: does not say %q:\n%s", c.name, s, said)
			}
		}
	}
}
