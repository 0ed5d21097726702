// SPDX-License-Identifier: Apache-2.0

package message

import (
	"errors"
	"net/http"
	"strings"
)

// Errors of checkTarget.
var (
	errConnect  = errors.New("CONNECT is not supported")
	errPreface  = errors.New("PRI is the preface of HTTP/2, not a method")
	errAbsolute = errors.New("absolute request target")
	errAsterisk = errors.New(`the request target "*" is for OPTIONS`)
	errTarget   = errors.New("bad request target")
	errFragment = errors.New("request target with a fragment")
)

// CheckTarget says whether a request target may be routed. The rules are those
// of the origin form and the asterisk form (RFC 9112, 3.2.1 and 3.2.4) and hold
// for every version of HTTP: what HTTP/2 calls :path is written to HTTP/1
// upstreams as the request target. An absolute target names a host beside
// Host and :authority, which the server would prefer; a fragment is cut off by
// servers, so that they would serve another path than was judged; space and
// control bytes end or break the request line.
func CheckTarget(method, target string) error {
	switch {
	case method == http.MethodConnect:
		return errConnect
	case method == "PRI": // RFC 9113, 11.6: reserved
		return errPreface
	case target == "*":
		if method != http.MethodOptions {
			return errAsterisk
		}
		return nil
	case !strings.HasPrefix(target, "/"):
		if strings.Contains(target, ":") {
			return errAbsolute
		}
		return errTarget
	}
	return CheckPath(target)
}

// CheckPath says whether a path, with its query, may be in a request line.
func CheckPath(path string) error {
	for i := range len(path) {
		switch c := path[i]; {
		case c <= ' ' || c == 0x7f:
			return errTarget
		case c == '#':
			return errFragment
		}
	}
	return nil
}
