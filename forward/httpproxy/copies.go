// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/mirror"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/policy"
)

// pickMirrors draws which mirrors get a copy. The body is kept for them as far
// as it is for retries.
func (x *exchange) pickMirrors(dest *policy.RouteDestination) {
	if len(x.decision.Mirrors) == 0 || message.UpgradeType(x.r.Header) != "" {
		return // an upgrade is no request that could be answered twice
	}
	for i := range x.decision.Mirrors {
		if m := &x.decision.Mirrors[i]; x.percent(m.Percent) {
			if c := x.copyFor(m, dest); c != nil {
				x.copies = append(x.copies, c)
			}
		}
	}
	switch {
	case x.body == nil:
		x.sendCopies()
	case len(x.copies) > 0:
		x.body.Limit = message.MaxReplay
	}
}

// copyFor builds the copy for m; nil: none is sent, and the event says why.
func (x *exchange) copyFor(m *policy.Mirrored, dest *policy.RouteDestination) *mirror.Copy {
	timeout := x.decision.Timeout()
	if m.Way != nil {
		timeout = m.Way.Timeout()
	}
	c := mirror.NewCopy(x.core.Mirrors, x.conn.Session, m, requestKept(&x.req), timeout)
	c.Generation = x.generation
	seen := x.decision.Copied(m, dest, &c.Original)
	switch {
	case m.Refused != "":
		c.Decision = session.Denied(m.Refused, m.Rule)
		c.Record(0, 0, "")
		return nil
	case m.Answered:
		c.Record(0, 0, "a rule of the gateway answers it")
		return nil
	case m.To.Upstream == nil:
		c.Decision.Reason = policy.ReasonNoDestination
		c.Record(0, 0, "")
		return nil
	case seen == nil || message.CheckPath(seen.Path) != nil:
		c.Decision.Reason = policy.ReasonMalformed
		c.Record(0, 0, "a rule makes it a request that can't be sent")
		return nil
	case x.abortsCopy(m):
		c.Decision.Reason = policy.ReasonFault
		c.Record(0, 0, "fault filter abort")
		return nil
	}
	c.To = m.To.Upstream.WithName(seen.Host)
	fields := seen.Header.Clone()
	message.RemoveHopByHop(&fields)
	fields.Del("Host")
	fields.Del("Expect") // the body is there
	x.forwarded(&fields)
	if a := x.decision.Action; a != nil {
		unset(&fields, a.Rule.Credentials) // a mirror gets neither values nor what stands in their place
	}
	for _, a := range m.Beyond() {
		unset(&fields, a.Rule.Credentials)
	}
	header := http.Header(fields.Map(textproto.CanonicalMIMEHeaderKey))
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = nil // or net/http would invent one
	}
	c.Request = &http.Request{
		Method: c.Original.Method, URL: mirrorURL(seen.Path, strings.Clone(x.target)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Host: strings.Clone(seen.Authority), ContentLength: x.r.ContentLength,
	}
	return c
}

// abortsCopy says whether a fault of a gateway that the copy goes on through aborts it.
// Delays are left out: nobody waits for a copy.
func (x *exchange) abortsCopy(m *policy.Mirrored) bool {
	for _, a := range m.Beyond() {
		if f := a.Rule.Fault; f != nil && (f.AbortStatus != 0 || f.AbortGRPC >= 0) && x.percent(f.AbortPercent) {
			return true
		}
	}
	return false
}

// requestKept is a copy of a request that outlives it: what is read of HTTP/1 is in a buffer
// that the next request uses.
func requestKept(r *policy.Request) policy.Request {
	out := *r
	out.Method, out.Authority, out.Host, out.Path = strings.Clone(r.Method), strings.Clone(r.Authority), strings.Clone(r.Host), strings.Clone(r.Path)
	out.Header = make(field.List, len(r.Header))
	for i, f := range r.Header {
		out.Header[i] = field.Entry{Name: strings.Clone(f.Name), Value: strings.Clone(f.Value)}
	}
	out.Query = make(url.Values, len(r.Query))
	for name, values := range r.Query {
		for _, v := range values {
			out.Query.Add(strings.Clone(name), strings.Clone(v))
		}
	}
	return out
}

// mirrorURL keeps the bytes of a path, but for one that begins like an
// authority, which net/http would take for one.
func mirrorURL(path, target string) *url.URL {
	out := &url.URL{Scheme: "http", Opaque: path}
	if strings.HasPrefix(path, "//") {
		if plain, err := url.PathUnescape(path); err == nil {
			out.Opaque, out.Path, out.RawPath = "", plain, path
		}
	}
	_, query, found := strings.Cut(target, "?")
	out.RawQuery, out.ForceQuery = query, found && query == ""
	return out
}

// sendCopies sends the copies: the request was received completely. As in
// Envoy, one whose body is larger than what is kept of it is not mirrored
// (source/common/router/router.cc, request_buffer_overflowed_).
func (x *exchange) sendCopies() {
	copies := x.copies
	x.copies = nil
	for _, c := range copies {
		if x.body != nil {
			body, ok := x.body.Whole()
			if !ok {
				c.Decision.Reason = policy.ReasonOverload
				c.Record(0, 0, "the body is larger than what is kept for copies ("+strconv.Itoa(message.MaxReplay>>10)+" KiB), or there was no memory for it")
				continue
			}
			c.Body = body
			if len(x.body.Trailer) > 0 {
				c.Request.Trailer = http.Header{}
				for _, f := range x.body.Trailer {
					c.Request.Trailer.Add(strings.Clone(f.Name), strings.Clone(f.Value))
				}
			}
		}
		x.core.Mirrors.Send(c, x.conn.mirrorClient())
	}
}

// mirrorClient is the connection's own.
func (t *client) mirrorClient() *mirror.ClientConns {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.copies == nil {
		t.copies = mirror.NewClientConns(t.Session, t.core.Mirrors)
	}
	return t.copies
}

// CloseIdle closes the connections for copies that are idle; end: and the
// others when they are.
func (t *client) CloseIdle(end bool) {
	t.mu.Lock()
	c := t.copies
	t.mu.Unlock()
	if c == nil {
		return
	}
	c.CloseIdle(end)
}
