// SPDX-License-Identifier: Apache-2.0

package bpffs

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// LinkPrefix distinguishes pinned links from pinned maps.
const LinkPrefix = "link_"

// PinClone pins a map, which may have been pinned and renamed before: a Map
// remembers where, and would not pin there again.
func PinClone(m *ebpf.Map, at string) error {
	c, err := m.Clone()
	if err != nil {
		return err
	}
	return errors.Join(c.Pin(at), c.Close())
}

// Replace pins a program in the place of the one that is pinned there, whose
// maps would live on with it.
func Replace(p *ebpf.Program, path string) error {
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
