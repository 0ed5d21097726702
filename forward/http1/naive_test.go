// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// The naive reader is a second oracle beside net/http. It shares nothing with the
// codec: it has all of the bytes before it, takes them apart as RFC 9110 and RFC
// 9112 say it, one rule after the other, and has no regard for cost. Where the RFCs
// leave a choice, it takes the one named beside the rule, and where they ask for
// tolerance of what nobody sends, it has none.

// naiveEnd is why a stream has no further message.
type naiveEnd string

const (
	atEnd      naiveEnd = "end"        // between two messages
	atClose    naiveEnd = "close"      // behind the last message of the connection
	incomplete naiveEnd = "incomplete" // within a message
	refused    naiveEnd = "refused"
)

// naiveMessage is what one message says.
type naiveMessage struct {
	method, target string
	status         int
	reason         string
	minor          int
	fields         [][2]string
	host           string
	length         int64 // as in RequestHead
	close          bool
	continues      bool

	body    string
	trailer [][2]string
	whole   bool // the body too
	next    int  // where the next message begins
}

// naiveStream reads requests.
func naiveStream(raw []byte) (all []naiveMessage, end naiveEnd) {
	for at := 0; ; {
		at = naiveEmptyLines(raw, at)
		if at == len(raw) || string(raw[at:]) == "\r" { // which may begin an empty line
			return all, atEnd
		}
		lines, next, end := naiveLines(raw, at, MaxRequestHead)
		if end != "" {
			return all, end
		}
		m, ok := naiveRequest(lines)
		if !ok {
			return all, refused
		}
		end = m.readBody(raw, next)
		all = append(all, m)
		if end != "" {
			return all, end
		}
		if at = m.next; m.close {
			return all, atClose
		}
	}
}

// naiveAnswer reads one answer to a method.
func naiveAnswer(raw []byte, method string) (m naiveMessage, head, body naiveEnd) {
	lines, next, end := naiveLines(raw, 0, MaxResponseHead)
	if end != "" {
		return m, end, ""
	}
	m, ok := naiveResponse(lines, method)
	if !ok {
		return naiveMessage{}, refused, ""
	}
	body = m.readBody(raw, next)
	return m, "", body
}

// naiveEmptyLines: RFC 9112, 2.2: "a server ... SHOULD ignore at least one empty
// line (CRLF) received prior to the request-line." Choice: any number, of LF too.
func naiveEmptyLines(raw []byte, at int) int {
	for {
		switch {
		case bytes.HasPrefix(raw[at:], []byte("\r\n")):
			at += 2
		case bytes.HasPrefix(raw[at:], []byte("\n")):
			at++
		default:
			return at
		}
	}
}

// naiveLine is a line, and what ended it.
type naiveLine struct{ text, end string }

// naiveLines cuts lines up to and with the empty one. RFC 9112, 2.2: "a recipient MAY
// recognize a single LF as a line terminator and ignore any preceding CR."
func naiveLines(raw []byte, at, limit int) (lines []naiveLine, next int, end naiveEnd) {
	for i := at; ; {
		n := bytes.IndexByte(raw[i:], '\n')
		if n < 0 {
			if len(raw)-at > limit {
				return nil, 0, refused
			}
			return nil, 0, incomplete
		}
		l := naiveLine{string(raw[i : i+n]), "\n"}
		if before, ok := strings.CutSuffix(l.text, "\r"); ok {
			l = naiveLine{before, "\r\n"}
		}
		i += n + 1
		lines = append(lines, l)
		if l.text == "" {
			if i-at > limit {
				return nil, 0, refused
			}
			return lines, i, ""
		}
	}
}

// naiveRequest: RFC 9112, 3: method SP request-target SP HTTP-version, with single
// spaces. Choice: what the target says is asked by who routes it.
func naiveRequest(lines []naiveLine) (m naiveMessage, ok bool) {
	// Choice: a head ends all its lines in the same way.
	for _, l := range lines {
		if l.end != lines[0].end {
			return m, false
		}
	}
	words := strings.Split(lines[0].text, " ")
	if len(words) != 3 || !naiveToken(words[0]) || words[1] == "" {
		return m, false
	}
	m.method, m.target = words[0], words[1]
	if m.minor, ok = naiveVersion(words[2]); !ok {
		return m, false
	}
	// RFC 9112, 5.2: "A server that receives an obs-fold in a request message ...
	// MUST either reject the message by sending a 400 ... or replace". Choice: 400.
	if m.fields, ok = naiveFields(lines[1:], false); !ok {
		return m, false
	}
	// RFC 9112, 3.2: 400 "to any HTTP/1.1 request message that lacks a Host header
	// field and to any request message that contains more than one".
	hosts := m.values("host")
	if len(hosts) > 1 || len(hosts) == 0 && m.minor > 0 {
		return m, false
	}
	if len(hosts) > 0 {
		m.host = hosts[0]
	}
	lengths, codings := m.values("content-length"), m.values("transfer-encoding")
	switch {
	case len(codings) > 0 && (m.minor == 0 || len(lengths) > 0):
		// RFC 9112, 6.1. Choice: such messages are refused, not mended.
		return m, false
	case len(codings) > 0:
		// Choice: chunked, once, and nothing else.
		if len(codings) > 1 || naiveLower(codings[0]) != "chunked" {
			return m, false
		}
		m.length = Chunked
	case len(lengths) > 0:
		if m.length, ok = m.contentLength(lengths); !ok {
			return m, false
		}
	}
	if ok = m.connection(); !ok {
		return m, false
	}
	// RFC 9110, 10.1.1.
	for _, e := range m.values("expect") {
		m.continues = m.continues || naiveLower(e) == "100-continue" && m.minor > 0 && m.length != 0
	}
	return m, true
}

// naiveResponse: RFC 9112, 4: HTTP-version SP status-code SP [ reason-phrase ].
// Choice: a status line may end behind the code.
func naiveResponse(lines []naiveLine, method string) (m naiveMessage, ok bool) {
	words := strings.SplitN(lines[0].text, " ", 3)
	if m.minor, ok = naiveVersion(words[0]); !ok || len(words) < 2 || len(words[1]) != 3 || strings.Trim(words[1], "0123456789") != "" {
		return m, false
	}
	m.status, _ = strconv.Atoi(words[1]) // three digits
	if len(words) == 3 {
		if m.reason = words[2]; strings.ContainsFunc(m.reason, naiveNoText) {
			return m, false
		}
	}
	if m.fields, ok = naiveFields(lines[1:], true); !ok {
		return m, false
	}
	if ok = m.connection(); !ok {
		return m, false
	}
	lengths, codings := m.values("content-length"), m.values("transfer-encoding")
	if len(codings) > 0 && (len(codings) > 1 || naiveLower(codings[0]) != "chunked" || m.minor == 0) {
		return m, false
	}
	length := int64(0)
	if len(lengths) > 0 {
		if length, ok = m.contentLength(lengths); !ok {
			return m, false
		}
	}
	switch { // RFC 9112, 6.3
	case method == "HEAD", m.status < 200, m.status == 204, m.status == 304:
		m.length = 0
	case len(codings) > 0:
		if m.length = Chunked; len(lengths) > 0 {
			m.fields = slices.DeleteFunc(m.fields, func(f [2]string) bool { return naiveLower(f[0]) == "content-length" })
			m.close = true
		}
	case len(lengths) > 0:
		m.length = length
	default:
		m.length, m.close = ToTheEnd, true
	}
	return m, true
}

// naiveVersion: RFC 9110, 2.5: what has a higher minor version is read as the highest
// that is known.
func naiveVersion(s string) (minor int, ok bool) {
	switch {
	case s == "HTTP/1.0":
		return 0, true
	case len(s) == 8 && strings.HasPrefix(s, "HTTP/1.") && strings.Contains("123456789", s[7:]):
		return 1, true
	}
	return 0, false
}

// naiveFields: RFC 9112, 5: field-name ":" OWS field-value OWS. RFC 9110, 5.5: CR, LF
// and NUL make a value invalid; choice: all control characters but the tab do.
func naiveFields(lines []naiveLine, folds bool) (fields [][2]string, ok bool) {
	lines = lines[:len(lines)-1]
	for len(lines) > 0 {
		text, end := lines[0].text, lines[0].end
		if lines = lines[1:]; strings.HasPrefix(text, " ") || strings.HasPrefix(text, "\t") {
			return nil, false
		}
		// RFC 9112, 5.2: "replace each received obs-fold with one or more SP".
		for folds && len(lines) > 0 && (strings.HasPrefix(lines[0].text, " ") || strings.HasPrefix(lines[0].text, "\t")) {
			text += strings.Repeat(" ", len(end)) + lines[0].text
			end, lines = lines[0].end, lines[1:]
		}
		name, value, found := strings.Cut(text, ":")
		value = strings.Trim(value, " \t")
		if !found || !naiveToken(name) || strings.ContainsFunc(value, naiveNoText) {
			return nil, false
		}
		if fields = append(fields, [2]string{name, value}); len(fields) > MaxFields {
			return nil, false
		}
	}
	return fields, true
}

func naiveToken(s string) bool { // RFC 9110, 5.6.2
	const tchar = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	return s != "" && strings.Trim(s, tchar) == "" // nothing is left between what is taken off
}

func naiveNoText(r rune) bool { return (r < ' ' || r == 0x7f) && r != '\t' }

// naiveLower is s in lower case, in ASCII alone.
func naiveLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if strings.Contains("ABCDEFGHIJKLMNOPQRSTUVWXYZ", string(rune(c))) {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func (m *naiveMessage) values(name string) (values []string) {
	for _, f := range m.fields {
		if naiveLower(f[0]) == name {
			values = append(values, f[1])
		}
	}
	return values
}

// contentLength: RFC 9110, 8.6: 1*DIGIT. A list of equal values may be taken or
// refused; choice: fields that are the same letter by letter are taken as one, a
// list within a field is refused.
func (m *naiveMessage) contentLength(values []string) (int64, bool) {
	if len(slices.Compact(values)) > 1 || values[0] == "" || strings.Trim(values[0], "0123456789") != "" {
		return 0, false
	}
	n, _ := new(big.Int).SetString(values[0], 10)
	if !n.IsInt64() {
		return 0, false
	}
	seen := false
	m.fields = slices.DeleteFunc(m.fields, func(f [2]string) bool {
		again := naiveLower(f[0]) == "content-length" && seen
		seen = seen || naiveLower(f[0]) == "content-length"
		return again
	})
	return n.Int64(), true
}

// connection: RFC 9112, 9.3.
func (m *naiveMessage) connection() bool {
	options := map[string]bool{}
	n := 0
	for _, v := range m.values("connection") {
		for _, o := range strings.Split(v, ",") {
			options[naiveLower(strings.Trim(o, " \t"))] = true
			n++
		}
	}
	m.close = m.close || options["close"] || m.minor == 0 && !options["keep-alive"]
	return n <= MaxOptions
}

// readBody reads the body that begins at at.
func (m *naiveMessage) readBody(raw []byte, at int) naiveEnd {
	rest := raw[at:]
	switch m.length {
	case Chunked:
		return m.readChunked(raw, at)
	case ToTheEnd:
		m.body, m.next = string(rest), len(raw)
	default:
		if int64(len(rest)) < m.length {
			m.body = string(rest)
			return incomplete
		}
		m.body, m.next = string(rest[:m.length]), at+int(m.length)
	}
	m.whole = true
	return ""
}

// readChunked: RFC 9112, 7.1: *chunk last-chunk trailer-section CRLF. Lines end in
// CRLF and in nothing else; blanks are allowed behind a size (RFC 9112, 7.1.1: BWS).
func (m *naiveMessage) readChunked(raw []byte, at int) (end naiveEnd) {
	c := &naiveCursor{raw: raw, at: at}
	defer func() {
		if c.end != "" {
			end = c.end
		}
	}()
	for excess := int64(0); ; {
		line := c.at
		size := c.chunkSize()
		c.extension()
		if c.exactly("\r\n"); c.at-line > MaxChunkLine {
			c.end = refused
		}
		// Choice: a body may have this much beside data.
		excess = max(excess+int64(c.at-line)+2-16-2*size, 0)
		if c.end == "" && excess > MaxChunkExcess {
			c.fail(refused)
		}
		if c.end != "" {
			return c.end
		}
		if size == 0 {
			break
		}
		m.body += c.take(size)
		if c.exactly("\r\n"); c.end != "" {
			return c.end
		}
	}
	if rest := raw[c.at:]; bytes.HasPrefix(rest, []byte("\r\n")) {
		m.whole, m.next = true, c.at+2
		return ""
	}
	lines, next, end := naiveLines(raw, c.at, MaxTrailer-2)
	if end != "" {
		return end
	}
	for _, l := range lines {
		if l.end != "\r\n" {
			return refused
		}
	}
	trailer := naiveMessage{}
	var ok bool
	if trailer.fields, ok = naiveFields(lines, false); !ok || !trailer.connection() {
		return refused
	}
	// Choice: as in a header.
	if l := trailer.values("content-length"); len(slices.Compact(l)) > 1 {
		return refused
	}
	m.trailer, m.whole, m.next = trailer.fields, true, next
	return ""
}

// naiveCursor goes through framing byte by byte. The first fault stays.
type naiveCursor struct {
	raw []byte
	at  int
	end naiveEnd
}

func (c *naiveCursor) fail(why naiveEnd) {
	if c.end == "" {
		c.end = why
	}
}

// peek is the next byte, which must be there.
func (c *naiveCursor) peek() byte {
	if c.at == len(c.raw) {
		c.fail(incomplete)
	}
	if c.end != "" {
		return 0
	}
	return c.raw[c.at]
}

func (c *naiveCursor) exactly(s string) {
	for i := range len(s) {
		if b := c.peek(); c.end == "" && b != s[i] {
			c.fail(refused)
		}
		if c.end == "" {
			c.at++
		}
	}
}

func (c *naiveCursor) take(n int64) string {
	there := c.raw[c.at:]
	if int64(len(there)) < n {
		c.fail(incomplete)
		c.at = len(c.raw)
		return string(there)
	}
	c.at += int(n)
	return string(there[:n])
}

// chunkSize: 1*HEXDIG. Choice: less than 2^59.
func (c *naiveCursor) chunkSize() int64 {
	size, digits := new(big.Int), 0
	for ; strings.Contains("0123456789abcdefABCDEF", string(rune(c.peek()))) && c.end == ""; c.at++ {
		d, _ := new(big.Int).SetString(string(rune(c.raw[c.at])), 16)
		size.Add(size.Lsh(size, 4), d)
		if digits++; size.BitLen() > 59 {
			c.fail(refused)
		}
	}
	if digits == 0 {
		c.fail(refused)
	}
	return size.Int64()
}

// extension: *( BWS ";" BWS name [ BWS "=" BWS value ] ). Choice: what stands behind
// the semicolon is not looked at, but for control characters.
func (c *naiveCursor) extension() {
	for b := c.peek(); c.end == "" && (b == ' ' || b == '\t'); b = c.peek() {
		c.at++
	}
	if c.peek() != ';' {
		return
	}
	for b := c.peek(); c.end == "" && b != '\r'; b = c.peek() {
		if naiveNoText(rune(b)) {
			c.fail(refused)
			return
		}
		c.at++
	}
}
