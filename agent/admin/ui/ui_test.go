// SPDX-License-Identifier: Apache-2.0

package ui

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
)

// record plays a daemon's events.
type record struct {
	events, denials []flow.Event
	asked           chan struct{} // when a page asks; nil: nobody waits for it
	goOn            chan struct{}
}

func (r *record) After(from uint64, enough int) ([]flow.Event, uint64, uint64) {
	if r.asked != nil {
		r.asked <- struct{}{}
		<-r.goOn
	}
	from = min(from, uint64(len(r.events)))
	out := r.events[from:min(len(r.events), int(from)+enough)]
	return out, from + uint64(len(out)), 7
}

func (r *record) Denials() []flow.Event { return slices.Clone(r.denials) }

func ask(h http.Handler, method, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.Host = "localhost:15000"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// files are all of the page, as paths.
func files(t *testing.T) []string {
	t.Helper()
	list, err := fs.Glob(page, "page/*")
	if err != nil || len(list) < 5 {
		t.Fatalf("%d files: %v", len(list), err)
	}
	for i, f := range list {
		list[i] = Path + path.Base(f)
	}
	return list
}

// TestPageHeaders: whatever is answered, also an error, tells the browser to run nothing but
// the page's own scripts, and is nothing that another page can use.
func TestPageHeaders(t *testing.T) {
	h := SameOrigin(New(&record{}, time.Now()))
	for _, target := range append(files(t), Path, "/ui", pathFlows, pathFlows+"?after=x", Path+"none", Path+"page/app.js", Path+"../ui.go", Path+"app.js/") {
		w := ask(h, http.MethodGet, target)
		for name, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			// A path that is not clean is led to the clean one by net/http.
			if got := w.Header().Get(name); got != want && w.Code != http.StatusTemporaryRedirect && w.Code != http.StatusMovedPermanently {
				t.Errorf("%s: %d, %s: %q", target, w.Code, name, got)
			}
		}
		if kind := w.Header().Get("Content-Type"); w.Code == 200 && kind != types[path.Ext(target)] && kind != types[".html"] && kind != "application/json" {
			t.Errorf("%s has the type %q", target, kind)
		}
	}
	for _, never := range []string{"unsafe", "http:", "https:", "data:", "*"} {
		if strings.Contains(policy, never) {
			t.Errorf("the policy has %q: %s", never, policy)
		}
	}
}

// TestPageFiles: the page has all of its files, nothing of elsewhere, and nothing that the
// policy would refuse.
func TestPageFiles(t *testing.T) {
	h := New(&record{}, time.Now())
	if w := ask(h, http.MethodGet, "/ui"); w.Header().Get("Location") != Path {
		t.Errorf("/ui: %d %v", w.Code, w.Header())
	}
	foreign := regexp.MustCompile(`(?i)(src|href)="[^/#]|url\(|@import|\b(https?:)?//[a-z]`)
	markup := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc|javascript:|\son[a-z]+=|style=|<style|<script>`)
	leads := regexp.MustCompile(`(?:src|href)="(/[^"]*)"|from "\./([^"]+)"`)
	for _, target := range files(t) {
		w := ask(h, http.MethodGet, target)
		body := w.Body.String()
		if w.Code != 200 || !strings.Contains(body, "SPDX-License-Identifier: Apache-2.0") {
			t.Errorf("%s: %d", target, w.Code)
		}
		body = strings.NewReplacer("http://www.w3.org/2000/svg", "", "`http://${host}", "", "// ", "").Replace(body)
		if m := foreign.FindString(body); m != "" {
			t.Errorf("%s leads elsewhere: %q", target, m)
		}
		if m := markup.FindString(body); m != "" {
			t.Errorf("%s makes markup of text: %q", target, m)
		}
		for _, m := range leads.FindAllStringSubmatch(body, -1) {
			to := m[1]
			if to == "" {
				to = Path + m[2]
			}
			if w := ask(h, http.MethodGet, to); w.Code != 200 {
				t.Errorf("%s needs %s: %d", target, to, w.Code)
			}
		}
	}
	for _, none := range []string{"none.js", "page/index.html", "ui.go", ".", "..%2fui.go"} {
		if w := ask(h, http.MethodGet, Path+none); w.Code == 200 && strings.Contains(w.Body.String(), "package ui") || w.Code == 200 && none != "." {
			t.Errorf("%s: %d", none, w.Code)
		}
	}
}

// TestPageReadsOnly: nothing but reading is answered.
func TestPageReadsOnly(t *testing.T) {
	h := New(&record{}, time.Now())
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, "TRACE", "PROPFIND"} {
		for _, target := range []string{Path, "/ui", pathFlows, Path + "app.js"} {
			if w := ask(h, method, target); w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, target, w.Code)
			}
		}
	}
	if w := ask(h, http.MethodHead, Path); w.Code != 200 {
		t.Errorf("HEAD: %d", w.Code)
	}
}

// TestSameOrigin: what another page has a browser ask is refused; the page itself may be
// linked to.
func TestSameOrigin(t *testing.T) {
	h := SameOrigin(New(&record{}, time.Now()))
	link := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "cross-site"}
	for _, c := range []struct {
		name, target string
		header       []string
		want         int
	}{
		{"a program", pathFlows, nil, 200},
		{"the page", pathFlows, []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors"}, 200},
		{"the page, with its origin", pathFlows, []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://localhost:15000"}, 200},
		{"typed", Path, []string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"}, 200},
		{"a link to the page", Path, link, 200},
		{"a link to /ui", "/ui", link, 301},
		{"a link to the events", pathFlows, link, 403},
		{"a link beside it", "/uix", link, 403},
		{"another site", pathFlows, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"another port", pathFlows, []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"a script of another site", Path + "app.js", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "script"}, 403},
		{"a frame", Path, []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, 403},
		{"something new", pathFlows, []string{"Sec-Fetch-Site", "else"}, 403},
		{"another origin", pathFlows, []string{"Origin", "http://attacker.test"}, 403},
		{"no origin", pathFlows, []string{"Origin", "null"}, 403},
		{"another port's origin", pathFlows, []string{"Origin", "http://localhost:8080"}, 403},
		{"TLS's origin", pathFlows, []string{"Origin", "https://localhost:15000"}, 403},
	} {
		if w := ask(h, http.MethodGet, c.target, c.header...); w.Code != c.want || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d, not %d", c.name, w.Code, c.want)
		}
	}
}

// TestAnswers: a page has each event once, and each kind of denial as it is now.
func TestAnswers(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &record{}
	for i := range enoughEvents + 3 {
		r.events = append(r.events, flow.Event{Time: began, Name: fmt.Sprint(i), Allowed: true})
	}
	for i := range 4 {
		r.denials = append(r.denials, flow.Event{Time: began.Add(time.Duration(i) * time.Minute), Name: fmt.Sprint("d", i)})
	}
	h := New(r, began)
	get := func(query url.Values) (a Answer) {
		t.Helper()
		w := ask(h, http.MethodGet, pathFlows+"?"+query.Encode())
		// The verdict is written by its name, and this package knows no policy to read it.
		if w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &a) != nil {
			t.Fatalf("%v: %d %s", query, w.Code, w.Body)
		}
		return a
	}
	first := get(nil)
	if len(first.Events) != enoughEvents || !first.More || first.Next != enoughEvents || first.Gone != 0 || len(first.Denials) != 4 || first.Denials[0].Name != "d3" {
		t.Errorf("at first: %d events, more %v, next %d, %d gone, %d denials", len(first.Events), first.More, first.Next, first.Gone, len(first.Denials))
	}
	rest := get(url.Values{"after": {fmt.Sprint(first.Next)}, "since": {began.Add(2*time.Minute + overlap).Format(time.RFC3339Nano)}})
	if len(rest.Events) != 3 || rest.More || rest.Gone != 7 || len(rest.Denials) != 2 || rest.Daemon != first.Daemon {
		t.Errorf("then: %d events, more %v, %d gone, %d denials", len(rest.Events), rest.More, rest.Gone, len(rest.Denials))
	}
	for _, bad := range []string{"after=-1", "after=x", "since=yesterday"} {
		if w := ask(h, http.MethodGet, pathFlows+"?"+bad); w.Code != 400 {
			t.Errorf("%s: %d", bad, w.Code)
		}
	}
	if again := ask(New(r, began.Add(time.Second)), http.MethodGet, pathFlows); strings.Contains(again.Body.String(), `"daemon":"`+first.Daemon+`"`) {
		t.Error("two daemons cannot be told apart")
	}
	for range 2 * mostDenials {
		r.denials = append(r.denials, flow.Event{Time: began.Add(time.Hour)})
	}
	if many := get(nil); len(many.Denials) != mostDenials || many.Left != mostDenials+4 {
		t.Errorf("%d denials, %d left out", len(many.Denials), many.Left)
	}
}

// TestPageHostileNames: what workloads wrote is data of JSON, in which no markup is left.
func TestPageHostileNames(t *testing.T) {
	const hostile = "<img src=x onerror=alert(1)></script>\u2028\x1b\""
	r := &record{denials: []flow.Event{{Name: hostile, Process: flow.Process{Command: hostile}, Path: hostile, Workload: hostile}}}
	w := ask(New(r, time.Now()), http.MethodGet, pathFlows)
	if body := w.Body.String(); strings.ContainsAny(body, "<>\u2028\x1b") || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%s: %s", w.Header().Get("Content-Type"), body)
	}
}

// TestAnswersAtATime: many pages do not make many answers at a time.
func TestAnswersAtATime(t *testing.T) {
	r := &record{asked: make(chan struct{}), goOn: make(chan struct{})}
	h := New(r, time.Now())
	codes := make(chan int)
	for range maxAnswers {
		go func() { codes <- ask(h, http.MethodGet, pathFlows).Code }()
		<-r.asked
	}
	if w := ask(h, http.MethodGet, pathFlows); w.Code != http.StatusServiceUnavailable {
		t.Errorf("one more: %d", w.Code)
	}
	close(r.goOn)
	for range maxAnswers {
		if code := <-codes; code != 200 {
			t.Errorf("one of them: %d", code)
		}
	}
}
