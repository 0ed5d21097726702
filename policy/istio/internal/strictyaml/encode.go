// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// encoder writes a node as the JSON that the official Go type decodes, and
// checks it against that type on the way. The libraries' decoders know no
// positions and stop at the first error; going through the type ourselves
// gives every error with its line. What the encoder wrote is decoded by the
// official decoder all the same, which has the last word.
type encoder struct {
	p       *Reporter
	buf     bytes.Buffer
	bad     bool // some error was reported
	lenient bool // see DecodeProtoJSON
	// stand is the length of buf after the last value that could not be read.
	stand int
}

// errorf reports a value that cannot be read, and writes null in its place.
// What is wrong with it has been said: later checks of the value itself are
// not reported, those of everything around it are.
func (e *encoder) errorf(n *Node, format string, args ...any) {
	e.bad = true
	e.p.Errorf(n, format, args...)
	e.p.Report.unread(e.p, n)
	e.buf.WriteString("null")
	e.stand = e.buf.Len()
}

func (e *encoder) expected(n *Node, where, want string) {
	e.errorf(n, "%s: expected %s, got %s%s", where, want, n.What(), e.p.Report.hintOf(n, where, want))
}

func (e *encoder) string(s string) {
	if !strings.ContainsFunc(s, needsEscape) {
		e.buf.WriteByte('"')
		e.buf.WriteString(s)
		e.buf.WriteByte('"')
		return
	}
	b, err := json.Marshal(s)
	if err != nil { // cannot happen for a string; null is refused by the decoder
		b = []byte("null")
	}
	e.buf.Write(b)
}

func needsEscape(c rune) bool { return c < ' ' || c > '~' || c == '"' || c == '\\' }

func (e *encoder) stringScalar(n *Node, where string) {
	if n.Kind != Scalar || n.Tag != "!!str" {
		e.expected(n, where, "a string")
		return
	}
	e.string(n.Text)
}

func (e *encoder) boolScalar(n *Node, where string) {
	v, ok := n.Value.(bool)
	if !ok {
		e.expected(n, where, "true or false")
		return
	}
	e.buf.WriteString(strconv.FormatBool(v))
}

// intScalar writes a whole number between lo and hi. Numbers in quotes are
// good where protojson takes them.
func (e *encoder) intScalar(n *Node, where string, lo int64, hi uint64, quoted bool) {
	value := n.Value
	if quoted && n.Kind == Scalar && n.Tag == "!!str" {
		if i, err := strconv.ParseInt(n.Text, 10, 64); err == nil {
			value = i
			if !e.lenient {
				e.p.Warnf(n, "%s: %q is read as a number; a cluster refuses it as a string, write it without quotes", where, n.Text)
			}
		}
	}
	if f, ok := value.(float64); ok && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		value = int64(f)
	}
	switch v := value.(type) {
	case int64:
		if v >= lo && (v < 0 || uint64(v) <= hi) {
			e.buf.WriteString(strconv.FormatInt(v, 10))
			return
		}
		e.errorf(n, "%s: %d is not in the range %d to %d", where, v, lo, hi)
	case uint64:
		if v <= hi {
			e.buf.WriteString(strconv.FormatUint(v, 10))
			return
		}
		e.errorf(n, "%s: %d is not in the range %d to %d", where, v, lo, hi)
	default:
		e.expected(n, where, "a whole number")
	}
}

func (e *encoder) floatScalar(n *Node, where string) {
	f, ok := n.number()
	if !ok || math.IsNaN(f) || math.IsInf(f, 0) {
		e.expected(n, where, "a number")
		return
	}
	e.buf.WriteString(strconv.FormatFloat(f, 'g', -1, 64))
}

func (n *Node) number() (float64, bool) {
	switch v := n.Value.(type) {
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// duration writes a google.protobuf.Duration. Besides protojson's "1.5s" it
// takes Go's form ("1m30s"), and a bare number of seconds.
func (e *encoder) duration(n *Node, where string) {
	if f, ok := n.number(); ok {
		// A float64 holds the nanoseconds of every duration up to 100 days.
		d := time.Duration(math.Round(f * float64(time.Second)))
		if math.IsNaN(f) || math.Abs(f) > 9e9 {
			e.errorf(n, "%s: %s is not a duration", where, n.Text)
			return
		}
		e.p.Warnf(n, "%s: a bare number is read as seconds; the standard form is %q", where, ProtoDuration(d))
		e.string(ProtoDuration(d))
		return
	}
	if n.Kind != Scalar || n.Tag != "!!str" {
		e.expected(n, where, `a duration such as "10s"`)
		return
	}
	d, err := time.ParseDuration(n.Text)
	if err != nil {
		hint := `write it as "10s" or "500ms"`
		if _, err := strconv.ParseFloat(n.Text, 64); err == nil {
			hint = "write it with a unit: " + strconv.Quote(n.Text+"s")
		}
		e.errorf(n, "%s: %q is not a duration; %s", where, n.Text, hint)
		return
	}
	e.string(ProtoDuration(d))
}

// ProtoDuration is d in the JSON form of google.protobuf.Duration.
func ProtoDuration(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign = "-"
	}
	s, ns := d/time.Second, d%time.Second
	out := strconv.FormatInt(max(int64(s), -int64(s)), 10)
	if ns != 0 {
		frac := strconv.FormatInt(max(int64(ns), -int64(ns))+int64(time.Second), 10)[1:]
		for frac[len(frac)-1] == '0' {
			frac = frac[:len(frac)-1]
		}
		out += "." + frac
	}
	return sign + out + "s"
}

// any writes a node whose type is not looked into.
func (e *encoder) any(n *Node) {
	switch n.Kind {
	case List:
		e.list(n, func(item *Node, _ int) { e.any(item) })
	case Mapping:
		e.buf.WriteByte('{')
		for i := range n.Fields {
			e.key(i, n.Fields[i].Key)
			e.any(n.Fields[i].Value)
		}
		e.buf.WriteByte('}')
	default:
		e.anyScalar(n)
	}
}

func (e *encoder) anyScalar(n *Node) {
	switch v := n.Value.(type) {
	case int64:
		e.buf.WriteString(strconv.FormatInt(v, 10))
	case uint64:
		e.buf.WriteString(strconv.FormatUint(v, 10))
	case bool:
		e.buf.WriteString(strconv.FormatBool(v))
	case float64:
		e.floatScalar(n, "value")
	default:
		if n.IsNull() {
			e.buf.WriteString("null")
			return
		}
		e.string(n.Text)
	}
}

func (e *encoder) key(i int, name string) {
	if i > 0 {
		e.buf.WriteByte(',')
	}
	e.string(name)
	e.buf.WriteByte(':')
}

func (e *encoder) list(n *Node, each func(item *Node, i int)) {
	e.buf.WriteByte('[')
	for i, item := range n.Items {
		if i > 0 {
			e.buf.WriteByte(',')
		}
		each(item, i)
	}
	e.buf.WriteByte(']')
}

// unknown reports a key that the type does not have.
func (e *encoder) unknown(f *Field, in string, known []string) {
	e.bad = true
	e.p.Errorf(f.Pos(), "unknown field %q in %s%s", f.Key, in, DidYouMean(f.Key, known))
}
