// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// Addresses of the test's cluster.
const (
	clusterDNS4 = "10.96.0.10"
	clusterDNS6 = "fd00:10:96::10"
	dbService4  = "10.96.0.20"
	dbService6  = "fd00:10:96::20"
	cachePod    = "10.244.1.6"
	webService  = "10.96.0.40"
)

// clusterPolicy are objects of the cluster, and a host outside.
const clusterPolicy = `
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIPs: [` + clusterDNS4 + `, "` + clusterDNS6 + `"], ports: [{name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIPs: [` + dbService4 + `, "` + dbService6 + `"], ports: [{name: pg, port: 5432}, {name: stat, port: 8125, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: apparel}
spec: {clusterIP: ` + webService + `, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: google, namespace: shop}
spec:
  hosts: [` + world.GoogleAPIs + `]
  ports: [{number: 443, name: https, protocol: HTTPS}]
  resolution: DNS
`

// inCluster starts a node of a cluster: its DNS is another one than the node's.
func inCluster(t *testing.T, policy string) (n *node, dns *world.DNS, conf string) {
	t.Helper()
	n = start(t, map[string]string{"policy.yaml": policy}, func(w *world.World) {
		var err error
		if dns, err = w.AddDNS(netip.MustParseAddr(clusterDNS4), netip.MustParseAddr(clusterDNS6)); err != nil {
			t.Fatal(err)
		}
		if err := dns.Set(
			"db.shop.svc.cluster.local. 5 IN A "+dbService4, "db.shop.svc.cluster.local. 5 IN AAAA "+dbService6,
			"_pg._tcp.db.shop.svc.cluster.local. 5 IN SRV 0 100 5432 db.shop.svc.cluster.local.",
			"cache.shop.svc.cluster.local. 5 IN A "+cachePod, "web.apparel.svc.cluster.local. 5 IN A "+webService,
			"20.0.96.10.in-addr.arpa. 5 IN PTR db.shop.svc.cluster.local.",
			"good.shop.svc.cluster.local. 5 IN CNAME "+world.GoogleAPIs+".", "bad.shop.svc.cluster.local. 5 IN CNAME "+world.Stranger+".",
			// What a server of somebody's in the cluster says of names outside.
			world.GoogleAPIs+". 5 IN A "+world.StrangerV4, world.Stranger+". 5 IN A "+world.StrangerV4,
		); err != nil {
			t.Fatal(err)
		}
		for _, a := range []string{dbService4, dbService6, webService, cachePod} {
			if _, err := w.AddTCP(netip.AddrPortFrom(netip.MustParseAddr(a), 5432), "hello"); err != nil {
				t.Fatal(err)
			}
			if _, err := w.AddUDP(netip.AddrPortFrom(netip.MustParseAddr(a), 8125)); err != nil {
				t.Fatal(err)
			}
		}
	}, "--cluster-cidr", "10.96.0.0/16,10.244.0.0/16,fd00:10::/32")
	conf = filepath.Join(n.Dir(), "pod.conf")
	text := fmt.Sprintf("nameserver %s\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n", clusterDNS4)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return n, dns, conf
}

// TestClusterDNS: in whatever library, a pod's resolv.conf works: Services by
// their short and long names, an allowed name outside behind the steps of the
// search, aliases that lead outside by the name outside; and nothing of it leaves.
func TestClusterDNS(t *testing.T) {
	t.Parallel()
	n, dns, conf := inCluster(t, clusterPolicy)
	google, long := n.GoogleAPIs.V4.String(), "db.shop.svc.cluster.local"
	for library, program := range libraries(t) {
		t.Run(library, func(t *testing.T) {
			for _, tt := range []struct{ name, want string }{
				{"db", dbService4}, {"db.shop", dbService4}, {"db.shop.svc", dbService4}, {long, dbService4}, {long + ".", dbService4}, {"cache", cachePod},
				{world.GoogleAPIs, google}, {"good", google},
			} {
				if library == "Node.js" && !strings.Contains(tt.name, ".svc.cluster.local") && tt.name != world.GoogleAPIs {
					continue // dns.resolve searches no suffixes
				}
				out, took := n.resolve(t, n.in, conf, program, tt.name)
				if !strings.Contains(out, tt.want) || took > atOnce {
					t.Errorf("%s, after %s: %s, want %s", tt.name, took, out, tt.want)
				}
			}
			for _, name := range []string{world.Stranger, "bad", "none"} {
				out, took := n.resolve(t, n.in, conf, program, name)
				if strings.Contains(out, world.StrangerV4) || took > atOnce {
					t.Errorf("%s, after %s: %s", name, took, out)
				}
			}
			if out, _ := n.resolve(t, nil, conf, program, long); !strings.Contains(out, dbService4) {
				t.Errorf("not captured: %s", out)
			}
		})
	}
	for _, q := range n.DNS.Queries() {
		if strings.HasSuffix(q.Name, ".local") {
			t.Errorf("%s was asked outside", q.Name)
		}
	}
	for _, suffix := range []string{".shop.svc.cluster.local", ".svc.cluster.local", ".cluster.local"} {
		if asked := dns.Asked(world.GoogleAPIs + suffix); asked > 0 && strings.Count(world.GoogleAPIs+suffix, ".") != 5 {
			t.Errorf("the cluster was asked for a step of a search (%s) %d times", suffix, asked)
		}
	}
	if p := n.probe(t, n.in, "dns", "udp", clusterDNS4+":53", "20.0.96.10.in-addr.arpa", "PTR"); p.Rcode != "NOERROR" {
		t.Errorf("a reverse name: %+v", p)
	}
	if p := n.probe(t, n.in, "dns", "udp", "["+clusterDNS6+"]:53", long, "AAAA"); p.Rcode != "NOERROR" || len(p.Addrs) != 1 || p.Addrs[0] != dbService6 {
		t.Errorf("over IPv6: %+v", p)
	}
	if p := n.probe(t, n.in, "dns", "tcp", clusterDNS4+":53", long, "A"); p.Rcode != "NOERROR" || len(p.Addrs) != 1 || p.Addrs[0] != dbService4 {
		t.Errorf("over TCP: %+v", p)
	}
	// The address that a server inside gave for the name outside is not open.
	if p := n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 443)); p.Errno != syscall.ECONNREFUSED {
		t.Errorf("the address that the cluster's server gave for an allowed name is open: %+v", p)
	}
}

// TestClusterInside: Services and Pods are reached by address, until a Sidecar
// closes the inside but for what it imports.
func TestClusterInside(t *testing.T) {
	t.Parallel()
	n, _, _ := inCluster(t, clusterPolicy)
	reaches := func(a string) (tcp, udp bool) {
		t.Helper()
		p := n.probe(t, n.in, "dial", hostPort(a, 5432))
		q := n.probe(t, n.in, "udp", hostPort(a, 8125), "hello")
		return p.Peer != "", q.Text == "hello"
	}
	for _, a := range []string{dbService4, dbService6, webService, cachePod} {
		if tcp, udp := reaches(a); !tcp || !udp {
			t.Errorf("%s: TCP %v, UDP %v; all of it is inside", a, tcp, udp)
		}
	}
	if p := n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 443)); p.Errno != syscall.ECONNREFUSED {
		t.Errorf("outside: %+v", p)
	}
	n.reload(t, "policy.yaml", clusterPolicy+`---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: istio-system}
spec: {egress: [{hosts: ["shop/*"]}]}
`)
	for a, open := range map[string]bool{dbService4: true, dbService6: true, webService: false, cachePod: false} {
		if tcp, udp := reaches(a); tcp != open || udp != open {
			t.Errorf("%s under a Sidecar: TCP %v, UDP %v, want %v", a, tcp, udp, open)
		}
	}
	for name, open := range map[string]bool{"db.shop.svc.cluster.local": true, "web.apparel.svc.cluster.local": false} {
		if p := n.probe(t, n.in, "dns", "udp", clusterDNS4+":53", name, "A"); (p.Rcode == "NOERROR") != open {
			t.Errorf("%s under a Sidecar: %+v", name, p)
		}
	}
}
