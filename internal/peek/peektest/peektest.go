// SPDX-License-Identifier: Apache-2.0

// Package peektest makes what clients send first, for tests.
package peektest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// ClientHello returns the records that crypto/tls sends first with c: its
// ClientHello.
func ClientHello(c *tls.Config) ([]byte, error) {
	c = c.Clone()
	c.InsecureSkipVerify = true // without it a name is needed
	var sent recorder
	if err := tls.Client(&sent, c).Handshake(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("handshake without a server: %w", err)
	}
	return sent.Bytes(), nil
}

// recorder is a net.Conn that keeps what is written and has nothing to read.
type recorder struct{ bytes.Buffer }

func (*recorder) Read([]byte) (int, error)         { return 0, io.EOF }
func (*recorder) Close() error                     { return nil }
func (*recorder) LocalAddr() net.Addr              { return nil }
func (*recorder) RemoteAddr() net.Addr             { return nil }
func (*recorder) SetDeadline(time.Time) error      { return nil }
func (*recorder) SetReadDeadline(time.Time) error  { return nil }
func (*recorder) SetWriteDeadline(time.Time) error { return nil }
