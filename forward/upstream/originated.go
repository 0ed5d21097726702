// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/policy"
)

// Dial connects to u, and makes of the connection what a DestinationRule asks for.
// protocol is what is to be spoken on it: "h2", "http/1.1", or "" for bytes.
func (m *ClusterManager) Dial(ctx context.Context, info *downstream.Conn, u *policy.Upstream, protocol string) (net.Conn, error) {
	nc, err := m.dial(ctx, info, u, protocol)
	if err == nil && u.Transport() == "" {
		setKeepAlive(nc, u)
	}
	return nc, err
}

// dial is Dial for a connection that may be too short-lived to be asked whether it is
// there: the caller sees to that where no TLS is on it.
func (m *ClusterManager) dial(ctx context.Context, info *downstream.Conn, u *policy.Upstream, protocol string) (net.Conn, error) {
	plain := u.Transport() == ""
	if !plain && m.o.Originator == nil {
		return nil, fmt.Errorf("%w: %s", dial.ErrUnsupported, u.Transport())
	}
	nc, err := m.o.Dialer.Dial(ctx, info, u)
	if err != nil || plain {
		return nc, err
	}
	SetUserTimeout(nc)
	setKeepAlive(nc, u)
	name := u.ServerName
	if name == "" {
		name = u.Host
	}
	at := relay.AddrPort(nc.RemoteAddr())
	secured, err := m.o.Originator.Do(ctx, nc, originate.Job{
		Upstream: u, Name: name, Protocol: protocol, Holder: holderOf(info), Src: info.Src, Dst: info.Dst,
	})
	if err != nil {
		return nil, &DialError{err, at}
	}
	return secured, nil
}

// holderOf tells apart who may not have TLS sessions of each other.
func holderOf(info *downstream.Conn) string {
	return string(info.Layer) + "/" + strconv.FormatUint(uint64(info.WorkloadID), 10) + "/" + info.Workload + "/" + strconv.FormatUint(uint64(info.Policy), 10)
}

// ALPN is the name of a version of HTTP in ALPN (RFC 7301).
func ALPN(http2 bool) string {
	if http2 {
		return "h2"
	}
	return "http/1.1"
}

// Secured says whether requests are sent by TLS that egressd originates.
func (c *HTTPConn) Secured() bool {
	_, ok := c.Conn.(*originate.Secured)
	return ok
}

// Rejection is why the upstream refused TLS, which it may do when the handshake is
// over for us; nil: it did not, as far as is known.
func Rejection(up net.Conn) error {
	if c, ok := up.(*originate.Secured); ok {
		return c.Rejection()
	}
	return nil
}
