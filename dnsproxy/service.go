// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"strings"

	"github.com/miekg/dns"
)

// Service names say which service of a host is meant: _mongodb._tcp.db.example.com
// (RFC 2782, RFC 8552). Who may reach db.example.com may ask where its services
// are. The answer opens nothing: a target has to be allowed itself, and is asked
// for by the client, so that a denial names it.

const (
	// maxServiceLabel is the longest service name, with its underscore (RFC
	// 6335, section 5.1), maxServiceLabels how many such labels are taken for
	// one: more room than that is room for data.
	maxServiceLabel  = 16
	maxServiceLabels = 4
)

// serviceOf returns the host that a normalized service name is about; false
// when it is no service name.
func serviceOf(name string) (host string, ok bool) {
	for range maxServiceLabels {
		label, rest, more := strings.Cut(name, ".")
		switch {
		case !more:
			return "", false
		case len(label) > 1 && label[0] == '_' && len(label) <= maxServiceLabel:
		case ok && isDirectoryRole(label) && strings.HasPrefix(rest, "_msdcs."):
		default:
			return name, ok
		}
		name, ok = rest, true
	}
	return name, ok && name[0] != '_'
}

// isDirectoryRole says whether a label is one of those without an underscore
// in the service names of Active Directory ([MS-ADTS], section 6.3.2.3), as in
// _ldap._tcp.dc._msdcs.example.com.
func isDirectoryRole(label string) bool {
	return label == "dc" || label == "gc" || label == "pdc" || label == "domains"
}

// serviceType says whether a question of type t is forwarded for a service
// name: types that name other names or describe the service. Addresses are
// not among them.
func serviceType(t uint16) bool {
	switch t {
	case dns.TypeSRV, dns.TypeTXT, dns.TypeNAPTR, dns.TypeURI, dns.TypePTR, dns.TypeCNAME,
		dns.TypeTLSA, dns.TypeSVCB, dns.TypeHTTPS:
		return true
	}
	return false
}
