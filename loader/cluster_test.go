// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

const (
	servicePort  = 7010
	endpointPort = 17010
)

// translated is a Service address that the node translates to an endpoint.
type translated struct{ vip, endpoint string }

// The Services of the test: within the cluster, and one whose endpoint is not.
var (
	insideV4  = translated{"10.96.0.20", "10.244.1.5"}
	insideV6  = translated{"fd00:10:96::20", "fd00:10:244::5"}
	outsideV4 = translated{"10.96.0.30", "203.0.113.78"}
	outsideV6 = translated{"fd00:10:96::30", "2001:db8:bad::78"}
)

// translate has the node do what kube-proxy does for its own sockets: rewrite
// the destination of what leaves, in the output hook, before skb_egress.
func (r *rig) translate(all ...translated) {
	r.t.Helper()
	testenv.RequireTool(r.t, "nft")
	var rules strings.Builder
	rules.WriteString("table inet services { chain output { type nat hook output priority -100;\n")
	for _, s := range all {
		family, to := "ip", s.endpoint
		if strings.Contains(to, ":") {
			family, to = "ip6", "["+to+"]"
		}
		for _, transport := range []string{"tcp", "udp"} {
			fmt.Fprintf(&rules, "%s daddr %s %s dport %d dnat %s to %s:%d\n", family, s.vip, transport, servicePort, family, to, endpointPort)
			fmt.Fprintf(&rules, "%s daddr %s %s dport 53 dnat %s to %s:%d\n", family, s.vip, transport, family, to, endpointPort)
		}
	}
	rules.WriteString("}\n}\n")
	cmd := r.world.Node.Command(r.t.Context(), nil, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("nft: %v\n%s", err, out)
	}
}

// govern puts a policy in force.
func (r *rig) govern(c *policy.Config) {
	r.t.Helper()
	s, err := policy.Compile(c)
	must(r.t, err)
	change := policy.Diff(nil, s)
	must(r.t, r.dp.Tighten(change))
	must(r.t, r.dp.Loosen(change))
}

// TestServiceAddressIsTranslated: where the node leads a Service's address to an
// endpoint of its own choice (kube-proxy), what was allowed passes, over TCP and
// UDP, connected and not; where a datagram is led must be allowed itself.
func TestServiceAddressIsTranslated(t *testing.T) {
	r := newRig(t)
	all := []translated{insideV4, insideV6, outsideV4, outsideV6}
	for _, s := range all {
		at := netip.AddrPortFrom(netip.MustParseAddr(s.endpoint), endpointPort)
		_, err := r.world.AddTCP(at, "hello")
		must(t, err)
		_, err = r.world.AddUDP(at)
		must(t, err)
	}
	r.translate(all...)
	service := func(s translated, name string, six translated) *policy.Service {
		return &policy.Service{
			Ref: policy.Ref{Kind: "Service", Namespace: "default", Name: name}, Resolution: policy.ResolutionStatic,
			Hosts:      []hostname.Pattern{hostname.Pattern(name + ".default.svc.cluster.local")},
			Ports:      []policy.Port{{Number: servicePort, Name: "t", Protocol: policy.ProtocolTCP}, {Number: servicePort, Name: "u", Protocol: policy.ProtocolUDP}},
			ClusterIPs: []netip.Addr{netip.MustParseAddr(s.vip), netip.MustParseAddr(six.vip)},
			Endpoints: []policy.Endpoint{
				{Addr: netip.MustParseAddr(s.endpoint), Ports: map[string]uint16{"t": endpointPort, "u": endpointPort}},
				{Addr: netip.MustParseAddr(six.endpoint), Ports: map[string]uint16{"t": endpointPort, "u": endpointPort}},
			},
		}
	}
	cluster := &policy.Config{
		Services: []*policy.Service{service(insideV4, "in", insideV6), service(outsideV4, "out", outsideV6)},
		Cluster:  policy.Cluster{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10::/32")}},
	}
	narrow := *cluster
	narrow.Sidecars = []*policy.Sidecar{{
		Ref:    policy.Ref{Kind: "Sidecar", Namespace: "default", Name: "narrow"},
		Egress: []policy.SidecarEgress{{Hosts: []policy.SidecarHost{{Namespace: "default", Host: "in.default.svc.cluster.local"}, {Namespace: "default", Host: "out.default.svc.cluster.local"}}}},
	}}
	closed := *cluster
	closed.Sidecars = []*policy.Sidecar{{
		Ref:    policy.Ref{Kind: "Sidecar", Namespace: "default", Name: "narrow"},
		Egress: []policy.SidecarEgress{{Hosts: []policy.SidecarHost{{Namespace: "elsewhere", Host: "*"}}}},
	}}
	ops := []string{"tcp", "udp", "sendto"}
	dial := func(captured bool, op string, s translated) result {
		t.Helper()
		if strings.Contains(s.vip, ".") {
			if got := r.run(captured, op+"-mapped", hostport(s.vip, servicePort)); (got.Errno == "") != (r.run(captured, op, hostport(s.vip, servicePort)).Errno == "") {
				t.Errorf("%s to %s by a v4-mapped address: %+v", op, s.vip, got)
			}
		}
		return r.run(captured, op, hostport(s.vip, servicePort))
	}
	for _, s := range all { // without egressd all of it works
		for _, op := range ops {
			if got := dial(false, op, s); got.Data == "" {
				t.Fatalf("uncaptured %s to %s: %+v", op, s.vip, got)
			}
		}
	}
	for _, tt := range []struct {
		name string
		c    *policy.Config
		in   bool
		out  map[string]bool
	}{
		{"the cluster's prefixes", cluster, true, map[string]bool{"tcp": true}},
		{"Services that a Sidecar imports", &narrow, true, map[string]bool{"tcp": true}},
		{"a Sidecar that imports none", &closed, false, map[string]bool{}},
	} {
		r.govern(tt.c)
		for _, op := range ops {
			for _, s := range []translated{insideV4, insideV6} {
				got := dial(true, op, s)
				if ok := got.Data != ""; ok != tt.in {
					t.Errorf("%s: %s to %s: %+v", tt.name, op, s.vip, got)
				}
				if want := hostport(s.vip, servicePort); tt.in && op == "sendto" && got.From != want {
					t.Errorf("%s: the answer comes from %s, want %s", tt.name, got.From, want)
				}
			}
			for _, s := range []translated{outsideV4, outsideV6} {
				before := r.world.Packets(netip.MustParseAddr(s.endpoint))
				got := dial(true, op, s)
				if ok := got.Data != ""; ok != tt.out[op] {
					t.Errorf("%s: %s to %s, which leads out of the cluster: %+v", tt.name, op, s.vip, got)
				}
				if n := r.world.Packets(netip.MustParseAddr(s.endpoint)) - before; n > 0 && !tt.out[op] {
					t.Errorf("%s: %s to %s: %d packets left the cluster", tt.name, op, s.vip, n)
				}
			}
		}
	}
	// A question to the cluster's DNS comes to egressd before the node translates.
	r.govern(cluster)
	for _, s := range all {
		for _, op := range ops {
			dst := hostport(s.vip, 53)
			if got := r.run(true, op, dst); got.Data != dst+" true" {
				t.Errorf("%s to %s: %+v, want it to come to egressd's listener", op, dst, got)
			}
		}
	}
}

// TestOwnPortsInsideTheCluster: that the node has an address inside of the
// cluster opens no way to egressd's own ports.
func TestOwnPortsInsideTheCluster(t *testing.T) {
	r := newRig(t)
	r.govern(&policy.Config{Cluster: policy.Cluster{Prefixes: []netip.Prefix{
		netip.PrefixFrom(netip.MustParseAddr(world.NodeV4), 24).Masked(), netip.PrefixFrom(netip.MustParseAddr(world.NodeV6), 64).Masked(),
	}}})
	ownPorts := func() uint64 {
		counters, err := r.dp.Counters()
		must(t, err)
		return counters["deny/own-port"]
	}
	for _, a := range []string{world.NodeV4, world.NodeV6} {
		must(t, r.dp.SetOwn([]netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(a), netip.MustParseAddr(a).BitLen())}))
		before := ownPorts()
		if got := r.run(true, "syn", hostport(a, int(r.ports.Proxy))); got.Errno != "ECONNREFUSED" {
			t.Errorf("%s: egressd's port: %+v", a, got)
		}
		if n := ownPorts() - before; n != 1 {
			t.Errorf("%s: %d refusals for the port", a, n)
		}
		// Another port of the node's is inside.
		r.run(true, "syn", hostport(a, int(r.ports.Proxy)+1))
		if n := ownPorts() - before; n != 1 {
			t.Errorf("%s: another port is refused as well", a)
		}
	}
}

// TestInsideFromAnInterface: what comes in by a guarded interface reaches what is
// inside of the cluster as well, and nothing else.
func TestInsideFromAnInterface(t *testing.T) {
	v := newVM(t)
	places := map[string]bool{"10.244.1.9": true, "fd00:10:244::9": true, "203.0.113.79": false, "2001:db8:bad::79": false}
	for a := range places {
		_, err := v.world.AddTCP(netip.AddrPortFrom(netip.MustParseAddr(a), servicePort), "hello")
		must(t, err)
	}
	v.govern(&policy.Config{Cluster: policy.Cluster{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10::/32")}}})
	for _, guarded := range []bool{false, true} {
		if guarded {
			v.guard(policy.Enforce)
		}
		for a, inside := range places {
			c, how := v.dialSoon(hostport(a, servicePort))
			if c != nil {
				c.Close()
			}
			if open := how == ""; open != (inside || !guarded) {
				t.Errorf("%s, guarded %v: %q", a, guarded, how)
			}
		}
	}
}
