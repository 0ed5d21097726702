// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// refusal is why a head of HTTP/1 is no request that could be served.
type refusal struct {
	reason policy.Reason
	status int
	text   string
}

// errLate is why a head is refused that did not come whole in time.
var errLate = errors.New("the head of the request did not come in time (--peek-timeout)")

// refusalOf is that for an error of reading a head; nil: there is nobody to answer.
func refusalOf(err error) *refusal {
	var e *http1.MalformedError
	switch {
	case errors.As(err, &e):
		return &refusal{policy.ReasonMalformed, e.Status, e.Reason}
	case errors.Is(err, errLate):
		return &refusal{policy.ReasonPeekTimeout, http.StatusRequestTimeout, err.Error()}
	case limits.IsExceeded(err):
		return &refusal{session.DialReason(err), http.StatusServiceUnavailable, err.Error()}
	}
	return nil
}

// refuse answers what is no request, as far as there is something to answer.
func (h *http1Conn) refuse(err error) {
	why := refusalOf(err)
	if why == nil {
		return
	}
	h.refused, h.unread = why, true
	text := "egressd: bad request: " + why.text
	if why.reason != policy.ReasonMalformed {
		text = "egressd: " + why.text + " (" + string(why.reason) + ")"
	}
	_ = h.nc.SetWriteDeadline(time.Now().Add(h.conn.core.o.StallTimeout))
	h.answer.reset(1)
	h.answer.header.Add("Content-Type", "text/plain")
	h.answer.header.Add("Connection", "close")
	h.answer.length, h.answer.known = int64(len(text)), true
	h.answer.WriteHeader(why.status)
	_, _ = h.answer.Write([]byte(text))
	h.answer.finish()
	h.recordRefusal(why)
}

// recordRefusal records a request that is none.
func (h *http1Conn) recordRefusal(why *refusal) {
	e := h.conn.Event(flow.Request, session.Denied(why.reason, nil), "http", "")
	e.Detail, e.Status, e.Method = why.text, why.status, strings.Clone(h.head.Method)
	path, _, _ := strings.Cut(h.head.Target, "?")
	e.Path = strings.Clone(path[:min(len(path), maxMalformedPath)])
	h.conn.Tell(e)
	major := 0
	if h.head.Target != "" {
		major = 1
	}
	h.conn.observeRefused(e, major, h.head.Minor, h.head.Target[:min(len(h.head.Target), maxMalformedPath)], h.head.Host)
}

// maxMalformedPath is how much of a path is told of a request that is none.
const maxMalformedPath = 1 << 10
