// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"github.com/egressd/egressd/internal/top"
)

// press does what a key says.
func (s *Screen) press(k tea.KeyPressMsg) tea.Cmd {
	key := k.String()
	switch {
	case key == "ctrl+c":
		return tea.Quit
	case key == "ctrl+z":
		return tea.Suspend
	case s.typing:
		s.edit(key, k.Text)
	case key == "q":
		return tea.Quit
	case s.help != nil:
		s.help = s.read(key, s.help)
	case s.text != nil:
		s.text = s.read(key, s.text)
	default:
		return s.command(key)
	}
	return nil
}

// longestFilter is how many bytes a filter may have.
const longestFilter = 200

// edit changes the filter.
func (s *Screen) edit(key, text string) {
	switch f := s.query.Filter; key {
	case "enter":
		s.typing = false
	case "esc":
		s.typing, s.query.Filter = false, ""
	case "backspace":
		_, n := utf8.DecodeLastRuneInString(f)
		s.query.Filter = f[:len(f)-n]
	case "ctrl+u":
		s.query.Filter = ""
	default:
		if len(f)+len(text) <= longestFilter {
			s.query.Filter += text
		}
	}
	s.cursor = 0
	s.rebuild()
}

// command is a key in a table.
func (s *Screen) command(key string) tea.Cmd {
	if s.move(key, &s.cursor, len(s.rows)) {
		s.within()
		return nil
	}
	switch key {
	case "enter", "right", "l":
		return s.in()
	case "esc", "left", "h", "backspace":
		s.out()
	case "/":
		s.typing = true
	case "s", "S":
		step := 1
		if key == "S" {
			step = len(top.Sorts) - 1
		}
		s.query.Sort = top.Sorts[(slices.Index(top.Sorts, s.query.Sort)+step)%len(top.Sorts)]
		s.rebuild()
	case "r":
		s.query.Up = !s.query.Up
		s.rebuild()
	case "p", "space":
		s.paused = !s.paused
		s.refresh()
	case "?":
		s.showHelp()
	}
	return nil
}

// showHelp shows what the keys do.
func (s *Screen) showHelp() {
	s.help = &page{title: "egressd top: keys", text: helpText(s.width)}
	s.within()
}

// move moves a position among n, and says whether the key is for that.
func (s *Screen) move(key string, at *int, n int) bool {
	to := *at
	switch key {
	case "up", "k":
		to--
	case "down", "j":
		to++
	case "pgup", "ctrl+b":
		to -= s.body()
	case "pgdown", "ctrl+f":
		to += s.body()
	case "home", "g":
		to = 0
	case "end", "G":
		to = n - 1
	default:
		return false
	}
	*at = max(min(to, n-1), 0)
	return true
}

// in goes from a row to what is behind it.
func (s *Screen) in() tea.Cmd {
	row := s.selected()
	if row == nil || row.Folded > 0 {
		return nil // of the others only sums are known
	}
	if row.Newest != nil {
		p := &page{title: shown(s.query.Workload) + " > " + shown(s.query.Host) + " > " + shown(row.Name), text: "asking the daemon ..."}
		s.text = p
		s.within()
		e := *row.Newest
		return func() tea.Msg { return explained{p, s.explain(s.ctx, e)} }
	}
	s.above = append(s.above, place{s.query, s.cursor})
	switch s.query.Level {
	case top.Workloads:
		s.query.Level, s.query.Workload = top.Hosts, row.Name
	case top.Hosts:
		s.query.Level, s.query.Host = top.Flows, row.Name
	}
	s.cursor, s.first = 0, 0
	s.rebuild()
	return nil
}

// out goes back; without a table to go back to it takes the filter away.
func (s *Screen) out() {
	n := len(s.above)
	if n == 0 {
		s.query.Filter = ""
		s.rebuild()
		return
	}
	was := s.above[n-1]
	s.above = s.above[:n-1]
	// The order and the filter are those of now.
	s.query.Level, s.query.Workload, s.query.Host = was.query.Level, was.query.Workload, was.query.Host
	s.rows, s.cursor = nil, was.cursor
	s.rebuild()
}

// read is a key in a text, and returns the text that is read afterwards; nil: none.
func (s *Screen) read(key string, p *page) *page {
	switch {
	case s.move(key, &p.first, len(p.lines)):
		s.within()
	case slices.Contains([]string{"esc", "left", "h", "backspace", "enter"}, key):
		return nil
	case key == "?":
		if p == s.help {
			return nil
		}
		s.showHelp()
	}
	return p
}

// helpKeys are the keys and what they do.
var helpKeys = [][2]string{
	{"up, down, PgUp, PgDn, Home, End", "move (also k, j, g, G)"},
	{"Enter, right", "look into a workload, a host, a flow: a flow is explained, with what would allow it"},
	{"Esc, left", "back"},
	{"/", "filter by name, address, process, verdict or reason; Enter keeps it, Esc drops it"},
	{"s, S", "sort by the next, or the previous column"},
	{"r", "turn the order"},
	{"p, Space", "pause: the table stands still, and goes on counting"},
	{"q, Ctrl-C", "end"},
}

const helpColumns = `FLOWS are connections and UDP flows, REQS HTTP requests, that were allowed. DENIED has what audit mode would deny as well. SENT and RECV are bytes of what has ended: of HTTP requests their bodies. /S are events, B/S bytes a second, of the last 10 s. The others are what was seen longest ago.`

// helpText is what ? shows, for a screen of a width.
func helpText(width int) string {
	var b strings.Builder
	const keys = 34
	for _, h := range helpKeys {
		if width < 2*keys {
			fmt.Fprintf(&b, "%s: %s\n", h[0], h[1])
			continue
		}
		for i, line := range wrap(h[1], width-keys-1) {
			if i > 0 {
				h[0] = ""
			}
			fmt.Fprintf(&b, " %-*s%s\n", keys-1, h[0], line)
		}
	}
	return b.String() + "\n" + helpColumns
}
