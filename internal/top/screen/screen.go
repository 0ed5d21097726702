// SPDX-License-Identifier: Apache-2.0

// Package screen shows the traffic of package top on a terminal: tables through which
// one goes by keys, and the explanation of a flow.
package screen

import (
	"context"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/top"
)

// Refresh is how often the tables are made anew.
const Refresh = time.Second

// Explainer says in words what the policy does with flows like the one of an event,
// and what would allow it. The text is safe to be shown.
type Explainer func(context.Context, flow.Event) string

// What the reader of the events tells: that a daemon answers, from which everything
// comes that is known; what it says; and that it answers no more.
type (
	Connected struct{}
	Batch     []flow.Event
	Gone      struct{ Err error }
)

// Messages of the screen to itself.
type (
	tick      time.Time
	explained struct {
		of   *page // of which it is the text
		text string
	}
)

// Screen is a model of bubbletea. Use New.
type Screen struct {
	ctx     context.Context // of what the daemon is asked
	explain Explainer
	now     func() time.Time
	traffic *top.Traffic
	query   top.Query
	since   time.Time // when the daemon was connected to
	gone    error     // why it is not; nil: it is
	times   int       // how often it was connected to

	rows          []top.TableRow
	cursor, first int // the row that is selected, and the first one that is shown
	width, height int
	typing        bool // a filter
	paused        bool
	text, help    *page   // what is read in the place of a table; help comes first
	above         []place // where one came from
	plain         bool    // the terminal has ASCII alone
}

// place is what was selected in a table.
type place struct {
	query  top.Query
	cursor int
}

// page is a text that is read, and its lines on a screen of this width.
type page struct {
	title, text string
	lines       []string
	first       int
}

// New makes a screen with a first order of rows.
func New(ctx context.Context, explain Explainer, sort top.Sort, filter string, now func() time.Time) *Screen {
	return &Screen{ctx: ctx, explain: explain, now: now, traffic: top.New(top.Bounds{}), query: top.Query{Sort: sort, Filter: filter}, width: 80, height: 24}
}

// Plain makes it a screen for terminals that have no letters but those of ASCII.
func (s *Screen) Plain() *Screen {
	s.plain = true
	return s
}

// Init implements tea.Model.
func (s *Screen) Init() tea.Cmd { return s.tick() }

func (*Screen) tick() tea.Cmd { return tea.Tick(Refresh, func(t time.Time) tea.Msg { return tick(t) }) }

// Update implements tea.Model.
func (s *Screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch m := msg.(type) {
	case tea.WindowSizeMsg:
		s.width, s.height = max(m.Width, 1), max(m.Height, 1)
		s.within()
	case tick:
		s.refresh()
		return s, s.tick()
	case Connected:
		// What this daemon still knows comes again: counted anew, it is counted once.
		s.traffic, s.gone, s.since = top.New(top.Bounds{}), nil, s.now()
		s.times++
	case Batch:
		empty := len(s.rows) == 0
		for _, e := range m {
			s.traffic.Add(e)
		}
		if empty {
			s.refresh()
		}
	case Gone:
		s.gone = m.Err
	case explained:
		m.of.text = m.text
		s.within()
	case tea.ResumeMsg:
		s.refresh()
	case tea.KeyPressMsg:
		return s, s.press(m)
	}
	return s, nil
}

// refresh makes the rows anew, and keeps the selection on the row where it was.
func (s *Screen) refresh() {
	if s.paused {
		return
	}
	s.rebuild()
}

func (s *Screen) rebuild() {
	was := s.selected()
	s.rows = s.traffic.Rows(s.query, s.now())
	if was != nil && s.cursor > 0 { // at the top one wants to see what comes there
		for i, r := range s.rows {
			if r.Name == was.Name && r.Kind == was.Kind || r.Folded > 0 && was.Folded > 0 {
				s.cursor = i
			}
		}
	}
	s.within()
}

// selected is the row that the cursor is on; nil: there is none.
func (s *Screen) selected() *top.TableRow {
	if s.cursor >= len(s.rows) {
		return nil
	}
	return &s.rows[s.cursor]
}

// body is how many rows fit.
func (s *Screen) body() int { return max(s.height-4, 1) }

// within keeps the cursor on a row, and that row on the screen.
func (s *Screen) within() {
	s.cursor = max(min(s.cursor, len(s.rows)-1), 0)
	s.first = min(s.first, s.cursor)
	s.first = max(s.first, s.cursor-s.body()+1, 0)
	if s.help != nil {
		s.help.text = helpText(s.width)
	}
	for _, t := range []*page{s.text, s.help} {
		if t == nil {
			continue
		}
		t.lines = wrap(t.text, s.width)
		t.first = max(min(t.first, len(t.lines)-s.height+2), 0)
	}
}
