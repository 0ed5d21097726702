// SPDX-License-Identifier: Apache-2.0

package message

import (
	"net/textproto"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/field"
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

// GoingBack are the fields of an answer's trailer that go on: a client that merges
// them into the head must not take one for what ends the message, or says who it is.
// They go to clients of HTTP/1 that do not ask for trailers (TE) as well: the origin
// was told whether they do, and RFC 9110, 6.5, lets them pass.
func GoingBack(l field.List) field.List {
	withheld := func(e field.Entry) bool { return notInTrailers[textproto.CanonicalMIMEHeaderKey(e.Name)] }
	if !slices.ContainsFunc(l, withheld) {
		return l
	}
	return slices.DeleteFunc(slices.Clone(l), withheld)
}
