// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// The columns of the table, in characters.
const (
	whatWidth     = 60
	happenedWidth = 40
)

// Row is one line of the demo's result, and of its JSON.
type Row struct {
	What     string        `json:"what"`
	Happened string        `json:"happened"`
	Why      string        `json:"why,omitempty"`
	OK       bool          `json:"ok"`
	Promise  string        `json:"promise"`
	Took     time.Duration `json:"took"` // nanoseconds
}

// report prints rows as they come, or collects them for JSON.
type report struct {
	out   io.Writer
	color bool
	json  bool
	rows  []Row
}

// paint wraps text in a terminal colour (SGR code).
func (r *report) paint(code, text string) string {
	if !r.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// say prints a line of explanation; JSON has none.
func (r *report) say(format string, args ...any) {
	if !r.json {
		fmt.Fprintf(r.out, format+"\n", args...)
	}
}

// progress shows what is waited for, on a terminal only; "" removes it.
func (r *report) progress(text string) {
	if r.color && !r.json {
		fmt.Fprintf(r.out, "\r\x1b[K%s", r.paint("2", text))
	}
}

// head prints the table's head.
func (r *report) head() {
	r.say("\n   %s", r.paint("1", pad("what the workload tried", whatWidth)+pad("what happened", happenedWidth)+"why"))
}

// add takes one result.
func (r *report) add(row Row) {
	r.rows = append(r.rows, row)
	r.progress("")
	mark := r.paint("32", "ok")
	if !row.OK {
		mark = r.paint("31;1", "!!")
		row.Why = strings.TrimSpace(row.Why + "  unexpected: promised is " + row.Promise)
	}
	r.say("%s %s%s%s", mark, pad(row.What, whatWidth), pad(row.Happened, happenedWidth), r.paint("2", row.Why))
}

// unexpected counts the rows that broke their promise.
func (r *report) unexpected() int {
	n := 0
	for _, row := range r.rows {
		if !row.OK {
			n++
		}
	}
	return n
}

// finish prints the sum, or the JSON document.
func (r *report) finish() error {
	bad := r.unexpected()
	if r.json {
		enc := json.NewEncoder(r.out)
		enc.SetIndent("", "  ")
		return enc.Encode(struct {
			OK   bool  `json:"ok"`
			Rows []Row `json:"rows"`
		}{bad == 0, r.rows})
	}
	if bad == 0 {
		r.say("\n%s", r.paint("32", fmt.Sprintf("All %d as promised.", len(r.rows))))
	} else {
		r.say("\n%s", r.paint("31;1", fmt.Sprintf("%d of %d were not as promised.", bad, len(r.rows))))
	}
	return nil
}

// pad fills text up to width, and leaves at least two blanks behind it.
func pad(text string, width int) string {
	r := []rune(text)
	if len(r) > width-2 {
		r = append(r[:width-3], '~')
	}
	return string(r) + strings.Repeat(" ", width-len(r))
}
