// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	service "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/egressd/egressd/internal/collector"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

const patience = 10 * time.Second

func denied(name string) flow.Event {
	return flow.Event{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6e3, time.UTC), Kind: flow.Decision, Layer: flow.Kernel, Workload: "shop/web", Process: flow.Process{PID: 7, Command: "curl"},
		Transport: policy.TCP, Proto: "tcp", Dst: netip.MustParseAddrPort("[2001:db8::1]:443"), Name: name, Reason: policy.ReasonNoRule,
	}
}

func line(e flow.Event) string {
	b, _ := flowrecord.Append(nil, e)
	return string(b)
}

// open opens a log, which the test closes.
func open(t *testing.T, log io.Writer, o Options, to ...string) *FlowLog {
	t.Helper()
	o.To, o.Log = to, slog.New(slog.NewTextHandler(log, nil))
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCheck(t *testing.T) {
	for to, want := range map[string]bool{
		Stdout: true, Stderr: true, Journal: true, Syslog: true, "syslog:/run/log": true, "syslog:/" + strings.Repeat("x", 106): true, "/var/log/flows.jsonl": true, "http://127.0.0.1:4318": true,
		"https://collector.example": true, "grpc://[::1]:4317": true,
		"": false, "flows.jsonl": false, "syslog:": false, "syslog:log": false, "syslog:/" + strings.Repeat("x", 107): false, "journal": false, "http://127.0.0.1": false, "ftp://x:1": false, "http://a:b@x:1": false,
	} {
		if err := (&Options{To: []string{to}}).Check(); (err == nil) != want {
			t.Errorf("%q: %v", to, err)
		}
	}
	if (&Options{To: []string{Stdout, Syslog, Stdout}}).Check() == nil {
		t.Error("a place twice is taken")
	}
	if l, err := Open(Options{}); l != nil || err != nil {
		t.Errorf("%v, %v", l, err)
	}
	if l, err := Open(Options{To: []string{Stdout, "/dev/null"}, Stdout: io.Discard}); err == nil {
		l.Close(patience)
		t.Error("/dev/null is no file of its own")
	}
	var none *FlowLog
	none.Record(new(denied("a")))
	none.Missing(1)
	none.Reopen()
	none.Close(0)
	if none.Stats() != (Stats{}) {
		t.Error("what is not there has written something")
	}
}

// TestPlaces: a line is in each place, and what is folded and lost is counted.
func TestPlaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.jsonl")
	var stdout, stderr, log bytes.Buffer
	l := open(t, &log, Options{Stdout: &stdout, Stderr: &stderr}, Stdout, path, Stderr)
	again := denied("a")
	again.More, again.Duration = 5, 10*time.Second
	l.Record(new(denied("a")))
	l.Record(&again)
	for _, all := range []uint64{7, 7, 10, 10} {
		l.Missing(all)
	}
	l.Close(patience)
	l.Record(new(denied("late")))
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{stdout.String(), stderr.String(), string(file)} {
		rest, begins := strings.CutPrefix(text, line(denied("a"))+line(again))
		if e, err := flowrecord.Parse([]byte(rest)); !begins || err != nil || e.Kind != flow.Lost || e.More != 3 {
			t.Errorf("%s, %v", text, err)
		}
	}
	if s := l.Stats(); s.Folded != 5 || s.Lines != 4 || s.Dropped != 3 || log.Len() > 0 { // the late one in three places
		t.Errorf("%+v %s", s, &log)
	}
}

// TestReopen: a file that somebody has moved away goes on under its name.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.jsonl")
	l := open(t, io.Discard, Options{}, path)
	defer l.Close(patience)
	l.Record(new(denied("a")))
	l.places[0].pipe.Flush(patience)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	l.Record(new(denied("b")))
	l.places[0].pipe.Flush(patience)
	for name, want := range map[string]string{path: line(denied("b")), path + ".old": line(denied("a"))} {
		if text, err := os.ReadFile(name); err != nil || string(text) != want {
			t.Errorf("%s: %s, %v", name, text, err)
		}
	}
}

// TestFullDisk: who records goes on; the log says it once, and when there is room again
// the file says how many lines are missing. All that is there can be read.
func TestFullDisk(t *testing.T) {
	testenv.RequireRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "flows.jsonl")
	var log bytes.Buffer
	l := open(t, &log, Options{}, path)
	defer l.Close(patience)
	const all = 1000 // of 200 bytes and more
	for range all {
		l.Record(new(denied("a.example")))
	}
	l.places[0].pipe.Flush(patience)
	lost := l.Stats().Dropped
	if lost == 0 || lost == all || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "no space left") {
		t.Errorf("%d lost: %s", lost, &log)
	}
	if err := unix.Mount("none", dir, "", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	l.Record(new(denied("b.example")))
	l.places[0].pipe.Flush(patience)
	lines, missing, names := 0, uint64(0), map[string]int{}
	u, err := flowrecord.LogFiles{Paths: []string{path}}.Each(func(e flow.Event) bool {
		if lines++; e.Kind == flow.Lost {
			missing += uint64(e.More)
		}
		names[e.Name]++
		return true
	})
	if err != nil || u.Bad > 0 || missing != lost || names["a.example"] != all-int(lost) || names["b.example"] != 1 {
		t.Errorf("%+v, %v: %d of %d are told, %v", u, err, missing, lost, names)
	}
}

// TestSyslog: as syslog(3) over datagrams and over a stream, and again after the other end
// began anew.
func TestSyslog(t *testing.T) {
	for _, network := range []string{"unixgram", "unix"} {
		path := filepath.Join(t.TempDir(), "log")
		s := newSyslog(path)
		defer s.Close()
		if _, err := s.Write([]byte(line(denied("a")))); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("nobody listens: %v", err)
		}
		for range 2 {
			read := listen(t, network, path)
			want := fmt.Sprintf("<28>%s egressd-flow[%d]: %s", denied("a").Time.Local().Format("Jan _2 15:04:05"), os.Getpid(), line(denied("a")))
			if network == "unixgram" {
				want = strings.TrimSuffix(want, "\n")
			}
			_, err := s.Write([]byte(line(denied("a"))))
			if err != nil { // the connection was to the one before
				_, err = s.Write([]byte(line(denied("a"))))
			}
			if got := read(len(want)); err != nil || got != want {
				t.Errorf("%s: %q, %v\nwant %q", network, got, err, want)
			}
		}
	}
	allowed, audited, lost := denied("a"), denied("a"), flow.Event{Kind: flow.Lost}
	allowed.Allowed = true
	audited.Allowed, audited.WouldDeny = true, true
	for _, c := range []struct {
		e    flow.Event
		want int
	}{{denied("a"), severityWarning}, {lost, severityWarning}, {audited, severityNotice}, {allowed, severityInfo}} {
		if got := severity(&c.e); got != c.want {
			t.Errorf("%+v: %d", c.e, got)
		}
	}
}

// listen plays a system log. What it returns reads a message of a size, and ends it.
func listen(t *testing.T, network, path string) func(size int) string {
	t.Helper()
	if network == "unixgram" {
		c, err := net.ListenUnixgram(network, &net.UnixAddr{Name: path, Net: network})
		if err != nil {
			t.Fatal(err)
		}
		return func(int) string {
			defer os.Remove(path)
			defer c.Close()
			b := make([]byte, 64<<10)
			_ = c.SetReadDeadline(time.Now().Add(patience))
			n, err := c.Read(b)
			if err != nil {
				t.Error(err)
			}
			return string(b[:n])
		}
	}
	ln, err := net.Listen(network, path)
	if err != nil {
		t.Fatal(err)
	}
	return func(size int) string {
		defer ln.Close()
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b := make([]byte, size)
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(c, b); err != nil {
			t.Error(err)
		}
		return string(b)
	}
}

// TestJournal: a message with fields, of which none can be forged.
func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	read := listen(t, "unixgram", path)
	j := newJournal(path)
	defer j.Close()
	e := denied("a")
	e.Process.Command = "x\nPRIORITY=0"
	if _, err := j.Write([]byte(line(e))); err != nil {
		t.Fatal(err)
	}
	forged := string(binary.LittleEndian.AppendUint64([]byte("EGRESSD_COMMAND\n"), 12)) + "x\nPRIORITY=0\n"
	want := "MESSAGE=" + line(e) + "PRIORITY=4\nSYSLOG_IDENTIFIER=egressd-flow\nEGRESSD_KIND=decision\nEGRESSD_WORKLOAD=shop/web\nEGRESSD_HOST=a\nEGRESSD_VERDICT=deny\nEGRESSD_ALLOWED=false\nEGRESSD_REASON=no-rule\n" + forged
	if got := read(0); got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
	if _, err := j.Write([]byte(line(e))); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the journal has ended: %v", err)
	}
}

// TestOTLP: lines come as log records, and those of a batch that the collector has not
// taken are counted and told with the next.
func TestOTLP(t *testing.T) {
	var mu sync.Mutex
	var got []*otlp.LogRecord
	fails, took := true, make(chan bool, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var in service.ExportLogsServiceRequest
		if err := proto.Unmarshal(body, &in); err != nil || r.URL.Path != "/v1/logs" || in.ResourceLogs[0].Resource.Attributes[0].Value.GetStringValue() != "node" {
			t.Errorf("%s: %v", r.URL, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if fails {
			fails = false
			w.WriteHeader(http.StatusServiceUnavailable)
			took <- false
			return
		}
		got = append(got, in.ResourceLogs[0].ScopeLogs[0].LogRecords...)
	}))
	defer server.Close()
	var log bytes.Buffer
	l := open(t, &log, Options{Service: "node"}, server.URL)
	for range collector.BatchSize {
		l.Record(new(denied("a")))
	}
	<-took
	l.Record(new(denied("b\xff")))
	l.Close(patience)
	// On a slow machine the batch that failed is a smaller one, by its time.
	dropped := l.Stats().Dropped
	if dropped == 0 || dropped > collector.BatchSize || !strings.Contains(log.String(), "503") || uint64(len(got)) != collector.BatchSize-dropped+2 {
		t.Fatalf("%d are lost, %d records came: %s", dropped, len(got), &log)
	}
	if e, err := flowrecord.Parse([]byte(got[0].Body.GetStringValue())); err != nil || e.Kind != flow.Lost || uint64(e.More) != dropped {
		t.Errorf("%+v, %v", got[0], err)
	}
	r := got[len(got)-1]
	if r.SeverityText != "WARN" || r.EventName != "egressd.decision" || r.TimeUnixNano != uint64(denied("").Time.UnixNano()) || r.Body.GetStringValue()+"\n" != line(denied("b\xff")) {
		t.Errorf("%+v", r)
	}
	attributes := map[string]string{}
	for _, a := range r.Attributes {
		attributes[a.Key] = fmt.Sprintf("%s %d", a.Value.GetStringValue(), a.Value.GetIntValue())
	}
	if attributes["server.address"] != "b\ufffd 0" || attributes["network.peer.port"] != " 443" || attributes["egressd.reason"] != "no-rule 0" {
		t.Errorf("%v", attributes)
	}
}
