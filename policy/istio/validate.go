// SPDX-License-Identifier: Apache-2.0

package istio

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

// checker checks values as Istio's validation does, and says what is wrong with
// them.
type checker struct{ strictyaml.Reporter }

var numberForm = regexp.MustCompile(`^[0-9]+$`)

// isLabel says whether s is a DNS-1123 label.
func isLabel(s string) bool { return len(s) <= 63 && isLongLabel(s) }

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
		return s == "*" || len(s) <= 63 && isLabel(rest)
	}
	return isLabel(s)
}

// isPortName says whether s is a name as Istio's validation takes it for
// ports and subsets: like isLabel, but upper case is good.
func isPortName(s string) bool { return isLabel(strings.ToLower(s)) }

// isSubdomain says whether s is a DNS-1123 subdomain as the API server has it
// for most names.
func isSubdomain(s string) bool {
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

// domain parses a host, wildcard or not, as Istio's validation does: each
// label is a DNS-1123 label, whatever its case.
func domain(s string) (hostname.Pattern, error) {
	h, err := hostname.ParsePattern(s)
	if err != nil {
		if hint := hostHint(s); hint != "" {
			return "", errors.New(hint)
		}
		return "", err
	}
	last := string(h)[strings.LastIndexByte(string(h), '.')+1:]
	if numberForm.MatchString(last) {
		if hint := hostHint(s); hint != "" {
			return "", errors.New(hint)
		}
		return "", fmt.Errorf("domain name %q invalid (top level domain %q cannot be all-numeric)", s, last)
	}
	first := true
	for label := range strings.SplitSeq(string(h), ".") {
		good := isLabel(label) || first && isWildcardLabel(label)
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

// fqdn parses a host that is not a wildcard.
func fqdn(s string) (string, error) {
	h, err := domain(s)
	if err == nil && h.IsWildcard() {
		err = fmt.Errorf("%q is a wildcard", s)
	}
	return string(h), err
}

// hostOrIP parses a host as VirtualServices and Gateways write it: a domain,
// a wildcard, or an address.
func hostOrIP(s string) (hostname.Pattern, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return "", fmt.Errorf("%q is not a plain IPv4 or IPv6 address", s)
		}
		return hostname.Pattern(a.String()), nil
	}
	return domain(s)
}

func isPartialWildcard(h hostname.Pattern) bool {
	return len(h) > 1 && h.IsWildcard() && h[1] != '.'
}

// port checks a port number. 0 is returned after an error.
func (o *checker) port(n *strictyaml.Node, where string, number uint32) uint16 {
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

// duration checks a duration as Istio does (at least 1 ms, whole ms).
func (o *checker) duration(n *strictyaml.Node, where string, d *durationpb.Duration) time.Duration {
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

// protocolOf maps Istio's protocol names (case-insensitive). Database
// protocols are opaque to egressd; gRPC-Web is HTTP with another body.
func protocolOf(s string) (policy.Protocol, bool) {
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

// regex checks an RE2 regular expression as Istio does.
func (o *checker) regex(n *strictyaml.Node, where, expr string) {
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

// subnet reads an address or a prefix; the bits that a prefix leaves open
// must be 0, or are taken as such with a warning.
func (o *checker) subnet(at *strictyaml.Node, s string) (netip.Prefix, bool) {
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
