// SPDX-License-Identifier: Apache-2.0

// Package originate makes of a TCP connection to an upstream what a DestinationRule
// asks for: a header of the PROXY protocol says who connects, TLS is originated,
// and a proxy is asked by CONNECT for what is behind it.
package originate

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/policy"
)

// Options are what an Originator works with.
type Options struct {
	// Stock has certificates and keys.
	Stock *certs.Stock
	// Directories are where private keys of policies may be.
	Directories []string
	// Now is the clock of certificates. time.Now.
	Now func() time.Time
	Log *slog.Logger // discarded
}

// Originator is safe for concurrent use.
type Originator struct {
	o        Options
	sessions sessions

	mu     sync.Mutex
	warned map[string]bool // rules whose insecureSkipVerify was logged
}

// New makes an Originator.
func New(o Options) *Originator {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Originator{o: o, warned: map[string]bool{}}
}

// Job says what a connection is for.
type Job struct {
	Upstream *policy.Upstream
	// Name is whom it is for: a request's host, or the upstream's.
	Name string
	// Protocol is what is offered by ALPN, "h2" or "http/1.1"; "": nothing.
	Protocol string
	// Holder tells workloads apart: none resumes a TLS session of another.
	Holder string
	// Src and Dst are the downstream connection's addresses.
	Src, Dst netip.AddrPort
}

// Do returns nc as it is to be used, or closes it. Errors are *TransportError; nothing of the
// client's was sent.
func (o *Originator) Do(ctx context.Context, nc net.Conn, j Job) (_ net.Conn, err error) {
	defer func() {
		if err != nil {
			nc.Close()
		}
	}()
	t := j.Upstream.Traffic
	if end, ok := ctx.Deadline(); ok {
		if err := nc.SetDeadline(end); err != nil {
			return nil, failed(policy.ReasonUpstream, err)
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(longAgo) })
	defer stop()
	out := nc
	if t.ProxyProtocol != 0 {
		if _, err := nc.Write(proxyHeader(t.ProxyProtocol, nc, j.Src, j.Dst)); err != nil {
			return nil, failed(policy.ReasonUpstream, err)
		}
	}
	if tls := t.Originated(); tls != nil {
		if out, err = o.handshake(ctx, nc, tls, j); err != nil {
			return nil, err
		}
	}
	if t.Tunnel != nil {
		if out, err = connect(out, t.Tunnel); err != nil {
			return nil, err
		}
	}
	if !stop() {
		return nil, failed(policy.ReasonUpstream, context.Cause(ctx))
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return nil, failed(policy.ReasonUpstream, err)
	}
	return out, nil
}

// where is the material of a rule; nil: it needs none.
func (o *Originator) where(t *policy.ClientTLS) (*certs.Where, error) {
	if t.Secret != "" {
		return &certs.Where{Secret: t.Secret}, nil
	}
	w := certs.Where{CA: t.CA, CRL: t.CRL}
	if t.Mode == policy.TLSMutual {
		w.Certificate, w.Key = t.Certificate, t.PrivateKey
	}
	if w == (certs.Where{}) {
		return nil, nil
	}
	for _, f := range []string{w.Certificate, w.Key} {
		if f != "" && (t.FromCluster || !certs.Within(o.o.Directories, f)) {
			return nil, &TransportError{policy.ReasonTLSCredential, "a policy on the node's disk may name keys below " + strings.Join(o.o.Directories, " or ") + " (--credentials-dir), an object of a cluster names a Secret; not " + f, nil}
		}
	}
	for _, f := range []string{w.CA, w.CRL} {
		if f != "" && t.FromCluster && !certs.Within(publicDirectories, f) {
			return nil, &TransportError{policy.ReasonTLSCredential, "an object of a cluster names a Secret, or CAs below " + strings.Join(publicDirectories, " or ") + "; not " + f, nil}
		}
	}
	return &w, nil
}

// publicDirectories have what every user of the node may read.
var publicDirectories = []string{"/etc/ssl/certs", "/etc/pki"}

// warn says once for each rule that nothing is verified.
func (o *Originator) warn(u *policy.Upstream) {
	rule := u.Host
	if u.TrafficRule != nil {
		rule = u.TrafficRule.Object()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.warned[rule] {
		o.warned[rule] = true
		o.o.Log.Warn("insecureSkipVerify: whoever answers is believed to be the upstream; remove it and name the CA", "rule", rule, "host", u.Host)
	}
}

// Credential is the value of a header for requests to u, as it is now. Errors have
// nothing of it.
func (o *Originator) Credential(u *policy.Upstream, c *policy.HeaderCredential) (string, error) {
	switch t := u.TLS(); {
	case t == nil:
		return "", &TransportError{policy.ReasonCredential, "no TLS is originated to " + u.Host, nil}
	case t.InsecureSkipVerify:
		return "", &TransportError{policy.ReasonCredential, "insecureSkipVerify: whoever answers for " + u.Host + " would get header " + c.Name, nil}
	case c.File != "" && (c.FromCluster || !certs.Within(o.o.Directories, c.File)):
		return "", &TransportError{policy.ReasonCredential, "a policy on the node's disk may name files below " + strings.Join(o.o.Directories, " or ") + " (--credentials-dir), not " + c.File, nil}
	}
	value, err := o.o.Stock.Value(certs.ValueWhere{Secret: c.Secret, Key: c.Key, File: c.File})
	if err != nil {
		return "", &TransportError{policy.ReasonCredential, "header " + c.Name, err}
	}
	return value, nil
}
