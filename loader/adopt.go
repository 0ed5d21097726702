// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/egressd/egressd/bpf"
)

// kept are the maps whose entries belong to sockets that are open: whatever
// they hold is taken over by every version, so their layout never changes.
var kept = []string{"egd_sockets", "egd_hellos", "egd_recent", "egd_rewrites", "egd_dialled", "egd_kept"}

// renewed are the other maps. Those of one line speak of each other, so that
// they are taken over together or made anew together; the first line has what
// the policy says, which the loader fills before the programs see it, and what
// the programs publish in its numbers.
var renewed = [...][]string{
	policyTables: {
		"egd_config", "egd_workloads", "egd_captured", "egd_beside", "egd_addrs", "egd_known", "egd_cidrs",
		"egd_endpoints", "egd_names", "egd_ifaces", "egd_origins", "egd_usage", "egd_listeners",
		"egd_own", "egd_devices",
	},
	eventRing:    {"egd_events"},
	flowTables:   {"egd_flows", "egd_flow_hello", "egd_flow_bytes", "egd_shares"},
	peerTables:   {"egd_peers"},
	counterTable: {"egd_counters"},
}

// The lines of renewed.
const (
	policyTables = iota
	eventRing
	flowTables
	peerTables
	counterTable
)

// meaning is part of the layout: it is raised when what the maps of renewed
// hold means something else than before although it looks the same. A build may
// set it (-ldflags -X), for tests of upgrades.
var meaning = "1"

// layoutOf is a number for the form of keys and values: two versions with the
// same one can use each other's maps. Sizes alone don't tell (two fields that
// changed places).
func layoutOf(spec *ebpf.CollectionSpec) uint64 {
	h := fnv.New64a()
	fmt.Fprintln(h, meaning)
	for _, names := range renewed {
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

// takeover is what a start finds, and what it makes of it.
type takeover struct {
	// old are the maps that are used again.
	old map[string]*ebpf.Map
	// waiting are the maps that are made anew although older ones are pinned:
	// these stay pinned until all programs are replaced (see commit).
	waiting map[string]bool
	layout  uint64
	ring    uint32    // egd_config's, of the ring that is used again
	origins *ebpf.Map // see before
}

// lookAround opens the maps that are pinned in dir and decides which are used
// again.
func lookAround(o Options, spec *ebpf.CollectionSpec) (_ *takeover, err error) {
	dir := o.PinDir
	t := &takeover{old: map[string]*ebpf.Map{}, waiting: map[string]bool{}, layout: layoutOf(spec)}
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
	for _, name := range kept {
		if m := t.old[name]; m != nil {
			// What is open is worth more than the size that was asked for.
			spec.Maps[name].MaxEntries = m.MaxEntries()
			if err := spec.Maps[name].Compatible(m); err != nil {
				return nil, fmt.Errorf("%w: map %s in %s (%s); run \"egressd unload\", which frees the workloads, and start again",
					ErrABIMismatch, name, dir, err)
			}
		}
	}
	half, err := waitingPins(dir)
	if err != nil {
		return nil, err
	}
	// Pins of a commit that was interrupted are of two versions.
	fits := len(half) == 0 && t.sameLayout(spec)
	for group := range renewed {
		if group != policyTables {
			t.take(spec, group, fits)
		}
	}
	t.take(spec, policyTables, fits && t.has(eventRing) && !o.Renew)
	return t, nil
}

// sameLayout says whether egd_config was written by this layout.
func (t *takeover) sameLayout(spec *ebpf.CollectionSpec) bool {
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

// take keeps a group of maps if it is whole and fits, and lets go of it
// otherwise.
func (t *takeover) take(spec *ebpf.CollectionSpec, group int, fits bool) {
	names, found := renewed[group], 0
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
		t.waiting[name] = found > 0
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
func (t *takeover) has(group int) bool { return t.old[renewed[group][0]] != nil }

func (t *takeover) close() {
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
func (d *Datapath) beginConfig(t *takeover) error {
	if t.has(policyTables) {
		if err := d.objs.EgdConfig.Lookup(uint32(0), &d.config); err != nil {
			return fmt.Errorf("read egd_config: %w", err)
		}
		return nil
	}
	now := uint32(time.Now().UnixMilli() / 100)
	d.config = bpf.EgressdEgdConfig{Layout: t.layout, Epoch: now, LastSet: now, Ring: now, Accounts: now}
	if t.has(eventRing) {
		d.config.Ring = t.ring
	}
	return d.writeConfig()
}

// waitPrefix is of maps that are about to replace pinned ones. Names of pins
// have no dots.
const waitPrefix = "new_"

// waitingPins are the pins of a commit that was interrupted.
func waitingPins(dir string) (map[string]bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the pin directory: %w", err)
	}
	out := map[string]bool{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), waitPrefix) {
			out[e.Name()] = true
		}
	}
	return out, nil
}

// pinMaps pins what is new and in nobody's place.
func (d *Datapath) pinMaps(t *takeover) error {
	for name, m := range pinnable(&d.objs.EgressdMaps) {
		if t.old[name] != nil || t.waiting[name] {
			continue
		}
		if err := m.Pin(filepath.Join(d.opts.PinDir, name)); err != nil {
			return fmt.Errorf("pin %s: %w", name, err)
		}
		d.pinned = append(d.pinned, name)
	}
	return nil
}

// commit makes the maps that the programs use now those that the next start
// finds, and removes what this version does not have. The programs of all links
// have been replaced. While it is at work there is a pin with waitPrefix, by
// which the next start knows that it was interrupted.
func (d *Datapath) commit() error {
	names, err := d.pinWaiting()
	if err != nil {
		return err
	}
	if err := d.putInPlace(names); err != nil {
		return err
	}
	d.waiting = nil
	return d.dropOthers()
}

// pinWaiting pins the maps that are to replace others beside these.
func (d *Datapath) pinWaiting() (names []string, err error) {
	dir := d.opts.PinDir
	stale, err := waitingPins(dir)
	if err != nil {
		return nil, err
	}
	all := pinnable(&d.objs.EgressdMaps)
	names = slices.Sorted(maps.Keys(d.waiting))
	// Those whose name is free come first: the stale ones then go one by one.
	slices.SortStableFunc(names, func(x, y string) int {
		taken := func(name string) int {
			if stale[waitPrefix+name] {
				return 1
			}
			return 0
		}
		return cmp.Compare(taken(x), taken(y))
	})
	for _, name := range names {
		at := filepath.Join(dir, waitPrefix+name)
		if stale[waitPrefix+name] {
			if err := os.Remove(at); err != nil {
				return nil, fmt.Errorf("replace a pin: %w", err)
			}
		}
		if err := pinClone(all[name], at); err != nil {
			return nil, fmt.Errorf("pin %s: %w", name, err)
		}
	}
	return names, nil
}

// pinClone pins a map, which may have been pinned and renamed before: a Map
// remembers where, and would not pin there again.
func pinClone(m *ebpf.Map, at string) error {
	c, err := m.Clone()
	if err != nil {
		return err
	}
	return errors.Join(c.Pin(at), c.Close())
}

// putInPlace replaces the pins of older maps.
func (d *Datapath) putInPlace(names []string) error {
	dir := d.opts.PinDir
	for _, name := range names {
		if err := os.Rename(filepath.Join(dir, waitPrefix+name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("replace a pin: %w", err)
		}
	}
	return nil
}

// dropOthers removes the pins of maps and links of cgroups that another version
// had and this one has not. Links of interfaces: ForgetOtherInterfaces.
func (d *Datapath) dropOthers() error {
	entries, err := os.ReadDir(d.opts.PinDir)
	if err != nil {
		return fmt.Errorf("read the pin directory: %w", err)
	}
	known := map[string]bool{}
	for name := range pinnable(&d.objs.EgressdMaps) {
		known[name] = true
	}
	for _, h := range d.hooks() {
		known[linkPrefix+h.name] = true
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		ours := strings.HasPrefix(name, "egd_") || strings.HasPrefix(name, waitPrefix) ||
			strings.HasPrefix(name, linkPrefix) && !strings.HasPrefix(name, linkPrefix+tcPrefix)
		if ours && !known[name] {
			errs = append(errs, os.Remove(filepath.Join(d.opts.PinDir, name)))
		}
	}
	return errors.Join(errs...)
}

// pinAgain pins a program in the place of the one that is pinned there, whose
// maps would live on with it.
func pinAgain(p *ebpf.Program, path string) error {
	next := filepath.Join(filepath.Dir(path), "next_"+filepath.Base(path))
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// A clone, for a Program remembers its pin, and would not pin there again.
	c, err := p.Clone()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Pin(next); err != nil {
		return err
	}
	return os.Rename(next, path)
}
