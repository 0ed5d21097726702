// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// The strings of a head are parts of a buffer that others use when the exchange has
// ended. So every test of this package spoils each buffer when it is given back, and
// when its core has ended looks for what was kept: in the events, which must say what
// they said when they were recorded, and in everything that the core can reach.

// spoilt is what buffers that were given back are full of. No test sends it.
const spoilt = "\xa6"

// spoiltMarks are as many of them as nobody has by chance.
var spoiltMarks = strings.Repeat(spoilt, 3)

func (r *rig) spoil() {
	r.core.messages.OnPut = func(p []byte) {
		for i := range p {
			p[i] = spoilt[0]
		}
	}
}

// textOf is what an event says.
func textOf(e *flow.Event) string {
	return fmt.Sprintf("%q", []any{e.Workload, e.Interface, e.Proto, e.Name, e.Names, e.Detail, e.Method, e.Path, e.ResponseFlags, e.StatPrefix, e.Reason, e.RouteName, e.Destination, e.Subset})
}

func (r *rig) unspoilt() {
	r.t.Helper()
	r.sink.mu.Lock()
	defer r.sink.mu.Unlock()
	for i := range r.sink.list {
		if now := textOf(&r.sink.list[i]); now != r.sink.texts[i] {
			r.t.Errorf("an event has a part of a buffer: it said %s, and says %s", r.sink.texts[i], now)
		}
	}
	for _, where := range keptOf(r.core) {
		r.t.Errorf("a part of a buffer is kept: %s", where)
	}
}

// keptOf finds the strings with spoilt bytes that can be reached from v.
func keptOf(v any) []string {
	w := walker{seen: map[visit]bool{}}
	w.walk(reflect.ValueOf(v), fmt.Sprintf("%T", v))
	return w.found
}

type visit struct {
	at unsafe.Pointer
	of reflect.Type
}

type walker struct {
	seen  map[visit]bool
	found []string
}

// notKept are types that have buffers, which nobody reads before writing to them, one
// that goes on for a moment, and one that cores share, which knows numbers alone.
var notKept = []reflect.Type{reflect.TypeFor[http1.Buffers](), reflect.TypeFor[relay.CopyBuffers](), reflect.TypeFor[relay.EndWatcher](), reflect.TypeFor[limits.Budget]()}

// foreign says whether a struct is of another module: it has nothing of ours, and
// may have goroutines that go on.
func foreign(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.PkgPath() != "" && !strings.HasPrefix(t.PkgPath(), "github.com/egressd/")
}

func (w *walker) walk(v reflect.Value, path string) {
	if !v.IsValid() || slices.Contains(notKept, v.Type()) || foreign(v.Type()) {
		return
	}
	switch v.Kind() {
	case reflect.String:
		if strings.Contains(v.String(), spoiltMarks) {
			w.found = append(w.found, path)
		}
	case reflect.Pointer:
		if key := (visit{v.UnsafePointer(), v.Type()}); !v.IsNil() && !w.seen[key] {
			w.seen[key] = true
			w.walk(v.Elem(), path)
		}
	case reflect.Interface:
		w.walk(v.Elem(), path)
	case reflect.Struct:
		for i := range v.NumField() {
			w.walk(v.Field(i), path+"."+v.Type().Field(i).Name)
		}
	case reflect.Array, reflect.Slice:
		w.elements(v, path)
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			w.walk(it.Key(), path+"[key]")
			w.walk(it.Value(), path+"[]")
		}
	}
}

func (w *walker) elements(v reflect.Value, path string) {
	switch v.Type().Elem().Kind() {
	case reflect.Uint8, reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return // no strings
	}
	if v.Kind() == reflect.Slice {
		key := visit{v.UnsafePointer(), v.Type()}
		if v.Len() > 0 && w.seen[key] {
			return
		}
		w.seen[key] = true
	}
	for i := range v.Len() {
		w.walk(v.Index(i), path+"[]")
	}
}

// TestSpoiltIsFound: the search finds what is kept, wherever, and nothing else.
func TestSpoiltIsFound(t *testing.T) {
	t.Parallel()
	type inner struct {
		m map[string]any
		p *[]string
	}
	kept := "x" + spoiltMarks
	for name, v := range map[string]any{
		"key":     &inner{m: map[string]any{kept: 1}},
		"value":   &inner{m: map[string]any{"a": []any{struct{ s string }{kept}}}},
		"pointer": &inner{p: &[]string{"", kept}},
	} {
		if len(keptOf(v)) != 1 {
			t.Errorf("%s: found %v", name, keptOf(v))
		}
	}
	if found := keptOf(&inner{m: map[string]any{"a": spoilt}, p: &[]string{"b"}}); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}

// TestNothingIsKept: everything that looks at a request or an answer, at once: a rule with
// a hash of a field, a cookie that is made, retries, mirrors, rewrites, fields that
// are added, CORS, outlier detection and limits. What it leaves does not change when
// the connection is used again, and when it ends.
func TestNothingIsKept(t *testing.T) {
	t.Parallel()
	three := uint32(3)
	for name, hash := range map[string]*policy.ConsistentHash{
		"field": {Header: "X-User"},
		"query": {Query: "q"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, HTTP, chance)
			mirrored := r.mirrorOrigin("mirror.example")
			var fails atomic.Int64
			u := r.servers(&policy.TrafficPolicy{
				LoadBalancer: &policy.LoadBalancer{Hash: hash},
				Outlier:      &policy.OutlierDetection{Consecutive5xx: &three, MaxEjectionPercent: 50},
			}, func(int) http.HandlerFunc {
				return func(w http.ResponseWriter, req *http.Request) {
					_, _ = io.Copy(io.Discard, req.Body)
					w.Header().Set("X-Answer", "kept-answer-"+req.Header.Get("X-User"))
					w.Header().Add("Set-Cookie", "kept-cookie=1")
					if strings.Contains(req.URL.Path, "fails") {
						fails.Add(1)
						w.WriteHeader(http.StatusServiceUnavailable)
					}
					_, _ = io.WriteString(w, "body")
				}
			})
			a := routeTo(&policy.HTTPRule{
				Retries: &policy.Retries{Attempts: 2, On: []string{"5xx"}},
				Rewrite: &policy.Rewrite{Authority: "other.example"},
				Headers: &policy.Headers{Request: policy.HeaderOps{Add: []policy.Header{{Name: "X-Added", Value: "1"}}}},
			}, "a.example")
			a.Destinations[0].Upstream = u
			mirror := policy.Mirrored{Action: a, To: &policy.RouteDestination{Upstream: upstreamOf("mirror.example")}, Percent: 100}
			r.change(func() {
				r.http = func(*policy.Request) policy.HTTPDecision {
					return policy.HTTPDecision{Decision: allowed, Action: a, Mirrors: []policy.Mirrored{mirror}}
				}
			})
			nc := r.dial()
			for i := range 6 {
				path := []string{"/kept-path", "/kept-fails"}[i%2]
				code, _ := say(t, nc, fmt.Sprintf("POST %s?q=kept-%d HTTP/1.1\r\nHost: kept.example\r\nX-User: kept-user-%d\r\nOrigin: http://kept.example\r\nCookie: kept=%d\r\nContent-Length: 2\r\n\r\nhi", path, i, i, i))
				if want := []int{200, 503}[i%2]; code != want {
					t.Errorf("status %d, want %d", code, want)
				}
				<-mirrored
			}
			if e := r.sink.wait(t, flow.Request, 6); !strings.Contains(e.Path, "kept-fails") {
				t.Errorf("%+v", e)
			}
			// A request that is none leaves an event of its own.
			bad := r.dial()
			_, _ = io.WriteString(bad, "GET /kept-bad HTTP/1.1\r\nHost: kept.example\r\nX-Bad : 1\r\n\r\n")
			_, _ = io.Copy(io.Discard, bad)
			if fails.Load() != 9 {
				t.Errorf("%d attempts that failed, want 9", fails.Load())
			}
		})
	}
}

// TestAnswersAreTheirOwn: what net/http has still to write of an answer, when the
// exchange has ended, is not a part of a buffer either.
func TestAnswersAreTheirOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t, HTTP)
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
		n := req.URL.Query().Get("n")
		w.Header().Set("X-Answer", n)
		if req.URL.Path == "/empty" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, n)
		w.Header().Set("X-Sum", n)
	})
	c := r.client(true)
	for i := range 200 {
		n, path := fmt.Sprint(i), []string{"/empty", "/body"}[i%2]
		resp, err := c.Get("http://a.example" + path + "?n=" + n)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.Header.Get("X-Answer") != n || path == "/body" && (string(body) != n || resp.Trailer.Get("X-Sum") != n) {
			t.Fatalf("%s %s: %v %q %v, %v", path, n, resp.Header, body, resp.Trailer, err)
		}
	}
}
