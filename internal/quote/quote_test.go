// SPDX-License-Identifier: Apache-2.0

package quote

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCut(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "",
		strings.Repeat("a", 256):      strings.Repeat("a", 256),
		strings.Repeat("a", 257):      strings.Repeat("a", 256) + "… (257 bytes)",
		strings.Repeat("ä", 1<<20):    strings.Repeat("ä", 128) + "… (2097152 bytes)",
		"a" + strings.Repeat("€", 99): "a" + strings.Repeat("€", 85) + "… (298 bytes)",
	} {
		if got := Cut(in); got != want {
			t.Errorf("%.20q: %q, want %q", in, got, want)
		}
	}
}

type name string

func TestArgs(t *testing.T) {
	long := strings.Repeat("x", 15<<20)
	for _, a := range []any{long, name(long), errors.New(long), []string{long, long}, []name{"a", name(long)}, make([]string, 1<<20)} {
		if got := fmt.Sprintf("%q and %v: %s", Args([]any{a, 7, "end"})...); len(got) > 2*MaxText+100 || !strings.HasSuffix(got, "end") {
			t.Errorf("%T: %d bytes", a, len(got))
		}
	}
	if got := fmt.Sprint(Args([]any{"a", name("b"), []string{"c"}, nil, 1})...); got != "ab[c] <nil> 1" {
		t.Error(got)
	}
}

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain, and ä € 😀 \"\\":   "plain, and ä € 😀 \"\\",
		"\n\x1b[31mFAKE\r\x1b[2K": `\n\x1b[31mFAKE\r\x1b[2K`,
		"a\u009bb\u202ec\u2066d":  `a\u009bb\u202ec\u2066d`,
		"\u200b\ufeff\x00\x7f":    `\u200b\ufeff\x00\x7f`,
		"\xff\xfe\xc3":            `\xff\xfe\xc3`,
		"\ufffd":                  "\ufffd",
	} {
		if got := Line(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := Lines("a\n\tb\r"); got != "a\n\tb\\r" {
		t.Errorf("%q", got)
	}
	var b strings.Builder
	if n, err := Writer(&b).Write([]byte("x\x1b\n")); n != 3 || err != nil || b.String() != "x\\x1b\n" {
		t.Errorf("%d %v %q", n, err, b.String())
	}
}

func FuzzLine(f *testing.F) {
	f.Add("a\u202e\x1b\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := Line(s)
		if !utf8.ValidString(got) || !clean(got, "") {
			t.Errorf("%q", got)
		}
		if Line(got) != got {
			t.Errorf("%q is escaped again", got)
		}
	})
}
