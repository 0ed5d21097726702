// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Pinned is what an earlier run left at work: the programs whose links are
// pinned in one directory.
type Pinned struct {
	// Cgroups are the ids of the cgroups that they are attached to.
	Cgroups map[uint64]bool
	dir     string
	// programs are those of all links.
	programs map[ebpf.ProgramID]bool
}

// ReadPinned looks at the links that are pinned in dir. A directory that does
// not exist, or is on no bpf filesystem, has none.
func ReadPinned(dir string) (Pinned, error) {
	p := Pinned{Cgroups: map[uint64]bool{}, dir: dir, programs: map[ebpf.ProgramID]bool{}}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && !isBPFFS(dir) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read the pin directory: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), linkPrefix) {
			if err := p.add(filepath.Join(dir, e.Name())); err != nil {
				return p, fmt.Errorf("look at the pinned link %s: %w", e.Name(), err)
			}
		}
	}
	return p, nil
}

func (p *Pinned) add(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return err
	}
	p.programs[info.Program] = true
	if c := info.Cgroup(); c != nil && c.CgroupId != 0 { // 0: the cgroup is gone
		p.Cgroups[c.CgroupId] = true
	}
	return nil
}

// Exempt makes a cgroup the workload with the number id, for which nothing is
// decided, in every table that the pinned programs go by. These are not always
// the pinned tables: a start that was killed while it replaced programs leaves
// some that only they hold.
func (p Pinned) Exempt(cgroup uint64, id uint32) error {
	v := kernelWorkload(cgroup, Workload{ID: id, Exempt: true})
	done := map[ebpf.MapID]bool{}
	for program := range p.programs {
		err := eachTable(program, done, func(m *ebpf.Map) error {
			if m.ValueSize() != uint32(unsafe.Sizeof(v)) {
				return fmt.Errorf("%w: egd_workloads of the programs in %s; start egressd from a cgroup that they do not capture, or run \"egressd unload\", which frees the workloads",
					ErrABIMismatch, p.dir)
			}
			return m.Put(cgroup, &v)
		})
		if err != nil {
			return fmt.Errorf("exempt egressd's own cgroup from the policy that is in force: %w", err)
		}
	}
	return nil
}
