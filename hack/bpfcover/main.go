// SPDX-License-Identifier: Apache-2.0

// Bpfcover says which branches of the kernel programs no test reached. It is given
// the programs with a counter in each basic block (hack/bpf-coverage makes them),
// gathers the counters of all copies that are loaded until its standard input
// ends, and prints the lines whose blocks were never run.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// section holds the counters, one byte for each block.
const section = ".data.cov"

// every is how often the counters are read: what a process did in its last moments
// is lost.
const every = 20 * time.Millisecond

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: bpfcover OBJECT < FIFO")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "bpfcover:", err)
		os.Exit(1)
	}
}

func run(object string) error {
	spec, err := ebpf.LoadCollectionSpec(object)
	if err != nil {
		return err
	}
	m := spec.Maps[section]
	if m == nil {
		return fmt.Errorf("%s has no section %s", object, section)
	}
	hit := make([]bool, m.ValueSize)
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(done)
	}()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		case <-time.After(every):
		}
		if err := gather(hit); err != nil {
			return err
		}
	}
	report(os.Stdout, spec, hit)
	return nil
}

// gather adds what the loaded copies have counted.
func gather(hit []bool) error {
	for id, err := ebpf.MapGetNextID(0); ; id, err = ebpf.MapGetNextID(id) {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue // gone meanwhile
		}
		if info, err := m.Info(); err == nil && info.Name == section && int(m.ValueSize()) == len(hit) {
			if b, err := m.LookupBytes(uint32(0)); err == nil {
				for i, n := range b {
					hit[i] = hit[i] || n != 0
				}
			}
		}
		m.Close()
	}
}

// place is a line of the source.
type place struct {
	file string
	line uint32
}

// report prints the lines that were not reached, by file.
func report(w io.Writer, spec *ebpf.CollectionSpec, hit []bool) {
	reached, text := map[place]bool{}, map[place]string{}
	for _, p := range spec.Programs {
		var at *btf.Line
		for i := range p.Instructions {
			ins := &p.Instructions[i]
			if l, ok := ins.Source().(*btf.Line); ok {
				at = l
			}
			if at == nil || !ins.IsLoadFromMap() || ins.Reference() != section {
				continue
			}
			here := place{filepath.Base(at.FileName()), at.LineNumber()}
			reached[here] = reached[here] || hit[offset(ins)]
			text[here] = at.String()
		}
	}
	missed := slices.SortedFunc(func(yield func(place) bool) {
		for p, ok := range reached {
			if !ok && !yield(p) {
				return
			}
		}
	}, func(a, b place) int { return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line)) })
	for _, p := range missed {
		fmt.Fprintf(w, "%s:%d: %s\n", p.file, p.line, text[p])
	}
	fmt.Fprintf(w, "%d of %d places with a branch were reached\n", len(reached)-len(missed), len(reached))
}

// offset is where a counter is in the section.
func offset(ins *asm.Instruction) int { return int(uint64(ins.Constant) >> 32) }
