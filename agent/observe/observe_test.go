// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// snapshot is of a MeshConfig.
func snapshot(t *testing.T, m policy.MeshTelemetry) *policy.Snapshot {
	t.Helper()
	s, err := policy.Compile(&policy.Config{Mesh: policy.Mesh{Telemetry: m}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ended() *flow.Observation {
	return &flow.Observation{Event: flow.Event{Time: time.Now(), Kind: flow.Request, Method: "GET", Allowed: true, Reason: policy.ReasonAllowed, Dst: netip.MustParseAddrPort("[::1]:80")}}
}

// TestFollow: the MeshConfig says where lines go and how they look, the command line
// has precedence, and a format with an error leaves what was.
func TestFollow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	var stdout, stderr, log bytes.Buffer
	type outputs struct{ stdout, stderr, file string }
	for _, c := range []struct {
		name string
		flag LogOptions
		mesh []policy.MeshTelemetry
		want outputs
		log  string
	}{
		{"off", LogOptions{}, nil, outputs{}, ""},
		{"the mesh's", LogOptions{}, []policy.MeshTelemetry{{AccessLogFile: Stdout, AccessLogFormat: "m %PROTOCOL%"}}, outputs{stdout: "m -\n"}, ""},
		{"the mesh's, as JSON", LogOptions{}, []policy.MeshTelemetry{{AccessLogFile: Stderr, AccessLogFormat: `{"m":"%REQ(:METHOD)%"}`, AccessLogEncoding: "JSON"}}, outputs{stderr: `{"m":"GET"}` + "\n"}, ""},
		{"changed", LogOptions{}, []policy.MeshTelemetry{{AccessLogFile: Stdout, AccessLogFormat: "a"}, {AccessLogFile: Stderr, AccessLogFormat: "b"}}, outputs{stderr: "b\n"}, ""},
		{"ended", LogOptions{}, []policy.MeshTelemetry{{AccessLogFile: Stdout, AccessLogFormat: "a"}, {}}, outputs{}, ""},
		{"broken", LogOptions{}, []policy.MeshTelemetry{{AccessLogFile: Stdout, AccessLogFormat: "a"}, {AccessLogFile: Stdout, AccessLogFormat: "%X%"}}, outputs{stdout: "a\n"}, "correct its format"},
		{"the flags'", LogOptions{To: file, Format: "f"}, []policy.MeshTelemetry{{AccessLogFile: Stdout, AccessLogFormat: "a"}}, outputs{file: "f\n"}, ""},
		{"the flag's place alone", LogOptions{To: Stderr}, []policy.MeshTelemetry{{AccessLogFile: Stdout, AccessLogFormat: "a"}}, outputs{stderr: "a\n"}, ""},
		{"the flag's off", LogOptions{To: Off}, []policy.MeshTelemetry{{AccessLogFile: Stdout, AccessLogFormat: "a"}}, outputs{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_ = os.Remove(file) // of the case before
			stdout.Reset()
			stderr.Reset()
			log.Reset()
			c.flag.Percent = 100
			w, err := New(Options{Access: c.flag, Stdout: &stdout, Stderr: &stderr, Snapshot: func() *policy.Snapshot { return nil }, Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range c.mesh {
				w.Follow(snapshot(t, m))
			}
			w.Observer().Observe(ended())
			w.Close()
			text, _ := os.ReadFile(file)
			if got := (outputs{stdout.String(), stderr.String(), string(text)}); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if !strings.Contains(log.String(), c.log) || c.log == "" && log.Len() > 0 {
				t.Errorf("log: %s", &log)
			}
		})
	}
}

// TestMeshChangesSnapshot: a MeshConfig with another log is another configuration
// that decides the same.
func TestMeshChangesSnapshot(t *testing.T) {
	a, b := snapshot(t, policy.MeshTelemetry{}), snapshot(t, policy.MeshTelemetry{AccessLogFile: Stdout})
	if a.Same(b) || a.Hash() != b.Hash() || !a.Same(snapshot(t, policy.MeshTelemetry{})) {
		t.Errorf("same %t, hashes %s %s", a.Same(b), a.Hash(), b.Hash())
	}
}

func TestCheck(t *testing.T) {
	for to, want := range map[string]bool{"": true, Off: true, Stdout: true, "/var/log/x": true, "x": false, "./x": false} {
		if err := (&LogOptions{To: to}).Check(); (err == nil) != want {
			t.Errorf("%q: %v", to, err)
		}
	}
	for _, o := range []LogOptions{{Format: "%X%"}, {Encoding: "XML"}, {Format: "x", Encoding: "JSON"}} {
		if o.Check() == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// TestTelemetry: a Telemetry turns the log on for whom it is, at Istio's place for it, and
// the command line's word that there is none stays.
func TestTelemetry(t *testing.T) {
	on := &policy.Telemetry{Ref: policy.Ref{Kind: "Telemetry", Namespace: "istio-system", Name: "on"},
		Logs: []policy.TelemetryLog{{Providers: []string{"envoy"}, Filter: "response.code >= 400"}}}
	off := &policy.Telemetry{Ref: policy.Ref{Kind: "Telemetry", Namespace: "shop", Name: "off"}, Selector: map[string]string{"app": "quiet"},
		Logs: []policy.TelemetryLog{{Disabled: true}}}
	quiet := &policy.Workload{Identity: policy.Identity{Name: "quiet", Namespace: "shop", Labels: map[string]string{"app": "quiet"}}, Cgroups: []string{"q"}}
	for _, c := range []struct {
		name, to string
		objects  []*policy.Telemetry
		want     string
	}{
		{"nothing", "", nil, ""},
		{"on", "", []*policy.Telemetry{on, off}, "/loud 503\n"},
		{"and everything", Stdout, []*policy.Telemetry{off}, "/loud 200\n/loud 503\n"},
		{"the flag's off", Off, []*policy.Telemetry{on}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout bytes.Buffer
			w, err := New(Options{Access: LogOptions{To: c.to, Format: "%REQ(:PATH)% %RESPONSE_CODE%", Percent: 100}, Stdout: &stdout,
				Snapshot: func() *policy.Snapshot { return nil }, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			s, err := policy.Compile(&policy.Config{Telemetries: c.objects, Workloads: []*policy.Workload{quiet}})
			if err != nil {
				t.Fatal(err)
			}
			w.Follow(s)
			for _, name := range []string{"shop/quiet", "loud"} {
				for _, status := range []int{200, 503} {
					o := ended()
					o.Workload, o.Status, o.Target = name, status, "/"+strings.TrimPrefix(name, "shop/")
					w.Observer().Observe(o)
				}
			}
			w.Close()
			if got := stdout.String(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestTelemetryChangesSnapshot: it is another configuration that decides the same.
func TestTelemetryChangesSnapshot(t *testing.T) {
	of := func(list ...*policy.Telemetry) *policy.Snapshot {
		s, err := policy.Compile(&policy.Config{Telemetries: list})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	one := func(filter string) *policy.Telemetry {
		return &policy.Telemetry{Logs: []policy.TelemetryLog{{Filter: filter}}}
	}
	if a, b := of(), of(one("true")); a.Same(b) || a.Hash() != b.Hash() || b.Same(of(one("false"))) || !b.Same(of(one("true"))) {
		t.Errorf("same %t, hashes %s %s", a.Same(b), a.Hash(), b.Hash())
	}
}
