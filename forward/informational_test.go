// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestInformationalUntaken: informational answers that the client does not take end as
// an answer does, from origins of both versions.
func TestInformationalUntaken(t *testing.T) {
	link := strings.Repeat("a", 60<<10)
	for name, up := range map[string]func(nc *net.TCPConn){
		"HTTP/1": func(nc *net.TCPConn) {
			hostileAnswer(nc, strings.Repeat(fmt.Sprintf("HTTP/1.1 103 Early Hints\r\nLink: %[1]s\r\nB: %[1]s\r\nC: %[1]s\r\n\r\n", link), 99), "", "", false)
		},
		"HTTP/2": func(nc *net.TCPConn) {
			serveHostile(nc, func(f *http2.Framer, s uint32, turn int) error {
				if turn == 99 {
					return io.EOF
				}
				rest := h2block(":status", "103", "link", link, "b", link, "c", link)
				for first := true; len(rest) > 0; first = false {
					part := rest[:min(len(rest), 16<<10)]
					rest = rest[len(part):]
					if first {
						_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: part, EndHeaders: len(rest) == 0})
					} else if err := f.WriteContinuation(s, len(rest) == 0, part); err != nil {
						return err
					}
				}
				return nil
			})
		},
	} {
		r := newRig(t, HTTP, stalls)
		if name == "HTTP/2" {
			r.http2Only()
		}
		r.origin("a.example", up)
		nc := r.dial()
		write(t, nc, getOf("a.example"))
		if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonStreamIdle || e.ResponseFlags != flow.FlagStreamIdle {
			t.Errorf("%s: event %+v", name, e)
		}
		r.sink.wait(t, flow.Close, 1)
	}
}

// TestInformationalFraming: what an informational answer says of a body, or of the
// connection to the origin, does not reach a client that might believe it.
func TestInformationalFraming(t *testing.T) {
	const rest = "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n"
	for name, up := range map[string]func(nc *net.TCPConn){
		"HTTP/1": func(nc *net.TCPConn) {
			hostileAnswer(nc, "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\nContent-Length: 500\r\nConnection: close, a\r\na: b\r\n\r\n"+okAnswer, "", "", false)
		},
		"HTTP/2": func(nc *net.TCPConn) {
			serveHostile(nc, func(f *http2.Framer, s uint32, turn int) error {
				if turn > 0 {
					return io.EOF
				}
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "103", "link", "<x>", "content-length", "500", "transfer-encoding", "chunked"), EndHeaders: true})
			})
		},
	} {
		r := newRig(t, HTTP)
		if name == "HTTP/2" {
			r.http2Only()
		}
		r.origin("a.example", up)
		nc := r.dial()
		write(t, nc, getOf("a.example"))
		if got := readN(t, nc, len(rest)); !strings.EqualFold(got, rest) {
			t.Errorf("%s: the client got %q", name, got)
		}
	}
}
