// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"strconv"

	"go.yaml.in/yaml/v3"
)

// What is here makes of a file what the Kubernetes API server makes of it. It
// reads YAML 1.1 (sigs.k8s.io/yaml), the library YAML 1.2: without this a file
// could mean one thing to a cluster and another one to egressd.

// oldBool reads the booleans that only YAML 1.1 has: yes, no, on, off, y, n.
func oldBool(y *yaml.Node) (v, ok bool) {
	plain := y.Style == 0 && y.ShortTag() == "!!str"
	if !plain && y.ShortTag() != "!!bool" {
		return false, false
	}
	switch y.Value {
	case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON":
		return true, true
	case "n", "N", "no", "No", "NO", "off", "Off", "OFF":
		return false, true
	}
	return false, false
}

// key is the text of a mapping's key: JSON has strings alone, so numbers and
// booleans become the text of their value.
func (b *builder) key(k *yaml.Node) (string, bool) {
	n := &Node{}
	failed := b.failed
	b.failed = false
	b.scalar(n, k)
	bad := b.failed
	b.failed = failed || bad
	switch v := n.Value.(type) {
	case int64:
		return strconv.FormatInt(v, 10), !bad
	case uint64:
		return strconv.FormatUint(v, 10), !bad
	case bool:
		return strconv.FormatBool(v), !bad
	case float64:
		switch s := strconv.FormatFloat(v, 'g', -1, 32); s {
		case "+Inf":
			return ".inf", !bad
		case "-Inf":
			return "-.inf", !bad
		case "NaN":
			return ".nan", !bad
		default:
			return s, !bad
		}
	}
	if n.IsNull() {
		b.fail(k, "a key must be a string, got null")
		return "", false
	}
	return n.Text, !bad
}

// mergeAfter refuses a merge key that sets again what the mapping or another
// merge key before it has set: here the first one would count, and for the API
// server the last one does.
func (b *builder) mergeAfter(k *yaml.Node, seen map[string]int, before, sources []*Node) {
	for _, m := range sources {
		for i := range m.Fields {
			key := m.Fields[i].Key
			_, dup := seen[key]
			for _, other := range before {
				dup = dup || other.Field(key) != nil
			}
			if dup {
				b.fail(k, "the merge key sets %q again; write << before what is to differ from it, and once", key)
				return
			}
		}
	}
}

// mergeSources returns the mappings that a merge key ("<<") takes fields from.
func (b *builder) mergeSources(y *yaml.Node, v *Node) []*Node {
	if v.Kind == Mapping {
		return []*Node{v}
	}
	if v.Kind == List {
		for _, item := range v.Items {
			if item.Kind != Mapping {
				b.fail(y, "a merge key takes mappings")
				return nil
			}
		}
		return v.Items
	}
	b.fail(y, "a merge key takes mappings")
	return nil
}
