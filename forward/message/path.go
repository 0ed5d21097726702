// SPDX-License-Identifier: Apache-2.0

package message

import "strings"

// Unclear says why a path may be matched as one place and served as another, ""
// when there is no such reason.
func Unclear(path string) string {
	switch {
	case hasDotDot(path):
		return `".." in the path`
	case badEscape(path):
		return `a "%" in the path that begins no escape`
	}
	return ""
}

// badEscape says whether a path has a "%" without two hexadecimal digits behind
// it (RFC 3986, 2.1). Some servers refuse it, some take it as it is, and some know
// escapes of their own ("%u0061").
func badEscape(path string) bool {
	for i := range len(path) {
		if path[i] == '%' && (i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2])) {
			return true
		}
	}
	return false
}

// hasDotDot says whether a path has a ".." segment (RFC 3986, 5.2.4), in any of
// the forms in which servers recognize one: percent-encoded, parted by
// backslashes or encoded slashes, with a parameter. Such a path would be
// matched as one place and served as another. Clients resolve these segments
// themselves; "." is left alone, for it stays in place and apt sends it.
func hasDotDot(path string) bool {
	if !strings.Contains(path, "..") && !strings.Contains(path, "%2") {
		return false
	}
	plain := strings.NewReplacer("%2e", ".", "%2f", "/", "%5c", "/", `\`, "/").Replace(strings.ToLower(path))
	for segment := range strings.SplitSeq(plain, "/") {
		if segment, _, _ = strings.Cut(segment, ";"); segment == ".." {
			return true
		}
	}
	return false
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
