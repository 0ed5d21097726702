// SPDX-License-Identifier: Apache-2.0

package flowrecord

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// at is a time of the tests, some seconds after the others.
func at(second int) time.Time { return time.Date(2026, 1, 2, 3, 4, second, 5e6, time.UTC) }

// denied is a denial.
func denied(second int, name string) flow.Event {
	return flow.Event{
		Time: at(second), Kind: flow.Decision, Layer: flow.Kernel, Workload: "shop/web", Process: flow.Process{PID: 7, UID: 1000, Command: "curl"},
		Transport: policy.TCP, Proto: "tcp", Dst: netip.MustParseAddrPort("[2001:db8::1]:443"), Name: name, Reason: policy.ReasonNoRule,
	}
}

// full is an event with every field.
func full(t testing.TB) flow.Event {
	t.Helper()
	ref := &policy.Ref{Kind: "ServiceEntry", Namespace: "shop", Name: "api", File: "a.yaml", Line: 3, Column: 1}
	e := flow.Event{
		Time: at(0), Kind: flow.Request, Layer: flow.Egress, Workload: "shop/web", Process: flow.Process{PID: 7, UID: 1000, Command: "curl"},
		Interface: "veth0", Transport: policy.TCP, Proto: "http", Dst: netip.MustParseAddrPort("192.0.2.1:80"), Socket: "/run/web.sock", Name: "a.example", Names: []string{"a.example", "b.example"},
		Verdict: policy.Proxy, Allowed: true, WouldDeny: true, Reason: policy.ReasonAllowed, Rule: ref, Audited: ref, DryRun: ref, Detail: "text",
		Upstream: netip.MustParseAddrPort("[2001:db8::1]:8080"), Method: "GET", Path: "/a", Status: 200, Retries: 1, ResponseFlags: "UF", StatPrefix: "main",
		Route: ref, RouteName: "primary", Timeout: time.Second, Destination: "a.example", Subset: "v1", Gateway: "default/way-out", IdleTimeout: time.Minute, MaxDuration: time.Hour,
		BytesSent: 3, BytesReceived: 4, Duration: time.Second, More: 2, Count: 3, First: at(0).Add(-time.Second), Number: 4,
	}
	for v, i := reflect.ValueOf(e), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Fatalf("%s is not set: a new field belongs into this event", v.Type().Field(i).Name)
		}
	}
	return e
}

func lineOf(t testing.TB, e flow.Event) string {
	t.Helper()
	b, err := Append(nil, e)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRoundTrip: what is written is read, with every field.
func TestRoundTrip(t *testing.T) {
	datagram, socket, query := denied(1, ""), denied(2, ""), denied(3, "a.example")
	datagram.Transport, datagram.Proto = policy.UDP, "udp"
	socket.Transport, socket.Proto, socket.Dst = 0, "ip", netip.AddrPort{}
	query.Kind, query.Layer, query.Transport, query.Proto = flow.Query, flow.DNS, policy.UDP, "dns"
	for _, e := range []flow.Event{full(t), denied(0, "x\n\"\u202e<&>"), datagram, socket, query} {
		text := lineOf(t, e)
		got, err := Parse([]byte(text))
		if err != nil || !reflect.DeepEqual(got, e) || strings.Count(text, "\n") != 1 {
			t.Errorf("%s\ngot  %+v, %v\nwant %+v", text, got, err, e)
		}
	}
	if e, err := Parse(Lost(7, at(1))); err != nil || e.Kind != flow.Lost || e.More != 7 || Times(&e) != 7 {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestParse: what is no line, or may mean something else, is refused; what a later
// egressd may add is not.
func TestParse(t *testing.T) {
	const good = `{"time":"2026-01-02T03:04:05Z","kind":"decision","layer":"kernel","process":{},"verdict":"deny","allowed":false,"reason":"no-rule"`
	for text, want := range map[string]string{
		good + `}`:                         "",
		good + `,"version":1}`:             "",
		good + `,"new":{"field":[1]}}`:     "",
		good + `,"version":2}`:             "version 2",
		good + `,"version":-1}`:            "version -1",
		good + `,"name":7}`:                "cannot unmarshal",
		good + `,"dst":"x"}`:               "not a line",
		good + `,"more":-1}`:               "negative",
		good + `,"bytesSent":1.5}`:         "cannot unmarshal",
		good + `,"verdict":"perhaps"}`:     "perhaps",
		good + `,"kind":""}`:               "empty",
		good + `,"kind":null}`:             "in each",
		good:                               "unexpected end",
		good + `}{}`:                       "after top-level value",
		`{}`:                               "in each",
		`[]`:                               "cannot unmarshal",
		`{"time":"2026-01-02T03:04:05Z"}`:  "in each",
		"2026/01/02 text of something":     "not a line",
		strings.Replace(good, "Z", "", 1):  "not a line",
		strings.Replace(good, "2", "0", 1): "not a line",
	} {
		_, err := Parse([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestSpan: what a line stands for, and since when.
func TestSpan(t *testing.T) {
	one, folded, kind := denied(30, ""), denied(30, ""), denied(30, "")
	folded.More, folded.Duration = 5, 10*time.Second
	kind.Count, kind.First = 9, at(2)
	for _, c := range []struct {
		e     flow.Event
		times int
		begin time.Time
	}{{one, 1, at(30)}, {folded, 5, at(20)}, {kind, 9, at(2)}} {
		if n, b := Times(&c.e), Begin(&c.e); n != c.times || !b.Equal(c.begin) {
			t.Errorf("%d since %s, want %d since %s", n, b, c.times, c.begin)
		}
	}
}

// TestReader: a line that is none is told by its number, and those behind it are read;
// so is what was compressed.
func TestReader(t *testing.T) {
	text := lineOf(t, denied(1, "a")) + "\n  \nnonsense\n" + strings.Repeat("x", MaxLine+1) + "\n" + lineOf(t, denied(2, strings.Repeat("b", 200<<10))) +
		strings.TrimSuffix(lineOf(t, denied(3, "c")), "\n")
	for name, in := range map[string]io.Reader{"plain": strings.NewReader(text), "gzip": zipped(t, text), "in pieces": oneByte{strings.NewReader(text)}} {
		r, err := NewReader(in, "f")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			var bad *RecordError
			switch {
			case errors.As(err, &bad):
				got = append(got, bad.Error()[:4])
			case err != nil:
				t.Fatal(err)
			default:
				got = append(got, e.Name[:1])
			}
		}
		if s := strings.Join(got, " "); s != "a f:4: f:5: b c" {
			t.Errorf("%s: %s", name, s)
		}
	}
	cut, _ := io.ReadAll(zipped(t, text))
	r, err := NewReader(bytes.NewReader(cut[:len(cut)-10]), "f")
	for err == nil {
		if _, err = r.Next(); errors.As(err, new(*RecordError)) {
			err = nil
		}
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a cut file: %v", err)
	}
}

// oneByte reads byte by byte.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

func zipped(t *testing.T, text string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// TestEach: files come by their time, each once, and standard input behind them.
func TestEach(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old, _ := io.ReadAll(zipped(t, lineOf(t, denied(1, "old"))))
	paths := []string{
		Stdin,
		write("flows.jsonl", lineOf(t, denied(5, "new"))+"torn{\n"),
		write("flows.jsonl.1", lineOf(t, denied(3, "before"))),
		write("flows.jsonl.2.gz", string(old)),
		write("empty", ""),
	}
	paths = append(paths, paths...)
	var got []string
	u, err := LogFiles{Paths: paths, Stdin: strings.NewReader(lineOf(t, denied(0, "in")))}.Each(func(e flow.Event) bool { got = append(got, e.Name); return true })
	if s := strings.Join(got, " "); err != nil || s != "old before new in" || u.Read != 4 || u.Bad != 1 || !strings.Contains(u.First.Error(), "flows.jsonl:2:") {
		t.Errorf("%s, %+v, %v", s, u, err)
	}
	once := LogFiles{Paths: paths, Stdin: strings.NewReader("")}
	if u, err = once.Each(func(flow.Event) bool { return false }); err != nil || u.Read != 1 {
		t.Errorf("one was enough: %+v, %v", u, err)
	}
	for _, bad := range []string{filepath.Join(dir, "none"), dir, write("broken.gz", "\x1f\x8b\x00no method of RFC 1952")} {
		if _, err := (LogFiles{Paths: []string{bad}}).Each(func(flow.Event) bool { return true }); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

// TestProgress: who asks is told how many bytes were read, to the last one, of as many as
// the files have; of standard input nobody knows.
func TestProgress(t *testing.T) {
	dir := t.TempDir()
	plain, packed := filepath.Join(dir, "a"), filepath.Join(dir, "b.gz")
	text := strings.Repeat(lineOf(t, denied(1, "a")), 2000)
	whole, _ := io.ReadAll(zipped(t, text))
	if err := errors.Join(os.WriteFile(plain, []byte(text), 0o600), os.WriteFile(packed, whole, 0o600)); err != nil {
		t.Fatal(err)
	}
	size := int64(len(text) + len(whole))
	for _, c := range []struct {
		paths    []string
		read, of int64
	}{
		{[]string{plain, packed}, size, size},
		{[]string{plain, packed, Stdin}, size + 5, 0},
	} {
		var reads []int64
		_, err := LogFiles{Paths: c.paths, Stdin: strings.NewReader("torn\n"), Progress: func(read, of int64) {
			reads = append(reads, read)
			if of != c.of {
				t.Errorf("%v: of %d bytes, want %d", c.paths, of, c.of)
			}
		}}.Each(func(flow.Event) bool { return true })
		if err != nil || len(reads) < 3 || !slices.IsSorted(reads) || reads[len(reads)-1] != c.read {
			t.Errorf("%v: %v, want %d at the end; %v", c.paths, reads, c.read, err)
		}
	}
}

// TestCutFile: of a compressed file that ends too early the whole lines before that are
// read, wherever it was cut, and it is told; so are the files behind it.
func TestCutFile(t *testing.T) {
	var text strings.Builder
	for i := range 50 {
		text.WriteString(lineOf(t, denied(1, strings.Repeat("a", i*100))))
	}
	whole, _ := io.ReadAll(zipped(t, text.String()))
	dir := t.TempDir()
	cut, next := filepath.Join(dir, "cut.gz"), filepath.Join(dir, "next")
	if err := os.WriteFile(next, []byte(lineOf(t, denied(5, "next"))), 0o600); err != nil {
		t.Fatal(err)
	}
	most := 0
	for size := 2; size < len(whole); size += 7 {
		if err := os.WriteFile(cut, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		names := 0
		u, err := LogFiles{Paths: []string{cut, next}}.Each(func(e flow.Event) bool { names++; return true })
		if err != nil || u.Read != names || u.Bad != 0 || u.Complete() || len(u.Cut) != 1 || u.Cut[0] != (CutFile{cut, names - 1}) {
			t.Fatalf("%d of %d bytes: %+v, %d events, %v", size, len(whole), u, names, err)
		}
		most = max(most, names-1)
	}
	if most < 25 {
		t.Errorf("at most %d lines of 50 were read", most)
	}
	if err := os.WriteFile(cut, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if u, err := (LogFiles{Paths: []string{cut, next}}).Each(func(flow.Event) bool { return true }); err != nil || !u.Complete() || u.Read != 51 {
		t.Errorf("the whole file: %+v, %v", u, err)
	}
}

// FuzzReader: whatever is read, it ends, every event is one that can be written and read
// again as the same, and nothing else than lines is an error.
func FuzzReader(f *testing.F) {
	f.Add([]byte(lineOf(f, full(f)) + "x\n" + lineOf(f, denied(1, "a"))))
	f.Add([]byte("\n\n{\"time\":null}\n"))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := NewReader(bytes.NewReader(data), "f")
		if err != nil {
			return
		}
		for {
			e, err := r.Next()
			switch {
			case errors.As(err, new(*RecordError)):
				continue
			case errors.Is(err, io.EOF):
				return
			case err != nil && len(data) > 2 && data[0] == 0x1f:
				return
			case err != nil:
				t.Fatal(err)
			}
			text, err := Append(nil, e)
			if err != nil {
				continue // a time that has no form in JSON
			}
			again, err := Parse(text)
			if second, _ := Append(nil, again); err != nil || !bytes.Equal(text, second) {
				t.Fatalf("%q\n%q: %v", text, second, err)
			}
		}
	})
}
