// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/egressd/egressd/policy"
)

const (
	// maxPipelined bounds the queries of one connection that are answered at
	// once; more are read when one is done.
	maxPipelined = 16
	// writeTimeout bounds the write of one reply to a client.
	writeTimeout = 5 * time.Second
	// firstQuestion is how long a connection that was accepted just before the
	// end may take to ask.
	firstQuestion = time.Second
)

// serveTCP accepts connections from ln until ctx is done.
func (s *Server) serveTCP(ctx, work context.Context, handlers *sync.WaitGroup, ln net.Listener) error {
	failures := 0
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if localFailure(err) {
				s.upstream.local(err)
			}
			if errors.Is(err, net.ErrClosed) || !pause(ctx, failures) {
				return fmt.Errorf("accept DNS connections: %w", err)
			}
			failures++
			continue
		}
		failures = 0
		client, ok := s.origins.OfConn(c)
		if !ok {
			s.noOrigin(policy.TCP, addrPort(c.RemoteAddr()))
			_ = c.Close()
			continue
		}
		if !s.conns.acquire(client.Workload) {
			s.stats.add(cConnOverload)
			_ = c.Close()
			continue
		}
		handlers.Go(func() {
			defer s.conns.release(client.Workload)
			s.serveConn(ctx, work, c, client)
		})
	}
}

// serveConn answers the queries of one connection, each as soon as it is
// ready (RFC 7766, section 6.2.1.1), until the client is done or silent for
// too long, or ctx is done. Who has not asked yet then was accepted just before,
// and may ask once.
func (s *Server) serveConn(ctx, work context.Context, c net.Conn, client Client) {
	defer c.Close()
	asked := false
	var reading sync.Mutex // guards asked and the deadline
	wait := func() (more bool) {
		reading.Lock()
		defer reading.Unlock()
		ended := ctx.Err() != nil
		_ = c.SetReadDeadline(s.readUntil(ended, asked))
		return !ended || !asked
	}
	wake := context.AfterFunc(ctx, func() { wait() })
	defer wake()
	late := context.AfterFunc(work, func() { _ = c.Close() })
	defer late()
	var pending sync.WaitGroup
	defer pending.Wait() // before Close
	var writing sync.Mutex
	send := func(out []byte) {
		if out == nil {
			return
		}
		writing.Lock()
		defer writing.Unlock()
		_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := writeFrame(c, out); err != nil {
			s.stats.add(cSendFailed)
			_ = c.Close() // a client that does not read gets no second wait
		}
	}
	slots := make(chan struct{}, maxPipelined)
	account := s.account(client)
	// As long as over UDP: an idle connection must not cost 64 KB.
	buf := make([]byte, maxQuery)
	for {
		if !wait() {
			return
		}
		raw, err := readFrame(c, buf)
		if err != nil {
			if errors.Is(err, errLong) {
				s.malformed(client, policy.TCP, nil, err)
			}
			return
		}
		if client.Probe == nil {
			s.stats.add(cQueryTCP)
		}
		reading.Lock()
		asked = true
		reading.Unlock()
		raw = slices.Clone(raw)
		slots <- struct{}{} // answers are bounded in time, so this wait is
		if !s.queries.acquire(account) {
			send(s.overloaded(client, policy.TCP, raw))
			<-slots
			continue
		}
		pending.Go(func() {
			defer func() { <-slots }()
			defer s.queries.release(account)
			send(s.reply(work, client, policy.TCP, raw))
		})
	}
}

// readUntil is how long a connection is waited for.
func (s *Server) readUntil(ended, asked bool) time.Time {
	switch {
	case !ended:
		return time.Now().Add(s.idle)
	case !asked:
		return time.Now().Add(min(s.drain, firstQuestion))
	}
	return time.Unix(1, 0)
}
