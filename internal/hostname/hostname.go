// SPDX-License-Identifier: Apache-2.0

// Package hostname knows what a host name is: it normalizes names, matches
// them against Istio's wildcard patterns, orders patterns by how specific
// they are, and looks names up among many patterns at a cost that does not
// grow with their number.
package hostname

import (
	"errors"
	"fmt"
	"strings"
)

// MaxLength is the most bytes that a name has in text form, without the
// trailing dot (RFC 1035, section 2.3.4).
const MaxLength = 253

// maxLabel is the most bytes that a label has (RFC 1035, section 2.3.4).
const maxLabel = 63

// Errors of Normalize and ParsePattern.
var (
	ErrEmpty     = errors.New("name is empty")
	ErrTooLong   = errors.New("name is longer than 253 bytes")
	ErrLabel     = errors.New("name has an empty label or one longer than 63 bytes")
	ErrCharacter = errors.New("name has a character other than letters, digits, '-' and '_' (write international names in punycode)")
	ErrWildcard  = errors.New("'*' may only be the first character of a name")
)

// Normalize returns s as names are compared everywhere in egressd: ASCII in
// lower case, without the one trailing dot of an absolute name. It returns
// ErrEmpty, ErrTooLong, ErrLabel or ErrCharacter for what is not a name.
//
// The underscore is good (service names such as _sip._tcp, and hosts in the
// wild). A dotted-quad IPv4 address is a name to Normalize; callers for whom
// addresses are something else look for them first. The result is a fixed
// point, and a name that is normal already is returned without allocation.
func Normalize(s string) (string, error) {
	if n := len(s); n > 1 && s[n-1] == '.' {
		s = s[:n-1]
	}
	if s == "" {
		return "", ErrEmpty
	}
	if len(s) > MaxLength {
		return "", ErrTooLong
	}
	upper, label := false, 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			label++
		case 'A' <= c && c <= 'Z':
			upper = true
			label++
		case c == '.':
			if label == 0 {
				return "", ErrLabel
			}
			label = 0
		default:
			return "", ErrCharacter
		}
		if label > maxLabel {
			return "", ErrLabel
		}
	}
	if label == 0 {
		return "", ErrLabel
	}
	if upper {
		s = strings.ToLower(s)
	}
	return s, nil
}

// Pattern is a normalized name ("a.b"), or a wildcard: '*' followed by the
// end that a name must have ("*.b", "*-x.b", "*foo.b"), or "*" alone.
type Pattern string

// ParsePattern normalizes s. Its errors wrap those of Normalize, and
// ErrWildcard for a '*' that is not the first character.
func ParsePattern(s string) (Pattern, error) {
	if s == "*" {
		return "*", nil
	}
	rest, wild := strings.CutPrefix(s, "*")
	if strings.Contains(rest, "*") {
		return "", fmt.Errorf("%q: %w", s, ErrWildcard)
	}
	dot := ""
	if wild && strings.HasPrefix(rest, ".") {
		dot, rest = ".", rest[1:]
	}
	n, err := Normalize(rest)
	if err != nil {
		return "", fmt.Errorf("%q: %w", s, err)
	}
	if wild {
		return Pattern("*" + dot + n), nil
	}
	return Pattern(n), nil
}

// IsWildcard says whether p stands for more than one name.
func (p Pattern) IsWildcard() bool { return len(p) > 0 && p[0] == '*' }

// Matches says whether p stands for name, which must be normalized. The '*'
// stands for one character or more, dots included: "*.foo.com" matches
// a.foo.com and a.b.foo.com, but not foo.com. (That is what Envoy matches;
// Istio's own host.Name would let "*foo.com" stand for foo.com as well.)
func (p Pattern) Matches(name string) bool {
	if !p.IsWildcard() {
		return name != "" && string(p) == name
	}
	return len(name) > len(p)-1 && strings.HasSuffix(name, string(p[1:]))
}

// Covers says whether every name that q matches is matched by p.
func (p Pattern) Covers(q Pattern) bool {
	if !q.IsWildcard() {
		return p.Matches(string(q))
	}
	return p.IsWildcard() && strings.HasSuffix(string(q[1:]), string(p[1:]))
}

// Overlaps says whether some name is matched by both. Since a '*' comes
// first only, that is so exactly when one covers the other.
func (p Pattern) Overlaps(q Pattern) bool { return p.Covers(q) || q.Covers(p) }

// Compare orders patterns most specific first: concrete names before
// wildcards, longer before shorter, then alphabetically (Istio's
// host.Names order). It is negative when a comes before b.
func Compare(a, b Pattern) int {
	switch aw, bw := a.IsWildcard(), b.IsWildcard(); {
	case aw != bw && bw:
		return -1
	case aw != bw:
		return 1
	case len(a) != len(b):
		return len(b) - len(a)
	}
	return strings.Compare(string(a), string(b))
}
