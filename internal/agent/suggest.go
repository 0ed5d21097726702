// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Wish is a destination that was denied.
type Wish struct {
	Name      string     // "" when only the address is known
	Addr      netip.Addr // used without a name
	Port      uint16     // 0: unknown, the name was refused before a port was dialled
	Transport policy.Transport
	// Speaks is what the client is known to begin with; unset: the port tells.
	Speaks policy.Protocol
	// Namespace is the workload's; "": the default.
	Namespace string
}

// Suggest writes the ServiceEntry that would allow wishes, which are all for
// one destination.
func Suggest(wishes ...Wish) string {
	w := wishes[0]
	var b strings.Builder
	host, label := w.Name, w.Name
	if host == "" {
		label = strings.Trim(strings.NewReplacer(":", "-", ".", "-").Replace(w.Addr.String()), "-")
		host = label + ".address.internal"
		label = "address-" + label
	}
	fmt.Fprintf(&b, "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: %s\n", objectName(label))
	if w.Namespace != "" && w.Namespace != policy.DefaultNamespace {
		fmt.Fprintf(&b, "  namespace: %s\n", w.Namespace)
	}
	b.WriteString("spec:\n")
	fmt.Fprintf(&b, "  hosts:\n  - %q\n", host)
	if w.Name == "" {
		fmt.Fprintf(&b, "  addresses:\n  - %s\n", w.Addr)
	}
	b.WriteString("  ports:\n")
	suggestPorts(&b, wishes)
	if w.Name == "" {
		b.WriteString("  resolution: NONE\n")
	} else {
		b.WriteString("  resolution: DNS\n")
	}
	return b.String()
}

// suggestPorts writes each port once. A port that is not known is guessed only
// when no other is known. ServiceEntries have one protocol for a port number.
func suggestPorts(b *strings.Builder, wishes []Wish) {
	seen := map[uint16]bool{}
	for _, w := range wishes {
		if w.Port == 0 || seen[w.Port] {
			continue
		}
		seen[w.Port] = true
		b.WriteString(suggestPort(w))
	}
	if len(seen) == 0 {
		b.WriteString("  # the name was refused before a connection was made; adjust the port\n")
		guess := wishes[0]
		guess.Port = 443
		b.WriteString(suggestPort(guess))
	}
}

// Suggestions writes one ServiceEntry for each destination among denials that
// a ServiceEntry can allow.
func Suggestions(denials []Denial) []string {
	byHost := map[string][]Wish{}
	var order []string
	for _, d := range denials {
		if d.Suggestion == "" {
			continue
		}
		host := cmp.Or(d.Name, d.Addr.String())
		if byHost[host] == nil {
			order = append(order, host)
		}
		byHost[host] = append(byHost[host], d.Wish)
	}
	out := make([]string, len(order))
	for i, host := range order {
		out[i] = Suggest(byHost[host]...)
	}
	return out
}

// objectName makes a Kubernetes object name (RFC 1123 subdomain) of a host.
func objectName(host string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r == '.', r == '_':
			return '-'
		}
		return -1
	}, host)
	return strings.Trim(name, "-")
}

// spoken is what a client was seen to begin with, unset when nobody read it or
// the port says as much.
func spoken(e flow.Event) policy.Protocol {
	usual := protocolOfPort(e.Dst.Port())
	switch {
	case e.Proto == "tls" && !usual.IsTLS():
		return policy.ProtocolTLS
	case e.Proto == "http":
		return policy.ProtocolHTTP
	}
	return policy.ProtocolUnset
}

// suggestPort writes an item of spec.ports.
func suggestPort(w Wish) string {
	protocol := w.Speaks
	switch {
	case w.Transport == policy.UDP:
		protocol = policy.ProtocolUDP
	case w.Name == "":
		protocol = policy.ProtocolTCP // neither SNI nor Host would be the name that is made up
	case protocol == policy.ProtocolUnset:
		protocol = protocolOfPort(w.Port)
	}
	return fmt.Sprintf("  - number: %d\n    name: %s-%d\n    protocol: %s\n", w.Port, strings.ToLower(protocol.String()), w.Port, protocol)
}
