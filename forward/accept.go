// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Bounds of the pause after an Accept that failed for want of resources.
const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// maxFresh is how many connections may be accepted and not yet counted.
const maxFresh = 64

// ErrServed is what identify returns for a connection that it has served
// itself; it is closed, and nothing is recorded.
var ErrServed = errors.New("served already")

// Serve accepts connections on ln until ctx ends or ln is closed, and serves
// each in a goroutine of its own. identify says who a connection belongs to;
// when it fails the connection is refused with ReasonNoOrigin. Connections
// outlive ctx: Shutdown ends them. Serve closes ln. The error is nil when ctx
// ended.
func (c *Core) Serve(ctx context.Context, ln net.Listener, identify func(*net.TCPConn) (Conn, error)) error {
	return c.serve(ctx, ln, func(nc relay.StreamSocket) (Conn, error) { return identify(nc.(*net.TCPConn)) })
}

// ServeUnix is Serve for a unix socket. Whoever connects there has no address.
func (c *Core) ServeUnix(ctx context.Context, ln *net.UnixListener, identify func() (Conn, error)) error {
	return c.serve(ctx, ln, func(relay.StreamSocket) (Conn, error) { return identify() })
}

func (c *Core) serve(ctx context.Context, ln net.Listener, identify func(relay.StreamSocket) (Conn, error)) error {
	defer ln.Close()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	outlives := context.WithoutCancel(ctx)
	var pause time.Duration
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
		case ctx.Err() != nil:
			return nil
		case !passing(err):
			return err
		default:
			pause = min(max(2*pause, acceptPauseMin), acceptPauseMax)
			c.o.Log.Warn("a connection could not be accepted; it waits, and egressd tries again", "listener", ln.Addr(), "error", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
			continue
		}
		var to relay.StreamSocket
		switch nc := nc.(type) {
		case *net.TCPConn:
			to = nc
		case *net.UnixConn:
			to = relay.NewUnix(nc)
		default:
			nc.Close() // a listener of another kind is a mistake of the caller
			continue
		}
		// What is not counted yet is bounded, or a burst of connections of one
		// workload would take descriptors that are not its own.
		c.fresh <- struct{}{}
		c.accepting.Add(1)
		c.workers.serve(accepted{core: c, ctx: outlives, nc: to, identify: identify})
	}
}

// passing says whether an Accept error is worth another try: what one
// connection or the system's limits caused, as opposed to the listener.
func passing(err error) bool {
	for _, e := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR, syscall.EAGAIN,
		syscall.EPERM, syscall.EPROTO, // accept(2): firewall rules; errors of the new socket
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// accepted is a connection that is to be served, or served again after a rest.
type accepted struct {
	core     *Core
	ctx      context.Context
	nc       relay.StreamSocket
	identify func(relay.StreamSocket) (Conn, error)
	rested   *conn // nil: it was accepted just now
}

func (a *accepted) serve() {
	t := a.rested
	if t == nil {
		if info := a.identified(); info != nil {
			t = a.core.begin(a.ctx, a.nc, info)
		}
		<-a.core.fresh // it is counted now, or gone
	}
	if t == nil || !t.run(true) {
		a.core.accepting.Add(-1)
	}
}

// identified says whose the connection is; nil: nobody's, or it has been served.
//
//go:noinline
func (a *accepted) identified() *Conn {
	info, err := a.identify(a.nc)
	switch {
	case err == nil:
		return &info
	case errors.Is(err, ErrServed):
		a.nc.Close()
	default:
		a.core.unidentified(info, err)
		relay.Reset(a.nc)
	}
	return nil
}

// unidentified records a connection of nobody. It stands alone for what an event
// takes of the stack.
//
//go:noinline
func (c *Core) unidentified(info Conn, err error) {
	c.shared.Refused.Add(1)
	c.shared.Teller.Tell(c.o.Sink, flow.Event{
		Time:      time.Now(),
		Kind:      flow.Decision,
		Layer:     info.Layer,
		Workload:  info.Workload,
		Process:   info.Process,
		Transport: policy.TCP,
		Proto:     "tcp",
		Dst:       info.Dst,
		Reason:    policy.ReasonNoOrigin,
		Detail:    err.Error(),
	})
}
