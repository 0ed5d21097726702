// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// TestReloadVerb: "egressd reload" ends when the files' policy is in force, and not before.
// One with a mistake makes it fail, and changes nothing.
func TestReloadVerb(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{"google.yaml": hosts("google", world.GoogleAPIs)}, nil)
	reload := func(args ...string) ended { return n.egressd(t, append([]string{"reload"}, args...)...) }
	get := func(family, host string) answer { return n.curl(t, n.in, family, "http://"+host) }

	n.write(t, "api.yaml", hosts("api", world.API))
	if e := reload(); e.code != 0 || !strings.Contains(e.stdout, "2 services") || e.stderr != "" {
		t.Errorf("a new host: %+v", e)
	}
	for _, family := range []string{"-4", "-6"} {
		if a := get(family, world.API); a.status != 200 {
			t.Errorf("%s: what was reloaded is not in force: %+v", family, a)
		}
	}
	var o struct {
		Policy  struct{ Hash, Error string }
		Changed bool
	}
	e := reload("-o", "json")
	if err := json.Unmarshal([]byte(e.stdout), &o); err != nil || e.code != 0 || o.Changed || o.Policy.Hash != n.status(t).Policy.Hash {
		t.Errorf("nothing is new: %v, %+v", err, e)
	}

	n.write(t, "api.yaml", strings.Replace(hosts("api", world.API), "number: 80", "number: eighty", 1))
	if e := reload(); e.code != 1 || e.stdout != "" || strings.Count(e.stderr, "api.yaml:") != 1 || !strings.Contains(e.stderr, "was not reloaded: it has errors") ||
		!strings.Contains(e.stderr, o.Policy.Hash[:12]+" of ") || !strings.Contains(e.stderr, "stays in force") {
		t.Errorf("a mistake: %+v", e)
	}
	if a := get("-4", world.API); a.status != 200 {
		t.Errorf("a mistake changed the policy: %+v", a)
	}
	if e := reload("-o", "json"); e.code != 1 || json.Unmarshal([]byte(e.stdout), &o) != nil || o.Policy.Error == "" || !strings.Contains(e.stdout, `"severity": "error"`) {
		t.Errorf("a mistake as JSON: %+v", e)
	}

	if err := os.Remove(filepath.Join(n.d.ConfigDir(), "api.yaml")); err != nil {
		t.Fatal(err)
	}
	n.noWire(t, func() {
		if e := reload(); e.code != 0 {
			t.Errorf("a host less: %+v", e)
		}
		if a := get("-4", world.API); a.status == 200 {
			t.Error("a host that was taken out is reached when the reload is done")
		}
	}, n.API.V4.String())
	if e := reload("--timeout", "0s"); e.code != 2 {
		t.Errorf("no time at all: %+v", e)
	}
	if e := n.run(t, nil, egressd, "reload", "--state-dir", filepath.Join(n.Dir(), "nobody")); e.code != 1 || !strings.Contains(e.stderr, "no daemon answers") {
		t.Errorf("without a daemon: %+v", e)
	}
}
