// SPDX-License-Identifier: Apache-2.0

package report

import (
	"github.com/prometheus/client_golang/prometheus"
)

var (
	expiresDesc = prometheus.NewDesc("egressd_certificate_expiry_timestamp_seconds",
		"When the first certificate of a chain in use expires, in Unix seconds, by where it is read from.", []string{"from"}, nil)
	usableDesc = prometheus.NewDesc("egressd_certificate_usable",
		"1 when what is there now of a certificate or a credential in use can be used; 0: what was there before is used, or what needs it is denied.", []string{"from"}, nil)
)

// certMetrics are one of each for a place: two may be read from it, and the worse
// counts.
func certMetrics(gauge func(*prometheus.Desc, float64, ...string), s Status) {
	usable, expires := map[string]bool{}, map[string]float64{}
	for _, c := range s.Certificates {
		was, known := usable[c.From]
		usable[c.From] = c.Error == "" && (was || !known)
		if c.Expires.IsZero() {
			continue
		}
		at := float64(c.Expires.Unix())
		if first, ok := expires[c.From]; !ok || at < first {
			expires[c.From] = at
		}
	}
	for from, ok := range usable {
		gauge(usableDesc, truth(ok), from)
	}
	for from, at := range expires {
		gauge(expiresDesc, at, from)
	}
}
