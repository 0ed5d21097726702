// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/bpf"
)

// maxOrigins is how many entries of egd_origins a workload may have.
const maxOrigins = int(bpf.EgressdEgdSizeEGD_MAX_ORIGINS)

// usage is egd_usage, mapped: the kernel programs and this process add to the
// same numbers atomically.
type usage struct {
	mu  sync.RWMutex // held for writing to unmap
	mem []byte
}

func mapUsage(m *ebpf.Map) (*usage, error) {
	size := int(m.MaxEntries()) * int(m.ValueSize())
	mem, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map egd_usage: %w", err)
	}
	return &usage{mem: mem}, nil
}

func (u *usage) close() error {
	if u == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	mem := u.mem
	if u.mem = nil; mem == nil {
		return nil
	}
	return unix.Munmap(mem)
}

// origins is the counter of a workload, nil for a number that none can have.
// The caller holds mu.
func (u *usage) origins(workload uint32) *int64 {
	at := uintptr(workload) * unsafe.Sizeof(bpf.EgressdEgdUsage{})
	if at >= uintptr(len(u.mem)) {
		return nil
	}
	return (*int64)(unsafe.Pointer(&u.mem[at]))
}

// conns is the counter of open connections of a workload, as origins. Number 0 has
// those of all.
func (u *usage) conns(workload uint32) *int64 {
	at := uintptr(workload)*unsafe.Sizeof(bpf.EgressdEgdUsage{}) + unsafe.Offsetof(bpf.EgressdEgdUsage{}.Conns)
	if at >= uintptr(len(u.mem)) {
		return nil
	}
	return (*int64)(unsafe.Pointer(&u.mem[at]))
}

// release takes one entry of egd_origins off the account of its workload, which
// never goes below zero: a version that did not count may have written it.
func (u *usage) release(workload uint32) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	n := u.origins(workload)
	for n != nil {
		was := atomic.LoadInt64(n)
		if was <= 0 || atomic.CompareAndSwapInt64(n, was, was-1) {
			return
		}
	}
}

// Origins says how much of its share of egd_origins a workload uses.
func (d *Datapath) Origins(workload uint32) Fill {
	u := d.usage
	u.mu.RLock()
	defer u.mu.RUnlock()
	f := Fill{Max: maxOrigins}
	if n := u.origins(workload); n != nil {
		f.Entries = int(atomic.LoadInt64(n))
	}
	return f
}

// Conns says how many redirected connections a workload has open that come from
// the network namespace of the listeners, and how many it could have now; 0: any
// number.
func (d *Datapath) Conns(workload uint32) Fill {
	d.mu.Lock()
	room := int64(d.config.Room)
	d.mu.Unlock()
	u := d.usage
	u.mu.RLock()
	defer u.mu.RUnlock()
	mine, all := u.conns(workload), u.conns(0)
	if mine == nil || all == nil {
		return Fill{}
	}
	n := atomic.LoadInt64(mine)
	f := Fill{Entries: int(n)}
	if room > 0 {
		f.Max = int(max(0, room-atomic.LoadInt64(all)+n) / 2)
	}
	return f
}

// SetRoom says how many connections from sockets of the listeners' network
// namespace may be redirected at a time, at most 65,535; 0: any number. No workload
// may have more than it leaves free. Each has an ephemeral port: when there is none
// left, connect(2) fails for everybody (EADDRNOTAVAIL).
func (d *Datapath) SetRoom(n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	room := uint16(max(0, min(n, math.MaxUint16)))
	if d.config.Room == room {
		return nil
	}
	d.config.Room = room
	return d.writeConfig()
}

// errWorkload: egd_usage has no account of that number.
var errWorkload = errors.New("the number of the workload is out of range")

// has says whether there is an account for a number.
func (u *usage) has(workload uint32) bool {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.origins(workload) != nil
}

// Fill is how full a table is: its entries, and how many it may have.
type Fill struct {
	Entries int `json:"entries"`
	Max     int `json:"max"`
}
