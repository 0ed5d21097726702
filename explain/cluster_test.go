// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

// TestInside: what is said of a destination inside of the cluster.
func TestInside(t *testing.T) {
	const objects = `
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.20, ports: [{name: pg, port: 5432}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow, namespace: shop}
spec: {egress: [{hosts: ["./*"]}]}
---
apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: web, namespace: shop}
spec: {cgroups: [web]}
`
	l, err := load.With([]istio.File{{Name: "p.yaml", Data: []byte(objects)}}, istio.Options{
		Cluster: policy.Cluster{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}},
	})
	if err != nil {
		t.Fatal(err, l.Findings)
	}
	for _, tt := range []struct {
		target, workload string
		verdict          policy.Verdict
		says             string
	}{
		{"10.96.0.20:5432", "", policy.Direct, "cluster-internal by --cluster-cidr (10.96.0.0/16)"},
		{"10.96.0.20:9", "", policy.Direct, "cluster-internal by --cluster-cidr (10.96.0.0/16)"},
		{"10.97.0.20:5432", "", policy.Deny, "no rule allows 10.97.0.20"},
		{"10.96.0.20:5432", "shop/web", policy.Direct, "cluster-internal by Service shop/db"},
		{"10.96.0.21:5432", "shop/web", policy.Deny, "is inside of the cluster, but a Sidecar with egress hosts applies"},
		{"10.96.0.10:53", "", policy.Proxy, "names of the cluster are asked at this server"},
		{"db.shop.svc.cluster.local:5432", "", policy.Direct, "is a name of the cluster's"},
		{"db.shop.svc.cluster.local:5432", "shop/web", policy.Direct, "is a name of the cluster's"},
		{"web.apparel.svc.cluster.local:80", "shop/web", policy.Deny, "does not import the Service"},
		{"a.b.c.d.svc.cluster.local:80", "", policy.Deny, "no Service or Pod has such a name"},
	} {
		target, err := ParseTarget(tt.target)
		if err != nil {
			t.Fatal(err)
		}
		x, err := Explain(l.Snapshot, nil, Question{Target: target, Workload: tt.workload})
		if err != nil {
			t.Fatal(err)
		}
		if said := strings.Join(x.Steps, "\n"); x.Verdict != tt.verdict || !strings.Contains(said, tt.says) {
			t.Errorf("%s of %q: %s\n%s\nwant %s and %q", tt.target, tt.workload, x.Verdict, said, tt.verdict, tt.says)
		}
	}
}
