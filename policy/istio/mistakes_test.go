// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
)

// TestMistakes compares what is said about testdata/mistakes/*.yaml, each a
// mistake that is made often, with the .golden file of the same name.
func TestMistakes(t *testing.T) {
	docs, err := os.ReadFile("../../docs/CHECKS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range glob(t, "testdata/mistakes/*.yaml") {
		base := strings.TrimSuffix(filepath.Base(name), ".yaml")
		t.Run(base, func(t *testing.T) {
			_, findings := Load([]File{readFile(t, name)}, goldenOptions)
			var b strings.Builder
			for _, f := range findings {
				fmt.Fprintln(&b, f)
				switch {
				case strings.Contains(f.Text, "opens anything"): // it is about all files
				case f.Severity != Note && f.Line == 0:
					t.Errorf("without a place: %v", f)
				}
			}
			compareGolden(t, strings.TrimSuffix(name, ".yaml")+".golden", b.String())
			if !strings.Contains(string(docs), "`"+base+"`") {
				t.Errorf("docs/CHECKS.md does not list `%s`", base)
			}
		})
	}
}

// TestMistakesComeTrue: what the warnings about rules say becomes of flows is
// what the policy does with them, and those beside them that nothing is said of
// go on.
func TestMistakesComeTrue(t *testing.T) {
	policyOf := func(base string) *policy.Policy {
		cfg, findings := Load([]File{readFile(t, "testdata/mistakes/"+base+".yaml")}, goldenOptions)
		if cfg == nil {
			t.Fatalf("%s: %v", base, findings)
		}
		s, err := policy.Compile(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s.Policy(policy.DefaultPolicy)
	}
	flow := func(host string, port uint16) policy.Flow {
		return policy.Flow{Transport: policy.TCP, Dst: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), port), Names: []string{host}}
	}
	p := policyOf("destination-port")
	for _, tt := range []struct {
		path string
		port uint16
		want string
	}{
		{"/one", 80, "behind.example.net:80"}, {"/two", 80, "behind.example.net:80"}, {"/two", 8080, "none"}, {"/three", 80, "none"},
		{"/four", 80, "none"}, {"/five", 80, "none"}, {"/", 80, "shop.example.com:80"}, {"/", 8080, "shop.example.com:8080"},
	} {
		r := &policy.Request{Method: "GET", Scheme: "http", Host: "shop.example.com", Authority: "shop.example.com", Path: tt.path, Port: tt.port}
		got := "none"
		if d := p.DecideHTTP(flow("shop.example.com", tt.port), r); d.Action == nil {
			got = string(d.Reason)
		} else if u := d.Action.Pick(0).Upstream; u != nil {
			got = fmt.Sprintf("%s:%d", u.Host, u.Port)
		}
		if got != tt.want {
			t.Errorf("destination-port: %s on port %d leads to %s, want %s", tt.path, tt.port, got, tt.want)
		}
	}
	if c := p.Candidates(flow("shop.example.com", 3306)); c.Verdict != policy.Deny {
		t.Errorf("destination-port: port 3306: %+v", c)
	}
	for _, tt := range []struct {
		file, host string
		port       uint16
		want       string // whose upstream, or the reason
	}{
		{"sni-unmatched", "a.example.com", 443, "a.example.com"}, {"sni-unmatched", "b.example.com", 443, string(policy.ReasonNoRoute)},
		{"sni-unmatched", "b.example.com", 8443, "b.example.com"}, {"sni-unmatched", "www.example.net", 443, "a.example.com"},
		{"sni-unmatched", "x.example.net", 443, string(policy.ReasonNoRoute)}, {"sni-unmatched", "c.example.com", 443, "c.example.com"},
		{"rules-wrong-list", "shop.example.com", 443, "shop.example.com"}, {"rules-shadowed", "other.example.com", 443, "api.example.com"},
	} {
		d, u := policyOf(tt.file).DecideTLS(flow(tt.host, tt.port), tt.host)
		got := string(d.Reason)
		if u != nil && d.Verdict != policy.Deny {
			got = u.Host
		}
		if got != tt.want {
			t.Errorf("%s: TLS for %s on port %d: %s, want %s", tt.file, tt.host, tt.port, got, tt.want)
		}
	}
}

// TestHostHint: whatever is no host gets a hint without a host in it that is
// none either.
func TestHostHint(t *testing.T) {
	for in, want := range map[string]string{
		"https://a.example/x?y": `write "a.example" here, and number: 443`, "HTTP://a.example": "number: 80", "ftp://a.example:2121": "number: 2121",
		"postgres://u:p@a.example:5432/db": `write "a.example" here, and number: 5432`, "ftp://a.example": `write "a.example" here`,
		"a.example:443": "number: 443", "a.example:443/x": `write "a.example" here`, "192.0.2.1:443": "write 192.0.2.1 under addresses",
		"192.0.2.1/32": "is a network", "2001:db8::/32": "is a network", "[2001:db8::1]": "write 2001:db8::1 under", "2001:db8::1": "is an address",
		"{{ x }}": "template", "${X}": "template", "$(X)": "template", "$X": "template", "<%= x %>": "template", "{% x %}": "template",
		"a.example,b.example": "item of its own", " a.example": "no spaces", "a*.example": `write "*.example"`, "a.*.b.*.example": `write "*.example"`,
		"a.example": "", "*.example": "", "ä.example": "", "": "", "a..b": "", "a.example:http": "", "*": "", "a*": "",
	} {
		if got := check.HostHint(in); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
