// SPDX-License-Identifier: Apache-2.0

package allowlist

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Documents is the list as ServiceEntries for the reader of policies. Each object is in
// the line of the list in which its destination stands first, so that what a finding or
// an explanation says of a place is true of the list.
func (l Items) Documents() []byte {
	var b strings.Builder
	at := 1
	for _, o := range l.objects {
		for ; at < o.lines[0]; at++ {
			b.WriteByte('\n')
		}
		// JSON is YAML, and a document may begin behind its marker. Nothing in it
		// fails to be marshalled.
		text, _ := json.Marshal(o.serviceEntry())
		b.WriteString("--- ")
		b.Write(text)
	}
	b.WriteByte('\n')
	return []byte(b.String())
}

// YAML is the list as ServiceEntries for people, "" for an empty one.
func (l Items) YAML() string {
	var b strings.Builder
	for i, o := range l.objects {
		if i > 0 {
			b.WriteString("---\n")
		}
		e := o.serviceEntry()
		fmt.Fprintf(&b, "apiVersion: %s\nkind: %s\nmetadata:\n  name: %s\nspec:\n  hosts:\n  - %q\n", e.APIVersion, e.Kind, e.Metadata.Name, e.Spec.Hosts[0])
		for _, a := range e.Spec.Addresses {
			fmt.Fprintf(&b, "  addresses:\n  - %q\n", a)
		}
		b.WriteString("  ports:\n")
		for _, p := range e.Spec.Ports {
			fmt.Fprintf(&b, "  - number: %d\n    name: %s\n    protocol: %s\n", p.Number, p.Name, p.Protocol)
		}
		fmt.Fprintf(&b, "  resolution: %s\n", e.Spec.Resolution)
	}
	return b.String()
}

// ServiceEntry is what is written of networking.istio.io/v1 ServiceEntry.
type ServiceEntry struct {
	APIVersion string           `json:"apiVersion" yaml:"apiVersion"`
	Kind       string           `json:"kind" yaml:"kind"`
	Metadata   Metadata         `json:"metadata" yaml:"metadata"`
	Spec       ServiceEntrySpec `json:"spec" yaml:"spec"`
}

// Metadata is what an object is known by. Without a Namespace it is in the default one.
type Metadata struct {
	Name      string `json:"name" yaml:"name"`
	Namespace string `json:"namespace,omitempty" yaml:"namespace,omitempty"`

	Annotations map[string]string `json:"annotations,omitempty" yaml:"annotations,omitempty"`
}

// ServiceEntrySpec is the spec of a ServiceEntry.
type ServiceEntrySpec struct {
	Hosts      []string           `json:"hosts" yaml:"hosts"`
	Addresses  []string           `json:"addresses,omitempty" yaml:"addresses,omitempty"`
	Ports      []ServiceEntryPort `json:"ports" yaml:"ports"`
	Resolution string             `json:"resolution" yaml:"resolution"`
	// ExportTo says which namespaces it counts for; nil: what the MeshConfig says,
	// else all.
	ExportTo []string `json:"exportTo,omitempty" yaml:"exportTo,omitempty"`
}

// ServiceEntryPort is a port of a ServiceEntry.
type ServiceEntryPort struct {
	Number   uint16 `json:"number" yaml:"number"`
	Name     string `json:"name" yaml:"name"`
	Protocol string `json:"protocol" yaml:"protocol"`
}

func (o object) serviceEntry() ServiceEntry { return o.Entry(o.name) }

// Entry is the ServiceEntry that an item stands for, under a name. The ports of UDP
// need one of their own, since a number stands once in each.
func (d Item) Entry(name string) ServiceEntry {
	e := ServiceEntry{APIVersion: "networking.istio.io/v1", Kind: "ServiceEntry", Metadata: Metadata{Name: name}}
	switch {
	case d.Prefix.IsValid():
		e.Spec.Addresses = []string{d.Prefix.Addr().String() + bits(d.Prefix)}
		// A ServiceEntry has a host. This one is nobody's: .internal is for private use.
		e.Spec.Hosts, e.Spec.Resolution = []string{name + ".address.internal"}, "NONE"
	case d.Host.IsWildcard():
		e.Spec.Hosts, e.Spec.Resolution = []string{string(d.Host)}, "NONE"
	default:
		e.Spec.Hosts, e.Spec.Resolution = []string{string(d.Host)}, "DNS"
	}
	for _, p := range d.Ports {
		protocol := p.Protocol.String()
		e.Spec.Ports = append(e.Spec.Ports, ServiceEntryPort{p.Number, fmt.Sprintf("%s-%d", strings.ToLower(protocol), p.Number), protocol})
	}
	return e
}

func (l *Items) name(d Item, udp bool) string { return d.Name(l.prefix, udp, l.named) }

// Name is a name for the object of a destination that no other one has, as taken says
// (RFC 1123 subdomain; its first letter is none of the destination's).
func (d Item) Name(prefix string, udp bool, taken func(string) bool) string {
	text := string(d.Host)
	if d.Prefix.IsValid() {
		text = d.Prefix.Addr().StringExpanded() + bits(d.Prefix)
	}
	text = strings.NewReplacer("*", "any", ".", "-", ":", "-", "/", "-", "_", "-").Replace(text)
	text = prefix + "-" + strings.TrimLeft(text, "-")
	text = strings.TrimRight(text[:min(len(text), maxName)], "-")
	if udp {
		text += "-udp"
	}
	name := text
	for n := 2; taken(name); n++ {
		name = fmt.Sprintf("%s-%d", text, n)
	}
	return name
}

// maxName leaves room in 63 bytes, the most that a label of a name has, for what is
// put behind it.
const maxName = 48

func (l *Items) named(name string) bool {
	for _, o := range l.objects {
		if o.name == name {
			return true
		}
	}
	return false
}
