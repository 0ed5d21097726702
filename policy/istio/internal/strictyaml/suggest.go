// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"fmt"
	"strings"

	"github.com/egressd/egressd/internal/spelling"
)

// DidYouMean returns `, did you mean "x"?` for the candidate nearest to word,
// or "" when none is near.
func DidYouMean(word string, candidates []string) string {
	if len(word) > 64 {
		return ""
	}
	best, bestDistance := "", 3
	for _, c := range candidates {
		d := spelling.Distance(fold(word), fold(c))
		// A short word is near to everything: at most every third letter may differ.
		if d < bestDistance && (d == 0 || d <= max(len(c)/3, 1)) {
			best, bestDistance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

func fold(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}
