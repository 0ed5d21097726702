// SPDX-License-Identifier: Apache-2.0

// Package loader owns the kernel side: it loads the programs, holds every map
// and link and the directory where they are pinned, and translates between
// policy types and the kernel's keys. Nothing above it touches a map. The packages
// below it do one job each, with what a Datapath gives them.
package loader

import (
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/foreign"
	"github.com/egressd/egressd/loader/kernel"
	"github.com/egressd/egressd/loader/predecessor"
	"github.com/egressd/egressd/loader/tables"
	"github.com/egressd/egressd/loader/telemetry"
)

// Options say where a Datapath lives.
type Options struct {
	// PinDir is a directory on a bpffs where maps and links are pinned, so
	// that they outlive the process. It is made when missing; state found in
	// it is adopted.
	PinDir string
	// Renew makes the policy's tables anew even if those that are pinned could
	// be used: a start numbers policies and workloads as it finds them, and
	// until the programs are replaced the old ones go by the old numbers.
	Renew bool
	// Sizes bound the tables.
	Sizes Sizes
	// Reads say what the programs read names of cgroups for, if kernel.CanFollow: Follow, and
	// WorkloadState.Holds.
	Reads kernel.Reads
}

// Datapath is the loaded kernel side. Its methods are safe for concurrent use.
type Datapath struct {
	opts Options
	objs bpf.EgressdObjects
	// adopted says that the programs were attached already at Open, and
	// adoptedFlows that the flows of interfaces were taken over.
	adopted, adoptedFlows bool
	earlier               predecessor.EarlierPrograms
	// staged are the maps that Attach will pin over older ones.
	staged map[string]bool
	// first says that nothing was attached when it was opened, pinned are the
	// maps that were pinned since.
	first  bool
	pinned []string

	mu     sync.Mutex
	config bpf.EgressdEgdConfig
	links  map[string]link.Link
	tables *tables.Tables
	grown  grown
	// fixed is how many bytes the maps take that don't grow, renewing those of
	// them that a restart makes anew.
	fixed, renewing uint64
	usage           *usage
	bound           bound
	guarded         map[int]*guardedInterface // by interface index
	// committed says that all programs are attached, and the pins theirs.
	committed bool
	// path is the cgroup that the programs were attached to, cgroup its id then.
	path   string
	cgroup uint64
	// sockets are what egd_listeners is to hold.
	sockets []ListenerSocket
	pins    *bpffs.PinKeeper
	// ids are the kernel's numbers of the programs.
	ids map[*ebpf.Program]ebpf.ProgramID
	// steers says that Steer was called, unloaded that Unload was: nothing is to
	// be held any more.
	steers, unloaded bool
	foreign          foreign.Seen
	// flowCount is how many flows the last sweep left.
	flowCount int
	// gates are those of the listeners: IPv4 and IPv6.
	gates atomic.Pointer[[2]netip.Addr]
	// devices are the listeners' addresses on devices.
	devices atomic.Pointer[map[netip.Addr]bool]

	before before

	events *telemetry.Ring
}

// pinnable lists every map by its name. Socket storage is pinned as well: a
// restarted daemon's programs must see the verdicts of sockets that are open.
func pinnable(m *bpf.EgressdMaps) map[string]*ebpf.Map {
	all := map[string]*ebpf.Map{}
	for field, v := range reflect.ValueOf(m).Elem().Fields() {
		if name := field.Tag.Get("ebpf"); name != "" {
			all[name], _ = v.Interface().(*ebpf.Map)
		}
	}
	return all
}

// SetReady opens or closes the whole datapath: while it is not ready every
// flow of a workload is denied.
func (d *Datapath) SetReady(ready bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config.Ready = 0
	if ready {
		d.config.Ready = 1
	}
	return d.writeConfig()
}

// RaiseEpoch makes every verdict that was given before older than the policy.
func (d *Datapath) RaiseEpoch() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config.Epoch++
	return d.writeConfig()
}

func (d *Datapath) writeConfig() error {
	if err := d.objs.EgdConfig.Put(uint32(0), &d.config); err != nil {
		return fmt.Errorf("write egd_config: %w", err)
	}
	return nil
}

// before is the egd_origins of the programs that these replace: what those
// redirected, and nobody accepted, waits in a listening socket that outlives
// them. The policies and workloads in it have other numbers; who it is says the
// key that the workload was found under.
type before struct {
	mu sync.RWMutex
	m  *ebpf.Map // nil: none
}
