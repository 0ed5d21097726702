// SPDX-License-Identifier: Apache-2.0

// Package accesslog writes a line for each request and connection that has ended, in
// the formats of Istio's access log and by the command operators of Envoy's
// (envoyproxy.io, "Access logging").
package accesslog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/egressd/egressd/internal/flow"
)

// DefaultText is Istio's default format (istio.io/istio pilot/pkg/model,
// EnvoyTextLogFormat).
const DefaultText = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%
`

// DefaultJSON is Istio's default as JSON (EnvoyJSONLogFormatIstio).
const DefaultJSON = `{
"start_time": "%START_TIME%", "route_name": "%ROUTE_NAME%", "method": "%REQ(:METHOD)%",
"path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%",
"response_flags": "%RESPONSE_FLAGS%", "response_code_details": "%RESPONSE_CODE_DETAILS%",
"connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%", "bytes_received": "%BYTES_RECEIVED%",
"bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%",
"upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
"user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%", "authority": "%REQ(:AUTHORITY)%",
"upstream_host": "%UPSTREAM_HOST%", "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
"upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%", "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
"downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "requested_server_name": "%REQUESTED_SERVER_NAME%",
"upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%"
}`

// maxFormat bounds the text of a format, in bytes.
const maxFormat = 64 << 10

// Format is how a line looks. It is immutable.
type Format struct {
	// parts make a line of text; fields one of JSON, in their order.
	parts  []part
	fields []namedField
}

type namedField struct {
	name  string // as JSON, with its colon
	parts []part
}

// part is a text as it is, or an operator.
type part struct {
	text string
	op   *operator
	arg  string
	alt  string // the field that is asked for when there is none of arg's name
	most int    // of the value's bytes; 0: all
}

// Text reads a format string. A line that has no end gets one.
func Text(format string) (*Format, error) {
	parts, err := parse(format)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(format, "\n") {
		parts = append(parts, part{text: "\n"})
	}
	return &Format{parts: parts}, nil
}

// JSON reads an object of format strings. A string that is one operator becomes a
// number where the value is one, and null where there is none, as in Envoy.
func JSON(object string) (*Format, error) {
	if len(object) > maxFormat {
		return nil, fmt.Errorf("the format has %d bytes; %d are the most", len(object), maxFormat)
	}
	d := json.NewDecoder(strings.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New(`the format is no JSON object of strings, as in {"method": "%REQ(:METHOD)%"}`)
	}
	f := &Format{fields: []namedField{}}
	var names []string
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("the format as JSON: %w", err)
		}
		name := key.(string) // encoding/json has no other keys
		var value string
		if err := d.Decode(&value); err != nil {
			return nil, fmt.Errorf("the format's field %q is no string: %w", name, err)
		}
		if slices.Contains(names, name) {
			return nil, fmt.Errorf("the format has the field %q twice", name)
		}
		names = append(names, name)
		parts, err := parse(value)
		if err != nil {
			return nil, fmt.Errorf("the format's field %q: %w", name, err)
		}
		f.fields = append(f.fields, namedField{string(appendJSON(nil, name)) + ":", parts})
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("the format as JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the format has something behind its JSON object")
	}
	return f, nil
}

// parse reads %OPERATOR(ARGUMENT):LENGTH% and the text between; %% is one of them.
func parse(s string) (out []part, err error) {
	if len(s) > maxFormat {
		return nil, fmt.Errorf("the format has %d bytes; %d are the most", len(s), maxFormat)
	}
	for s != "" {
		text, rest, found := strings.Cut(s, "%")
		if !found {
			return append(out, part{text: s}), nil
		}
		if strings.HasPrefix(rest, "%") {
			out, s = append(out, part{text: text + "%"}), rest[1:]
			continue
		}
		if text != "" {
			out = append(out, part{text: text})
		}
		p, after, err := parseOperator(rest)
		if err != nil {
			return nil, err
		}
		out, s = append(out, p), after
	}
	return out, nil
}

// parseOperator reads an operator behind its %.
func parseOperator(s string) (p part, rest string, err error) {
	n := strings.IndexFunc(s, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' })
	if n < 0 {
		return p, "", fmt.Errorf("%%%s has no %% at its end (%%%% is a per cent sign)", s)
	}
	name, rest := s[:n], s[n:]
	if p.op = operatorOf(name); p.op == nil {
		return p, "", fmt.Errorf("%%%s%% is no operator; there are %s", name, strings.Join(Operators(), ", "))
	}
	if inner, ok := strings.CutPrefix(rest, "("); ok {
		if p.arg, rest, ok = strings.Cut(inner, ")"); !ok {
			return p, "", fmt.Errorf("%%%s( has no ) behind its argument", name)
		}
	}
	length, rest, ok := strings.Cut(rest, "%")
	if !ok {
		return p, "", fmt.Errorf("%%%s has no %% at its end", name)
	}
	if length != "" {
		digits, ok := strings.CutPrefix(length, ":")
		if p.most, err = strconv.Atoi(digits); !ok || err != nil || p.most < 1 {
			return p, "", fmt.Errorf("%%%s%s%%: what may stand behind the name is (ARGUMENT) and :LENGTH, a number of bytes from 1 on", name, length)
		}
	}
	return p, rest, p.check()
}

// check says whether an operator has the argument that it needs.
func (p *part) check() error {
	if err := p.op.argument(p.op.name, p.arg); err != nil {
		return err
	}
	if p.op.fields {
		p.arg, p.alt, _ = strings.Cut(p.arg, "?")
	}
	return nil
}

// Append appends the line of s to b. Whatever clients and servers wrote is escaped:
// it can neither end a line or a quoted value, nor act on a terminal.
func (f *Format) Append(b []byte, s *flow.Observation) []byte {
	var room [256]byte
	raw := room[:0]
	if f.fields == nil {
		for i := range f.parts {
			b, raw = f.parts[i].appendText(b, raw, s)
		}
		return b
	}
	b = append(b, '{')
	for i := range f.fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, f.fields[i].name...)
		b, raw = appendField(b, raw, f.fields[i].parts, s)
	}
	return append(b, "}\n"...)
}

// value makes an operator's value in raw.
func (p *part) value(raw []byte, s *flow.Observation) ([]byte, kind) {
	raw, k := p.op.value(raw[:0], s, p)
	if p.most > 0 && k == text && len(raw) > p.most {
		raw = raw[:p.most]
	}
	return raw, k
}

func (p *part) appendText(b, raw []byte, s *flow.Observation) (out, room []byte) {
	if p.op == nil {
		return append(b, p.text...), raw
	}
	raw, k := p.value(raw, s)
	if k == absent {
		return append(b, '-'), raw
	}
	return appendEscaped(b, raw), raw
}

func appendField(b, raw []byte, parts []part, s *flow.Observation) (out, room []byte) {
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
			all = append(all, parts[i].text...)
			continue
		}
		var k kind
		if raw, k = parts[i].value(raw, s); k == absent {
			all = append(all, '-')
		} else {
			all = append(all, raw...)
		}
	}
	return appendJSON(b, string(all)), raw
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
