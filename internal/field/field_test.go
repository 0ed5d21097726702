// SPDX-License-Identifier: Apache-2.0

package field

import (
	"slices"
	"testing"
)

func of(pairs ...string) (l List) {
	for i := 0; i < len(pairs); i += 2 {
		l = append(l, Entry{pairs[i], pairs[i+1], pairs[i] + ":" + pairs[i+1]})
	}
	return l
}

func text(l List) string {
	var b []byte
	for i := range l {
		b = l[i].Append(b)
	}
	return string(b)
}

// TestChanges: what is changed keeps its place and its spelling, and what is not
// stays as it came.
func TestChanges(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(l *List)
		want   string
	}{
		"nothing":        {func(*List) {}, "x-A:1\r\nB:2\r\nX-a:3\r\n"},
		"set":            {func(l *List) { l.Set("X-A", "9") }, "x-A: 9\r\nB:2\r\n"},
		"set what it is": {func(l *List) { l.Set("b", "2") }, "x-A:1\r\nB:2\r\nX-a:3\r\n"},
		"set a new one":  {func(l *List) { l.Set("C", "2") }, "x-A:1\r\nB:2\r\nX-a:3\r\nC: 2\r\n"},
		"add":            {func(l *List) { l.Add("b", "3") }, "x-A:1\r\nB:2\r\nX-a:3\r\nb: 3\r\n"},
		"remove":         {func(l *List) { l.Del("X-A") }, "B:2\r\n"},
		"remove none":    {func(l *List) { l.Del("C") }, "x-A:1\r\nB:2\r\nX-a:3\r\n"},
		"remove some":    {func(l *List) { l.DelFunc(func(f *Entry) bool { return f.Value > "1" }) }, "x-A:1\r\n"},
	} {
		l := of("x-A", "1", "B", "2", "X-a", "3")
		before := l.Clone()
		tt.change(&l)
		if got := text(l); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		if text(before) != "x-A:1\r\nB:2\r\nX-a:3\r\n" {
			t.Errorf("%s: the clone has changed", name)
		}
	}
}

func TestQuestions(t *testing.T) {
	l := of("A", "1", "b", "x, Close ,y", "a", "2", "B", "z")
	if l.Get("a") != "1" || l.Get("c") != "" || !l.Has("B") || l.Has("c") || !slices.Equal(l.Values("a"), []string{"1", "2"}) {
		t.Error("lookups")
	}
	if v, ok := l.Joined("a"); v != "1,2" || !ok {
		t.Errorf("%q", v)
	}
	if v, ok := l.Joined("c"); v != "" || ok {
		t.Errorf("%q", v)
	}
	if !l.HasToken("B", "close") || !l.HasToken("b", "Z") || l.HasToken("b", "clos") || l.HasToken("c", "z") {
		t.Error("tokens")
	}
	if !slices.Equal(FromMap(map[string][]string{"b": {"1", "2"}, "a": {"3"}}), List{{"a", "3", ""}, {"b", "1", ""}, {"b", "2", ""}}) {
		t.Error("from a map")
	}
	if m := l.Map(func(string) string { return "k" }); len(m) != 1 || len(m["k"]) != 4 {
		t.Errorf("%v", m)
	}
	if Same("K", "\u212a") || !Same("k", "K") || Same("k", "kk") {
		t.Error("names")
	}
}
