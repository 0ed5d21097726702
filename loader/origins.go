// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/abi"
	"github.com/egressd/egressd/loader/arrival"
	"github.com/egressd/egressd/policy"
)

// Origin is who is behind a connection or datagram that arrived at one of
// egressd's listeners.
type Origin struct {
	Dst      netip.AddrPort // what the workload dialled; IPv4 is unmapped
	Workload uint32
	Policy   policy.PolicyID
	Mode     policy.Mode
	Cgroup   uint64
	PID      int // thread group id
	UID      int
	Command  string
	// Interface is the index of the interface that the flow came by, and its
	// packets still bear Dst; 0: it was redirected from a socket of this kernel.
	Interface int
	// Device is the index of the interface that the socket is bound to; 0: none.
	Device int
}

// TakeOrigin looks up and removes the origin of an accepted TCP connection.
// False means that nobody was redirected from there: the caller must refuse.
func (d *Datapath) TakeOrigin(a arrival.Arrival) (Origin, bool) {
	return d.takeOrigin(originKey(policy.TCP, a, d.wayOf(a.Local)))
}

// DatagramOrigin looks up the origin of a datagram that arrived on a UDP listener.
// The entry of a socket of this network namespace stays until the socket is
// closed; others are of one datagram and taken out.
func (d *Datapath) DatagramOrigin(a arrival.Arrival) (Origin, bool) {
	way := d.wayOf(a.Local)
	if way != byLoopback {
		return d.takeOrigin(originKey(policy.UDP, a, way))
	}
	// What comes from an interface is given to the socket on loopback. It comes
	// first: a machine may bear an address of the node, but who sent it is then
	// in its own entry.
	if a.Local.IsLoopback() && !a.Src.Addr().IsLoopback() {
		if o, ok := d.takeOrigin(originKey(policy.UDP, a, byInterface)); ok {
			return o, ok
		}
	}
	key := originKey(policy.UDP, a, byLoopback)
	var v bpf.EgressdEgdOrigin
	if err := d.objs.EgdOrigins.Lookup(&key, &v); err != nil {
		return d.originBefore(key, false)
	}
	return originOf(&v), true
}

func (d *Datapath) takeOrigin(key bpf.EgressdEgdOriginKey) (Origin, bool) {
	var v bpf.EgressdEgdOrigin
	// Pointers, of what is as large as the kernel has it (TestSizes): the library would
	// look at the types of both for each connection.
	if err := d.objs.EgdOrigins.LookupAndDelete(unsafe.Pointer(&key), unsafe.Pointer(&v)); err != nil {
		return d.originBefore(key, true)
	}
	d.usage.release(v.Workload)
	return originOf(&v), true
}

// The ways of enum egd_way.
const (
	byLoopback  = uint8(bpf.EgressdEgdWayEGD_BY_LOOPBACK)
	byGate      = uint8(bpf.EgressdEgdWayEGD_BY_GATE)
	byInterface = uint8(bpf.EgressdEgdWayEGD_BY_INTERFACE)
)

func (d *Datapath) wayOf(local netip.Addr) uint8 {
	if local.IsLoopback() {
		return byLoopback
	}
	if m := d.devices.Load(); m != nil && (*m)[local] {
		return byLoopback // those sockets are of this network namespace as well
	}
	if g := d.gates.Load(); g != nil && (local == g[0] || local == g[1]) {
		return byGate
	}
	return byInterface
}

func originKey(t policy.Transport, a arrival.Arrival, way uint8) bpf.EgressdEgdOriginKey {
	k := bpf.EgressdEgdOriginKey{
		Addr:  a.Src.Addr().As16(),
		Port:  abi.Port(a.Src.Port()),
		Proto: uint8(t),
		Way:   way,
	}
	if t == policy.UDP && way != byInterface {
		k.Slot = uint8(a.Slot)
	}
	switch {
	case way != byLoopback:
		k.Token = a.Token
	case t == policy.TCP:
		k.Token = listenerToken(netip.AddrPortFrom(a.Local, a.LocalPort))
	}
	return k
}

// listenerToken is listener_token of the kernel programs: it tells connections
// apart that come from one address and port to several listeners.
func listenerToken(at netip.AddrPort) uint32 {
	const prime = 0x01000193
	addr, h := at.Addr().As16(), uint32(0x811c9dc5)
	for i := 0; i < len(addr); i += 4 {
		h = (h ^ binary.BigEndian.Uint32(addr[i:])) * prime
	}
	return (h ^ uint32(at.Port())) * prime
}

func originOf(v *bpf.EgressdEgdOrigin) Origin {
	// Sockets have a cookie.
	device, by := int(v.Ifindex), 0
	if v.Cookie == 0 {
		device, by = 0, device
	}
	return Origin{
		Dst:       netip.AddrPortFrom(netip.AddrFrom16(v.Dst).Unmap(), abi.Port(v.Dport)),
		Workload:  v.Workload,
		Policy:    policy.PolicyID(v.Policy),
		Mode:      policy.Mode(v.Mode),
		Cgroup:    v.Cgroup,
		PID:       int(v.Pid),
		UID:       int(v.Uid),
		Command:   abi.Command(v.Comm[:]),
		Interface: by,
		Device:    device,
	}
}

// SweepOrigins removes the entries that are older than maxAge: connections
// that were never accepted, datagrams of sockets that live long. It returns
// how many it removed. Sets of endpoints that nothing points to any more go
// with them, and what the programs before these redirected.
func (d *Datapath) SweepOrigins(maxAge time.Duration) (int, error) {
	d.forgetBefore()
	d.mu.Lock()
	err := d.tables.Collect()
	d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	now, err := abi.Now()
	if err != nil {
		return 0, err
	}
	type entry struct {
		key      bpf.EgressdEgdOriginKey
		workload uint32
	}
	var old []entry
	var k bpf.EgressdEgdOriginKey
	var v bpf.EgressdEgdOrigin
	it := d.objs.EgdOrigins.Iterate()
	for it.Next(&k, &v) {
		if now > v.Created && time.Duration(now-v.Created) > maxAge {
			old = append(old, entry{k, v.Workload})
		}
	}
	// A table that changes while it is read may end the walk early; the next
	// sweep goes on.
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return 0, fmt.Errorf("read egd_origins: %w", err)
	}
	for _, e := range old {
		switch err := d.objs.EgdOrigins.Delete(&e.key); {
		case err == nil:
			d.usage.release(e.workload)
		case !errors.Is(err, ebpf.ErrKeyNotExist):
			return 0, fmt.Errorf("remove from egd_origins: %w", err)
		}
	}
	return len(old), nil
}
