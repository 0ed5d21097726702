// SPDX-License-Identifier: Apache-2.0

package hostname

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// linear is what Index must be equal to: all matching patterns, sorted.
func linear(patterns []Pattern, name string) []Pattern {
	var out []Pattern
	for _, p := range patterns {
		if p.Matches(name) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, Compare)
	return out
}

func walk(x *Index[Pattern], name string) []Pattern {
	var out []Pattern
	w := x.Walk(name)
	for p, ok := w.Next(); ok; p, ok = w.Next() {
		out = append(out, p)
	}
	return out
}

func indexOf(patterns []Pattern) *Index[Pattern] {
	m := map[Pattern]Pattern{}
	for _, p := range patterns {
		m[p] = p
	}
	return NewIndex(maps.All(m))
}

func TestIndexEqualsLinearScan(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	// A small alphabet makes names and patterns meet often.
	name := func() string {
		var b strings.Builder
		for i, n := 0, 1+rnd.IntN(4); i < n; i++ {
			if i > 0 {
				b.WriteByte('.')
			}
			for j, n := 0, 1+rnd.IntN(3); j < n; j++ {
				b.WriteByte("ab-"[rnd.IntN(3)])
			}
		}
		return b.String()
	}
	hits := 0
	for round := range 200 {
		set := map[Pattern]bool{}
		for range rnd.IntN(60) {
			s := name()
			switch rnd.IntN(4) {
			case 0:
				s = "*." + s
			case 1:
				s = "*" + s
			}
			p, err := ParsePattern(s)
			if err != nil {
				t.Fatal(err)
			}
			set[p] = true
		}
		if round%10 == 0 {
			set["*"] = true
		}
		patterns := slices.Collect(maps.Keys(set))
		x := indexOf(patterns)
		for range 100 {
			n := name()
			want, got := linear(patterns, n), walk(x, n)
			if !slices.Equal(got, want) {
				t.Fatalf("%q in %q: got %q, want %q", n, patterns, got, want)
			}
			hits += len(want)
			first, ok := x.Lookup(n)
			if ok != (len(want) > 0) || ok && first != want[0] {
				t.Fatalf("Lookup(%q) = %q, %v; want %q", n, first, ok, want)
			}
		}
	}
	if hits < 1000 {
		t.Errorf("only %d matches: the test does not test", hits)
	}
}

func TestIndexEdges(t *testing.T) {
	longest := Pattern("*." + long + "ab") // ends on 253 bytes: no name is longer
	x := indexOf([]Pattern{"*", "a", longest, Pattern("*" + strings.Repeat("a.", 200) + "b")})
	for name, want := range map[string][]Pattern{
		"":                        nil,
		"a":                       {"a", "*"},
		"b":                       {"*"},
		strings.Repeat("x", 1000): {"*"},
	} {
		if got := walk(x, name); !slices.Equal(got, want) {
			t.Errorf("%.20q: got %q, want %q", name, got, want)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add("a.b,*.b,*", "a.b")
	f.Add("*-x.b,*x.b", "a-x.b")
	f.Fuzz(func(t *testing.T, list, name string) {
		var patterns []Pattern
		for s := range strings.SplitSeq(list, ",") {
			if p, err := ParsePattern(s); err == nil && !slices.Contains(patterns, p) {
				patterns = append(patterns, p)
			}
		}
		n, err := Normalize(name)
		if err != nil {
			return
		}
		if got, want := walk(indexOf(patterns), n), linear(patterns, n); !slices.Equal(got, want) {
			t.Fatalf("%q in %q: got %q, want %q", n, patterns, got, want)
		}
	})
}

func TestLookupAllocatesNothing(t *testing.T) {
	x := indexOf([]Pattern{"a.example.com", "*.example.org", "*-x.example.net"})
	for _, n := range []string{"a.example.com", "b.c.example.org", "y-x.example.net", "none.test"} {
		if got := testing.AllocsPerRun(100, func() { x.Lookup(n) }); got != 0 {
			t.Errorf("Lookup(%q) allocates %v times", n, got)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		m := map[Pattern]int{}
		for i := range n {
			m[Pattern(fmt.Sprintf("host%d.example.com", i))] = i
			m[Pattern(fmt.Sprintf("*.wild%d.example.com", i))] = i
		}
		x := NewIndex(maps.All(m))
		for _, name := range []string{"host7.example.com", "a.b.wild7.example.com", "none.example.org"} {
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					x.Lookup(name)
				}
			})
		}
	}
}
