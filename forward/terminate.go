// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"crypto/tls"
	"net"
	"time"

	"github.com/egressd/egressd/forward/httpproxy"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/internal/peek"
	"github.com/egressd/egressd/policy"
)

// Terminator is a Decider that ends the TLS of some connections.
type Terminator interface {
	// Terminate says how TLS with an SNI, normalized, "" when absent, ends here. False:
	// it does not, and Decider.TLS decides about it.
	Terminate(c *Conn, sni string) (Termination, bool)
}

// Termination is how the TLS of a connection ends.
type Termination struct {
	// Decision denies: the TLS does not begin.
	policy.Decision
	// Detail says why.
	Detail string
	Config *tls.Config
	// Upstream is where what is within goes, unread; nil: it is HTTP.
	Upstream *policy.Upstream
	// Failure names why a handshake failed.
	Failure func(error) policy.Reason
	// Principal is the name of a client certificate that was verified.
	Principal func(tls.ConnectionState) string
}

// tlsMemory is what a connection's TLS takes, in bytes: records of both directions,
// certificates, keys, and a buffer that waits for a request.
const tlsMemory = 64 << 10

// replayed is a connection whose first bytes were peeked.
type replayed struct {
	relay.StreamSocket
	first []byte
}

func (r *replayed) Read(p []byte) (int, error) {
	if len(r.first) == 0 {
		r.first = nil
		return r.StreamSocket.Read(p)
	}
	n := copy(p, r.first)
	r.first = r.first[n:]
	return n, nil
}

// NetConn is the connection itself.
func (r *replayed) NetConn() net.Conn { return r.StreamSocket }

// termination says how the connection's TLS ends here; false: it does not.
func (t *conn) termination(sni string) (Termination, bool) {
	if end, ok := t.core.o.Decider.(Terminator); ok {
		return end.Terminate(&t.Info, sni)
	}
	return Termination{}, false
}

// readmitted says whether the newest policy lets a connection whose TLS has ended
// here go on. A certificate that is gone is for new ones.
func (t *conn) readmitted(s *session.Terminated) bool {
	end, ok := t.termination(s.SNI)
	if !ok {
		return false
	}
	if end.Verdict == policy.Deny {
		return end.Decision.Reason == policy.ReasonCertificate
	}
	return s.HTTP == (end.Upstream == nil) && (s.Certified || end.Config.ClientAuth != tls.RequireAndVerifyClientCert)
}

// terminate ends the connection's TLS, and treats what is within.
func (t *conn) terminate(op Admission, end Termination, name string, p *relay.Peeked) httpproxy.Pending {
	if end.Verdict == policy.Deny {
		t.Refuse(end.Decision, "tls", name, end.Detail)
		return nil
	}
	if err := t.take(limits.Cost{Memory: tlsMemory}); err != nil {
		t.Refuse(session.Denied(session.DialReason(err), op.Rule), "tls", name, err.Error())
		return nil
	}
	if !t.handshake(end, name, p) {
		return nil
	}
	if t.core.generation.Load() != t.generation && !t.readmitted(t.TLS) {
		t.Refuse(session.Denied(policy.ReasonPolicyChanged, end.Rule), "tls", name, "")
		return nil
	}
	op = Admission{Protocol: HTTP, Decision: end.Decision}
	if end.Upstream == nil {
		return t.peekHTTP(op)
	}
	t.forward(end.Decision, end.Upstream, "tls", name, "", t.peek())
	return nil
}

// handshake makes the client's TLS the connection's stream. False: the connection has
// ended.
func (t *conn) handshake(end Termination, name string, p *relay.Peeked) bool {
	first := bytes.Clone(p.Bytes)
	p.Free()
	c := tls.Server(&replayed{StreamSocket: t.NC, first: first}, end.Config)
	err := c.SetDeadline(p.Deadline)
	if err == nil {
		err = c.Handshake()
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		t.failed(end, name, err)
		return false
	}
	state := c.ConnectionState()
	s := &session.Terminated{SNI: name, HTTP: end.Upstream == nil, Certified: len(state.PeerCertificates) > 0}
	if s.Certified {
		s.Principal, s.Cert = end.Principal(state), clientCert(state.PeerCertificates[0])
	}
	t.EndTLS(c, s)
	return true
}

// failed records a handshake that failed. The connection is not reset: what crypto/tls
// has told the client is on its way.
//
//go:noinline
func (t *conn) failed(end Termination, name string, err error) {
	d, detail := session.Denied(end.Failure(err), end.Rule), err.Error()
	if reason, why := t.KillReason(); reason != "" {
		d, detail = session.Denied(reason, end.Rule), why
	}
	t.RecordDenial(d, "tls", name, detail)
	t.Linger()
}

// isRequest says whether what was sniffed can be a request.
func isRequest(k peek.Sniffed) bool { return k == peek.HTTP1 || k == peek.HTTP2 }
