// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"net/http"
	"net/textproto"
	"sync"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/internal/field"
)

// maxInformational bounds the informational answers to one request.
const maxInformational = 100

var (
	errInformational = &http1.MalformedError{Reason: "too many informational answers", Status: http.StatusBadGateway}
	errSwitch2       = &http1.MalformedError{Reason: "status 101, which HTTP/2 has not", Status: http.StatusBadGateway}
)

// inform passes an informational answer on. The first one counts as something that has
// moved, as in Envoy (source/common/http/filter_manager.cc, encode1xxHeaders), which
// passes no others. More of them would have an origin that never answers hold a request
// for as many idle timeouts.
func (x *exchange) inform(status int, reason string, l *field.List) error {
	switch x.informed++; {
	case x.informed > maxInformational:
		return errInformational
	case x.informed == 1:
		x.stall.moved()
	}
	if x.r.ProtoAtLeast(1, 1) {
		message.RemoveHopByHop(l)
		l.Del("Content-Length") // there is no body (RFC 9110, 8.6)
		x.w.Inform(status, reason, *l)
	}
	return nil
}

// informational are those of an attempt in HTTP/2, until the final answer was received.
type informational struct {
	x    *exchange
	mu   sync.Mutex
	over bool
	err  error // why they have ended the attempt
}

func (i *informational) got(status int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over || i.err != nil {
		return i.err
	}
	if status == http.StatusSwitchingProtocols { // RFC 9113, 8.6: a client of HTTP/1 would switch
		i.err = errSwitch2
		return i.err
	}
	l := field.FromMap(header)
	i.err = i.x.inform(status, http.StatusText(status), &l)
	return i.err
}

// stop has none be passed on any more, and says why they have ended the attempt.
func (i *informational) stop() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
	return i.err
}
