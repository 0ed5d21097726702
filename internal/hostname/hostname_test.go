// SPDX-License-Identifier: Apache-2.0

package hostname

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/hostile"
)

var long = strings.Repeat(strings.Repeat("a", 49)+".", 5) // 250 bytes, ends with a dot

func TestNormalize(t *testing.T) {
	for _, c := range []struct {
		in, want string
		err      error
	}{
		{in: "example.com", want: "example.com"},
		{in: "WWW.Example.COM.", want: "www.example.com"},
		{in: "localhost", want: "localhost"},
		{in: "_sip._tcp.example.com", want: "_sip._tcp.example.com"},
		{in: "xn--bcher-kva.example", want: "xn--bcher-kva.example"},
		{in: "192.0.2.1", want: "192.0.2.1"},
		{in: "a", want: "a"},
		{in: long + "abc", want: long + "abc"},
		{in: long + "abc.", want: long + "abc"},
		{in: long + "abcd", err: ErrTooLong},
		{in: strings.Repeat("a", 63) + ".b", want: strings.Repeat("a", 63) + ".b"},
		{in: strings.Repeat("a", 64) + ".b", err: ErrLabel},
		{in: "", err: ErrEmpty},
		{in: ".", err: ErrLabel},
		{in: "..", err: ErrLabel},
		{in: "a..", err: ErrLabel},
		{in: "a..b", err: ErrLabel},
		{in: ".a", err: ErrLabel},
		{in: "bücher.example", err: ErrCharacter},
		{in: "\u212a.example", err: ErrCharacter}, // Kelvin sign, which lower-cases to k
		{in: "a b", err: ErrCharacter},
		{in: "a\x00.b", err: ErrCharacter},
		{in: "*.b", err: ErrCharacter},
		{in: "a:80", err: ErrCharacter},
		{in: "::1", err: ErrCharacter},
	} {
		got, err := Normalize(c.in)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("Normalize(%q) = %q, %v; want %q, %v", c.in, got, err, c.want, c.err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = Normalize("www.example.com.") }); n != 0 {
		t.Errorf("Normalize of a name in lower case allocates %v times", n)
	}
}

func TestParsePattern(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Pattern
		err  error
	}{
		{in: "A.b.", want: "a.b"},
		{in: "*", want: "*"},
		{in: "*.B.c.", want: "*.b.c"},
		{in: "*-x.b", want: "*-x.b"},
		{in: "*foo.b", want: "*foo.b"},
		{in: "", err: ErrEmpty},
		{in: "*.", err: ErrEmpty},
		{in: "*..b", err: ErrLabel},
		{in: "**.b", err: ErrWildcard},
		{in: "a.*.b", err: ErrWildcard},
		{in: "a*", err: ErrWildcard},
		{in: "*.b/c", err: ErrCharacter},
	} {
		got, err := ParsePattern(c.in)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("ParsePattern(%q) = %q, %v; want %q, %v", c.in, got, err, c.want, c.err)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		p    Pattern
		name string
		want bool
	}{
		{"a.b", "a.b", true},
		{"a.b", "x.a.b", false},
		{"a.b", "", false},
		{"", "", false},
		{"*", "a", true},
		{"*", "", false},
		{"*.foo.com", "a.foo.com", true},
		{"*.foo.com", "a.b.foo.com", true},
		{"*.foo.com", "foo.com", false},
		{"*.foo.com", "xfoo.com", false},
		{"*.foo.com", "a.foo.com.evil.org", false},
		{"*-x.foo.com", "a-x.foo.com", true},
		{"*-x.foo.com", "-x.foo.com", false},
		{"*foo.com", "barfoo.com", true},
		{"*foo.com", "a.foo.com", true},
		{"*foo.com", "foo.com", false},
	} {
		if got := c.p.Matches(c.name); got != c.want {
			t.Errorf("%q.Matches(%q) = %v", c.p, c.name, got)
		}
	}
}

func TestCoversAndOverlaps(t *testing.T) {
	for _, c := range []struct {
		p, q             Pattern
		covers, overlaps bool
	}{
		{"a.b", "a.b", true, true},
		{"a.b", "c.b", false, false},
		{"*.b", "a.b", true, true},
		{"a.b", "*.b", false, true},
		{"*.b", "*.a.b", true, true},
		{"*.a.b", "*.b", false, true},
		{"*", "*.b", true, true},
		{"*", "*", true, true},
		{"*.a", "*.b", false, false},
		{"*-x.b", "*.b", false, true},
		{"*.b", "*-x.b", true, true},
		{"*.b", "*.x.b", true, true},
		{"*.b", "b", false, false},
	} {
		if got := c.p.Covers(c.q); got != c.covers {
			t.Errorf("%q.Covers(%q) = %v", c.p, c.q, got)
		}
		if got := c.p.Overlaps(c.q); got != c.overlaps {
			t.Errorf("%q.Overlaps(%q) = %v", c.p, c.q, got)
		}
		if c.p.Overlaps(c.q) != c.q.Overlaps(c.p) {
			t.Errorf("Overlaps(%q, %q) is not symmetric", c.p, c.q)
		}
	}
}

func TestCompare(t *testing.T) {
	want := []Pattern{"long.example.com", "a.b", "c.b", "*.long.example.com", "*.a", "*.b", "*"}
	got := []Pattern{"*", "*.b", "c.b", "*.long.example.com", "a.b", "*.a", "long.example.com"}
	slices.SortFunc(got, Compare)
	if !slices.Equal(got, want) {
		t.Errorf("sorted: %q, want %q", got, want)
	}
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"", ".", "a.", "A.b", "*.x", "xn--a", "a..b", "é", "\xff", long + "abc."} {
		f.Add(s)
	}
	for _, s := range hostile.Spellings() {
		f.Add(s.Text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Normalize(s)
		if err != nil {
			if n != "" {
				t.Fatalf("Normalize(%q) = %q with error %v", s, n, err)
			}
			return
		}
		if again, err := Normalize(n); err != nil || again != n {
			t.Fatalf("Normalize(%q) = %q, which is not a fixed point: %q, %v", s, n, again, err)
		}
		p, err := ParsePattern(s)
		if err != nil || string(p) != n {
			t.Fatalf("ParsePattern(%q) = %q, %v; want %q", s, p, err, n)
		}
	})
}
