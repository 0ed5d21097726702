// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

// Servers of the tests' cluster: its DNS service, one that somebody runs in a
// pod, and one outside.
const (
	kubeDNS = "10.96.0.10:53"
	podDNS  = "10.244.9.9:53"
	realDNS = "192.0.2.53:53"
)

// clusterZone is what the cluster's DNS and the outside answer. A pod's own
// server answers whatever its owner likes.
var clusterZone = map[string][]string{
	kubeDNS: {
		"db.shop.svc.cluster.local. 5 A 10.96.0.20", "db.shop.svc.cluster.local. 5 AAAA fd00:10:96::20",
		"_pg._tcp.db.shop.svc.cluster.local. 5 SRV 0 100 5432 db.shop.svc.cluster.local.",
		"cache.shop.svc.cluster.local. 5 A 10.244.1.6", "cache.shop.svc.cluster.local. 5 A 10.244.1.7",
		"pod-0.cache.shop.svc.cluster.local. 5 A 10.244.1.6", "10-244-1-6.shop.pod.cluster.local. 5 A 10.244.1.6",
		"20.0.96.10.in-addr.arpa. 5 PTR db.shop.svc.cluster.local.",
		"ext.shop.svc.cluster.local. 300 CNAME www.example.com.", "www.example.com. 60 A 198.51.100.66",
		"bad.shop.svc.cluster.local. 300 CNAME evil.test.", "evil.test. 60 A 198.51.100.66",
		"alias.shop.svc.cluster.local. 300 CNAME db.shop.svc.cluster.local.",
		"declared.shop.svc.cluster.local. 5 A 10.96.0.33",
	},
	podDNS: {
		"db.shop.svc.cluster.local. 5 A 203.0.113.99", "declared.shop.svc.cluster.local. 5 A 203.0.113.99",
		"ext.shop.svc.cluster.local. 300 CNAME www.example.com.", "www.example.com. 60 A 203.0.113.99",
	},
	realDNS: {"www.example.com. 60 A 203.0.113.1", "evil.test. 60 A 203.0.113.66"},
}

// clusterRig is a proxy in a cluster; asked has the servers that were asked, and
// for what.
type clusterRig struct {
	*rig
	mu    sync.Mutex
	asked []string
}

func newClusterRig(t *testing.T, edit func(*policy.Config)) *clusterRig {
	t.Helper()
	r := &clusterRig{rig: newRig(t, Config{}, netip.MustParseAddrPort(realDNS))}
	service := func(ns, name, ip string) *policy.Service {
		s := &policy.Service{
			Ref: policy.Ref{Kind: "Service", Namespace: ns, Name: name}, Resolution: policy.ResolutionStatic,
			Hosts: []hostname.Pattern{hostname.Pattern(name + "." + ns + ".svc.cluster.local")},
			Ports: []policy.Port{{Number: 5432, Name: "pg", Protocol: policy.ProtocolTCP}},
		}
		if ip != "" {
			s.ClusterIPs = []netip.Addr{netip.MustParseAddr(ip)}
		}
		return s
	}
	c := &policy.Config{
		Services: append(learnedtest.Services(), learnedtest.Service("declared.shop.svc.cluster.local"),
			service("kube-system", "kube-dns", "10.96.0.10"), service("shop", "db", "10.96.0.20"), service("shop", "cache", ""), service("apparel", "web", "10.96.0.40")),
		Cluster: policy.Cluster{Prefixes: []netip.Prefix{
			netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10::/32"),
		}},
	}
	if edit != nil {
		edit(c)
	}
	s, err := policy.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	r.pol.Store(s)
	r.upstream.ask = func(_ context.Context, q *dns.Msg, server netip.AddrPort) (*dns.Msg, error) {
		r.mu.Lock()
		r.asked = append(r.asked, server.String()+" "+q.Question[0].Name)
		r.mu.Unlock()
		zone, ok := clusterZone[server.String()]
		if !ok {
			return nil, errors.New("nobody is there")
		}
		m := new(dns.Msg).SetReply(q)
		name, found := q.Question[0].Name, false
		for again := true; again; {
			again = false
			for _, text := range zone {
				rr, err := dns.NewRR(text)
				if err != nil {
					t.Error(err)
				}
				if rr.Header().Name != name {
					continue
				}
				found = true
				if alias, ok := rr.(*dns.CNAME); ok && q.Question[0].Qtype != dns.TypeCNAME {
					m.Answer, name, again = append(m.Answer, rr), alias.Target, true
					break
				}
				if rr.Header().Rrtype == q.Question[0].Qtype {
					m.Answer = append(m.Answer, rr)
				}
			}
		}
		if !found {
			m.Rcode = dns.RcodeNameError
		}
		return m, nil
	}
	r.serve()
	return r
}

// query asks from a workload that addressed a server, and returns the answer
// and who was asked.
func (r *clusterRig) query(server, name string, qtype uint16) (*dns.Msg, []string) {
	r.t.Helper()
	c := Client{Workload: "w", Policy: policy.DefaultPolicy, Server: netip.MustParseAddrPort(server)}
	r.setClient(c)
	r.mu.Lock()
	r.asked = nil
	r.mu.Unlock()
	m := r.ask("udp", r.udp[0], question(name, qtype))
	r.mu.Lock()
	defer r.mu.Unlock()
	return m, slices.Clone(r.asked)
}

// TestClusterNames: names of the cluster are answered by the cluster's DNS, and
// open nothing; what cannot be one is nobody's business.
func TestClusterNames(t *testing.T) {
	r := newClusterRig(t, nil)
	for _, tt := range []struct {
		name   string
		qtype  uint16
		server string
		rcode  int
		answer []string
		asked  []string
	}{
		{"db.shop.svc.cluster.local.", dns.TypeA, kubeDNS, 0, []string{"db.shop.svc.cluster.local. 5 IN A 10.96.0.20"}, []string{kubeDNS}},
		{"db.shop.svc.cluster.local.", dns.TypeAAAA, kubeDNS, 0, []string{"db.shop.svc.cluster.local. 5 IN AAAA fd00:10:96::20"}, []string{kubeDNS}},
		{"DB.shop.SVC.cluster.local.", dns.TypeA, kubeDNS, 0, []string{"DB.shop.SVC.cluster.local. 5 IN A 10.96.0.20"}, []string{kubeDNS}},
		{"_pg._tcp.db.shop.svc.cluster.local.", dns.TypeSRV, kubeDNS, 0, []string{"_pg._tcp.db.shop.svc.cluster.local. 5 IN SRV 0 100 5432 db.shop.svc.cluster.local."}, []string{kubeDNS}},
		{"cache.shop.svc.cluster.local.", dns.TypeA, kubeDNS, 0, []string{"cache.shop.svc.cluster.local. 5 IN A 10.244.1.6", "cache.shop.svc.cluster.local. 5 IN A 10.244.1.7"}, []string{kubeDNS}},
		{"pod-0.cache.shop.svc.cluster.local.", dns.TypeA, kubeDNS, 0, []string{"pod-0.cache.shop.svc.cluster.local. 5 IN A 10.244.1.6"}, []string{kubeDNS}},
		{"10-244-1-6.shop.pod.cluster.local.", dns.TypeA, kubeDNS, 0, []string{"10-244-1-6.shop.pod.cluster.local. 5 IN A 10.244.1.6"}, []string{kubeDNS}},
		{"alias.shop.svc.cluster.local.", dns.TypeA, kubeDNS, 0, []string{"alias.shop.svc.cluster.local. 300 IN CNAME db.shop.svc.cluster.local.", "db.shop.svc.cluster.local. 5 IN A 10.96.0.20"}, []string{kubeDNS}},
		{"20.0.96.10.in-addr.arpa.", dns.TypePTR, kubeDNS, 0, []string{"20.0.96.10.in-addr.arpa. 5 IN PTR db.shop.svc.cluster.local."}, []string{kubeDNS}},
		{"20.0.96.10.in-addr.arpa.", dns.TypeTXT, kubeDNS, 0, nil, nil},
		{"0.96.10.in-addr.arpa.", dns.TypePTR, kubeDNS, dns.RcodeNameError, nil, nil},
		{"1.2.168.192.in-addr.arpa.", dns.TypePTR, kubeDNS, dns.RcodeNameError, nil, nil},
		{"none.shop.svc.cluster.local.", dns.TypeA, kubeDNS, dns.RcodeNameError, nil, []string{kubeDNS}},
		{"db.shop.svc.cluster.local.", dns.TypeNULL, kubeDNS, 0, nil, nil},
		// Steps of a search, and data that pretends to be one.
		{"www.example.com.shop.svc.cluster.local.", dns.TypeA, kubeDNS, dns.RcodeNameError, nil, nil},
		{"www.example.com.cluster.local.", dns.TypeA, kubeDNS, dns.RcodeNameError, nil, nil},
		{"db.shop.svc.cluster.local.shop.svc.cluster.local.", dns.TypeA, kubeDNS, dns.RcodeNameError, nil, nil},
		{"c2VjcmV0.more.evil.example.svc.cluster.local.", dns.TypeA, kubeDNS, dns.RcodeNameError, nil, nil},
		{"c2VjcmV0.evil.example.svc.cluster.local.", dns.TypeA, kubeDNS, dns.RcodeNameError, nil, []string{kubeDNS}},
		{"c2VjcmV0.cluster.local.", dns.TypeA, kubeDNS, dns.RcodeNameError, nil, nil},
		// The server that the workload chose, as long as it is inside.
		{"db.shop.svc.cluster.local.", dns.TypeA, podDNS, 0, []string{"db.shop.svc.cluster.local. 5 IN A 203.0.113.99"}, []string{podDNS}},
		{"db.shop.svc.cluster.local.", dns.TypeA, "203.0.113.8:53", 0, []string{"db.shop.svc.cluster.local. 5 IN A 10.96.0.20"}, []string{kubeDNS}},
		{"db.shop.svc.cluster.local.", dns.TypeA, "169.254.169.254:53", 0, []string{"db.shop.svc.cluster.local. 5 IN A 10.96.0.20"}, []string{kubeDNS}},
		// Names outside are what they are elsewhere.
		{"www.example.com.", dns.TypeA, kubeDNS, 0, []string{"www.example.com. 60 IN A 203.0.113.1"}, []string{realDNS}},
		{"evil.test.", dns.TypeA, kubeDNS, dns.RcodeNameError, nil, nil},
	} {
		m, asked := r.query(tt.server, tt.name, tt.qtype)
		for i := range asked {
			asked[i], _, _ = strings.Cut(asked[i], " ")
		}
		if m.Rcode != tt.rcode || !slices.Equal(texts(m.Answer), slices.Concat([]string{}, tt.answer)) || !slices.Equal(asked, tt.asked) {
			t.Errorf("%s %s at %s: %s %v, asked %v, want %s %v, asked %v", tt.name, dns.Type(tt.qtype), tt.server,
				dns.RcodeToString[m.Rcode], texts(m.Answer), asked, dns.RcodeToString[tt.rcode], tt.answer, tt.asked)
		}
	}
	if got := r.kernel.Addresses(); !slices.Equal(got, []string{"203.0.113.1"}) {
		t.Errorf("the kernel was told of %v: names of the cluster open nothing", got)
	}
}

// TestClusterLeavesByItsOwnName: an alias of the cluster's that leads outside is
// good for what the name outside is good for, whoever answered.
func TestClusterLeavesByItsOwnName(t *testing.T) {
	r := newClusterRig(t, nil)
	for _, server := range []string{kubeDNS, podDNS} {
		m, asked := r.query(server, "ext.shop.svc.cluster.local.", dns.TypeA)
		if got, want := texts(m.Answer), []string{"ext.shop.svc.cluster.local. 30 IN CNAME www.example.com.", "www.example.com. 60 IN A 203.0.113.1"}; !slices.Equal(got, want) {
			t.Errorf("by %s: %v, want %v (asked %v)", server, got, want, asked)
		}
		if m.Question[0].Name != "ext.shop.svc.cluster.local." {
			t.Errorf("the answer is to %s", m.Question[0].Name)
		}
	}
	r.events.take()
	m, asked := r.query(kubeDNS, "bad.shop.svc.cluster.local.", dns.TypeA)
	if m.Rcode != dns.RcodeNameError || len(m.Answer) != 1 || edeOf(m) != int(dns.ExtendedErrorCodeBlocked) || len(asked) != 1 {
		t.Errorf("an alias of a name that is not allowed: %v, asked %v", m, asked)
	}
	if e := r.events.take(); len(e) != 1 || e[0].Name != "evil.test" || e[0].Reason != policy.ReasonName {
		t.Errorf("told of %+v: the denial names what is not allowed", e)
	}
	if got := r.kernel.Addresses(); !slices.Equal(got, []string{"203.0.113.1"}) {
		t.Errorf("the kernel was told of %v", got)
	}
}

// TestDeclaredClusterName: a rule for a name of the cluster's learns what the
// cluster's own DNS answers, not what a pod does.
func TestDeclaredClusterName(t *testing.T) {
	r := newClusterRig(t, nil)
	for _, server := range []string{kubeDNS, podDNS, realDNS} {
		m, asked := r.query(server, "declared.shop.svc.cluster.local.", dns.TypeA)
		if got := texts(m.Answer); len(got) != 1 || !strings.HasSuffix(got[0], " 10.96.0.33") {
			t.Errorf("by %s: %v (asked %v)", server, got, asked)
		}
	}
	if got := r.kernel.Addresses(); !slices.Equal(got, []string{"10.96.0.33"}) {
		t.Errorf("the kernel was told of %v", got)
	}
	if a, err := r.Resolve(t.Context(), policy.DefaultPolicy, "declared.shop.svc.cluster.local"); err != nil || len(a) != 1 || a[0].String() != "10.96.0.33" {
		t.Errorf("egressd itself resolves it to %v (%v)", a, err)
	}
}

// TestClusterNamesUnderSidecar: a Sidecar leaves the names of the Services that
// it imports, and the servers that are known.
func TestClusterNamesUnderSidecar(t *testing.T) {
	r := newClusterRig(t, func(c *policy.Config) {
		c.Sidecars = []*policy.Sidecar{{
			Ref:    policy.Ref{Kind: "Sidecar", Namespace: "default", Name: "narrow"},
			Egress: []policy.SidecarEgress{{Hosts: []policy.SidecarHost{{Namespace: "shop", Host: "*"}, {Namespace: "default", Host: "*"}}}},
		}}
	})
	for name, want := range map[string]string{
		"db.shop.svc.cluster.local.": kubeDNS, "_pg._tcp.db.shop.svc.cluster.local.": kubeDNS, "pod-0.cache.shop.svc.cluster.local.": kubeDNS,
		"web.apparel.svc.cluster.local.": "", "none.shop.svc.cluster.local.": "", "10-244-1-6.shop.pod.cluster.local.": "",
		"20.0.96.10.in-addr.arpa.": "", "www.example.com.shop.svc.cluster.local.": "",
	} {
		for _, server := range []string{kubeDNS, podDNS} {
			qtype := dns.TypeA
			if strings.HasPrefix(name, "_") {
				qtype = dns.TypeSRV
			}
			m, asked := r.query(server, name, qtype)
			if want == "" && (m.Rcode != dns.RcodeNameError || len(asked) > 0) || want != "" && (m.Rcode != 0 || len(m.Answer) == 0 || !slices.Equal(asked, []string{want + " " + name})) {
				t.Errorf("%s at %s: %s %v, asked %v, want %q", name, server, dns.RcodeToString[m.Rcode], texts(m.Answer), asked, want)
			}
		}
	}
	// In audit mode it is said, and asked all the same.
	r.events.take()
	r.setClient(Client{Workload: "w", Policy: policy.DefaultPolicy, Mode: policy.Audit, Server: netip.MustParseAddrPort(kubeDNS)})
	m := r.ask("udp", r.udp[0], question("10-244-1-6.shop.pod.cluster.local.", dns.TypeA))
	if e := r.events.take(); len(m.Answer) != 1 || len(e) != 1 || !e[0].WouldDeny || e[0].Name != "10-244-1-6.shop.pod.cluster.local" {
		t.Errorf("in audit mode: %v, told of %+v", m, e)
	}
}

// TestNodeLocalDNS: a server at a link-local address of the node's own is asked
// when the workload asks it; another node's, which is no address here, is not.
func TestNodeLocalDNS(t *testing.T) {
	r := newClusterRig(t, nil)
	for server, want := range map[string]string{"169.254.20.10:53": "169.254.20.10:53", "169.254.20.11:53": kubeDNS} {
		_, asked := r.query(server, "db.shop.svc.cluster.local.", dns.TypeA)
		if len(asked) == 0 || !strings.HasPrefix(asked[0], want+" ") {
			t.Errorf("%s: asked %v, want %s", server, asked, want)
		}
	}
	// The operator may say so, too.
	r = newClusterRig(t, func(c *policy.Config) { c.Cluster.Servers = []netip.Addr{netip.MustParseAddr("169.254.20.10")} })
	if _, asked := r.query("203.0.113.8:53", "db.shop.svc.cluster.local.", dns.TypeA); len(asked) == 0 || !strings.HasPrefix(asked[0], "169.254.20.10:53 ") {
		t.Errorf("with --cluster-dns: asked %v", asked)
	}
}
