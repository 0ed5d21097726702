// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"sync"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/policy"
)

// MaxWorkloads bounds the numbers of workloads.
const MaxWorkloads = uint32(bpf.EgressdEgdSizeEGD_MAX_WORKLOADS)

// WorkloadState is what the kernel knows of a workload.
type WorkloadState struct {
	ID     uint32 // below MaxWorkloads
	Policy policy.PolicyID
	Mode   policy.Mode
	// Exempt is for egressd's own cgroup only: nothing is decided there.
	Exempt bool
	// AllowAny lets what no rule names go straight there
	// (policy.Policy.AllowsUnknown).
	AllowAny bool
	// Outside is for the cgroup that the programs are attached to when it is
	// captured only in parts (Follow): all else below it is free.
	Outside bool
	// Holds is for cgroups in which runtimes make containers: a new one, which its name
	// tells, is what HeldKey says until it has a workload of its own. It needs Options.Reads.
	Holds bool
	// Home is the key that sockets remember the workload by, if it is another
	// than the cgroup's id (NamedKey).
	Home uint64
}

// The flags of a workload's entry.
const (
	workloadExempt   = uint8(bpf.EgressdEgdWorkloadFlagEGD_WL_EXEMPT)
	workloadAllowAny = uint8(bpf.EgressdEgdWorkloadFlagEGD_WL_ALLOW_ANY)
	workloadOutside  = uint8(bpf.EgressdEgdWorkloadFlagEGD_WL_OUTSIDE)
	workloadFound    = uint8(bpf.EgressdEgdWorkloadFlagEGD_WL_FOUND)
	workloadHolds    = uint8(bpf.EgressdEgdWorkloadFlagEGD_WL_HOLDS)
	workloadHeld     = uint8(bpf.EgressdEgdWorkloadFlagEGD_WL_HELD)
)

// HeldKey is the key of egd_workloads for what a new container is (WorkloadState.Holds).
const HeldKey = uint64(1<<63 | 1)

// bound is what SetWorkloads has written.
type bound struct {
	mu   sync.Mutex
	have map[uint64]WorkloadState // nil: it is not known what is in the table
}

func kernelWorkload(cgroup uint64, w WorkloadState) bpf.EgressdEgdWorkload {
	v := bpf.EgressdEgdWorkload{Id: w.ID, Policy: uint32(w.Policy), Mode: uint8(w.Mode), Home: cmp.Or(w.Home, cgroup)}
	if w.Exempt {
		v.Flags |= workloadExempt
	}
	if w.AllowAny {
		v.Flags |= workloadAllowAny
	}
	if w.Holds {
		v.Flags |= workloadHolds
	}
	if w.Outside {
		v.Flags |= workloadExempt | workloadOutside
	}
	return v
}
