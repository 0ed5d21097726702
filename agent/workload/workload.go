// SPDX-License-Identifier: Apache-2.0

// Package workload finds out which cgroup is which workload, and tells the kernel:
// what is captured, what the policy's Workloads describe, the node's own services,
// and egressd itself.
package workload

import (
	"log/slog"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// Numbers of the workloads in the kernel's tables. Those of described ones follow.
const (
	Node     uint32 = 1 // what is captured and is no other
	Own      uint32 = 2 // egressd itself
	Services uint32 = 3 // the node's own services
	Probe    uint32 = 4 // the daemon's probe of itself
)

// Datapath is what binding needs of the kernel's side.
type Datapath interface {
	// SetWorkloads says which cgroup is which workload; what had not been decided
	// by that is judged anew when RaiseEpoch is called.
	SetWorkloads(map[uint64]loader.WorkloadState) error
	RaiseEpoch() error
	// Follow says which names below a cgroup are captured, Beside which cgroups there
	// are not, and DropGone that those of others may be gone.
	Follow(above uint64, named []loader.Named) error
	Beside(ids []uint64) error
	DropGone(map[uint64]loader.WorkloadState) error
}

// Options of a Binding.
type Options struct {
	// Name is that of what is captured and is no other workload, Mode its mode.
	Name string
	Mode policy.Mode
	// Described says that the policy's Workloads are bound, and Services.
	Described bool
	// Services are cgroups that are not under policy, unless a Workload describes
	// them.
	Services []cgroup.PathPattern
	// Open says whether a policy lets pass what it does not know; nil: as it says.
	Open func(*policy.Policy) bool
	// Pending says whether the core does not yet go by a policy to which workloads
	// change over; nil: it always does.
	Pending func(policy.PolicyID) bool
	// Containers says what containers are; nil: nothing is known of any.
	Containers Containers
	// Holds says that the kernel holds new containers, which it tells by their names.
	Holds bool
	// Pods is about pods, when they are what is captured.
	Pods PodOptions
	// Own and Before are the ids of the cgroups of this egressd and of the one that
	// it takes over from; 0: they are not captured.
	Own, Before uint64
	// More adds what else is a workload to the table, by the ids of cgroups.
	More func(table map[uint64]loader.WorkloadState)
	Log  *slog.Logger
}
