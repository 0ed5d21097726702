// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// fieldsConfig has rules in which every field is set, and for each a target that
// hits it.
func fieldsConfig() (*policy.Config, []struct {
	target string
	rule   any
}) {
	ref := func(name string, line int) policy.Ref {
		return policy.Ref{Kind: "VirtualService", Namespace: "default", Name: name, File: name + ".yaml", Line: line, Column: 3}
	}
	service := func(host hostname.Pattern) *policy.Service {
		return &policy.Service{
			Ref: policy.Ref{Kind: "ServiceEntry", Namespace: "default", Name: string(host)}, External: true, Hosts: []hostname.Pattern{host},
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::7/128")}, Resolution: policy.ResolutionStatic,
			Ports:     []policy.Port{{Number: 80, Protocol: policy.ProtocolHTTP}, {Number: 443, Protocol: policy.ProtocolTLS}, {Number: 5432, Protocol: policy.ProtocolTCP}},
			Endpoints: []policy.Endpoint{{Addr: netip.MustParseAddr("192.0.2.8"), Labels: map[string]string{"v": "1"}, Weight: 1}},
		}
	}
	api, other := service("api.example.com"), service("other.example.com")
	other.Addresses = nil
	match := func(kind policy.MatchKind, v string) *policy.StringMatch {
		return &policy.StringMatch{Kind: kind, Value: v}
	}
	on := func(path string) []*policy.HTTPMatch {
		return []*policy.HTTPMatch{{
			Name: "m", URI: match(policy.MatchPrefix, path), Scheme: match(policy.MatchExact, "http"), Method: match(policy.MatchExact, "GET"),
			Authority: match(policy.MatchPrefix, "api"), Headers: map[string]policy.StringMatch{"x-a": {Kind: policy.MatchExact, Value: "1"}},
			WithoutHeaders: map[string]policy.StringMatch{"x-b": {Kind: policy.MatchExact, Value: "2"}},
			QueryParams:    map[string]policy.StringMatch{"q": {Kind: policy.MatchExact, Value: "3"}},
			Port:           80, Gateways: []string{"mesh"}, SourceLabels: map[string]string{"app": "web"}, SourceNamespace: "default", StatPrefix: "stat",
		}}
	}
	headers := func(n string) *policy.Headers {
		ops := policy.HeaderOps{Set: []policy.Header{{Name: "set" + n, Value: "1"}}, Add: []policy.Header{{Name: "add" + n, Value: "2"}}, Remove: []string{"remove" + n}}
		return &policy.Headers{Request: ops, Response: policy.HeaderOps{Set: []policy.Header{{Name: "rset" + n, Value: "1"}}, Add: []policy.Header{{Name: "radd" + n, Value: "2"}}, Remove: []string{"rremove" + n}}}
	}
	to := func(port uint16, subset string) []*policy.WeightedDestination {
		return []*policy.WeightedDestination{
			{Destination: policy.Destination{Host: "api.example.com", Port: port, Subset: subset}, Weight: 3, Headers: headers("a")},
			{Destination: policy.Destination{Host: "other.example.com", Port: port}, Weight: 2, Headers: headers("b")},
		}
	}
	l4 := func() []*policy.WeightedDestination {
		out := to(5432, "v1")
		out[0].Headers, out[1].Headers = nil, nil // not for bytes
		return out
	}
	yes := true
	vs := &policy.VirtualService{
		Ref: ref("api", 1), Hosts: []hostname.Pattern{"api.example.com"}, Gateways: []string{"mesh"},
		HTTP: []*policy.HTTPRule{
			{Ref: ref("api", 10), Name: "route", Matches: on("/route"), Route: to(80, "v1"), Timeout: time.Second, Headers: headers("c"),
				Rewrite: &policy.Rewrite{URI: "/u", Authority: "inner.example.com"},
				Retries: &policy.Retries{Attempts: 2, PerTryTimeout: time.Second, On: []string{"5xx"}, Codes: []int{418}, Backoff: time.Second, AnyHost: true},
				Fault:   &policy.Fault{Delay: time.Second, DelayPercent: 1, AbortStatus: 503, AbortGRPC: 14, AbortPercent: 2},
				Mirrors: []policy.Mirror{{Destination: policy.Destination{Host: "other.example.com", Port: 80, Subset: "s"}, Percent: 5}},
				CORS: &policy.CORS{AllowOrigins: []policy.StringMatch{{Kind: policy.MatchExact, Value: "o"}}, AllowMethods: []string{"GET"}, AllowHeaders: []string{"h"},
					ExposeHeaders: []string{"e"}, MaxAge: new(time.Second), AllowCredentials: &yes, IgnorePreflights: true},
				UnknownStatus: 500},
			{Ref: ref("api", 20), Name: "regex", Matches: on("/regex"), Route: to(80, ""), Rewrite: &policy.Rewrite{RegexMatch: "a", RegexRewrite: "b"}},
			{Ref: ref("api", 30), Name: "redirect", Matches: on("/redirect"), Redirect: &policy.Redirect{URI: "/n", Authority: "n.example.com", Port: 81, Scheme: "https", Code: 302}},
			{Ref: ref("api", 35), Name: "derive", Matches: on("/derive"), Redirect: &policy.Redirect{PrefixRewrite: "/p", DerivePort: "FROM_REQUEST_PORT", Code: 302}},
			{Ref: ref("api", 40), Name: "answer", Matches: on("/answer"), DirectResponse: &policy.DirectResponse{Status: 200, Body: []byte(strings.Repeat("x", 100))}},
		},
		TLS: []*policy.TLSRule{{Ref: ref("api", 50), Route: l4(),
			Matches: []*policy.L4Match{{SNIHosts: []hostname.Pattern{"api.example.com"}, Port: 443, SourceLabels: map[string]string{"app": "web"}, SourceNamespace: "default", Gateways: []string{"mesh"}}}}},
		TCP: []*policy.TCPRule{{Ref: ref("api", 60), Route: l4(),
			Matches: []*policy.L4Match{{Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Port: 5432, SourceLabels: map[string]string{"app": "web"}, SourceNamespace: "default", Gateways: []string{"mesh"}}}}},
	}
	n := uint32(5)
	traffic := &policy.TrafficPolicy{
		LoadBalancer: &policy.LoadBalancer{Simple: policy.RoundRobin, Warmup: &policy.Warmup{Window: time.Second, Least: 20, Aggression: 2},
			Hash: &policy.ConsistentHash{Header: "x", Query: "q", SourceIP: true, RingSize: 100, Maglev: 101,
				Cookie: &policy.HashCookie{Name: "c", Path: "/", TTL: new(time.Minute), Attributes: []policy.Header{{Name: "SameSite", Value: "Lax"}}}},
			Locality: &policy.Locality{Disabled: true, Failover: []policy.Failover{{From: "r", To: "s"}},
				Distribute: []policy.Distribute{{From: "r/z", To: []policy.LocalityWeight{{Locality: "r/*", Percent: 100}}}}}},
		Pool: &policy.ConnectionPool{MaxConnections: 1, ConnectTimeout: time.Second, TCPIdleTimeout: time.Minute, MaxConnectionDuration: time.Hour,
			Keepalive: &policy.Keepalive{Probes: 3, Idle: time.Second, Interval: time.Second}, HTTPIdleTimeout: time.Minute, MaxPendingRequests: 2,
			MaxRequests: 3, MaxRequestsPerConn: 4, MaxRetries: 5, MaxConcurrentStreams: 6, UpgradeHTTP2: &yes, UseClientProtocol: true},
		Outlier: &policy.OutlierDetection{Consecutive5xx: &n, ConsecutiveGateway: &n, ConsecutiveLocal: &n, SplitLocal: true, Interval: time.Second,
			BaseEjection: time.Second, MaxEjectionPercent: 10, MinHealthPercent: 20, Codes: []uint32{500}},
	}
	c := &policy.Config{
		Services: []*policy.Service{api, other}, VirtualServices: []*policy.VirtualService{vs},
		DestinationRules: []*policy.DestinationRule{{Ref: policy.Ref{Kind: "DestinationRule", Namespace: "default", Name: "api"}, Host: "api.example.com", Traffic: traffic,
			Subsets: []policy.Subset{{Name: "v1", Labels: map[string]string{"v": "1"}}}}},
		Workloads: []*policy.Workload{{Identity: policy.Identity{Name: "web", Namespace: "default", Labels: map[string]string{"app": "web"}}}},
	}
	var rules []struct {
		target string
		rule   any
	}
	for _, r := range vs.HTTP {
		rules = append(rules, struct {
			target string
			rule   any
		}{"http://api.example.com/" + r.Name + "?q=3", r})
	}
	return c, append(rules, struct {
		target string
		rule   any
	}{"http://api.example.com/route?q=3", traffic}, struct {
		target string
		rule   any
	}{"https://api.example.com/", vs.TLS[0]}, struct {
		target string
		rule   any
	}{"tcp://192.0.2.7:5432", vs.TCP[0]})
}

// leaf is a scalar of a rule, and a way to change it.
type leaf struct {
	path   string
	change func()
}

// leaves lists the scalars that v reaches.
func leaves(v reflect.Value, path string) []leaf {
	one := func(f func()) []leaf { return []leaf{{path, f}} }
	if p, ok := v.Interface().(netip.Prefix); ok {
		return one(func() { v.Set(reflect.ValueOf(netip.PrefixFrom(p.Addr(), p.Bits()-1))) })
	}
	var out []leaf
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			out = leaves(v.Elem(), path)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			out = append(out, leaves(v.Field(i), path+"."+v.Type().Field(i).Name)...)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return one(func() { v.Set(reflect.ValueOf(append(v.Bytes(), 'x'))) })
		}
		for i := range v.Len() {
			out = append(out, leaves(v.Index(i), fmt.Sprintf("%s[%d]", path, i))...)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			copied := reflect.New(v.Type().Elem()).Elem()
			copied.Set(v.MapIndex(k))
			for _, l := range leaves(copied, fmt.Sprintf("%s[%v]", path, k)) {
				out = append(out, leaf{l.path, func() { l.change(); v.SetMapIndex(k, copied) }})
			}
		}
	case reflect.String:
		return one(func() { v.SetString(v.String() + "x") })
	case reflect.Bool:
		return one(func() { v.SetBool(!v.Bool()) })
	case reflect.Float64:
		return one(func() { v.SetFloat(v.Float() + 1) })
	case reflect.Int, reflect.Int64:
		return one(func() { v.SetInt(v.Int() + 1) })
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return one(func() { v.SetUint(v.Uint() + 1) })
	}
	return out
}

// TestEveryFieldIsExplained is the twin of policy's TestEveryFieldCounts: it
// changes each field of a rule that a flow hits, and what explain says must
// change, or the change must be refused. A field that explain forgot would leave
// people in the dark about what happens to their traffic.
func TestEveryFieldIsExplained(t *testing.T) {
	said := func(c *policy.Config, target string) (string, error) {
		s, err := policy.Compile(c)
		if err != nil {
			return "", err
		}
		tg, err := ParseTarget(target)
		if err != nil {
			t.Fatal(err)
		}
		x, err := Explain(s, nil, Question{Target: tg, Method: "GET", Header: map[string][]string{"X-A": {"1"}}, Workload: "web"})
		if err != nil {
			t.Fatal(err)
		}
		// What a program reads and what people read are two outputs.
		x.Route = nil
		b, err := json.Marshal(x)
		return string(b), err
	}
	_, rules := fieldsConfig()
	changed, refused := 0, 0
	for i, r := range rules {
		c, _ := fieldsConfig()
		base, err := said(c, r.target)
		if err != nil || !strings.Contains(base, "is matched by") {
			t.Fatalf("%s: the rule is not hit: %v\n%s", r.target, err, base)
		}
		for j, l := range leaves(reflect.ValueOf(r.rule), fmt.Sprintf("%T", r.rule)) {
			c, rules := fieldsConfig()
			leaves(reflect.ValueOf(rules[i].rule), "")[j].change()
			switch now, err := said(c, r.target); {
			case err != nil:
				refused++
			case now == base:
				t.Errorf("%s: %s changes nothing of\n%s", r.target, l.path, base)
			default:
				changed++
			}
		}
	}
	if changed < 150 || refused > changed/5 {
		t.Errorf("%d changes were seen, %d refused", changed, refused)
	}
}
