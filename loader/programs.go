// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
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
// Programs that spec does not have stay nil. beside is called as soon as there
// are the maps, and runs while programs are loaded; nil: nothing.
func loadObjects(objs *bpf.EgressdObjects, spec *ebpf.CollectionSpec, old map[string]*ebpf.Map, n int, beside func() error) error {
	// The variables are the contents of a map, .rodata, which all programs have.
	tables := &ebpf.CollectionSpec{Maps: spec.Maps, Variables: spec.Variables, Types: spec.Types, ByteOrder: spec.ByteOrder}
	made, err := ebpf.NewCollectionWithOptions(tables, ebpf.CollectionOptions{MapReplacements: old})
	if err != nil {
		return err
	}
	defer made.Close()
	all := maps.Clone(made.Maps) // Assign takes what has a field
	if err := made.Assign(&objs.EgressdMaps); err != nil {
		return errors.Join(err, objs.Close())
	}
	var work sync.WaitGroup
	var besideErr error
	if beside != nil {
		work.Go(func() { besideErr = beside() })
	}
	q := newQueue(spec, all)
	for range n {
		work.Go(q.work)
	}
	work.Wait()
	assign(&objs.EgressdPrograms, q.loaded)
	if err := errors.Join(besideErr, q.err); err != nil {
		return errors.Join(err, objs.Close())
	}
	return nil
}

// queue are the programs that are still to be loaded.
type queue struct {
	spec   *ebpf.CollectionSpec
	tables map[string]*ebpf.Map

	mu     sync.Mutex
	names  []string // those that take long first
	loaded map[string]*ebpf.Program
	err    error
}

func newQueue(spec *ebpf.CollectionSpec, tables map[string]*ebpf.Map) *queue {
	q := &queue{spec: spec, tables: tables, loaded: map[string]*ebpf.Program{}}
	q.names = slices.SortedFunc(maps.Keys(spec.Programs), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(spec.Programs[b].Instructions), len(spec.Programs[a].Instructions)), cmp.Compare(a, b))
	})
	return q
}

// work loads programs until there are none left, or one was refused.
func (q *queue) work() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.names) > 0 && q.err == nil {
		name := q.names[0]
		q.names = q.names[1:]
		q.mu.Unlock()
		p, err := loadProgram(q.spec.Programs[name], q.tables)
		q.mu.Lock()
		if err != nil {
			q.err = errors.Join(q.err, fmt.Errorf("program %s: %w", name, err))
			continue
		}
		q.loaded[name] = p
	}
}

// loadProgram loads one program over tables that there are.
func loadProgram(spec *ebpf.ProgramSpec, tables map[string]*ebpf.Map) (*ebpf.Program, error) {
	spec = spec.Copy()
	for i := range spec.Instructions {
		ins := &spec.Instructions[i]
		name := ins.Reference()
		if !ins.IsLoadFromMap() || name == "" {
			continue
		}
		m := tables[name]
		if m == nil {
			return nil, fmt.Errorf("it refers to %s, which was not made", name)
		}
		if err := ins.AssociateMap(m); err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
	}
	return ebpf.NewProgram(spec)
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
