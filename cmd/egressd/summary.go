// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/quote"
)

// printDenials lists what a command was denied, and what would allow it.
func printDenials(w io.Writer, denials explain.DenialSummary, mode string) {
	if len(denials.List) == 0 && denials.Others == 0 && denials.Lost == 0 {
		return
	}
	what := "denied"
	if mode == "audit" {
		what = "would deny"
	}
	count := "1 destination"
	if n := len(denials.List); n != 1 {
		count = fmt.Sprintf("%d destinations", n)
	}
	fmt.Fprintln(w)
	printLine(w, "egressd %s %s:", what, count)
	for i, d := range denials.List {
		if i == denialsShown {
			times := 0
			for _, d := range denials.List[i:] {
				times += d.Count
			}
			printLine(w, "  and %d destinations that came later, %d times", len(denials.List)-i, times)
			break
		}
		times := "once"
		if d.Count > 1 {
			times = fmt.Sprintf("%d times", d.Count)
		}
		var commands []string
		for _, c := range d.Commands {
			commands = append(commands, quote.Word(c))
		}
		printLine(w, "  %s: %s, %s, by %s", d.Target, d.Reason, times, orDash(strings.Join(commands, ", ")))
		if d.Rule != nil {
			printLine(w, "    nearest rule: %s", d.Rule)
		}
		if how := d.Remedy(); how != "" {
			printLine(w, "    allow: %s", how)
		}
	}
	if denials.Others > 0 {
		printLine(w, "  and %d denials of destinations that were too many to tell apart", denials.Others)
	}
	if denials.Lost > 0 {
		printLine(w, "  %d events were lost, because they came faster than they could be read: numbers are too low, and destinations may be missing", denials.Lost)
	}
	if len(denials.Suggestions.Objects) > 0 {
		fmt.Fprint(w, "\nThis would allow them:\n\n")
	} else {
		fmt.Fprintln(w)
	}
	shown := denials.Suggestions
	left := len(shown.Objects) - denialsShown
	shown.Objects = shown.Objects[:min(denialsShown, len(shown.Objects))]
	shown.Unknown = shown.Unknown[:min(denialsShown, len(shown.Unknown))]
	fmt.Fprint(w, quote.Lines(shown.YAML()))
	if left > 0 {
		printLine(w, "# and %d more; --suggest FILE writes all of them", left)
	}
}

// denialsShown is how many destinations are listed.
const denialsShown = 50
