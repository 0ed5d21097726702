// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/policy"
)

// ContinueTimeout is how long an upstream may take to say that it wants a body.
const ContinueTimeout = time.Second

// HTTP/2 with upstreams. The windows are what one stream, and all of a
// connection, may send before the client has read it.
const (
	StreamWindow = 256 << 10
	upWindow     = 512 << 10
	// pingAfter is how long an upstream connection may be silent before it is
	// asked. gRPC servers end connections that ask more often than every five
	// minutes.
	pingAfter   = 6 * time.Minute
	pingTimeout = 15 * time.Second
)

// UsualPing is what happens where no DestinationRule says anything.
var UsualPing = policy.HTTP2Keepalive{Interval: pingAfter, Timeout: pingTimeout}

// NewTransport returns a transport that speaks HTTP/2 on connections that it is
// given. It dials nothing, keeps nothing and repeats nothing of its own accord, and
// is as transparent as can be: no proxy of our environment and no compression of our
// own.
// Connections that are silent for ping.Interval are asked, and have ping.Timeout for
// the answer.
func NewTransport(ping policy.HTTP2Keepalive) *http.Transport {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		Protocols:              &protocols,
		DialContext:            carried,
		DisableCompression:     true,
		ExpectContinueTimeout:  ContinueTimeout,
		MaxResponseHeaderBytes: http1.MaxResponseHead,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream:     StreamWindow,
			MaxReceiveBufferPerConnection: upWindow,
			SendPingTimeout:               ping.Interval,
			PingTimeout:                   ping.Timeout,
		},
	}
}

// carriedKey is the context key of the connection that a transport is to use.
type carriedKey struct{}

func carried(ctx context.Context, _, _ string) (net.Conn, error) {
	if c, ok := ctx.Value(carriedKey{}).(*HTTPConn); ok {
		return c, nil
	}
	return nil, errors.New("forward: a transport may not dial")
}

// DialError is an error of the Dialer: nothing was sent. At is the address that was tried
// last; the zero AddrPort: none was.
type DialError struct {
	Err error
	At  netip.AddrPort
}

func (e *DialError) Error() string { return e.Err.Error() }
func (e *DialError) Unwrap() error { return e.Err }

// TriedAt is the address that was tried last when an error is one of the Dialer; the zero
// AddrPort: none was.
func TriedAt(err error) netip.AddrPort {
	var d *DialError
	if errors.As(err, &d) && d.At.IsValid() {
		return d.At
	}
	return dial.LastTried(err)
}

// IsDialError says whether an error is one of the Dialer.
func IsDialError(err error) bool {
	var d *DialError
	return errors.As(err, &d)
}
