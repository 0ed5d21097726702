// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"maps"
	"slices"

	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/tc"
)

// holdPins sees that everything is pinned that a next start needs: tables first,
// for links without them are no state to adopt.
func (d *Datapath) holdPins() (faults []Loss) {
	var all []bpffs.Pin
	if len(d.links) == len(d.hooks()) {
		tables := pinnable(&d.objs.EgressdMaps)
		for _, name := range slices.Sorted(maps.Keys(tables)) {
			all = append(all, bpffs.PinOfMap(name, tables[name]))
		}
		for _, h := range d.hooks() {
			all = append(all, bpffs.PinOfLink(bpffs.LinkPrefix+h.name, d.links[h.name]))
		}
	}
	filters := false
	for index, g := range d.guarded {
		filters = filters || len(g.links) == 0
		for name, l := range g.links {
			all = append(all, bpffs.PinOfLink(tcPin(name, index), l))
		}
	}
	if filters {
		// Any program of ours will do: its pin says that there are filters.
		all = append(all, bpffs.PinOfProgram(tc.FilterPin, d.objs.EgdTcUplink))
	}
	if d.steers {
		all = append(all, bpffs.PinOfProgram(tc.SteerPin, d.objs.EgdTcFrom))
	}
	for _, p := range all {
		missing, err := d.pins.Keep(p)
		if missing || err != nil {
			faults = append(faults, Loss{PinFault, p.Name, err})
		}
	}
	return faults
}
