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
	static  map[addrKey]policy.Verdict
	learned map[addrKey]policy.Verdict
	haveAdr map[addrKey]policy.Verdict
	haveNet map[cidrKey]policy.Verdict
	// known holds the keys of haveAdr by address.
	known map[knownKey][]addrKey
	// proofs holds the names that each address proves in the kernel, wanted
	// those that it should.
	proofs, wanted map[knownKey]map[proof]bool
}

// adopt fills the mirror from the kernel.
func (t *tables) adopt(m *bpf.EgressdMaps) error {
	*t = tables{
		static:  map[addrKey]policy.Verdict{},
		learned: map[addrKey]policy.Verdict{},
		haveAdr: map[addrKey]policy.Verdict{},
		haveNet: map[cidrKey]policy.Verdict{},
		known:   map[knownKey][]addrKey{},
		proofs:  map[knownKey]map[proof]bool{},
		wanted:  map[knownKey]map[proof]bool{},
	}
	var ak addrKey
	var ck cidrKey
	var v verdict
	it := m.EgdAddrs.Iterate()
	for it.Next(&ak, &v) {
		t.haveAdr[ak] = policy.Verdict(v.Verdict)
		t.known[knownOf(ak)] = append(t.known[knownOf(ak)], ak)
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read egd_addrs: %w", err)
	}
	it = m.EgdCidrs.Iterate()
	for it.Next(&ck, &v) {
		t.haveNet[ck] = policy.Verdict(v.Verdict)
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read egd_cidrs: %w", err)
	}
	var nk nameKey
	var one uint32
	it = m.EgdNames.Iterate()
	for it.Next(&nk, &one) {
		k := knownKey{Policy: nk.Policy, Addr: nk.Addr}
		add(t.proofs, k, proof{nk.Port, string(nk.Name[:min(int(nk.Len), len(nk.Name))])})
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read egd_names: %w", err)
	}
	return nil
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
	addrs, nets := split(static)
	if phase == Tighten {
		return d.tighten(addrs, nets)
	}
	d.tables.static = addrs
	return d.loosen(addrs, nets)
}

func split(static map[policy.PolicyID][]policy.Opening) (map[addrKey]policy.Verdict, map[cidrKey]policy.Verdict) {
	addrs := map[addrKey]policy.Verdict{}
	nets := map[cidrKey]policy.Verdict{}
	for id, openings := range static {
		for _, o := range openings {
			if o.Prefix.IsSingleIP() {
				k := keyOf(id, o)
				addrs[k] = join(addrs[k], o.Verdict, k)
			} else {
				k := cidrOf(id, o)
				nets[k] = policy.Join(nets[k], o.Verdict, o.Transport)
			}
		}
	}
	return addrs, nets
}

// join is policy.Join for the transport of k.
func join(a, b policy.Verdict, k addrKey) policy.Verdict {
	return policy.Join(a, b, policy.Transport(k.Proto))
}

// tighten removes what is in the kernel and in no table of want, and lifts
// verdicts that look more closely now.
func (d *Datapath) tighten(addrs map[addrKey]policy.Verdict, nets map[cidrKey]policy.Verdict) error {
	t := &d.tables
	for k, have := range t.haveAdr {
		want := join(addrs[k], t.learned[k], k)
		switch {
		case want == policy.Deny:
			if err := d.dropAddr(k); err != nil {
				return err
			}
		case want > have:
			if err := d.putAddr(k, want); err != nil {
				return err
			}
		}
	}
	for k := range t.proofs {
		if err := d.dropProofs(k, t.wanted[k]); err != nil {
			return err
		}
	}
	for k, have := range t.haveNet {
		switch want := nets[k]; {
		case want == policy.Deny:
			if err := d.objs.EgdCidrs.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("remove from egd_cidrs: %w", err)
			}
			delete(t.haveNet, k)
		case want > have:
			if err := d.putNet(k, want); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Datapath) loosen(addrs map[addrKey]policy.Verdict, nets map[cidrKey]policy.Verdict) error {
	t := &d.tables
	for k, v := range addrs {
		if want := join(v, t.learned[k], k); t.haveAdr[k] != want {
			if err := d.putAddr(k, want); err != nil {
				return err
			}
		}
	}
	for k, want := range nets {
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
	want := map[addrKey]policy.Verdict{}
	names := map[proof]bool{}
	for _, o := range openings {
		o.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		k := keyOf(p, o)
		want[k] = join(want[k], o.Verdict, k)
		if o.Verdict == policy.Inspect && o.Name != "" {
			names[proof{k.Port, o.Name}] = true
		}
	}
	// A name is there before a connection can be judged by it.
	if err := d.addProofs(known, names); err != nil {
		return err
	}
	for _, k := range slices.Clone(t.known[known]) {
		if want[k] != policy.Deny {
			continue
		}
		delete(t.learned, k)
		if t.static[k] == policy.Deny {
			if err := d.dropAddr(k); err != nil {
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
	return d.dropProofs(known, names)
}

func (d *Datapath) putAddr(k addrKey, v policy.Verdict) error {
	t := &d.tables
	known := knownOf(k)
	if len(t.known[known]) == 0 {
		if err := d.objs.EgdKnown.Put(&known, uint32(1)); err != nil {
			return fmt.Errorf("write egd_known: %w", err)
		}
	}
	if err := d.objs.EgdAddrs.Put(&k, &verdict{Verdict: uint8(v)}); err != nil {
		if len(t.known[known]) == 0 {
			_ = d.objs.EgdKnown.Delete(&known)
		}
		return fmt.Errorf("write egd_addrs: %w", err)
	}
	if _, ok := t.haveAdr[k]; !ok {
		t.known[known] = append(t.known[known], k)
	}
	t.haveAdr[k] = v
	return nil
}

func (d *Datapath) dropAddr(k addrKey) error {
	t := &d.tables
	if err := d.objs.EgdAddrs.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove from egd_addrs: %w", err)
	}
	delete(t.haveAdr, k)
	known := knownOf(k)
	t.known[known] = slices.DeleteFunc(t.known[known], func(o addrKey) bool { return o == k })
	if len(t.known[known]) == 0 {
		delete(t.known, known)
		if err := d.objs.EgdKnown.Delete(&known); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove from egd_known: %w", err)
		}
	}
	return nil
}

func (d *Datapath) putNet(k cidrKey, v policy.Verdict) error {
	if err := d.objs.EgdCidrs.Put(&k, &verdict{Verdict: uint8(v)}); err != nil {
		return fmt.Errorf("write egd_cidrs: %w", err)
	}
	d.tables.haveNet[k] = v
	return nil
}
