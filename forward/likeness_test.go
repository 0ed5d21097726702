// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
)

func TestLike(t *testing.T) {
	for name, tt := range map[string]struct{ written, model, want string }{
		"order and spelling":   {"L\r\nAb: 1\r\nC: 2\r\n\r\n", "M\r\nc:2\r\naB: 1\r\n\r\n", "L\r\nc:2\r\naB: 1\r\n\r\n"},
		"a changed value":      {"L\r\nA: new\r\nB: 1\r\n\r\n", "M\r\nb: 1\r\na: old\r\n\r\n", "L\r\nb: 1\r\na: new\r\n\r\n"},
		"a removed field":      {"L\r\nB: 1\r\n\r\n", "M\r\na: 1\r\nb: 1\r\n\r\n", "L\r\nb: 1\r\n\r\n"},
		"an added field":       {"L\r\nA: 1\r\nB: 1\r\n\r\n", "M\r\nb: 1\r\n\r\n", "L\r\nb: 1\r\nA: 1\r\n\r\n"},
		"a name several times": {"L\r\nA: 1\r\nA: 2\r\nB: 1\r\n\r\n", "M\r\na: 1\r\nb: 1\r\nA: 2\r\n\r\n", "L\r\na: 1\r\nb: 1\r\nA: 2\r\n\r\n"},
		"a folded value":       {"L\r\nA: 1 2\r\n\r\n", "M\r\na: 1\r\n 2\r\n\r\n", "L\r\na: 1 2\r\n\r\n"},
		"bare line ends":       {"L\r\nA: 1\r\n\r\n", "M\na: 1\n\n", "L\r\na: 1\r\n\r\n"},
		"no model":             {"L\r\nA: 1\r\n\r\n", "", "L\r\nA: 1\r\n\r\n"},
		"no fields":            {"L\r\n\r\n", "M\r\n\r\n", "L\r\n\r\n"},
		"too many fields": {
			"L\r\nB: 1\r\nC: 1\r\n\r\n", "M\r\nc: 1\r\nb: 1\r\n" + strings.Repeat("x:\r\n", maxLike) + "\r\n", "L\r\nB: 1\r\nC: 1\r\n\r\n",
		},
	} {
		if got := string(like(nil, []byte(tt.written), nil, []byte(tt.model), nil)); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	line := like(nil, []byte("L\r\nA: 1\r\n\r\n"), []byte("other line"), nil, nil)
	if string(line) != "other line\r\nA: 1\r\n\r\n" {
		t.Errorf("%q", line)
	}
}

// FuzzLike: whatever the model, the fields that are written are those that were to
// be written, with their values and in the order in which each name has them.
func FuzzLike(f *testing.F) {
	f.Add("Ab: 1\r\nC: 2\r\nC: 3\r\n", []byte("GET / HTTP/1.1\r\nc: 2\r\nab: 1\r\nC:3\r\n\r\n"))
	f.Add("A:\r\n", []byte("\n\n a\n:\n"))
	f.Fuzz(func(t *testing.T, written string, model []byte) {
		var b bytes.Buffer
		want := http.Header{}
		for i, line := range strings.Split(written, "\r\n") {
			name := fmt.Sprintf("X%d", len(line)%3)
			value := strings.Map(func(r rune) rune {
				if r < ' ' || r == 0x7f {
					return -1
				}
				return r
			}, line)
			if value = strings.Trim(value, " \t"); i < 50 {
				fmt.Fprintf(&b, "%s: %s\r\n", name, value)
				want[name] = append(want[name], value)
			}
		}
		out := like(nil, []byte("L\r\n"+b.String()+"\r\n"), nil, model, nil)
		_, rest := firstLine(out)
		got := http.Header{}
		end := false
		for _, field := range fields(nil, rest) {
			k := http.CanonicalHeaderKey(string(field.name()))
			got[k] = append(got[k], string(field.value()))
		}
		if end = bytes.HasSuffix(out, []byte("\r\n\r\n")); !end || bytes.Count(out, []byte("\n")) != strings.Count(b.String(), "\n")+2 {
			t.Fatalf("%q", out)
		}
		for k, vv := range want {
			if !slices.Equal(got[k], vv) || len(got) != len(want) {
				t.Fatalf("%q: %q, want %q", model, got, want)
			}
		}
	})
}

// FuzzHeadReader: how the bytes come makes no difference.
func FuzzHeadReader(f *testing.F) {
	f.Add([]byte("HTTP/1.1 103 x\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nC: d\r\n\r\nbody\r\n\r\n"), 3)
	f.Add([]byte("HTTP/1.1 200 OK\n\nHTTP"), 1)
	f.Fuzz(func(t *testing.T, raw []byte, size int) {
		size = max(1, size%64)
		var whole, pieces headReader
		whole.expect()
		pieces.expect()
		whole.read(raw)
		for b := range slices.Chunk(raw, size) {
			pieces.read(b)
		}
		if !slices.EqualFunc(whole.heads, pieces.heads, bytes.Equal) || whole.expects != pieces.expects {
			t.Fatalf("%q at once, %q in pieces of %d", whole.heads, pieces.heads, size)
		}
	})
}

// TestRulesAndSpelling: what rules change is changed, whatever it was spelled
// like, and the rest stays as it came.
func TestRulesAndSpelling(t *testing.T) {
	r := newRig(t, HTTP)
	ops := func(set, remove string) policy.HeaderOps {
		return policy.HeaderOps{Set: []policy.Header{{Name: set, Value: "new"}}, Remove: []string{remove}}
	}
	r.rule(routeTo(&policy.HTTPRule{Headers: &policy.Headers{Request: ops("X-Set", "X-Gone"), Response: ops("X-Set", "X-Gone")}}, "a.example"))
	got := make(chan string, 1)
	r.origin("a.example", func(nc *net.TCPConn) {
		b := make([]byte, 4096)
		n, _ := nc.Read(b)
		got <- string(b[:n])
		_, _ = io.WriteString(nc, "HTTP/1.1 299 Ja\r\nx-set: old\r\nx-GONE: 1\r\nb: 1\r\ncontent-length: 0\r\n\r\n")
		_, _ = io.Copy(io.Discard, nc)
	})
	nc := r.dial()
	write(t, nc, "GET / HTTP/1.1\r\nx-gone: 1\r\nx-set: old\r\nx-GONE: 2\r\nhost: a.example\r\n\r\n")
	if want := "GET / HTTP/1.1\r\nx-set: new\r\nhost: a.example\r\n\r\n"; receive(t, got) != want {
		t.Errorf("the origin did not get %q", want)
	}
	want := "HTTP/1.1 299 Ja\r\nx-set: new\r\nb: 1\r\ncontent-length: 0\r\n\r\n"
	if back := readN(t, nc, len(want)); back != want {
		t.Errorf("the client got %q, want %q", back, want)
	}
}

// TestUnclearPaths: a target goes on as it was sent where no rule looks at paths,
// and is refused where one does and servers may see another path in it.
func TestUnclearPaths(t *testing.T) {
	for path, clear := range map[string]bool{
		"/a%zz": false, "/50%": false, "/%u0061dmin": false, "/a%2": false, "/a/../b": false,
		"/a%25zz": true, "/a?50%": true, "//x": true, "/%41": true,
	} {
		for _, ruled := range []bool{false, true} {
			r := newRig(t, HTTP)
			if ruled {
				r.rule(routeTo(&policy.HTTPRule{}, "a.example"))
			}
			o := r.newRawOrigin("a.example", okAnswer)
			want := 200
			if ruled && !clear {
				want = 400
			}
			if got := r.answers("GET " + path + " HTTP/1.1\r\nHost: a.example\r\n\r\n" + last); len(got) < 1 || got[0] != want {
				t.Errorf("%s, ruled %t: %v, want %d", path, ruled, got, want)
			}
			if seen := strings.HasPrefix(o.String(), "GET "+path+" HTTP/1.1\r\n"); seen != (want == 200) {
				t.Errorf("%s, ruled %t: the origin got %q", path, ruled, o)
			}
		}
	}
}
