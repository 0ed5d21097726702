// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/egressd/egressd/internal/flowsummary"
	"github.com/egressd/egressd/internal/quote"
)

// printTallies prints what was counted, and how many events are missing in it.
func printTallies(e env, list []flowsummary.Tally, lost int, asJSON bool) {
	if lost > 0 {
		fmt.Fprintf(e.stderr, "egressd: %s came faster than they were read or written; the numbers are too low\n", counted(lost, "event"))
	}
	if asJSON {
		writeJSON(e.stdout, list)
		return
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "DENIED\tALLOWED\tSENT\tRECEIVED\tFIRST\tLAST\tWORKLOAD\tHOST\tREASONS")
	for _, t := range list {
		host := quote.Word(t.Host)
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		if len(t.Ports) > 0 {
			host += ":" + strings.Trim(strings.ReplaceAll(fmt.Sprint(t.Ports), " ", ","), "[]")
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", t.Denied, t.Allowed, t.BytesSent, t.BytesReceived,
			second(t.First), second(t.Last), orDash(quote.Word(t.Workload)), host, orDash(quote.Word(strings.Join(t.Reasons, ","))))
	}
}

// second is a time for people, as this machine's clock has it.
func second(t time.Time) string { return t.Local().Format(time.DateTime) }
