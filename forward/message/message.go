// SPDX-License-Identifier: Apache-2.0

// Package message is what HTTP messages are in either of its versions, what of them
// ends at each hop, and what can't be routed or sent on. It sends nothing.
package message

import (
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/policy"
)

// Incoming is a request as it came, in either version of HTTP.
type Incoming struct {
	Method string
	// Target is the request target, or :path.
	Target string
	// Host is the Host field, or :authority.
	Host                   string
	ProtoMajor, ProtoMinor int
	Header                 field.List // of HTTP/1 with Host
	// ContentLength is that of the body in bytes; -1: not known.
	ContentLength int64
	// Close: it is the connection's last one.
	Close bool
	// Continue: the client waits for a 100 before it sends the body.
	Continue bool
	Body     io.Reader
	// Trailer is that of the body, once it was read to its end.
	Trailer func() field.List
}

// ProtoAtLeast says whether the version is at least major.minor.
func (r *Incoming) ProtoAtLeast(major, minor int) bool {
	return r.ProtoMajor > major || r.ProtoMajor == major && r.ProtoMinor >= minor
}

// Response is an answer of an upstream, in either version of HTTP.
type Response struct {
	StatusCode int
	Reason     string // as the upstream has it; "": HTTP/2
	ProtoMajor int
	Header     field.List
	// Length is that of the body: in bytes, http1.Chunked when it is not known, or
	// http1.ToTheEnd.
	Length int64
	// Close: the upstream ends the connection behind it. KeepAlive: of HTTP/1, it says
	// that it keeps it, and nothing else.
	Close, KeepAlive bool
	// Announced are the names of the trailer's fields, as far as the upstream says.
	Announced []string
	Body      io.Reader
	// Trailer is that of the body, once it was read to its end.
	Trailer func() field.List
	// Done says that nothing more of the body is wanted.
	Done func()
}

// Outgoing is a request as it goes on, without its body.
type Outgoing struct {
	Method, Authority string
	// Path has no query; Query has its "?".
	Path, Query string
	Header      field.List // for HTTP/1 with Host
	Length      int64      // of the body: in bytes or http1.Chunked
	// Trailer are the names of the trailer's fields that go on.
	Trailer []string
	// Credentials are fields whose values are set when it is known that they go out
	// by TLS.
	Credentials []policy.HeaderCredential
}

// RequestOf takes over a request of net/http's HTTP/2.
func RequestOf(r *http.Request) *Incoming {
	header := field.FromMap(r.Header)
	out := &Incoming{
		Method: r.Method, Target: r.RequestURI, Host: r.Host, ProtoMajor: 2, Header: header,
		ContentLength: r.ContentLength, Continue: header.HasToken("Expect", "100-continue"), Body: r.Body,
	}
	for name := range r.Trailer {
		out.Header.Add("Trailer", name)
	}
	out.Trailer = func() field.List { return field.FromMap(r.Trailer) }
	return out
}

// ResponseOf takes over an answer of net/http's HTTP/2.
func ResponseOf(r *http.Response) *Response {
	out := &Response{
		StatusCode: r.StatusCode, ProtoMajor: 2, Header: field.FromMap(r.Header), Length: r.ContentLength,
		Body: r.Body, Done: func() { r.Body.Close() },
	}
	for name := range r.Trailer {
		out.Announced = append(out.Announced, name)
	}
	if out.Length < 0 {
		out.Length = http1.Chunked
	}
	out.Trailer = func() field.List { return field.FromMap(r.Trailer) }
	return out
}

// maxAnnounced bounds the names of a Trailer field; the others are not known.
const maxAnnounced = 64

// Announced are the names in a Trailer field.
func Announced(h field.List) (names []string) {
	for i := h.Index("Trailer", 0); i >= 0; i = h.Index("Trailer", i+1) {
		for name := range strings.SplitSeq(h[i].Value, ",") {
			if name = strings.Trim(name, " \t"); name != "" && len(names) < maxAnnounced {
				names = append(names, name)
			}
		}
	}
	return names
}

// SetLength says in a header how long the body is.
func SetLength(h *field.List, n int64) {
	if have, err := LengthOf(h.Get("Content-Length")); err != nil || have != n {
		h.Set("Content-Length", strconv.FormatInt(n, 10))
	}
}

// LengthOf reads a Content-Length.
func LengthOf(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }

// Request is the request for net/http. The target keeps its bytes: Opaque is written
// verbatim, but that net/url reads a host out of it behind "//", which HTTP/2 takes
// off again.
func (o *Outgoing) Request() *http.Request {
	target := &url.URL{Scheme: "http", Host: o.Authority, Opaque: o.Path}
	target.RawQuery, target.ForceQuery = strings.TrimPrefix(o.Query, "?"), o.Query == "?"
	if strings.HasPrefix(o.Path, "//") {
		target.Opaque = "//" + o.Authority + o.Path
	}
	header := make(http.Header, len(o.Header))
	for i := range o.Header { // net/http may use it longer than the exchange lasts
		header.Add(strings.Clone(o.Header[i].Name), strings.Clone(o.Header[i].Value))
	}
	for _, name := range []string{"Host", "Connection", "Content-Length", "Transfer-Encoding", "Trailer"} {
		delete(header, name)
	}
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = nil // or net/http would invent one
	}
	r := &http.Request{
		Method: o.Method, URL: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Host: o.Authority, ContentLength: o.Length,
	}
	for _, name := range o.Trailer {
		if r.Trailer == nil {
			r.Trailer = make(http.Header)
		}
		r.Trailer[textproto.CanonicalMIMEHeaderKey(name)] = nil
	}
	return r
}
