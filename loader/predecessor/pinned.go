// SPDX-License-Identifier: Apache-2.0

package predecessor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/layout"
)

// Pinned is what an earlier run left at work: the programs whose links are
// pinned in one directory.
type Pinned struct {
	dir      string
	programs map[ebpf.ProgramID]bool
	// captured are the cgroups in their tables, by id, and whether something is
	// decided for them.
	captured map[uint64]bool
}

// Read looks at the links that are pinned in dir. A directory that does
// not exist, or is on no bpf filesystem, has none.
func Read(dir string) (Pinned, error) {
	p := Pinned{dir: dir, programs: map[ebpf.ProgramID]bool{}, captured: map[uint64]bool{}}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && !bpffs.Is(dir) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read the pin directory: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), bpffs.LinkPrefix) {
			if err := p.add(filepath.Join(dir, e.Name())); err != nil {
				return p, fmt.Errorf("look at the pinned link %s: %w", e.Name(), err)
			}
		}
	}
	err = p.eachTable(func(m *ebpf.Map) error {
		return EachWorkload(m, func(cgroup uint64, flags uint8) {
			p.captured[cgroup] = p.captured[cgroup] || flags&exempt == 0
		})
	})
	return p, err
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
	return nil
}

// eachTable calls f with every table of workloads that the programs go by.
// These are not always the pinned tables: a start that was killed while it
// replaced programs leaves some that only they hold.
func (p Pinned) eachTable(f func(*ebpf.Map) error) error {
	done := map[ebpf.MapID]bool{}
	for program := range p.programs {
		if err := eachTable(program, done, f); err != nil {
			return fmt.Errorf("look at the tables of the programs that are pinned in %s: %w", p.dir, err)
		}
	}
	return nil
}

// AtWork says whether there are any.
func (p Pinned) AtWork() bool { return len(p.programs) > 0 }

// Workload says whether the programs decide for the processes of a cgroup, if
// it is one that their tables name.
func (p Pinned) Workload(cgroup uint64) (captured, known bool) {
	captured, known = p.captured[cgroup]
	return captured, known
}

// Exempt makes a cgroup the workload with the number id, for which nothing is
// decided, in every table that the programs go by. No other cgroup is that
// workload then, except beside, where an egressd is that still serves (0: none):
// starts that fail, each in a new cgroup, would fill the tables.
func (p Pinned) Exempt(cgroup uint64, id uint32, beside uint64) error {
	v := bpf.EgressdEgdWorkload{Id: id, Flags: exempt, Home: cgroup}
	return p.eachTable(func(m *ebpf.Map) error {
		if m.ValueSize() != uint32(unsafe.Sizeof(v)) {
			return fmt.Errorf("%w, so egressd can't exempt its own cgroup there; start it from a cgroup that is not captured, or run \"egressd unload\", which frees the workloads",
				layout.ErrMismatch)
		}
		if err := m.Put(cgroup, &v); err != nil {
			return err
		}
		return dropExempt(m, id, cgroup, beside)
	})
}

// dropExempt removes the exempt workload with the number id from all cgroups
// but these.
func dropExempt(m *ebpf.Map, id uint32, but ...uint64) error {
	var stale []uint64
	var cgroup uint64
	var v bpf.EgressdEgdWorkload
	it := m.Iterate()
	for it.Next(&cgroup, &v) {
		if !slices.Contains(but, cgroup) && v.Id == id && v.Flags == exempt {
			stale = append(stale, cgroup)
		}
	}
	errs := []error{it.Err()}
	for _, cgroup := range stale {
		if err := m.Delete(cgroup); !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Locked says whether what is at work is there to deny everything, because a start
// failed.
func (p Pinned) Locked() bool { return p.AtWork() && bpffs.Marked(p.dir, bpffs.LockedMark) }
