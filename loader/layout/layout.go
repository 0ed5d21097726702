// SPDX-License-Identifier: Apache-2.0

// Package layout says which maps of another version's programs this one can take
// over, by what their keys and values look like.
package layout

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// ErrMismatch says that what belongs to open sockets is pinned in another
// layout than this version's. The way out is to run "egressd unload" and to
// start again.
var ErrMismatch = errors.New("the pinned state has another layout")

// Kept are the maps whose entries belong to sockets that are open: whatever
// they hold is taken over by every version, so their layout never changes.
var Kept = []string{"egd_sockets", "egd_hellos", "egd_recent", "egd_rewrites", "egd_dialled", "egd_kept"}

// Renewed are the other maps. Those of one line speak of each other, so that
// they are taken over together or made anew together; the first line has what
// the policy says, which the loader fills before the programs see it, and what
// the programs publish in its numbers.
var Renewed = [...][]string{
	PolicyTables: {
		"egd_config", "egd_workloads", "egd_captured", "egd_beside", "egd_addrs", "egd_known", "egd_cidrs",
		"egd_endpoints", "egd_names", "egd_ifaces", "egd_origins", "egd_usage", "egd_listeners",
		"egd_own", "egd_devices",
	},
	EventRing:    {"egd_events"},
	FlowTables:   {"egd_flows", "egd_flow_hello", "egd_flow_bytes", "egd_shares"},
	PeerTables:   {"egd_peers"},
	CounterTable: {"egd_counters"},
}

// The lines of Renewed.
const (
	PolicyTables = iota
	EventRing
	FlowTables
	PeerTables
	CounterTable
)

// meaning is part of the layout: it is raised when what the maps of Renewed
// hold means something else than before although it looks the same. A build may
// set it (-ldflags -X), for tests of upgrades.
var meaning = "2"

// Of is a number for the form of keys and values: two versions with the
// same one can use each other's maps. Sizes alone don't tell (two fields that
// changed places).
func Of(spec *ebpf.CollectionSpec) uint64 {
	h := fnv.New64a()
	fmt.Fprintln(h, meaning)
	for _, names := range Renewed {
		for _, name := range names {
			if m := spec.Maps[name]; m != nil {
				fmt.Fprintln(h, name, m.Type, m.KeySize, m.ValueSize)
				writeType(h, m.Key)
				writeType(h, m.Value)
				if in := m.InnerMap; in != nil {
					fmt.Fprintln(h, in.Type, in.KeySize, in.ValueSize, in.Flags)
					writeType(h, in.Key)
					writeType(h, in.Value)
				}
			}
		}
	}
	return h.Sum64()
}

// writeType writes all that the layout of a type depends on, and the names.
func writeType(w io.Writer, t btf.Type) {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		writeMembers(w, t.Size, t.Members)
	case *btf.Union:
		writeMembers(w, t.Size, t.Members)
	case *btf.Array:
		fmt.Fprintln(w, "array", t.Nelems)
		writeType(w, t.Type)
	case *btf.Int:
		fmt.Fprintln(w, "int", t.Size, t.Encoding)
	default:
		fmt.Fprintf(w, "%T\n", t)
	}
}

func writeMembers(w io.Writer, size uint32, members []btf.Member) {
	fmt.Fprintln(w, "members", len(members), size)
	for _, m := range members {
		fmt.Fprintln(w, m.Name, m.Offset, m.BitfieldSize)
		writeType(w, m.Type)
	}
}

// SameTypes says whether key and value of a map are what spec says, by their
// BTF.
func SameTypes(spec *ebpf.MapSpec, m *ebpf.Map) bool {
	if spec.Compatible(m) != nil {
		return false
	}
	info, err := m.Info()
	if err != nil {
		return false
	}
	id, ok := info.BTFID()
	if !ok {
		return false
	}
	h, err := btf.NewHandleFromID(id)
	if err != nil {
		return false
	}
	defer h.Close()
	have, err := h.Spec(nil)
	if err != nil {
		return false
	}
	for _, want := range []btf.Type{spec.Key, spec.Value} {
		s, ok := btf.UnderlyingType(want).(*btf.Struct)
		if !ok {
			return false
		}
		var got *btf.Struct
		if have.TypeByName(s.Name, &got) != nil || typeSum(got) != typeSum(s) {
			return false
		}
	}
	return true
}

func typeSum(t btf.Type) uint64 {
	h := fnv.New64a()
	writeType(h, t)
	return h.Sum64()
}
