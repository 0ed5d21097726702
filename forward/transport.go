// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

const (
	continueTimeout        = time.Second
	maxResponseHeaderBytes = 256 << 10
	// userTimeout is how long data may be unacknowledged, or a window shut,
	// before the peer counts as gone (TCP_USER_TIMEOUT); the kernel's own bound
	// is some 15 minutes.
	userTimeout = 2 * time.Minute
)

// HTTP/2 with upstreams. The windows are what one stream, and all of a
// connection, may send before the client has read it.
const (
	streamWindow = 256 << 10
	upWindow     = 512 << 10
	// pingAfter is how long an upstream connection may be silent before it is
	// asked. gRPC servers end connections that ask more often than every five
	// minutes.
	pingAfter   = 6 * time.Minute
	pingTimeout = 15 * time.Second
)

// transports speak HTTP on connections that they are given. They dial nothing,
// keep nothing and repeat nothing of their own accord.
type transports struct{ http1, http2 *http.Transport }

func newTransports() *transports {
	return &transports{http1: newTransport(false), http2: newTransport(true)}
}

// newTransport returns a transport that is as transparent as can be: no proxy
// of our environment and no compression of our own.
func newTransport(http2 bool) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	t := &http.Transport{
		Protocols:              &protocols,
		DialContext:            carried,
		DisableCompression:     true,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxResponseHeaderBytes,
	}
	if http2 {
		t.HTTP2 = &http.HTTP2Config{
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReceiveBufferPerConnection: upWindow,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTimeout,
		}
	}
	return t
}

// carriedKey is the context key of the connection that a transport is to use.
type carriedKey struct{}

func carried(ctx context.Context, _, _ string) (net.Conn, error) {
	if c, ok := ctx.Value(carriedKey{}).(*upstreamConn); ok {
		return c, nil
	}
	return nil, errors.New("forward: a transport may not dial")
}

// speak has the transport for c's protocol speak on it.
func (t *transports) speak(ctx context.Context, c *upstreamConn) error {
	transport := t.http1
	if c.key.http2 {
		transport = t.http2
	}
	// The context is for the making only.
	client, err := transport.NewClientConn(context.WithValue(ctx, carriedKey{}, c), "http", "upstream:80")
	c.client = client
	return err
}

// dialError is an error of the Dialer: nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func isDialError(err error) bool {
	var d *dialError
	return errors.As(err, &d)
}

// setUserTimeout has the kernel give up a TCP connection whose peer is gone.
func setUserTimeout(nc net.Conn) {
	setTCP(nc, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
}

// acknowledge sends the acknowledgement that the kernel would put off (by 40 ms
// and more) to have it travel with an answer: who waits for it before it sends
// the rest of a message (RFC 896) waits for nothing.
func acknowledge(nc net.Conn) { setTCP(nc, unix.TCP_QUICKACK, 1) }

// setTCP sets an option of a TCP connection. It fails on a closed one only, of
// which the next read tells.
func setTCP(nc net.Conn, option, value int) {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tc.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value)
	})
}
