// SPDX-License-Identifier: Apache-2.0

package check

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// said are the texts of what f says.
func said(f func(o *Checker)) string {
	o := Checker{strictyaml.Reporter{Report: &strictyaml.Report{}, File: "f", Object: "Kind a/b"}}
	f(&o)
	var out []string
	for _, x := range o.Report.Findings {
		out = append(out, x.Severity.String()+": "+x.Text)
	}
	return strings.Join(out, "; ")
}

var at = &strictyaml.Node{Line: 1, Col: 1}

func TestDomain(t *testing.T) {
	for in, good := range map[string]bool{
		"a.example.com": true, "A.Example.COM": true, "*.example.com": true, "*": true, "*-a.example.com": true, "a": true, "xn--bcher-kva.example": true,
		"": false, "a..b": false, "-a.example": false, "a_b.example": false, "a.*.b": false, "10.0.0.1": false, "a.example:443": false, "a.123": false,
		strings.Repeat("a", 64) + ".example": false, strings.Repeat("a.", 130) + "example": false,
	} {
		if h, err := Domain(in); (err == nil) != good {
			t.Errorf("%q: %q, %v", in, h, err)
		}
	}
	if h, err := HostOrIP("2001:DB8::1"); err != nil || h != "2001:db8::1" {
		t.Errorf("%q, %v", h, err)
	}
	for _, in := range []string{"::ffff:10.0.0.1", "fe80::1%eth0"} {
		if h, err := HostOrIP(in); err == nil {
			t.Errorf("%q is taken as %q", in, h)
		}
	}
	if _, err := FQDN("*.example.com"); err == nil {
		t.Error("a wildcard is a name")
	}
}

// FuzzDomain: what is a domain is one when it is read again, and a hint never
// ends the daemon.
func FuzzDomain(f *testing.F) {
	for _, s := range []string{"a.example", "*.a", "https://a:1/b", "10.0.0.0/8", "a.*.b", "[::1]:80", "{{ x }}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := Domain(s)
		if err != nil {
			if h != "" || err.Error() == "" {
				t.Errorf("%q: %q, %v", s, h, err)
			}
		} else if again, err := Domain(string(h)); err != nil || again != h {
			t.Errorf("%q: %q, again %q, %v", s, h, again, err)
		}
		HostHint(s)
		EndpointHint(s)
		ProtocolHint(s)
	})
}

func TestNumbers(t *testing.T) {
	for n, want := range map[uint32]uint16{1: 1, 65535: 65535, 0: 0, 65536: 0, 1 << 31: 0} {
		var got uint16
		text := said(func(o *Checker) { got = o.Port(at, "number", n) })
		if got != want || (text == "") != (want != 0) {
			t.Errorf("port %d: %d, %q", n, got, text)
		}
	}
	for d, want := range map[time.Duration]string{
		time.Millisecond: "", time.Hour: "", 0: "error: timeout: duration must be greater than 1ms", -time.Second: "error: timeout: duration must be greater than 1ms",
		1500 * time.Microsecond: "error: timeout: only durations to ms precision are supported",
	} {
		if got := said(func(o *Checker) { o.Duration(at, "timeout", durationpb.New(d)) }); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := said(func(o *Checker) { o.Duration(at, "timeout", nil) }); got != "" {
		t.Errorf("no duration: %q", got)
	}
}

func TestSubnet(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1": "10.0.0.1/32", "2001:db8::1": "2001:db8::1/128", "10.0.0.0/8": "10.0.0.0/8", "10.1.2.3/8": "10.0.0.0/8", "2001:db8::1/32": "2001:db8::/32",
		"": "", "::ffff:10.0.0.1": "", "fe80::1%eth0": "", "10.0.0.0/33": "", "a.example": "", "10.0.0.1-10.0.0.9": "",
	} {
		got := ""
		text := said(func(o *Checker) {
			if p, ok := o.Subnet(at, in); ok {
				got = p.String()
			}
		})
		if got != want || want == "" && !strings.HasPrefix(text, "error") {
			t.Errorf("%q: %q, want %q; %q", in, got, want, text)
		}
	}
}

func TestLabels(t *testing.T) {
	for _, tt := range []struct {
		key, value string
		good       bool
	}{
		{"app", "web", true}, {"example.com/app", "", true}, {"a.b_c-d", "A.b_c-D", true},
		{"", "a", false}, {"-a", "a", false}, {"a/b/c", "a", false}, {"/a", "a", false}, {"a b", "a", false}, {"app", "-", false}, {"app", "a b", false},
	} {
		if got := said(func(o *Checker) { o.Labels(at, map[string]string{tt.key: tt.value}) }); (got == "") != tt.good {
			t.Errorf("%q: %q: %q", tt.key, tt.value, got)
		}
	}
	if got := said(func(o *Checker) { o.Selector(at, nil, "all of them") }); got != "warning: all of them" {
		t.Errorf("no labels: %q", got)
	}
	if got := said(func(o *Checker) { o.Selector(at, map[string]string{"a": "b*"}, "") }); !strings.HasPrefix(got, "error: wildcard") {
		t.Errorf("a wildcard: %q", got)
	}
}

// TestHeaders: a rule writes no header that frames a message or is the HTTP
// layer's, in whatever case.
func TestHeaders(t *testing.T) {
	for _, h := range []string{"Content-Length", "transfer-encoding", "CONNECTION", "Keep-Alive", "TE", "Trailer", "Upgrade", "Proxy-Connection"} {
		if !IsFramingHeader(h) {
			t.Errorf("%s frames nothing", h)
		}
	}
	for _, h := range []string{":path", ":authority", "Host", "hOST"} {
		if !IsInternalHeader(h) {
			t.Errorf("%s is not internal", h)
		}
	}
	for h, good := range map[string]bool{"x-a": true, "X_a!": true, "": false, "a b": false, "a:": false, "ä": false, "a\r\nb": false} {
		if IsHeaderName(h) != good {
			t.Errorf("%q: %t", h, !good)
		}
	}
	r := &policy.HTTPRule{Headers: &policy.Headers{}}
	r.Headers.Request.Set = []policy.Header{{Name: "Host", Value: "a.example"}, {Name: "X-A", Value: "1"}}
	shared := r.Headers
	if got := said(func(o *Checker) { o.AuthorityRewrite(at, r) }); got != "" {
		t.Error(got)
	}
	if r.Rewrite == nil || r.Rewrite.Authority != "a.example" || len(r.Headers.Request.Set) != 1 || len(shared.Request.Set) != 2 {
		t.Errorf("%+v %+v; what is shared: %+v", r.Rewrite, r.Headers, shared)
	}
	r.Headers = shared
	if got := said(func(o *Checker) { o.AuthorityRewrite(at, r) }); !strings.HasPrefix(got, "error: authority header cannot be set multiple times") {
		t.Errorf("two of them: %q", got)
	}
}

func TestRegex(t *testing.T) {
	for in, good := range map[string]bool{"a.*": true, "": false, "*": false, "(": false, "a)b(c": false, strings.Repeat("a", 1025): false, `\p{Greek}`: true, "(?=a)": false} {
		if got := said(func(o *Checker) { o.Regex(at, "uri", in) }); (got == "") != good {
			t.Errorf("%.20q: %q", in, got)
		}
	}
}
