// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/upstream"
)

// roundTrip1 sends a request on c and reads the head of its answer. The rest of a
// body that is not there yet is sent by another goroutine, until the exchange ends.
func (x *exchange) roundTrip1(c *upstream.HTTPConn, out *message.Outgoing, body *message.AttemptBody) (*message.Response, error) {
	u := c.HTTP1
	u.Begun, u.Good = u.Stream.Count.Load(), false
	u.Sent.Store(false)
	c.Sent.Store(0)
	var s *sender
	var err error
	if body == nil {
		buf := x.core.messages.Get(1)
		u.Ask(appendHead((*buf)[:0], out), buf)
		if x.h1 != nil {
			x.h1.waited = u.Stream.Raw != nil // which waits before it reads
		}
	} else if s, err = x.send1(c, out, body); err != nil && c.Sent.Load() == 0 {
		return nil, err
	}
	// What the upstream said before it ended the connection counts.
	resp, rerr := x.receive1(c, out, s)
	if body == nil {
		c.Sent.Store(int64(u.Stream.Told()))
	}
	if rerr != nil && err != nil && !errors.As(rerr, new(*http1.MalformedError)) {
		rerr = err
	}
	return resp, rerr
}

// appendHead appends the head of a request of HTTP/1.
func appendHead(b []byte, o *message.Outgoing) []byte {
	b = append(append(b, o.Method...), ' ')
	b = append(append(append(b, o.Path...), o.Query...), " HTTP/1.1\r\n"...)
	return http1.AppendFields(b, o.Header)
}

// send1 writes the head and what there is of the body. The sender has the rest;
// nil: there is none.
func (x *exchange) send1(c *upstream.HTTPConn, out *message.Outgoing, body *message.AttemptBody) (s *sender, err error) {
	if !c.HTTP1.Quiet() {
		return nil, relay.ErrSpoke
	}
	buf := x.core.messages.Get(1)
	defer func() { x.core.messages.Put(buf) }()
	b := appendHead((*buf)[:0], out)
	s = &sender{x: x, c: c, body: body, out: out}
	if x.r.Continue {
		s.goOn, s.final = make(chan struct{}), make(chan struct{})
	} else {
		b, s.whole, err = s.gather(b)
	}
	if err == nil && !s.whole {
		err = x.takeMore(SenderMemory)
	}
	if err == nil {
		err = c.WriteHTTP1(b)
	}
	switch {
	case err != nil:
		return nil, err
	case s.whole:
		c.HTTP1.Sent.Store(true)
		return nil, nil
	}
	x.senders.Add(1)
	go s.run()
	return s, nil
}

// receive1 reads heads up to the final one.
func (x *exchange) receive1(c *upstream.HTTPConn, out *message.Outgoing, s *sender) (*message.Response, error) {
	if s != nil && s.final != nil {
		defer close(s.final)
	}
	u := c.HTTP1
	for {
		head, err := u.Reader.Head(http1.MaxResponseHead)
		if err == nil {
			err = u.Head.Parse(head, out.Method)
		}
		if err != nil {
			return nil, err
		}
		h := &u.Head
		if h.Status < 100 || h.Status > 199 || h.Status == http.StatusSwitchingProtocols {
			return x.response1(c), nil
		}
		if err := x.inform(h.Status, h.Reason, &h.Fields); err != nil {
			return nil, err
		}
		if h.Status == http.StatusContinue && s != nil && s.goOn != nil && !s.told {
			s.told = true
			close(s.goOn)
		}
	}
}

func (x *exchange) response1(c *upstream.HTTPConn) *message.Response {
	u := c.HTTP1
	h := &u.Head
	u.Body.Begin(u.Reader, h.Length)
	u.Good = !h.Close && h.Status != http.StatusSwitchingProtocols
	r := &x.scratch.resp
	*r = message.Response{
		StatusCode: h.Status, Reason: h.Reason, ProtoMajor: 1, Header: h.Fields, Length: h.Length, Close: h.Close, KeepAlive: h.KeepAlive,
		Body: &u.Body, Trailer: u.TrailerFn, Done: u.DoneFn,
	}
	return r
}

// sender sends what is to come of a request's body.
type sender struct {
	x      *exchange
	c      *upstream.HTTPConn
	body   *message.AttemptBody
	out    *message.Outgoing
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
	for len(b) < len(*buf) && s.body.Ready() {
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
		return s.chunks.End(b, s.body.Trailers(s.out.Trailer))
	}
	return b
}

// mayBegin waits until the upstream wants the body, or has not said for a while that
// it does not.
func (s *sender) mayBegin() bool {
	if s.goOn == nil {
		return true
	}
	timer := time.NewTimer(upstream.ContinueTimeout)
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
		for err == nil && len(b) < len(*out)/4 && s.body.Ready() { // many small chunks
			n, err = s.body.Read((*buf)[:len(*buf)/2])
			b = s.append(b, (*buf)[:n])
		}
		ended := errors.Is(err, io.EOF)
		if ended {
			b = s.end(b)
		}
		if len(b) > 0 && s.c.WriteHTTP1(b) != nil {
			return // the answer, or the end, says more
		}
		s.x.stall.moved()
		switch {
		case ended:
			s.c.HTTP1.Sent.Store(true)
			s.x.moved()
			return
		case err != nil:
			s.x.up.interrupt(s.c, err)
			return
		}
	}
}
