// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/egressd/egressd/forward/httpproxy"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/peek"
	"github.com/egressd/egressd/policy"
)

// peekReason names why the first bytes could not be read: otherwise is the
// reason when the client ended the connection itself.
func peekReason(err error, otherwise policy.Reason) policy.Reason {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return policy.ReasonPeekTimeout
	}
	return otherwise
}

// unused says whether the client ended the connection before its first byte:
// the loser of a race between addresses (RFC 8305), or a check that a port is
// open. Nothing was asked for, so nothing is denied.
func (t *conn) unused(err error, p *relay.Peeked) bool {
	reason, _ := t.KillReason()
	return reason == "" && len(p.Bytes) == 0 && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET))
}

// leave ends an unused connection.
//
//go:noinline
func (t *conn) leave(d policy.Decision) {
	e := t.CloseEvent(d, "tcp", "")
	e.Detail = "closed by the client before its first byte"
	t.Tell(e)
}

// peek is for the first bytes of the connection, or of what is within its TLS.
func (t *conn) peek() *relay.Peeked {
	return relay.NewPeeked(t.Stream, t.Opened.Add(t.core.o.PeekTimeout), &t.core.firstBytes)
}

func (t *conn) peekTLS(op Admission) httpproxy.Pending {
	p := t.peek()
	switch kind, err := p.Classify(p.Deadline); {
	case t.unused(err, p):
		t.leave(op.Decision)
	case err != nil:
		t.Refuse(session.Denied(peekReason(err, policy.ReasonNotTLS), op.Rule), "tls", "", "no ClientHello")
	case kind != peek.TLSHello:
		t.Refuse(session.Denied(policy.ReasonNotTLS, op.Rule), "tcp", "", kind.String())
	default:
		return t.tls(op, p)
	}
	return nil
}

func (t *conn) peekHTTP(op Admission) httpproxy.Pending {
	p := t.peek()
	p.HTTPOnly = true
	switch kind, err := p.Classify(p.Deadline); {
	case t.unused(err, p):
		t.leave(op.Decision)
	case err != nil:
		t.Refuse(session.Denied(peekReason(err, policy.ReasonNotHTTP), op.Rule), "http", "", "no request")
	case !isRequest(kind):
		t.Refuse(session.Denied(policy.ReasonNotHTTP, op.Rule), "tcp", "", kind.String())
	default:
		return t.http(op, p)
	}
	return nil
}

// sniff lets the first bytes decide. Where op allows opaque bytes a client
// that is silent, or speaks something else, is spliced; one that stopped
// within what could be a hello or a request is not.
func (t *conn) sniff(op Admission) httpproxy.Pending {
	p := t.peek()
	silence := p.Deadline
	if op.Upstream != nil {
		silence = t.Opened.Add(t.core.o.SniffTimeout)
	}
	kind, err := p.Classify(silence)
	switch {
	case errors.Is(err, io.EOF):
		kind = peek.Other // all that the client had to say
	case errors.Is(err, os.ErrDeadlineExceeded) && len(p.Bytes) == 0 && op.Upstream != nil:
		kind = peek.Other
	case err != nil:
		t.Refuse(session.Denied(peekReason(err, policy.ReasonMalformed), op.Rule), "tcp", "", "no first bytes")
		return nil
	}
	switch kind {
	case peek.TLSHello:
		return t.tls(op, p)
	case peek.HTTP1, peek.HTTP2:
		return t.http(op, p)
	default:
		t.opaque(op, p)
	}
	return nil
}

// opaque forwards without looking at the bytes; p is nil when none were read.
func (t *conn) opaque(op Admission, p *relay.Peeked) {
	t.setPhase(phaseOpaque, "")
	if t.core.generation.Load() != t.generation {
		op = t.core.o.Decider.Open(&t.Info)
	}
	switch {
	case op.Verdict == policy.Deny || op.Protocol == Refuse:
		op.Verdict = policy.Deny
		t.Refuse(op.Decision, "tcp", "", "")
	case !opaqueAllowed(op):
		t.Refuse(session.Denied(policy.ReasonNoName, op.Rule), "tcp", "", "neither TLS nor HTTP")
	default:
		t.forward(op.Decision, op.Upstream, "tcp", opaqueName(op.Decision, op.Upstream), "", p)
	}
}

// opaqueName is the name of what the client wanted, which rules may have sent elsewhere.
func opaqueName(d policy.Decision, u *policy.Upstream) string {
	if d.Port == nil || d.Rule == d.Port.Rule || d.Port.Upstream == nil {
		return u.Host // no rule
	}
	if h := d.Port.Upstream.Match; h != nil && !h.Pattern.IsWildcard() {
		return string(h.Pattern)
	}
	return u.Host
}

// way notes where a connection goes whose bytes are not read.
func way(e *flow.Event, d *policy.Decision, u *policy.Upstream) {
	if d.Port != nil && d.Rule != d.Port.Rule {
		e.Route = d.Rule
	}
	if d.Through != nil {
		e.Gateway = d.Through.Name
	}
	e.Destination, e.Subset = u.Host, u.Subset
	e.IdleTimeout, e.MaxDuration = u.IdleTimeout(), u.MaxDuration()
}

// tls reads the rest of the ClientHello and forwards by its SNI.
func (t *conn) tls(op Admission, p *relay.Peeked) httpproxy.Pending {
	hello, status := peek.ClientHello(p.Bytes)
	for status == peek.More {
		if err := p.More(p.Deadline); err != nil {
			t.Refuse(session.Denied(peekReason(err, policy.ReasonMalformed), op.Rule), "tls", "", "ClientHello incomplete")
			return nil
		}
		hello, status = peek.ClientHello(p.Bytes)
	}
	if status == peek.Malformed {
		t.Refuse(session.Denied(policy.ReasonMalformed, op.Rule), "tls", "", "ClientHello")
		return nil
	}
	name, err := sniName(hello)
	if err != nil {
		t.Refuse(session.Denied(policy.ReasonName, op.Rule), "tls", "", err.Error())
		return nil
	}
	t.setPhase(phaseTLS, name)
	if end, ok := t.termination(name); ok {
		return t.terminate(op, end, name, p)
	}
	t.setPhase(phasePassed, name)
	if end, ends := t.termination(name); ends { // since a moment ago
		t.Refuse(session.Denied(policy.ReasonPolicyChanged, end.Rule), "tls", name, "")
		return nil
	}
	d, u := t.core.o.Decider.TLS(&t.Info, name)
	if d.Verdict == policy.Deny {
		t.Refuse(d, "tls", name, "")
		return nil
	}
	p.Second = peek.NewSecond(hello)
	if p.Second.Read(p.Bytes[hello.Wire:]) == peek.Refused {
		t.Refuse(session.Denied(policy.ReasonName, op.Rule), "tls", name, relay.SecondName)
		return nil
	}
	var detail string
	if hello.ECH {
		detail = "encrypted ClientHello present; the outer name decided"
	}
	t.forward(d, u, "tls", name, detail, p)
	return nil
}

// sniName returns the hello's name, normalized, "" when it has none.
func sniName(h peek.Hello) (string, error) {
	if !h.HasSNI {
		return "", nil
	}
	if _, err := netip.ParseAddr(h.SNI); err == nil {
		return "", fmt.Errorf("SNI %q is an address", h.SNI) // RFC 6066, 3: not permitted
	}
	name, err := hostname.Normalize(h.SNI)
	if err != nil {
		return "", fmt.Errorf("SNI %q: %s", h.SNI, err)
	}
	return name, nil
}

// forward dials u, hands it the peeked bytes and splices until both ends are
// done.
func (t *conn) forward(d policy.Decision, u *policy.Upstream, proto, name, detail string, p *relay.Peeked) {
	if u == nil {
		t.Refuse(session.Denied(policy.ReasonUpstream, d.Rule), proto, name, "no upstream")
		return
	}
	if reason, _ := t.KillReason(); reason != "" {
		t.Refuse(d, proto, name, "")
		return
	}
	if err := t.take(limits.Cost{Descriptors: limits.SpliceDescriptors, Memory: limits.SpliceMemory}); err != nil {
		t.Refuse(session.Denied(session.DialReason(err), d.Rule), proto, name, err.Error())
		return
	}
	e := t.Event(flow.Decision, d, proto, name)
	e.Detail = detail
	way(&e, &d, u)
	t.Record(e, d, u)

	up, on, err := t.dial(u)
	if err != nil {
		relay.Reset(t.NC)
		end := t.CloseEvent(d, proto, name)
		if reason, _ := t.KillReason(); reason == "" {
			end.Reason, end.Detail, end.WouldDeny = session.DialReason(err), err.Error(), false
		}
		way(&end, &d, u)
		end.Upstream = upstream.TriedAt(err)
		t.Record(end, d, u)
		return
	}
	defer on.End()
	defer up.Close()
	sent, received := t.Relay.Splice(t.Stream, up, p, &relay.Splicing{
		Idle: cmp.Or(u.IdleTimeout(), t.core.o.IdleTimeout), Most: u.MaxDuration(),
		Enforce: t.Info.Mode == policy.Enforce, Kill: t.KillFlagged,
	})
	end := t.CloseEvent(d, proto, name)
	way(&end, &d, u)
	end.Upstream = relay.AddrPort(up.RemoteAddr())
	end.BytesSent, end.BytesReceived = sent, received
	if err := upstream.Rejection(up); err != nil && end.Reason == policy.ReasonAllowed {
		end.Reason, end.Detail = policy.ReasonTLSRejected, "the server refuses the connection: "+err.Error()
	}
	t.Record(end, d, u)
}

// dial connects to u and attaches the connection; d.end is to be called at its end.
func (t *conn) dial(u *policy.Upstream) (up net.Conn, d upstream.Drawn, err error) {
	if up, d, err = t.Ups.DialDrawn(t.Ctx, u); err != nil {
		return nil, d, err
	}
	if !t.Attach(up) {
		d.End()
		return nil, d, session.ErrKilled
	}
	return up, d, nil
}

// http serves the requests of the connection.
func (t *conn) http(op Admission, p *relay.Peeked) httpproxy.Pending {
	t.setPhase(phaseHTTP, "")
	if t.core.generation.Load() != t.generation {
		if op = t.core.o.Decider.Open(&t.Info); op.Verdict == policy.Deny || op.Protocol == Refuse || !t.carriesHTTP(op, t.TLS) {
			t.Refuse(session.Denied(policy.ReasonPolicyChanged, op.Rule), "http", "", "")
			return nil
		}
	}
	if err := p.Done(); err != nil {
		t.Refuse(session.Denied(policy.ReasonPeekTimeout, op.Rule), "http", "", err.Error())
		return nil
	}
	if reason, _ := t.KillReason(); reason != "" {
		t.Refuse(op.Decision, "http", "", "")
		return nil
	}
	multiplexed := peek.Classify(p.Request()) == peek.HTTP2
	if err := t.take(limits.Cost{Memory: httpproxy.MemoryOf(multiplexed)}); err != nil {
		t.Refuse(session.Denied(session.DialReason(err), op.Rule), "http", "", err.Error())
		return nil
	}
	return t.core.http.Open(t.Session, op, p, multiplexed)
}
