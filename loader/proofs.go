// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
)

// proof is a name that an address proves on a port (network order).
type proof struct {
	port uint16
	name string
}

// errNameLength: a name that cannot be in a ClientHello either.
var errNameLength = errors.New("name too long")

func (p proof) key(k knownKey) (nameKey, error) {
	out := nameKey{Policy: k.Policy, Port: p.port, Len: uint16(len(p.name)), Addr: k.Addr}
	if len(p.name) >= len(out.Name) {
		return out, fmt.Errorf("%w: %d bytes", errNameLength, len(p.name))
	}
	copy(out.Name[:], p.name)
	return out, nil
}

func add(m map[knownKey]map[proof]bool, k knownKey, p proof) {
	if m[k] == nil {
		m[k] = map[proof]bool{}
	}
	m[k][p] = true
}

// addProofs writes the names that address k proves; those that it proved
// before stay until dropProofs.
func (d *Datapath) addProofs(k knownKey, names map[proof]bool) error {
	t := &d.tables
	for p := range names {
		if t.proofs[k][p] {
			continue
		}
		key, err := p.key(k)
		if err != nil {
			return err
		}
		one := uint32(1)
		if err := d.grown.names.put(&key, &one); err != nil {
			return err
		}
		add(t.proofs, k, p)
	}
	return nil
}

// dropProofs removes the names of address k that neither keeps.
func (d *Datapath) dropProofs(k knownKey, learned, named map[proof]bool) error {
	t := &d.tables
	for p := range maps.Clone(t.proofs[k]) {
		if learned[p] || named[p] {
			continue
		}
		key, err := p.key(k)
		if err != nil {
			return err
		}
		if err := d.grown.names.remove(&key); err != nil {
			return err
		}
		delete(t.proofs[k], p)
	}
	if len(t.proofs[k]) == 0 {
		delete(t.proofs, k)
	}
	return nil
}
