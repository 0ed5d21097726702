// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/allowlist"
)

// manyLabels is how many names with generated labels below one domain are a reason for
// a wildcard: fewer may be all that there are.
const manyLabels = 6

// wildcards says by which pattern a host is allowed: itself, or a wildcard for which
// there is a reason.
type wildcards struct {
	of map[string]hostname.Pattern
	// why is the reason for each wildcard.
	why map[hostname.Pattern]string
	// no are names that no ServiceEntry can have, nor a wildcard above them.
	no map[string]error
	// refused are domains with many generated labels that belong to many owners.
	refused []string
}

// findWildcards looks for reasons among the hosts of rows.
func findWildcards(rows []*row, exact bool) wildcards {
	w := wildcards{of: map[string]hostname.Pattern{}, why: map[hostname.Pattern]string{}, no: map[string]error{}}
	private := map[string]bool{}
	for _, r := range rows {
		if r.host != "" {
			private[r.host] = private[r.host] || r.private
		}
	}
	below := map[string][]string{}
	for host, p := range private {
		w.of[host] = hostname.Pattern(host)
		switch err := allowlist.HasIstioForm(host); {
		case err != nil:
			w.underscore(host, err)
		case !p && !exact: // what is private a wildcard does not open
			if domain := generatedBelow(host); domain != "" {
				below[domain] = append(below[domain], host)
			}
		}
	}
	for domain, list := range below {
		switch {
		case len(list) < manyLabels:
		case isPublic(domain):
			w.refused = append(w.refused, domain)
		default:
			slices.Sort(list)
			w.why["*."+hostname.Pattern(domain)] = fmt.Sprintf("a wildcard, for %d names below it have generated labels, as %s and %s", len(list), list[0], list[len(list)-1])
			for _, host := range list {
				w.of[host] = "*." + hostname.Pattern(domain)
			}
		}
	}
	slices.Sort(w.refused)
	return w
}

// underscore finds a wildcard for a name that a ServiceEntry cannot have.
func (w *wildcards) underscore(host string, err error) {
	labels := strings.Split(host, ".")
	at := 0
	for i, l := range labels {
		if strings.Contains(l, "_") {
			at = i + 1
		}
	}
	domain := strings.Join(labels[at:], ".")
	if at == 0 || domain == "" || isPublic(domain) || allowlist.HasIstioForm(domain) != nil {
		w.no[host] = err
		return
	}
	p := "*." + hostname.Pattern(domain)
	w.of[host] = p
	if w.why[p] == "" || strings.Contains(w.why[p], "underscore") {
		w.why[p] = "a wildcard, for a ServiceEntry has no names with an underscore"
	}
}

// generatedBelow is the domain below which a name's labels are generated, "" when they
// do not look so.
func generatedBelow(host string) string {
	labels := strings.Split(host, ".")
	for i := len(labels) - 2; i >= 0; i-- {
		if isGenerated(labels[i]) {
			return strings.Join(labels[i+1:], ".")
		}
	}
	return ""
}

// isGenerated says whether no person gave a label: it has the digits of an address, a
// number, a hash or a random text.
func isGenerated(label string) bool {
	digits, hex := 0, 0
	for _, r := range label {
		switch {
		case r >= '0' && r <= '9':
			digits++
			hex++
		case r >= 'a' && r <= 'f':
			hex++
		}
	}
	return digits >= 3 || digits > 0 && len(label) >= 12 || digits > 0 && len(label) >= 6 && hex == len(label)
}

// isPublic says whether names below a domain belong to many owners
// (https://publicsuffix.org, with what companies rent out).
func isPublic(domain string) bool {
	suffix, _ := publicsuffix.PublicSuffix(domain)
	return suffix == domain
}
