// SPDX-License-Identifier: Apache-2.0

package loader

import (
	_ "embed"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/layout"
)

// keptLayout says where each field is: name, offset, size.
//
//go:embed testdata/kept.txt
var keptLayout string

// fields lists the fields of a type with their places: name, offset, size.
func fields(name string, t reflect.Type, at uintptr) []string {
	switch {
	case t.Kind() == reflect.Struct && t.NumField() > 0:
		var all []string
		for f := range t.Fields() {
			if f.Name != "_" {
				all = append(all, fields(name+"."+f.Name, f.Type, at+f.Offset)...)
			}
		}
		return all
	case t.Kind() == reflect.Array && t.Elem().Kind() == reflect.Struct:
		return append(fields(name+"[0]", t.Elem(), at), fmt.Sprintf("%s %d*%d", name, t.Len(), t.Elem().Size()))
	}
	return []string{fmt.Sprintf("%s %d %d", name, at, t.Size())}
}

// TestKept: what belongs to open sockets stays where it is in every version.
// The file changes only where reserved bytes get a name.
func TestKept(t *testing.T) {
	var got []string
	for _, v := range []any{
		bpf.EgressdEgdSocket{}, bpf.EgressdEgdHello{}, bpf.EgressdEgdRecent{}, bpf.EgressdEgdRewrites{},
		bpf.EgressdEgdDialled{}, bpf.EgressdEgdKept{},
	} {
		typ := reflect.TypeOf(v)
		got = append(got, fields(strings.TrimPrefix(typ.Name(), "EgressdEgd"), typ, 0)...)
	}
	text := strings.Join(got, "\n") + "\n"
	if text != keptLayout {
		t.Errorf("the layout of what is kept has changed:\n%s", text)
	}
	spec, err := bpf.LoadEgressd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range layout.Kept {
		m := spec.Maps[name]
		if s, ok := m.Value.(*btf.Struct); !ok || s.Name != name && s.Name != strings.TrimSuffix(name, "s") {
			t.Errorf("%s holds a %v", name, m.Value)
		}
		if m.Type != ebpf.SkStorage && m.Type != ebpf.Hash {
			t.Errorf("%s: %v", name, m.Type)
		}
	}
}

// TestEveryMapHasItsPlace: each is kept, or renewed with those it speaks of.
func TestEveryMapHasItsPlace(t *testing.T) {
	spec, err := bpf.LoadEgressd()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for name := range spec.Maps {
		if !strings.HasPrefix(name, ".") {
			want = append(want, name)
		}
	}
	got := slices.Concat(append(layout.Renewed[:], layout.Kept)...)
	var pinned []string
	for name := range pinnable(&bpf.EgressdMaps{}) {
		pinned = append(pinned, name)
	}
	for _, list := range [][]string{want, got, pinned} {
		slices.Sort(list)
	}
	if !slices.Equal(got, want) || !slices.Equal(pinned, want) {
		t.Errorf("maps %v\nhave places %v\nare pinned %v", want, got, pinned)
	}
}

// TestLayout: two fields that change places make another layout, and what is
// kept has no part in it.
func TestLayout(t *testing.T) {
	load := func() *ebpf.CollectionSpec {
		spec, err := bpf.LoadEgressd()
		if err != nil {
			t.Fatal(err)
		}
		return spec
	}
	was := layout.Of(load())
	if again := layout.Of(load()); again != was {
		t.Errorf("the same layout is %x and %x", was, again)
	}
	for _, name := range []string{"egd_addrs", "egd_flows", "egd_origins", "egd_ifaces", "egd_workloads"} {
		spec := load()
		of := spec.Maps[name]
		if of.InnerMap != nil {
			of = of.InnerMap
		}
		value := of.Value.(*btf.Struct)
		swapped := *value
		swapped.Members = slices.Clone(value.Members)
		m := swapped.Members
		m[0].Name, m[1].Name = m[1].Name, m[0].Name
		of.Value = &swapped
		if layout.Of(spec) == was {
			t.Errorf("%s: two fields changed places, and the layout is the same", name)
		}
	}
	spec := load()
	spec.Maps["egd_sockets"].ValueSize++
	if layout.Of(spec) != was {
		t.Error("socket storage is part of the layout of the tables")
	}
}
