// SPDX-License-Identifier: Apache-2.0

package tables

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

func (p proof) key(k KnownKey) (NameKey, error) {
	out := NameKey{Policy: k.Policy, Port: p.port, Len: uint16(len(p.name)), Addr: k.Addr}
	if len(p.name) >= len(out.Name) {
		return out, fmt.Errorf("%w: %d bytes", errNameLength, len(p.name))
	}
	copy(out.Name[:], p.name)
	return out, nil
}

func add(m map[KnownKey]map[proof]bool, k KnownKey, p proof) {
	if m[k] == nil {
		m[k] = map[proof]bool{}
	}
	m[k][p] = true
}

// addProofs writes the names that address k proves; those that it proved
// before stay until dropProofs.
func (t *Tables) addProofs(k KnownKey, names map[proof]bool) error {
	for p := range names {
		if t.proofs[k][p] {
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
		add(t.proofs, k, p)
	}
	return nil
}

// dropProofs removes the names of address k that are not to be kept.
func (t *Tables) dropProofs(k KnownKey, keep func(proof) bool) error {
	for p := range maps.Clone(t.proofs[k]) {
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
		delete(t.proofs[k], p)
	}
	if len(t.proofs[k]) == 0 {
		delete(t.proofs, k)
	}
	return nil
}
