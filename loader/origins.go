// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/bpf"
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
}

// TakeOrigin looks up and removes the origin of an accepted TCP connection.
// False means that nobody was redirected from src: the caller must refuse.
func (d *Datapath) TakeOrigin(src netip.AddrPort) (Origin, bool) {
	key := originKey(policy.TCP, src, 0)
	var v bpf.EgressdEgdOrigin
	if err := d.objs.EgdOrigins.LookupAndDelete(&key, &v); err != nil {
		return Origin{}, false
	}
	d.usage.release(v.Workload)
	return originOf(&v), true
}

// DatagramOrigin looks up the origin of a datagram that arrived on the UDP
// listener with the given slot. The entry stays until the socket is closed.
func (d *Datapath) DatagramOrigin(src netip.AddrPort, slot int) (Origin, bool) {
	key := originKey(policy.UDP, src, slot)
	var v bpf.EgressdEgdOrigin
	if err := d.objs.EgdOrigins.Lookup(&key, &v); err != nil {
		return Origin{}, false
	}
	return originOf(&v), true
}

func originKey(t policy.Transport, src netip.AddrPort, slot int) bpf.EgressdEgdOriginKey {
	return bpf.EgressdEgdOriginKey{
		Addr:  src.Addr().As16(),
		Port:  htons(src.Port()),
		Proto: uint8(t),
		Slot:  uint8(slot),
	}
}

func originOf(v *bpf.EgressdEgdOrigin) Origin {
	return Origin{
		Dst:       netip.AddrPortFrom(netip.AddrFrom16(v.Dst).Unmap(), htons(v.Dport)),
		Workload:  v.Workload,
		Policy:    policy.PolicyID(v.Policy),
		Mode:      policy.Mode(v.Mode),
		Cgroup:    v.Cgroup,
		PID:       int(v.Pid),
		UID:       int(v.Uid),
		Command:   command(v.Comm[:]),
		Interface: int(v.Ifindex),
	}
}

// SweepOrigins removes the entries that are older than maxAge: connections
// that were never accepted, datagrams of sockets that live long. It returns
// how many it removed. Sets of endpoints that nothing points to any more go
// with them.
func (d *Datapath) SweepOrigins(maxAge time.Duration) (int, error) {
	d.mu.Lock()
	err := d.collectSets()
	d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	now, err := monotonic()
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

// monotonic is CLOCK_MONOTONIC in nanoseconds, as bpf_ktime_get_ns reads it.
func monotonic() (uint64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return uint64(ts.Nano()), nil
}

// htons converts a port between host and network order, both ways.
func htons(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}
