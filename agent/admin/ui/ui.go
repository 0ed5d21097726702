// SPDX-License-Identifier: Apache-2.0

// Package ui is the web page of the admin address: who talks to whom, what was denied,
// and what would allow it. It serves the page's files and the events that the page asks
// for. What it shows is written by workloads, so it is data for the page's scripts and
// never markup, and the browser is told to run nothing but these scripts.
package ui

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/egressd/egressd/internal/flow"
)

// Path is where the page is; all of it is below.
const Path = "/ui/"

// pathFlows is what the page reads again and again.
const pathFlows = Path + "flows"

// Bounds of one answer, and of how many are made at a time.
const (
	enoughEvents = 2000
	mostDenials  = 4000
	maxAnswers   = 4
	// overlap is how much earlier than asked for denials are looked back on: their
	// times are taken before they are counted. To have one twice does no harm.
	overlap = 5 * time.Second
)

//go:embed page
var page embed.FS

// Events are what a daemon has decided.
type Events interface {
	// After returns the events from a number on, some more than enough at most; next is
	// the number to go on with, gone how many are not kept any more.
	After(from uint64, enough int) (events []flow.Event, next, gone uint64)
	// Denials lists what was denied, each kind once, by the time of the last.
	Denials() []flow.Event
}

// Answer is what the page reads of the events.
type Answer struct {
	// Daemon tells one daemon from the next, whose numbers begin anew.
	Daemon string `json:"daemon"`
	// Now is the daemon's clock.
	Now time.Time `json:"now"`
	// Next is the number to ask for, and More says that there is more already.
	Next uint64 `json:"next"`
	More bool   `json:"more"`
	// Gone counts events that were pushed out before they were asked for.
	Gone   uint64       `json:"gone"`
	Events []flow.Event `json:"events"`
	// Denials are the kinds of denials that came, or came again, since the time asked
	// for: each with how many there were. Left counts the oldest, which there was no
	// room for.
	Denials []flow.Event `json:"denials"`
	Left    int          `json:"left"`
}

// server answers the page.
type server struct {
	events Events
	daemon string
	now    func() time.Time
	slots  chan struct{}
}

// New serves the page below Path. started is when the daemon was.
func New(events Events, started time.Time) http.Handler {
	s := &server{events: events, daemon: strconv.FormatInt(started.UnixNano(), 36), now: time.Now, slots: make(chan struct{}, maxAnswers)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+path.Clean(Path), func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, Path, http.StatusMovedPermanently)
	})
	mux.HandleFunc("GET "+pathFlows, s.serveFlows)
	mux.HandleFunc("GET "+Path+"{file...}", serveFile)
	return guarded(mux)
}

// types are the media types of the page's files. The machine's own table, which
// net/http asks, may say something else.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

func serveFile(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	if name == "" {
		name = "index.html"
	}
	content, err := fs.ReadFile(page, path.Join("page", name))
	kind := types[path.Ext(name)]
	if err != nil || kind == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(content) // the reader left
}

// serveFlows answers what is new: after=NUMBER of the events, since=TIME of the denials.
func (s *server) serveFlows(w http.ResponseWriter, r *http.Request) {
	from, since, err := asked(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		http.Error(w, fmt.Sprintf("%d pages are being answered already; this one asks again", maxAnswers), http.StatusServiceUnavailable)
		return
	}
	a := Answer{Daemon: s.daemon, Now: s.now().UTC(), Denials: []flow.Event{}}
	// What comes meanwhile is in both, rather than in none.
	if a.Events, a.Next, a.Gone = s.events.After(from, enoughEvents); a.Events == nil {
		a.Events = []flow.Event{}
	}
	a.More = len(a.Events) >= enoughEvents
	if from == 0 {
		a.Gone = 0 // nobody waited for them
	}
	for _, e := range slices.Backward(s.events.Denials()) {
		if !since.IsZero() && e.Time.Before(since.Add(-overlap)) {
			break
		}
		if len(a.Denials) == mostDenials {
			a.Left++
			continue
		}
		a.Denials = append(a.Denials, e)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a) // the reader left
}

func asked(r *http.Request) (from uint64, since time.Time, err error) {
	q := r.URL.Query()
	if text := q.Get("after"); text != "" {
		if from, err = strconv.ParseUint(text, 10, 64); err != nil {
			return 0, since, fmt.Errorf("after: %w", err)
		}
	}
	if text := q.Get("since"); text != "" {
		if since, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return 0, since, fmt.Errorf("since: %w", err)
		}
	}
	return from, since, nil
}
