// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"path/filepath"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

const byName = "the kernel knows the cgroup by its name"

// anewRows are made in a cgroup that goes and comes back, as that of a unit that is
// restarted.
var anewRows = []row{
	{attack: "cgroup made anew", how: "50 times, connect() at once", want: "ECONNREFUSED", by: byName, do: anew("tcp", "{A4}")},
	{attack: "cgroup made anew", how: "the same, IPv6", want: "ECONNREFUSED", by: byName, do: anew("tcp", "{A6}")},
	{attack: "cgroup made anew", how: "50 times, sendto() at once", want: "EPERM", by: byName, do: anew("udp", "{A4}")},
	{attack: "cgroup made anew", how: "the same, IPv6, sendto()", want: "EPERM", by: byName, do: anew("udp", "{A6}")},
}

// anewName is captured by its name.
const anewName = "anew.service"

func anew(kind, addr string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		in, twin := a.d.Root.Path(), cg == nil
		if twin {
			in = a.outside.Path()
		}
		return a.pythonIn(a.Node, nil, twin, "ways", "anew", filepath.Join(in, anewName), kind, addr, "443")
	}
}

// followed is the last: another daemon captures a cgroup that is not there yet.
func (a *arena) followed(t *testing.T) {
	_ = a.d.Kill() // it was unloaded, and ends by itself
	a.d.Capture = []string{"--cgroup", filepath.Join(a.d.Root.Path(), anewName)}
	a.must(a.d.Start(t.Context()))
	for _, r := range anewRows {
		t.Run(r.attack+"/"+r.how, func(t *testing.T) { a.run(t, r) })
	}
	a.t = t
}
