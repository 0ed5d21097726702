// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/internal/top"
)

// Styles. Where there are no colours, what they say stands in the text as well.
var (
	bold    = ansi.Style{}.Bold()
	faint   = ansi.Style{}.Faint()
	reverse = ansi.Style{}.Reverse(true)
	red     = ansi.Style{}.ForegroundColor(ansi.Red)
	yellow  = ansi.Style{}.ForegroundColor(ansi.Yellow)
)

// View implements tea.Model.
func (s *Screen) View() tea.View {
	v := tea.NewView(strings.Join(s.lines(), "\n"))
	v.AltScreen = true
	return v
}

// lines are those of the whole screen, none wider than it is.
func (s *Screen) lines() []string {
	var out []string
	if t := s.reading(); t != nil {
		out = append(out, bold.Styled(t.title))
		last := min(t.first+s.height-2, len(t.lines))
		out = append(out, t.lines[t.first:max(last, t.first)]...)
	} else {
		out = s.table()
	}
	bottom := s.height - 1
	for len(out) < bottom {
		out = append(out, "")
	}
	out = append(out[:bottom], s.foot())
	for i := range out {
		if s.plain {
			out[i] = plain(out[i])
		}
		out[i] = ansi.Truncate(out[i], s.width, "")
	}
	return out
}

// plain puts question marks, as wide as what they stand for, in the place of what is not
// ASCII.
func plain(line string) string {
	if strings.IndexFunc(line, func(r rune) bool { return r > unicode.MaxASCII }) < 0 {
		return line
	}
	var b strings.Builder
	for len(line) > 0 {
		first, size := utf8.DecodeRuneInString(line)
		if first <= unicode.MaxASCII {
			b.WriteString(line[:size])
			line = line[size:]
			continue
		}
		letter, width := ansi.FirstGraphemeCluster(line, ansi.GraphemeWidth)
		b.WriteString(strings.Repeat("?", width))
		line = line[len(letter):]
	}
	return b.String()
}

// reading is the text that is shown; nil: a table is.
func (s *Screen) reading() *page {
	if s.help != nil {
		return s.help
	}
	return s.text
}

// keysHere are keys of a table, of which those that have room are named: help and the
// end always.
var keysHere = []string{"Enter look in", "Esc back", "/ filter", "s sort", "r turn", "p pause"}

// foot is the line of keys.
func (s *Screen) foot() string {
	if s.typing {
		return "filter: " + quote.Line(s.query.Filter) + "_"
	}
	const always = "? help  q end"
	line := ""
	if t := s.reading(); t != nil {
		line = "Esc back  "
		below := len(t.lines) - t.first - max(s.height-2, 0)
		for _, read := range []string{fmt.Sprintf("up/down read (%d more)  ", max(below, 0)), fmt.Sprintf("(%d more)  ", max(below, 0))} {
			if (t.first > 0 || below > 0) && len(line)+len(read)+len(always) <= s.width {
				line += read
				break
			}
		}
	} else {
		for _, k := range keysHere {
			if len(line)+len(k)+2+len(always) > s.width {
				break
			}
			line += k + "  "
		}
	}
	return faint.Styled(line + always)
}

// head says where one is.
func (s *Screen) head() []string {
	state := fmt.Sprintf("since %s", s.since.Format("15:04:05"))
	if s.times > 1 {
		state = "connected again, " + state
	}
	if s.gone != nil {
		state = yellow.Styled("NOT CONNECTED, tries again: " + quote.Line(s.gone.Error()))
	}
	first := bold.Styled("egressd top") + "  "
	if s.paused {
		first += yellow.Styled("PAUSED") + "  "
	}
	first += state
	if n := s.traffic.Lost(); n > 0 {
		first += yellow.Styled(fmt.Sprintf("  %d events lost: they came faster than they were read", n))
	}
	where := "all workloads"
	switch s.query.Level {
	case top.Hosts:
		where = shown(s.query.Workload)
	case top.Flows:
		where = shown(s.query.Workload) + " > " + shown(s.query.Host)
	}
	order := fmt.Sprintf("%d, sorted by %s", len(s.rows), s.query.Sort)
	if s.query.Up {
		order += ", turned"
	}
	if s.query.Filter != "" {
		order += ", only " + quote.Word(s.query.Filter)
	}
	return []string{first, where + faint.Styled("  ("+order+")")}
}

// table is the table of rows.
func (s *Screen) table() []string {
	cols := columns[s.query.Level]
	out := s.head()
	flex := s.flex(&cols)
	head := "  " + cut(cols.of, flex)
	for _, c := range cols.list {
		head += " " + c.fit(c.title)
	}
	out = append(out, bold.Styled(head))
	if len(s.rows) == 0 {
		return append(out, "  "+s.nothing())
	}
	for i := s.first; i < min(s.first+s.body(), len(s.rows)); i++ {
		r := &s.rows[i]
		line := "  "
		if i == s.cursor {
			line = "> "
		}
		line += cut(shown(r.Name), flex)
		for _, c := range cols.list {
			line += " " + c.fit(c.cell(r))
		}
		switch {
		case i == s.cursor:
			line = reverse.Styled(line)
		case r.Denied > 0:
			line = red.Styled(line)
		case r.Audited > 0:
			line = yellow.Styled(line)
		}
		out = append(out, line)
	}
	return out
}

// nothing says why there are no rows.
func (s *Screen) nothing() string {
	if s.query.Filter != "" {
		return "nothing has " + quote.Word(s.query.Filter) + " in it"
	}
	return "nothing was decided yet"
}

// flex is how wide the first column is. Columns that leave it too little room are left
// out, the least important ones first.
func (s *Screen) flex(t *columnSet) int {
	for {
		rest := s.width - 2
		for _, c := range t.list {
			rest -= max(c.width, -c.width) + 1
		}
		if rest >= 20 || len(t.list) == 0 {
			return max(rest, 1)
		}
		t.list = t.without()
	}
}

// shown is a name that others wrote.
func shown(name string) string {
	if name == "" {
		return "-"
	}
	return quote.Line(name)
}

// cut makes a text exactly n cells wide.
func cut(text string, n int) string {
	text = ansi.Truncate(text, n, "~")
	return text + strings.Repeat(" ", max(n-ansi.StringWidth(text), 0))
}

// wrap breaks a text into lines that fit.
func wrap(text string, width int) []string {
	return strings.Split(ansi.Wrap(strings.ReplaceAll(strings.TrimRight(text, "\n"), "\t", "  "), max(width, 1), ""), "\n")
}

// clock is the time of day, in the zone of the node.
func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("15:04:05")
}
