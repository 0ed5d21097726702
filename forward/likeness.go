// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"sync"
)

// maxLike is how many fields a head may have to be written in the order in which
// they came.
const maxLike = 1000

// headField is one field of a head. line is all of it without the end of the
// line; folded says that it goes on in the next one (RFC 9112, 5.2).
type headField struct {
	line         []byte
	colon        int
	folded, used bool
}

func (f *headField) name() []byte { return f.line[:f.colon] }

func (f *headField) value() []byte {
	return bytes.Trim(f.line[min(f.colon+1, len(f.line)):], " \t")
}

// firstLine cuts the first line off a head, without its end.
func firstLine(head []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(head, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), rest
}

// fields takes apart what is behind the first line of a head.
func fields(into []headField, rest []byte) []headField {
	for len(rest) > 0 {
		var line []byte
		line, rest = firstLine(rest)
		if len(line) == 0 {
			break
		}
		if (line[0] == ' ' || line[0] == '\t') && len(into) > 0 {
			into[len(into)-1].folded = true // net/http has made one line of it
			continue
		}
		colon := bytes.IndexByte(line, ':')
		if colon < 0 {
			colon = len(line)
		}
		into = append(into, headField{line: line, colon: colon})
	}
	return into
}

// like appends written to dst, a head as net/http writes it, in the order and the
// spelling of model, the head as it came from the other side. Fields are neither
// added nor lost by it, nor are values changed, but for those in more, which the
// model has and written does not. line, if there is any, is the first line.
func like(dst, written, line, model []byte, more map[string][]string) []byte {
	var space, modelSpace [32]headField
	start, rest := firstLine(written)
	if line == nil {
		line = start
	}
	dst = append(append(dst, line...), "\r\n"...)
	have := fields(space[:0], rest)
	_, rest = firstLine(model)
	want := fields(modelSpace[:0], rest)
	if len(have) > maxLike || len(want) > maxLike {
		want = nil
	}
	for i := range want {
		w := &want[i]
		if f := unused(have, w.name()); f != nil {
			f.used = true
			dst = appendField(dst, w, f)
		} else if more != nil {
			if value := more[http.CanonicalHeaderKey(string(w.name()))]; len(value) == 1 && value[0] == string(w.value()) {
				dst = append(append(dst, w.line...), "\r\n"...)
			}
		}
	}
	for i := range have {
		if !have[i].used {
			dst = append(append(dst, have[i].line...), "\r\n"...)
		}
	}
	return append(dst, "\r\n"...)
}

// unused is the first field of a name that was not yet written.
func unused(list []headField, name []byte) *headField {
	for i := range list {
		if f := &list[i]; !f.used && f.colon == len(name) && bytes.EqualFold(f.name(), name) {
			return f
		}
	}
	return nil
}

// appendField writes f as it came, or its new value under the name as it came.
func appendField(dst []byte, came, f *headField) []byte {
	if !came.folded && bytes.Equal(came.value(), f.value()) {
		return append(append(dst, came.line...), "\r\n"...)
	}
	dst = append(append(dst, came.name()...), ": "...)
	return append(append(dst, f.value()...), "\r\n"...)
}

// headWriter stands between net/http, which writes heads in an order and a
// spelling of its own, and a connection.
type headWriter struct {
	buffers *copyBuffers

	mu          sync.Mutex
	expects     bool
	line, model []byte
	more        map[string][]string
	kept        []byte // of a head that is not yet complete
}

// errLongHead: net/http wrote something that is no head.
var errLongHead = errors.New("forward: a head without an end")

// maxHead bounds a head that net/http writes, whatever rules have added to it.
const maxHead = 1 << 20

// expect says that what is written next is a head, and what it is to look like.
func (w *headWriter) expect(line, model []byte, more map[string][]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expects, w.line, w.model, w.more = true, line, model, more
}

// write writes b to nc.
func (w *headWriter) write(nc net.Conn, b []byte) (int, error) {
	w.mu.Lock()
	if !w.expects {
		w.mu.Unlock()
		return nc.Write(b)
	}
	all := b
	if len(w.kept) > 0 {
		all = append(w.kept, b...)
	}
	end := bytes.Index(all, []byte("\r\n\r\n"))
	if end < 0 {
		defer w.mu.Unlock()
		if len(all) > maxHead {
			return 0, errLongHead
		}
		w.kept = append(w.kept[:0], all...)
		return len(b), nil
	}
	line, model, more := w.line, w.model, w.more
	if line == nil && model != nil {
		line = statusLine(all, model)
	}
	w.expects, w.line, w.model, w.more, w.kept = false, nil, nil, nil, nil
	w.mu.Unlock()

	buf := w.buffers.get()
	defer w.buffers.pool.Put(buf)
	out := append(like((*buf)[:0], all[:end+4], line, model, more), all[end+4:]...)
	if _, err := nc.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// headReader keeps the heads of HTTP/1 answers as they come, beside net/http.
type headReader struct {
	mu      sync.Mutex
	expects bool // of the answer's heads, the final one was not yet read
	any     bool // something of the answer was read
	head    []byte
	heads   [][]byte // complete, not taken
}

func (r *headReader) expect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expects, r.any, r.head, r.heads = true, false, nil, nil
}

// began says whether something of the answer has come.
func (r *headReader) began() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.any
}

// read takes what was read of a connection.
func (r *headReader) read(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.any = true
	for r.expects && len(b) > 0 {
		old := len(r.head)
		end := headEnd(r.head, b)
		if end < 0 {
			if r.head = append(r.head, b...); len(r.head) > maxResponseHeaderBytes {
				r.expects, r.head = false, nil // net/http refuses it
			}
			return
		}
		r.head = append(r.head, b[:end-old]...)
		b = b[end-old:]
		if len(r.heads) < maxInformational {
			r.heads = append(r.heads, r.head)
		}
		r.expects, r.head = informationalHead(r.head), nil
	}
}

// maxInformational is how many heads are kept that nobody has taken.
const maxInformational = 16

// headEnd is where the head ends that begins with head and goes on with b, -1: not
// there.
func headEnd(head, b []byte) int {
	// The end may be in both; a line ends with LF, with or without CR.
	begin := max(len(head)-3, 0)
	joint := append(append(make([]byte, 0, 8), head[begin:]...), b[:min(len(b), 4)]...)
	if i := emptyLine(joint); i >= 0 && begin+i > len(head) {
		return begin + i
	}
	if i := emptyLine(b); i >= 0 {
		return len(head) + i
	}
	return -1
}

// emptyLine is where the first empty line ends that a line comes before; -1: there
// is none.
func emptyLine(b []byte) int {
	for from := 0; ; {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return -1
		}
		from += i + 1
		switch rest := b[from:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return from + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return from + 2
		}
	}
}

// informationalHead says whether another head follows this one: it is a 1xx, but
// 101, behind which there is no HTTP.
func informationalHead(head []byte) bool {
	s := statusOf(head)
	return len(s) == 3 && s[0] == '1' && string(s) != "101"
}

// statusOf is the status code of an answer's head.
func statusOf(head []byte) []byte {
	line, _ := firstLine(head)
	_, rest, _ := bytes.Cut(line, []byte(" "))
	code, _, _ := bytes.Cut(rest, []byte(" "))
	return code
}

// take returns the head of the next answer with the status; nil: it is not there.
func (r *headReader) take(status string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.heads) > 0 {
		head := r.heads[0]
		r.heads = r.heads[1:]
		if string(statusOf(head)) == status {
			return head
		}
	}
	return nil
}

// statusLine is the first line of the model of an answer with our version of HTTP,
// so with the reason that the origin gave; nil when that is not to go on.
func statusLine(written, model []byte) []byte {
	line, _ := firstLine(model)
	version := bytes.IndexByte(line, ' ')
	if version != len("HTTP/1.1") || !bytes.Equal(statusOf(written), statusOf(model)) {
		return nil
	}
	for _, c := range line[version:] {
		if c < ' ' && c != '\t' || c == 0x7f {
			return nil
		}
	}
	if bytes.HasPrefix(written, line[:version]) {
		return line
	}
	return append(append([]byte(nil), written[:version]...), line[version:]...)
}
