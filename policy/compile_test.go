// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestGolden(t *testing.T) {
	for name, c := range map[string]*Config{"seed": seedConfig(), "rich": richConfig(), "empty": nil} {
		t.Run(name, func(t *testing.T) {
			s := mustCompile(t, c)
			file := filepath.Join("testdata", name+".golden")
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
				t.Errorf("text differs from %s (rewrite with -update):\n%s", file, s.Text())
			}
		})
	}
}

func TestCompileIsDeterministic(t *testing.T) {
	want := mustCompile(t, richConfig())
	if len(want.Hash()) != 64 {
		t.Errorf("hash %q is not SHA-256 in hex", want.Hash())
	}
	for range 20 {
		if got := mustCompile(t, richConfig()); got.Hash() != want.Hash() {
			t.Fatalf("two compilations differ:\n%s\n%s", want.Text(), got.Text())
		}
	}
}

// TestEveryFieldCounts changes each field of a configuration that uses all of
// them: it must not be the same any more, or the change must be refused. A field
// that the text forgot would make an update of it a no-op. What is decided has
// another hash then; where it is written is no part of that.
func TestEveryFieldCounts(t *testing.T) {
	base := mustCompile(t, richConfig())
	n := len(leaves(reflect.ValueOf(richConfig()), "Config"))
	if n < 150 {
		t.Fatalf("only %d fields found", n)
	}
	for i := range n {
		c := richConfig()
		leaf := leaves(reflect.ValueOf(c), "Config")[i]
		leaf.change()
		s, err := Compile(c)
		if err != nil || inert[leaf.path] || pending.MatchString(leaf.path) {
			continue
		}
		if s.Same(base) {
			t.Errorf("%s does not count", leaf.path)
		}
		if place := position.MatchString(leaf.path); place != (s.Hash() == base.Hash()) && !s.Same(base) {
			t.Errorf("%s: is a place: %t, and the hash is the same: %t", leaf.path, place, !place)
		}
	}
}

// TestWorkloadOrder: the order of workloads counts where two claim a cgroup, and
// nowhere else.
func TestWorkloadOrder(t *testing.T) {
	for cgroup, want := range map[string]bool{"b.slice": true, "a.slice": false} {
		a := &Workload{Identity: Identity{Name: "a", Namespace: "x"}, Cgroups: []string{"a.slice"}}
		b := &Workload{Identity: Identity{Name: "b", Namespace: "x"}, Cgroups: []string{cgroup}}
		one, other := mustCompile(t, &Config{Workloads: []*Workload{a, b}}), mustCompile(t, &Config{Workloads: []*Workload{b, a}})
		if got := one.Hash() == other.Hash(); got != want || one.Same(other) != want {
			t.Errorf("the second workload claims %s: the order says nothing: %t, want %t", cgroup, got, want)
		}
	}
}

// pending are fields that nothing compiles yet, or that only tell several
// objects for one host apart.
var pending = regexp.MustCompile(`\.(Everybody|Created)\b`)

// position are the fields that say where something is written, and those of logs and
// traces: nothing is decided by them.
var position = regexp.MustCompile(`Ref\.(File|Line|Column)$|\.Telemetry\.|\.Telemetries\[`)

// inert are fields of richConfig that decide nothing.
var inert = map[string]bool{
	// A port's name finds endpoint ports; most endpoints here have none.
	"Config.Services[0].Ports[0].Name": true, "Config.Services[0].Ports[1].Name": true,
	"Config.Services[2].Ports[0].Name": true, "Config.Services[2].Ports[1].Name": true,
	"Config.Services[3].Ports[0].Name": true, "Config.Services[3].Ports[1].Name": true,
	"Config.Services[4].Ports[0].Name": true, "Config.Services[5].Ports[0].Name": true,
	"Config.Services[6].Ports[0].Name": true, "Config.Services[7].Ports[0].Name": true,
	// A Kubernetes Service is looked up by host; its own position, and ports
	// that no route names, are nobody's.
	"Config.Services[3].Ref.Kind": true, "Config.Services[3].Ref.Namespace": true, "Config.Services[3].Ref.Name": true,
	"Config.Services[3].Ref.File": true, "Config.Services[3].Ref.Line": true, "Config.Services[3].Ref.Column": true,
	"Config.Services[3].AllowPrivate": true, "Config.Services[3].Export.Limited": true,
	// Names to resolve have no weights, and 1 is what 0 counts as.
	"Config.Services[0].Endpoints[0].Weight": true, "Config.Services[0].Endpoints[1].Weight": true,
	"Config.Services[6].Endpoints[0].Weight": true, "Config.Services[6].Endpoints[1].Weight": true,
	// A consent is to a socket or to addresses.
	"Config.AllowedEndpoints[0].Prefix": true, "Config.AllowedEndpoints[0].Port": true,
	"Config.AllowedEndpoints[1].Prefix": true, "Config.AllowedEndpoints[1].Port": true,
	// No subset asks for them.
	"Config.Services[6].Endpoints[0].Labels": true,
	"Config.Services[1].Endpoints[1].Weight": true, "Config.Services[3].Endpoints[0].Weight": true,
	// A path that is a template is nothing else.
	"Config.Authorizations[0].Rules[0].To[0].Paths[2].ValueMatch.Kind":  true,
	"Config.Authorizations[0].Rules[0].To[0].Paths[2].ValueMatch.Value": true,
	// A Gateway without a selector is for every gateway node.
	"Config.Gateways[0].Selector": true,
	// The servers have positions of their own.
	"Config.Gateways[0].Ref.Kind": true, "Config.Gateways[0].Ref.File": true,
	"Config.Gateways[0].Ref.Line": true, "Config.Gateways[0].Ref.Column": true,
	"Config.Gateways[1].Ref.Kind": true, "Config.Gateways[1].Ref.File": true,
	"Config.Gateways[1].Ref.Line": true, "Config.Gateways[1].Ref.Column": true,
	// So have the rules for TLS; a single destination takes everything.
	"Config.VirtualServices[1].Ref.Kind": true, "Config.VirtualServices[1].Ref.Namespace": true, "Config.VirtualServices[1].Ref.Name": true,
	"Config.VirtualServices[1].Ref.File": true, "Config.VirtualServices[1].Ref.Line": true, "Config.VirtualServices[1].Ref.Column": true,
	"Config.VirtualServices[1].TLS[1].Matches[0].SourceNamespace": true, // nothing is known of the workload at a gateway
	"Config.VirtualServices[1].TLS[0].Route[0].Weight":            true, "Config.VirtualServices[1].TLS[1].Route[0].Weight": true,
}

type leaf struct {
	path   string
	change func()
}

var (
	addrType   = reflect.TypeFor[netip.Addr]()
	prefixType = reflect.TypeFor[netip.Prefix]()
)

// leaves lists the scalars that v reaches, each with a way to change it.
func leaves(v reflect.Value, path string) []leaf {
	one := func(f func()) []leaf { return []leaf{{path, f}} }
	switch v.Type() {
	case addrType:
		if !v.Interface().(netip.Addr).IsValid() {
			return nil
		}
		return one(func() { v.Set(reflect.ValueOf(v.Interface().(netip.Addr).Next())) })
	case prefixType:
		p := v.Interface().(netip.Prefix)
		return one(func() { v.Set(reflect.ValueOf(netip.PrefixFrom(p.Addr(), p.Bits()-1))) })
	}
	var out []leaf
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return leaves(v.Elem(), path)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if !v.Type().Field(i).IsExported() {
				continue
			}
			out = append(out, leaves(v.Field(i), path+"."+v.Type().Field(i).Name)...)
		}
	case reflect.Slice:
		for i := range v.Len() {
			out = append(out, leaves(v.Index(i), fmt.Sprintf("%s[%d]", path, i))...)
		}
	case reflect.Map:
		if v.Len() > 0 {
			return one(func() { v.Clear() })
		}
	case reflect.Bool:
		return one(func() { v.SetBool(!v.Bool()) })
	case reflect.String:
		return one(func() { v.SetString(v.String() + "z") })
	case reflect.Int, reflect.Int64:
		return one(func() { v.SetInt(v.Int() + 1) })
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return one(func() { v.SetUint(v.Uint() + 1) })
	case reflect.Float64:
		return one(func() { v.SetFloat(v.Float() + 1) })
	default:
		panic(path + ": " + v.Kind().String())
	}
	return out
}

func TestCompileRefusals(t *testing.T) {
	service := func(s *Service) *Config { return &Config{Services: []*Service{s}} }
	rule := func(r *HTTPRule) *Config {
		return &Config{VirtualServices: []*VirtualService{vs("v", mesh, names("a.b"), r)}}
	}
	gateway := func(s GatewayServer) *Config {
		return &Config{Gateways: []*Gateway{{Ref: Ref{Kind: "Gateway", Namespace: "n", Name: "g"}, Servers: []GatewayServer{s}}}}
	}
	tooHeavy := to("", "a.b", 0)
	tooHeavy.Route = append(tooHeavy.Route, &WeightedDestination{Weight: 1}, &WeightedDestination{Weight: 1<<32 - 1})
	weightless := to("", "a.b", 0)
	weightless.Route = append(weightless.Route, &WeightedDestination{})
	rewrite := to("", "a.b", 0)
	rewrite.Rewrite = &Rewrite{RegexMatch: "("}
	both := answer("")
	both.Redirect = &Redirect{}
	zone := se("s", ResolutionStatic, "a.b")
	zone.Endpoints = []Endpoint{{Addr: netip.MustParseAddr("fe80::1%eth0")}}
	for name, c := range map[string]struct {
		config *Config
		want   string
	}{
		"no host":            {service(se("s", 0)), "s.yaml:4: hosts: there is none [ServiceEntry default/s]"},
		"all hosts":          {service(se("s", 0, "*")), `hosts: "*" would open every name`},
		"upper case":         {service(se("s", 0, "A.b")), `hosts: "A.b" is not normalized`},
		"bad host":           {service(se("s", 0, "a..b")), "empty label"},
		"resolution":         {service(se("s", 77, "a.b")), "resolution 77 is unknown"},
		"port 0":             {service(with(se("s", 0, "a.b"), svcPort(0, ProtocolTCP))), "0 is not a port number"},
		"port twice":         {service(with(se("s", 0, "a.b"), svcPort(1, ProtocolTCP), svcPort(1, ProtocolHTTP))), "port 1 is there twice"},
		"protocol":           {service(with(se("s", 0, "a.b"), svcPort(1, 99))), "protocol 99 is unknown"},
		"NONE and endpoints": {service(with(se("s", 0, "a.b"), svcEndpoint("192.0.2.1"))), "resolution NONE has none"},
		"STATIC and name":    {service(with(se("s", ResolutionStatic, "a.b"), svcEndpoint("c.d"))), `"c.d" is not an IP address`},
		"endpoint name":      {service(with(se("s", ResolutionDNS, "a.b"), svcEndpoint("C.d"))), `"C.d" is not a normalized name`},
		"empty endpoint":     {service(with(se("s", ResolutionDNS, "a.b"), svcEndpoint(""))), "one has no address"},
		"zone":               {service(zone), "has a zone"},
		"mapped prefix":      {service(with(se("s", 0, "a.b"), svcAddresses("::ffff:0:0/90"))), "is not an address or a prefix"},
		"no action":          {rule(&HTTPRule{}), "exactly one of route, redirect and directResponse"},
		"two actions":        {rule(both), "exactly one of route, redirect and directResponse"},
		"weights 0":          {rule(weightless), "sum of the weights is 0"},
		"weights too large":  {rule(tooHeavy), "sum of the weights is too large"},
		"regex":              {rule(answer("", uri(MatchRegex, "a)(b"))), "match: uri: error parsing regexp"},
		"match kind":         {rule(answer("", uri(9, ""))), "match kind 9 is unknown"},
		"rewrite":            {rule(rewrite), "rewrite: error parsing regexp"},
		"mesh and *":         {&Config{VirtualServices: []*VirtualService{vs("v", mesh, names("*"), answer(""))}}, `"*" is for gateways only`},
		"no gateways":        {&Config{VirtualServices: []*VirtualService{vs("v", nil, names("a.b"), answer(""))}}, "gateways: there is none"},
		"no servers":         {&Config{Gateways: []*Gateway{{}}}, "a Gateway needs a server"},
		"server protocol":    {gateway(GatewayServer{Port: 443, Protocol: ProtocolHTTPS, Hosts: names("*"), HostNamespaces: []string{"*"}}), `protocol HTTPS needs tls`},
		"server without":     {gateway(GatewayServer{Port: 443, Hosts: names("*"), HostNamespaces: []string{"*"}}), `protocol "" is not supported`},
		"server redirect":    {gateway(GatewayServer{Port: 443, Protocol: ProtocolTCP, HTTPSRedirect: true, Hosts: names("*"), HostNamespaces: []string{"*"}}), `httpsRedirect is for HTTP`},
		"server port":        {gateway(GatewayServer{Protocol: ProtocolHTTP, Hosts: names("*"), HostNamespaces: []string{"*"}}), "0 is not a port number"},
		"server namespaces":  {gateway(GatewayServer{Port: 80, Protocol: ProtocolHTTP, Hosts: names("*")}), "a namespace for each host"},
	} {
		s, err := Compile(c.config)
		if s != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: snapshot %v, error %v; want %q", name, s != nil, err, c.want)
		}
	}
	_, err := Compile(&Config{Services: []*Service{se("s", 0), with(se("u", 0, "*"), svcPort(0, ProtocolTCP))}})
	if n := strings.Count(fmt.Sprint(err), "\n"); n != 2 {
		t.Errorf("want all three errors at once: %v", err)
	}
}

func TestCompileManyHosts(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a second")
	}
	start := time.Now()
	s := mustCompile(t, manyHosts(100_000))
	if n := len(s.Policy(DefaultPolicy).Hosts()); n != 100_000 {
		t.Fatalf("%d hosts", n)
	}
	t.Logf("100,000 hosts compiled in %v", time.Since(start))
}

// manyHosts has n ServiceEntries, one host each: every tenth a wildcard, and
// every hundredth STATIC.
func manyHosts(n int) *Config {
	c := &Config{}
	for i := range n {
		s := se(fmt.Sprintf("s%d", i), ResolutionDNS)
		with(s, svcPort(80, ProtocolHTTP), svcPort(443, ProtocolHTTPS))
		s.Hosts = names(hostPattern(i))
		if i%100 == 1 {
			s.Resolution = ResolutionStatic
			with(s, svcEndpoint(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}).String()))
		}
		c.Services = append(c.Services, s)
	}
	return c
}
