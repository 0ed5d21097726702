// SPDX-License-Identifier: Apache-2.0

package house

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// maxFunction bounds a function of the kernel programs, with its signature: what
// is longer does two things.
const maxFunction = 60

// inline is the beginning of a function whose brace is where this test does not look.
var inline = regexp.MustCompile(`^[A-Za-z_].*\)\s*\{`)

// functions calls f for each function of a C file: the line of its signature, which
// names it, and its length. In the kernel's style the braces of functions, and of
// nothing else, stand alone in the first column.
func functions(text string, f func(line int, signature string, length int)) {
	lines := strings.Split(text, "\n")
	start, open := -1, false // start: of a declaration, behind what is no part of one
	for i, l := range lines {
		switch {
		case l == "{" && start >= 0:
			open = true
		case l == "}" && open:
			f(start+1, lines[start], i-start+1)
			start, open = -1, false
		case open:
		case l == "" || strings.HasPrefix(l, "#") || strings.HasPrefix(l, "/*") || strings.HasPrefix(l, " *"):
			start = -1
		case start < 0:
			start = i
		}
	}
}

// TestKernelFunctionsAreShort: functions of the kernel programs are no longer than
// their limit.
func TestKernelFunctionsAreShort(t *testing.T) {
	seen := 0
	files(t, func(path string, content []byte) {
		if !strings.HasPrefix(path, "bpf/") {
			return
		}
		functions(string(content), func(line int, signature string, length int) {
			seen++
			if length > maxFunction {
				t.Errorf("%s:%d: %d lines, at most %d: %s", path, line, length, maxFunction, signature)
			}
		})
		for i, l := range strings.Split(string(content), "\n") {
			if inline.MatchString(l) {
				t.Errorf("%s:%d: the brace of a function stands on a line of its own: %s", path, i+1, l)
			}
		}
	}, ".h", ".c")
	if seen < 150 {
		t.Errorf("%d functions were found", seen)
	}
}

// TestFunctions: what the limit counts.
func TestFunctions(t *testing.T) {
	const text = `#define X 1
/* Says
 * so. */
static int
one(void)
{
	if (X) {
		return 1;
	}
}

struct s {
	int a;
};

SEC("tc")
int two(void)
{
}
`
	var got []string
	functions(text, func(line int, signature string, length int) {
		got = append(got, fmt.Sprintf("%d: %s, %d", line, signature, length))
	})
	if want := []string{"4: static int, 7", `16: SEC("tc"), 4`}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}
