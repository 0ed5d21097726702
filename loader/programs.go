// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"reflect"
	"runtime"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
)

// maxLoaders bounds how many programs are verified at a time: each takes
// memory of the kernel's for that.
const maxLoaders = 4

// loaders is how many programs may be verified at a time: as many as there are
// processors, and memory for, which enough is asked about.
func loaders(enough func(n int) bool) int {
	n := min(runtime.GOMAXPROCS(0), maxLoaders)
	for n > 1 && !enough(n) {
		n--
	}
	return n
}

// loadObjects makes the maps but for those in old, and loads the programs, n at a
// time: most of a start is the verifier's time, and the kernel reads programs
// side by side for who may load them (bpf_check takes its lock for others only).
// Programs that spec does not have stay nil.
func loadObjects(objs *bpf.EgressdObjects, spec *ebpf.CollectionSpec, old map[string]*ebpf.Map, n int) error {
	// The variables are the contents of a map, .rodata, which all programs have.
	tables := &ebpf.CollectionSpec{Maps: spec.Maps, Variables: spec.Variables, Types: spec.Types, ByteOrder: spec.ByteOrder}
	made, err := ebpf.NewCollectionWithOptions(tables, ebpf.CollectionOptions{MapReplacements: old})
	if err != nil {
		return err
	}
	defer made.Close()
	names := make([]string, 0, len(spec.Programs))
	for name := range spec.Programs {
		names = append(names, name)
	}
	// What takes long begins first.
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(spec.Programs[b].Instructions), len(spec.Programs[a].Instructions)), cmp.Compare(a, b))
	})
	var mu sync.Mutex
	var all sync.WaitGroup
	loaded, next := map[string]*ebpf.Program{}, 0
	var failed error
	for range n {
		all.Go(func() {
			for {
				mu.Lock()
				if next == len(names) || failed != nil {
					mu.Unlock()
					return
				}
				name := names[next]
				next++
				mu.Unlock()
				p, err := loadProgram(spec, name, made.Maps)
				mu.Lock()
				failed = errors.Join(failed, err)
				loaded[name] = p
				mu.Unlock()
			}
		})
	}
	all.Wait()
	assign(&objs.EgressdPrograms, loaded)
	if failed == nil {
		failed = made.Assign(&objs.EgressdMaps)
	}
	if failed != nil {
		return errors.Join(failed, objs.Close())
	}
	return nil
}

// loadProgram loads one program over maps that there are.
func loadProgram(spec *ebpf.CollectionSpec, name string, tables map[string]*ebpf.Map) (*ebpf.Program, error) {
	one := &ebpf.CollectionSpec{
		Maps: spec.Maps, Programs: map[string]*ebpf.ProgramSpec{name: spec.Programs[name]}, Types: spec.Types, ByteOrder: spec.ByteOrder,
	}
	c, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{MapReplacements: tables})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.DetachProgram(name), nil
}

// assign puts programs into the fields that are tagged with their names.
func assign(to *bpf.EgressdPrograms, programs map[string]*ebpf.Program) {
	v := reflect.ValueOf(to).Elem()
	for i := range v.NumField() {
		if p := programs[v.Type().Field(i).Tag.Get("ebpf")]; p != nil {
			v.Field(i).Set(reflect.ValueOf(p))
		}
	}
}
