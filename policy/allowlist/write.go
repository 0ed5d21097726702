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

// serviceEntry is what is written of networking.istio.io/v1 ServiceEntry.
type serviceEntry struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
	Spec       spec     `json:"spec"`
}

type metadata struct {
	Name string `json:"name"`
}

type spec struct {
	Hosts      []string      `json:"hosts"`
	Addresses  []string      `json:"addresses,omitempty"`
	Ports      []servicePort `json:"ports"`
	Resolution string        `json:"resolution"`
}

type servicePort struct {
	Number   uint16 `json:"number"`
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
}

func (o object) serviceEntry() serviceEntry {
	e := serviceEntry{APIVersion: "networking.istio.io/v1", Kind: "ServiceEntry", Metadata: metadata{o.name}}
	switch {
	case o.Prefix.IsValid():
		e.Spec.Addresses = []string{o.Prefix.Addr().String() + bits(o.Prefix)}
		// A ServiceEntry has a host. This one is nobody's: .internal is for private use.
		e.Spec.Hosts, e.Spec.Resolution = []string{o.name + ".address.internal"}, "NONE"
	case o.Host.IsWildcard():
		e.Spec.Hosts, e.Spec.Resolution = []string{string(o.Host)}, "NONE"
	default:
		e.Spec.Hosts, e.Spec.Resolution = []string{string(o.Host)}, "DNS"
	}
	for _, p := range o.Ports {
		protocol := p.Protocol.String()
		e.Spec.Ports = append(e.Spec.Ports, servicePort{p.Number, fmt.Sprintf("%s-%d", strings.ToLower(protocol), p.Number), protocol})
	}
	return e
}

// name is a name for the object of a destination that no other one has (RFC 1123
// subdomain; its first letter is none of the destination's).
func (l *Items) name(d Item, udp bool) string {
	text := string(d.Host)
	if d.Prefix.IsValid() {
		text = d.Prefix.Addr().StringExpanded() + bits(d.Prefix)
	}
	text = strings.NewReplacer("*", "any", ".", "-", ":", "-", "/", "-", "_", "-").Replace(text)
	text = l.prefix + "-" + strings.TrimLeft(text, "-")
	text = strings.TrimRight(text[:min(len(text), maxName)], "-")
	if udp {
		text += "-udp"
	}
	name := text
	for n := 2; l.named(name); n++ {
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
