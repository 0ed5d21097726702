// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/egressd/egressd/forward/http1"
)

// maxInformational bounds the informational answers to one request.
const maxInformational = 100

// roundTrip1 sends a request on c and reads the head of its answer. The rest of a
// body that is not there yet is sent by another goroutine, until the exchange ends.
func (x *exchange) roundTrip1(c *upstreamConn, out *outgoing, body *attemptBody) (*response, error) {
	u := c.http1
	u.begun, u.good = u.src.count.Load(), false
	u.sent.Store(false)
	c.sent.Store(0)
	var s *sender
	var err error
	if body == nil {
		x.ask1(c, out)
	} else if s, err = x.send1(c, out, body); err != nil && c.sent.Load() == 0 {
		return nil, err
	}
	// What the upstream said before it ended the connection counts.
	resp, rerr := x.receive1(c, out, s)
	if body == nil {
		c.sent.Store(int64(u.src.told))
	}
	if rerr != nil && err != nil && !errors.As(rerr, new(*http1.MalformedError)) {
		rerr = err
	}
	return resp, rerr
}

// ask1 has a request without a body be written when its answer is awaited.
func (x *exchange) ask1(c *upstreamConn, out *outgoing) {
	u := c.http1
	u.out = x.core.messages.Get(1)
	u.sent.Store(true) // with the write
	u.src.ask(out.appendHead((*u.out)[:0]), u.freeFn)
}

// appendHead appends the head of a request of HTTP/1.
func (o *outgoing) appendHead(b []byte) []byte {
	b = append(append(b, o.Method...), ' ')
	b = append(append(append(b, o.Path...), o.Query...), " HTTP/1.1\r\n"...)
	return http1.AppendFields(b, o.Header)
}

// send1 writes the head and what there is of the body. The sender has the rest;
// nil: there is none.
func (x *exchange) send1(c *upstreamConn, out *outgoing, body *attemptBody) (s *sender, err error) {
	if !c.http1.quiet() {
		return nil, errSpoke
	}
	buf := x.core.messages.Get(1)
	defer func() { x.core.messages.Put(buf) }()
	b := out.appendHead((*buf)[:0])
	s = &sender{x: x, c: c, body: body, out: out}
	if x.r.Continue {
		s.goOn, s.final = make(chan struct{}), make(chan struct{})
	} else {
		b, s.whole, err = s.gather(b)
	}
	if err == nil {
		err = c.write(b)
	}
	switch {
	case err != nil:
		return nil, err
	case s.whole:
		c.http1.sent.Store(true)
		return nil, nil
	}
	x.senders.Add(1)
	go s.run()
	return s, nil
}

// receive1 reads heads up to the final one.
func (x *exchange) receive1(c *upstreamConn, out *outgoing, s *sender) (*response, error) {
	if s != nil && s.final != nil {
		defer close(s.final)
	}
	u := c.http1
	for n := 0; n < maxInformational; n++ {
		head, err := u.reader.Head(http1.MaxResponseHead)
		if err == nil {
			err = u.head.Parse(head, out.Method)
		}
		if err != nil {
			return nil, err
		}
		h := &u.head
		if h.Status < 100 || h.Status > 199 || h.Status == http.StatusSwitchingProtocols {
			return x.response1(c), nil
		}
		if x.r.ProtoAtLeast(1, 1) {
			removeHopByHop(&h.Fields)
			x.w.Inform(h.Status, h.Reason, h.Fields)
		}
		if h.Status == http.StatusContinue && s != nil && s.goOn != nil && !s.told {
			s.told = true
			close(s.goOn)
		}
		x.moved()
	}
	return nil, http1.ErrStatusLine
}

func (x *exchange) response1(c *upstreamConn) *response {
	u := c.http1
	h := &u.head
	u.body.Begin(u.reader, h.Length)
	u.good = !h.Close && h.Status != http.StatusSwitchingProtocols
	r := &x.scratch.resp
	*r = response{
		StatusCode: h.Status, Reason: h.Reason, ProtoMajor: 1, Header: h.Fields, Length: h.Length, Close: h.Close,
		Body: &u.body, Trailer: u.trailerFn, Done: u.doneFn,
	}
	return r
}

// sender sends what is to come of a request's body.
type sender struct {
	x      *exchange
	c      *upstreamConn
	body   *attemptBody
	out    *outgoing
	chunks http1.Chunks
	whole  bool
	// goOn is closed when the upstream wants the body, final when it has answered;
	// nil: it need not be asked.
	goOn, final chan struct{}
	told        bool
}

// gather appends what there is of the body to b, as long as it fits a buffer.
func (s *sender) gather(b []byte) (_ []byte, whole bool, err error) {
	buf := s.x.core.messages.Get(1)
	defer s.x.core.messages.Put(buf)
	for len(b) < len(*buf) && s.body.ready() {
		n, err := s.body.Read((*buf)[:len(*buf)/2])
		b = s.append(b, (*buf)[:n])
		if errors.Is(err, io.EOF) {
			return s.end(b), true, nil
		}
		if err != nil {
			return b, false, err
		}
	}
	return b, false, nil
}

func (s *sender) append(b, data []byte) []byte {
	if s.out.Length == http1.Chunked {
		return s.chunks.Append(b, data, s.body.Rest())
	}
	return append(b, data...)
}

func (s *sender) end(b []byte) []byte {
	if s.out.Length == http1.Chunked {
		return s.chunks.End(b, s.body.trailers(s.out.Trailer))
	}
	return b
}

// mayBegin waits until the upstream wants the body, or has not said for a while that
// it does not.
func (s *sender) mayBegin() bool {
	if s.goOn == nil {
		return true
	}
	timer := time.NewTimer(continueTimeout)
	defer timer.Stop()
	select {
	case <-s.goOn:
	case <-timer.C:
	case <-s.final:
		return false
	case <-s.x.context().Done():
		return false
	}
	return true
}

func (s *sender) run() {
	defer s.x.senders.Done()
	if !s.mayBegin() {
		return
	}
	buf, out := s.x.core.messages.Get(bigBuffer), s.x.core.messages.Get(bigBuffer)
	defer s.x.core.messages.Put(buf)
	defer s.x.core.messages.Put(out)
	for {
		n, err := s.body.Read((*buf)[:len(*buf)/2])
		b := s.append((*out)[:0], (*buf)[:n])
		for err == nil && len(b) < len(*out)/4 && s.body.ready() { // many small chunks
			n, err = s.body.Read((*buf)[:len(*buf)/2])
			b = s.append(b, (*buf)[:n])
		}
		ended := errors.Is(err, io.EOF)
		if ended {
			b = s.end(b)
		}
		if len(b) > 0 && s.c.write(b) != nil {
			return // the answer, or the end, says more
		}
		s.x.stall.moved()
		switch {
		case ended:
			s.c.http1.sent.Store(true)
			s.x.moved()
			return
		case err != nil:
			s.x.up.interrupt(s.c, err)
			return
		}
	}
}
