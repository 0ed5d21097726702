// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/internal/top"
)

// sheet is what "top --once" prints.
type sheet struct {
	Workloads []sheetWorkload `json:"workloads"`
	// Lost counts events that were not told.
	Lost uint64 `json:"lost,omitempty"`
}

type sheetWorkload struct {
	top.TableRow
	Hosts []top.TableRow `json:"hosts"`
}

// sheetOf is the traffic with the hosts of each workload.
func sheetOf(t *top.Traffic, q top.Query, now time.Time) sheet {
	out := sheet{Workloads: []sheetWorkload{}, Lost: t.Lost()}
	q.Level = top.Workloads
	rows := t.Rows(q, now)
	q.Level = top.Hosts
	for _, r := range rows {
		w := sheetWorkload{TableRow: r, Hosts: []top.TableRow{}}
		if q.Workload = r.Name; r.Folded == 0 {
			w.Hosts = t.Rows(q, now)
		}
		out.Workloads = append(out.Workloads, w)
	}
	return out
}

func (s sheet) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer tw.Flush()
	fmt.Fprintln(tw, "WORKLOAD\tHOST\tVERDICT\tFLOWS\tDENIED\tAUDITED\tQUERIES\tREQUESTS\tSENT\tRECEIVED\tLAST")
	row := func(workload, host string, r top.TableRow) {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", orDash(quote.Word(workload)), host, r.Verdict,
			r.Flows, r.Denied, r.Audited, r.Queries, r.Requests, r.Sent, r.Received, r.Last.Local().Format("15:04:05"))
	}
	for _, of := range s.Workloads {
		if of.Folded > 0 {
			row(of.Name, "*", of.TableRow)
		}
		for _, r := range of.Hosts {
			row(of.Name, quote.Word(r.Name), r)
		}
	}
	if s.Lost > 0 {
		fmt.Fprintf(tw, "%d events were lost, because they came faster than they could be read: numbers are too low\n", s.Lost)
	}
}
