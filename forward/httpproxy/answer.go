// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/internal/field"
)

// answer is the client's side of an exchange: here the engines of HTTP/1, which is
// our own, and HTTP/2, which is net/http's, meet.
type answer interface {
	// Header is filled before the status is written.
	Header() *field.List
	// Inform passes an informational answer on.
	Inform(status int, reason string, h field.List)
	// Passes says that the answer is an upstream's: nothing is added to it.
	Passes(resp *message.Response)
	WriteHeader(status int)
	Write(p []byte) (int, error)
	// Flush sends what is written. The next Write shows a failure.
	Flush()
	// Trailer is what is written behind the body.
	Trailer(l field.List)
	// SetReadDeadline and SetWriteDeadline bound the reading of the request's body
	// and the writing of the answer.
	SetReadDeadline(t time.Time)
	SetWriteDeadline(t time.Time)
}

// http2Answer is an answer by net/http.
type http2Answer struct {
	w      http.ResponseWriter
	rc     *http.ResponseController
	header field.List
	passes bool
	known  []string // names of announced trailers
}

func newHTTP2Answer(w http.ResponseWriter) *http2Answer {
	return &http2Answer{w: w, rc: http.NewResponseController(w)}
}

func (a *http2Answer) Header() *field.List { return &a.header }

func (a *http2Answer) Inform(status int, _ string, l field.List) {
	h := a.w.Header()
	keepAll(h, l)
	a.w.WriteHeader(status)
	clear(h) // they are this response's alone
}

func (a *http2Answer) Passes(resp *message.Response) {
	a.passes, a.known = true, slices.Clone(resp.Announced)
	for i := range a.known {
		a.known[i] = strings.Clone(a.known[i])
	}
	if resp.Length == http1.Chunked || resp.Length == http1.ToTheEnd {
		a.header.Del("Content-Length")
	}
}

func (a *http2Answer) WriteHeader(status int) {
	h := a.w.Header()
	keepAll(h, a.header)
	if a.passes { // what the origin did not say is not said in its name
		for _, k := range []string{"Date", "Content-Type"} {
			if _, ok := h[k]; !ok {
				h[k] = nil
			}
		}
	}
	for _, name := range a.known {
		h.Add("Trailer", strings.Clone(name))
	}
	a.w.WriteHeader(status)
}

// keepAll adds copies of l to h: net/http may write them when the exchange has ended,
// and with it the buffer of an upstream of HTTP/1 that they are in.
func keepAll(h http.Header, l field.List) {
	for i := range l {
		h.Add(strings.Clone(l[i].Name), strings.Clone(l[i].Value))
	}
}

func (a *http2Answer) Write(p []byte) (int, error) { return a.w.Write(p) }

func (a *http2Answer) Flush() { _ = a.rc.Flush() }

func (a *http2Answer) Trailer(l field.List) {
	h := a.w.Header()
	for i := range l { // as keepAll has it
		l[i].Name, l[i].Value = strings.Clone(l[i].Name), strings.Clone(l[i].Value)
	}
	for name, values := range l.Map(textproto.CanonicalMIMEHeaderKey) {
		if !message.ContainsName(a.known, name) {
			name = http.TrailerPrefix + name // more than were announced
		}
		h[name] = values
	}
}

func (a *http2Answer) SetReadDeadline(t time.Time)  { _ = a.rc.SetReadDeadline(t) }
func (a *http2Answer) SetWriteDeadline(t time.Time) { _ = a.rc.SetWriteDeadline(t) }
