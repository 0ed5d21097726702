// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/telemetry"
)

// Counters are the kernel's counters by name ("deny/no-rule", ...), summed
// over the CPUs. They live as long as the pinned map.
func (d *Datapath) Counters() (map[string]uint64, error) {
	return telemetry.Counters(d.objs.EgdCounters)
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

// Events calls f for each event of the kernel, in order, until Close or
// DrainEvents, after which it can be called again.
func (d *Datapath) Events(f func(telemetry.KernelEvent)) error { return d.events.Each(f) }

// DrainEvents makes Events hand out what is in the ring now and then return.
func (d *Datapath) DrainEvents() error { return d.events.Drain() }
