// SPDX-License-Identifier: Apache-2.0

package istio

import "github.com/egressd/egressd/policy/istio/internal/strictyaml"

// index finds the entries of a mapping whose keys are data, such as labels:
// they match as they are, and there may be many of them.
type index struct {
	n     *strictyaml.Node
	byKey map[string]*strictyaml.Field
}

func indexOf(n *strictyaml.Node) index {
	x := index{n, make(map[string]*strictyaml.Field, len(n.Fields))}
	for i := range n.Fields {
		x.byKey[n.Fields[i].Key] = &n.Fields[i]
	}
	return x
}

// at returns the value of a key, or the mapping when it has no such key.
func (x index) at(key string) *strictyaml.Node {
	if f := x.byKey[key]; f != nil {
		return f.Value
	}
	return x.n
}

// keyOf returns the position of a key, or of the mapping.
func (x index) keyOf(key string) *strictyaml.Node {
	if f := x.byKey[key]; f != nil {
		return f.Pos()
	}
	return x.n
}
