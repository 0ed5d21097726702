// SPDX-License-Identifier: Apache-2.0

package allowlist

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy/istio"
)

var update = flag.Bool("update", false, "write testdata")

// TestParse: every form, as the lines of a ServiceEntry's port; or what is wrong.
func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"api.example.com":              "api.example.com 443/HTTPS 80/HTTP",
		"API.Example.Com.":             "api.example.com 443/HTTPS 80/HTTP",
		"*.example.com":                "*.example.com 443/HTTPS 80/HTTP",
		"*.example.com:443":            "*.example.com 443/HTTPS",
		"api.example.com:8080":         "api.example.com 8080/HTTP",
		"api.example.com:9000":         "api.example.com 9000/TCP",
		"api.example.com:9000-9002":    "api.example.com 9000/TCP 9001/TCP 9002/TCP",
		"https://api.example.com/":     "api.example.com 443/HTTPS",
		"HTTPS://api.example.com:8443": "api.example.com 8443/HTTPS",
		"http://api.example.com:9000":  "api.example.com 9000/HTTP",
		"tls://mail.example.com:25":    "mail.example.com 25/TLS",
		"tcp://mail.example.com:443":   "mail.example.com 443/TCP",
		"udp://ntp.example.com:123":    "ntp.example.com 123/UDP",
		"grpc://api.example.com:50051": "api.example.com 50051/GRPC",
		"postgres://db.example.com":    "db.example.com 5432/TCP",
		"ssh://git.example.com:2222":   "git.example.com 2222/TCP",
		"10.0.0.0/8:5432":              "10.0.0.0/8 5432/TCP",
		"192.0.2.1:443":                "192.0.2.1/32 443/TCP",
		"ssh://192.0.2.1":              "192.0.2.1/32 22/TCP",
		"udp://10.0.0.0/8:53":          "10.0.0.0/8 53/UDP",
		"[2001:db8::1]:443":            "2001:db8::1/128 443/TCP",
		"[2001:db8::]/32:443":          "2001:db8::/32 443/TCP",
		"udp://[2001:db8::]/32:123":    "2001:db8::/32 123/UDP",
		"[::ffff:192.0.2.1]:443":       "192.0.2.1/32 443/TCP",
		"":                             "no host name",
		"10.0.0.0/8":                   "needs a port; write it as in 10.0.0.0/8:443",
		"[2001:db8::]/32":              "needs a port; write it as in [2001:db8::]/32:443",
		"2001:db8::1":                  "in brackets",
		"2001:db8::/32:443":            "in brackets",
		"10.0.0.1/8:80":                "write 10.0.0.0/8",
		"10.0.0.0/33:80":               "no network",
		"api.example.com/v1":           "a whole host",
		"https://api.example.com/v1":   "a whole host",
		"https://me@api.example.com":   "a user and a password",
		"me:pw@api.example.com:443":    "a user and a password",
		"80":                           "a port without a host",
		"tcp://api.example.com":        "write one after the host",
		"gopher://api.example.com":     `scheme "gopher" is not known`,
		"api.example.com:":             "port is missing",
		"api.example.com:0":            "no port",
		"api.example.com:65536":        "no port",
		"api.example.com:+1":           "no port",
		"api.example.com:*":            "names its ports",
		"api.example.com:2-1":          "downwards",
		"api.example.com:1-1000":       "more than 128",
		"*:443":                        "would open every name",
		"10.0.0:80":                    "last part is a number",
		"api.*.com:443":                "no host name",
		"[fe80::1%eth0]:80":            "zone",
		"[2001:db8::1:443":             "not closed",
		"[2001:db8::1]443":             "is written as",
		"bücher.example:443":           "no host name",
		"api.example.com:443\n- evil":  "no port",
	} {
		var got []string
		d, err := Parse(in)
		if err != nil {
			got = append(got, err.Error())
		} else {
			got = append(got, string(d.Host))
			if d.Prefix.IsValid() {
				got[0] = d.Prefix.String()
			}
			for _, p := range d.Ports {
				got = append(got, fmt.Sprintf("%d/%s", p.Number, p.Protocol))
			}
		}
		if text := strings.Join(got, " "); text != want && (err == nil || !strings.Contains(text, want)) {
			t.Errorf("%s: %s, want %s", in, text, want)
		}
	}
}

// TestLines: objects stand in the lines of their destinations, ports of one destination
// come together, and each line that is wrong is named.
func TestLines(t *testing.T) {
	l, err := Lines("allow", "# what the build needs\n\napi.example.com:443 # the API\n*.example.com:443\n\n"+
		"api.example.com:8080\nudp://api.example.com:443\napi.example.com:443\n10.0.0.0/8:5432\r\n[2001:db8::]/32:5432\na-b.example.com\na.b.example.com\n")
	if err != nil {
		t.Fatal(err)
	}
	for file, got := range map[string]string{"documents.yaml": string(l.Documents()), "pretty.yaml": l.YAML()} {
		path := filepath.Join("testdata", file)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || got != string(want) {
			t.Errorf("%s is not what is written (-update writes it): %v\n%s", path, err, got)
		}
		config, findings := istio.Load([]istio.File{{Name: file, Data: []byte(got)}}, istio.Options{})
		if config == nil || len(findings) > 0 {
			t.Errorf("%s: %v", file, findings)
		}
	}
	_, err = Lines("allow", "one.example.com two.example.com\ngood.example.com\nbad_:x\ntcp://h.example.com:443\nh.example.com:443\n")
	for _, want := range []string{"line 1: ", "line 3: ", "line 5: line 4 says that TCP is spoken on port 443, and this one that it is HTTPS"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

// FuzzLines: what is read is a policy without errors, and nothing of a line gets out
// of its place in it.
func FuzzLines(f *testing.F) {
	for _, s := range []string{"api.example.com", "\ufeffapi.example.com", "*:443", "*", "udp://[2001:db8::]/32:123", "0.0.0.0/0:1", "a:1\nb:2-9 # c", "x\"y:1", "https://a/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data string) {
		l, err := Lines("allow", data)
		if err != nil {
			return
		}
		for _, text := range []string{string(l.Documents()), l.YAML()} {
			config, findings := istio.Load([]istio.File{{Name: "list", Data: []byte(text)}}, istio.Options{})
			if config == nil {
				t.Fatalf("%q became %s: %v", data, text, findings)
			}
			if len(config.Services) != len(l.objects) {
				t.Fatalf("%q: %d services of %d: %s", data, len(config.Services), len(l.objects), text)
			}
		}
	})
}
