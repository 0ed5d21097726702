// SPDX-License-Identifier: Apache-2.0

package predecessor

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// TestNothingPinned: a directory that is not there, or on no bpf filesystem, has no
// programs, whatever is in it.
func TestNothingPinned(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "link_egd_connect4"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Join(dir, "absent")} {
		p, err := Read(d)
		if err != nil || p.AtWork() || p.Locked() {
			t.Errorf("%s: %+v, %v", d, p, err)
		}
		if _, known := p.Workload(1); known {
			t.Errorf("%s has a workload", d)
		}
	}
}

// table makes a table of workloads in the kernel, with values of some size.
func table(t *testing.T, size uint32) *ebpf.Map {
	t.Helper()
	testenv.RequireBPF(t)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "egd_workloads", Type: ebpf.Hash, KeySize: 8, ValueSize: size, MaxEntries: 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// TestEachWorkload reads tables of other versions, whose values are longer, or too
// short to say anything. Keys of names are no cgroups.
func TestEachWorkload(t *testing.T) {
	for _, c := range []struct {
		size uint32
		want map[uint64]uint8
	}{
		{24, map[uint64]uint8{10: 1, 11: 6}},
		{64, map[uint64]uint8{10: 1, 11: 6}},
		{8, map[uint64]uint8{}},
	} {
		m := table(t, c.size)
		for key, flags := range map[uint64]byte{10: 1, 11: 6, 1<<63 + 5: 2} {
			raw := make([]byte, c.size)
			if len(raw) > flagsAt {
				raw[flagsAt] = flags
			}
			if err := m.Put(key, raw); err != nil {
				t.Fatal(err)
			}
		}
		got := map[uint64]uint8{}
		if err := EachWorkload(m, func(cgroup uint64, flags uint8) { got[cgroup] = flags }); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("values of %d bytes: %v, want %v", c.size, got, c.want)
		}
	}
}

// TestDropExempt: of the exempt cgroups of one number those that are named stay, and
// all that are something else.
func TestDropExempt(t *testing.T) {
	m := table(t, 24)
	for cgroup, v := range map[uint64]bpf.EgressdEgdWorkload{
		1: {Id: 7, Flags: exempt},           // now
		2: {Id: 7, Flags: exempt},           // still serves
		3: {Id: 7, Flags: exempt},           // of a start that failed
		4: {Id: 7},                          // a workload of that number
		5: {Id: 7, Flags: exempt | outside}, // beside what is captured
		6: {Id: 8, Flags: exempt},           // another one's
	} {
		if err := m.Put(cgroup, &v); err != nil {
			t.Fatal(err)
		}
	}
	if err := dropExempt(m, 7, 1, 2); err != nil {
		t.Fatal(err)
	}
	left := map[uint64]bool{}
	if err := EachWorkload(m, func(cgroup uint64, _ uint8) { left[cgroup] = true }); err != nil {
		t.Fatal(err)
	}
	if want := map[uint64]bool{1: true, 2: true, 4: true, 5: true, 6: true}; !maps.Equal(left, want) {
		t.Errorf("left: %v, want %v", left, want)
	}
}
