// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/egressd/egressd/internal/certs"
)

// certificateRows are about certificates, keys and credentials in use.
func certificateRows(row func(k, format string, args ...any), list []certs.Kept) {
	for _, c := range list {
		switch {
		case c.Error != "" && c.Loaded:
			row("NOT RENEWED", "%s %s: %s; what was there before is used", c.Kind, c.From, c.Error)
		case c.Error != "":
			row("NOT USABLE", "%s %s: %s; what needs it is denied", c.Kind, c.From, c.Error)
		case c.Subject != "" || !c.Expires.IsZero():
			row(c.Kind, "%s: %s, expires %s, sha256 %.16s...%s", c.From, c.Subject, c.Expires.UTC().Format(time.RFC3339), c.Fingerprint, overdue(c.Expires))
		case len(c.CAs) > 0:
			row(c.Kind, "%s: %d trusted", c.From, len(c.CAs))
		default:
			row(c.Kind, "%s", c.From)
		}
	}
}

func overdue(expires time.Time) string {
	if time.Now().After(expires) {
		return ": EXPIRED"
	}
	return ""
}
