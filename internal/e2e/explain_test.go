// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// explainedRules are what TestExplainIsWhatHappens asks about and does.
const explainedRules = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: empty}
spec:
  hosts: [empty.example.com]
  addresses: [%[1]s, "%[2]s"]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: by-address}
spec:
  hosts: [by-address.example.com]
  addresses: [%[3]s, "%[4]s"]
  ports: [{number: 8081, name: http, protocol: HTTP}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: by-address}
spec:
  hosts: ["%[3]s"]
  http: [{directResponse: {status: 418}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: closed}
spec:
  hosts: [closed.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed}
spec:
  targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: closed}]
  action: DENY
  rules: [{}]
---
`

// TestExplainIsWhatHappens: what the daemon explains is what a real client gets,
// by headers, for addresses, on each way of a weighted route, and where nothing
// is.
func TestExplainIsWhatHappens(t *testing.T) {
	t.Parallel()
	const emptyV4, emptyV6, v4, v6 = "240.0.0.9", "fd00:9::9", "203.0.113.201", "2001:db8:113::201"
	n := start(t, map[string]string{
		"more.yaml":  fmt.Sprintf(explainedRules, emptyV4, emptyV6, v4, v6),
		"hosts.yaml": hosts("google", world.GoogleAPIs),
		"rules.yaml": rules(`  - match: [{headers: {x-user: {exact: beta}}}]
    directResponse: {status: 418}
  - match: [{uri: {prefix: /part}}]
    route:
    - {destination: {host: ` + world.GoogleAPIs + `, port: {number: 80}}, weight: 1}
    - {destination: {host: closed.example.com, port: {number: 80}}, weight: 1}
  - match: [{uri: {prefix: /closed}}]
    route: [{destination: {host: closed.example.com, port: {number: 80}}}]
`),
	}, nil)
	n.learn(t, world.GoogleAPIs)
	explain := func(args ...string) (ended, explained) {
		t.Helper()
		e := n.egressd(t, append([]string{"explain", "-o", "json"}, args...)...)
		var x explained
		if err := json.Unmarshal([]byte(e.stdout), &x); err != nil {
			t.Fatalf("%v: %+v", err, e)
		}
		return e, x
	}
	for _, c := range []struct {
		args   []string // of explain and curl
		code   int      // of explain
		says   string
		status map[int]bool // of curl's answers
	}{
		{[]string{"-H", "x-user: beta", "http://" + world.GoogleAPIs + "/"}, 0, "answer 418", map[int]bool{418: true}},
		{[]string{"-H", "Host: closed.example.com", "http://" + world.GoogleAPIs + "/"}, 1, "is refused", map[int]bool{403: true}},
		{[]string{"http://" + world.GoogleAPIs + "/part"}, 0, "1 of 2: denied (authorization-denied), 50% of all", map[int]bool{200: true, 403: true}},
		{[]string{"http://" + world.GoogleAPIs + "/closed"}, 1, "1 of 1: denied (authorization-denied)", map[int]bool{403: true}},
		{[]string{"http://" + v4 + ":8081/"}, 0, "answer 418", map[int]bool{418: true}},
		{[]string{"http://" + emptyV4 + "/"}, 0, "nothing can be reached", map[int]bool{503: true}},
		{[]string{"http://[" + emptyV6 + "]/"}, 0, "nothing can be reached", map[int]bool{503: true}},
	} {
		e, x := explain(c.args...)
		if steps := strings.Join(x.Steps, "\n"); e.code != c.code || x.Allowed != (c.code == 0) || !strings.Contains(steps, c.says) {
			t.Errorf("%v: code %d, allowed %t, does not say %q:\n%s", c.args, e.code, x.Allowed, c.says, steps)
		}
		got := map[int]bool{}
		for range 40 { // of two ways one is missed once in 2^39 times
			a := n.curl(t, n.in, c.args...)
			if got[a.status] = true; !c.status[a.status] || len(got) == len(c.status) {
				break
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(c.status) {
			t.Errorf("%v: curl got %v, want %v", c.args, got, c.status)
		}
	}
}

// TestHashIsThatOfCheck: check prints the hash that status prints, whatever the
// daemon had in force before, and wherever the files are.
func TestHashIsThatOfCheck(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{"a.yaml": hosts("a", world.API), "b.yaml": hosts("b", world.GoogleAPIs)}, nil)
	same := func(what string) {
		t.Helper()
		mounted := t.TempDir()
		data := filepath.Join(mounted, "..data")
		if err := os.Mkdir(data, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a.yaml", "b.yaml"} {
			text, err := os.ReadFile(filepath.Join(n.d.ConfigDir(), name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(data, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join("..data", name), filepath.Join(mounted, name)); err != nil {
				t.Fatal(err)
			}
		}
		want := n.status(t).Policy.Hash
		for _, paths := range [][]string{{n.d.ConfigDir()}, {mounted}, {filepath.Join(mounted, "b.yaml"), filepath.Join(data, "a.yaml")}} {
			e := n.run(t, nil, egressd, append([]string{"check", "-o", "json"}, paths...)...)
			var x struct{ Hash string }
			if err := json.Unmarshal([]byte(e.stdout), &x); err != nil || x.Hash != want || len(want) != 64 {
				t.Errorf("%s: status says %s, check %v says %q (%v)", what, want, paths, x.Hash, err)
			}
		}
	}
	same("at the start")
	workload := func(namespace string) string {
		return "apiVersion: egressd.dev/v1\nkind: Workload\nmetadata: {name: w, namespace: " + namespace + "}\nspec: {cgroups: [w-" + namespace + ".slice]}\n---\n"
	}
	own := strings.Replace(hosts("a", world.API), "spec:", "spec:\n  exportTo: [one]", 1)
	for i, text := range []string{own + workload("one"), own + workload("two"), own + workload("one") + workload("two")} {
		before := n.status(t).Policy.Hash
		n.write(t, "a.yaml", text)
		eventually(t, soon, "the change is in force", func() bool { return n.status(t).Policy.Hash != before })
		same(fmt.Sprintf("after change %d", i+1))
	}
}
