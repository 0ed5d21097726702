// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/internal/cgroup"
)

// leaving are the hooks of a cgroup that can keep a process from sending.
var leaving = []ebpf.AttachType{
	ebpf.AttachCGroupInetSockCreate, ebpf.AttachCGroupInetEgress,
	ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
	ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
}

// Enclosing returns the nearest cgroup, from dir upwards, whose processes are
// under a policy of their own: of another egressd, which has programs there or
// a workload, or of anybody who has programs there that can refuse traffic. It
// returns "" when there is none.
func Enclosing(dir string) (string, error) {
	dirs, err := cgroup.Upwards(dir)
	if err != nil {
		return "", err
	}
	// Workloads are told apart by a table of the programs above them.
	named := map[uint64]bool{}
	nearest := ""
	for i := len(dirs) - 1; i >= 0; i-- {
		found, err := attachedTo(dirs[i], named)
		if err != nil {
			return "", fmt.Errorf("look for policies on the cgroup %s: %w", dirs[i], err)
		}
		id, err := cgroup.ID(dirs[i])
		if err != nil {
			return "", err
		}
		if found || named[id] {
			nearest = dirs[i]
		}
	}
	return nearest, nil
}

// attachedTo says whether a cgroup has programs that can refuse traffic, and
// adds the cgroups that egressd's among them know as workloads.
func attachedTo(dir string, named map[uint64]bool) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	found := false
	for _, at := range leaving {
		r, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: at})
		if err != nil {
			return false, err
		}
		for _, p := range r.Programs {
			found = true
			if at != ebpf.AttachCGroupInet4Connect {
				continue // each egressd has this one
			}
			if err := workloadsOf(p.ID, named); err != nil {
				return false, err
			}
		}
	}
	return found, nil
}

// workloadsOf adds the cgroups in the table of workloads that a program has.
func workloadsOf(program ebpf.ProgramID, named map[uint64]bool) error {
	return eachTable(program, map[ebpf.MapID]bool{}, func(m *ebpf.Map) error {
		return eachWorkload(m, func(cgroup uint64, flags uint8) {
			if flags&workloadOutside == 0 {
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
