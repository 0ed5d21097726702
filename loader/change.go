// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/loader/tables"
	"github.com/egressd/egressd/policy"
)

// openTables reads what is in the tables of the policy.
func (d *Datapath) openTables() (*tables.Tables, error) {
	return tables.New(tables.Stores{
		Addrs: d.grown.addrs, Known: d.grown.known, Names: d.grown.names, Endpoints: d.grown.endpoints,
		Nets: nets{d.objs.EgdCidrs},
		NewSet: func() (uint32, error) {
			d.config.LastSet++
			return d.config.LastSet, d.writeConfig()
		},
	})
}

// Tighten takes away what a change no longer opens, and opens nothing; see
// tables.Tables.
func (d *Datapath) Tighten(c policy.Change) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tables.Tighten(c)
}

// Loosen brings the policies of a change to exactly what it says, after Tighten.
func (d *Datapath) Loosen(c policy.Change) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tables.Loosen(c)
}

// Retire takes away what policies open that are not there after a change.
func (d *Datapath) Retire(c policy.Change) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tables.Retire(c)
}

// SetAddress replaces what a learned address opens for a policy. An empty
// list takes the address out, except for what static openings hold.
func (d *Datapath) SetAddress(p policy.PolicyID, addr netip.Addr, openings []policy.Opening) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tables.SetAddress(p, addr, openings)
}

// nets is egd_cidrs.
type nets struct{ m *ebpf.Map }

func (n nets) Put(k *tables.CidrKey, v *tables.Verdict) error {
	if err := n.m.Put(k, v); err != nil {
		return fmt.Errorf("write egd_cidrs: %w", err)
	}
	return nil
}

func (n nets) Remove(k *tables.CidrKey) error {
	if err := n.m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove from egd_cidrs: %w", err)
	}
	return nil
}

func (n nets) Each(f func(*tables.CidrKey, *tables.Verdict)) error {
	var k tables.CidrKey
	var v tables.Verdict
	it := n.m.Iterate()
	for it.Next(&k, &v) {
		f(&k, &v)
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read egd_cidrs: %w", err)
	}
	return nil
}

// Reserve does nothing: the table does not grow, and its bound is found when it
// is full.
func (nets) Reserve(int) error { return nil }

// Len is not kept.
func (nets) Len() int { return 0 }
