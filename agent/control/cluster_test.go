// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

// TestFoundCluster: the status has what was found of the cluster beside what the flag
// says, and that nothing was found is said, loudly and once.
func TestFoundCluster(t *testing.T) {
	api := &server{synced: true, files: []istio.File{object("a", "a.example.com")}}
	var log testenv.Buffer
	named := netip.MustParsePrefix("10.1.0.0/16")
	c := &cluster{t: t, api: api}
	c.Control = New(Options{
		Objects: api, FindCluster: true, Cluster: policy.Cluster{Prefixes: []netip.Prefix{named}},
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	c.begin()
	const lost = "level=ERROR msg=\"egressd does not know what is inside of the cluster\""
	is := func(when string, found []netip.Prefix, said int) {
		t.Helper()
		p, _ := c.Report()
		if p.Cluster == nil || !slices.Equal(p.Cluster.Found, found) || !slices.Equal(p.Cluster.Prefixes, append([]netip.Prefix{named}, found...)) {
			t.Errorf("%s: %+v, want found %v", when, p.Cluster, found)
		} else if (p.Cluster.Problem == "") != (len(found) > 0) {
			t.Errorf("%s: the problem is %q", when, p.Cluster.Problem)
		}
		if n := strings.Count(log.String(), lost); n != said {
			t.Errorf("%s: it was said %d times, want %d:\n%s", when, n, said, log.String())
		}
	}
	is("nothing is found", nil, 1)
	api.files = []istio.File{object("a", "b.example.com")}
	c.ReloadObjects()
	is("still nothing", nil, 1)
	node := func(cidr string) istio.File {
		return istio.File{Name: "kubernetes:Node/node1", Data: fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Node","metadata":{"name":"node1"},"spec":{"podCIDRs":[%q]}}`, cidr)}
	}
	api.files = []istio.File{node("10.244.3.0/24"), object("a", "b.example.com")}
	c.ReloadObjects()
	is("the node has a network", []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")}, 1)
	if !strings.Contains(log.String(), "egressd knows what is inside of the cluster") {
		t.Error("it is not said that it is found")
	}
	api.files = []istio.File{object("a", "b.example.com")}
	c.ReloadObjects()
	is("it is gone", nil, 2)
}

// TestNoCluster: a node that is part of no cluster has nothing to find, and one whose
// operator names it all has no problem.
func TestNoCluster(t *testing.T) {
	for _, tt := range []struct {
		prefixes []netip.Prefix
		is       bool
	}{{nil, false}, {[]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, true}} {
		var log testenv.Buffer
		api := &server{synced: true}
		c := &cluster{t: t, api: api}
		c.Control = New(Options{Objects: api, Cluster: policy.Cluster{Prefixes: tt.prefixes}, Log: slog.New(slog.NewTextHandler(&log, nil))})
		c.begin()
		p, _ := c.Report()
		if (p.Cluster != nil) != tt.is || p.Cluster != nil && p.Cluster.Problem != "" || strings.Contains(log.String(), "inside of the cluster") {
			t.Errorf("%v: %+v\n%s", tt.prefixes, p.Cluster, log.String())
		}
	}
}
