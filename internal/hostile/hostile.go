// SPDX-License-Identifier: Apache-2.0

// Package hostile lists spellings of host names that two readers could take
// for two different names: escapes, letters of other scripts, bytes that end a
// string in C, broken labels. It is data for the tests of everything that
// reads a name. A reader either refuses a spelling or reads the one name that
// it stands for; a gateway in which one part reads one name and another part
// another lets through what nobody allowed.
package hostile

import (
	"encoding/binary"
	"strings"
)

// Spelling is one way to write a name.
type Spelling struct {
	// What says what is odd about it.
	What string
	// Text is the name as a ClientHello, a Host header or a file has it; empty
	// when there is no text for it.
	Text string
	// Wire is the name as a DNS message has it behind its header (RFC 1035,
	// section 4.1.4; pointers count from the message's start, where the header
	// has 12 bytes), nil when there is no such form.
	Wire []byte
	// Tail stands in the DNS message behind the question.
	Tail []byte
	// Name is what it stands for. Empty: it is no name, and every reader must
	// refuse it.
	Name string
}

// Header is the length of a DNS header (RFC 1035, section 4.1.1).
const Header = 12

// name is what most spellings imitate. Policies of tests allow it.
const name = "www.example.com"

var (
	label63 = strings.Repeat("a", 63)
	name253 = strings.Repeat(label63+".", 3) + strings.Repeat("b", 61)
)

// Spellings returns the list.
func Spellings() []Spelling {
	out := []Spelling{
		{What: "as it is", Text: name, Name: name},
		{What: "upper case", Text: "WWW.EXAMPLE.COM", Name: name},
		{What: "mixed case", Text: "wWw.ExAmPlE.cOm", Name: name},
		{What: "dot of the root", Text: name + ".", Name: name, Wire: Labels("www", "example", "com")},
		{What: "upper case and the dot of the root", Text: "WWW.EXAMPLE.COM.", Name: name, Wire: Labels("WWW", "EXAMPLE", "COM")},
		{What: "underscore", Text: "_sip._tcp.example.com", Name: "_sip._tcp.example.com"},
		{What: "punycode", Text: "XN--bcher-kva.example", Name: "xn--bcher-kva.example"},
		{What: "longest label", Text: label63 + ".example", Name: label63 + ".example"},
		{What: "longest name", Text: name253, Name: name253},
		{What: "hexadecimal address", Text: "0x7f.1", Name: "0x7f.1"},
		{What: "octal address", Text: "0177.0.0.01", Name: "0177.0.0.01"},

		{What: "nothing", Text: ""},
		{What: "the root", Text: ".", Wire: Labels()},
		{What: "two dots at the end", Text: name + ".."},
		{What: "a dot in front", Text: "." + name},
		{What: "an empty label", Text: "www..example.com"},
		{What: "a label of 64 bytes", Text: label63 + "a.example", Wire: append(append([]byte{64}, label63+"a"...), 0)},
		{What: "a name of 254 bytes", Text: name253 + "b", Wire: Labels(label63, label63, label63, strings.Repeat("b", 62))},
		{What: "a name of 300 bytes", Text: strings.Repeat(label63[:49]+".", 6) + "com"},

		{What: "an escaped dot", Text: `www\.example.com`},
		{What: "an escaped dot in numbers", Text: `www\046example.com`},
		{What: "an escaped letter", Text: `\119ww.example.com`},
		{What: "a backslash at the end", Text: name + `\`},
		{What: "a dot inside a label", Wire: Labels("www.example", "com")},
		{What: "a dot inside a label, then an allowed name", Wire: Labels("evil.www", "example", "com")},
		{What: "all in one label", Wire: Labels("www.example.com")},
		{What: "a dot at the end of a label", Wire: Labels("www", "example", "com.")},
		{What: "percent-encoded", Text: "%77ww.example.com"},
		{What: "a percent-encoded dot", Text: "www%2eexample.com"},

		{What: "NUL at the end", Text: name + "\x00"},
		{What: "NUL, then another name", Text: name + "\x00.evil.test"},
		{What: "another name, NUL, then it", Text: "evil.test\x00." + name},
		{What: "NUL as a label", Text: "\x00." + name},
		{What: "a space at the end", Text: name + " "},
		{What: "a space in front", Text: " " + name},
		{What: "a tab", Text: "www\t.example.com"},
		{What: "a line feed", Text: name + "\n"},
		{What: "CRLF and a header", Text: name + "\r\nX: y"},
		{What: "DEL", Text: "www\x7f.example.com"},
		{What: "a byte that is no character", Text: "www\xff.example.com"},
		{What: "a high bit on a letter", Text: "\xf7ww.example.com"},

		{What: "umlaut", Text: "b\u00fccher.example"},
		{What: "Kelvin sign for k", Text: "\u212a.example.com"},
		{What: "long s for s", Text: "\u017ftuff.example.com"},
		{What: "dotless i", Text: "\u0131.example.com"},
		{What: "Cyrillic a", Text: "www.ex\u0430mple.com"},
		{What: "full-width letters", Text: "\uff57\uff57\uff57.example.com"},
		{What: "full-width dot", Text: "www\uff0eexample\uff0ecom"},
		{What: "ideographic full stop", Text: "www\u3002example\u3002com"},
		{What: "half-width ideographic full stop", Text: "www\uff61example\uff61com"},
		{What: "soft hyphen", Text: "w\u00adww.example.com"},
		{What: "zero-width space", Text: "www\u200b.example.com"},
		{What: "right-to-left override", Text: "\u202e" + name},
		{What: "byte order mark", Text: "\ufeff" + name},

		{What: "a wildcard", Text: "*.example.com"},
		{What: "a wildcard inside", Text: "www.*.com"},
		{What: "a user in front", Text: "user@" + name},
		{What: "a path behind", Text: name + "/"},
		{What: "a query behind", Text: name + "?"},
		{What: "two names", Text: name + ",evil.test"},
		{What: "quotes", Text: `"` + name + `"`},
		{What: "a semicolon", Text: name + ";evil.test"},

		{What: "a pointer to itself", Wire: []byte{0xc0, Header}},
		{What: "a loop of pointers", Wire: []byte{1, 'a', 0xc0, Header}},
		{What: "two pointers at each other", Wire: []byte{0xc0, Header + 6}, Tail: []byte{0xc0, Header}},
		{What: "a pointer into the header", Wire: []byte{0xc0, 0}},
		{What: "a pointer beyond the message", Wire: []byte{0xff, 0xff}},
		{What: "a label of type 01", Wire: []byte{0x41, 'a', 0}},
		{What: "a label of type 10", Wire: []byte{0x81, 'a', 0}},
		{What: "a label that is longer than the message", Wire: []byte{63, 'a'}},
	}
	for i := range out {
		if s := &out[i]; s.Wire == nil && s.Text != "" {
			s.Wire = wireOf(s.Text)
		}
	}
	return out
}

// Forward is the name, by a pointer to what stands behind the question. Who
// takes it must read the same name in all of the message.
func Forward() Spelling {
	return Spelling{What: "a pointer forward", Wire: []byte{0xc0, Header + 6}, Tail: Labels("www", "example", "com"), Name: name}
}

// Labels is the DNS form of a name: each label behind its length, and the
// root.
func Labels(labels ...string) []byte {
	var out []byte
	for _, l := range labels {
		out = append(append(out, byte(len(l))), l...)
	}
	return append(out, 0)
}

// wireOf takes dots, and nothing else, for ends of labels; nil when a label
// cannot be.
func wireOf(text string) []byte {
	labels := strings.Split(text, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 {
			return nil
		}
	}
	return Labels(labels...)
}

// Query is a DNS query for the spelling.
func (s Spelling) Query(qtype uint16) []byte {
	out := []byte{0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0} // id, RD, one question
	out = append(out, s.Wire...)
	out = binary.BigEndian.AppendUint16(out, qtype)
	out = append(out, 0, 1) // class IN
	return append(out, s.Tail...)
}
