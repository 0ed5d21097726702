// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
)

// SetOwn tells the kernel what the node receives itself, and replaces what it was
// told before: processes in the daemon's network namespace reach these addresses
// as they reach loopback. Prefixes are of IPv4 or IPv6 addresses; zones are dropped.
func (d *Datapath) SetOwn(own []netip.Prefix) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	is := map[bpf.EgressdEgdOwnKey]bool{}
	for _, p := range own {
		// What would be everybody's address is nobody's own.
		if a := p.Addr().WithZone(""); p.IsValid() && p.Bits() > 0 {
			bits := p.Bits()
			if a.Is4() {
				bits += 96
			}
			is[bpf.EgressdEgdOwnKey{Prefixlen: uint32(bits), Addr: a.As16()}] = true
		}
	}
	m := d.objs.EgdOwn
	for k := range is {
		if err := m.Put(k, uint32(1)); err != nil {
			return fmt.Errorf("write egd_own: %w", err)
		}
	}
	return deleteOthers(m, "egd_own", func(k bpf.EgressdEgdOwnKey) bool { return is[k] })
}

// BoundDevice is a network interface that egressd's listeners have an address of, for
// sockets that are bound to it (SO_BINDTODEVICE, IP_UNICAST_IF): loopback is out of
// their reach, the device's own addresses are not.
type BoundDevice struct {
	Index        int
	Addr4, Addr6 netip.Addr // the zero Addr: no listener in that family
}

// MaxDevices is how many devices can have listeners.
const MaxDevices = int(bpf.EgressdEgdSizeEGD_DEVICES)

// SetDevices says on which devices egressd listens; it replaces what was said
// before. The listeners must be bound.
func (d *Datapath) SetDevices(devices []BoundDevice) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	addrs, is := map[netip.Addr]bool{}, map[uint32]bool{}
	for _, v := range devices {
		var e bpf.EgressdEgdDevice
		if v.Addr4.IsValid() {
			e.Addr4, addrs[v.Addr4] = v.Addr4.As16(), true
		}
		if v.Addr6.IsValid() {
			e.Addr6, addrs[v.Addr6] = v.Addr6.As16(), true
		}
		index := uint32(v.Index)
		is[index] = true
		if err := d.objs.EgdDevices.Put(index, &e); err != nil {
			return fmt.Errorf("write egd_devices: %w", err)
		}
	}
	d.devices.Store(&addrs)
	return deleteOthers(d.objs.EgdDevices, "egd_devices", func(index uint32) bool { return is[index] })
}

// deleteOthers removes the entries of a map that keep does not name.
func deleteOthers[K any](m *ebpf.Map, name string, keep func(K) bool) error {
	var old []K
	var k K
	var v []byte
	it := m.Iterate()
	for it.Next(&k, &v) {
		if !keep(k) {
			old = append(old, k)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	for _, k := range old {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove from %s: %w", name, err)
		}
	}
	return nil
}
