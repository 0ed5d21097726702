// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/policy"
)

// originBefore looks for a flow among those that the programs before redirected,
// and takes it out if that is what is done with flows of its kind.
func (d *Datapath) originBefore(key bpf.EgressdEgdOriginKey, take bool) (Origin, bool) {
	d.before.mu.RLock()
	defer d.before.mu.RUnlock()
	if d.before.m == nil {
		return Origin{}, false
	}
	var v bpf.EgressdEgdOrigin
	look := d.before.m.Lookup
	if take {
		look = d.before.m.LookupAndDelete
	}
	if look(&key, &v) != nil {
		return Origin{}, false
	}
	o := originOf(&v)
	return o, d.renumber(&o, &v)
}

// renumber gives an origin the numbers that its workload has now.
func (d *Datapath) renumber(o *Origin, v *bpf.EgressdEgdOrigin) bool {
	if o.Interface != 0 {
		var i bpf.EgressdEgdIface
		if d.objs.EgdIfaces.Lookup(uint32(o.Interface), &i) != nil {
			return false
		}
		o.Workload, o.Policy, o.Mode = i.Workload, policy.PolicyID(i.Policy), policy.Mode(i.Mode)
		return true
	}
	var w bpf.EgressdEgdWorkload
	if d.objs.EgdWorkloads.Lookup(v.Home, &w) != nil || w.Flags&workloadExempt != 0 {
		return false
	}
	o.Workload, o.Policy, o.Mode = w.Id, policy.PolicyID(w.Policy), policy.Mode(w.Mode)
	return true
}

// forgetBefore lets go of the older egd_origins.
func (d *Datapath) forgetBefore() {
	d.before.mu.Lock()
	defer d.before.mu.Unlock()
	if d.before.m != nil {
		d.before.m.Close()
		d.before.m = nil
	}
}
