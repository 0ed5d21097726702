// SPDX-License-Identifier: Apache-2.0

package logformat

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// startLayout is Envoy's default (RFC 3339 with milliseconds).
const startLayout = "2006-01-02T15:04:05.000Z"

// layouts are what %START_TIME(...)% understands of strftime(3), as Go's layouts.
var layouts = map[byte]string{
	'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'F': "2006-01-02", 'T': "15:04:05",
	'b': "Jan", 'B': "January", 'a': "Mon", 'A': "Monday", 'e': "_2", 'I': "03", 'p': "PM", 'y': "06", 'j': "002",
	'z': "-0700", 'Z': "MST",
}

// timeFormat says whether a format of the start time is understood.
func timeFormat(name, arg string) error {
	for rest := arg; ; {
		_, after, found := strings.Cut(rest, "%")
		if !found {
			return nil
		}
		word, after := timeWord(after)
		if word == "" {
			return fmt.Errorf("%%%s(%s)%%: of strftime there are %%Y %%m %%d %%H %%M %%S %%F %%T %%b %%B %%a %%A %%e %%I %%p %%y %%j %%z %%Z %%s %%%%, and %%f to %%9f for parts of a second", name, arg)
		}
		rest = after
	}
}

// timeWord is what stands behind a %: a letter, or a number of digits and an f.
func timeWord(s string) (word, rest string) {
	if s == "" {
		return "", ""
	}
	if _, ok := layouts[s[0]]; ok || s[0] == 's' || s[0] == 'f' || s[0] == '%' {
		return s[:1], s[1:]
	}
	if len(s) > 1 && s[0] >= '1' && s[0] <= '9' && s[1] == 'f' {
		return s[:2], s[2:]
	}
	return "", ""
}

// AppendTime appends t in the format of an operator START_TIME; "": the default.
func AppendTime(b []byte, t time.Time, format string) []byte {
	if format == "" {
		return t.AppendFormat(b, startLayout)
	}
	for {
		before, after, found := strings.Cut(format, "%")
		b = append(b, before...)
		if !found {
			return b
		}
		word, rest := timeWord(after)
		switch {
		case word == "%":
			b = append(b, '%')
		case word == "s":
			b = strconv.AppendInt(b, t.Unix(), 10)
		case strings.HasSuffix(word, "f"):
			digits := 9
			if len(word) == 2 {
				digits = int(word[0] - '0')
			}
			b = append(b, fmt.Sprintf("%09d", t.Nanosecond())[:digits]...)
		default:
			b = t.AppendFormat(b, layouts[word[0]])
		}
		format = rest
	}
}
