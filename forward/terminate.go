// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"crypto/tls"
	"net"
	"time"

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

// stream is the client's side of a connection: its bytes, or those within its TLS.
type stream interface {
	net.Conn
	CloseWrite() error
}

// secured is a connection whose TLS has ended here.
type secured struct {
	sni       string
	principal string
	http      bool // what is within is read
	// certified: the client has shown a certificate, which cert says in the form of
	// the X-Forwarded-Client-Cert header.
	certified bool
	cert      string
}

// tlsMemory is what a connection's TLS takes, in bytes: records of both directions,
// certificates, keys, and a buffer that waits for a request.
const tlsMemory = 64 << 10

// replayed is a connection whose first bytes were peeked.
type replayed struct {
	*net.TCPConn
	first []byte
}

func (r *replayed) Read(p []byte) (int, error) {
	if len(r.first) == 0 {
		r.first = nil
		return r.TCPConn.Read(p)
	}
	n := copy(p, r.first)
	r.first = r.first[n:]
	return n, nil
}

// NetConn is the connection itself.
func (r *replayed) NetConn() net.Conn { return r.TCPConn }

// bare is the TCP connection below c; nil: there is none.
func bare(c net.Conn) *net.TCPConn {
	for {
		switch of := c.(type) {
		case *net.TCPConn:
			return of
		case interface{ NetConn() net.Conn }:
			c = of.NetConn()
		default:
			return nil
		}
	}
}

// termination says how the connection's TLS ends here; false: it does not.
func (t *conn) termination(sni string) (Termination, bool) {
	if end, ok := t.core.o.Decider.(Terminator); ok {
		return end.Terminate(&t.info, sni)
	}
	return Termination{}, false
}

// readmitted says whether the newest policy lets a connection whose TLS has ended
// here go on. A certificate that is gone is for new ones.
func (t *conn) readmitted(s *secured) bool {
	end, ok := t.termination(s.sni)
	if !ok {
		return false
	}
	if end.Verdict == policy.Deny {
		return end.Decision.Reason == policy.ReasonCertificate
	}
	return s.http == (end.Upstream == nil) && (s.certified || end.Config.ClientAuth != tls.RequireAndVerifyClientCert)
}

// terminate ends the connection's TLS, and treats what is within.
func (t *conn) terminate(op Admission, end Termination, name string, p *peeked) {
	if end.Verdict == policy.Deny {
		t.refuse(end.Decision, "tls", name, end.Detail)
		return
	}
	if err := t.take(cost{memory: tlsMemory}); err != nil {
		t.refuse(denied(dialReason(err), op.Rule), "tls", name, err.Error())
		return
	}
	if !t.handshake(end, name, p) {
		return
	}
	if t.core.generation.Load() != t.generation && !t.readmitted(t.secured) {
		t.refuse(denied(policy.ReasonPolicyChanged, end.Rule), "tls", name, "")
		return
	}
	op = Admission{Protocol: HTTP, Decision: end.Decision}
	if end.Upstream == nil {
		t.peekHTTP(op)
		return
	}
	t.forward(end.Decision, end.Upstream, "tls", name, "", t.newPeeked())
}

// handshake makes the client's TLS the connection's stream. False: the connection has
// ended.
func (t *conn) handshake(end Termination, name string, p *peeked) bool {
	c := tls.Server(&replayed{TCPConn: t.nc, first: p.bytes}, end.Config)
	err := c.SetDeadline(p.deadline)
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
	s := &secured{sni: name, http: end.Upstream == nil, certified: len(state.PeerCertificates) > 0}
	if s.certified {
		s.principal, s.cert = end.Principal(state), clientCert(state.PeerCertificates[0])
	}
	t.mu.Lock()
	t.secured, t.stream = s, c
	t.mu.Unlock()
	return true
}

// failed records a handshake that failed. The connection is not reset: what crypto/tls
// has told the client is on its way.
//
//go:noinline
func (t *conn) failed(end Termination, name string, err error) {
	d, detail := denied(end.Failure(err), end.Rule), err.Error()
	if reason, why := t.killReason(); reason != "" {
		d, detail = denied(reason, end.Rule), why
	}
	t.refused(d, "tls", name, detail)
	t.linger()
}

// isRequest says whether what was sniffed can be a request.
func isRequest(k peek.Sniffed) bool { return k == peek.HTTP1 || k == peek.HTTP2 }

// scheme is that of the connection's requests.
func (t *conn) scheme() string {
	if t.secured != nil {
		return "https"
	}
	return "http"
}
