// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"errors"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
)

// asked is a request of an Informer.
type asked struct {
	at       time.Time
	resource string
	// list says that a list was asked for in the old way, stream that one is streamed.
	list, stream bool
	timeout      int // seconds
	refused      bool
}

// wire stands between an Informer and the API server.
type wire struct {
	next http.RoundTripper
	// answers instead of the API server; nil: it does.
	instead func(asked) (*http.Response, error)

	mu  sync.Mutex
	all []asked
}

// on is a Config whose requests pass w.
func (w *wire) on(config *rest.Config) *rest.Config {
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { w.next = next; return w })
	return config
}

// WrappedRoundTripper is for client-go.
func (w *wire) WrappedRoundTripper() http.RoundTripper { return w.next }

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.URL.Query()
	a := asked{at: time.Now(), resource: path.Base(r.URL.Path), stream: q.Get("sendInitialEvents") == "true"}
	a.list = q.Get("watch") == ""
	a.timeout, _ = strconv.Atoi(q.Get("timeoutSeconds"))
	var res *http.Response
	var err error
	if w.instead != nil {
		res, err = w.instead(a)
		a.refused = res != nil || err != nil
	}
	w.mu.Lock()
	w.all = append(w.all, a)
	w.mu.Unlock()
	if a.refused {
		if res != nil {
			res.Request = r
		}
		return res, err
	}
	return w.next.RoundTrip(r)
}

func (w *wire) requests() []asked {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}

// says is an answer.
func says(status int, header http.Header, body string) *http.Response {
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{
		StatusCode: status, Status: strconv.Itoa(status) + " " + http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// times answers the first n streams of a resource.
func times(n int, resource string, answer func() (*http.Response, error)) func(asked) (*http.Response, error) {
	var mu sync.Mutex
	return func(a asked) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		if n == 0 || !a.stream || a.resource != resource {
			return nil, nil
		}
		n--
		return answer()
	}
}

// TestNoLists: where the stream of a list fails, it is asked for again, and never in the
// old way, except of an API server that does not know how to stream.
func TestNoLists(t *testing.T) {
	c := cluster(t)
	const resource = "endpointslices"
	json := http.Header{"Content-Type": {"application/json"}}
	for _, tt := range []struct {
		what   string
		answer func() (*http.Response, error)
		lists  bool
	}{
		{"the connection is reset", func() (*http.Response, error) { return nil, errors.New("connection reset by peer") }, false},
		{"an internal error", func() (*http.Response, error) { return says(500, nil, "no"), nil }, false},
		{"no time", func() (*http.Response, error) { return says(504, nil, "no"), nil }, false},
		{"it has just started", func() (*http.Response, error) { return says(401, nil, "no"), nil }, false},
		{"the list ends in its middle", func() (*http.Response, error) { return says(200, json, ""), nil }, false},
		{"it cannot stream", func() (*http.Response, error) {
			return says(422, json, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422,"message":"sendInitialEvents is forbidden"}`), nil
		}, true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			w := &wire{instead: times(2, resource, tt.answer)}
			s := synced(t, Options{Config: w.on(c.Config())})
			lists, streams := 0, 0
			for _, a := range w.requests() {
				if a.list {
					lists++
				}
				if a.stream && a.resource == resource {
					streams++
				}
				if a.list && a.resource != resource {
					t.Errorf("%s are listed", a.resource)
				}
			}
			if lists > 0 != tt.lists || !tt.lists && streams != 3 {
				t.Errorf("%d requests of lists, and %d of streams", lists, streams)
			}
			ns := c.Namespace(t, nil)
			c.Apply(t, strings.NewReplacer("{}", ns, "[]", "web").Replace(kindObjects["EndpointSlice"]))
			has(t, s, "kubernetes:EndpointSlice/"+ns+"/x", "web")
		})
	}
}

// tooMany is the answer of an API server that has too much to do.
func tooMany(seconds string) *http.Response {
	return says(http.StatusTooManyRequests, http.Header{"Retry-After": {seconds}}, "Too many requests, please try again later.\n")
}

// TestManyRequests: a node whose API server has too much to do asks for few kinds at
// once, and for these again after as long as it says.
func TestManyRequests(t *testing.T) {
	c := cluster(t)
	const refusals = 2*turnsAtOnce + 1
	var mu sync.Mutex
	left := refusals
	w := &wire{instead: func(asked) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		if left == 0 {
			return nil, nil
		}
		left--
		return tooMany("1"), nil
	}}
	s := synced(t, Options{Config: w.on(c.Config())})
	var refused []asked
	for _, a := range w.requests() {
		if a.refused {
			refused = append(refused, a)
		}
	}
	if len(refused) != refusals {
		t.Fatalf("%d requests were refused", len(refused))
	}
	for i := range len(refused) - turnsAtOnce {
		if d := refused[i+turnsAtOnce].at.Sub(refused[i].at); d < time.Second {
			t.Errorf("more than %d requests within %v, although the API server asks for a second", turnsAtOnce, d)
		}
	}
	putOff := uint64(0)
	for name, k := range s.Status().Kinds {
		if putOff += k.PutOff; k.Errors > 0 || k.Error != "" {
			t.Errorf("%s has failed: %+v", name, k)
		}
	}
	if putOff != refusals {
		t.Errorf("the status has %d requests that were put off, not %d", putOff, refusals)
	}
}

// TestOneKindPutOff: a kind that the API server has too much to do for waits alone.
func TestOneKindPutOff(t *testing.T) {
	c := cluster(t)
	const resource, pause = "endpointslices", 5 * time.Second
	w := &wire{instead: times(1, resource, func() (*http.Response, error) { return tooMany("5"), nil })}
	synced(t, Options{Config: w.on(c.Config())})
	var of []time.Time
	for _, a := range w.requests() {
		if a.resource == resource {
			of = append(of, a.at)
		}
	}
	if len(of) != 2 || of[1].Sub(of[0]) < pause {
		t.Fatalf("it was asked for at %v", of)
	}
	before := 0
	for _, a := range w.requests() {
		if a.resource != resource && a.at.Before(of[1]) {
			before++
		}
	}
	if before < len(kinds())-1 {
		t.Errorf("%d requests for other kinds before it was asked for again, want one for each of %d", before, len(kinds())-1)
	}
}

// TestPutOffFails: it counts as a failure when it lasts, and not when it comes now and
// then.
func TestPutOffFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{Config: &rest.Config{Host: "https://127.0.0.1:1"}, Node: "node1"})
		if err != nil {
			t.Fatal(err)
		}
		of := s.tables["Service"]
		busy := apierrors.NewTooManyRequests("try again later", 1)
		status := func() KindStatus { return s.Status().Kinds["Service"] }
		for range 10 {
			of.failed(busy)
			time.Sleep(busyLasts - time.Nanosecond)
			if of.failed(busy); status().Error != "" || len(s.failing) > 0 {
				t.Fatalf("it failed: %+v", status())
			}
			of.failed(nil)
		}
		of.failed(busy)
		if waits := s.awaited(); !slices.ContainsFunc(waits, func(s string) bool { return strings.HasPrefix(s, "Service (the API server has too much to do") }) {
			t.Errorf("what it waits for is not told: %q", waits)
		}
		time.Sleep(busyLasts)
		of.failed(busy)
		if k := status(); !strings.Contains(k.Error, "try again later") || k.Errors != 1 || k.PutOff != 22 {
			t.Errorf("it lasts, and the status is %+v", k)
		}
		if of.failed(nil); status().Error != "" || len(s.failing) > 0 {
			t.Errorf("after an answer: %+v", status())
		}
		s.clients.http.CloseIdleConnections()
	})
}

// TestQuietRequests: watches last, and nothing is asked for but watches.
func TestQuietRequests(t *testing.T) {
	c := cluster(t)
	w := &wire{}
	synced(t, Options{Config: w.on(c.Config())})
	all := w.requests()
	for _, a := range all {
		if a.list || !a.stream {
			t.Errorf("%s: neither a watch nor a list by one", a.resource)
		}
		if a.timeout < int(watchTimeout.Seconds()) {
			t.Errorf("%s: a watch of %d s", a.resource, a.timeout)
		}
	}
	if len(all) < len(kinds()) {
		t.Errorf("%d requests for %d kinds", len(all), len(kinds()))
	}
}

// TestSpread: first requests are put off by chance.
func TestSpread(t *testing.T) {
	c := cluster(t)
	late := &wire{}
	s := run(t, Options{Config: late.on(c.Config()), Spread: 1000 * time.Hour})
	synced(t, Options{Config: c.Config(), Spread: time.Millisecond})
	if n := len(late.requests()); n > 0 || s.Synced() {
		t.Errorf("%d requests", n)
	}
}
