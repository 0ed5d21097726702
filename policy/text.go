// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"io"
	"strings"
)

// Text is the snapshot in its canonical form, for people and for Hash.
func (s *Snapshot) Text() string {
	var b strings.Builder
	_ = s.writeText(&b) // a strings.Builder does not fail
	return b.String()
}

func (s *Snapshot) writeText(w io.Writer) error { return nil }
