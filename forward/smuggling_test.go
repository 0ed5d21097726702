// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/egressd/egressd/policy"
)

const (
	post  = "POST /up HTTP/1.1\r\nHost: a.example\r\n"
	inner = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"
)

// smuggling are streams of one request and what would be another to somebody
// who reads the first one's end elsewhere. answers and requests say what comes
// of it: more than one request must never be made of a broken one.
var smuggling = []struct {
	name, raw string
	answers   []int
	requests  int
}{
	{"length", post + "Content-Length: 3\r\n\r\nabc" + last, []int{200, 200}, 2},
	{"chunked", post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + last, []int{200, 200}, 2},
	{"chunked with an extension and a trailer", post + "Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n" + last, []int{200, 200}, 2},
	{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n" + last, []int{200, 200}, 2},
	{"HTTP/1.0 with a length", "POST / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc" + last, []int{200, 200}, 2},
	{"the same length twice", post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + last, []int{200, 200}, 2},

	{"bad chunk size", post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + inner, []int{400}, 1},
	{"chunk size with 0x", post + "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n" + inner, []int{400}, 1},
	{"negative chunk size", post + "Transfer-Encoding: chunked\r\n\r\n-1\r\n" + inner, []int{400}, 1},
	{"chunk size that overflows", post + "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n" + inner, []int{400}, 1},
	{"empty chunk size", post + "Transfer-Encoding: chunked\r\n\r\n\r\n" + inner, []int{400}, 1},
	{"bare LF behind a chunk size", post + "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n" + inner, []int{400}, 1},
	{"bare LF in an extension", post + "Transfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n" + inner, []int{400}, 1},
	{"chunk longer than said", post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n" + inner, []int{400}, 1},
	{"no CRLF behind a chunk", post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc0\r\n\r\n" + inner, []int{400}, 1},
	{"bad trailer", post + "Transfer-Encoding: chunked\r\n\r\n0\r\nno colon\r\n\r\n" + inner, []int{400}, 1},
	{"trailer with bare LF", post + "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\n" + inner, []int{400}, 1},

	{"HTTP/1.0 and chunked", "POST / HTTP/1.0\r\nConnection: keep-alive\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n" + inner, []int{400}, 0},
	{"HTTP/1.0 and chunked, long target", "POST /" + strings.Repeat("x", 500) + " HTTP/1.0\r\nConnection: keep-alive\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n" + inner, []int{400}, 0},
	{"HTTP/1.0, chunked and a length", "POST / HTTP/1.0\r\nConnection: keep-alive\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc" + inner, []int{400}, 0},
	{"HTTP/1.0 and an unknown coding", "POST / HTTP/1.0\r\nConnection: keep-alive\r\nHost: a.example\r\ntransfer-encoding: x\r\n\r\n" + inner, []int{400}, 0},
	{"length and chunked", post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, []int{400}, 0},
	{"chunked and length", post + "transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n" + inner, []int{400}, 0},
	{"chunked and length 0", post + "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n" + inner, []int{400}, 0},
	{"folded length", post + "Content-Length:\r\n 3\r\n\r\nabc" + inner, []int{400}, 0},
	{"folded coding", post + "Transfer-Encoding:\r\n\tchunked\r\n\r\n0\r\n\r\n" + inner, []int{400}, 0},
	{"folded other field", post + "X: a\r\n Content-Length: 3\r\n\r\n" + inner, []int{400}, 0},
	{"two lengths", post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc" + inner, []int{400}, 0},
	{"a list of lengths", post + "Content-Length: 3, 3\r\n\r\nabc" + inner, []int{400}, 0},
	{"length with a sign", post + "Content-Length: +3\r\n\r\nabc" + inner, []int{400}, 0},
	{"length behind blanks", post + "Content-Length:" + strings.Repeat(" ", 200) + "3\r\n\r\nabc" + last, []int{200, 200}, 2},
	{"in the second request", post + "Content-Length: 3\r\n\r\nabc" + post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, []int{200, 400}, 1},
	{"chunked twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, []int{501}, 0},
	{"chunked in a list", post + "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n" + inner, []int{501}, 0},
}

func TestSmuggling(t *testing.T) {
	for _, tt := range smuggling {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// The origin answers at the head already. Where it is faster than the
			// body, the connection ends with that answer, as it has to.
			for try := 0; ; try++ {
				r := newRig(t, HTTP)
				o := r.newRawOrigin("a.example", okAnswer)
				// That a broken body is seen before depends on who is faster as
				// well. What counts is that there is one answer, and the end.
				got := r.answers(tt.raw)
				if len(got) == 1 && len(tt.answers) == 1 && tt.requests == 1 && got[0] == 200 {
					got = tt.answers
				}
				if early := len(tt.answers) > 1 && len(got) > 0 && slices.Equal(got, tt.answers[:min(len(got), len(tt.answers))]); early && len(got) < len(tt.answers) && try < 20 {
					if o.requests() > len(got) {
						t.Errorf("answers %v; the origin got %q", got, o)
					}
					continue
				}
				if !slices.Equal(got, tt.answers) || o.requests() > tt.requests || strings.Contains(o.String(), "smuggled") {
					t.Errorf("answers %v, want %v; the origin got %q", got, tt.answers, o)
				}
				return
			}
		})
	}
}

// TestOwnAnswerToUnfinishedRequest: where a rule or a denial answers, nobody
// reads the body, and what comes behind it is no request.
func TestOwnAnswerToUnfinishedRequest(t *testing.T) {
	rules := map[string]*policy.HTTPRule{
		"direct response": {DirectResponse: &policy.DirectResponse{Status: 503, Body: []byte("x")}},
		"redirect":        {Redirect: &policy.Redirect{URI: "/y"}},
		"fault":           {Fault: &policy.Fault{AbortStatus: 503, AbortGRPC: -1, AbortPercent: 100}},
	}
	bodies := map[string]string{
		"bad chunk":        "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
		"unfinished chunk": "Transfer-Encoding: chunked\r\n\r\nfff\r\nab",
		"unfinished body":  "Content-Length: 5000\r\n\r\nab",
		"not begun":        "Content-Length: 500000\r\n\r\n",
	}
	for name, rule := range rules {
		for what, body := range bodies {
			t.Run(name+"/"+what, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, HTTP)
				r.rule(&policy.HTTPAction{Rule: rule})
				if got := r.answers(post+body, inner); len(got) != 1 {
					t.Errorf("answers %v, want one", got)
				}
				if n := r.core.Stats().Requests; n != 1 {
					t.Errorf("%d requests", n)
				}
			})
		}
	}
	t.Run("denial", func(t *testing.T) {
		r := newRig(t, HTTP)
		r.http = func(*policy.Request) policy.HTTPDecision {
			return policy.HTTPDecision{Decision: denied(policy.ReasonName, nil)}
		}
		if got := r.answers(post+bodies["bad chunk"], inner); len(got) != 1 {
			t.Errorf("answers %v, want one", got)
		}
	})
	t.Run("without a body", func(t *testing.T) {
		r := newRig(t, HTTP)
		r.rule(&policy.HTTPAction{Rule: rules["direct response"]})
		if got := r.answers(inner + last); !slices.Equal(got, []int{503, 503}) {
			t.Errorf("answers %v: the connection should have stayed open", got)
		}
	})
}

// TestEarlyAnswer: an origin answers while the client still sends. The client
// sees that answer, and what it sends behind it is its body still.
func TestEarlyAnswer(t *testing.T) {
	const answer = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
	t.Run("within a chunk", func(t *testing.T) {
		r := newRig(t, HTTP)
		o := r.newRawOrigin("a.example", answer)
		nc := r.dial()
		write(t, nc, post+"Transfer-Encoding: chunked\r\n\r\n1064\r\n"+strings.Repeat("x", 100))
		br := bufio.NewReader(nc)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(body) != "no" || !resp.Close {
			t.Errorf("%d %q, close %v", resp.StatusCode, body, resp.Close)
		}
		_, _ = io.WriteString(nc, inner)
		if rest, _ := io.ReadAll(br); len(rest) > 0 {
			t.Errorf("another answer: %q", rest)
		}
		if o.requests() != 1 {
			t.Errorf("the origin got %q", o)
		}
	})
	for _, header := range []string{"Content-Length: 100000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5f5e100\r\n"} {
		t.Run("in a long upload, "+header[:8], func(t *testing.T) {
			r := newRig(t, HTTP)
			r.origin("a.example", func(nc *net.TCPConn) {
				if _, err := http.ReadRequest(bufio.NewReader(nc)); err != nil {
					return
				}
				_, _ = io.WriteString(nc, answer)
				_ = nc.CloseWrite()
				_, _ = io.Copy(io.Discard, nc)
			})
			nc := r.dial()
			write(t, nc, post+header)
			sent := make(chan error, 1)
			go func() {
				// It does not look at the answer before it is done or cut off.
				_, err := nc.Write(make([]byte, 100_000_000))
				sent <- err
			}()
			<-sent
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != 413 {
				t.Errorf("%d", resp.StatusCode)
			}
		})
	}
}

// TestTrailers: what was announced and only says something of the body passes.
func TestTrailers(t *testing.T) {
	for announced, want := range map[string]string{
		"X-Sum": "X-Sum: 7", "x-sum": "X-Sum: 7", "X-Sum, Host": "X-Sum: 7", "Host": "", "Authorization": "", "If-Match": "", "X-Other": "",
		"X-Forwarded-For": "", "Cookie": "",
	} {
		r := newRig(t, HTTP)
		o := r.newRawOrigin("a.example", "")
		nc := r.dial()
		write(t, nc, post+"Trailer: "+announced+"\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"+
			"X-Sum: 7\r\nHost: evil.example\r\nAuthorization: x\r\nIf-Match: x\r\nCookie: x\r\nX-Forwarded-For: x\r\nContent-Encoding: x\r\n\r\n")
		var got string
		for !strings.Contains(got, "\r\n0\r\n") || !strings.HasSuffix(got, "\r\n\r\n") {
			<-o.more
			got = o.String()
		}
		_, trailer, _ := strings.Cut(got, "\r\n0\r\n")
		if strings.Trim(trailer, "\r\n") != want {
			t.Errorf("Trailer: %s: %q went on, want %q", announced, trailer, want)
		}
	}
}

// TestAnswersTrailers: of an answer's trailer, too, what ends a message or says who
// somebody is does not pass, whichever versions are spoken; what only says something of
// the body does, and gRPC's status.
func TestAnswersTrailers(t *testing.T) {
	fields := []string{"X-Sum", "7", "Grpc-Status", "0", "Content-Length", "99", "transfer-encoding", "chunked", "Set-Cookie", "a=b", "Content-Type", "x/y"}
	for _, up := range []bool{false, true} {
		for _, down := range []bool{false, true} {
			r := newRig(t, HTTP)
			if up {
				r.http2Only()
				r.origin("a.example", func(nc *net.TCPConn) {
					serveFrames(nc, func(f *http2.Framer, s uint32, _ string) bool {
						lower := make([]string, len(fields))
						for i := range fields {
							lower[i] = strings.ToLower(fields[i])
						}
						_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(":status", "200"), EndHeaders: true})
						_ = f.WriteData(s, false, []byte("x"))
						_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h2block(lower...), EndHeaders: true, EndStream: true})
						return true
					})
				})
			} else {
				answer := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
				for i := 0; i < len(fields); i += 2 {
					answer += fields[i] + ": " + fields[i+1] + "\r\n"
				}
				r.newRawOrigin("a.example", answer+"\r\n")
			}
			resp, err := r.client(down).Post("http://a.example/", "text/plain", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(body) != "x" || len(resp.Trailer) != 2 || resp.Trailer.Get("X-Sum") != "7" || resp.Trailer.Get("Grpc-Status") != "0" {
				t.Errorf("HTTP/2 up %v, down %v: %q, trailer %v, %v", up, down, body, resp.Trailer, err)
			}
		}
	}
}
