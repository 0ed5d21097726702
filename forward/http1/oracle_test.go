// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/naivehttp"
)

// endOf is what an error of the codec is called by the naive reader.
func endOf(err error) naivehttp.End {
	var bad *MalformedError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &bad):
		return naivehttp.Refused
	case errors.Is(err, io.ErrUnexpectedEOF):
		return naivehttp.Incomplete
	case errors.Is(err, io.EOF):
		return naivehttp.AtEnd
	}
	return naivehttp.End(err.Error())
}

func pairs(l field.List) (out [][2]string) {
	for i := range l {
		out = append(out, [2]string{strings.Clone(l[i].Name), strings.Clone(l[i].Value)})
	}
	return out
}

// readBody reads the body that the head of m announces.
func readBody(m *naivehttp.Reading, r *MessageReader, at func() int) naivehttp.End {
	var b Body
	b.Begin(r, m.Length)
	body, err := io.ReadAll(&b)
	m.Body = string(body)
	if err != nil {
		return endOf(err)
	}
	m.Trailer, m.Whole, m.Next = pairs(b.Trailer), true, at()
	return ""
}

// stream is what the codec makes of a stream of requests, in the naive reader's words.
func stream(raw []byte, wrap func(io.Reader) io.Reader) (all []naivehttp.Reading, end naivehttp.End) {
	in := bytes.NewReader(bytes.Clone(raw))
	r := readerOf(wrap(in), true)
	defer r.Free()
	at := func() int { return len(raw) - in.Len() - len(r.Buffered()) }
	for {
		var q RequestHead
		head, err := r.Head(MaxRequestHead)
		if err == nil {
			err = q.Parse(head)
		}
		if err != nil {
			return all, endOf(err)
		}
		m := naivehttp.Reading{
			Method: strings.Clone(q.Method), Target: strings.Clone(q.Target), Minor: q.Minor, Fields: pairs(q.Fields),
			Host: strings.Clone(q.Host), Length: q.Length, Close: q.Close, Continues: q.Continue,
		}
		end := readBody(&m, r, at)
		if all = append(all, m); end != "" {
			return all, end
		}
		if q.Close {
			return all, naivehttp.AtClose
		}
	}
}

// answered is what the codec makes of an answer.
func answered(raw []byte, method string) (m naivehttp.Reading, head, body naivehttp.End) {
	in := bytes.NewReader(bytes.Clone(raw))
	r := readerOf(in, false)
	defer r.Free()
	var p ResponseHead
	b, err := r.Head(MaxResponseHead)
	if err == nil {
		err = p.Parse(b, method)
	}
	if err != nil {
		return m, endOf(err), ""
	}
	m = naivehttp.Reading{
		Status: p.Status, Reason: strings.Clone(p.Reason), Minor: p.Minor, Fields: pairs(p.Fields), Length: p.Length, Close: p.Close,
	}
	return m, "", readBody(&m, r, func() int { return len(raw) - in.Len() - len(r.Buffered()) })
}

func atOnce(r io.Reader) io.Reader { return r }

// agree says how the codec and the naive reader differ about requests, "" when they
// don't. How the bytes come makes no difference either.
func agree(raw []byte) string {
	want, end := naivehttp.Requests(raw)
	for how, wrap := range map[string]func(io.Reader) io.Reader{"at once": atOnce, "byte by byte": iotest.OneByteReader, "in halves": iotest.HalfReader} {
		got, gotEnd := stream(raw, wrap)
		// A head is refused when it is whole, and nobody waits for the rest of one
		// that is too long: what was not sent decides neither.
		if gotEnd != end || !reflect.DeepEqual(got, want) {
			return fmt.Sprintf("%q, %s:\n codec %+v %s\n naive %+v %s", raw, how, got, gotEnd, want, end)
		}
	}
	return ""
}

// agreeAnswers is agree for answers. The codec refuses what does not begin as
// HTTP/1 before there is a line, for who speaks first in another protocol waits.
func agreeAnswers(raw []byte, method string) string {
	want, head, body := naivehttp.Answer(raw, method)
	got, gotHead, gotBody := answered(raw, method)
	if n := min(len(raw), len(version)); string(raw[:n]) != version[:n] && gotHead == naivehttp.Refused {
		return ""
	}
	if gotHead == naivehttp.AtEnd && len(raw) == 0 {
		return ""
	}
	if gotHead != head || gotBody != body || !reflect.DeepEqual(got, want) {
		return fmt.Sprintf("%q to %s:\n codec %+v %q %q\n naive %+v %q %q", raw, method, got, gotHead, gotBody, want, head, body)
	}
	return ""
}

// TestBounds: the oracle has the bounds of the codec, which it does not share.
func TestBounds(t *testing.T) {
	codec := []int64{MaxRequestHead, MaxResponseHead, MaxChunkLine, MaxChunkExcess, MaxTrailer, MaxFields, MaxOptions, Chunked, ToTheEnd}
	naive := []int64{naivehttp.MaxRequestHead, naivehttp.MaxResponseHead, naivehttp.MaxChunkLine, naivehttp.MaxChunkExcess, naivehttp.MaxTrailer, naivehttp.MaxFields, naivehttp.MaxOptions, naivehttp.Chunked, naivehttp.ToTheEnd}
	if !reflect.DeepEqual(codec, naive) {
		t.Errorf("codec %d, naive reader %d", codec, naive)
	}
}

// TestForms: two readers that share nothing see the same in every form that is known
// to be read in two ways.
func TestForms(t *testing.T) {
	accepted := 0
	for _, raw := range naivehttp.Forms() {
		if why := agree([]byte(raw)); why != "" {
			t.Error(why)
		}
		if all, _ := naivehttp.Requests([]byte(raw)); len(all) > 0 {
			accepted++
		}
	}
	if accepted < 50 || accepted > len(naivehttp.Forms())/2 {
		t.Errorf("%d of %d begin with a request: the forms are no longer what they are named for", accepted, len(naivehttp.Forms()))
	}
}

// pieces are what streams are made of.
var pieces = []string{
	"GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n", "POST / HTTP/1.0\r\n", "GET / HTTP/1.1\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.0 204\r\n", "HTTP/1.1 304 x\r\n", "Host: h\r\n", "Host: h\n", "host:h\r\n", "Content-Length: 3\r\n", "content-length:3\r\n", "Content-Length: 0\r\n",
	"Content-Length: 3\n", "Transfer-Encoding: chunked\r\n", "transfer-encoding: Chunked\r\n", "Connection: keep-alive\r\n", "Connection: close\r\n", "Expect: 100-continue\r\n", "X: y\r\n", " z\r\n", "\tz\n",
	"\r\n", "\r\n", "\r\n", "\n", "\r", "3\r\n", "3;x\r\n", "abc", "abc\r\n", "0\r\n", "0\r\n\r\n", "0\r\nA: b\r\n\r\n", "3\r\nabc\r\n", " ", "\t", ":", "\x00", "\x80", ",", "x",
}

// TestPieces: the same for streams that are put together at random, which are more
// often nearly right than those of a fuzzer that knows nothing.
func TestPieces(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // not a secret
	const streams = 20000
	requests, answers := 0, 0
	for range streams {
		var raw []byte
		if rnd.IntN(2) == 0 {
			raw = append(raw, pieces[rnd.IntN(7)]...)
			raw = append(raw, "Host: h\r\n"...)
		}
		for range rnd.IntN(16) {
			raw = append(raw, pieces[rnd.IntN(len(pieces))]...)
		}
		why := agree(raw) + agreeAnswers(raw, "GET") + agreeAnswers(raw, "HEAD")
		if why != "" {
			t.Fatalf("seed %d: %s", seed, why)
		}
		if all, _ := naivehttp.Requests(raw); len(all) > 0 {
			requests++
		}
		if _, head, _ := naivehttp.Answer(raw, "GET"); head == "" {
			answers++
		}
	}
	if requests < streams/100 || answers < streams/100 {
		t.Errorf("seed %d: of %d streams %d were requests and %d answers", seed, streams, requests, answers)
	}
}

// FuzzOracle: whatever comes, the codec and the naive reader agree on whether it is
// taken, what it says, how it is framed and where the next message begins.
func FuzzOracle(f *testing.F) {
	for _, raw := range naivehttp.Forms() {
		f.Add([]byte(raw))
	}
	for _, raw := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.0 200\nX: y\n\nall of it", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 304 x\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 200 OK\r\nX: a\r\n b\n\tc\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if why := agree(raw) + agreeAnswers(raw, "GET") + agreeAnswers(raw, "HEAD"); why != "" {
			t.Fatal(why)
		}
	})
}
