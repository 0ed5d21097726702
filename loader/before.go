// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"hash/fnv"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/policy"
)

// before is the egd_origins of the programs that these replace: what those
// redirected, and nobody accepted, waits in a listening socket that outlives
// them. The policies and workloads in it have other numbers; who it is says the
// key that the workload was found under.
type before struct {
	mu sync.RWMutex
	m  *ebpf.Map // nil: none
}

// keepOrigins keeps the older egd_origins if this version can read it. Its
// layout alone counts, so a version that means something else by a field must
// call it something else.
func (t *takeover) keepOrigins(spec *ebpf.CollectionSpec, m *ebpf.Map) {
	if t.origins == nil && sameTypes(spec.Maps["egd_origins"], m) {
		t.origins, _ = m.Clone() // without it those connections are refused
	}
}

// sameTypes says whether key and value of a map are what spec says, by their
// BTF.
func sameTypes(spec *ebpf.MapSpec, m *ebpf.Map) bool {
	if spec.Compatible(m) != nil {
		return false
	}
	info, err := m.Info()
	if err != nil {
		return false
	}
	id, ok := info.BTFID()
	if !ok {
		return false
	}
	h, err := btf.NewHandleFromID(id)
	if err != nil {
		return false
	}
	defer h.Close()
	have, err := h.Spec(nil)
	if err != nil {
		return false
	}
	for _, want := range []btf.Type{spec.Key, spec.Value} {
		s, ok := btf.UnderlyingType(want).(*btf.Struct)
		if !ok {
			return false
		}
		var got *btf.Struct
		if have.TypeByName(s.Name, &got) != nil || typeSum(got) != typeSum(s) {
			return false
		}
	}
	return true
}

func typeSum(t btf.Type) uint64 {
	h := fnv.New64a()
	writeType(h, t)
	return h.Sum64()
}

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

// Resume makes these programs and tables those at work again, and those that
// the next start finds, after another process may have put its own in their
// place and gave up. Attach and Guard do it then.
func (d *Datapath) Resume() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for index, g := range d.guards {
		if err := g.close(); err != nil {
			return err
		}
		delete(d.guards, index)
	}
	d.waiting = map[string]bool{}
	for name := range pinnable(&d.objs.EgressdMaps) {
		d.waiting[name] = true
	}
	return nil
}
