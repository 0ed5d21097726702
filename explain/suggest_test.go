// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

// TestLearnedSuggestions: what was seen in audit mode is suggested and no more: no
// port is guessed, no address of a name is opened, and names of services and
// reverse lookups are no hosts.
func TestLearnedSuggestions(t *testing.T) {
	denial := func(name, dst string, names ...string) Denial {
		w := DeniedTarget{Name: name, Names: names, Transport: policy.TCP}
		if dst != "" {
			a := netip.MustParseAddrPort(dst)
			w.Addr, w.Port = a.Addr(), a.Port()
		}
		return Denial{DeniedTarget: w, Reason: policy.ReasonNoRule}
	}
	got := SuggestAll([]Denial{
		denial("asked.example", ""),
		denial("db.example", ""),
		denial("db.example", "192.0.2.1:5432"),
		denial("db.example", "[2001:db8::1]:5432"),
		denial("_ldap._tcp.example", ""),
		denial("1.2.0.192.in-addr.arpa", ""),
		denial("8.b.d.0.1.0.0.2.ip6.arpa", ""),
		denial("one.example", "192.0.2.2:443", "one.example", "two.example"),
	}, policy.Audit, nil, nil)
	if !slices.Equal(got.Unknown, []string{"asked.example"}) {
		t.Errorf("names without a port: %q", got.Unknown)
	}
	if len(got.Objects) != 3 {
		t.Fatalf("%d objects, want 3:\n%s", len(got.Objects), got.YAML())
	}
	for i, want := range []string{"db.example", "one.example", "two.example"} {
		if !strings.Contains(got.Objects[i], "- \""+want+"\"\n") {
			t.Errorf("object %d is not for %s:\n%s", i, want, got.Objects[i])
		}
	}
	text := got.YAML()
	for _, no := range []string{"addresses:", "192.0.2", "2001:db8", "arpa", "_tcp"} {
		if strings.Contains(text, no) {
			t.Errorf("%q is in\n%s", no, text)
		}
	}
	if strings.Count(text, "number:") != 3 || strings.Count(text, "number: 5432\n") != 1 {
		t.Errorf("ports:\n%s", text)
	}
	if strings.Count(text, "# Which one was meant is not known; they have an address in common: one.example, two.example\n") != 2 {
		t.Errorf("it is not said that two names share an address:\n%s", text)
	}
}

// TestSuggestionMerges: a port of a host that an object names is added to that
// object, unless it names other hosts as well.
func TestSuggestionMerges(t *testing.T) {
	const object = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: NAME
  labels: {team: shop}
spec:
  hosts: HOSTS
  ports:
  - {number: 443, name: https, protocol: HTTPS}
  resolution: DNS
`
	file := t.TempDir() + "/policy.yaml"
	write := func(name, hosts string) string {
		return strings.NewReplacer("NAME", name, "HOSTS", hosts).Replace(object)
	}
	writeFile(t, file, write("one", "[one.example]")+"---\n"+write("several", "[two.example, three.example]"))
	l, err := load.Paths([]string{file}, nil)
	if err != nil {
		t.Fatal(err, l.Findings)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wish := func(name string) Denial {
		return Denial{Reason: policy.ReasonPort, DeniedTarget: DeniedTarget{Name: name, Addr: netip.MustParseAddr("192.0.2.1"), Port: 5432, Transport: policy.TCP}}
	}
	got := SuggestAll([]Denial{wish("one.example"), wish("two.example")}, policy.Audit,
		l.Snapshot.Policy(policy.DefaultPolicy), []istio.File{{Name: file, Data: data}})
	if len(got.Objects) != 2 {
		t.Fatalf("%d objects:\n%s", len(got.Objects), got.YAML())
	}
	for _, want := range []string{"name: one\n", "team: shop", "443", "5432"} {
		if !strings.Contains(got.Objects[0], want) {
			t.Errorf("%q is not in the merged object:\n%s", want, got.Objects[0])
		}
	}
	if strings.Contains(got.Objects[1], "443") || strings.Contains(got.Objects[1], "three.example") {
		t.Errorf("an object for several hosts was merged:\n%s", got.Objects[1])
	}
	writeFile(t, file, got.YAML())
	after, err := load.Paths([]string{file}, nil)
	if err != nil {
		t.Fatal(err, after.Findings)
	}
	for _, f := range []policy.Flow{
		{Names: []string{"one.example"}, Dst: netip.MustParseAddrPort("192.0.2.1:443")},
		{Names: []string{"one.example"}, Dst: netip.MustParseAddrPort("192.0.2.1:5432")},
		{Names: []string{"two.example"}, Dst: netip.MustParseAddrPort("192.0.2.1:5432")},
	} {
		f.Transport = policy.TCP
		if d := after.Snapshot.Policy(policy.DefaultPolicy).Decide(f); d.Verdict == policy.Deny {
			t.Errorf("%v is denied: %+v", f, d)
		}
	}
}
