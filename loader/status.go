// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
)

// counterNames maps enum egd_reason and enum egd_counter to the names that
// metrics and status use: a denial is counted under its reason.
var counterNames = nameCounters()

func nameCounters() map[uint32]string {
	names := map[uint32]string{
		uint32(bpf.EgressdEgdCounterEGD_C_BY_SOCKET):     "pass/by-socket",
		uint32(bpf.EgressdEgdCounterEGD_C_INBOUND):       "pass/inbound",
		uint32(bpf.EgressdEgdCounterEGD_C_CONTROL):       "pass/link-control",
		uint32(bpf.EgressdEgdCounterEGD_C_INSPECT):       "pass/inspect",
		uint32(bpf.EgressdEgdCounterEGD_C_REPLY):         "pass/reply",
		uint32(bpf.EgressdEgdCounterEGD_C_PASS_LOOPBACK): "pass/loopback",
		uint32(bpf.EgressdEgdCounterEGD_C_PASS_OWN):      "pass/exempt",
		uint32(bpf.EgressdEgdCounterEGD_C_PASS_OUTSIDE):  "pass/outside",
		uint32(bpf.EgressdEgdCounterEGD_C_DIRECT):        "pass/direct",
		uint32(bpf.EgressdEgdCounterEGD_C_PROXY):         "redirect/proxy",
		uint32(bpf.EgressdEgdCounterEGD_C_DNS):           "redirect/dns",
		uint32(bpf.EgressdEgdCounterEGD_C_EVENT_LOST):    CounterLost,
		uint32(bpf.EgressdEgdCounterEGD_C_AUDIT):         "audit/would-deny",
	}
	for r, reason := range reasons {
		names[uint32(r)] = "deny/" + string(reason)
	}
	return names
}

// CounterLost is the name of the counter of events that there was no room for
// in the ring.
const CounterLost = "lost/event"

// Counters are the kernel's counters by name ("deny/no-rule", ...), summed
// over the CPUs. They live as long as the pinned map.
func (d *Datapath) Counters() (map[string]uint64, error) { return readCounters(d.objs.EgdCounters) }

// readCounters reads egd_counters, by names, summed over the CPUs.
func readCounters(m *ebpf.Map) (map[string]uint64, error) {
	out := make(map[string]uint64, len(counterNames))
	for id, name := range counterNames {
		var perCPU []uint64
		if err := m.Lookup(id, &perCPU); err != nil {
			return nil, fmt.Errorf("read egd_counters: %w", err)
		}
		for _, n := range perCPU {
			out[name] += n
		}
	}
	return out, nil
}

// Fill is how full a table is: its entries, and how many it may have.
type Fill struct {
	Entries int `json:"entries"`
	Max     int `json:"max"`
}

// Fills says how full the tables are that can fill up.
func (d *Datapath) Fills() map[string]Fill {
	d.mu.Lock()
	defer d.mu.Unlock()
	return map[string]Fill{
		"egd_endpoints": {d.tables.Endpoints(), d.grown.endpoints.Limit()},
		"egd_dialled":   {d.countDialled(), int(d.objs.EgdDialled.MaxEntries())},
		"egd_addrs":     {d.grown.addrs.Len(), d.grown.addrs.Limit()},
		"egd_known":     {d.grown.known.Len(), d.grown.known.Limit()},
		"egd_names":     {d.grown.names.Len(), d.grown.names.Limit()},
		"egd_cidrs":     {d.tables.Nets(), int(d.objs.EgdCidrs.MaxEntries())},
		"egd_flows":     {d.flowCount, int(d.objs.EgdFlows.MaxEntries())},
		"egd_workloads": {d.countWorkloads(), int(d.objs.EgdWorkloads.MaxEntries())},
		"egd_origins":   {d.countOrigins(), int(d.objs.EgdOrigins.MaxEntries())},
	}
}

// countOrigins is exact only while nobody connects: the table changes under
// the walk.
func (d *Datapath) countOrigins() int {
	var k bpf.EgressdEgdOriginKey
	var v bpf.EgressdEgdOrigin
	n := 0
	it := d.objs.EgdOrigins.Iterate()
	for it.Next(&k, &v) {
		n++
	}
	return n
}
