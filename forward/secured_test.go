// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/policy"
)

// gathers is a connection whose writes are held until it is flushed.
type gathers struct {
	net.Conn
	held []byte
	hold bool
}

func (g *gathers) Write(p []byte) (int, error) {
	if !g.hold {
		return g.Conn.Write(p)
	}
	g.held = append(g.held, p...)
	return len(p), nil
}

func (g *gathers) flush() {
	_, _ = g.Conn.Write(g.held)
	g.held, g.hold = nil, false
}

// TestUnaskedByTLS: as TestUnaskedBehindAnAnswer, where egressd originates TLS: what is
// behind an answer may be in a record of its own, which came in the same segment and
// lies in the engine of TLS by now, or in a segment of its own, which lies in the kernel.
func TestUnaskedByTLS(t *testing.T) {
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	const post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx"
	certificate := func() tls.Certificate {
		s := httptest.NewTLSServer(nil)
		defer s.Close()
		return s.TLS.Certificates[0]
	}()
	for name, segments := range map[string]int{"nothing": 0, "a record of the same segment": 1, "a segment": 2} {
		for _, share := range []bool{false, true} {
			for _, request := range []string{getOf("a.example"), post} {
				r := newRig(t, HTTP, func(o *Options) {
					o.Share = share
					o.Originator = originate.New(originate.Options{Stock: certs.NewStock(certs.Options{}), Log: slog.New(slog.DiscardHandler)})
				})
				r.http = func(req *policy.Request) policy.HTTPDecision {
					u := upstreamOf(req.Host)
					u.Traffic = &policy.TrafficPolicy{TLS: &policy.ClientTLS{Mode: policy.TLSSimple, InsecureSkipVerify: true}}
					return policy.HTTPDecision{Decision: allowed, Upstream: u}
				}
				said := make(chan struct{}, 100)
				r.origin("a.example", func(nc *net.TCPConn) {
					g := &gathers{Conn: nc}
					c := tls.Server(g, &tls.Config{Certificates: []tls.Certificate{certificate}})
					for br := bufio.NewReader(c); ; {
						req, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						_, _ = io.Copy(io.Discard, req.Body)
						g.hold = segments < 2
						_, _ = io.WriteString(c, okAnswer)
						if segments > 0 {
							_, _ = io.WriteString(c, evil)
						}
						if g.hold {
							g.flush()
						}
						said <- struct{}{}
					}
				})
				nc, good := r.dial(), 0
				for range 10 {
					status, body := say(t, nc, request)
					switch {
					case status == 0: // the client was told that its upstream has gone
						nc = r.dial()
						continue
					case status != 200 || body != "ok":
						t.Errorf("%s, shared %t, %s: %d %q", name, share, strings.Fields(request)[0], status, body)
					}
					good++
					receive(t, said)
				}
				if n := r.dialCount("a.example"); good == 0 || segments == 0 && !share && n != 1 {
					t.Errorf("%s, shared %t, %s: %d answers on %d connections", name, share, strings.Fields(request)[0], good, n)
				}
			}
		}
	}
}
