// SPDX-License-Identifier: Apache-2.0

package originate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/policy"
)

// handshake originates TLS on nc.
func (o *Originator) handshake(ctx context.Context, nc net.Conn, t *policy.ClientTLS, j Job) (net.Conn, error) {
	conf, err := o.config(t, j)
	if err != nil {
		return nil, err
	}
	c := &Secured{Conn: tls.Client(nc, conf)}
	if err := c.HandshakeContext(ctx); err != nil {
		var verify *verifyError
		switch {
		case errors.As(err, &verify):
			return nil, &TransportError{policy.ReasonTLSVerify, "the server's certificate is not accepted", verify.err}
		case Rejected(err):
			return nil, &TransportError{policy.ReasonTLSRejected, "the server refuses the handshake", err}
		}
		e := failed(policy.ReasonTLSHandshake, err)
		e.Text = "TLS handshake"
		return nil, e
	}
	return c, nil
}

// config is that of one connection.
func (o *Originator) config(t *policy.ClientTLS, j Job) (*tls.Config, error) {
	where, err := o.where(t)
	if err != nil {
		return nil, err
	}
	material := &certs.Material{}
	if where != nil {
		if material, err = o.o.Stock.Material(*where); err != nil {
			return nil, &TransportError{policy.ReasonTLSCredential, "", err}
		}
	}
	v := &verifier{names: t.SubjectAltNames, material: material, now: o.o.Now, host: j.Name}
	if t.SNI != "" {
		v.host = t.SNI
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: v.host,
		Time:       o.o.Now,
		// It is verified by verifier, also where a session is resumed.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection:   v.verify,
	}
	switch {
	case t.InsecureSkipVerify:
		o.warn(j.Upstream)
		conf.VerifyConnection = nil
	case len(v.names) == 0 && (v.host == "" || strings.HasPrefix(v.host, "*")):
		return nil, &TransportError{policy.ReasonTLSVerify, fmt.Sprintf("no name is known that the server's certificate must have: the DestinationRule for %s needs subjectAltNames or sni", j.Upstream.Host), nil}
	case t.Secret != "" && t.Mode == policy.TLSSimple && material.CA == nil:
		return nil, &TransportError{policy.ReasonTLSCredential, where.String() + " has no ca.crt (or cacert)", nil}
	}
	if strings.HasPrefix(conf.ServerName, "*") {
		conf.ServerName = ""
	}
	if t.Mode == policy.TLSMutual {
		if material.Pair == nil {
			return nil, &TransportError{policy.ReasonTLSCredential, where.String() + " has no certificate with its key", nil}
		}
		conf.Certificates = []tls.Certificate{*material.Pair}
	}
	if j.Protocol != "" {
		conf.NextProtos = []string{j.Protocol}
	}
	if _, err := netip.ParseAddr(conf.ServerName); conf.ServerName != "" && err != nil {
		conf.ClientSessionCache = o.sessions.of(sessionKey{
			holder: j.Holder, transport: j.Upstream.Transport(), name: v.host, protocol: j.Protocol, material: material.Sum,
		})
	}
	return conf, nil
}

// verifier verifies whom a connection leads to.
type verifier struct {
	names    []string // of which the certificate must have one
	host     string   // which it must have without names
	material *certs.Material
	now      func() time.Time
}

type verifyError struct{ err error }

func (e *verifyError) Error() string { return e.err.Error() }
func (e *verifyError) Unwrap() error { return e.err }

func (v *verifier) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return &verifyError{errors.New("the server has no certificate")}
	}
	leaf := cs.PeerCertificates[0]
	opts := x509.VerifyOptions{Roots: v.material.CA, Intermediates: x509.NewCertPool(), CurrentTime: v.now()}
	for _, c := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := leaf.Verify(opts)
	if err != nil {
		return &verifyError{err}
	}
	if err := v.named(leaf); err != nil {
		return &verifyError{err}
	}
	if len(v.material.CRLs) > 0 {
		if err := v.current(chains); err != nil {
			return &verifyError{err}
		}
	}
	return nil
}

// named checks that the certificate is for whom it must be: one of subjectAltNames, by
// DNS names, addresses or URIs, else the host.
func (v *verifier) named(leaf *x509.Certificate) error {
	if len(v.names) == 0 {
		return leaf.VerifyHostname(v.host)
	}
	for _, n := range v.names {
		if leaf.VerifyHostname(n) == nil {
			return nil
		}
		for _, u := range leaf.URIs {
			if u.String() == n {
				return nil
			}
		}
	}
	return fmt.Errorf("it has none of the subjectAltNames %s", strings.Join(v.names, ", "))
}

// current checks that one of the chains has no revoked certificate. As in Envoy, a CA
// without a list, or with one that is too old, makes a chain useless.
func (v *verifier) current(chains [][]*x509.Certificate) (err error) {
	for _, chain := range chains {
		if err = v.unrevoked(chain); err == nil {
			return nil
		}
	}
	return err
}

func (v *verifier) unrevoked(chain []*x509.Certificate) error {
	for i, c := range chain[:len(chain)-1] {
		list, err := v.listOf(chain[i+1])
		if err != nil {
			return err
		}
		for _, r := range list.RevokedCertificateEntries {
			if r.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return fmt.Errorf("certificate %x of %q is revoked", c.SerialNumber, c.Issuer.String())
			}
		}
	}
	return nil
}

// listOf is the newest list of an issuer: files have old ones in front of new ones.
func (v *verifier) listOf(issuer *x509.Certificate) (*x509.RevocationList, error) {
	var newest *x509.RevocationList
	for _, l := range v.material.CRLs {
		if (newest == nil || l.ThisUpdate.After(newest.ThisUpdate)) && l.CheckSignatureFrom(issuer) == nil {
			newest = l
		}
	}
	switch {
	case newest == nil:
		return nil, fmt.Errorf("there is no list of the certificates that %q revoked", issuer.Subject.String())
	case !newest.NextUpdate.IsZero() && v.now().After(newest.NextUpdate):
		return nil, fmt.Errorf("the list of certificates that %q revoked is of before %s", issuer.Subject.String(), newest.NextUpdate.UTC().Format(time.RFC3339))
	}
	return newest, nil
}

// Secured is a connection with TLS.
type Secured struct {
	*tls.Conn
	rejected atomic.Pointer[error]

	mu     sync.Mutex
	readBy time.Time // the deadline that others have set
}

// SetDeadline bounds reads and writes.
func (c *Secured) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds reads, also when Quiet has one under way.
func (c *Secured) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = t
	return c.Conn.SetReadDeadline(t)
}

// lookUntil bounds the reads of Quiet, where others have not a bound that is earlier.
func (c *Secured) lookUntil(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.readBy.IsZero() && c.readBy.Before(t) {
		t = c.readBy
	}
	return c.Conn.SetReadDeadline(t)
}

// looked has the bound of others hold again.
func (c *Secured) looked() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Conn.SetReadDeadline(c.readBy)
}

// Read notes when the peer refuses what was sent, which with TLS 1.3 may be known
// only now.
func (c *Secured) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && Rejected(err) {
		c.rejected.Store(&err)
	}
	return n, err
}

// Rejection is the alert that the peer ended the connection by; nil: it did not.
func (c *Secured) Rejection() error {
	if err := c.rejected.Load(); err != nil {
		return *err
	}
	return nil
}

// quietWait bounds how long Quiet reads what is none of the application's.
const quietWait = time.Millisecond

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// Quiet says whether nothing for the application has come, neither bytes nor the end.
// Tickets for later sessions come at any time, and are taken. Nobody may be reading.
// A record may have come in one segment with the one before it, which was read: it is
// here and not in the kernel, and is found by a read that may not wait.
func (c *Secured) Quiet() bool {
	until := longAgo
	if pending(c.NetConn()) {
		until = time.Now().Add(quietWait)
	}
	if c.lookUntil(until) != nil {
		return false
	}
	var b [1]byte
	n, err := c.Conn.Read(b[:])
	var timeout net.Error
	quiet := n == 0 && errors.As(err, &timeout) && timeout.Timeout()
	return c.looked() == nil && quiet
}

// pending says whether the kernel has something of a connection to read, its end as
// well.
func pending(nc net.Conn) bool {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return true // nobody knows
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	some := true
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, e := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		some = !errors.Is(e, unix.EAGAIN)
	})
	return err != nil || some
}
