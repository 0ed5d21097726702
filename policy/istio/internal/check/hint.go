// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// HostHint says what somebody wrote in the place of a host, and what to write
// instead; "" when that is not known.
func HostHint(s string) string {
	switch {
	case strictyaml.IsUnrendered(s):
		return fmt.Sprintf("%q is %s", s, strictyaml.Unrendered)
	case strings.Contains(s, "://"):
		return urlHint(s)
	case strings.ContainsAny(s, ", ;\t\n"):
		return fmt.Sprintf("%q is not one name: names have no spaces and commas; write each as an item of its own", s)
	}
	if _, err := netip.ParsePrefix(s); err == nil {
		return fmt.Sprintf("%q is a network: write it under addresses, with resolution NONE, and a name that you make up under hosts, as in network.internal", s)
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return fmt.Sprintf("%q is an address: write %s under addresses, with resolution NONE and the ports as TCP, and a name that you make up under hosts, as in server.internal", s, a)
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return fmt.Sprintf("%q is an address with a port: write %s under addresses, with resolution NONE, %d under ports as TCP, and a name that you make up under hosts, as in server.internal", s, ap.Addr(), ap.Port())
	}
	if name, _, ok := strings.Cut(s, "/"); ok {
		name, _, _ = strings.Cut(name, ":")
		return fmt.Sprintf("%q has a path: write %q here; only a VirtualService looks at paths (http.match.uri), and only where the port is HTTP", s, name)
	}
	if name, port, ok := strings.Cut(s, ":"); ok && IsNumber(port) {
		return fmt.Sprintf("%q has a port: write %q here, and number: %s under ports", s, name, port)
	}
	if i := strings.LastIndex(s, "*"); i > 0 {
		if dot := strings.Index(s[i:], "."); dot >= 0 {
			return fmt.Sprintf("%q has a * that is not its beginning: list the names, or write %q, which opens more", s, "*"+s[i+dot:])
		}
	}
	return ""
}

// urlHint is the hint for a URL. It is not parsed as one: whatever is wrong
// with it, the host stands between the scheme and the path.
func urlHint(s string) string {
	scheme, rest, _ := strings.Cut(s, "://")
	name, _, _ := strings.Cut(rest, "/")
	if _, after, ok := strings.Cut(name, "@"); ok {
		name = after
	}
	port := map[string]string{"http": "80", "https": "443", "ws": "80", "wss": "443"}[strings.ToLower(scheme)]
	if n, p, ok := strings.Cut(name, ":"); ok {
		name, port = n, p
	}
	hint := fmt.Sprintf("%q is a URL: write %q here", s, name)
	if port != "" {
		hint += fmt.Sprintf(", and number: %s under ports", port)
	}
	return hint
}

// ValueHint says what to write where a value of another type is wanted.
func ValueHint(n *strictyaml.Node, where, want string) string {
	scalar := n.Kind == strictyaml.Scalar && !n.IsNull()
	field := where[strings.LastIndexByte(where, '.')+1:]
	switch {
	case want == "a string" && scalar:
		return "; put it in quotes"
	case scalar && strictyaml.IsUnrendered(n.Text):
		return ", which is " + strictyaml.Unrendered
	case want == "a list" && scalar:
		return "; write it as an item: - " + n.Text
	case want == "a list" && n.Kind == strictyaml.Mapping:
		return "; write it as an item, whose first line begins with -"
	case want == "a whole number" && portRange.MatchString(n.Text):
		return "; there are no ranges of ports: write an item for each that is needed"
	case want != "a mapping" || !scalar:
		return ""
	}
	switch field {
	case "uri", "scheme", "method", "authority":
		return fmt.Sprintf("; write {exact: %q}, {prefix: %q} or {regex: ...}", n.Text, n.Text)
	case "port":
		return fmt.Sprintf("; write {number: %s}", n.Text)
	case "endpoints":
		return "; write - address: " + n.Text
	}
	return ""
}

var portRange = regexp.MustCompile(`^[0-9]+ *[-:,] *[0-9]+$`)

// addressHint says what was written in the place of an address, and what to
// write. Ports are to be written at the place that is named.
func addressHint(s, ports string) string {
	if strictyaml.IsUnrendered(s) {
		return ", it is " + strictyaml.Unrendered
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return fmt.Sprintf("; write %s here, and %d %s", ap.Addr(), ap.Port(), ports)
	}
	if from, to, ok := strings.Cut(s, "-"); ok {
		_, err1 := netip.ParseAddr(strings.TrimSpace(from))
		_, err2 := netip.ParseAddr(strings.TrimSpace(to))
		if err1 == nil && err2 == nil {
			return "; a range is written as networks, as in 10.0.0.0/24"
		}
	}
	if _, err := Domain(s); err == nil {
		return "; a name belongs under hosts"
	}
	return ""
}

// EndpointHint is addressHint for the endpoint of a service that is not
// resolved.
func EndpointHint(s string) string {
	if _, err := Domain(s); err == nil {
		return "; a name needs resolution: DNS"
	}
	return addressHint(s, "under the endpoint's ports, by the name of the port")
}

// ProtocolHint says what to write for a protocol that there is not.
func ProtocolHint(s string) string {
	switch strings.ToUpper(s) {
	case "SSL", "MTLS", "FTPS", "LDAPS", "SMTPS", "IMAPS", "AMQPS", "REDISS":
		return "; write TLS"
	case "WS", "H2C", "HTTP1", "HTTP/1.1", "REST":
		return "; write HTTP"
	case "WSS", "HTTP3", "H2":
		return "; write HTTPS"
	case "QUIC", "DTLS", "DNS", "NTP":
		return "; write UDP"
	case "GRPCS":
		return "; write TLS"
	}
	if s != "" && !strictyaml.IsUnrendered(s) {
		return "; write one of HTTP, HTTP2, GRPC, HTTPS, TLS, TCP, UDP (TCP for databases, SSH, SMTP and all that begins in clear text)"
	}
	if strictyaml.IsUnrendered(s) {
		return ", which is " + strictyaml.Unrendered
	}
	return ""
}

// PortNameHint is what is wrong with the name of a port, and a good one.
func PortNameHint(name, protocol string, number uint32) string {
	example := fmt.Sprintf("%s-%d", strings.ToLower(protocol), number)
	switch {
	case number == 0:
		example = "https"
	case !IsPortName(example):
		example = fmt.Sprintf("port-%d", number)
	}
	if name == "" {
		return fmt.Sprintf("port %d has no name: give it one, as in name: %s", number, example)
	}
	return fmt.Sprintf("invalid port name: %s; use letters, digits and '-', at most 63, as in %s", name, example)
}
