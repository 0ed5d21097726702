// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// place is where a pin was found to be the right one: it is that as long as it is
// the same inode.
type place struct{ dev, ino uint64 }

func placeOf(path string) (place, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return place{}, err
	}
	return place{st.Dev, st.Ino}, nil
}

// pinned is an object that is to be pinned.
type pinned struct {
	name string
	// is says whether the object at a path is this one.
	is  func(path string) bool
	pin func(path string) error
}

// holdPins sees that everything is pinned that a next start needs: tables first,
// for links without them are no state to adopt.
func (d *Datapath) holdPins() (faults []Loss) {
	var all []pinned
	if len(d.links) == len(d.hooks()) {
		tables := pinnable(&d.objs.EgressdMaps)
		for _, name := range slices.Sorted(maps.Keys(tables)) {
			all = append(all, pinnedMap(name, tables[name]))
		}
		for _, h := range d.hooks() {
			all = append(all, pinnedLink(linkPrefix+h.name, d.links[h.name]))
		}
	}
	filters := false
	for index, g := range d.guards {
		filters = filters || len(g.links) == 0
		for name, l := range g.links {
			all = append(all, pinnedLink(tcPin(name, index), l))
		}
	}
	if filters {
		// Any program of ours will do: its pin says that there are filters.
		all = append(all, pinnedProgram(filterPin, d.objs.EgdTcUplink))
	}
	if d.steers {
		all = append(all, pinnedProgram(steerPin, d.objs.EgdTcFrom))
	}
	for _, p := range all {
		missing, err := d.holdPin(p)
		if missing || err != nil {
			faults = append(faults, Loss{PinFault, p.name, err})
		}
	}
	return faults
}

func (d *Datapath) holdPin(p pinned) (missing bool, err error) {
	path := filepath.Join(d.opts.PinDir, p.name)
	at, err := placeOf(path)
	switch {
	case err == nil && d.places[p.name] == at:
		return false, nil
	case err == nil && p.is(path):
		d.places[p.name] = at
		return false, nil
	case err == nil: // somebody else's is in its place
		if err := os.Remove(path); err != nil {
			return true, fmt.Errorf("replace the pin: %w", err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := p.pin(path); err != nil {
		return true, fmt.Errorf("pin again: %w", err)
	}
	if at, err = placeOf(path); err != nil {
		return true, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	d.places[p.name] = at
	return true, nil
}

func pinnedMap(name string, m *ebpf.Map) pinned {
	id := func(m *ebpf.Map) ebpf.MapID {
		info, err := m.Info()
		if err != nil {
			return 0
		}
		id, _ := info.ID()
		return id
	}
	return pinned{name: name, is: func(path string) bool {
		there, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			return false
		}
		defer there.Close()
		return id(there) == id(m)
	}, pin: func(path string) error {
		c, err := m.Clone() // which has no pin yet, as it believes
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Pin(path)
	}}
}

func pinnedLink(name string, l link.Link) pinned {
	id := func(l link.Link) link.ID {
		info, err := l.Info()
		if err != nil {
			return 0
		}
		return info.ID
	}
	return pinned{name: name, is: func(path string) bool {
		there, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return false
		}
		defer there.Close()
		return id(there) == id(l)
	}, pin: func(path string) error {
		c, err := link.NewFromID(id(l)) // which has no pin yet, as it believes
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Pin(path)
	}}
}

func pinnedProgram(name string, p *ebpf.Program) pinned {
	return pinned{name: name, is: func(path string) bool {
		there, err := ebpf.LoadPinnedProgram(path, nil)
		if err != nil {
			return false
		}
		return there.Close() == nil
	}, pin: func(path string) error { return pinAgain(p, path) }}
}
