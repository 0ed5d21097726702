// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// window is the time of a disturbance.
type window struct {
	name        string
	excuses     need
	from, until time.Time // until is zero while it goes on
}

// covers says whether an attempt of a need may fail because of the window.
func (w *window) covers(n need, from, until time.Time) bool {
	if w.excuses == kernel || n < w.excuses {
		return false
	}
	return until.After(w.from) && (w.until.IsZero() || from.Before(w.until.Add(afterwards)))
}

// tally is how attempts of one kind went.
type tally struct {
	Kind    string        `json:"kind"`
	Good    int           `json:"good"`
	Excused int           `json:"excused"`
	Failed  int           `json:"failed"`
	Slowest time.Duration `json:"slowest_ns"`
}

// judge takes what was seen and says what of it must not be.
type judge struct {
	mu      sync.Mutex
	start   time.Time
	windows []*window
	tallies map[string]*tally
	// times counts the disturbances by name.
	times map[string]int
	// faults are what must not be, by what they are about; the first few of
	// each are kept in words.
	faults map[string]*fault
}

type fault struct {
	Count int      `json:"count"`
	First []string `json:"first"`
}

// faultsShown is how many of a kind are shown.
const faultsShown = 5

func newJudge(start time.Time) *judge {
	return &judge{start: start, tallies: map[string]*tally{}, times: map[string]int{}, faults: map[string]*fault{}}
}

func (j *judge) begin(name string, excuses need) *window {
	j.mu.Lock()
	defer j.mu.Unlock()
	w := &window{name: name, excuses: excuses, from: time.Now()}
	j.windows = append(j.windows, w)
	j.times[name]++
	return w
}

func (j *judge) end(w *window, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	w.until = time.Now()
	if err != nil {
		j.blameLocked(w.name, fmt.Sprintf("%s: %v", j.at(w.from), err))
	}
}

func (j *judge) at(t time.Time) string { return fmt.Sprintf("%.1fs", t.Sub(j.start).Seconds()) }

// blame records a fault.
func (j *judge) blame(about, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.blameLocked(about, text)
}

func (j *judge) blameLocked(about, text string) {
	f := j.faults[about]
	if f == nil {
		f = &fault{}
		j.faults[about] = f
	}
	f.Count++
	if len(f.First) < faultsShown {
		f.First = append(f.First, text)
	}
}

// hear takes what a client says.
func (j *judge) hear(r report) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == r.Kind })
	if i < 0 {
		j.blameLocked("clients", "a report of "+r.Kind)
		return
	}
	t := j.tallies[r.Kind]
	if t == nil {
		t = &tally{Kind: r.Kind}
		j.tallies[r.Kind] = t
	}
	t.Good += r.Good
	t.Slowest = max(t.Slowest, r.Slowest)
	if r.Error == "" {
		return
	}
	if slices.ContainsFunc(j.windows, func(w *window) bool { return w.covers(kinds[i].needs, r.From, r.Until) }) {
		t.Excused++
		return
	}
	t.Failed++
	j.blameLocked(r.Kind, fmt.Sprintf("%s to %s: %s%s", j.at(r.From), j.at(r.Until), r.Error, j.around(r.From, r.Until)))
}

// around says what was done at a time, and just before.
func (j *judge) around(from, until time.Time) string {
	var out string
	for _, w := range j.windows {
		if w.from.After(until) || !w.until.IsZero() && from.After(w.until.Add(justBefore)) {
			continue
		}
		end := "now"
		if !w.until.IsZero() {
			end = j.at(w.until)
		}
		out += fmt.Sprintf("; %s %s to %s", w.name, j.at(w.from), end)
	}
	return out
}

// justBefore is how long after a disturbance it is told with what fails.
const justBefore = 10 * time.Second

// silent blames kinds of which nothing went well: they prove nothing.
func (j *judge) silent() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, k := range kinds {
		if t := j.tallies[k.name]; t == nil || t.Good == 0 {
			j.blameLocked(k.name, "no attempt went well")
		}
	}
}

// list is the tallies in the order of kinds.
func (j *judge) list() []tally {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []tally
	for _, k := range kinds {
		if t := j.tallies[k.name]; t != nil {
			out = append(out, *t)
		}
	}
	return out
}

func (j *judge) disturbed() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(j.times)) {
		out = append(out, fmt.Sprintf("%s %d", name, j.times[name]))
	}
	return out
}

// sample is what the daemon takes, at one time.
type sample struct {
	At         time.Time          `json:"at"`
	PID        int                `json:"pid"`
	RSS        float64            `json:"rss_mb"`
	FDs        float64            `json:"fds"`
	Goroutines float64            `json:"goroutines"`
	Entries    map[string]float64 `json:"entries"`
}

// grown compares the last third of the samples with the one before it: what
// leaks goes on growing, what is bounded doesn't.
func grown(samples []sample) []string {
	third := len(samples) / 3
	if third < 10 {
		return nil
	}
	before, after := samples[third:2*third], samples[2*third:]
	var out []string
	check := func(what string, slack float64, of func(sample) float64) {
		was, is := peak(before, of), peak(after, of)
		if is > was*1.25+slack {
			out = append(out, fmt.Sprintf("%s: at most %.0f in the second third, %.0f in the last", what, was, is))
		}
	}
	check("resident memory (MB)", 16, func(s sample) float64 { return s.RSS })
	check("descriptors", 64, func(s sample) float64 { return s.FDs })
	check("goroutines", 128, func(s sample) float64 { return s.Goroutines })
	names := map[string]bool{}
	for _, s := range samples {
		for name := range s.Entries {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		check("entries of "+name, 512, func(s sample) float64 { return s.Entries[name] })
	}
	return out
}

func peak(samples []sample, of func(sample) float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	return of(slices.MaxFunc(samples, func(a, b sample) int { return cmp.Compare(of(a), of(b)) }))
}
