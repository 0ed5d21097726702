// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/logformat"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

const patience = 10 * time.Second

// exchange is a request that was answered.
func exchange() *flow.Observation {
	return &flow.Observation{
		Event: flow.Event{
			Time: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC), Kind: flow.Request, Layer: flow.Egress, Workload: "shop/web",
			Dst: netip.MustParseAddrPort("192.0.2.1:80"), Upstream: netip.MustParseAddrPort("[2001:db8::1]:8080"), Proto: "http",
			Verdict: policy.Proxy, Allowed: true, Reason: policy.ReasonAllowed, Method: "GET", Path: "/a", Status: 200,
			BytesSent: 3, BytesReceived: 1234, Duration: 78 * time.Millisecond, Process: flow.Process{PID: 7, Command: "curl"},
		},
		Src: netip.MustParseAddrPort("10.0.0.2:4711"), To: &policy.Upstream{Host: "a.example", Port: 80, Subset: "v1"},
		Major: 1, Minor: 1, Scheme: "http", Target: "/a?b=c", Authority: "a.example", Route: "main", Answered: 70 * time.Millisecond,
		Request: field.List{{Name: "User-Agent", Value: "curl/8"}, {Name: "x-request-id", Value: "id"}, {Name: "X-Forwarded-For", Value: "192.0.2.9"}},
	}
}

// connection is a TLS connection that was forwarded, and has ended.
func connection() *flow.Observation {
	return &flow.Observation{
		Event: flow.Event{
			Time: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC), Kind: flow.Close, Layer: flow.Egress, Proto: "tls", Name: "b.example",
			Dst: netip.MustParseAddrPort("[2001:db8::2]:443"), Verdict: policy.Proxy, Allowed: true, Reason: policy.ReasonAllowed,
			Upstream: netip.MustParseAddrPort("[2001:db8::2]:443"), BytesSent: 10, BytesReceived: 20, Duration: time.Second,
		},
		Src: netip.MustParseAddrPort("[fd00::5]:999"), To: &policy.Upstream{Host: "b.example", Port: 443},
	}
}

// denied is a connection that was not let pass.
func denied() *flow.Observation {
	s := connection()
	s.Event = flow.Event{
		Time: s.Time, Kind: flow.Decision, Layer: flow.Egress, Proto: "tls", Name: "evil.example", Dst: s.Dst,
		Verdict: policy.Deny, Reason: policy.ReasonName, ResponseFlags: "UH",
	}
	s.To = nil
	return s
}

func line(t *testing.T, format string, s *flow.Observation) string {
	t.Helper()
	f, err := ParseFormat(format, "TEXT")
	if err != nil {
		t.Fatal(err)
	}
	return string(f.Append(nil, s))
}

// TestDefaultText: the line is the one that Istio's proxies would write.
func TestDefaultText(t *testing.T) {
	for _, c := range []struct {
		s    *flow.Observation
		want string
	}{
		{exchange(), `[2026-01-02T03:04:05.600Z] "GET /a?b=c HTTP/1.1" 200 - via_upstream - "-" 3 1234 78 70 "192.0.2.9" "curl/8" "id" "a.example" "[2001:db8::1]:8080" outbound|80|v1|a.example - 192.0.2.1:80 10.0.0.2:4711 - main` + "\n"},
		{connection(), `[2026-01-02T03:04:05.000Z] "- - -" 0 - - - "-" 10 20 1000 - "-" "-" "-" "-" "[2001:db8::2]:443" outbound|443||b.example - [2001:db8::2]:443 [fd00::5]:999 b.example -` + "\n"},
		{denied(), `[2026-01-02T03:04:06.000Z] "- - -" 0 UH - name-not-allowed "-" 0 0 0 - "-" "-" "-" "-" "-" BlackHoleCluster - [2001:db8::2]:443 [fd00::5]:999 evil.example -` + "\n"},
	} {
		if got := line(t, "", c.s); got != c.want {
			t.Errorf("got  %swant %s", got, c.want)
		}
	}
}

// TestDefaultJSON: an object a line, with numbers for numbers and null for nothing.
func TestDefaultJSON(t *testing.T) {
	f, err := ParseFormat("", "json")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"start_time":"2026-01-02T03:04:05.600Z","route_name":"main","method":"GET","path":"/a?b=c","protocol":"HTTP/1.1","response_code":200,"response_flags":"-","response_code_details":"via_upstream","connection_termination_details":null,"bytes_received":3,"bytes_sent":1234,"duration":78,"upstream_service_time":70,"x_forwarded_for":"192.0.2.9","user_agent":"curl/8","request_id":"id","authority":"a.example","upstream_host":"[2001:db8::1]:8080","upstream_cluster":"outbound|80|v1|a.example","upstream_local_address":null,"downstream_local_address":"192.0.2.1:80","downstream_remote_address":"10.0.0.2:4711","requested_server_name":null,"upstream_transport_failure_reason":null}` + "\n"
	if got := string(f.Append(nil, exchange())); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

// TestOperators: each operator, with its arguments.
func TestOperators(t *testing.T) {
	s := exchange()
	s.Response = field.List{{Name: "server", Value: "nginx"}, {Name: "grpc-status", Value: "7"}}
	s.Trailer = field.List{{Name: "Grpc-Status", Value: "5"}}
	s.TraceID, s.Rule, s.Retries = "4bf9", &policy.Ref{Kind: "ServiceEntry", Namespace: "shop", Name: "a"}, 2
	s.Src = netip.MustParseAddrPort("[::ffff:10.0.0.2]:4711")
	for format, want := range map[string]string{
		"100%% %PROTOCOL%":                           "100% HTTP/1.1",
		"%START_TIME(%Y/%m/%dT%H:%M:%S.%3f %s %f)%":  "2026/01/02T03:04:05.600 1767323045 600000000",
		"%START_TIME(%F %T%%)%":                      "2026-01-02 03:04:05%",
		"%REQ(nothing?user-agent)%":                  "curl/8",
		"%REQ(USER-AGENT):3%":                        "cur",
		"%REQ(:SCHEME)% %REQ(HOST)%":                 "http a.example",
		"%RESP(SERVER)% %RESP(x?Server)% %RESP(y)%":  "nginx nginx -",
		"%TRAILER(grpc-status)%":                     "5",
		"%GRPC_STATUS_NUMBER%":                       "5",
		"%DOWNSTREAM_REMOTE_ADDRESS%":                "10.0.0.2:4711",
		"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%":   "10.0.0.2",
		"%DOWNSTREAM_REMOTE_PORT%":                   "4711",
		"%DOWNSTREAM_LOCAL_PORT%":                    "80",
		"%UPSTREAM_REQUEST_ATTEMPT_COUNT%":           "3",
		"%TRACE_ID%":                                 "4bf9",
		"%EGRESSD(WORKLOAD)% %EGRESSD(COMMAND)%":     "shop/web curl",
		"%EGRESSD(VERDICT)% %EGRESSD(REASON)%":       "proxy allowed",
		"%EGRESSD(PID)% %EGRESSD(RULE)%":             "7 ServiceEntry shop/a",
		"%EGRESSD(KIND)% %EGRESSD(DETAIL)%":          "request -",
		"%UPSTREAM_CLUSTER% %RESPONSE_CODE_DETAILS%": "outbound|80|v1|a.example via_upstream",
		"%REQ_WITHOUT_QUERY(x?:PATH)%":               "/a",
	} {
		if got := line(t, format, s); got != want+"\n" {
			t.Errorf("%s: got %q, want %q", format, got, want)
		}
	}
	for _, name := range logformat.Operators() {
		if values[name] == nil {
			t.Errorf("%%%s%% has no value", name)
		}
	}
	if len(values) != len(logformat.Operators()) {
		t.Error("there are values that no format asks for")
	}
}

// TestOmitEmpty: what has no value is left out.
func TestOmitEmpty(t *testing.T) {
	for format, want := range map[string]string{
		"[%REQ(:METHOD)%] %DURATION% %RESPONSE_FLAGS%":                           "[] 1000 -\n",
		`{"a":"%REQ(:METHOD)%","b":"%DURATION%","c":"x%REQ(A)%","d":"%REQ(A)%"}`: `{"b":1000,"c":"x"}` + "\n",
		`{"a":"%REQ(:METHOD)%"}`:                                                 "{}\n",
	} {
		encoding := "TEXT"
		if strings.HasPrefix(format, "{") {
			encoding = "JSON"
		}
		f, err := ParseFormat(format, encoding)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(f.OmitEmpty().Append(nil, connection())); got != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
}

// TestTemplate: a tag's value, in which nothing stands for what is not there.
func TestTemplate(t *testing.T) {
	for text, want := range map[string]string{"%PROTOCOL%": "HTTP/1.1", "a %REQ(nothing)% b": "a  b", "%REQ(nothing)%": "", "%REQ_WITHOUT_QUERY(:PATH)%": "/a"} {
		tag, err := NewTemplate(text)
		if err != nil || tag.Of(exchange()) != want {
			t.Errorf("%s: %q, %v, want %q", text, tag.Of(exchange()), err, want)
		}
	}
}

// hostile is what a workload or a server may write, to forge lines.
const hostile = "x\" 200\n[2026-01-01] \"GET /forged\" \r\x1b[2J\x00\\\x7f\u2028\u202e\xff\U0001f600"

// TestInjection: whatever stands in fields, there is one line, its quotes are
// balanced, and no byte of it acts on a terminal.
func TestInjection(t *testing.T) {
	for _, encoding := range []string{"TEXT", "JSON"} {
		f, err := ParseFormat("", encoding)
		if err != nil {
			t.Fatal(err)
		}
		checkHostile(t, f, encoding == "JSON", hostile)
	}
}

func checkHostile(t *testing.T, f *Format, object bool, text string) {
	t.Helper()
	s := exchange()
	plain := string(f.Append(nil, s))
	s.Method, s.Target, s.Authority, s.Route, s.Name = text, text, text, text, text
	s.Request = field.List{{Name: "User-Agent", Value: text}, {Name: "X-Request-Id", Value: text}, {Name: "X-Forwarded-For", Value: text}}
	s.Detail, s.Reason, s.Process.Command = text, policy.ReasonUpstream, text
	out := f.Append(nil, s)
	body, ended := bytes.CutSuffix(out, []byte("\n"))
	if !ended {
		t.Fatalf("%q has no end", out)
	}
	for _, c := range body {
		if c < ' ' || c >= 0x7f {
			t.Fatalf("%q has the byte %#x", out, c)
		}
	}
	if object {
		var got map[string]any
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		return
	}
	quotes := func(s string) int {
		s = strings.ReplaceAll(s, `\\`, "")
		return strings.Count(strings.ReplaceAll(s, `\"`, ""), `"`)
	}
	if quotes(string(body)) != quotes(plain) {
		t.Fatalf("%q: other quotes than in %q", out, plain)
	}
}

// FuzzFormat: whatever a format is, it is refused or makes one line of every flow.
func FuzzFormat(f *testing.F) {
	for _, s := range []string{logformat.DefaultText, logformat.DefaultJSON, "%REQ(A?B):9%", "%%", "%START_TIME(%s%3f)%", `{"a":"%PROTOCOL% x"}`, "%:1%", "%REQ(%", "é%PROTOCOL%"} {
		f.Add(s, hostile)
	}
	f.Fuzz(func(t *testing.T, format, value string) {
		if parsed, err := ParseFormat(format, "JSON"); err == nil {
			for _, s := range []*flow.Observation{exchange(), connection(), denied()} {
				s.Target, s.Name = value, value
				if out := parsed.Append(nil, s); !json.Valid(out) || bytes.Count(out, []byte("\n")) != 1 {
					t.Errorf("%q", out)
				}
			}
		}
		parsed, err := ParseFormat(format, "TEXT")
		if err != nil {
			return
		}
		s := exchange()
		before := len(parsed.Append(nil, s))
		s.Request[0].Value = value
		out := parsed.Append(nil, s)
		if len(out) == 0 || out[len(out)-1] != '\n' || before == 0 {
			t.Errorf("%q", out)
		}
		if lines := bytes.Count(out, []byte("\n")); lines > strings.Count(format, "\n")+1 {
			t.Errorf("%d lines: %q", lines, out)
		}
	})
}

// sink keeps lines.
type sink struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sink) lines() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Count(s.b.Bytes(), []byte("\n"))
}

// TestLog: what has a line, by verdict and by chance, and that a log which is off
// costs nothing.
func TestLog(t *testing.T) {
	f, err := ParseFormat("%EGRESSD(VERDICT)%", "")
	if err != nil {
		t.Fatal(err)
	}
	draws := uint64(0)
	l := New(func() uint64 { draws += 1 << 62; return draws })
	defer l.Close(patience)
	all := func() {
		begun := connection()
		begun.Kind, begun.Begun = flow.Decision, true
		audited := denied()
		audited.Allowed, audited.WouldDeny, audited.Verdict = true, true, policy.Proxy
		query := exchange()
		query.Kind = flow.Query
		for _, s := range []*flow.Observation{exchange(), connection(), denied(), begun, audited, query} {
			l.Observe(s)
		}
	}
	all() // it is off
	for _, c := range []struct {
		percent  float64
		verdicts string
		want     int
	}{{100, "", 4}, {100, "deny", 1}, {100, "deny,would-deny", 2}, {0, "", 0}, {25, "", 1}, {50, "", 2}, {100, "direct", 0}} {
		to := &sink{}
		verdicts, err := Verdicts(c.verdicts)
		if err != nil {
			t.Fatal(err)
		}
		draws = 0
		l.Set(&Config{Outputs: []Output{{Format: f, To: to}}, Percent: c.percent, Verdicts: verdicts})
		all()
		l.Flush(patience)
		if got := to.lines(); got != c.want {
			t.Errorf("%v: %d lines", c, got)
		}
	}
	l.Set(nil)
	s := exchange()
	if n := testing.AllocsPerRun(100, func() { l.Observe(s) }); n > 0 {
		t.Errorf("off, it allocates %v times", n)
	}
	if _, err := Verdicts("allow"); err == nil {
		t.Error("allow is no verdict")
	}
	for _, bad := range []string{"", "-1", "101", "NaN", "x"} {
		if _, err := ParsePercent(bad); err == nil {
			t.Errorf("%q is no share", bad)
		}
	}
}
