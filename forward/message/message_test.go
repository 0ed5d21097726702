// SPDX-License-Identifier: Apache-2.0

package message

import (
	"errors"
	"net"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/egressd/egressd/internal/hostile"
	"github.com/egressd/egressd/policy"
)

func TestRedirectLocation(t *testing.T) {
	prefix := &policy.HTTPMatch{URI: &policy.StringMatch{Kind: policy.MatchPrefix, Value: "/old"}}
	tests := []struct {
		name      string
		r         policy.Redirect
		m         *policy.HTTPMatch
		authority string
		path      string
		query     string
		want      string
	}{
		{"authority", policy.Redirect{Authority: "new.example"}, nil, "a.example", "/p", "", "http://new.example/p"},
		{"uri keeps the query", policy.Redirect{URI: "/new"}, nil, "a.example", "/p", "q=1", "http://a.example/new?q=1"},
		{"uri with a query", policy.Redirect{URI: "/new?x"}, nil, "a.example", "/p", "q=1", "http://a.example/new?x"},
		{"prefix", policy.Redirect{PrefixRewrite: "/new"}, prefix, "a.example", "/old/p", "", "http://a.example/new/p"},
		{"scheme", policy.Redirect{Scheme: "https"}, nil, "a.example", "/p", "", "https://a.example/p"},
		{"scheme drops the old default port", policy.Redirect{Scheme: "https"}, nil, "a.example:80", "/p", "", "https://a.example/p"},
		{"scheme keeps another port", policy.Redirect{Scheme: "https"}, nil, "a.example:8080", "/p", "", "https://a.example:8080/p"},
		{"port", policy.Redirect{Port: 8443}, nil, "a.example:80", "/p", "", "http://a.example:8443/p"},
		{"port 80 elided", policy.Redirect{Authority: "b.example", Port: 80}, nil, "a.example", "/p", "", "http://b.example/p"},
		{"port 443 elided", policy.Redirect{Scheme: "https", Port: 443}, nil, "a.example", "/p", "", "https://a.example/p"},
		{"port 443 with http", policy.Redirect{Port: 443}, nil, "a.example", "/p", "", "http://a.example:443/p"},
		{"port of the request", policy.Redirect{Authority: "b.example", DerivePort: "FROM_REQUEST_PORT"}, nil, "a.example", "/p", "", "http://b.example:8080/p"},
		{"port 80 takes the place of another", policy.Redirect{Port: 80}, nil, "a.example:8080", "/p", "", "http://a.example/p"},
		{"port 443 takes the place of another", policy.Redirect{Scheme: "https", Port: 443}, nil, "[2001:db8::1]:8080", "/p", "", "https://[2001:db8::1]/p"},
		{"port of the request, once", policy.Redirect{URI: "/x", DerivePort: "FROM_REQUEST_PORT"}, nil, "a.example:8080", "/p", "", "http://a.example:8080/x"},
		{"port of the protocol", policy.Redirect{Authority: "b.example", DerivePort: "FROM_PROTOCOL_DEFAULT"}, nil, "a.example", "/p", "", "http://b.example/p"},
		{"IPv6", policy.Redirect{Port: 81}, nil, "[2001:db8::1]:80", "/p", "", "http://[2001:db8::1]:81/p"},
		{"IPv6 without port", policy.Redirect{URI: "/x"}, nil, "[2001:db8::1]", "/p", "", "http://[2001:db8::1]/x"},
	}
	for _, tt := range tests {
		req := &policy.Request{Scheme: "http", Authority: tt.authority, Path: tt.path, Port: 8080}
		if got := RedirectLocation(&tt.r, tt.m, req, tt.query); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestParseAuthority(t *testing.T) {
	tests := []struct {
		in   string
		host string
		port uint16
		err  error
	}{
		{"a.example", "a.example", 0, nil},
		{"A.Example.", "a.example", 0, nil},
		{"a.example:8080", "a.example", 8080, nil},
		{"a.example.:80", "a.example", 80, nil},
		{"192.0.2.1:80", "192.0.2.1", 80, nil},
		{"[2001:DB8::1]", "2001:db8::1", 0, nil},
		{"[2001:db8:0::1]:443", "2001:db8::1", 443, nil},
		{"[::ffff:192.0.2.1]", "192.0.2.1", 0, nil},
		{"", "", 0, ErrNoHost},
		{":80", "", 0, ErrNoHost},
		{"a.example:", "a.example", 0, nil},
		{"[2001:db8::1]:", "2001:db8::1", 0, nil},
		{"a.example:0", "", 0, errPort},
		{"a.example:+80", "", 0, errPort},
		{"a.example:65536", "", 0, errPort},
		{"a.example:80:80", "", 0, errPort},
		{"2001:db8::1", "", 0, errPort},
		{"u@a.example", "", 0, errUserinfo},
		{"a.example:80@evil.example", "", 0, errUserinfo},
		{"[fe80::1%eth0]", "", 0, errIPv6},
		{"[192.0.2.1]", "", 0, errIPv6},
		{"[::1", "", 0, errIPv6},
		{"[::1]x", "", 0, errPort},
	}
	for _, tt := range tests {
		host, port, err := ParseAuthority(tt.in)
		if !errors.Is(err, tt.err) || err == nil && (host != tt.host || port != tt.port) {
			t.Errorf("%q: %q, %d, %v", tt.in, host, port, err)
		}
	}
	for _, in := range []string{"a..b", "a b", "a.example\x00", "a/b", "bücher.example", "*.example", "a,b"} {
		if host, _, err := ParseAuthority(in); err == nil {
			t.Errorf("%q: %q, want an error", in, host)
		}
	}
}

// FuzzAuthority: what is accepted is normal already, and net/url finds the
// same host.
func FuzzAuthority(f *testing.F) {
	for _, s := range []string{"a.example", "A.example.:80", "[::1]:80", "[::ffff:1.2.3.4]", "u@h", "h:99999", "1.2.3.4."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, port, err := ParseAuthority(s)
		if err != nil {
			return
		}
		in := host
		if strings.Contains(host, ":") {
			in = "[" + host + "]"
		}
		if again, _, err := ParseAuthority(in); err != nil || again != host {
			t.Fatalf("%q: %q is not normal: %q, %v", s, host, again, err)
		}
		u, err := url.Parse("http://" + s + "/")
		if err != nil {
			t.Fatalf("%q is good for us, for net/url %v", s, err)
		}
		if got, _, err := ParseAuthority(net.JoinHostPort(u.Hostname(), "1")); err != nil || got != host {
			t.Fatalf("%q: %q for us, %q for net/url", s, host, u.Hostname())
		}
		if p := u.Port(); (p == "") != (port == 0) {
			t.Fatalf("%q: port %d for us, %q for net/url", s, port, p)
		}
	})
}

// TestHostileAuthorities: as Host or :authority, each is refused or read as the name that it stands for.
func TestHostileAuthorities(t *testing.T) {
	for _, s := range hostile.Spellings() {
		if s.Text == "" && s.Wire != nil {
			continue // it has no text
		}
		host, port, err := ParseAuthority(s.Text)
		if host != s.Name || port != 0 || (err == nil) != (s.Name != "") {
			t.Errorf("%s: Host %q is read as %q, %d, %v; want %q", s.What, s.Text, host, port, err, s.Name)
		}
	}
}

// slowBody is a body of which a read takes until it is let.
type slowBody struct {
	began, let   chan struct{}
	reads        atomic.Int32
	ended, early atomic.Bool // End has returned, before a read has
}

func (b *slowBody) Read(p []byte) (int, error) {
	b.reads.Add(1)
	b.began <- struct{}{}
	<-b.let
	b.early.Store(b.ended.Load())
	return copy(p, "x"), nil
}

// TestEndOfReplay: End waits for a read of the client's body that is under way, and
// there is none behind it.
func TestEndOfReplay(t *testing.T) {
	src := &slowBody{began: make(chan struct{}, 1), let: make(chan struct{})}
	b := NewReplayBody(src, func() {}, func(int) bool { return true }, func(int) {}, func() {})
	a := b.Next()
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = a.Read(make([]byte, 8))
	}()
	<-src.began
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.End()
		src.ended.Store(true)
	}()
	for b.attempt.Load() == 1 {
		runtime.Gosched() // until End is there
	}
	close(src.let)
	<-read
	<-done
	if src.early.Load() {
		t.Error("End did not wait")
	}
	again := b.Next()
	if n, _ := again.Read(make([]byte, 8)); n != 1 {
		t.Errorf("%d bytes of what is kept", n) // that is nobody else's
	}
	if n, err := again.Read(make([]byte, 8)); n > 0 || err == nil || src.reads.Load() != 1 {
		t.Errorf("read %d bytes, %v; %d reads", n, err, src.reads.Load())
	}
}
