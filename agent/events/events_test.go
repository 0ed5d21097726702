// SPDX-License-Identifier: Apache-2.0

package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// names are those of the events in an answer.
func names(t *testing.T, body io.Reader) string {
	t.Helper()
	var out []string
	for d := json.NewDecoder(body); ; {
		var e flow.Event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return strings.Join(out, " ")
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, e.Name)
	}
}

// TestLookingBack: what is kept comes by time, each kind of denial once, and as far as it
// was asked for; the log has each kind once.
func TestLookingBack(t *testing.T) {
	var log bytes.Buffer
	r := NewRecorder(slog.New(slog.NewTextHandler(&log, nil)))
	r.Record(&flow.Event{Time: time.Now(), Kind: flow.Decision, Name: "first", Allowed: true, Verdict: policy.Direct})
	for range 3 {
		r.Record(&flow.Event{Time: time.Now(), Kind: flow.Decision, Name: "denied", Reason: policy.ReasonNoRule, Workload: "w"})
	}
	middle := time.Now()
	r.Record(&flow.Event{Time: time.Now(), Kind: flow.Decision, Name: "would", Reason: policy.ReasonNoRule, Allowed: true, WouldDeny: true, Workload: "w"})
	r.Record(&flow.Event{Time: time.Now(), Kind: flow.Decision, Name: "last", Allowed: true, Verdict: policy.Proxy})
	for query, want := range map[string]string{
		"": "first denied would last", "verdict=deny": "denied would", "verdict=direct": "first", "verdict=proxy": "last",
		"since=" + url.QueryEscape(middle.Format(time.RFC3339Nano)): "would last",
	} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "/flows?"+query, nil))
		if got := names(t, w.Body); got != want || w.Code != 200 {
			t.Errorf("%q: %d %q, want %q", query, w.Code, got, want)
		}
	}
	w := httptest.NewRecorder()
	if r.ServeHTTP(w, httptest.NewRequest("GET", "/flows?since=yesterday", nil)); w.Code != 400 {
		t.Errorf("a time that is none: %d", w.Code)
	}
	if n := strings.Count(log.String(), "name=denied"); n != 1 || !strings.Contains(log.String(), "would be denied") {
		t.Errorf("the log: %s", &log)
	}
	for _, e := range r.Denials() {
		if e.Name == "denied" && e.Count != 3 {
			t.Errorf("%d denials of a kind, not 3", e.Count)
		}
	}
	if r.Flush(true); !strings.Contains(log.String(), "denied again") {
		t.Errorf("how many more there were is not said: %s", &log)
	}
}

// TestOfPods: what is asked for is of a workload, or of a namespace, and of nobody
// whose name only begins like it. Who else is to know of denials is told what the
// log is told.
func TestOfPods(t *testing.T) {
	r := NewRecorder(slog.New(slog.DiscardHandler))
	var told []string
	r.Tell(sink(func(e flow.Event) { told = append(told, e.Workload) }))
	for _, w := range []string{"shop/web", "shop/web", "shop/web-2", "shopping/web", "shop", ""} {
		r.Record(&flow.Event{Time: time.Now(), Kind: flow.Decision, Name: w, Reason: policy.ReasonNoRule, Workload: w})
	}
	r.Record(&flow.Event{Time: time.Now(), Kind: flow.Decision, Name: "allowed", Allowed: true, Workload: "shop/web"})
	for query, want := range map[string]string{
		"workload=shop/web": "shop/web allowed", "namespace=shop": "shop/web shop/web-2 allowed", "workload=shop/web&namespace=other": "",
		"namespace=shop&verdict=deny": "shop/web shop/web-2", "workload=&namespace=": "shop/web shop/web-2 shopping/web shop  allowed",
	} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "/flows?"+query, nil))
		if got := names(t, w.Body); got != want || w.Code != 200 {
			t.Errorf("%q: %d %q, want %q", query, w.Code, got, want)
		}
	}
	if got := strings.Join(told, " "); got != "shop/web shop/web-2 shopping/web shop " {
		t.Errorf("told %q", got)
	}
}

type sink func(flow.Event)

func (s sink) Record(e *flow.Event) { s(*e) }

// TestRecordAllocates nothing for what is allowed, once the log is full: there is one
// event for each request.
func TestRecordAllocates(t *testing.T) {
	r := NewRecorder(slog.New(slog.DiscardHandler))
	e := flow.Event{Time: time.Now(), Kind: flow.Request, Layer: flow.Egress, Workload: "shop/web", Name: "www.example.com", Allowed: true}
	for range eventsKept {
		r.Record(&e)
	}
	if n := testing.AllocsPerRun(1000, func() { r.Record(&e) }); n > 0 {
		t.Errorf("an event allocates %v times", n)
	}
}

// kept keeps what it is told.
type kept struct{ events []flow.Event }

func (k *kept) Record(e *flow.Event) { k.events = append(k.events, *e) }

// TestTellAll: who is told of all hears of what was allowed, of the first denial of a kind,
// and how many more there were; who is told of denials, of these alone.
func TestTellAll(t *testing.T) {
	r := NewRecorder(slog.New(slog.DiscardHandler))
	all, denials := &kept{}, &kept{}
	r.TellAll(all)
	r.Tell(denials)
	r.Record(&flow.Event{Time: time.Now(), Name: "allowed", Allowed: true, Reason: policy.ReasonAllowed})
	for range 5 {
		r.Record(&flow.Event{Time: time.Now(), Name: "denied", Reason: policy.ReasonName})
	}
	r.Flush(true)
	var got []string
	for _, e := range all.events {
		got = append(got, fmt.Sprint(e.Name, " ", e.More))
	}
	if s := strings.Join(got, ", "); s != "allowed 0, denied 0, denied 4" || len(denials.events) != 2 {
		t.Errorf("%s; %+v", s, denials.events)
	}
}

// TestAllowIsLogged: a line about a denial says what would allow it.
func TestAllowIsLogged(t *testing.T) {
	var log bytes.Buffer
	r := NewRecorder(slog.New(slog.NewTextHandler(&log, nil)))
	r.Record(&flow.Event{Time: time.Now(), Kind: flow.Query, Name: "a.example", Transport: policy.UDP, Reason: policy.ReasonName})
	if !strings.Contains(log.String(), " allow=a.example") {
		t.Error(log.String())
	}
}
