// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"
	"strconv"
	"strings"
	"unsafe"

	"github.com/egressd/egressd/internal/field"
)

// Lengths of bodies that are not numbers of bytes.
const (
	Chunked  int64 = -1
	ToTheEnd int64 = -2 // of the connection
)

// RequestHead is the head of a request.
type RequestHead struct {
	Method, Target string
	Minor          int // of the version: 0 or 1
	Fields         field.List
	Host           string
	// Length is that of the body in bytes, or Chunked.
	Length int64
	// Close: the client sends no further request.
	Close bool
	// Continue: the client waits for a 100 before it sends the body.
	Continue bool
}

// ResponseHead is the head of a response.
type ResponseHead struct {
	Status int
	Reason string
	Minor  int
	Fields field.List
	// Length is that of the body in bytes, Chunked or ToTheEnd.
	Length int64
	// Close: no further response follows on the connection. KeepAlive: it says that
	// another may, and nothing else.
	Close, KeepAlive bool
}

// framing is what the fields of a message say of its body and its connection.
type framing struct {
	lengths           int
	length            string
	codings           int
	coding            string
	close, keepAlive  bool
	options           int
	hosts             int
	host              string
	continues, folded bool
}

// Parse reads a head, which ends with its empty line. The strings of r are parts
// of it.
func (r *RequestHead) Parse(head []byte) error {
	s := view(head)
	*r = RequestHead{Fields: r.Fields[:0]}
	line, rest, bare := cutLine(s)
	method, more, ok := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(more, " ")
	if !ok || !ok2 || method == "" || target == "" || !all(method, isToken) {
		return ErrRequestLine
	}
	r.Method, r.Target = method, target
	if r.Minor, ok = minorOf(version); !ok {
		if !strings.HasPrefix(version, "HTTP/") || strings.IndexByte(version, ' ') >= 0 {
			return ErrRequestLine
		}
		return ErrVersion
	}
	var f framing
	if err := parseFields(&r.Fields, rest, bare, &f); err != nil {
		return err
	}
	return r.judge(&f)
}

// judge says how the request goes on, or why nobody can know.
func (r *RequestHead) judge(f *framing) (err error) {
	switch {
	case f.folded:
		return ErrFolded
	case f.hosts > 1:
		return ErrHosts
	case f.hosts == 0 && r.Minor > 0:
		return ErrNoHost
	case f.codings > 0 && r.Minor == 0:
		return ErrCodingOld
	case f.codings > 0 && f.lengths > 0:
		return ErrLengthCoding
	case f.codings > 1 || f.codings > 0 && !field.Same(f.coding, "chunked"):
		return ErrCoding
	case f.codings > 0:
		r.Length = Chunked
	case f.lengths > 0:
		if r.Length, err = parseLength(f.length); err != nil {
			return err
		}
		r.only("Content-Length", f.lengths)
	}
	r.Host = f.host
	r.Close = f.close || r.Minor == 0 && !f.keepAlive
	r.Continue = f.continues && r.Minor > 0 && r.Length != 0
	return nil
}

// only leaves one of n equal fields.
func (r *RequestHead) only(name string, n int) {
	if n > 1 {
		r.Fields.Set(name, r.Fields.Get(name))
	}
}

// Parse reads the head of a response to a request with the method, which ends with
// its empty line. The strings of r are parts of it; fields that were folded over
// lines have blanks in place of the line ends.
func (r *ResponseHead) Parse(head []byte, method string) error {
	unfold(head)
	s := view(head)
	*r = ResponseHead{Fields: r.Fields[:0]}
	var ok bool
	line, rest, _ := cutLine(s)
	version, more, _ := strings.Cut(line, " ")
	code, reason, _ := strings.Cut(more, " ")
	if r.Minor, ok = minorOf(version); !ok || len(code) != 3 || !all(reason, isText) {
		return ErrStatusLine
	}
	for i := range 3 {
		if code[i] < '0' || code[i] > '9' {
			return ErrStatusLine
		}
		r.Status = 10*r.Status + int(code[i]-'0')
	}
	r.Reason = reason
	var f framing
	if err := parseFields(&r.Fields, rest, anyEnd, &f); err != nil {
		return err
	}
	return r.judge(&f, method)
}

func (r *ResponseHead) judge(f *framing, method string) (err error) {
	r.Close, r.KeepAlive = f.close || r.Minor == 0 && !f.keepAlive, f.keepAlive && !f.close
	if f.lengths > 0 {
		if r.Length, err = parseLength(f.length); err != nil {
			return err
		}
		if f.lengths > 1 {
			r.Fields.Set("Content-Length", r.Fields.Get("Content-Length"))
		}
	}
	if f.codings > 0 && (r.Minor == 0 || f.codings > 1 || !field.Same(f.coding, "chunked")) {
		return ErrCoding
	}
	switch {
	case !HasBody(method, r.Status):
		r.Length = 0
	case f.codings > 0:
		// The coding wins (RFC 9112, 6.3), and who reads on behind such a message
		// may not agree with others.
		r.Length = Chunked
		if f.lengths > 0 {
			r.Fields.Del("Content-Length")
			r.Close = true
		}
	case f.lengths == 0:
		r.Length, r.Close = ToTheEnd, true
	}
	return nil
}

// HasBody says whether a response may have a body (RFC 9110, 6.4.1).
func HasBody(method string, status int) bool {
	return status >= 200 && status != 204 && status != 304 && method != "HEAD"
}

// view is b as a string, for as long as nobody writes to b.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// lineEnd is how the lines of a head end.
type lineEnd uint8

const (
	anyEnd lineEnd = iota
	crlf
	lf // all of them: some clients are typed by hand
)

// cutLine cuts the first line off s, without its end.
func cutLine(s string) (line, rest string, end lineEnd) {
	i := strings.IndexByte(s, '\n')
	if i < 0 {
		return s, "", lf
	}
	if i > 0 && s[i-1] == '\r' {
		return s[:i-1], s[i+1:], crlf
	}
	return s[:i], s[i+1:], lf
}

// minorOf is the minor version that text stands for.
func minorOf(text string) (int, bool) {
	if len(text) != len("HTTP/1.1") || text[:7] != "HTTP/1." {
		return 0, false
	}
	switch c := text[7]; {
	case c == '0':
		return 0, true
	case '1' <= c && c <= '9': // what is later is read as the latest that is known
		return 1, true
	}
	return 0, false
}

// parseFields takes apart the fields in s, up to the empty line.
func parseFields(into *field.List, s string, ends lineEnd, f *framing) error {
	list := *into
	for {
		line, rest, end := cutLine(s)
		if ends != anyEnd && end != ends {
			return ErrLineEnd
		}
		if line == "" {
			break
		}
		if line[0] == ' ' || line[0] == '\t' {
			f.folded = true
			return ErrFolded
		}
		colon := strings.IndexByte(line, ':')
		if colon <= 0 || !all(line[:colon], isToken) {
			return ErrFieldName
		}
		name, value := line[:colon], trim(line[colon+1:])
		if !all(value, isText) {
			return ErrFieldValue
		}
		if len(list) == MaxFields {
			return ErrFields
		}
		list = append(list, field.Entry{Name: name, Value: value, Line: line})
		*into = list
		if err := f.note(&list[len(list)-1]); err != nil {
			return err
		}
		s = rest
	}
	*into = list
	return nil
}

// note remembers what a field says of framing. Such fields go on in their plain
// form.
func (f *framing) note(x *field.Entry) error {
	name, value := x.Name, x.Value
	switch len(name) {
	case len("Host"):
		if field.Same(name, "Host") {
			f.hosts++
			f.host = value
		}
	case len("Expect"):
		f.continues = f.continues || field.Same(name, "Expect") && field.Same(value, "100-continue")
	case len("Connection"):
		if field.Same(name, "Connection") {
			if f.connection(value); f.options > MaxOptions {
				return ErrOptions
			}
		}
	case len("Content-Length"):
		if field.Same(name, "Content-Length") {
			x.Line = ""
			if f.lengths++; f.lengths > 1 && f.length != value {
				return ErrLengths
			}
			f.length = value
		}
	case len("Transfer-Encoding"):
		if field.Same(name, "Transfer-Encoding") {
			x.Line = ""
			f.codings++
			f.coding = value
		}
	}
	return nil
}

func (f *framing) connection(value string) {
	for more := true; more; {
		var option string
		option, value, more = strings.Cut(value, ",")
		if f.options++; f.options > MaxOptions {
			return
		}
		switch option = trim(option); {
		case field.Same(option, "close"):
			f.close = true
		case field.Same(option, "keep-alive"):
			f.keepAlive = true
		}
	}
}

func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// parseLength reads a Content-Length: digits alone (RFC 9110, 8.6).
func parseLength(s string) (int64, error) {
	if s == "" {
		return 0, ErrLength
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, ErrLength
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, ErrLength
	}
	return n, nil
}

// unfold puts blanks in the place of line ends before which, and behind which, a
// field goes on (RFC 9112, 5.2).
func unfold(head []byte) {
	for from := 0; ; {
		i := bytes.IndexByte(head[from:], '\n')
		if i < 0 || from+i+1 >= len(head) {
			return
		}
		from += i + 1
		if c := head[from]; (c == ' ' || c == '\t') && from > i+1 {
			head[from-1] = ' '
			if head[from-2] == '\r' {
				head[from-2] = ' '
			}
		}
	}
}

// headEnd is where the first head in b ends, of which no line up to seen is empty;
// -1: it is not complete.
func headEnd(b []byte, seen int) int {
	for from := max(seen-2, 0); ; {
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
