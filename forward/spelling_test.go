// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
)

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
