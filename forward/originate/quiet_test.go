// SPDX-License-Identifier: Apache-2.0

package originate_test

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/policy"
)

// TestQuietKeepsDeadlines: a deadline that somebody has set to end what waits for the
// upstream is still there when it was looked whether something has come.
func TestQuietKeepsDeadlines(t *testing.T) {
	ca := newAuthority(t, "ca")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		_, _ = io.Copy(io.Discard, tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "x.example.com", nil)}}))
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	o := originate.New(originate.Options{Stock: certs.NewStock(certs.Options{}), Log: slog.New(slog.DiscardHandler)})
	traffic := &policy.TrafficPolicy{TLS: &policy.ClientTLS{Mode: policy.TLSSimple, CA: ca.file}}
	up, err := o.Do(t.Context(), nc, originate.Job{Upstream: &policy.Upstream{Host: "x.example.com", Traffic: traffic}, Name: "x.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	c := up.(*originate.Secured)
	if !c.Quiet() {
		t.Error("something has come")
	}
	if err := c.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	c.Quiet()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read behind it: %v", err)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if !c.Quiet() {
		t.Error("a deadline that has passed counts as something that has come")
	}
	c.Close()
	<-ended
	if c.Quiet() {
		t.Error("one that is closed is quiet")
	}
}
