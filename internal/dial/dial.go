// SPDX-License-Identifier: Apache-2.0

// Package dial connects to upstreams: to the first of several addresses that
// answers, or to a unix socket, and never to egressd itself. Which addresses an
// upstream has is decided before, by the caller.
package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// fallbackDelay is how long an address has before the next one is tried
// beside it (RFC 8305, section 5: 250 ms).
const fallbackDelay = 250 * time.Millisecond

// Any connects to the first of addrs that answers. They are tried in
// order; the next one starts when the one before fails or is silent for a
// quarter of a second. The error wraps ErrConnect and names every attempt.
func Any(ctx context.Context, addrs []netip.AddrPort) (net.Conn, error) {
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%w: no address to dial", ErrConnect)
	}
	if len(addrs) == 1 {
		c, err := dialOne(ctx, addrs[0])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrConnect, err)
		}
		return c, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	attempt := func(a netip.AddrPort) {
		c, err := dialOne(ctx, a)
		select {
		case results <- result{c, err}:
		case <-ctx.Done():
			if c != nil {
				c.Close()
			}
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var errs []error
	started := 0
	for len(errs) < len(addrs) {
		next := timer.C
		if started == len(addrs) {
			next = nil
		}
		select {
		case <-next:
			go attempt(addrs[started])
			started++
			timer.Reset(fallbackDelay)
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, r.err)
			timer.Reset(0)
		case <-ctx.Done():
			last := &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addrs[max(started, 1)-1]), Err: ctx.Err()}
			return nil, fmt.Errorf("%w: %w", ErrConnect, errors.Join(append(errs, last)...))
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrConnect, errors.Join(errs...))
}

// dialOne makes a plain TCP connection: MPTCP would lose splice(2) and the
// socket options that apply to TCP. It has no keepalive, which KeepAlive sets, for
// connections that live long enough to need it.
func dialOne(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1}
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", a.String())
}
