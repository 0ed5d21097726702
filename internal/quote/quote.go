// SPDX-License-Identifier: Apache-2.0

// Package quote makes text that others wrote fit to be shown to people: it
// cuts what is too long to be read, and escapes what would move a terminal's
// cursor, forge a line or turn the reading direction.
package quote

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxValue is how many bytes of one value are quoted.
	MaxValue = 256
	// MaxText is how many bytes a text may have that quotes several.
	MaxText = 4096
	// maxItems is how many values of a list are quoted.
	maxItems = 16
)

// Cut returns s, or its first MaxValue bytes and how many it has.
func Cut(s string) string { return cut(s, MaxValue) }

// Text is Cut for a text that quotes values.
func Text(s string) string { return cut(s, MaxText) }

func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	n := limit
	for n > limit-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:n], len(s))
}

// Args returns the arguments of a format with their texts cut, each by itself,
// so that what follows a long one is still to be seen. It changes the list.
func Args(args []any) []any {
	for i, a := range args {
		switch a := a.(type) {
		case nil:
		case string:
			args[i] = Cut(a)
		case error:
			if text := a.Error(); len(text) > MaxText {
				args[i] = Text(text)
			}
		case fmt.Stringer:
			if text := a.String(); len(text) > MaxText {
				args[i] = Text(text)
			}
		default:
			args[i] = plain(a)
		}
	}
	return args
}

// plain cuts values of string types, and lists of them.
func plain(a any) any {
	v := reflect.ValueOf(a)
	switch {
	case v.Kind() == reflect.String && v.Len() > MaxValue:
		return Cut(v.String())
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.String:
		long := v.Len() > maxItems
		for i := 0; i < min(v.Len(), maxItems); i++ {
			long = long || v.Index(i).Len() > MaxValue
		}
		if !long {
			return a
		}
		var out []string
		for i := 0; i < min(v.Len(), maxItems); i++ {
			out = append(out, Cut(v.Index(i).String()))
		}
		if n := v.Len() - maxItems; n > 0 {
			out = append(out, fmt.Sprintf("… (%d more)", n))
		}
		return out
	}
	return a
}

// Line returns s for one line of a terminal: control characters, invisible
// ones such as those that turn the reading direction, and bytes that are not
// UTF-8 are written as Go escapes them.
func Line(s string) string { return escape(s, "") }

// Lines is Line for text of several lines.
func Lines(s string) string { return escape(s, "\n\t") }

// Word is Line for one field of a line: what could be taken for more than one
// field is quoted.
func Word(s string) string {
	if strings.ContainsAny(s, " \"[]()") {
		return strconv.Quote(s)
	}
	return Line(s)
}

func escape(s, keep string) string {
	if clean(s, keep) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if shown(r, n, keep) {
			b.WriteString(s[i : i+n])
		} else {
			q := strconv.Quote(s[i : i+n])
			b.WriteString(q[1 : len(q)-1])
		}
		i += n
	}
	return b.String()
}

func clean(s, keep string) bool {
	for i, r := range s {
		n := 0
		if r == utf8.RuneError {
			_, n = utf8.DecodeRuneInString(s[i:])
		}
		if !shown(r, n, keep) {
			return false
		}
	}
	return true
}

// shown says whether a rune of n bytes is printed as it is.
func shown(r rune, n int, keep string) bool {
	if r == utf8.RuneError && n == 1 {
		return false
	}
	return unicode.IsPrint(r) || strings.ContainsRune(keep, r)
}

// Writer returns a writer for a terminal, through which text of several lines
// goes as Lines has it. Each Write must have whole characters.
func Writer(w io.Writer) io.Writer { return writer{w} }

type writer struct{ w io.Writer }

func (w writer) Write(p []byte) (int, error) {
	if _, err := io.WriteString(w.w, Lines(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
