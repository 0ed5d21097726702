// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/egressd/egressd/policy"
)

// memory is a table, and what was written there, in that order.
type memory[K comparable, V any] struct {
	m     map[K]V
	wrote *[]string
	name  func(K) string
}

func (s memory[K, V]) Put(k *K, v *V) error {
	s.m[*k] = *v
	*s.wrote = append(*s.wrote, "put "+s.name(*k))
	return nil
}

func (s memory[K, V]) Remove(k *K) error {
	delete(s.m, *k)
	*s.wrote = append(*s.wrote, "remove "+s.name(*k))
	return nil
}

func (s memory[K, V]) Each(f func(*K, *V)) error {
	for k, v := range maps.Clone(s.m) {
		f(&k, &v)
	}
	return nil
}

func (memory[K, V]) Reserve(int) error { return nil }
func (s memory[K, V]) Len() int        { return len(s.m) }

func table[K comparable, V any](wrote *[]string, name func(K) string) memory[K, V] {
	return memory[K, V]{map[K]V{}, wrote, name}
}

// newTables returns empty tables and what is written to those of addresses and
// prefixes.
func newTables(t *testing.T) (*Tables, *[]string) {
	t.Helper()
	wrote, others := new([]string), new([]string)
	set := uint32(0)
	tables, err := New(Stores{
		Addrs:     table[AddrKey, Verdict](wrote, func(k AddrKey) string { return netip.AddrFrom16(k.Addr).Unmap().String() }),
		Nets:      table[CidrKey, Verdict](wrote, func(k CidrKey) string { return fmt.Sprint("/", k.Prefixlen-64) }),
		Known:     table[KnownKey, uint32](others, func(KnownKey) string { return "" }),
		Names:     table[NameKey, uint32](others, func(NameKey) string { return "" }),
		Endpoints: table[EndpointKey, Endpoint](others, func(EndpointKey) string { return "" }),
		NewSet:    func() (uint32, error) { set++; return set, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return tables, wrote
}

// TestOrder: an entry that closes what one for more addresses opens is there
// before that comes, and until that has gone.
func TestOrder(t *testing.T) {
	var all []policy.Opening
	for _, p := range []string{"2001:4860::/64", "2001:4860::1/128", "2001:4860::/32", "2001:4860::/96"} {
		v := policy.Direct
		if len(all)%2 == 1 {
			v = policy.Proxy
		}
		all = append(all, policy.Opening{Prefix: netip.MustParsePrefix(p), Port: 443, Transport: policy.TCP, Verdict: v})
	}
	only := func(o ...policy.Opening) policy.Change {
		c := policy.Change{Next: new(policy.Snapshot)}
		c.Add(policy.DefaultPolicy, o...)
		return c
	}
	opened := []string{"put 2001:4860::1", "put /96", "put /64", "put /32"}
	closed := []string{"remove /32", "remove /64", "remove /96", "remove 2001:4860::1"}
	for i := range all {
		tables, wrote := newTables(t)
		given := append(slices.Clone(all[i:]), all[:i]...)
		for _, step := range []struct {
			do   func(policy.Change) error
			c    policy.Change
			want []string
		}{
			{tables.Tighten, only(given...), nil},
			{tables.Loosen, only(given...), opened},
			{tables.Loosen, only(given...), nil},
			{tables.Tighten, only(), closed},
			{tables.Loosen, only(), nil},
			{tables.Loosen, only(given...), opened},
			{tables.Retire, policy.Change{Next: new(policy.Snapshot)}, closed},
		} {
			*wrote = nil
			if err := step.do(step.c); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(*wrote, step.want) {
				t.Errorf("wrote %v, want %v", *wrote, step.want)
			}
		}
	}
}

// TestLearnedBetween: what an address rule opened is not open any more, also
// when a name that has gone as well was learned for the address, and was taken
// out after the rule.
func TestLearnedBetween(t *testing.T) {
	tables, _ := newTables(t)
	a := netip.MustParseAddr("198.51.100.1")
	o := policy.Opening{Prefix: netip.PrefixFrom(a, 32), Port: 443, Transport: policy.TCP, Verdict: policy.Direct}
	before := policy.Change{Next: new(policy.Snapshot)}
	before.Add(policy.DefaultPolicy, o)
	after := policy.Change{Old: before.Next, Next: new(policy.Snapshot)}
	after.Policies = []policy.PolicyChange{{ID: policy.DefaultPolicy, Static: []policy.StaticChange{{Prefix: o.Prefix, Transport: o.Transport, Port: o.Port}}}}
	for _, err := range []error{
		tables.Tighten(before), tables.Loosen(before),
		tables.SetAddress(policy.DefaultPolicy, a, []policy.Opening{o}),
		tables.Tighten(after),
		tables.SetAddress(policy.DefaultPolicy, a, nil),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := tables.stores.Addrs.Len(); n != 0 {
		t.Errorf("%d addresses are open between the two policies", n)
	}
	if err := tables.Loosen(after); err != nil || tables.stores.Addrs.Len() != 0 {
		t.Errorf("%d addresses are open (%v)", tables.stores.Addrs.Len(), err)
	}
}
