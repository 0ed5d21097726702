// SPDX-License-Identifier: Apache-2.0

package layout

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

var u32, u16 = &btf.Int{Name: "u32", Size: 4}, &btf.Int{Name: "u16", Size: 2}

// collection has one map, with a value of these members.
func collection(name string, members ...btf.Member) *ebpf.CollectionSpec {
	value := &btf.Struct{Name: "value", Size: 8, Members: members}
	return &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{
		name: {Type: ebpf.Hash, KeySize: 4, ValueSize: 8, Key: u32, Value: value},
	}}
}

// TestOf: what changes the number of a layout, and what does not.
func TestOf(t *testing.T) {
	a, b := btf.Member{Name: "a", Type: u32}, btf.Member{Name: "b", Type: u32, Offset: 32}
	was := Of(collection("egd_config", a, b))
	for _, c := range []struct {
		name string
		spec *ebpf.CollectionSpec
		same bool
	}{
		{"nothing", collection("egd_config", a, b), true},
		{"fields change places", collection("egd_config", btf.Member{Name: "b", Type: u32}, btf.Member{Name: "a", Type: u32, Offset: 32}), false},
		{"a field means something else", collection("egd_config", a, btf.Member{Name: "c", Type: u32, Offset: 32}), false},
		{"a field is smaller", collection("egd_config", a, btf.Member{Name: "b", Type: u16, Offset: 32}), false},
		{"the type of a type has a name", collection("egd_config", a, btf.Member{Name: "b", Type: &btf.Typedef{Name: "t", Type: u32}, Offset: 32}), true},
		{"another map of the list", collection("egd_origins", a, b), false},
	} {
		if got := Of(c.spec) == was; got != c.same {
			t.Errorf("%s: the same: %t", c.name, got)
		}
	}
	if Of(collection("egd_sockets", a, b)) != Of(collection("egd_kept")) {
		t.Error("what sockets keep is part of the number, which never changes")
	}
	old := meaning
	defer func() { meaning = old }()
	meaning += "x"
	if Of(collection("egd_config", a, b)) == was {
		t.Error("another meaning has the same number")
	}
}
