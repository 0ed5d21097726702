// SPDX-License-Identifier: Apache-2.0

package strictyaml

// Entries finds the entries of a mapping whose keys are data, such as labels:
// they match as they are, and there may be many of them.
type Entries struct {
	n     *Node
	byKey map[string]*Field
}

// EntriesOf makes the Entries of a mapping; of anything else they are none.
func EntriesOf(n *Node) Entries {
	x := Entries{n, make(map[string]*Field, len(n.Fields))}
	for i := range n.Fields {
		x.byKey[n.Fields[i].Key] = &n.Fields[i]
	}
	return x
}

// At returns the value of a key, or the mapping when it has no such key.
func (x Entries) At(key string) *Node {
	if f := x.byKey[key]; f != nil {
		return f.Value
	}
	return x.n
}

// KeyOf returns the position of a key, or of the mapping.
func (x Entries) KeyOf(key string) *Node {
	if f := x.byKey[key]; f != nil {
		return f.Pos()
	}
	return x.n
}
