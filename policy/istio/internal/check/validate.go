// SPDX-License-Identifier: Apache-2.0

// Package check has the checks of single values, as the API server and Istio's
// validation do them, and what to write instead of common mistakes.
package check

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// Checker checks values as Istio's validation does, and says what is wrong with
// them.
type Checker struct{ strictyaml.Reporter }

var numberForm = regexp.MustCompile(`^[0-9]+$`)

// IsNumber says whether s has digits and nothing else.
func IsNumber(s string) bool { return numberForm.MatchString(s) }

// IsLabel says whether s is a DNS-1123 label.
func IsLabel(s string) bool { return len(s) <= 63 && isLongLabel(s) }

// isLongLabel is isLabel without the limit of its length, which Kubernetes
// does not have for the parts of a name.
func isLongLabel(s string) bool {
	for i := range len(s) {
		c := s[i]
		if alnum := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'; !alnum && (c != '-' || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return s != ""
}

// isWildcardLabel says whether s is what a host may begin with.
func isWildcardLabel(s string) bool {
	if rest, ok := strings.CutPrefix(s, "*"); ok {
		rest = strings.TrimPrefix(rest, "-")
		return s == "*" || len(s) <= 63 && IsLabel(rest)
	}
	return IsLabel(s)
}

// IsPortName says whether s is a name as Istio's validation takes it for
// ports and subsets: like isLabel, but upper case is good.
func IsPortName(s string) bool { return IsLabel(strings.ToLower(s)) }

// IsSubdomain says whether s is a DNS-1123 subdomain as the API server has it
// for most names.
func IsSubdomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLongLabel(label) {
			return false
		}
	}
	return true
}

// Domain parses a host, wildcard or not, as Istio's validation does: each
// label is a DNS-1123 label, whatever its case.
func Domain(s string) (hostname.Pattern, error) {
	h, err := hostname.ParsePattern(s)
	if err != nil {
		if hint := HostHint(s); hint != "" {
			return "", errors.New(hint)
		}
		return "", err
	}
	last := string(h)[strings.LastIndexByte(string(h), '.')+1:]
	if IsNumber(last) {
		if hint := HostHint(s); hint != "" {
			return "", errors.New(hint)
		}
		return "", fmt.Errorf("domain name %q invalid (top level domain %q cannot be all-numeric)", s, last)
	}
	first := true
	for label := range strings.SplitSeq(string(h), ".") {
		good := IsLabel(label) || first && isWildcardLabel(label)
		first = false
		if !good {
			hint := ""
			if strings.Contains(label, "_") {
				hint = "; write a wildcard above it, which opens names with '_' as well"
			}
			return "", fmt.Errorf("domain name %q invalid (label %q invalid)%s", s, label, hint)
		}
	}
	return h, nil
}

// FQDN parses a host that is not a wildcard.
func FQDN(s string) (string, error) {
	h, err := Domain(s)
	if err == nil && h.IsWildcard() {
		err = fmt.Errorf("%q is a wildcard", s)
	}
	return string(h), err
}

// HostOrIP parses a host as VirtualServices and Gateways write it: a domain,
// a wildcard, or an address.
func HostOrIP(s string) (hostname.Pattern, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return "", fmt.Errorf("%q is not a plain IPv4 or IPv6 address", s)
		}
		return hostname.Pattern(a.String()), nil
	}
	return Domain(s)
}

// IsPartialWildcard says whether the * of h is a part of a label, as in *-a.b.
func IsPartialWildcard(h hostname.Pattern) bool {
	return len(h) > 1 && h.IsWildcard() && h[1] != '.'
}

// Port checks a port number. 0 is returned after an error.
func (o *Checker) Port(n *strictyaml.Node, where string, number uint32) uint16 {
	if number < 1 || number > 65535 {
		hint := ""
		if number == 0 && where == "number" {
			hint = "; there is no number for all ports: write an item for each that is needed"
		}
		o.Errorf(n, "%s: port number %d must be in the range 1..65535%s", where, number, hint)
		return 0
	}
	return uint16(number)
}

// Duration checks a duration as Istio does (at least 1 ms, whole ms).
func (o *Checker) Duration(n *strictyaml.Node, where string, d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	if err := d.CheckValid(); err != nil {
		o.Errorf(n, "%s: %s", where, err)
		return 0
	}
	v := d.AsDuration()
	switch {
	case v < time.Millisecond:
		o.Errorf(n, "%s: duration must be greater than 1ms", where)
	case v%time.Millisecond != 0:
		o.Errorf(n, "%s: only durations to ms precision are supported", where)
	}
	return v
}

// ProtocolOf maps Istio's protocol names (case-insensitive). Database
// protocols are opaque to egressd; gRPC-Web is HTTP with another body.
func ProtocolOf(s string) (policy.Protocol, bool) {
	switch strings.ToUpper(s) {
	case "":
		return policy.ProtocolUnset, true
	case "HTTP", "GRPC-WEB":
		return policy.ProtocolHTTP, true
	case "HTTP2":
		return policy.ProtocolHTTP2, true
	case "GRPC":
		return policy.ProtocolGRPC, true
	case "HTTPS":
		return policy.ProtocolHTTPS, true
	case "TLS":
		return policy.ProtocolTLS, true
	case "TCP", "MONGO", "REDIS", "MYSQL":
		return policy.ProtocolTCP, true
	case "UDP":
		return policy.ProtocolUDP, true
	}
	return 0, false
}

// Regex checks an RE2 regular expression as Istio does.
func (o *Checker) Regex(n *strictyaml.Node, where, expr string) {
	if expr == "" {
		o.Errorf(n, "%q: regex string match should not be empty", where)
		return
	}
	if len(expr) > 1024 {
		o.Errorf(n, "%q: regex is too large, max length allowed is 1024", where)
		return
	}
	_, err := regexp.Compile(expr)
	if err == nil {
		// It is used inside of a group, which may nest too deeply.
		_, err = regexp.Compile(`^(?:` + expr + `)$`)
	}
	if err != nil {
		o.Errorf(n, "%q: %s; Istio uses RE2 style regex-based match (https://github.com/google/re2/wiki/Syntax)",
			where, err)
	}
}

// Subnet reads an address or a prefix; the bits that a prefix leaves open
// must be 0, or are taken as such with a warning.
func (o *Checker) Subnet(at *strictyaml.Node, s string) (netip.Prefix, bool) {
	var out netip.Prefix
	var err error
	what := "IP"
	if strings.Contains(s, "/") {
		what = "CIDR block"
		out, err = netip.ParsePrefix(s)
	} else {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
			out = netip.PrefixFrom(a, a.BitLen())
		}
	}
	switch {
	case err != nil || !out.IsValid():
		o.Errorf(at, "%q is not a valid %s%s", s, what, addressHint(s, "under ports"))
		return out, false
	case out.Addr().Is4In6():
		o.Errorf(at, "%q is an IPv4 address in IPv6 form; write it as IPv4", s)
		return out, false
	case out != out.Masked():
		o.Warnf(at, "%s has host bits set; it is read as %s", s, out.Masked())
	}
	return out.Masked(), true
}
