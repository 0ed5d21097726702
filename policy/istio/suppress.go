// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"

	"github.com/egressd/egressd/policy/istio/internal/code"
)

// CodeServer is the code of a warning about a Gateway's server that is left out,
// which compiling tells.
const CodeServer = code.Server

// CodeRefused is the code of an object that can be read, and that compiling
// refuses.
const CodeRefused = code.Refused

// CanSuppress says whether a code is one of warnings or notes, as EGD0215 is.
// Errors cannot be suppressed.
func CanSuppress(s string) bool { return code.CanSuppress(s) }

// annotationSuppress lists codes of warnings that the author of an object has
// seen and accepts, separated by commas.
const annotationSuppress = "egressd.dev/suppress"

// suppressed reads which warnings about the object are not to be reported. What
// is no code of a warning suppresses nothing, which is reported.
func (o *object) suppressed() {
	text := o.meta.Annotations[annotationSuppress]
	if text == "" {
		return
	}
	for _, c := range strings.Split(text, ",") {
		if c = strings.TrimSpace(c); !CanSuppress(c) {
			o.SayCode(code.Suppress, Warning, o.root.At("metadata", "annotations", annotationSuppress), "annotation %s: %q is no code of a warning", annotationSuppress, c)
		}
	}
	o.Suppress = text
}
