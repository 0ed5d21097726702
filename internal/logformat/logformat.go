// SPDX-License-Identifier: Apache-2.0

// Package logformat reads the format strings of Istio's access log: Envoy's command
// operators and the text between (envoyproxy.io, "Access logging").
package logformat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
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

// Part is a text as it is or, with a Name, a command operator.
type Part struct {
	Text string
	Name string
	Arg  string
	Alt  string // the field that is asked for when there is none of Arg's name
	Most int    // of the value's bytes; 0: all
}

// Property is one of an object of JSON.
type Property struct {
	Name  string
	Parts []Part
}

// Check says what is wrong with a format of an encoding, TEXT or JSON in whatever case.
// Empty ones are the defaults.
func Check(format, encoding string) error {
	_, _, err := Parse(format, encoding)
	return err
}

// Parse reads a format by its encoding, TEXT or JSON in whatever case; an empty format is
// Istio's default of the encoding, an empty encoding TEXT. Fields are nil for text. A line
// of text that has no end gets one.
func Parse(format, encoding string) (parts []Part, fields []Property, err error) {
	switch strings.ToUpper(encoding) {
	case "", "TEXT":
		if format == "" {
			format = DefaultText
		}
		if parts, err = Text(format); err == nil && !strings.HasSuffix(format, "\n") {
			parts = append(parts, Part{Text: "\n"})
		}
		return parts, nil, err
	case "JSON":
		if format == "" {
			format = DefaultJSON
		}
		fields, err = Object(format)
		return nil, fields, err
	}
	return nil, nil, fmt.Errorf("the encoding of the access log is TEXT or JSON, not %q", encoding)
}

// Object reads an object of format strings.
func Object(object string) ([]Property, error) {
	if len(object) > maxFormat {
		return nil, fmt.Errorf("the format has %d bytes; %d are the most", len(object), maxFormat)
	}
	d := json.NewDecoder(strings.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New(`the format is no JSON object of strings, as in {"method": "%REQ(:METHOD)%"}`)
	}
	fields := []Property{}
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
		if slices.ContainsFunc(fields, func(f Property) bool { return f.Name == name }) {
			return nil, fmt.Errorf("the format has the field %q twice", name)
		}
		parts, err := Text(value)
		if err != nil {
			return nil, fmt.Errorf("the format's field %q: %w", name, err)
		}
		fields = append(fields, Property{name, parts})
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("the format as JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the format has something behind its JSON object")
	}
	return fields, nil
}

// Text reads %OPERATOR(ARGUMENT):LENGTH% and the text between; %% is one of them.
func Text(s string) (out []Part, err error) {
	if len(s) > maxFormat {
		return nil, fmt.Errorf("the format has %d bytes; %d are the most", len(s), maxFormat)
	}
	for s != "" {
		text, rest, found := strings.Cut(s, "%")
		if !found {
			return append(out, Part{Text: s}), nil
		}
		if strings.HasPrefix(rest, "%") {
			out, s = append(out, Part{Text: text + "%"}), rest[1:]
			continue
		}
		if text != "" {
			out = append(out, Part{Text: text})
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
func parseOperator(s string) (p Part, rest string, err error) {
	n := strings.IndexFunc(s, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' })
	if n < 0 {
		return p, "", fmt.Errorf("%%%s has no %% at its end (%%%% is a per cent sign)", s)
	}
	name, rest := s[:n], s[n:]
	argument, ok := operators[name]
	if !ok {
		if state := foreign(name); state != "" {
			return p, "", fmt.Errorf("%%%s%% is Envoy's, and there is nothing of it here: %s", name, state)
		}
		return p, "", fmt.Errorf("%%%s%% is no operator; there are %s", name, strings.Join(Operators(), ", "))
	}
	p.Name = name
	if inner, ok := strings.CutPrefix(rest, "("); ok {
		if p.Arg, rest, ok = strings.Cut(inner, ")"); !ok {
			return p, "", fmt.Errorf("%%%s( has no ) behind its argument", name)
		}
	}
	length, rest, ok := strings.Cut(rest, "%")
	if !ok {
		return p, "", fmt.Errorf("%%%s has no %% at its end", name)
	}
	if length != "" {
		digits, ok := strings.CutPrefix(length, ":")
		if p.Most, err = strconv.Atoi(digits); !ok || err != nil || p.Most < 1 {
			return p, "", fmt.Errorf("%%%s%s%%: what may stand behind the name is (ARGUMENT) and :LENGTH, a number of bytes from 1 on", name, length)
		}
	}
	if err := argument(name, p.Arg); err != nil {
		return p, "", err
	}
	if takesField(name) {
		p.Arg, p.Alt, _ = strings.Cut(p.Arg, "?")
	}
	return p, rest, nil
}
