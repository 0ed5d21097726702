// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"errors"
	"fmt"
	"maps"
)

// serverName is a name that is allowed at an address on a port (network order).
type serverName struct {
	port uint16
	name string
}

// errNameLength: a name that cannot be in a ClientHello either.
var errNameLength = errors.New("name too long")

func (p serverName) key(k KnownKey) (NameKey, error) {
	out := NameKey{Policy: k.Policy, Port: p.port, Len: uint16(len(p.name)), Addr: k.Addr}
	if len(p.name) >= len(out.Name) {
		return out, fmt.Errorf("%w: %d bytes", errNameLength, len(p.name))
	}
	copy(out.Name[:], p.name)
	return out, nil
}

func add(m map[KnownKey]map[serverName]bool, k KnownKey, p serverName) {
	if m[k] == nil {
		m[k] = map[serverName]bool{}
	}
	m[k][p] = true
}

// addServerNames writes the names that address k allows; those that it allowed
// before stay until dropServerNames.
func (t *Tables) addServerNames(k KnownKey, names map[serverName]bool) error {
	for p := range names {
		if t.serverNames[k][p] {
			continue
		}
		key, err := p.key(k)
		if err != nil {
			return err
		}
		one := uint32(1)
		if err := t.stores.Names.Put(&key, &one); err != nil {
			return err
		}
		add(t.serverNames, k, p)
	}
	return nil
}

// dropServerNames removes the names of address k that are not to be kept.
func (t *Tables) dropServerNames(k KnownKey, keep func(serverName) bool) error {
	for p := range maps.Clone(t.serverNames[k]) {
		if keep(p) {
			continue
		}
		key, err := p.key(k)
		if err != nil {
			return err
		}
		if err := t.stores.Names.Remove(&key); err != nil {
			return err
		}
		delete(t.serverNames[k], p)
	}
	if len(t.serverNames[k]) == 0 {
		delete(t.serverNames, k)
	}
	return nil
}
