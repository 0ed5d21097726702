// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"fmt"

	"github.com/miekg/dns"
)

// DeniedAnswer is the response code (RFC 1035, section 4.1.1) for a name that is not
// allowed.
type DeniedAnswer uint8

// The denials. What clients make of each was tried with musl, glibc, c-ares,
// Go and Node.js.
const (
	// DenyAbsent is NXDOMAIN, the default: all clients fail at once and go on
	// to the next search suffix. Without an SOA it is not cached (RFC 2308,
	// section 5), so a name that becomes allowed is found at once.
	DenyAbsent DeniedAnswer = iota
	// DenyRefused is REFUSED: plainly a policy, but musl takes it for no answer
	// and waits 5 s for another server, musl and c-ares end their search at it,
	// and glibc and Go ask twice and call it a failure that may pass.
	DenyRefused
	// DenyEmpty is NOERROR without records; musl ends its search at it.
	DenyEmpty
)

var denials = map[DeniedAnswer]int{
	DenyAbsent: dns.RcodeNameError, DenyRefused: dns.RcodeRefused, DenyEmpty: dns.RcodeSuccess,
}

// ParseDenial reads NXDOMAIN, REFUSED or NOERROR.
func ParseDenial(s string) (DeniedAnswer, error) {
	for d := range denials {
		if d.String() == s {
			return d, nil
		}
	}
	return DenyAbsent, fmt.Errorf("%q is not NXDOMAIN, REFUSED or NOERROR", s)
}

// String is the response code's name.
func (d DeniedAnswer) String() string { return dns.RcodeToString[d.rcode()] }

func (d DeniedAnswer) rcode() int { return denials[d] }
