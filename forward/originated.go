// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// dial connects to u, and makes of the connection what a DestinationRule asks for.
// protocol is what is to be spoken on it: "h2", "http/1.1", or "" for bytes.
func (c *Core) dial(ctx context.Context, info *Conn, u *policy.Upstream, protocol string) (net.Conn, error) {
	plain := u.Transport() == ""
	if !plain && c.o.Originator == nil {
		return nil, fmt.Errorf("%w: %s", dial.ErrUnsupported, u.Transport())
	}
	nc, err := c.o.Dialer.Dial(ctx, info, u)
	if err != nil || plain {
		return nc, err
	}
	setUserTimeout(nc)
	keepalive(nc, u)
	name := u.ServerName
	if name == "" {
		name = u.Host
	}
	return c.o.Originator.Do(ctx, nc, originate.Job{
		Upstream: u, Name: name, Protocol: protocol, Holder: holderOf(info), Src: info.Src, Dst: info.Dst,
	})
}

// holderOf tells apart who may not have TLS sessions of each other.
func holderOf(info *Conn) string {
	return string(info.Layer) + "/" + strconv.FormatUint(uint64(info.WorkloadID), 10) + "/" + info.Workload + "/" + strconv.FormatUint(uint64(info.Policy), 10)
}

// protocolOf is the name of a version of HTTP in ALPN (RFC 7301).
func protocolOf(http2 bool) string {
	if http2 {
		return "h2"
	}
	return "http/1.1"
}

// hostOf is the host of an authority, without its port.
func hostOf(authority string) string {
	if host, _, err := parseAuthority(authority); err == nil {
		return host
	}
	return strings.ToLower(authority)
}

// secured says whether requests are sent by TLS that egressd originates.
func (c *upstreamConn) secured() bool {
	_, ok := c.Conn.(*originate.Secured)
	return ok
}

// rejected has the event of a connection say that the upstream refused TLS, which it
// may do when the handshake is over for us.
func rejected(e *flow.Event, up net.Conn) {
	c, ok := up.(*originate.Secured)
	if !ok {
		return
	}
	if err := c.Rejection(); err != nil && e.Reason == policy.ReasonAllowed {
		e.Reason, e.Detail = policy.ReasonTLSRejected, "the server refuses the connection: "+err.Error()
	}
}

// tcp is the TCP connection that c is or is made of; nil: there is none.
func tcp(c net.Conn) *net.TCPConn {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	tc, _ := c.(*net.TCPConn)
	return tc
}

// withhold takes out of a request what credentials are to be set to: a client's own
// values never go out in their place.
func (o *outgoing) withhold(list []policy.HeaderCredential) {
	o.Credentials = list
	for i := range list {
		o.Header.Del(list[i].Name)
	}
}

// authorize sets the credentials of a request that is about to be sent on c.
func (x *exchange) authorize(c *upstreamConn, u *policy.Upstream, out *outgoing) error {
	for i := range out.Credentials {
		if !c.secured() {
			return &dialError{&originate.TransportError{Why: policy.ReasonCredential, Text: "a value from a Secret or a file goes out only by TLS that a DestinationRule has egressd originate, and none does for " + u.Host}}
		}
		value, err := x.core.o.Originator.Credential(u, &out.Credentials[i])
		if err != nil {
			return &dialError{err}
		}
		out.Header.Set(out.Credentials[i].Name, value)
	}
	return nil
}
