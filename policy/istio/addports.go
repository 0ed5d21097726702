// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/egressd/egressd/policy"
)

// SuggestedPort is a port of a ServiceEntry.
type SuggestedPort struct {
	Number         uint16
	Name, Protocol string
}

// AddPorts returns the ServiceEntry that ref names in files, as it is written
// there, with ports added that it does not have. It returns "" when the object
// is not found, or is not for host alone: others would be opened as well.
func AddPorts(files []File, ref policy.Ref, host string, ports []SuggestedPort) string {
	for _, f := range files {
		if f.Name != ref.File {
			continue
		}
		for dec := yaml.NewDecoder(bytes.NewReader(f.Data)); ; {
			var doc yaml.Node
			if dec.Decode(&doc) != nil {
				return ""
			}
			if object := entryAt(&doc, ref); object != nil {
				return withPorts(object, host, ports)
			}
		}
	}
	return ""
}

// entryAt finds the object at the position that ref has.
func entryAt(n *yaml.Node, ref policy.Ref) *yaml.Node {
	if n.Kind == yaml.MappingNode && valueOf(n, "kind").Value == "ServiceEntry" {
		meta := valueOf(n, "metadata")
		namespace := valueOf(meta, "namespace").Value
		if valueOf(meta, "name").Value == ref.Name && (namespace == ref.Namespace || namespace == "") &&
			n.Line <= ref.Line && ref.Line <= lastLine(n) {
			return n
		}
	}
	for _, child := range n.Content {
		if found := entryAt(child, ref); found != nil {
			return found
		}
	}
	return nil
}

func lastLine(n *yaml.Node) int {
	last := n.Line
	for _, child := range n.Content {
		last = max(last, lastLine(child))
	}
	return last
}

// valueOf returns the value of a key, or an empty node.
func valueOf(n *yaml.Node, key string) *yaml.Node {
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i+1]
			}
		}
	}
	return &yaml.Node{}
}

func withPorts(object *yaml.Node, host string, ports []SuggestedPort) string {
	spec := valueOf(object, "spec")
	hosts, has := valueOf(spec, "hosts"), valueOf(spec, "ports")
	if len(hosts.Content) != 1 || hosts.Content[0].Value != host || has.Kind != yaml.SequenceNode {
		return ""
	}
	added := false
	for _, p := range ports {
		if hasPort(has, p.Number) {
			continue
		}
		has.Content = append(has.Content, &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{
			scalar("number"), {Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(int(p.Number))},
			scalar("name"), scalar(p.Name), scalar("protocol"), scalar(p.Protocol),
		}})
		added = true
	}
	if !added {
		return ""
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if enc.Encode(object) != nil || enc.Close() != nil {
		return ""
	}
	return b.String()
}

func hasPort(ports *yaml.Node, number uint16) bool {
	for _, p := range ports.Content {
		if n, err := strconv.Atoi(valueOf(p, "number").Value); err == nil && n == int(number) {
			return true
		}
	}
	return false
}

func scalar(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

// Merge puts the objects of add into a file with those of old: in the place of
// the one of the same kind, name and namespace, or behind all. The error is
// that of a file that is not YAML.
func Merge(old, add []byte) ([]byte, error) {
	return merge(old, add, func(_, doc *yaml.Node) *yaml.Node { return doc })
}

// Widen is Merge where a ServiceEntry that is there keeps its ports, but for those that
// add has as well: those are as add has them.
func Widen(old, add []byte) ([]byte, error) { return merge(old, add, widened) }

// merge writes the objects of two files; both says what becomes of an object that is in
// both.
func merge(old, add []byte, both func(was, doc *yaml.Node) *yaml.Node) ([]byte, error) {
	have, err := nodesOf(old)
	if err != nil {
		return nil, err
	}
	fresh, err := nodesOf(add)
	if err != nil {
		return nil, err
	}
	for _, doc := range fresh {
		at := slices.IndexFunc(have, func(h *yaml.Node) bool { return identity(h) == identity(doc) })
		if at < 0 {
			have = append(have, doc)
		} else {
			have[at] = both(have[at], doc)
		}
	}
	if len(have) == 0 {
		return nil, nil
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	for _, doc := range have {
		if err := enc.Encode(doc); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), enc.Close()
}

// widened is was with the ports of doc, in the order of their numbers.
func widened(was, doc *yaml.Node) *yaml.Node {
	if len(was.Content) == 0 || len(doc.Content) == 0 {
		return doc
	}
	has, more := valueOf(valueOf(was.Content[0], "spec"), "ports"), valueOf(valueOf(doc.Content[0], "spec"), "ports")
	if has.Kind != yaml.SequenceNode || more.Kind != yaml.SequenceNode {
		return doc
	}
	for _, p := range more.Content {
		at, there := slices.BinarySearchFunc(has.Content, portOf(p), func(h *yaml.Node, n int) int { return portOf(h) - n })
		if there {
			has.Content[at] = p
		} else {
			has.Content = slices.Insert(has.Content, at, p)
		}
	}
	return was
}

// portOf is the number of an item of spec.ports.
func portOf(item *yaml.Node) int {
	n, _ := strconv.Atoi(valueOf(item, "number").Value) // 0: there is none
	return n
}

func nodesOf(data []byte) ([]*yaml.Node, error) {
	var out []*yaml.Node
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
		doc := new(yaml.Node)
		switch err := dec.Decode(doc); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, err
		}
		out = append(out, doc)
	}
}

// identity is what an object in Kubernetes is known by.
func identity(doc *yaml.Node) [3]string {
	if len(doc.Content) == 0 {
		return [3]string{}
	}
	object := doc.Content[0]
	meta := valueOf(object, "metadata")
	return [3]string{valueOf(object, "kind").Value, valueOf(meta, "namespace").Value, valueOf(meta, "name").Value}
}
