// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// TestForeignEntryIsExplained: what is said of a ServiceEntry under the name of
// another namespace's Kubernetes Service, or with a wildcard that covers it, is
// why it does not count, and who can open the name; its own workloads have it.
func TestForeignEntryIsExplained(t *testing.T) {
	const host = "db.shop.svc.cluster.local"
	db := with(kube("db"), svcNamespace("shop"))
	db.Hosts = names(host)
	for _, declared := range []hostname.Pattern{host, "*.shop.svc.cluster.local", "*b.shop.svc.cluster.local"} {
		theirs := with(se("theirs", ResolutionStatic, declared), svcPort(443, ProtocolTLS), svcEndpoint("203.0.113.66"), svcNamespace("apparel"))
		c := &Config{Services: []*Service{db, theirs}, Workloads: workloads("shop", "apparel", "third")}
		flows := []Flow{{Transport: TCP, Dst: netip.MustParseAddrPort("198.51.100.1:443"), Host: host, HostFrom: EvidenceSNI}}
		if declared == host { // the address is open for other names of a wildcard
			flows = append(flows, Flow{Transport: TCP, Dst: netip.MustParseAddrPort("203.0.113.66:443")})
		}
		checkForeignEntry(t, c, theirs, flows)
		if d := policyFor(t, c, "apparel").DecideQuery(host); d.Verdict == Deny {
			t.Errorf("%s: apparel's own workloads: %v", declared, d.Reason)
		}
	}
}

func checkForeignEntry(t *testing.T, c *Config, theirs *Service, flows []Flow) {
	t.Helper()
	for _, f := range flows {
		for _, ns := range []string{"shop", "third"} {
			said := ""
			for _, x := range policyFor(t, c, ns).Why(f, nil).Considered {
				if x.Rule == theirs.Ref && !x.Won {
					said = x.Why
				}
			}
			for _, want := range []string{"is the name of Service shop/db", "those of apparel", "A ServiceEntry of namespace shop opens it"} {
				if !strings.Contains(said, want) {
					t.Errorf("%v from %s: %q, want %q in it", f.Dst, ns, said, want)
				}
			}
		}
	}
}
