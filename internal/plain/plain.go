// SPDX-License-Identifier: Apache-2.0

// Package plain makes text that others chose (process names, host names,
// paths) safe to print: what a terminal would act on, or would show in another
// place or not at all, is escaped as Go escapes it.
package plain

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Line escapes everything that is not printed as one character on one line:
// control characters (C0, DEL, C1), line ends, marks that turn the direction
// of writing, other invisible ones, and bytes that are not UTF-8. A backslash
// stays one.
func Line(s string) string {
	if good(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 || !strconv.IsPrint(r) {
			quoted := strconv.Quote(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// Lines is Line for text of several lines.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = Line(l)
	}
	return strings.Join(lines, "\n")
}

// Word is Line for one field of a line: what could be taken for more than one
// field is quoted.
func Word(s string) string {
	if strings.ContainsAny(s, " \"[]()") {
		return strconv.Quote(s)
	}
	return Line(s)
}

func good(s string) bool {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return false
			}
		}
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}
