// SPDX-License-Identifier: Apache-2.0

package istio

// index finds the entries of a mapping whose keys are data, such as labels:
// they match as they are, and there may be many of them.
type index struct {
	n     *node
	byKey map[string]*field
}

func indexOf(n *node) index {
	x := index{n, make(map[string]*field, len(n.fields))}
	for i := range n.fields {
		x.byKey[n.fields[i].key] = &n.fields[i]
	}
	return x
}

// at returns the value of a key, or the mapping when it has no such key.
func (x index) at(key string) *node {
	if f := x.byKey[key]; f != nil {
		return f.value
	}
	return x.n
}

// keyOf returns the position of a key, or of the mapping.
func (x index) keyOf(key string) *node {
	if f := x.byKey[key]; f != nil {
		return f.pos()
	}
	return x.n
}
