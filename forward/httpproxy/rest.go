// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/upstream"
)

// rest is of a connection that has waited for its next request for RestAfter: it waits
// on without a goroutine, whose stack never has less than 4 KiB again when it has served
// a request, and without what belongs to an exchange. The watcher looks for what the
// client sends. The request that ends a rest costs some microseconds more.
type rest struct {
	// resume has Serve be called again; nil: it never rests.
	resume func()
	asked  bool // to rest, since the last request
	now    bool // nobody is in Serve
	id     uint64
}

// askToRest has the goroutine of a connection that waits for a request end. h.mu is
// held.
func (h *http1Conn) askToRest() {
	if h.rest.resume != nil && !h.rest.asked && !h.rest.now {
		h.rest.asked = true
		h.wake()
	}
}

// rests says whether the connection rests from now on: it is its goroutine's no more.
// h.mu is held.
func (h *http1Conn) rests(ups []*upstream.HTTPConn) bool {
	if !h.rest.asked || h.raw == nil || h.reader.Within() {
		return false
	}
	if reason, _ := h.conn.KillReason(); reason != "" || h.isEnding() {
		return false // whoever ends it has looked for one that rests already
	}
	h.rest.id = h.conn.core.watcher.Add(h.raw, unix.EPOLLIN|unix.EPOLLRDHUP, h.speaks, false)
	if h.rest.id == 0 {
		return false // it is watched for something else, or by nobody
	}
	for _, c := range ups {
		if c.HTTP1 != nil {
			c.HTTP1.Head.Fields = nil
		}
	}
	h.head.Fields, h.answer.header, h.r, h.scratch, h.x = nil, nil, message.Incoming{}, scratch{}, nil
	h.rest.now = true
	return true
}

// speaks is called when the client of a connection that rests has sent something, or
// its end.
func (h *http1Conn) speaks(uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rouse()
}

// rouse has a connection that rests be served again. h.mu is held.
func (h *http1Conn) rouse() {
	if h.rest.now {
		h.conn.core.watcher.Remove(h.raw, h.rest.id)
		h.rest.now, h.rest.id = false, 0
		h.rest.resume()
	}
}
