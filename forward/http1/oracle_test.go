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
)

// endOf is what an error of the codec is called by the naive reader.
func endOf(err error) naiveEnd {
	var bad *MalformedError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &bad):
		return refused
	case errors.Is(err, io.ErrUnexpectedEOF):
		return incomplete
	case errors.Is(err, io.EOF):
		return atEnd
	}
	return naiveEnd(err.Error())
}

func pairs(l field.List) (out [][2]string) {
	for i := range l {
		out = append(out, [2]string{strings.Clone(l[i].Name), strings.Clone(l[i].Value)})
	}
	return out
}

// rest reads the body that the head of m announces.
func (m *naiveMessage) rest(r *MessageReader, at func() int) naiveEnd {
	var b Body
	b.Begin(r, m.length)
	body, err := io.ReadAll(&b)
	m.body = string(body)
	if err != nil {
		return endOf(err)
	}
	m.trailer, m.whole, m.next = pairs(b.Trailer), true, at()
	return ""
}

// stream is what the codec makes of a stream of requests, in the naive reader's words.
func stream(raw []byte, wrap func(io.Reader) io.Reader) (all []naiveMessage, end naiveEnd) {
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
		m := naiveMessage{
			method: strings.Clone(q.Method), target: strings.Clone(q.Target), minor: q.Minor, fields: pairs(q.Fields),
			host: strings.Clone(q.Host), length: q.Length, close: q.Close, continues: q.Continue,
		}
		end := m.rest(r, at)
		if all = append(all, m); end != "" {
			return all, end
		}
		if q.Close {
			return all, atClose
		}
	}
}

// answered is what the codec makes of an answer.
func answered(raw []byte, method string) (m naiveMessage, head, body naiveEnd) {
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
	m = naiveMessage{
		status: p.Status, reason: strings.Clone(p.Reason), minor: p.Minor, fields: pairs(p.Fields), length: p.Length, close: p.Close,
	}
	return m, "", m.rest(r, func() int { return len(raw) - in.Len() - len(r.Buffered()) })
}

func atOnce(r io.Reader) io.Reader { return r }

// agree says how the codec and the naive reader differ about requests, "" when they
// don't. How the bytes come makes no difference either.
func agree(raw []byte) string {
	want, end := naiveStream(raw)
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
	want, head, body := naiveAnswer(raw, method)
	got, gotHead, gotBody := answered(raw, method)
	if n := min(len(raw), len(version)); string(raw[:n]) != version[:n] && gotHead == refused {
		return ""
	}
	if gotHead == atEnd && len(raw) == 0 {
		return ""
	}
	if gotHead != head || gotBody != body || !reflect.DeepEqual(got, want) {
		return fmt.Sprintf("%q to %s:\n codec %+v %q %q\n naive %+v %q %q", raw, method, got, gotHead, gotBody, want, head, body)
	}
	return ""
}

// forms are requests that servers are known to read in different ways: what would be
// a request of its own stands behind each.
func forms() (all []string) {
	const get, second = "GET / HTTP/1.1\r\nHost: h\r\n", "GET /second HTTP/1.1\r\nHost: h\r\n\r\n"
	for _, fields := range []string{
		"Content-Length: 3", "Content-Length: 03", "Content-Length: +3", "Content-Length: -3", "Content-Length: 3, 3", "Content-Length: 3,4",
		"Content-Length: 0x3", "Content-Length: 3 3", "Content-Length: 3\x0b", "Content-Length: \xb3", "Content-Length: 3.0", "Content-Length:", "Content-Length: 3_0",
		"Content-Length: 9223372036854775807", "Content-Length: 9223372036854775808", "Content-Length: 18446744073709551619",
		"Content-Length: 3\r\nContent-Length: 3", "Content-Length: 3\r\nContent-Length: 4", "Content-Length: 3\r\nX: y\r\nContent-length: 3", "Content-Length : 3", "Content-Length\t: 3",
		"Content-Length\x00: 3", "Content-Length: 3\x00", " Content-Length: 3", "X: y\r\n Content-Length: 3", "X: y\r\n\tContent-Length: 3", "Content-Length:\r\n 3", "X: y\nContent-Length: 3", "X: y\rContent-Length: 3",
		"Content_Length: 3", "Content-Length\xa0: 3", "\xefContent-Length: 3", "X\r\nContent-Length: 3", ": x", "Content-Length;: 3",
		"Transfer-Encoding: chunked", "transfer-encoding:chunked", "Transfer-Encoding: CHUNKED", "Transfer-Encoding: chun\xe2\x84\xaaed", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
		"Transfer-Encoding: chunked, chunked", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity, chunked", "Transfer-Encoding: gzip", "Transfer-Encoding: xchunked", "Transfer-Encoding: chunked,",
		"Transfer-Encoding: \x0bchunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding\r\n: chunked", "Transfer-Encoding:\r\n chunked", "Transfer-Encoding : chunked",
		"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "Transfer-Encoding:", "Transfer-Encoding: chunked\x00", "X: y\nTransfer-Encoding: chunked", "Transfer_Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 3", "Content-Length: 3\r\nTransfer-Encoding: chunked", "Content-Length: 0\r\nTransfer-Encoding: x",
		"Expect: 100-continue\r\nContent-Length: 3", "Connection: close", "Connection: keep-alive, close", "Connection: Content-Length\r\nContent-Length: 3", "Host: other", "Host : other", "Host: h\x80", "Connection: \xe2\x84\xaaeep-alive",
	} {
		for _, body := range []string{"abc", "3\r\nabc\r\n0\r\n\r\n", "0\r\n\r\n", ""} {
			all = append(all, get+fields+"\r\n\r\n"+body+second, strings.Replace(get, "1.1", "1.0", 1)+"Connection: keep-alive\r\n"+fields+"\r\n\r\n"+body+second)
		}
	}
	for _, body := range []string{
		"zz\r\n", "\r\n", "-1\r\n", "+3\r\nabc\r\n0\r\n\r\n", "0x3\r\nabc\r\n0\r\n\r\n", " 3\r\nabc\r\n0\r\n\r\n", "3 \r\nabc\r\n0\r\n\r\n", "3\t;a\r\nabc\r\n0\r\n\r\n", "3 a\r\nabc\r\n0\r\n\r\n", "3;\r\nabc\r\n0\r\n\r\n",
		"3;a=\"\r\nabc\r\n0\r\n\r\n", "3;a\nabc\r\n0\r\n\r\n", "3;a\rb\r\nabc\r\n0\r\n\r\n", "3;a\x00\r\nabc\r\n0\r\n\r\n", "3\nabc\n0\n\n", "3\r\nabc\n0\r\n\r\n", "3\r\nabc\r0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3\r\nab\r\n0\r\n\r\n", "3\rabc\r\n0\r\n\r\n",
		"0\r\n\n", "0\n\r\n", "0\r\n\r", "0\r\nX: y\r\n\r\n", "0\r\nX: y\n\n", "0\r\nX\r\n\r\n", "0\r\n X: y\r\n\r\n", "0\r\nX: y\r\n z\r\n\r\n", "0\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "0\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\nHost: h\r\nHost: i\r\n\r\n",
		"00000000000000000000003\r\nabc\r\n000\r\n\r\n", "7ffffffffffffff\r\nabc", "800000000000000\r\nabc", "10000000000000003\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n3\r\ndef\r\n0;x\r\n\r\n", "3\r\nabc\r\n", "3\r\nabc", "3\r\na", "3\r", "3", "\xb3\r\nabc\r\n0\r\n\r\n", "３\r\nabc\r\n0\r\n\r\n",
		"3;" + strings.Repeat("x", MaxChunkLine-4) + "\r\nabc\r\n0\r\n\r\n", "3;" + strings.Repeat("x", MaxChunkLine-5) + "\r\nabc\r\n0\r\n\r\n", "3;" + strings.Repeat("x", MaxChunkLine+2), strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\nx\r\n", 20) + "0\r\n\r\n",
		"0\r\nX: " + strings.Repeat("y", MaxTrailer-9) + "\r\n\r\n", "0\r\nX: " + strings.Repeat("y", MaxTrailer-8) + "\r\n\r\n", "0\r\nX: " + strings.Repeat("y", MaxTrailer-7) + "\r\n\r\n", "0\r\nX: " + strings.Repeat("y", MaxTrailer-5) + "\r\n\r\n", "0\r\nX: " + strings.Repeat("y", MaxTrailer),
	} {
		all = append(all, get+"Transfer-Encoding: chunked\r\n\r\n"+body+second)
	}
	for _, line := range []string{
		"GET / HTTP/1.1", "GET / HTTP/1.0", "GET / HTTP/1.2", "GET / HTTP/0.9", "GET / HTTP/2.0", "GET / HTTP/1.10", "GET / HTTP/1.1 ", "GET / HTTP/1.1\t", "GET /", "GET", "GET / http/1.1", "GET / HTTP/1.", "GET / HTTP/1.x", "GET / HTTP /1.1", "GET / ICAP/1.0",
		"GET  / HTTP/1.1", "GET\t/ HTTP/1.1", " GET / HTTP/1.1", "GET /a b HTTP/1.1", "GET /\x00 HTTP/1.1", "GET /\r HTTP/1.1", "G(T / HTTP/1.1", "GET\x00 / HTTP/1.1", "\rGET / HTTP/1.1", "\r\rGET / HTTP/1.1", "\r\nGET / HTTP/1.1", "\n\r\n\nGET / HTTP/1.1", "\r\r\nGET / HTTP/1.1",
		"PRI * HTTP/2.0", "OPTIONS * HTTP/1.1", "CONNECT h:443 HTTP/1.1", "GET http://other/ HTTP/1.1", "GET http://h@other/ HTTP/1.1", "GET //other/ HTTP/1.1", "GET h HTTP/1.1", "GET /#x HTTP/1.1", "GET /\x80\xff HTTP/1.1",
	} {
		for _, end := range []string{"\r\n", "\n", "\r\r\n"} {
			all = append(all, line+end+"Host: h"+end+end+second)
		}
	}
	for _, host := range []string{"h.", "h:", "h:80", "h:080", "u@h", "h/x", "h?x", "h,i", "h i", "", "[::1]", "[::1", "h\\i", "H", "%68"} {
		all = append(all, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"+second, "GET http://other/ HTTP/1.1\r\nHost: "+host+"\r\n\r\n"+second)
	}
	return append(all,
		"GET / HTTP/1.1\r\nHost: h\n\r\n"+second, "GET / HTTP/1.1\nHost: h\r\n\n"+second, "GET / HTTP/1.1\r\n\r\n"+second, "GET / HTTP/1.0\r\n\r\n"+second, "\r\n", "\r", "\n", "", "G",
		"GET / HTTP/1.1\r\nX: "+strings.Repeat("x", MaxRequestHead), get+"X: "+strings.Repeat("x", MaxRequestHead-len(get)-7)+"\r\n\r\n"+second, get+"X: "+strings.Repeat("x", MaxRequestHead-len(get)-6)+"\r\n\r\n"+second,
		get+strings.Repeat("x:\r\n", MaxFields-1)+"\r\n"+second, get+strings.Repeat("x:\r\n", MaxFields)+"\r\n"+second, get+"Connection: "+strings.Repeat("x,", MaxOptions-1)+"x\r\n\r\n"+second, get+"Connection: "+strings.Repeat("x,", MaxOptions)+"x\r\n\r\n"+second,
	)
}

// TestForms: two readers that share nothing see the same in every form that is known
// to be read in two ways.
func TestForms(t *testing.T) {
	accepted := 0
	for _, raw := range forms() {
		if why := agree([]byte(raw)); why != "" {
			t.Error(why)
		}
		if all, _ := naiveStream([]byte(raw)); len(all) > 0 {
			accepted++
		}
	}
	if accepted < 50 || accepted > len(forms())/2 {
		t.Errorf("%d of %d begin with a request: the forms are no longer what they are named for", accepted, len(forms()))
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
		if all, _ := naiveStream(raw); len(all) > 0 {
			requests++
		}
		if _, head, _ := naiveAnswer(raw, "GET"); head == "" {
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
	for _, raw := range forms() {
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
