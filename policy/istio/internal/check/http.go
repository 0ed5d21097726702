// SPDX-License-Identifier: Apache-2.0

package check

import (
	"strings"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// CORSMethods are the methods that a CORS policy may name.
var CORSMethods = []string{"*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"}

// IsHeaderName says whether s is a token (RFC 9110, section 5.6.2).
func IsHeaderName(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alnum && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// IsAuthority says whether a header is the authority of HTTP/1.1 or HTTP/2.
func IsAuthority(name string) bool {
	return strings.EqualFold(name, "host") || strings.EqualFold(name, ":authority")
}

// IsFramingHeader finds headers that say where a message ends or belong to one
// connection (RFC 9112, 6; RFC 9110, 7.6.1). A rule that wrote one would contradict
// the message.
func IsFramingHeader(name string) bool {
	switch strings.ToLower(name) {
	case "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade":
		return true
	}
	return false
}

// IsInternalHeader finds headers that belong to the HTTP layer itself.
func IsInternalHeader(name string) bool {
	return strings.HasPrefix(name, ":") || strings.EqualFold(name, "host")
}

// InternalHeader says that a header is one of IsInternalHeader's.
func (o *Checker) InternalHeader(at *strictyaml.Node, name string) {
	if strings.EqualFold(name, "host") {
		o.Errorf(at, "invalid header %q: cannot set Host header", name)
		return
	}
	o.Errorf(at, `invalid header %q: header cannot have ":" prefix`, name)
}

// AuthorityRewrite moves a Host header that the rule sets into the rewrite:
// HTTP/2 has no Host header, and one place decides the authority.
func (o *Checker) AuthorityRewrite(at *strictyaml.Node, r *policy.HTTPRule) {
	current := ""
	if r.Rewrite != nil {
		current = r.Rewrite.Authority
	}
	if r.Headers == nil {
		return
	}
	take := func(list []policy.Header) []policy.Header {
		var rest []policy.Header
		for _, h := range list {
			switch {
			case h.Name != "Host":
				rest = append(rest, h)
			case current != "":
				o.Errorf(at.At("headers", "request"),
					"authority header cannot be set multiple times: have %q, attempting to set %q", current, h.Value)
			default:
				current = h.Value
			}
		}
		return rest
	}
	h := *r.Headers // of delegated rules shared with others
	h.Request.Set, h.Request.Add = take(h.Request.Set), take(h.Request.Add)
	r.Headers = &h
	if current == "" {
		return
	}
	var rewrite policy.Rewrite
	if r.Rewrite != nil {
		rewrite = *r.Rewrite
	}
	rewrite.Authority = current
	r.Rewrite = &rewrite
}

// CORSHeaders checks names of headers, of which * stands for all.
func (o *Checker) CORSHeaders(at *strictyaml.Node, names []string) {
	for i, name := range names {
		switch {
		case name == "":
			o.Errorf(at.At(i), "header name cannot be empty")
		case name != "*" && !IsHeaderName(name):
			o.Errorf(at.At(i), "header name %s is not a valid header name", name)
		}
	}
}

// MirrorShare checks the percentage that is mirrored, and returns it.
func (o *Checker) MirrorShare(at *strictyaml.Node, what string, v float64) float64 {
	switch {
	case v > 100:
		o.Errorf(at, "%s must have a max value of 100 (it has %f)", what, v)
	case v < 0:
		o.Errorf(at, "%s must have a min value of 0 (it has %f)", what, v)
	}
	return v
}
