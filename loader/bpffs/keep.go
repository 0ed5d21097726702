// SPDX-License-Identifier: Apache-2.0

package bpffs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

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

// PinKeeper keeps objects pinned in a directory.
type PinKeeper struct {
	dir string
	// places are the pins as they were when they were known to be right.
	places map[string]place
}

// NewPinKeeper makes a keeper for a directory.
func NewPinKeeper(dir string) *PinKeeper { return &PinKeeper{dir: dir, places: map[string]place{}} }

// Pin is an object that is to be pinned.
type Pin struct {
	Name string
	// is says whether the object at a path is this one.
	is  func(path string) bool
	pin func(path string) error
}

// Keep pins an object that is not there, or that another one is in the place of.
func (k *PinKeeper) Keep(p Pin) (missing bool, err error) {
	path := filepath.Join(k.dir, p.Name)
	at, err := placeOf(path)
	switch {
	case err == nil && k.places[p.Name] == at:
		return false, nil
	case err == nil && p.is(path):
		k.places[p.Name] = at
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
	k.places[p.Name] = at
	return true, nil
}

// PinOfMap is a map that is to be pinned.
func PinOfMap(name string, m *ebpf.Map) Pin {
	id := func(m *ebpf.Map) ebpf.MapID {
		info, err := m.Info()
		if err != nil {
			return 0
		}
		id, _ := info.ID()
		return id
	}
	return Pin{Name: name, is: func(path string) bool {
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

// PinOfLink is a link that is to be pinned.
func PinOfLink(name string, l link.Link) Pin {
	id := func(l link.Link) link.ID {
		info, err := l.Info()
		if err != nil {
			return 0
		}
		return info.ID
	}
	return Pin{Name: name, is: func(path string) bool {
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

// PinOfProgram is a program of which any will do: its pin alone says something.
func PinOfProgram(name string, p *ebpf.Program) Pin {
	return Pin{Name: name, is: func(path string) bool {
		there, err := ebpf.LoadPinnedProgram(path, nil)
		if err != nil {
			return false
		}
		return there.Close() == nil
	}, pin: func(path string) error { return Replace(p, path) }}
}
