// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// Timeout bounds each socket of a round. Resolvers wait 5 s.
	Timeout = 3 * time.Second
	// slack is what a round may take besides.
	slack = 2 * time.Second
	// overdue is when a round that has not ended hangs.
	overdue = 4 * (Timeout + slack)
	// Limit is how many rounds in a row a path fails before it counts: a busy
	// moment is none.
	Limit = 3
)

// Options are what a Prober works with; all are needed.
type Options struct {
	// Interval is the time between rounds.
	Interval time.Duration
	Families []Family
	// Captured tries the targets from a process under the kernel programs. Its
	// error says why there can be none.
	Captured func(context.Context) ([]Outcome, error)
	// Listeners are the targets of a probe that is not captured, instead.
	Listeners func() []Attempt
	// Queued is how much waits at the listener of a path: datagrams that were not
	// read, connections that were not accepted; negative: unknown.
	Queued func(Path, Family) int
	// Spent says that this process can open no more files.
	Spent func() bool
	Log   *slog.Logger
}

// Prober tries the paths again and again. It is safe for concurrent use.
type Prober struct {
	o Options
	// beats is received from by Run.
	beats chan struct{}

	mu     sync.Mutex
	states map[key]*state
	// served is when a listener last served a probe, begun when the last round
	// before this one began.
	served map[key]time.Time
	begun  time.Time
	// uncaptured is why the probe is not captured.
	uncaptured error
	rounds     uint64
	// late counts the ticks since the round under way began: the time that this
	// process saw pass, not that in which it was stopped.
	late int
}

type key struct {
	path   Path
	family Family
}

func (k key) String() string { return fmt.Sprintf("%s over %s", k.path, k.family) }

// state is what is known of a path.
type state struct {
	failures int // in a row
	since    time.Time
	cause    Cause
	text     string
	success  time.Time
	took     time.Duration
	told     string // what was logged last; empty: that it works
}

// New makes a Prober; Run runs it.
func New(o Options) *Prober {
	p := &Prober{o: o, beats: make(chan struct{}), states: map[key]*state{}, served: map[key]time.Time{}}
	for _, f := range o.Families {
		for _, path := range paths {
			p.states[key{path, f}] = &state{since: time.Now()}
		}
	}
	return p
}

// Run probes until ctx ends.
func (p *Prober) Run(ctx context.Context) {
	tick := time.NewTicker(p.o.Interval)
	defer tick.Stop()
	ended := make(chan struct{}, 1)
	running := false
	begin := func() {
		running = true
		go func() { p.round(ctx); ended <- struct{}{} }()
	}
	begin()
	for {
		select {
		case <-ctx.Done():
			if running {
				<-ended // soon: its processes are killed, and its sockets give up
			}
			return
		case <-ended:
			running = false
		case <-p.beats:
		case <-tick.C:
			p.ticks(running)
			if !running {
				begin()
			}
		}
	}
}

// ticks counts how long a round takes.
func (p *Prober) ticks(running bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late++
	if !running {
		p.late = 0
	}
}

// Beat returns when Run is alive.
func (p *Prober) Beat(ctx context.Context) error {
	select {
	case p.beats <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Served notes that a listener served a probe.
func (p *Prober) Served(path Path, f Family) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.served[key{path, f}] = time.Now()
}

func (p *Prober) round(ctx context.Context) {
	begin := time.Now()
	outcomes, why := p.try(ctx)
	end := time.Now()
	// Whoever was stopped for that long knows nothing of what happened meanwhile.
	if ctx.Err() != nil || end.Sub(begin) > Timeout+slack {
		return
	}
	spent := p.o.Spent()
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.begun
	p.begun = begin
	p.rounds++
	p.tellCapture(why)
	for _, o := range outcomes {
		k := key{o.Path, o.Family}
		s := p.states[k]
		if s == nil {
			continue
		}
		if o.Stage == "" {
			s.good(end, o.Took)
			continue
		}
		cause, text := judge(o, why == nil, p.o.Queued(o.Path, o.Family), p.served[k].After(before), spent)
		s.bad(end, o.Took, cause, text)
	}
	p.tell()
}

// try is a round, by a captured process if there can be one; else the error
// says why not.
func (p *Prober) try(ctx context.Context) ([]Outcome, error) {
	limited, cancel := context.WithTimeout(ctx, Timeout+slack/2)
	defer cancel()
	outcomes, err := p.o.Captured(limited)
	if err == nil {
		return outcomes, nil
	}
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return failed(p.o.Families, err), nil
	}
	if ctx.Err() != nil {
		return nil, err // nobody serves any more: that is what ended it
	}
	return Round(ctx, p.o.Listeners(), Timeout), err
}

// failed are outcomes of a process that has no descriptors to try with.
func failed(families []Family, err error) []Outcome {
	var out []Outcome
	for _, f := range families {
		for _, path := range paths {
			out = append(out, Outcome{Path: path, Family: f, Stage: StageSocket, Errno: syscall.EMFILE, Error: err.Error(), Redirected: true})
		}
	}
	return out
}

func (s *state) good(now time.Time, took time.Duration) {
	if s.failures > 0 {
		s.since = now
	}
	s.failures, s.cause, s.text, s.success, s.took = 0, "", "", now, took
}

func (s *state) bad(now time.Time, took time.Duration, cause Cause, text string) {
	if s.failures == 0 {
		s.since = now
	}
	s.failures++
	s.cause, s.text, s.took = cause, text, took
}

// tellCapture logs when the probe is not captured any more, or is again.
func (p *Prober) tellCapture(why error) {
	was := p.uncaptured
	p.uncaptured = why
	switch {
	case why != nil && (was == nil || was.Error() != why.Error()):
		p.o.Log.Warn("egressd cannot probe itself from a captured process, so that it would not see if the kernel stopped redirecting; it probes its listeners", "error", why)
	case why == nil && was != nil:
		p.o.Log.Info("egressd probes itself from a captured process again")
	}
}

// tell logs what changed, in one line for each cause.
func (p *Prober) tell() {
	down, open := map[string][]string{}, map[string]bool{}
	var up []string
	for _, k := range p.keys() {
		s := p.states[k]
		switch {
		case s.failures == 0 && s.told != "":
			up = append(up, k.String())
			s.told = ""
		case s.failures >= Limit && s.told != s.text:
			down[s.text] = append(down[s.text], k.String())
			s.told = s.text
			open[s.text] = s.cause == CauseHook
		}
	}
	for text, which := range down {
		traffic := "workloads have no DNS, or no proxied connections, by these paths; what the kernel decides alone goes on"
		if open[text] {
			traffic = "it may be open"
		}
		p.o.Log.Error("egressd's probe of itself fails, and egressd is not ready", "paths", strings.Join(which, ", "), "reason", text, "traffic", traffic)
	}
	if len(up) > 0 {
		p.o.Log.Info("egressd's probe of itself succeeds again", "paths", strings.Join(up, ", "))
	}
}

func (p *Prober) keys() []key {
	var all []key
	for _, f := range p.o.Families {
		for _, path := range paths {
			all = append(all, key{path, f})
		}
	}
	return all
}

// NotReady says which paths do not work; nil: none is known to fail.
func (p *Prober) NotReady() error {
	return p.collect(func(s *state) bool { return s.failures >= Limit })
}

var errHangs = errors.New("the probe hangs, so something that it waits for does")

// Stuck says what a restart of egressd would mend: a listener that makes no
// progress, or a round that doesn't.
func (p *Prober) Stuck() error {
	p.mu.Lock()
	hangs := time.Duration(p.late)*p.o.Interval > overdue
	p.mu.Unlock()
	if hangs {
		return errHangs
	}
	return p.collect(func(s *state) bool { return s.cause == CauseStuck })
}

func (p *Prober) collect(is func(*state) bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	by := map[string][]string{}
	var texts []string
	for _, k := range p.keys() {
		s := p.states[k]
		if !is(s) {
			continue
		}
		if by[s.text] == nil {
			texts = append(texts, s.text)
		}
		by[s.text] = append(by[s.text], k.String())
	}
	var errs []error
	for _, text := range texts {
		errs = append(errs, fmt.Errorf("%s: %s", strings.Join(by[text], ", "), text))
	}
	return errors.Join(errs...)
}

// ProberStatus is what a Prober knows.
type ProberStatus struct {
	// Captured says that the probe is a process under the kernel programs,
	// Uncaptured why not.
	Captured   bool   `json:"captured"`
	Uncaptured string `json:"uncaptured,omitempty"`
	// Rounds counts them since the start.
	Rounds uint64       `json:"rounds"`
	Paths  []PathStatus `json:"paths"`
}

// PathStatus is how one path is.
type PathStatus struct {
	Path   Path   `json:"path"`
	Family Family `json:"family"`
	OK     bool   `json:"ok"`
	// Since is when OK changed; Failures counts them in a row.
	Since    time.Time `json:"since"`
	Failures int       `json:"failures"`
	Cause    Cause     `json:"cause,omitempty"`
	Error    string    `json:"error,omitempty"`
	// LastSuccess is zero before the first; Seconds is how long the last try
	// took.
	LastSuccess time.Time `json:"lastSuccess,omitzero"`
	Seconds     float64   `json:"seconds"`
}

// Failing says that the path counts as failing.
func (s PathStatus) Failing() bool { return s.Failures >= Limit }

// Status tells what is known.
func (p *Prober) Status() ProberStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := ProberStatus{Captured: p.uncaptured == nil, Rounds: p.rounds, Paths: []PathStatus{}}
	if p.uncaptured != nil {
		st.Uncaptured = p.uncaptured.Error()
	}
	for _, k := range p.keys() {
		s := p.states[k]
		st.Paths = append(st.Paths, PathStatus{
			Path: k.path, Family: k.family, OK: s.failures == 0, Since: s.since, Failures: s.failures,
			Cause: s.cause, Error: s.text, LastSuccess: s.success, Seconds: s.took.Seconds(),
		})
	}
	return st
}
