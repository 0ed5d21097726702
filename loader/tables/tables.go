// SPDX-License-Identifier: Apache-2.0

// Package tables keeps the kernel's tables of the policy equal to what the
// policy and the learned addresses open. It knows how entries look, and what is
// in the tables; where they are kept is somebody else's: the loader's maps, or
// memory in tests.
package tables

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/policy"
)

// Keys and values of the kernel's tables.
type (
	AddrKey     = bpf.EgressdEgdAddrKey
	CidrKey     = bpf.EgressdEgdCidrKey
	KnownKey    = bpf.EgressdEgdKnownKey
	NameKey     = bpf.EgressdEgdNameKey
	EndpointKey = bpf.EgressdEgdEndpointKey
	Verdict     = bpf.EgressdEgdAddrVal
	Endpoint    = bpf.EgressdEgdEndpoint
)

// Store keeps the entries of one table.
type Store[K, V any] interface {
	// Put writes an entry, whether there is one or not.
	Put(*K, *V) error
	// Remove takes an entry out, if it is there.
	Remove(*K) error
	// Each calls f for every entry that is there by now.
	Each(f func(*K, *V)) error
	// Reserve makes room for n entries; an error says that there cannot be as
	// many.
	Reserve(n int) error
	// Len is how many entries there are.
	Len() int
}

// Stores are the tables.
type Stores struct {
	Addrs     Store[AddrKey, Verdict]      // egd_addrs
	Nets      Store[CidrKey, Verdict]      // egd_cidrs
	Known     Store[KnownKey, uint32]      // egd_known
	Names     Store[NameKey, uint32]       // egd_names
	Endpoints Store[EndpointKey, Endpoint] // egd_endpoints
	// NewSet returns a number for a list of endpoints that was never given away,
	// also not by an earlier run.
	NewSet func() (uint32, error)
}

// Tables mirrors what is in the kernel's tables, and what should be: the static
// openings of the policy and the learned ones. It is not safe for concurrent
// use.
type Tables struct {
	stores  Stores
	static  map[AddrKey]policy.Way
	learned map[AddrKey]policy.Way
	// haveAdr and haveNet equal the kernel's contents after every successful
	// write.
	haveAdr map[AddrKey]policy.Way
	haveNet map[CidrKey]policy.Way
	// sets holds the kernel's sets of endpoints by their list, setIDs all of
	// them.
	sets   map[policy.Endpoints]*endpointSet
	setIDs map[uint32]*endpointSet
	// known holds the keys of haveAdr by address.
	known map[KnownKey][]AddrKey
	// serverNames has those that are allowed at each address in the kernel; wanted
	// those that it should by what was learned, named by the static openings.
	serverNames, wanted, named map[KnownKey]map[serverName]bool
}

// New returns the tables with what is in them. It stays, and what is learned is
// joined with it, until a change says what is to be there.
func New(s Stores) (*Tables, error) {
	t := &Tables{stores: s, learned: map[AddrKey]policy.Way{}, wanted: map[KnownKey]map[serverName]bool{}}
	err := t.read()
	t.static, t.named = maps.Clone(t.haveAdr), map[KnownKey]map[serverName]bool{}
	for k, names := range t.serverNames {
		t.named[k] = maps.Clone(names)
	}
	return t, err
}

// read fills the mirror from the tables.
func (t *Tables) read() error {
	t.haveAdr, t.haveNet = map[AddrKey]policy.Way{}, map[CidrKey]policy.Way{}
	t.sets, t.setIDs = map[policy.Endpoints]*endpointSet{}, map[uint32]*endpointSet{}
	t.known, t.serverNames = map[KnownKey][]AddrKey{}, map[KnownKey]map[serverName]bool{}
	if err := t.readSets(); err != nil {
		return err
	}
	err := t.stores.Addrs.Each(func(k *AddrKey, v *Verdict) {
		t.haveAdr[*k] = t.wayOf(*v)
		t.known[knownOf(*k)] = append(t.known[knownOf(*k)], *k)
	})
	if err != nil {
		return err
	}
	if err := t.stores.Nets.Each(func(k *CidrKey, v *Verdict) { t.haveNet[*k] = t.wayOf(*v) }); err != nil {
		return err
	}
	return t.stores.Names.Each(func(nk *NameKey, _ *uint32) {
		k := KnownKey{Policy: nk.Policy, Addr: nk.Addr}
		add(t.serverNames, k, serverName{nk.Port, string(nk.Name[:min(int(nk.Len), len(nk.Name))])})
	})
}

// mendKnown makes the table of known addresses that of the addresses that have
// entries.
func (t *Tables) mendKnown() error {
	stray, missing := []KnownKey{}, maps.Clone(t.known)
	err := t.stores.Known.Each(func(k *KnownKey, _ *uint32) {
		if _, ok := missing[*k]; !ok {
			stray = append(stray, *k)
		}
		delete(missing, *k)
	})
	for _, k := range stray {
		err = errors.Join(err, t.stores.Known.Remove(&k))
	}
	one := uint32(1)
	for k := range missing {
		err = errors.Join(err, t.stores.Known.Put(&k, &one))
	}
	return err
}

// Nets is how many prefixes have entries.
func (t *Tables) Nets() int { return len(t.haveNet) }

// NetworkOrder is a port in network order, as it is in memory, and the other way
// round.
func NetworkOrder(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

func knownOf(k AddrKey) KnownKey { return KnownKey{Policy: k.Policy, Addr: k.Addr} }

func keyOf(p policy.PolicyID, prefix netip.Prefix, transport policy.Transport, port uint16) AddrKey {
	return AddrKey{
		Policy: uint32(p),
		Port:   NetworkOrder(port),
		Proto:  uint8(transport),
		Addr:   prefix.Addr().As16(),
	}
}

// cidrOf builds the trie key. An IPv4 prefix of n bits is the prefix of
// 96 + n bits of the v4-mapped address.
func cidrOf(p policy.PolicyID, prefix netip.Prefix, transport policy.Transport, port uint16) CidrKey {
	bits := prefix.Bits()
	if prefix.Addr().Is4() {
		bits += 96
	}
	return CidrKey{
		Prefixlen: 64 + uint32(bits),
		Policy:    uint32(p),
		Port:      NetworkOrder(port),
		Proto:     uint8(transport),
		Addr:      prefix.Masked().Addr().As16(),
	}
}

// wayOf is what the kernel can do of what o wants: its weights are scaled.
func wayOf(o policy.Opening) policy.Way { return policy.Way{Verdict: o.Verdict, To: scale(o.To)} }

func join(a, b policy.Way, k AddrKey) policy.Way { return a.Join(b, policy.Transport(k.Proto)) }

// SetAddress replaces what a learned address opens for a policy. An empty
// list takes the address out, except for what static openings hold.
func (t *Tables) SetAddress(p policy.PolicyID, addr netip.Addr, openings []policy.Opening) error {
	known := KnownKey{Policy: uint32(p), Addr: addr.As16()}
	want := map[AddrKey]policy.Way{}
	names := map[serverName]bool{}
	for _, o := range openings {
		o.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		k := keyOf(p, o.Prefix, o.Transport, o.Port)
		want[k] = join(want[k], wayOf(o), k)
		if o.Verdict == policy.Inspect && o.Name != "" {
			names[serverName{k.Port, o.Name}] = true
		}
	}
	// A name is there before a connection can be judged by it.
	if err := t.addServerNames(known, names); err != nil {
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
			if err := t.dropAddr(k); err != nil {
				return err
			}
		} else if t.haveAdr[k] != t.static[k] {
			if err := t.putAddr(k, t.static[k]); err != nil {
				return err
			}
		}
	}
	for k, v := range want {
		t.learned[k] = v
		if v = join(v, t.static[k], k); t.haveAdr[k] != v {
			if err := t.putAddr(k, v); err != nil {
				delete(t.learned, k)
				return err
			}
		}
	}
	return t.dropServerNames(known, func(p serverName) bool { return names[p] || t.named[known][p] })
}

func (t *Tables) putAddr(k AddrKey, w policy.Way) error {
	known := knownOf(k)
	if len(t.known[known]) == 0 {
		one := uint32(1)
		if err := t.stores.Known.Put(&known, &one); err != nil {
			return err
		}
	}
	v, err := t.valueOf(w)
	if err == nil {
		if err = t.stores.Addrs.Put(&k, &v); err != nil {
			t.leaveSet(w.To)
		}
	}
	if err != nil {
		if len(t.known[known]) == 0 {
			_ = t.stores.Known.Remove(&known)
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

func (t *Tables) dropAddr(k AddrKey) error {
	known := knownOf(k)
	// First, so that an error leaves an entry that is removed the next time.
	if len(t.known[known]) == 1 {
		if err := t.stores.Known.Remove(&known); err != nil {
			return err
		}
	}
	if err := t.stores.Addrs.Remove(&k); err != nil {
		return err
	}
	t.leaveSet(t.haveAdr[k].To)
	delete(t.haveAdr, k)
	t.known[known] = slices.DeleteFunc(t.known[known], func(o AddrKey) bool { return o == k })
	if len(t.known[known]) == 0 {
		delete(t.known, known)
	}
	return nil
}

func (t *Tables) putNet(k CidrKey, w policy.Way) error {
	v, err := t.valueOf(w)
	if err != nil {
		return err
	}
	if err := t.stores.Nets.Put(&k, &v); err != nil {
		t.leaveSet(w.To)
		return err
	}
	t.leaveSet(t.haveNet[k].To)
	t.haveNet[k] = w
	return nil
}

func (t *Tables) dropNet(k CidrKey) error {
	if err := t.stores.Nets.Remove(&k); err != nil {
		return err
	}
	t.leaveSet(t.haveNet[k].To)
	delete(t.haveNet, k)
	return nil
}
