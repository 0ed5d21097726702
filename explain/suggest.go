// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/scheme"
)

// DeniedTarget is a destination that was denied.
type DeniedTarget struct {
	Name string // "" when only the address is known
	// Names are all that may be meant when it is not known which; Name is one.
	Names     []string
	Addr      netip.Addr // used without a name
	Port      uint16     // 0: unknown, the name was refused before a port was dialled
	Transport policy.Transport
	// Speaks is what the client is known to begin with; unset: the port tells.
	Speaks policy.Protocol
	// Namespace is the workload's; "": the default.
	Namespace string
}

// Suggest writes the ServiceEntry that would allow what was denied, all of it for
// one destination. A port that is not known is guessed, and the object says so.
func Suggest(denied ...DeniedTarget) string {
	ports := portsOf(denied)
	guessed := len(ports) == 0
	if guessed {
		w := denied[0]
		w.Port = 443
		ports = portsOf([]DeniedTarget{w})
	}
	return suggestion(denied, ports, guessed)
}

func suggestion(denied []DeniedTarget, ports []istio.SuggestedPort, guessed bool) string {
	w := denied[0]
	var b strings.Builder
	host, label := w.Name, w.Name
	if host == "" {
		label = strings.Trim(strings.NewReplacer(":", "-", ".", "-").Replace(w.Addr.String()), "-")
		host = label + ".address.internal"
		label = "address-" + label
	}
	if shared := sharedBy(denied); len(shared) > 0 {
		fmt.Fprintf(&b, "# Which one was meant is not known; they have an address in common: %s\n", strings.Join(shared, ", "))
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
	if guessed {
		b.WriteString("  # the name was refused before a connection was made; adjust the port\n")
	}
	for _, p := range ports {
		b.WriteString(portItem(p))
	}
	if w.Name == "" {
		b.WriteString("  resolution: NONE\n")
	} else {
		b.WriteString("  resolution: DNS\n")
	}
	return b.String()
}

// portsOf are the ports of what was denied, each number once, as ServiceEntries have
// them. TCP comes first: a UDP socket is connected to where TCP will be, to
// find out which addresses can be reached (RFC 6724), and sends nothing.
func portsOf(denied []DeniedTarget) []istio.SuggestedPort {
	denied = slices.Clone(denied)
	slices.SortStableFunc(denied, func(a, b DeniedTarget) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Transport, b.Transport))
	})
	var out []istio.SuggestedPort
	for _, w := range denied {
		if w.Port != 0 && (len(out) == 0 || out[len(out)-1].Number != w.Port) {
			out = append(out, suggestedPort(w))
		}
	}
	return out
}

// sharedBy are the names of what was denied of which only one was meant.
func sharedBy(denied []DeniedTarget) []string {
	var out []string
	for _, w := range denied {
		for _, n := range w.Names {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Suggestions says what would allow a list of denials.
type Suggestions struct {
	// Objects are ServiceEntries in YAML. One that has a name of the policy's
	// is to take the place of that one.
	Objects []string `json:"objects"`
	// Unknown are names that were asked for and never connected to: which port
	// they are for is not known.
	Unknown []string `json:"unknown,omitempty"`
}

// YAML is the suggestions as a file.
func (s Suggestions) YAML() string {
	var b strings.Builder
	for i, o := range s.Objects {
		if i > 0 {
			b.WriteString("---\n")
		}
		b.WriteString(o)
	}
	if len(s.Unknown) > 0 {
		b.WriteString("# Asked for and never connected to, so that no port is known: " + strings.Join(s.Unknown, ", ") + "\n")
	}
	return b.String()
}

// SuggestAll writes one ServiceEntry for each destination among denials that a
// ServiceEntry can allow. Where an object of the policy names the host, and no
// other, that object is written with the ports added. An address that a name
// stands for is never opened by itself. In a mode where connections are let
// pass no port is guessed: each that is needed was seen.
func SuggestAll(denials []Denial, mode policy.Mode, p *policy.Policy, files []istio.File) Suggestions {
	byHost := map[string][]DeniedTarget{}
	var order []string
	for _, d := range denials {
		if !suggestable(d.Reason) || d.Name == "" && !d.Addr.IsValid() || isTechnical(d.Name) {
			continue
		}
		hosts := d.Names
		if len(hosts) == 0 {
			hosts = []string{cmp.Or(d.Name, d.Addr.String())}
		}
		for _, host := range hosts {
			w := d.DeniedTarget
			if len(d.Names) > 0 {
				w.Name = host
			}
			if byHost[host] == nil {
				order = append(order, host)
			}
			byHost[host] = append(byHost[host], w)
		}
	}
	out := Suggestions{Objects: []string{}}
	for _, host := range order {
		denied := byHost[host]
		ports := portsOf(denied)
		switch merged := addTo(p, files, denied, ports); {
		case merged != "":
			out.Objects = append(out.Objects, merged)
		case len(ports) > 0 || mode == policy.Enforce:
			out.Objects = append(out.Objects, Suggest(denied...))
		default:
			out.Unknown = append(out.Unknown, host)
		}
	}
	return out
}

// addTo writes the object that names the host of what was denied with its ports; ""
// when there is none.
func addTo(p *policy.Policy, files []istio.File, denied []DeniedTarget, ports []istio.SuggestedPort) string {
	if p == nil || denied[0].Name == "" || len(ports) == 0 {
		return ""
	}
	h := p.Lookup(denied[0].Name)
	if h == nil || h.Rule == nil || string(h.Pattern) != denied[0].Name {
		return ""
	}
	return istio.AddPorts(files, *h.Rule, denied[0].Name, ports)
}

// isTechnical says whether a name is none of a host: reverse lookups, and those
// of services ("_ldap._tcp.example").
func isTechnical(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if strings.HasPrefix(label, "_") {
			return true
		}
	}
	return strings.HasSuffix(name, ".in-addr.arpa") || strings.HasSuffix(name, ".ip6.arpa")
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
	usual := scheme.ProtocolOfPort(e.Dst.Port())
	switch {
	case e.Proto == "tls" && !usual.IsTLS():
		return policy.ProtocolTLS
	case e.Proto == "http":
		return policy.ProtocolHTTP
	}
	return policy.ProtocolUnset
}

// suggestedPort is the port of a wish.
func suggestedPort(w DeniedTarget) istio.SuggestedPort {
	protocol := w.Speaks
	switch {
	case w.Transport == policy.UDP:
		protocol = policy.ProtocolUDP
	case w.Name == "":
		protocol = policy.ProtocolTCP // neither SNI nor Host would be the name that is made up
	case protocol == policy.ProtocolUnset:
		protocol = scheme.ProtocolOfPort(w.Port)
	}
	return istio.SuggestedPort{
		Number: w.Port, Name: fmt.Sprintf("%s-%d", strings.ToLower(protocol.String()), w.Port), Protocol: protocol.String(),
	}
}

// portItem writes an item of spec.ports.
func portItem(p istio.SuggestedPort) string {
	return fmt.Sprintf("  - number: %d\n    name: %s\n    protocol: %s\n", p.Number, p.Name, p.Protocol)
}
