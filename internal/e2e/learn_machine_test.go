// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// TestLearnMachine: what a machine behind a guarded interface did is learned by names, as
// of a process; under what was learned it does the same again, and nothing else.
func TestLearnMachine(t *testing.T) {
	t.Parallel()
	testenv.RequireTun(t)
	var g *guest
	n := prepare(t, map[string]string{}, func(w *world.World) { g = newGuest(t, w, "tap0", 0) }, "--interfaces", "tap*", "--mode", "audit")
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	work := func() (failed []string) {
		if addrs, err := g.lookup(world.ResolverV4, world.GoogleAPIs); err != nil || len(addrs) != 2 {
			failed = append(failed, "lookup")
		}
		for _, a := range []netip.Addr{n.GoogleAPIs.V4, n.GoogleAPIs.V6} {
			for _, scheme := range []string{"https", "http"} {
				if status, err := g.get(scheme+"://"+world.GoogleAPIs+"/", world.GoogleAPIs, a); status != 200 {
					failed = append(failed, scheme+" at "+a.String()+": "+errText(err))
				}
			}
		}
		return failed
	}
	if failed := work(); len(failed) > 0 {
		t.Fatalf("in audit mode: %s", failed)
	}
	learned := ""
	eventually(t, soon, "a suggestion", func() bool {
		e := n.egressd(t, "suggest")
		learned = e.stdout
		return e.code == 0 && strings.Contains(learned, world.GoogleAPIs) && strings.Contains(learned, "number: 443") && strings.Contains(learned, "number: 80")
	})
	if strings.Contains(learned, "addresses:") {
		t.Errorf("addresses were learned:\n%s", learned)
	}
	var later *guest
	m := prepare(t, map[string]string{"learned.yaml": learned}, func(w *world.World) { later = newGuest(t, w, "tap0", 0) }, "--interfaces", "tap*")
	if err := m.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, g = m, later
	if failed := work(); len(failed) > 0 {
		t.Errorf("under what was learned: %s\n%s", failed, learned)
	}
	if !g.refused(hostPort(world.StrangerV4, 443)) {
		t.Error("the stranger is reached")
	}
}

func errText(err error) string {
	if err == nil {
		return "another status"
	}
	return err.Error()
}
