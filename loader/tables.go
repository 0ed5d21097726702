// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/policy"
)

type (
	addrKey  = bpf.EgressdEgdAddrKey
	cidrKey  = bpf.EgressdEgdCidrKey
	knownKey = bpf.EgressdEgdKnownKey
	nameKey  = bpf.EgressdEgdNameKey
	verdict  = bpf.EgressdEgdAddrVal
)

// tables mirrors what is in the kernel's verdict tables, and what should be:
// the static openings of the snapshot and the learned ones. Have equals the
// kernel's contents after every successful write.
type tables struct {
	static  map[addrKey]policy.Way
	learned map[addrKey]policy.Way
	haveAdr map[addrKey]policy.Way
	haveNet map[cidrKey]policy.Way
	// sets holds the kernel's sets of endpoints by their list, setIDs all of
	// them.
	sets   map[policy.Endpoints]*endpointSet
	setIDs map[uint32]*endpointSet
	// known holds the keys of haveAdr by address.
	known map[knownKey][]addrKey
	// proofs holds the names that each address proves in the kernel; wanted
	// those that it should by what was learned, named by the static openings.
	proofs, wanted, named map[knownKey]map[proof]bool
}

// adopt fills the mirror from the kernel.
func (t *tables) adopt(g *grown, m *bpf.EgressdMaps) error {
	*t = tables{
		static:  map[addrKey]policy.Way{},
		learned: map[addrKey]policy.Way{},
		haveAdr: map[addrKey]policy.Way{},
		haveNet: map[cidrKey]policy.Way{},
		sets:    map[policy.Endpoints]*endpointSet{},
		setIDs:  map[uint32]*endpointSet{},
		known:   map[knownKey][]addrKey{},
		proofs:  map[knownKey]map[proof]bool{},
		wanted:  map[knownKey]map[proof]bool{},
		named:   map[knownKey]map[proof]bool{},
	}
	if err := t.adoptSets(g.endpoints); err != nil {
		return err
	}
	err := g.addrs.each(func(k *addrKey, v *verdict) {
		t.haveAdr[*k] = t.wayOf(*v)
		t.known[knownOf(*k)] = append(t.known[knownOf(*k)], *k)
	})
	if err != nil {
		return err
	}
	var ck cidrKey
	var v verdict
	it := m.EgdCidrs.Iterate()
	for it.Next(&ck, &v) {
		t.haveNet[ck] = t.wayOf(v)
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read egd_cidrs: %w", err)
	}
	return g.names.each(func(nk *nameKey, _ *uint32) {
		k := knownKey{Policy: nk.Policy, Addr: nk.Addr}
		add(t.proofs, k, proof{nk.Port, string(nk.Name[:min(int(nk.Len), len(nk.Name))])})
	})
}

func knownOf(k addrKey) knownKey { return knownKey{Policy: k.Policy, Addr: k.Addr} }

func keyOf(p policy.PolicyID, o policy.Opening) addrKey {
	return addrKey{
		Policy: uint32(p),
		Port:   htons(o.Port),
		Proto:  uint8(o.Transport),
		Addr:   o.Prefix.Addr().As16(),
	}
}

// cidrOf builds the trie key. An IPv4 prefix of n bits is the prefix of
// 96 + n bits of the v4-mapped address.
func cidrOf(p policy.PolicyID, o policy.Opening) cidrKey {
	bits := o.Prefix.Bits()
	if o.Prefix.Addr().Is4() {
		bits += 96
	}
	return cidrKey{
		Prefixlen: 64 + uint32(bits),
		Policy:    uint32(p),
		Port:      htons(o.Port),
		Proto:     uint8(o.Transport),
		Addr:      o.Prefix.Masked().Addr().As16(),
	}
}

// Phase says which half of a policy change is applied. What is newly denied
// is closed before user space swaps its snapshot, what is newly allowed is
// opened after it.
type Phase uint8

// The phases.
const (
	Tighten Phase = iota
	Loosen
)

// Apply brings the static openings to what static says, in two calls: first
// Tighten, then Loosen. Learned openings stay; see SetAddress.
func (d *Datapath) Apply(static map[policy.PolicyID][]policy.Opening, phase Phase) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.collectSets(); err != nil {
		return err
	}
	want := split(static)
	// Before anything is changed.
	if err := d.reserve(want); err != nil {
		return err
	}
	if phase == Tighten {
		return d.tighten(want)
	}
	d.tables.static, d.tables.named = want.addrs, want.names
	return d.loosen(want)
}

// reserve makes room for the static openings beside those that were learned.
func (d *Datapath) reserve(static openings) error {
	t := &d.tables
	addrs, known, names := len(t.learned), map[knownKey]bool{}, 0
	for k := range t.learned {
		known[knownOf(k)] = true
	}
	for k := range static.addrs {
		known[knownOf(k)] = true
		if t.learned[k].Verdict == policy.Deny {
			addrs++
		}
	}
	for _, by := range []map[knownKey]map[proof]bool{static.names, t.wanted} {
		for k, of := range by {
			for p := range of {
				if !static.names[k][p] || !t.wanted[k][p] {
					names++
				}
			}
		}
	}
	return d.grown.reserve(addrs, len(known), names)
}

// openings are the static openings in the form of the kernel's tables.
type openings struct {
	addrs map[addrKey]policy.Way
	nets  map[cidrKey]policy.Way
	names map[knownKey]map[proof]bool
}

func split(static map[policy.PolicyID][]policy.Opening) openings {
	out := openings{map[addrKey]policy.Way{}, map[cidrKey]policy.Way{}, map[knownKey]map[proof]bool{}}
	for id, list := range static {
		for _, o := range list {
			if !o.Prefix.IsSingleIP() {
				k := cidrOf(id, o)
				out.nets[k] = out.nets[k].Join(wayOf(o), o.Transport)
				continue
			}
			k := keyOf(id, o)
			out.addrs[k] = join(out.addrs[k], wayOf(o), k)
			if o.Verdict == policy.Inspect && o.Name != "" {
				add(out.names, knownOf(k), proof{k.Port, o.Name})
			}
		}
	}
	return out
}

// wayOf is what the kernel can do of what o wants: its weights are scaled.
func wayOf(o policy.Opening) policy.Way { return policy.Way{Verdict: o.Verdict, To: scale(o.To)} }

func join(a, b policy.Way, k addrKey) policy.Way { return a.Join(b, policy.Transport(k.Proto)) }

// tighten removes what is in the kernel and not wanted, and lifts verdicts
// that look more closely now. Lists of endpoints are changed by loosen: what
// connects to an old endpoint meanwhile is decided again when the epoch rises.
func (d *Datapath) tighten(wanted openings) error {
	t := &d.tables
	for k := range t.haveAdr {
		if err := d.tightenAddr(k, wanted.addrs[k], wanted.names[knownOf(k)]); err != nil {
			return err
		}
	}
	for k := range t.proofs {
		if err := d.dropProofs(k, t.wanted[k], wanted.names[k]); err != nil {
			return err
		}
	}
	for k := range t.haveNet {
		if err := d.tightenNet(k, wanted.nets[k]); err != nil {
			return err
		}
	}
	return nil
}

// tightenAddr is tighten for one entry; static is what it opens by itself, and
// names what it then proves.
func (d *Datapath) tightenAddr(k addrKey, static policy.Way, names map[proof]bool) error {
	have, ok := d.tables.haveAdr[k]
	if !ok {
		return nil
	}
	want := join(static, d.tables.learned[k], k)
	switch {
	case want.Verdict == policy.Deny:
		return d.dropAddr(k)
	case want.Verdict > have.Verdict:
		// A name is there before a connection can be judged by it.
		if err := d.addProofs(knownOf(k), names); err != nil {
			return err
		}
		return d.putAddr(k, want)
	}
	return nil
}

// tightenNet is tighten for one prefix.
func (d *Datapath) tightenNet(k cidrKey, want policy.Way) error {
	have, ok := d.tables.haveNet[k]
	switch {
	case !ok:
	case want.Verdict == policy.Deny:
		if err := d.objs.EgdCidrs.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove from egd_cidrs: %w", err)
		}
		d.tables.leaveSet(have.To)
		delete(d.tables.haveNet, k)
	case want.Verdict > have.Verdict:
		return d.putNet(k, want)
	}
	return nil
}

func (d *Datapath) loosen(wanted openings) error {
	t := &d.tables
	for k, names := range wanted.names {
		if err := d.addProofs(k, names); err != nil {
			return err
		}
	}
	for k, v := range wanted.addrs {
		if want := join(v, t.learned[k], k); t.haveAdr[k] != want {
			if err := d.putAddr(k, want); err != nil {
				return err
			}
		}
	}
	for k, want := range wanted.nets {
		if t.haveNet[k] != want {
			if err := d.putNet(k, want); err != nil {
				return err
			}
		}
	}
	return nil
}

// SetAddress replaces what a learned address opens for a policy. An empty
// list takes the address out, except for what static openings hold.
func (d *Datapath) SetAddress(p policy.PolicyID, addr netip.Addr, openings []policy.Opening) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &d.tables
	known := knownKey{Policy: uint32(p), Addr: addr.As16()}
	want := map[addrKey]policy.Way{}
	names := map[proof]bool{}
	for _, o := range openings {
		o.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		k := keyOf(p, o)
		want[k] = join(want[k], wayOf(o), k)
		if o.Verdict == policy.Inspect && o.Name != "" {
			names[proof{k.Port, o.Name}] = true
		}
	}
	// A name is there before a connection can be judged by it.
	if err := d.addProofs(known, names); err != nil {
		return err
	}
	delete(t.wanted, known)
	if len(names) > 0 {
		t.wanted[known] = names
	}
	for _, k := range slices.Clone(t.known[known]) {
		if want[k].Verdict != policy.Deny {
			continue
		}
		delete(t.learned, k)
		if t.static[k].Verdict == policy.Deny {
			if err := d.dropAddr(k); err != nil {
				return err
			}
		} else if t.haveAdr[k] != t.static[k] {
			if err := d.putAddr(k, t.static[k]); err != nil {
				return err
			}
		}
	}
	for k, v := range want {
		t.learned[k] = v
		if v = join(v, t.static[k], k); t.haveAdr[k] != v {
			if err := d.putAddr(k, v); err != nil {
				delete(t.learned, k)
				return err
			}
		}
	}
	return d.dropProofs(known, names, t.named[known])
}

func (d *Datapath) putAddr(k addrKey, w policy.Way) error {
	t := &d.tables
	known := knownOf(k)
	if len(t.known[known]) == 0 {
		one := uint32(1)
		if err := d.grown.known.put(&known, &one); err != nil {
			return err
		}
	}
	v, err := d.valueOf(w)
	if err == nil {
		if err = d.grown.addrs.put(&k, &v); err != nil {
			t.leaveSet(w.To)
		}
	}
	if err != nil {
		if len(t.known[known]) == 0 {
			_ = d.grown.known.remove(&known)
		}
		return err
	}
	if have, ok := t.haveAdr[k]; ok {
		t.leaveSet(have.To)
	} else {
		t.known[known] = append(t.known[known], k)
	}
	t.haveAdr[k] = w
	return nil
}

func (d *Datapath) dropAddr(k addrKey) error {
	t := &d.tables
	if err := d.grown.addrs.remove(&k); err != nil {
		return err
	}
	t.leaveSet(t.haveAdr[k].To)
	delete(t.haveAdr, k)
	known := knownOf(k)
	t.known[known] = slices.DeleteFunc(t.known[known], func(o addrKey) bool { return o == k })
	if len(t.known[known]) == 0 {
		delete(t.known, known)
		if err := d.grown.known.remove(&known); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) putNet(k cidrKey, w policy.Way) error {
	v, err := d.valueOf(w)
	if err != nil {
		return err
	}
	if err := d.objs.EgdCidrs.Put(&k, &v); err != nil {
		d.tables.leaveSet(w.To)
		return fmt.Errorf("write egd_cidrs: %w", err)
	}
	d.tables.leaveSet(d.tables.haveNet[k].To)
	d.tables.haveNet[k] = w
	return nil
}
