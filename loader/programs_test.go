// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/loader/kernel"
)

// TestVariables: what is told to the programs before they are loaded is what all of them
// have, however many are loaded at a time.
func TestVariables(t *testing.T) {
	testenv.RequireBPF(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, maxLoaders} {
		spec, err := bpf.LoadEgressd()
		if err != nil {
			t.Fatal(err)
		}
		if err := kernel.TellReads(spec, kernel.Reads{Captured: true, Containers: true}); err != nil {
			t.Fatal(err)
		}
		told := spec.Variables[bpf.EgressdVarEgdOffsets]
		if bytes.Count(told.Value, []byte{0}) == len(told.Value) {
			t.Fatal("nothing was told")
		}
		var objs bpf.EgressdObjects
		if err := loadObjects(&objs, spec, nil, n, nil); err != nil {
			t.Fatal(err)
		}
		p := &objs.EgressdPrograms
		for _, one := range []*ebpf.Program{p.EgdConnect4, p.EgdConnect6, p.EgdSendmsg4, p.EgdSendmsg6, p.EgdRecvmsg4, p.EgdRecvmsg6, p.EgdBind4, p.EgdBind6, p.EgdSetsockopt, p.EgdSockCreate} {
			if got := variables(t, one); !bytes.Equal(got[told.Offset:told.Offset+told.Size()], told.Value) {
				t.Errorf("%d at a time: %s has % x, want % x", n, one, got[told.Offset:told.Offset+told.Size()], told.Value)
			}
		}
		if err := objs.Close(); err != nil {
			t.Error(err)
		}
	}
}

// variables are what a program's map .rodata has.
func variables(t *testing.T, p *ebpf.Program) []byte {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		of, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		if of.Name != ".rodata" {
			continue
		}
		data, err := m.LookupBytes(uint32(0))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	t.Fatalf("%s has no variables", p)
	return nil
}
