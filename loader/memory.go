// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/loader/grow"
	"github.com/egressd/egressd/loader/layout"
)

// Sizes bound the kernel's tables. The zero value of a field is its default.
type Sizes struct {
	// Addresses is how many entries egd_addrs and egd_known may have (1048576);
	// egd_names and egd_endpoints may have a quarter of it. They begin small and
	// grow.
	Addresses int
	// Flows is how many entries egd_flows, egd_flow_hello and egd_dialled have
	// room for (131072); egd_peers has a quarter of it. Their room is made at the start.
	Flows int
	// NoInterfaces says that no interface will be guarded that has workloads at its
	// other end: egd_flows and egd_flow_hello have no room to speak of, and the
	// programs of such interfaces are not loaded.
	NoInterfaces bool
}

// Defaults of Sizes, and the least that a table is worth having for.
const (
	DefaultAddresses = 1 << 20
	DefaultFlows     = 1 << 17
	MinAddresses     = 1 << 12
	MinFlows         = 1 << 10
	// MaxSize is the most that either may be: what 32 bits can count, and the
	// kernel still allocates.
	MaxSize = 1 << 26
)

func (s Sizes) withDefaults() Sizes {
	if s.Addresses == 0 {
		s.Addresses = DefaultAddresses
	}
	if s.Flows == 0 {
		s.Flows = DefaultFlows
	}
	return s
}

// interfacePrograms are those that only interfaces with workloads at their other end
// have. They are a third of all that the verifier reads.
var interfacePrograms = []string{"egd_tc_from", "egd_tc_to"}

// apply gives the tables that programs fill their sizes, and takes away the
// programs that will not be used. egd_dialled belongs to open sockets: one that is
// pinned keeps its size.
func (s Sizes) apply(spec *ebpf.CollectionSpec) {
	spec.Maps["egd_dialled"].MaxEntries = uint32(s.Flows)
	ofInterfaces := s.Flows
	if s.NoInterfaces {
		for _, name := range interfacePrograms {
			delete(spec.Programs, name)
		}
		ofInterfaces = 1
	}
	for _, name := range []string{"egd_flows", "egd_flow_hello"} {
		spec.Maps[name].MaxEntries = uint32(ofInterfaces)
	}
	spec.Maps["egd_peers"].MaxEntries = uint32(s.Flows / 4)
}

// Kernel memory of the programs, in bytes: what verifying them takes for a
// moment (measured on Linux 6.18, which charges it to the process as older kernels
// do in part; TestMemoryLimit), and what they take as long as they are there.
const (
	verifying    = 16 << 20
	programsSize = 4 << 20
)

// givenBack is how long a start waits for the kernel to give back the memory of a
// daemon that ended just before.
const givenBack = 2 * time.Second

// startNeeds is how many bytes of kernel memory a start takes at most beside what
// is pinned. Where nothing is, what the next one will take is part of it: a limit
// that lets the daemon start must let it come back.
func startNeeds(spec *ebpf.CollectionSpec, old map[string]*ebpf.Map) uint64 {
	var sum, renewing uint64
	for name, m := range spec.Maps {
		size := withTable(m)
		if slices.Contains(layout.Renewed[layout.PolicyTables], name) {
			renewing += size
		}
		if old[name] == nil {
			sum += size
		}
	}
	if len(old) == 0 {
		sum += renewing + programsSize
	}
	return sum + verifying
}

func withTable(m *ebpf.MapSpec) uint64 {
	if m.InnerMap != nil {
		return grow.EmptySize(m) + grow.EmptySize(m.InnerMap)
	}
	return grow.EmptySize(m)
}

// growthNeeds is how many bytes of kernel memory there must be for a table to take
// n: a restart makes the policy's tables a second time. While one is at work
// those that it replaces are there already.
func (d *Datapath) growthNeeds(n uint64) uint64 {
	if d.staged != nil {
		return n
	}
	return n + n + d.grown.bytes() + d.renewing + verifying
}

// Memory is how many bytes of kernel memory the tables take, by their sizes and
// the entries of those that the loader writes.
func (d *Datapath) Memory() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fixed + d.grown.bytes()
}
