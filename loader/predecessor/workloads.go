// SPDX-License-Identifier: Apache-2.0

package predecessor

import (
	"errors"
	"math"
	"os"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
)

// flagsAt is the place of the flags in struct egd_workload, in every version.
const flagsAt = 9

// The flags that are read.
const (
	exempt  = uint8(bpf.EgressdEgdWorkloadFlagEGD_WL_EXEMPT)
	outside = uint8(bpf.EgressdEgdWorkloadFlagEGD_WL_OUTSIDE)
)

// EachWorkload goes through the cgroups of a table of workloads, of whatever version;
// greater keys are of names.
func EachWorkload(m *ebpf.Map, f func(cgroup uint64, flags uint8)) error {
	var key uint64
	raw := make([]byte, m.ValueSize()) // another version's may be longer
	it := m.Iterate()
	for it.Next(&key, &raw) {
		if len(raw) > flagsAt && key <= math.MaxInt64 {
			f(key, raw[flagsAt])
		}
	}
	return it.Err()
}

// Workloads adds the cgroups in the table of workloads that a program has.
func Workloads(program ebpf.ProgramID, named map[uint64]bool) error {
	return eachTable(program, map[ebpf.MapID]bool{}, func(m *ebpf.Map) error {
		return EachWorkload(m, func(cgroup uint64, flags uint8) {
			if flags&outside == 0 {
				named[cgroup] = true
			}
		})
	})
}

// eachTable calls f with the table of workloads that a program has, unless it
// is in done, where it is noted. A program that is gone has none.
func eachTable(program ebpf.ProgramID, done map[ebpf.MapID]bool, f func(*ebpf.Map) error) error {
	p, err := ebpf.NewProgramFromID(program)
	if errors.Is(err, os.ErrNotExist) {
		return nil // detached meanwhile
	}
	if err != nil {
		return err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return err
	}
	maps, _ := info.MapIDs()
	for _, id := range maps {
		if done[id] {
			continue
		}
		done[id] = true
		if err := ifTable(id, f); err != nil {
			return err
		}
	}
	return nil
}

// ifTable calls f if the map is a table of workloads.
func ifTable(id ebpf.MapID, f func(*ebpf.Map) error) error {
	m, err := ebpf.NewMapFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil || info.Name != "egd_workloads" || m.KeySize() != 8 {
		return err
	}
	return f(m)
}
