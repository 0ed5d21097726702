// SPDX-License-Identifier: Apache-2.0

package message

import (
	"net/textproto"
	"strings"
)

// notInTrailers are fields that mean something before the body is read only:
// framing, routing, modifiers of the request, authentication, and what says how
// to process the content (RFC 9110, 6.5.1). Nothing in a trailer was judged.
var notInTrailers = map[string]bool{
	"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Trailer": true, "Te": true,
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Upgrade": true, "Http2-Settings": true,
	"Authorization": true, "Proxy-Authorization": true, "Proxy-Authenticate": true, "Www-Authenticate": true,
	"Cookie": true, "Set-Cookie": true, "Forwarded": true,
	"Cache-Control": true, "Expect": true, "Max-Forwards": true, "Pragma": true, "Range": true,
	"Content-Encoding": true, "Content-Type": true, "Content-Range": true,
}

func mayTrail(name string) bool {
	return !notInTrailers[name] && !strings.HasPrefix(name, "If-") &&
		!strings.HasPrefix(name, "X-Forwarded-") && !strings.HasPrefix(name, "X-Envoy-")
}

// GoingOn are the names of a request's trailer that go on: those that the request
// announces and that may be there.
func GoingOn(announced []string) (names []string) {
	for _, name := range announced {
		if mayTrail(textproto.CanonicalMIMEHeaderKey(name)) {
			names = append(names, name)
		}
	}
	return names
}
