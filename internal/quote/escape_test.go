// SPDX-License-Identifier: Apache-2.0

package quote

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestLineEscapes(t *testing.T) {
	for in, want := range map[string]string{
		"":                               "",
		"curl":                           "curl",
		"größer 名前 👍":                    "größer 名前 👍",
		`a\nb`:                           `a\nb`,
		"\n\x1b[31mFAKE\r\x1b[2K":        `\n\x1b[31mFAKE\r\x1b[2K`,
		"\u009b31m":                      `\u009b31m`,
		"\x9b31m":                        `\x9b31m`,
		"a\x7fb\x00c\td":                 `a\x7fb\x00c\td`,
		"x\u202egnp.exe":                 `x\u202egnp.exe`,
		"\u2066\u2067\u2068\u2069":       `\u2066\u2067\u2068\u2069`,
		"\u202a\u202b\u202c\u202d":       `\u202a\u202b\u202c\u202d`,
		"\u200b\u200e\u2028\u2029\ufeff": `\u200b\u200e\u2028\u2029\ufeff`,
		"\U000e0041":                     `\U000e0041`,
		"\ufffd\xff":                     "\ufffd" + `\xff`,
		"\xed\xa0\x80":                   `\xed\xa0\x80`, // a surrogate
	} {
		if got := Line(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestLines(t *testing.T) {
	if got := Lines("a\n\x1b[2K\n"); got != "a\n\\x1b[2K\n" {
		t.Errorf("%q", got)
	}
}

func TestWord(t *testing.T) {
	for in, want := range map[string]string{
		"curl": "curl", "Web Content": `"Web Content"`, "x[1] tcp good.example": `"x[1] tcp good.example"`,
		`a"b`: `"a\"b"`, "a\nb": `a\nb`, "a b\x1b": `"a b\x1b"`,
	} {
		if got := Word(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func FuzzLineEscapes(f *testing.F) {
	f.Add("\x1b[31m\u202e\xff\u009b")
	f.Fuzz(func(t *testing.T, s string) {
		for _, out := range []string{Line(s), Word(s), strings.NewReplacer("\n", "", "\t", "").Replace(Lines(s))} {
			if !utf8.ValidString(out) {
				t.Fatalf("%q: %q is not UTF-8", s, out)
			}
			for _, r := range out {
				if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
					t.Fatalf("%q: %q has %U", s, out, r)
				}
			}
		}
		if again := Line(Line(s)); again != Line(s) {
			t.Fatalf("%q: escaped twice: %q", s, again)
		}
	})
}
