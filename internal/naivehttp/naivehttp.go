// SPDX-License-Identifier: Apache-2.0

// Package naivehttp reads HTTP/1 for tests: a second oracle beside net/http. It shares
// nothing with the codec of the forwarding core: it has all of the bytes before it, takes
// them apart as RFC 9110 and RFC 9112 say it, one rule after the other, and has no regard
// for cost. Where the RFCs leave a choice, it takes the one that is named beside the rule,
// and where they ask for tolerance of what nobody sends, it has none.
package naivehttp

import (
	"bytes"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// Bounds, in bytes; of fields and options in numbers.
const (
	MaxRequestHead  = 68 << 10
	MaxResponseHead = 256 << 10
	MaxChunkLine    = 4 << 10
	MaxChunkExcess  = 16 << 10
	MaxTrailer      = 16 << 10
	MaxFields       = 1000
	MaxOptions      = 64
)

// Lengths of bodies that are not numbers of bytes.
const (
	Chunked  int64 = -1
	ToTheEnd int64 = -2 // of the connection
)

// End is why a stream has no further message.
type End string

const (
	AtEnd      End = "end"        // between two messages
	AtClose    End = "close"      // behind the last message of the connection
	Incomplete End = "Incomplete" // within a message
	Refused    End = "Refused"
)

// Reading is what one message says, as it was read.
type Reading struct {
	Method, Target string
	Status         int
	Reason         string
	Minor          int // of the version
	Fields         [][2]string
	Host           string
	Length         int64 // of the body in bytes, or Chunked, or ToTheEnd
	Close          bool  // no message follows on the connection
	Continues      bool  // the client waits for a 100

	Body    string
	Trailer [][2]string
	Whole   bool // with its body
	Next    int  // where the next message begins
}

// Requests reads requests.
func Requests(raw []byte) (all []Reading, end End) {
	for at := 0; ; {
		at = emptyLines(raw, at)
		if at == len(raw) || string(raw[at:]) == "\r" { // which may begin an empty line
			return all, AtEnd
		}
		lines, next, end := cutLines(raw, at, MaxRequestHead)
		if end != "" {
			return all, end
		}
		m, ok := parseRequest(lines)
		if !ok {
			return all, Refused
		}
		end = m.readBody(raw, next)
		all = append(all, m)
		if end != "" {
			return all, end
		}
		if at = m.Next; m.Close {
			return all, AtClose
		}
	}
}

// Answer reads one answer to a method.
func Answer(raw []byte, method string) (m Reading, head, body End) {
	lines, next, end := cutLines(raw, 0, MaxResponseHead)
	if end != "" {
		return m, end, ""
	}
	m, ok := parseResponse(lines, method)
	if !ok {
		return Reading{}, Refused, ""
	}
	body = m.readBody(raw, next)
	return m, "", body
}

// emptyLines: RFC 9112, 2.2: "a server ... SHOULD ignore at least one empty
// line (CRLF) received prior to the request-line." Choice: any number, of LF too.
func emptyLines(raw []byte, at int) int {
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

// line is a line, and what ended it.
type line struct{ text, end string }

// cutLines cuts lines up to and with the empty one. RFC 9112, 2.2: "a recipient MAY
// recognize a single LF as a line terminator and ignore any preceding CR."
func cutLines(raw []byte, at, limit int) (lines []line, next int, end End) {
	for i := at; ; {
		n := bytes.IndexByte(raw[i:], '\n')
		if n < 0 {
			if len(raw)-at > limit {
				return nil, 0, Refused
			}
			return nil, 0, Incomplete
		}
		l := line{string(raw[i : i+n]), "\n"}
		if before, ok := strings.CutSuffix(l.text, "\r"); ok {
			l = line{before, "\r\n"}
		}
		i += n + 1
		lines = append(lines, l)
		if l.text == "" {
			if i-at > limit {
				return nil, 0, Refused
			}
			return lines, i, ""
		}
	}
}

// parseRequest: RFC 9112, 3: method SP request-target SP HTTP-version, with single
// spaces. Choice: what the target says is asked by who routes it.
func parseRequest(lines []line) (m Reading, ok bool) {
	// Choice: a head ends all its lines in the same way.
	for _, l := range lines {
		if l.end != lines[0].end {
			return m, false
		}
	}
	words := strings.Split(lines[0].text, " ")
	if len(words) != 3 || !token(words[0]) || words[1] == "" {
		return m, false
	}
	m.Method, m.Target = words[0], words[1]
	if m.Minor, ok = parseVersion(words[2]); !ok {
		return m, false
	}
	// RFC 9112, 5.2: "A server that receives an obs-fold in a request message ...
	// MUST either reject the message by sending a 400 ... or replace". Choice: 400.
	if m.Fields, ok = parseFields(lines[1:], false); !ok {
		return m, false
	}
	// RFC 9112, 3.2: 400 "to any HTTP/1.1 request message that lacks a Host header
	// field and to any request message that contains more than one".
	hosts := m.values("host")
	if len(hosts) > 1 || len(hosts) == 0 && m.Minor > 0 {
		return m, false
	}
	if len(hosts) > 0 {
		m.Host = hosts[0]
	}
	lengths, codings := m.values("content-length"), m.values("transfer-encoding")
	switch {
	case len(codings) > 0 && (m.Minor == 0 || len(lengths) > 0):
		// RFC 9112, 6.1. Choice: such messages are Refused, not mended.
		return m, false
	case len(codings) > 0:
		// Choice: chunked, once, and nothing else.
		if len(codings) > 1 || lower(codings[0]) != "chunked" {
			return m, false
		}
		m.Length = Chunked
	case len(lengths) > 0:
		if m.Length, ok = m.contentLength(lengths); !ok {
			return m, false
		}
	}
	if ok = m.connection(); !ok {
		return m, false
	}
	// RFC 9110, 10.1.1.
	for _, e := range m.values("expect") {
		m.Continues = m.Continues || lower(e) == "100-continue" && m.Minor > 0 && m.Length != 0
	}
	return m, true
}

// parseResponse: RFC 9112, 4: HTTP-version SP status-code SP [ reason-phrase ].
// Choice: a status line may end behind the code.
func parseResponse(lines []line, method string) (m Reading, ok bool) {
	words := strings.SplitN(lines[0].text, " ", 3)
	if m.Minor, ok = parseVersion(words[0]); !ok || len(words) < 2 || len(words[1]) != 3 || strings.Trim(words[1], "0123456789") != "" {
		return m, false
	}
	m.Status, _ = strconv.Atoi(words[1]) // three digits
	if len(words) == 3 {
		if m.Reason = words[2]; strings.ContainsFunc(m.Reason, noText) {
			return m, false
		}
	}
	if m.Fields, ok = parseFields(lines[1:], true); !ok {
		return m, false
	}
	if ok = m.connection(); !ok {
		return m, false
	}
	lengths, codings := m.values("content-length"), m.values("transfer-encoding")
	if len(codings) > 0 && (len(codings) > 1 || lower(codings[0]) != "chunked" || m.Minor == 0) {
		return m, false
	}
	length := int64(0)
	if len(lengths) > 0 {
		if length, ok = m.contentLength(lengths); !ok {
			return m, false
		}
	}
	switch { // RFC 9112, 6.3
	case method == "HEAD", m.Status < 200, m.Status == 204, m.Status == 304:
		m.Length = 0
	case len(codings) > 0:
		if m.Length = Chunked; len(lengths) > 0 {
			m.Fields = slices.DeleteFunc(m.Fields, func(f [2]string) bool { return lower(f[0]) == "content-length" })
			m.Close = true
		}
	case len(lengths) > 0:
		m.Length = length
	default:
		m.Length, m.Close = ToTheEnd, true
	}
	return m, true
}

// parseVersion: RFC 9110, 2.5: what has a higher minor version is read as the highest
// that is known.
func parseVersion(s string) (minor int, ok bool) {
	switch {
	case s == "HTTP/1.0":
		return 0, true
	case len(s) == 8 && strings.HasPrefix(s, "HTTP/1.") && strings.Contains("123456789", s[7:]):
		return 1, true
	}
	return 0, false
}

// parseFields: RFC 9112, 5: field-name ":" OWS field-value OWS. RFC 9110, 5.5: CR, LF
// and NUL make a value invalid; choice: all control characters but the tab do.
func parseFields(lines []line, folds bool) (fields [][2]string, ok bool) {
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
		if !found || !token(name) || strings.ContainsFunc(value, noText) {
			return nil, false
		}
		if fields = append(fields, [2]string{name, value}); len(fields) > MaxFields {
			return nil, false
		}
	}
	return fields, true
}

func token(s string) bool { // RFC 9110, 5.6.2
	const tchar = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	return s != "" && strings.Trim(s, tchar) == "" // nothing is left between what is taken off
}

func noText(r rune) bool { return (r < ' ' || r == 0x7f) && r != '\t' }

// lower is s in lower case, in ASCII alone.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if strings.Contains("ABCDEFGHIJKLMNOPQRSTUVWXYZ", string(rune(c))) {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func (m *Reading) values(name string) (values []string) {
	for _, f := range m.Fields {
		if lower(f[0]) == name {
			values = append(values, f[1])
		}
	}
	return values
}

// contentLength: RFC 9110, 8.6: 1*DIGIT. A list of equal values may be taken or
// Refused; choice: fields that are the same letter by letter are taken as one, a
// list within a field is Refused.
func (m *Reading) contentLength(values []string) (int64, bool) {
	if len(slices.Compact(values)) > 1 || values[0] == "" || strings.Trim(values[0], "0123456789") != "" {
		return 0, false
	}
	n, _ := new(big.Int).SetString(values[0], 10)
	if !n.IsInt64() {
		return 0, false
	}
	seen := false
	m.Fields = slices.DeleteFunc(m.Fields, func(f [2]string) bool {
		again := lower(f[0]) == "content-length" && seen
		seen = seen || lower(f[0]) == "content-length"
		return again
	})
	return n.Int64(), true
}

// connection: RFC 9112, 9.3.
func (m *Reading) connection() bool {
	options := map[string]bool{}
	n := 0
	for _, v := range m.values("connection") {
		for _, o := range strings.Split(v, ",") {
			options[lower(strings.Trim(o, " \t"))] = true
			n++
		}
	}
	m.Close = m.Close || options["close"] || m.Minor == 0 && !options["keep-alive"]
	return n <= MaxOptions
}

// readBody reads the body that begins at at.
func (m *Reading) readBody(raw []byte, at int) End {
	rest := raw[at:]
	switch m.Length {
	case Chunked:
		return m.readChunked(raw, at)
	case ToTheEnd:
		m.Body, m.Next = string(rest), len(raw)
	default:
		if int64(len(rest)) < m.Length {
			m.Body = string(rest)
			return Incomplete
		}
		m.Body, m.Next = string(rest[:m.Length]), at+int(m.Length)
	}
	m.Whole = true
	return ""
}

// readChunked: RFC 9112, 7.1: *chunk last-chunk trailer-section CRLF. Lines end in
// CRLF and in nothing else; blanks are allowed behind a size (RFC 9112, 7.1.1: BWS).
func (m *Reading) readChunked(raw []byte, at int) (end End) {
	c := &cursor{raw: raw, at: at}
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
			c.end = Refused
		}
		// Choice: a body may have this much beside data.
		excess = max(excess+int64(c.at-line)+2-16-2*size, 0)
		if c.end == "" && excess > MaxChunkExcess {
			c.fail(Refused)
		}
		if c.end != "" {
			return c.end
		}
		if size == 0 {
			break
		}
		m.Body += c.take(size)
		if c.exactly("\r\n"); c.end != "" {
			return c.end
		}
	}
	if rest := raw[c.at:]; bytes.HasPrefix(rest, []byte("\r\n")) {
		m.Whole, m.Next = true, c.at+2
		return ""
	}
	lines, next, end := cutLines(raw, c.at, MaxTrailer-2)
	if end != "" {
		return end
	}
	for _, l := range lines {
		if l.end != "\r\n" {
			return Refused
		}
	}
	trailer := Reading{}
	var ok bool
	if trailer.Fields, ok = parseFields(lines, false); !ok || !trailer.connection() {
		return Refused
	}
	// Choice: as in a header.
	if l := trailer.values("content-length"); len(slices.Compact(l)) > 1 {
		return Refused
	}
	m.Trailer, m.Whole, m.Next = trailer.Fields, true, next
	return ""
}

// cursor goes through framing byte by byte. The first fault stays.
type cursor struct {
	raw []byte
	at  int
	end End
}

func (c *cursor) fail(why End) {
	if c.end == "" {
		c.end = why
	}
}

// peek is the next byte, which must be there.
func (c *cursor) peek() byte {
	if c.at == len(c.raw) {
		c.fail(Incomplete)
	}
	if c.end != "" {
		return 0
	}
	return c.raw[c.at]
}

func (c *cursor) exactly(s string) {
	for i := range len(s) {
		if b := c.peek(); c.end == "" && b != s[i] {
			c.fail(Refused)
		}
		if c.end == "" {
			c.at++
		}
	}
}

func (c *cursor) take(n int64) string {
	there := c.raw[c.at:]
	if int64(len(there)) < n {
		c.fail(Incomplete)
		c.at = len(c.raw)
		return string(there)
	}
	c.at += int(n)
	return string(there[:n])
}

// chunkSize: 1*HEXDIG. Choice: less than 2^59.
func (c *cursor) chunkSize() int64 {
	size, digits := new(big.Int), 0
	for ; strings.Contains("0123456789abcdefABCDEF", string(rune(c.peek()))) && c.end == ""; c.at++ {
		d, _ := new(big.Int).SetString(string(rune(c.raw[c.at])), 16)
		size.Add(size.Lsh(size, 4), d)
		if digits++; size.BitLen() > 59 {
			c.fail(Refused)
		}
	}
	if digits == 0 {
		c.fail(Refused)
	}
	return size.Int64()
}

// extension: *( BWS ";" BWS name [ BWS "=" BWS value ] ). Choice: what stands behind
// the semicolon is not looked at, but for control characters.
func (c *cursor) extension() {
	for b := c.peek(); c.end == "" && (b == ' ' || b == '\t'); b = c.peek() {
		c.at++
	}
	if c.peek() != ';' {
		return
	}
	for b := c.peek(); c.end == "" && b != '\r'; b = c.peek() {
		if noText(rune(b)) {
			c.fail(Refused)
			return
		}
		c.at++
	}
}
