// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/egressd/egressd/bpf"
)

// Named is a captured cgroup that is known by its name.
type Named struct {
	// Path are the names of the cgroups from below the one that the programs
	// are attached to, down to the captured one.
	Path []string
	// As is what a cgroup of that name is from its first moment on.
	As WorkloadState
}

// Follow captures cgroups by name below the cgroup with the id above, which
// the programs are attached to. Those of them that are there need a workload of
// their own all the same, whose Home is the name's, and so does above
// (Workload.Outside), for all else below it.
func (d *Datapath) Follow(above uint64, named []Named) error {
	steps := map[bpf.EgressdEgdStepKey]bpf.EgressdEgdStep{}
	last := uint32(0)
	for _, n := range named {
		like := NamedKey(n.Path)
		if err := d.SetWorkload(like, n.As); err != nil {
			return err
		}
		from := uint32(0)
		for j, name := range n.Path {
			key := bpf.EgressdEgdStepKey{Hash: hashName(name), From: from}
			step, ok := steps[key]
			if !ok {
				last++
				step.Step = last
			}
			if j == len(n.Path)-1 {
				step.Like = like
			}
			steps[key] = step
			from = step.Step
		}
	}
	for key, step := range steps {
		if err := d.objs.EgdCaptured.Put(&key, &step); err != nil {
			return fmt.Errorf("write egd_captured: %w", err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config.Above = above
	return d.writeConfig()
}

// Beside says of cgroups, by their ids, that they are neither captured by name
// nor around what is: the programs need not look at their names.
func (d *Datapath) Beside(ids []uint64) error {
	for _, id := range ids {
		if err := d.objs.EgdBeside.Put(id, uint32(bpf.EgressdEgdBesideWhatEGD_BESIDE_CAPTURED)); err != nil {
			return fmt.Errorf("write egd_beside: %w", err)
		}
	}
	return nil
}

// NamedKey is the key of egd_workloads for what a captured name stands for, by its
// path. It is the same after a restart, and no cgroup has such an id.
func NamedKey(path []string) uint64 {
	return (hashName(strings.Join(path, "/")) | 1<<63) &^ 1 // neither EGD_NOBODY nor HeldKey
}

// hashName is hash_name of the kernel programs.
func hashName(name string) uint64 {
	const piece = int(bpf.EgressdEgdSizeEGD_NAME_PIECE) - 1
	h := uint64(0xcbf29ce484222325)
	for {
		var b [piece + 1]byte
		n := copy(b[:piece], name)
		for i := 0; i < len(b); i += 8 {
			h = (h ^ binary.LittleEndian.Uint64(b[i:])) * 0x100000001b3
			h ^= h >> 32
		}
		if name = name[n:]; n < piece {
			return h
		}
	}
}
