// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/egressd/egressd/internal/dial"
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
func (t *conn) unused(err error, p *peeked) bool {
	reason, _ := t.killReason()
	return reason == "" && len(p.bytes) == 0 && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET))
}

// leave ends an unused connection.
//
//go:noinline
func (t *conn) leave(d policy.Decision) {
	e := t.closeEvent(d, "tcp", "")
	e.Detail = "closed by the client before its first byte"
	t.core.o.Sink.Record(e)
}

func (t *conn) peekTLS(op Admission) {
	p := t.newPeeked()
	switch kind, err := p.classify(p.deadline); {
	case t.unused(err, p):
		t.leave(op.Decision)
	case err != nil:
		t.refuse(denied(peekReason(err, policy.ReasonNotTLS), op.Rule), "tls", "", "no ClientHello")
	case kind != peek.TLSHello:
		t.refuse(denied(policy.ReasonNotTLS, op.Rule), "tcp", "", kind.String())
	default:
		t.tls(op, p)
	}
}

func (t *conn) peekHTTP(op Admission) *http1Conn {
	p := t.newPeeked()
	p.http = true
	switch kind, err := p.classify(p.deadline); {
	case t.unused(err, p):
		t.leave(op.Decision)
	case err != nil:
		t.refuse(denied(peekReason(err, policy.ReasonNotHTTP), op.Rule), "http", "", "no request")
	case kind != peek.HTTP1 && kind != peek.HTTP2:
		t.refuse(denied(policy.ReasonNotHTTP, op.Rule), "tcp", "", kind.String())
	default:
		return t.http(op, p)
	}
	return nil
}

// sniff lets the first bytes decide. Where op allows opaque bytes a client
// that is silent, or speaks something else, is spliced; one that stopped
// within what could be a hello or a request is not.
func (t *conn) sniff(op Admission) *http1Conn {
	p := t.newPeeked()
	silence := p.deadline
	if op.Upstream != nil {
		silence = t.opened.Add(t.core.o.SniffTimeout)
	}
	kind, err := p.classify(silence)
	switch {
	case errors.Is(err, io.EOF):
		kind = peek.Other // all that the client had to say
	case errors.Is(err, os.ErrDeadlineExceeded) && len(p.bytes) == 0 && op.Upstream != nil:
		kind = peek.Other
	case err != nil:
		t.refuse(denied(peekReason(err, policy.ReasonMalformed), op.Rule), "tcp", "", "no first bytes")
		return nil
	}
	switch kind {
	case peek.TLSHello:
		t.tls(op, p)
	case peek.HTTP1, peek.HTTP2:
		return t.http(op, p)
	default:
		t.opaque(op, p)
	}
	return nil
}

// opaque forwards without looking at the bytes; p is nil when none were read.
func (t *conn) opaque(op Admission, p *peeked) {
	t.setPhase(phaseOpaque, "")
	if t.core.generation.Load() != t.generation {
		op = t.core.o.Decider.Open(&t.info)
	}
	switch {
	case op.Verdict == policy.Deny || op.Protocol == Refuse:
		op.Verdict = policy.Deny
		t.refuse(op.Decision, "tcp", "", "")
	case !opaqueAllowed(op):
		t.refuse(denied(policy.ReasonNoName, op.Rule), "tcp", "", "neither TLS nor HTTP")
	default:
		t.forward(op.Decision, op.Upstream, "tcp", op.Upstream.Host, "", p)
	}
}

// tls reads the rest of the ClientHello and forwards by its SNI.
func (t *conn) tls(op Admission, p *peeked) {
	hello, status := peek.ClientHello(p.bytes)
	for status == peek.More {
		if err := p.more(p.deadline); err != nil {
			t.refuse(denied(peekReason(err, policy.ReasonMalformed), op.Rule), "tls", "", "ClientHello incomplete")
			return
		}
		hello, status = peek.ClientHello(p.bytes)
	}
	if status == peek.Malformed {
		t.refuse(denied(policy.ReasonMalformed, op.Rule), "tls", "", "ClientHello")
		return
	}
	name, err := sniName(hello)
	if err != nil {
		t.refuse(denied(policy.ReasonName, op.Rule), "tls", "", err.Error())
		return
	}
	t.setPhase(phaseTLS, name)
	d, u := t.core.o.Decider.TLS(&t.info, name)
	if d.Verdict == policy.Deny {
		t.refuse(d, "tls", name, "")
		return
	}
	p.second = peek.NewSecond(hello)
	if p.second.Read(p.bytes[hello.Wire:]) == peek.Refused {
		t.refuse(denied(policy.ReasonName, op.Rule), "tls", name, secondName)
		return
	}
	var detail string
	if hello.ECH {
		detail = "encrypted ClientHello present; the outer name decided"
	}
	t.forward(d, u, "tls", name, detail, p)
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
func (t *conn) forward(d policy.Decision, u *policy.Upstream, proto, name, detail string, p *peeked) {
	if u == nil {
		t.refuse(denied(policy.ReasonUpstream, d.Rule), proto, name, "no upstream")
		return
	}
	if reason, _ := t.killReason(); reason != "" {
		t.refuse(d, proto, name, "")
		return
	}
	if err := t.take(cost{descriptors: spliceDescriptors, memory: spliceMemory}); err != nil {
		t.refuse(denied(dialReason(err), d.Rule), proto, name, err.Error())
		return
	}
	e := t.event(flow.Decision, d, proto, name)
	e.Detail = detail
	t.core.o.Sink.Record(e)

	up, on, err := t.dial(u)
	if err != nil {
		reset(t.nc)
		end := t.closeEvent(d, proto, name)
		if reason, _ := t.killReason(); reason == "" {
			end.Reason, end.Detail, end.WouldDeny = dialReason(err), err.Error(), false
		}
		t.core.o.Sink.Record(end)
		return
	}
	defer on.end()
	defer up.Close()
	sent, received := t.splice(u, up, p)
	end := t.closeEvent(d, proto, name)
	end.Upstream = addrPort(up.RemoteAddr())
	end.BytesSent, end.BytesReceived = sent, received
	t.core.o.Sink.Record(end)
}

// dial connects to u and attaches the connection; d.end is to be called at its end.
func (t *conn) dial(u *policy.Upstream) (up net.Conn, d drawn, err error) {
	if up, d, err = t.dialDrawn(u); err != nil {
		return nil, d, err
	}
	if !t.attach(up) {
		d.end()
		return nil, d, errKilled
	}
	return up, d, nil
}

// dialReason names the reason of a Dialer's error, or of a limit's.
func dialReason(err error) policy.Reason {
	var limit *limitError
	switch {
	case errors.As(err, &limit):
		return limit.reason
	case errors.Is(err, dial.ErrAddress):
		return policy.ReasonAddress
	case errors.Is(err, dial.ErrResolve):
		return policy.ReasonResolve
	case errors.Is(err, dial.ErrEndpoint):
		return policy.ReasonEndpoint
	case errors.Is(err, dial.ErrUnsupported):
		return policy.ReasonNotSupported
	}
	return policy.ReasonUpstream
}
