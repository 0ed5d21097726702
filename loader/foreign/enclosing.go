// SPDX-License-Identifier: Apache-2.0

// Package foreign says who else is at the hooks of a cgroup: programs of others, which
// run beside egressd's, and policies that a process is under already.
package foreign

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/loader/predecessor"
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
			if err := predecessor.Workloads(p.ID, named); err != nil {
				return false, err
			}
		}
	}
	return found, nil
}
