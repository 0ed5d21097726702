// SPDX-License-Identifier: Apache-2.0

package session

import (
	"net"
	"time"
)

// ByteStream is the client's side of a connection: its bytes, or those within its TLS.
type ByteStream interface {
	net.Conn
	CloseWrite() error
}

// Terminated is what is known of a connection whose TLS has ended here.
type Terminated struct {
	SNI       string
	Principal string
	HTTP      bool // what is within is read
	// Certified: the client has shown a certificate, which Cert says in the form of
	// the X-Forwarded-Client-Cert header.
	Certified bool
	Cert      string
}

// EndTLS makes what is within the client's TLS the connection's stream, before anything
// is forwarded.
func (t *Session) EndTLS(stream ByteStream, known *Terminated) {
	t.mu.Lock()
	t.Stream, t.TLS = stream, known
	t.mu.Unlock()
}

// State says of a connection that others serve whether its TLS has ended here; nil: it
// has not.
func (t *Session) State() *Terminated {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.TLS
}

// Scheme is that of the connection's requests.
func (t *Session) Scheme() string {
	if t.TLS != nil {
		return "https"
	}
	return "http"
}

// How long is read on behind an answer to an unfinished request: in all, and
// without a byte.
const (
	lingerTime  = 5 * time.Second
	lingerQuiet = time.Second
)

// Linger ends the connection after an answer to a request that was not read to
// its end. The client may still be sending; a connection that is closed with
// bytes unread is reset, and the reset would overtake the answer. So what comes
// is read and thrown away for a while (RFC 9112, 9.6).
func (t *Session) Linger() {
	if t.Stream != ByteStream(t.NC) {
		_ = t.Stream.CloseWrite() // the end within TLS comes before that of the connection
	}
	nc := t.NC
	if nc.CloseWrite() != nil {
		return // closed already
	}
	buf := t.shared.Buffers.Get()
	defer t.shared.Buffers.Put(buf)
	for end := time.Now().Add(lingerTime); ; {
		wait := min(lingerQuiet, time.Until(end))
		if wait <= 0 || nc.SetReadDeadline(time.Now().Add(wait)) != nil {
			return
		}
		if _, err := nc.Read(*buf); err != nil {
			return
		}
	}
}
