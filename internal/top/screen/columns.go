// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"fmt"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/internal/top"
)

// column is one of a table.
type column struct {
	title string
	width int // of cells; negative: the text stands at the left
	// rank says which is left out first when there is no room: the highest.
	rank int
	cell func(*top.TableRow) string
}

// columnSet are the columns of a table, behind the one of names.
type columnSet struct {
	of   string
	list []column
}

// without is the list without its least important column.
func (t columnSet) without() []column {
	least := 0
	for i, c := range t.list {
		if c.rank > t.list[least].rank {
			least = i
		}
	}
	return slices.Delete(slices.Clone(t.list), least, least+1)
}

// fit makes a text as wide as the column.
func (c column) fit(text string) string {
	if c.width < 0 {
		return cut(text, -c.width)
	}
	text = ansi.Truncate(text, c.width, "~")
	return strings.Repeat(" ", c.width-ansi.StringWidth(text)) + text
}

var (
	flows  = column{"FLOWS", 6, 2, func(r *top.TableRow) string { return Amount(float64(r.Flows)) }}
	denied = column{"DENIED", 6, 0, func(r *top.TableRow) string { return Amount(float64(r.Denied + r.Audited)) }}
	reqs   = column{"REQS", 6, 3, func(r *top.TableRow) string { return Amount(float64(r.Requests)) }}
	sent   = column{"SENT", 6, 4, func(r *top.TableRow) string { return Amount(float64(r.Sent)) }}
	recv   = column{"RECV", 6, 4, func(r *top.TableRow) string { return Amount(float64(r.Received)) }}
	rate   = column{"/S", 5, 5, func(r *top.TableRow) string { return Amount(r.EventRate) }}
	bps    = column{"B/S", 6, 6, func(r *top.TableRow) string { return Amount(r.ByteRate) }}
	last   = column{"LAST", 8, 1, func(r *top.TableRow) string { return clock(r.Last) }}
)

var columns = map[top.Level]columnSet{
	top.Workloads: {"WORKLOAD", []column{
		{"HOSTS", 5, 7, func(r *top.TableRow) string { return Amount(float64(r.Below)) }},
		flows, denied, reqs, sent, recv, rate, bps, last,
	}},
	top.Hosts: {"HOST", []column{
		{"VERDICT", -7, 1, func(r *top.TableRow) string { return r.Verdict }},
		flows, denied, reqs, sent, recv, rate, bps, last,
	}},
	top.Flows: {"DESTINATION", []column{
		{"VERDICT", -7, 0, func(r *top.TableRow) string { return r.Verdict }},
		{"REASON", -16, 2, func(r *top.TableRow) string { return string(r.Kind.Reason) }},
		{"PROCESS", -15, 3, func(r *top.TableRow) string { return process(r) }},
		{"COUNT", 6, 1, func(r *top.TableRow) string { return Amount(float64(r.Events())) }},
		{"BYTES", 6, 4, func(r *top.TableRow) string { return Amount(float64(r.Bytes())) }},
		last,
	}},
}

// process is who opened flows.
func process(r *top.TableRow) string {
	switch {
	case r.Kind.Command != "":
		return quote.Word(r.Kind.Command)
	case r.Kind.Interface != "":
		return "if:" + quote.Word(r.Kind.Interface)
	}
	return "-"
}

// Amount writes a number in at most five characters, with k, M, G, T, P or E for powers of
// 1,000.
func Amount(n float64) string {
	units := []string{"k", "M", "G", "T", "P", "E"}
	if n < 10 && n != float64(int(n)) {
		return fmt.Sprintf("%.1f", n)
	}
	if n < 9999.5 {
		return fmt.Sprintf("%.0f", n)
	}
	unit := -1
	for n >= 999.5 && unit+1 < len(units) {
		n /= 1000
		unit++
	}
	if n < 9.95 {
		return fmt.Sprintf("%.1f%s", n, units[unit])
	}
	return fmt.Sprintf("%.0f%s", n, units[unit])
}
