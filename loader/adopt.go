// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/layout"
	"github.com/egressd/egressd/loader/predecessor"
)

// upgrade is what a start finds, and what it makes of it.
type upgrade struct {
	// old are the maps that are used again.
	old map[string]*ebpf.Map
	// staged are the maps that are made anew although older ones are pinned:
	// these stay pinned until all programs are replaced (see commit).
	staged  map[string]bool
	layout  uint64
	ring    uint32    // egd_config's, of the ring that is used again
	origins *ebpf.Map // see before
}

// openPinned opens the maps that are pinned in dir and decides which are used
// again.
func openPinned(o Options, spec *ebpf.CollectionSpec) (_ *upgrade, err error) {
	dir := o.PinDir
	t := &upgrade{old: map[string]*ebpf.Map{}, staged: map[string]bool{}, layout: layout.Of(spec)}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	for name := range spec.Maps {
		if strings.HasPrefix(name, ".") {
			continue // the constants of one version of the programs
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		switch {
		case err == nil:
			t.old[name] = m
		case !errors.Is(err, os.ErrNotExist):
			return nil, fmt.Errorf("open the pinned map %s: %w", name, err)
		}
	}
	for _, name := range layout.Kept {
		if m := t.old[name]; m != nil {
			// What is open is worth more than the size that was asked for.
			spec.Maps[name].MaxEntries = m.MaxEntries()
			if err := spec.Maps[name].Compatible(m); err != nil {
				return nil, fmt.Errorf("%w: map %s in %s (%s); run \"egressd unload\", which frees the workloads, and start again",
					layout.ErrMismatch, name, dir, err)
			}
		}
	}
	half, err := stagedPins(dir)
	if err != nil {
		return nil, err
	}
	// Pins of a commit that was interrupted are of two versions.
	fits := len(half) == 0 && t.sameLayout(spec)
	for group := range layout.Renewed {
		if group != layout.PolicyTables {
			t.reuse(spec, group, fits)
		}
	}
	t.reuse(spec, layout.PolicyTables, fits && t.has(layout.EventRing) && !o.Renew)
	return t, nil
}

// sameLayout says whether egd_config was written by this layout.
func (t *upgrade) sameLayout(spec *ebpf.CollectionSpec) bool {
	m := t.old["egd_config"]
	if m == nil || spec.Maps["egd_config"].Compatible(m) != nil {
		return false
	}
	var c bpf.EgressdEgdConfig
	if m.Lookup(uint32(0), &c) != nil || c.Layout != t.layout {
		return false
	}
	t.ring = c.Ring
	return true
}

// reuse keeps a group of maps if it is whole and fits, and lets go of it
// otherwise.
func (t *upgrade) reuse(spec *ebpf.CollectionSpec, group int, fits bool) {
	names, found := layout.Renewed[group], 0
	for _, name := range names {
		if m := t.old[name]; m != nil {
			found++
			fits = fits && spec.Maps[name].Compatible(m) == nil
		}
	}
	if found == len(names) && fits {
		return
	}
	for _, name := range names {
		t.staged[name] = found > 0
		if m := t.old[name]; m != nil {
			if name == "egd_origins" {
				t.keepOrigins(spec, m)
			}
			m.Close()
			delete(t.old, name)
		}
	}
}

// has says whether a group of maps is used again.
func (t *upgrade) has(group int) bool { return t.old[layout.Renewed[group][0]] != nil }

func (t *upgrade) close() {
	for _, m := range t.old {
		m.Close()
	}
	if t.origins != nil {
		t.origins.Close()
	}
}

// beginConfig reads egd_config, or makes its entry. Sockets and flows remember
// the epoch of their verdict: a number that was in use before would look as if
// nothing had changed. So it begins with the time in tenths of a second, for
// policy changes are never nearer to each other (in 2038 and each 13.6 years it
// begins again at 0, which older numbers are far from).
func (d *Datapath) beginConfig(t *upgrade) error {
	if t.has(layout.PolicyTables) {
		if err := d.objs.EgdConfig.Lookup(uint32(0), &d.config); err != nil {
			return fmt.Errorf("read egd_config: %w", err)
		}
		return nil
	}
	now := uint32(time.Now().UnixMilli() / 100)
	d.config = bpf.EgressdEgdConfig{Layout: t.layout, Epoch: now, LastSet: now, Ring: now, Accounts: now}
	if t.has(layout.EventRing) {
		d.config.Ring = t.ring
	}
	return d.writeConfig()
}

// pinMaps pins what is new and in nobody's place.
func (d *Datapath) pinMaps(t *upgrade) error {
	for name, m := range pinnable(&d.objs.EgressdMaps) {
		if t.old[name] != nil || t.staged[name] {
			continue
		}
		if err := m.Pin(filepath.Join(d.opts.PinDir, name)); err != nil {
			return fmt.Errorf("pin %s: %w", name, err)
		}
		d.pinned = append(d.pinned, name)
	}
	return nil
}

// keepOrigins keeps the older egd_origins if this version can read it. Its
// layout alone counts, so a version that means something else by a field must
// call it something else.
func (t *upgrade) keepOrigins(spec *ebpf.CollectionSpec, m *ebpf.Map) {
	if t.origins == nil && layout.SameTypes(spec.Maps["egd_origins"], m) {
		t.origins, _ = m.Clone() // without it those connections are refused
	}
}

// Resume makes these programs and tables those at work again, and those that
// the next start finds, after another process may have put its own in their
// place and gave up. Attach and Guard do it then.
func (d *Datapath) Resume() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for index, g := range d.guarded {
		if err := g.close(); err != nil {
			return err
		}
		delete(d.guarded, index)
	}
	d.staged = map[string]bool{}
	for name := range pinnable(&d.objs.EgressdMaps) {
		d.staged[name] = true
	}
	return nil
}

// Adopted says whether Open found programs at work; what they saw: Earlier.
func (d *Datapath) Adopted() bool { return d.adopted }

// AdoptedFlows says whether they saw those of interfaces as well, and what they
// knew of them was taken over.
func (d *Datapath) AdoptedFlows() bool { return d.adoptedFlows }

// Earlier is what the programs that Open found were over.
func (d *Datapath) Earlier() predecessor.EarlierPrograms { return d.earlier }
