// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/hostname"
)

// TestUpdateEqualsCompile: whatever the edits, a snapshot that was brought up
// to date decides like one that was compiled from nothing, and what it says
// has changed leads from the old openings to the new ones.
func TestUpdateEqualsCompile(t *testing.T) {
	imported, withheld, covered, kept, inside := 0, 0, 0, 0, map[bool]int{}
	for seed := range uint64(750) {
		r := rand.New(rand.NewPCG(seed, 1))
		g := generator{r: r}
		c := g.config()
		s := mustCompile(t, c)
		for step := range 12 {
			edited := g.edit(c)
			next, err := s.Update(edited)
			if err != nil {
				if _, again := Compile(edited); again == nil || again.Error() != err.Error() {
					t.Fatalf("seed %d step %d: %v, and %v from nothing", seed, step, err, again)
				}
				continue
			}
			c = edited
			fresh := mustCompile(t, c)
			if ids := renumber(next, fresh); ids != "" {
				t.Fatalf("seed %d step %d: %s", seed, step, ids)
			}
			if next.Hash() != fresh.Hash() {
				t.Fatalf("seed %d step %d: hash %s, from nothing %s", seed, step, next.Hash(), fresh.Hash())
			}
			for _, id := range next.Policies() {
				p := next.Policy(id)
				imported += importedDestinations(p)
				withheld += withheldNames(p)
				covered += len(p.reserved)
				for k := range p.cluster.keys() {
					inside[k.port != 0]++
				}
				old := s.Policy(id)
				if old == nil {
					continue
				}
				if p.names == old.names && edited.VirtualServices != nil {
					kept++
				}
				checkChanges(t, old, p)
			}
			s = next
		}
	}
	if kept < 500 {
		t.Errorf("only %d policies were taken over", kept)
	}
	if inside[true] < 100 || inside[false] < 100 {
		t.Errorf("only %d prefixes of the cluster were open, and %d Services", inside[false], inside[true])
	}
	if imported < 100 {
		t.Errorf("only %d destinations were imported by Sidecars with the rules that lead there", imported)
	}
	if withheld < 100 || covered < 100 {
		t.Errorf("only %d and %d names of Kubernetes Services were withheld from ServiceEntries and wildcards of other namespaces", withheld, covered)
	}
}

// withheldNames counts the names of Kubernetes Services that ServiceEntries of
// other namespaces declare in vain.
func withheldNames(p *Policy) (n int) {
	for _, s := range p.index.cfg.Services {
		if s.External {
			continue
		}
		for _, host := range s.Names() {
			if _, open := p.names.Get(host); !open && p.index.contends(host, s.Ref.Namespace) {
				n++
			}
		}
	}
	return n
}

// importedDestinations counts the destinations of rules for workloads that are
// visible as such alone.
func importedDestinations(p *Policy) (n int) {
	count := func(all []RouteDestination) {
		for _, d := range all {
			if u := d.Upstream; u != nil && u.Match != nil {
				if h, _ := p.names.Get(u.Match.Pattern); h != u.Match {
					n++
				}
			}
		}
	}
	for _, v := range p.vhostList {
		for _, c := range v.http {
			for _, rs := range append(slices.Collect(maps.Values(c.byPort)), c.other) {
				for _, r := range rs.routes {
					count(r.action.Destinations)
				}
			}
		}
		for _, r := range slices.Concat(v.tls, v.tcp) {
			count(r.destinations)
		}
	}
	return n
}

// renumber compares what two snapshots decide, whatever numbers their policies
// have: by workload.
func renumber(a, b *Snapshot) string {
	text := func(s *Snapshot, id PolicyID) string {
		one := *s.Policy(id)
		one.id = 1
		return (&Snapshot{policies: []*Policy{&one}}).Text()
	}
	if x, y := text(a, DefaultPolicy), text(b, DefaultPolicy); x != y {
		return "default policy:\n" + x + "\nwant:\n" + y
	}
	listeners := func(s *Snapshot) string { return (&Snapshot{listeners: s.listeners}).Text() }
	if x, y := listeners(a), listeners(b); x != y {
		return "listeners:\n" + x + "\nwant:\n" + y
	}
	for i, w := range a.Workloads() {
		if x, y := text(a, w.Policy), text(b, b.Workloads()[i].Policy); x != y {
			return fmt.Sprintf("workload %s/%s:\n%s\nwant:\n%s", w.Namespace, w.Name, x, y)
		}
	}
	return ""
}

func checkChanges(t *testing.T, old, now *Policy) {
	t.Helper()
	type key struct {
		netip.Prefix
		Transport
		uint16
		inside bool
	}
	opened := func(p *Policy) map[key][]Opening {
		out := map[key][]Opening{}
		for _, o := range p.Static() {
			k := key{o.Prefix, o.Transport, o.Port, false}
			out[k] = append(out[k], o)
		}
		for k := range p.cluster.keys() {
			out[key{k.prefix, k.transport, k.port, true}] = p.cluster.openings(k)
		}
		return out
	}
	have := opened(old)
	for _, c := range now.StaticChanges(old) {
		k := key{c.Prefix, c.Transport, c.Port, c.Inside}
		if slices.Equal(have[k], c.Openings) {
			t.Fatalf("%v is said to have changed and has not", c)
		}
		have[k] = c.Openings
	}
	want := opened(now)
	for k, list := range have {
		if !slices.Equal(list, want[k]) {
			t.Fatalf("%v: after the changes %v, want %v", k, list, want[k])
		}
		delete(want, k)
	}
	if len(want) > 0 {
		t.Fatalf("missing after the changes: %v", want)
	}
	if !now.sameRest(old) {
		return // which PolicyChange.AllHosts says
	}
	changed := now.ChangedHosts(old)
	for _, name := range []string{"x.example.com", "q.example.com", "a.wild.org", "b.wild.org", "kube.a.svc"} {
		if slices.ContainsFunc(changed, func(h hostname.Pattern) bool { return h.Matches(name) }) {
			continue
		}
		for _, a := range []string{"198.51.100.3", "2001:db8:1::9"} {
			if x, y := old.Openings(name, netip.MustParseAddr(a)), now.Openings(name, netip.MustParseAddr(a)); !slices.Equal(x, y) {
				t.Fatalf("%s at %s opened %v and opens %v, and no host is said to have changed", name, a, x, y)
			}
		}
	}
}

// generator makes small configurations in which much overlaps.
type generator struct {
	r *rand.Rand
	n int
}

func (g *generator) config() *Config {
	c := &Config{}
	for range 1 + g.r.IntN(8) {
		c.Services = append(c.Services, g.service())
	}
	for i := range g.r.IntN(4) {
		c.Workloads = append(c.Workloads, &Workload{Ref: Ref{Kind: "Workload", Name: fmt.Sprint(i)},
			Identity: Identity{Name: fmt.Sprint(i), Namespace: g.one("a", "b", "default"), Labels: map[string]string{"app": g.one("x", "y")}}})
	}
	if g.r.IntN(2) == 0 {
		c.Sidecars = []*Sidecar{g.sidecar()}
	}
	return c
}

func (g *generator) one(s ...string) string { return s[g.r.IntN(len(s))] }

func (g *generator) service() *Service {
	g.n++
	ns := g.one("a", "b", "default")
	s := &Service{External: true, Ref: Ref{Kind: "ServiceEntry", Namespace: ns, Name: fmt.Sprint("s", g.n)}}
	for _, h := range []string{"x.example.com", "y.example.com", "*.example.com", "*.wild.org", "a.wild.org", "*ld.org", "kube", "kube.a.svc"} {
		if g.r.IntN(4) == 0 {
			s.Hosts = append(s.Hosts, hostname.Pattern(h))
		}
	}
	s.Created = int64(g.r.IntN(3))
	if len(s.Hosts) == 0 {
		s.Hosts = names("z.example.com")
	}
	s.Resolution = []Resolution{ResolutionNone, ResolutionStatic, ResolutionDNS}[g.r.IntN(3)]
	protocols := []Protocol{ProtocolTCP, ProtocolTLS, ProtocolHTTP, ProtocolUDP, ProtocolUnset}
	for i, n := range []uint16{80, 443, 5432} {
		if g.r.IntN(2) == 0 {
			s.Ports = append(s.Ports, Port{Number: n, Name: fmt.Sprint("p", i), Protocol: protocols[g.r.IntN(len(protocols))]})
		}
	}
	for _, a := range []string{"192.0.2.1/32", "192.0.2.0/24", "192.0.0.0/16", "2001:db8::/32", "2001:db8::1/128"} {
		if g.r.IntN(5) == 0 && s.Resolution != ResolutionDNS {
			s.Addresses = append(s.Addresses, netip.MustParsePrefix(a))
		}
	}
	if s.Resolution == ResolutionStatic {
		for _, a := range []string{"192.0.2.1", "192.0.2.7", "2001:db8::1"} {
			if g.r.IntN(3) == 0 {
				s.Endpoints = append(s.Endpoints, Endpoint{Addr: netip.MustParseAddr(a)})
			}
		}
	}
	switch g.r.IntN(8) {
	case 0:
		s.Export = Visibility{Limited: true, Namespaces: []string{ns}}
	case 1:
		s.Export = Visibility{Limited: true}
	}
	return s
}

func (g *generator) edit(c *Config) *Config {
	next := *c
	next.Services = slices.Clone(c.Services)
	at := func(n int) int { return g.r.IntN(n) }
	switch n := len(next.Services); g.r.IntN(24) {
	case 20, 21, 22: // some rules more, or less
		g.editRules(&next)
	case 23:
		next.Workloads = g.editWorkloads(c.Workloads)
	case 0, 1:
		next.Services = slices.Insert(next.Services, at(n+1), g.service())
	case 2, 3:
		if n > 0 {
			i := at(n)
			next.Services = slices.Delete(next.Services, i, i+1)
		}
	case 4:
		if n > 0 {
			next.Services[at(n)] = g.service()
		}
	case 5:
		g.r.Shuffle(n, func(i, j int) { next.Services[i], next.Services[j] = next.Services[j], next.Services[i] })
	case 6:
		k := kube("kube")
		k.Ref.Namespace = g.one("a", "default")
		k.Ports = []Port{{Number: 80, Name: "p0", Protocol: ProtocolTCP}}
		k.Endpoints = []Endpoint{{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(at(200))})}}
		if g.r.IntN(3) > 0 {
			k.ClusterIPs = []netip.Addr{netip.MustParseAddr(g.one("10.0.1.1", "10.0.1.2")), netip.MustParseAddr("fd00:96::1")}
			k.Export = Visibility{Limited: g.r.IntN(3) == 0, Namespaces: []string{"a"}}
		}
		if g.r.IntN(2) == 0 { // a name that ServiceEntries of other namespaces declare
			k.Hosts = names(hostname.Pattern(g.one("y.example.com", "a.wild.org", "a.wild.org")))
		}
		next.Services = slices.DeleteFunc(next.Services, func(s *Service) bool { return !s.External })
		if g.r.IntN(4) > 0 {
			next.Services = append(next.Services, k)
		}
		next.Cluster = Cluster{}
		if g.r.IntN(3) > 0 {
			next.Cluster.Prefixes = []netip.Prefix{netip.MustParsePrefix(g.one("10.0.0.0/16", "10.0.1.0/24", "198.51.100.0/24")), netip.MustParsePrefix("fd00:96::/112")}
		}
	case 7, 16, 17:
		next.VirtualServices = nil
		if g.r.IntN(3) > 0 {
			v := vs("routes", mesh, names(hostname.Pattern(g.one("x.example.com", "*.example.com", "*.wild.org"))))
			v.Ref.Namespace = g.one("a", "b", "default")
			v.HTTP = []*HTTPRule{to("", g.one("x.example.com", "y.example.com", "a.wild.org"), []uint16{0, 80, 443}[at(3)])}
			v.HTTP[0].Route[0].Destination.Subset = g.one("", "v1")
			v.TLS = []*TLSRule{{Ref: v.Ref, Matches: []*L4Match{{SNIHosts: v.Hosts, Port: 443}}, Route: v.HTTP[0].Route}}
			if g.r.IntN(2) == 0 {
				v.TCP = []*TCPRule{{Ref: v.Ref, Matches: []*L4Match{{Port: 5432, SourceLabels: map[string]string{"app": "x"}}}, Route: v.HTTP[0].Route}}
			}
			next.VirtualServices = []*VirtualService{v}
		}
	case 14:
		next.Gateways = nil
		for i := range g.r.IntN(3) {
			next.Gateways = append(next.Gateways, g.gateway(i))
		}
		next.GatewaySelector = map[string]string{"istio": g.one("egressgateway", "ingressgateway")}
	case 15:
		next.VirtualServices = g.twoHop()
	case 8, 18, 19:
		next.Sidecars = nil
		if g.r.IntN(3) > 0 {
			next.Sidecars = []*Sidecar{g.sidecar()}
		}
	case 9:
		next.Authorizations = g.authorizations(next.Services)
	case 10:
		next.Mesh.Outbound = OutboundMode(at(2))
	case 11:
		next.Mesh.TrustDomain = g.one("", "other.example")
	case 12:
		next.DestinationRules = g.destinationRules()
	case 13:
		next.Mesh.RootNamespace = g.one("", "a")
	}
	return &next
}

func (g *generator) sidecar() *Sidecar {
	s := &Sidecar{Ref: Ref{Kind: "Sidecar", Namespace: g.one("a", "b", "istio-system"), Name: "s"}}
	for _, port := range []uint16{80, 443, 0} {
		if port != 0 && g.r.IntN(4) > 0 {
			continue
		}
		e := SidecarEgress{Port: port}
		for range 1 + g.r.IntN(2) {
			e.Hosts = append(e.Hosts, SidecarHost{Namespace: g.one("a", "b", ".", "*"), Host: hostname.Pattern(g.one("*.example.com", "*", "x.example.com", "x.example.com")), Not: g.r.IntN(8) == 0})
		}
		s.Egress = append(s.Egress, e)
	}
	return s
}

func (g *generator) destinationRules() []*DestinationRule {
	var out []*DestinationRule
	for i := range g.r.IntN(4) {
		d := dr(g.one("a", "b", "default", "istio-system"), fmt.Sprint("d", i), hostname.Pattern(g.one("x.example.com", "*.example.com", "*.wild.org", "*")), time.Duration(i+1))
		if g.r.IntN(3) == 0 {
			d.Traffic.TLS = &ClientTLS{Mode: ClientTLSMode(g.r.IntN(3))}
		}
		if g.r.IntN(3) == 0 {
			d.Selector = map[string]string{"app": g.one("x", "y")}
		}
		if g.r.IntN(3) == 0 {
			d.Traffic.Ports = map[uint16]*TrafficPolicy{443: {ProxyProtocol: 1}}
		}
		if g.r.IntN(4) == 0 {
			d.Export = Visibility{Limited: true, Namespaces: []string{"a"}}
		}
		d.Subsets = []Subset{{Name: g.one("v1", "v2")}}
		out = append(out, d)
	}
	return out
}

// authorizations are policies for some of the services, and now and then for
// the servers of a namespace.
func (g *generator) authorizations(services []*Service) []*AuthorizationPolicy {
	var out []*AuthorizationPolicy
	some := func(n int) bool { return g.r.IntN(n) == 0 }
	for _, s := range services {
		if !some(2) {
			continue
		}
		a := &AuthorizationPolicy{Ref: Ref{Kind: "AuthorizationPolicy", Namespace: s.Ref.Namespace, Name: "for-" + s.Ref.Name},
			Action: AuthAction(g.r.IntN(3)), DryRun: some(5), Targets: []AuthTarget{{Kind: "ServiceEntry", Name: s.Ref.Name}}}
		for range g.r.IntN(3) {
			r := &AuthRule{}
			if some(3) {
				r.From = []*AuthSource{{Namespaces: values(g.one("a", "b", "default"))}}
			}
			if some(4) {
				r.From = append(r.From, &AuthSource{IPBlocks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Principals: values(g.one("cluster.local/*", "*"))})
			}
			o := &AuthOperation{}
			if some(2) {
				o.Hosts = values(g.one("x.example.com", "*.wild.org", "y.example.com:80"))
			}
			if some(3) {
				o.Ports = []uint16{[]uint16{80, 443, 5432}[g.r.IntN(3)]}
			}
			if some(4) {
				o.Methods = values("GET")
			}
			if some(2) {
				r.To = []*AuthOperation{o}
			}
			switch g.r.IntN(8) {
			case 0:
				r.When = []*AuthCondition{{Key: "destination.ip", Values: []string{"192.0.2.0/28", "2001:db8::/64"}}}
			case 1:
				r.When = []*AuthCondition{{Key: "connection.sni", NotValues: []string{"x.example.com"}}}
			case 2:
				r.When = []*AuthCondition{{Key: "request.headers[" + "x]", Values: []string{"1"}}}
			}
			a.Rules = append(a.Rules, r)
		}
		out = append(out, a)
	}
	for i := range g.r.IntN(3) {
		out = append(out, g.gatewayAuthorization(i))
	}
	return out
}

// TestOpeningsAreAllowed: whatever the policies are, nothing is open in the
// kernel that Decide denies, and what Decide sends straight the last decision
// allows.
func TestOpeningsAreAllowed(t *testing.T) {
	direct := 0
	for seed := range uint64(300) {
		g := generator{r: rand.New(rand.NewPCG(seed, 2))}
		c := g.config()
		c.Authorizations = g.authorizations(c.Services)
		c.Mesh.Outbound = OutboundMode(g.r.IntN(2))
		c.DestinationRules = g.destinationRules()
		if seed%2 == 0 {
			c.Gateways, c.VirtualServices = []*Gateway{g.gateway(0), g.gateway(1)}, g.twoHop()
			if !canCompile(c) { // a rule that leads to itself
				c.VirtualServices = nil
			}
		}
		s := mustCompile(t, c)
		for _, id := range s.Policies() {
			p := s.Policy(id)
			for _, o := range p.Static() {
				f := Flow{Transport: o.Transport, Dst: netip.AddrPortFrom(o.Prefix.Addr(), o.Port)}
				direct += checkOpening(t, seed, p, o, f)
			}
			for _, name := range []string{"x.example.com", "y.example.com", "q.example.com", "a.wild.org", "b.wild.org"} {
				for _, a := range []string{"198.51.100.3", "2001:db8:1::9"} {
					for _, o := range p.Openings(name, netip.MustParseAddr(a)) {
						f := Flow{Transport: o.Transport, Dst: netip.AddrPortFrom(o.Prefix.Addr(), o.Port), Names: []string{name}}
						direct += checkOpening(t, seed, p, o, f)
					}
				}
			}
		}
	}
	if direct < 100 {
		t.Errorf("only %d openings went straight", direct)
	}
}

// checkOpening returns 1 for an opening by which flows go straight.
func checkOpening(t *testing.T, seed uint64, p *Policy, o Opening, f Flow) int {
	t.Helper()
	d := p.Decide(f)
	if o.Verdict == Proxy {
		return 0 // the proxy decides
	}
	if o.Verdict == Deny || d.Verdict == Deny {
		t.Fatalf("seed %d: %+v, decided %v %v\n%s", seed, o, d.Verdict, d.Reason, (&Snapshot{policies: []*Policy{p}}).Text())
	}
	if f.Transport == UDP {
		return 1
	}
	switch o.Verdict {
	case Inspect:
		if d, _ := p.DecideTLS(f, o.Name); d.Verdict == Deny {
			t.Fatalf("seed %d: %+v, with the name %v\n%s", seed, o, d.Reason, (&Snapshot{policies: []*Policy{p}}).Text())
		}
	case Direct:
		if c := p.Candidates(f); c.Verdict == Deny {
			t.Fatalf("seed %d: %+v, opaque %v\n%s", seed, o, c.Reason, (&Snapshot{policies: []*Policy{p}}).Text())
		}
	}
	return 1
}

func manyServices(n int) []*Service {
	all := make([]*Service, n)
	for i := range all {
		all[i] = with(se(fmt.Sprint("s", i), ResolutionDNS, hostname.Pattern(fmt.Sprintf("h%d.example%d.com", i, i%1000))), svcPort(443, ProtocolTLS))
	}
	return all
}

func BenchmarkCompile100k(b *testing.B) {
	c := &Config{Services: manyServices(100_000)}
	for b.Loop() {
		mustCompile(b, c)
	}
}

func BenchmarkUpdateOneOf100k(b *testing.B) {
	c := &Config{Services: manyServices(100_000)}
	s := mustCompile(b, c)
	i := 0
	for b.Loop() {
		next := *c
		next.Services = slices.Clone(c.Services)
		next.Services[50_000] = with(se("s", ResolutionDNS, hostname.Pattern(fmt.Sprintf("new%d.example.org", i))), svcPort(443, ProtocolTLS))
		i++
		var err error
		if s, err = s.Update(&next); err != nil {
			b.Fatal(err)
		}
		c = &next
	}
}

// TestPolicyNumbers: a workload keeps the number of its policy while what
// tells it apart changes, and workloads that come to see the same share one.
func TestPolicyNumbers(t *testing.T) {
	w := func(name, ns string) *Workload {
		return &Workload{Identity: Identity{Name: name, Namespace: ns, Labels: map[string]string{"app": name}}}
	}
	limited := func(name, ns, host string) *Service {
		s := with(se(name, ResolutionDNS, hostname.Pattern(host)), svcPort(443, ProtocolTLS))
		s.Ref.Namespace = ns
		s.Export = Visibility{Limited: true, Namespaces: []string{ns}}
		return s
	}
	common := with(se("common", ResolutionDNS, "common.example.com"), svcPort(443, ProtocolTLS))
	workloads := []*Workload{w("web", "a"), w("job", "a"), w("db", "b"), w("plain", "c")}
	numbers := func(s *Snapshot) (out [4]PolicyID) {
		for i, b := range s.Workloads() {
			out[i] = b.Policy
		}
		return out
	}
	s := mustCompile(t, &Config{Workloads: workloads, Services: []*Service{common, limited("a", "a", "a.example.com"), limited("b", "b", "b.example.com")}})
	if got, want := numbers(s), [4]PolicyID{2, 2, 3, 1}; got != want {
		t.Errorf("numbers %v, want %v", got, want)
	}
	// A rule that asks for labels splits namespace a; the first keeps the number.
	v := vs("labels", mesh, names("common.example.com"))
	v.TLS = []*TLSRule{{Matches: []*L4Match{{SNIHosts: v.Hosts, SourceLabels: map[string]string{"app": "job"}}}, Route: to("", "a.example.com", 443).Route}}
	s, err := s.Update(&Config{Workloads: workloads, VirtualServices: []*VirtualService{v},
		Services: []*Service{common, limited("a", "a", "a.example.com"), limited("b", "b", "b.example.com")}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := numbers(s), [4]PolicyID{2, 4, 3, 1}; got != want {
		t.Errorf("numbers %v, want %v", got, want)
	}
	// Without anything of their own all are like the rest.
	if s, err = s.Update(&Config{Workloads: workloads, Services: []*Service{common}}); err != nil {
		t.Fatal(err)
	}
	if got, want := numbers(s), [4]PolicyID{1, 1, 1, 1}; got != want || len(s.Policies()) != 1 {
		t.Errorf("numbers %v, want %v; policies %v", got, want, s.Policies())
	}
}

func BenchmarkUpdateHundredOf100k(b *testing.B) {
	c := &Config{}
	for i := range 1000 {
		s := with(se(fmt.Sprint("s", i), ResolutionDNS), svcPort(443, ProtocolTLS))
		for j := range 100 {
			s.Hosts = append(s.Hosts, hostname.Pattern(fmt.Sprintf("h%d.example%d.com", j, i)))
		}
		c.Services = append(c.Services, s)
	}
	s := mustCompile(b, c)
	i := 0
	for b.Loop() {
		next := *c
		next.Services = slices.Clone(c.Services)
		changed := *c.Services[500]
		changed.Hosts = append(slices.Clone(changed.Hosts[:100]), hostname.Pattern(fmt.Sprintf("new%d.example.org", i)))
		next.Services[500] = &changed
		i++
		var err error
		if s, err = s.Update(&next); err != nil {
			b.Fatal(err)
		}
		c = &next
	}
}
