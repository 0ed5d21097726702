// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"errors"
	"net/netip"
	"time"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/policy"
)

// maxSlots is how finely weights are told apart. A list of more endpoints has
// one slot for each, and no weights.
const maxSlots = 128

// memberSlot is the slot of every member of a set.
const memberSlot = uint16(bpf.EgressdEgdSlotEGD_MEMBER)

// setGrace is how long a set outlives the last address that points to it: a
// program that has read the address is about to draw from the set.
const setGrace = time.Second

// endpointSet is a list of endpoints in the kernel. Equal lists share one. An
// id is not used again: a program that has read it is about to draw from it.
type endpointSet struct {
	id    uint32
	list  policy.Endpoints // scaled
	slots uint16
	refs  int       // addresses and prefixes that point to it
	idle  time.Time // since when there are none
}

// broken is the list of a set that is not whole, or not there: nothing wants
// it, so that it is replaced.
var broken = policy.NewEndpoints([]policy.UpstreamEndpoint{{}})

// scale returns the list with the weights that the kernel can tell apart: as
// many slots for each endpoint.
func scale(e policy.Endpoints) policy.Endpoints {
	list := e.List()
	var sum uint64
	for _, o := range list {
		sum += uint64(o.Weight)
	}
	if sum <= maxSlots {
		return e
	}
	slots := make([]uint32, len(list))
	for i := range slots {
		slots[i] = 1
	}
	// Each further slot goes to where it brings shares nearest to weights
	// (Sainte-Laguë).
	for range maxSlots - len(list) {
		best := 0
		for i, o := range list {
			if uint64(o.Weight)*uint64(2*slots[best]+1) > uint64(list[best].Weight)*uint64(2*slots[i]+1) {
				best = i
			}
		}
		slots[best]++
	}
	for i := range list {
		list[i].Weight = slots[i]
	}
	return policy.NewEndpoints(list)
}

// entries are the slots and members of a set.
func (s *endpointSet) entries() map[EndpointKey]Endpoint {
	out := map[EndpointKey]Endpoint{}
	slot := uint16(0)
	for _, o := range s.list.List() {
		v := Endpoint{Port: NetworkOrder(o.Addr.Port())}
		if o.Addr.Addr().IsValid() {
			v.Addr = o.Addr.Addr().As16()
		}
		out[EndpointKey{Set: s.id, Slot: memberSlot, Port: v.Port, Addr: v.Addr}] = v
		for range o.Weight {
			out[EndpointKey{Set: s.id, Slot: slot}] = v
			slot++
		}
	}
	return out
}

func slotsOf(e policy.Endpoints) uint16 {
	n := uint32(0)
	for _, o := range e.List() {
		n += o.Weight
	}
	return uint16(n) // at most policy.MaxEndpoints
}

// readSets finds the sets that are in the kernel.
func (t *Tables) readSets() error {
	lists, members := map[uint32]map[uint16]policy.UpstreamEndpoint{}, map[uint32]int{}
	err := t.stores.Endpoints.Each(func(k *EndpointKey, v *Endpoint) {
		if lists[k.Set] == nil {
			lists[k.Set] = map[uint16]policy.UpstreamEndpoint{}
		}
		if k.Slot == memberSlot {
			members[k.Set]++
			return
		}
		a := netip.AddrFrom16(v.Addr).Unmap()
		if v.Addr == [16]byte{} {
			a = netip.Addr{}
		}
		lists[k.Set][k.Slot] = policy.UpstreamEndpoint{Addr: netip.AddrPortFrom(a, NetworkOrder(v.Port)), Weight: 1}
	})
	if err != nil {
		return err
	}
	for id, bySlot := range lists {
		s := &endpointSet{id: id, list: broken, slots: uint16(len(bySlot)), idle: time.Now()}
		weights := map[netip.AddrPort]uint32{}
		for _, o := range bySlot {
			weights[o.Addr]++
		}
		var list []policy.UpstreamEndpoint
		for a, w := range weights {
			list = append(list, policy.UpstreamEndpoint{Addr: a, Weight: w})
		}
		whole := len(list) > 0 && members[id] == len(list)
		for i := range s.slots {
			_, ok := bySlot[i]
			whole = whole && ok
		}
		if whole {
			s.list = policy.NewEndpoints(list)
		}
		t.setIDs[id] = s
		if whole && slotsOf(s.list) == s.slots && t.sets[s.list] == nil {
			t.sets[s.list] = s
		}
	}
	return nil
}

// wayOf reads a value of the kernel's tables and counts its reference.
func (t *Tables) wayOf(v Verdict) policy.Way {
	w := policy.Way{Verdict: policy.Verdict(v.Verdict), Straight: v.Straight != 0}
	if v.Slots == 0 {
		return w
	}
	w.To = broken
	if s := t.setIDs[v.Set]; s != nil && s.slots == v.Slots && t.sets[s.list] == s {
		s.refs++
		w.To = s.list
	}
	return w
}

// useSet returns the set of a list, which is written when there is none yet.
func (t *Tables) useSet(list policy.Endpoints) (*endpointSet, error) {
	if s := t.sets[list]; s != nil {
		s.refs++
		return s, nil
	}
	id, err := t.stores.NewSet()
	if err != nil {
		return nil, err
	}
	s := &endpointSet{id: id, list: list, slots: slotsOf(list)}
	for k, v := range s.entries() {
		if err := t.stores.Endpoints.Put(&k, &v); err != nil {
			return nil, errors.Join(err, t.removeSet(s))
		}
	}
	s.refs = 1
	t.sets[list], t.setIDs[s.id] = s, s
	return s, nil
}

// leaveSet says that one address less points to the set of a list.
func (t *Tables) leaveSet(list policy.Endpoints) {
	if s := t.sets[list]; s != nil {
		if s.refs--; s.refs == 0 {
			s.idle = time.Now()
		}
	}
}

// Collect removes the sets that nothing has pointed to for a while.
func (t *Tables) Collect() error {
	for id, s := range t.setIDs {
		if s.refs > 0 || time.Since(s.idle) < setGrace {
			continue
		}
		if err := t.removeSet(s); err != nil {
			return err
		}
		delete(t.setIDs, id)
		if t.sets[s.list] == s {
			delete(t.sets, s.list)
		}
	}
	return nil
}

func (t *Tables) removeSet(s *endpointSet) error {
	keys := s.entries()
	if s.list == broken || slotsOf(s.list) != s.slots {
		keys = map[EndpointKey]Endpoint{}
		err := t.stores.Endpoints.Each(func(k *EndpointKey, v *Endpoint) {
			if k.Set == s.id {
				keys[*k] = *v
			}
		})
		if err != nil {
			return err
		}
	}
	for k := range keys {
		if err := t.stores.Endpoints.Remove(&k); err != nil {
			return err
		}
	}
	return nil
}

// Endpoints is how many entries the sets have. It goes by the sets: an entry that somebody else removed is one of
// them until its set goes.
func (t *Tables) Endpoints() int {
	n := 0
	for _, s := range t.setIDs {
		n += len(s.list.List()) + int(s.slots)
	}
	return n
}

// valueOf is what the kernel is told about a way, with a reference to its set.
func (t *Tables) valueOf(w policy.Way) (Verdict, error) {
	v := Verdict{Verdict: uint8(w.Verdict)}
	if w.Straight {
		v.Straight = 1
	}
	if w.To.IsZero() {
		return v, nil
	}
	s, err := t.useSet(w.To)
	if err != nil {
		return v, err
	}
	v.Set, v.Slots = s.id, s.slots
	return v, nil
}
