// SPDX-License-Identifier: Apache-2.0

package foreign

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// TestAmong: what stands in front of egressd's own program runs before it.
func TestAmong(t *testing.T) {
	// Known from the last look, so that nothing is asked of the kernel.
	seen := Seen{All: []Program{
		{Hook: "connect4", ID: 7, Name: "lb", Cgroup: "/a", Before: true},
		{Hook: "connect4", ID: 9, Name: "log", Cgroup: "/b"},
		{Hook: "connect6", ID: 8, Name: "other hook"},
	}}
	const own = ebpf.ProgramID(5)
	for _, c := range []struct {
		name string
		at   []link.AttachedProgram
		want []Program
	}{
		{"nobody", []link.AttachedProgram{{ID: own}}, nil},
		{"one before and one behind", []link.AttachedProgram{{ID: 7}, {ID: own}, {ID: 9}}, []Program{
			{Hook: "connect4", ID: 7, Name: "lb", Cgroup: "/a", Before: true},
			{Hook: "connect4", ID: 9, Name: "log", Cgroup: "/b"},
		}},
		{"they changed places", []link.AttachedProgram{{ID: 9}, {ID: own}, {ID: 7}}, []Program{
			{Hook: "connect4", ID: 9, Name: "log", Cgroup: "/b", Before: true},
			{Hook: "connect4", ID: 7, Name: "lb", Cgroup: "/a"},
		}},
	} {
		if got := seen.Among(c.at, own, "/", ebpf.AttachCGroupInet4Connect); !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// TestProgram: which programs can change destinations, and the command that takes one
// away.
func TestProgram(t *testing.T) {
	for _, c := range []struct {
		p        Program
		rewrites bool
		detach   string
	}{
		{Program{Hook: "connect4", ID: 3, Cgroup: "/sys/fs/cgroup/a"}, true, "bpftool cgroup detach /sys/fs/cgroup/a connect4 id 3"},
		{Program{Hook: "sendmsg6", ID: 4}, true, "bpftool cgroup detach CGROUP sendmsg6 id 4"},
		{Program{Hook: "egress", ID: 5, Cgroup: "/c"}, false, "bpftool cgroup detach /c egress id 5"},
		{Program{Hook: "bind6", ID: 6, Cgroup: "/c"}, false, "bpftool cgroup detach /c bind6 id 6"},
	} {
		if c.p.Rewrites() != c.rewrites || c.p.Detach() != c.detach {
			t.Errorf("%+v: %t, %s", c.p, c.p.Rewrites(), c.p.Detach())
		}
	}
}
