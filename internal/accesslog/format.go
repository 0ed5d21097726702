// SPDX-License-Identifier: Apache-2.0

// Package accesslog writes a line for each request and connection that has ended, in
// the formats of Istio's access log and by the command operators of Envoy's
// (envoyproxy.io, "Access logging").
package accesslog

import (
	"strings"
	"unicode/utf8"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/logformat"
)

// Format is how a line looks. It is immutable.
type Format struct {
	// parts make a line of text; fields one of JSON, in their order.
	parts  []part
	fields []namedField
	omit   bool // what has no value
}

// OmitEmpty is the format with nothing in the place of what has no value, which is "-" in
// a line of text, and null in one of JSON.
func (f *Format) OmitEmpty() *Format {
	own := *f
	own.omit = true
	return &own
}

type namedField struct {
	name  string // as JSON, with its colon
	parts []part
}

// part is one of a format, with the value of its operator; nil: it is a text.
type part struct {
	logformat.Part
	op value
}

// ParseFormat reads a format by its encoding, as logformat.Parse does. A string of JSON
// that is one operator becomes a number where the value is one, and null where there is
// none, as in Envoy.
func ParseFormat(format, encoding string) (*Format, error) {
	parts, fields, err := logformat.Parse(format, encoding)
	if err != nil {
		return nil, err
	}
	f := &Format{parts: bound(parts)}
	if fields != nil {
		f.fields = []namedField{}
	}
	for _, one := range fields {
		f.fields = append(f.fields, namedField{string(appendJSON(nil, one.Name)) + ":", bound(one.Parts)})
	}
	return f, nil
}

func bound(list []logformat.Part) []part {
	out := make([]part, len(list))
	for i, p := range list {
		out[i] = part{p, values[p.Name]}
	}
	return out
}

// Template is a text with operators, as custom tags of traces are.
type Template []part

// NewTemplate reads one.
func NewTemplate(text string) (Template, error) {
	list, err := logformat.Text(text)
	return bound(list), err
}

// Of is the text of what is observed; "": it has no value. What has none in a longer text
// is nothing there, as in Envoy.
func (t Template) Of(s *flow.Observation) string {
	var out, raw []byte
	for i := range t {
		if t[i].op == nil {
			out = append(out, t[i].Text...)
			continue
		}
		var k kind
		if raw, k = t[i].value(raw, s); k != absent {
			out = append(out, raw...)
		}
	}
	return strings.ToValidUTF8(string(out), "\ufffd")
}

// Append appends the line of s to b. Whatever clients and servers wrote is escaped:
// it can neither end a line or a quoted value, nor act on a terminal.
func (f *Format) Append(b []byte, s *flow.Observation) []byte {
	var room [256]byte
	raw := room[:0]
	if f.fields == nil {
		for i := range f.parts {
			b, raw = f.parts[i].appendText(b, raw, s, f.omit)
		}
		return b
	}
	b = append(b, '{')
	for i := range f.fields {
		was := len(b)
		if b[was-1] != '{' {
			b = append(b, ',')
		}
		b = append(b, f.fields[i].name...)
		begin := len(b)
		if b, raw = appendField(b, raw, f.fields[i].parts, s, f.omit); f.omit && string(b[begin:]) == "null" {
			b = b[:was]
		}
	}
	return append(b, "}\n"...)
}

// value makes an operator's value in raw.
func (p *part) value(raw []byte, s *flow.Observation) ([]byte, kind) {
	raw, k := p.op(raw[:0], s, p)
	if p.Most > 0 && k == text && len(raw) > p.Most {
		raw = raw[:p.Most]
	}
	return raw, k
}

func (p *part) appendText(b, raw []byte, s *flow.Observation, omit bool) (out, room []byte) {
	if p.op == nil {
		return append(b, p.Text...), raw
	}
	raw, k := p.value(raw, s)
	if k == absent {
		return appendAbsent(b, omit), raw
	}
	return appendEscaped(b, raw), raw
}

func appendField(b, raw []byte, parts []part, s *flow.Observation, omit bool) (out, room []byte) {
	if len(parts) == 1 && parts[0].op != nil {
		raw, k := parts[0].value(raw, s)
		switch k {
		case absent:
			return append(b, "null"...), raw
		case number:
			return append(b, raw...), raw
		}
		return appendJSON(b, string(raw)), raw
	}
	var all []byte
	for i := range parts {
		if parts[i].op == nil {
			all = append(all, parts[i].Text...)
			continue
		}
		var k kind
		if raw, k = parts[i].value(raw, s); k == absent {
			all = appendAbsent(all, omit)
		} else {
			all = append(all, raw...)
		}
	}
	return appendJSON(b, string(all)), raw
}

// appendAbsent appends what stands for a value that there is not.
func appendAbsent(b []byte, omit bool) []byte {
	if omit {
		return b
	}
	return append(b, '-')
}

const hexDigits = "0123456789abcdef"

// appendEscaped appends what others wrote to a line of text: printable ASCII but for
// quotes and backslashes as it is, everything else escaped.
func appendEscaped(b, raw []byte) []byte {
	for _, c := range raw {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ' && c < 0x7f:
			b = append(b, c)
		default:
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return b
}

// appendJSON appends a JSON string of ASCII.
func appendJSON(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s { // what is no UTF-8 is U+FFFD
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r >= ' ' && r < 0x7f:
			b = append(b, byte(r))
		case r > 0xffff:
			hi, lo := utf16Pair(r)
			b = appendUnicode(appendUnicode(b, hi), lo)
		default:
			b = appendUnicode(b, r)
		}
	}
	return append(b, '"')
}

func appendUnicode(b []byte, r rune) []byte {
	return append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

// utf16Pair is the surrogate pair of a rune beyond the basic plane (RFC 8259, 7).
func utf16Pair(r rune) (hi, lo rune) {
	if r > utf8.MaxRune {
		return utf8.RuneError, utf8.RuneError
	}
	r -= 0x10000
	return 0xd800 + r>>10, 0xdc00 + r&0x3ff
}
