// SPDX-License-Identifier: Apache-2.0

// Command soak puts egressd under a mixed load, ends, stops, reloads and
// starves it at random meanwhile, and says at the end whether it held: what
// the clients saw, what a sniffer on the wire saw, and what the daemon took.
//
//	soak -egressd bin/egressd -for 15m
//
// It needs root. Exit codes: 0 it held, 1 it did not, 2 it could not be tried.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"text/tabwriter"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "client" {
		if err := runClient(os.Args[2:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return
	}
	os.Exit(run())
}

type options struct {
	egressd string
	self    string // the binary with the clients
	time    time.Duration
	seed    uint64
	// progress takes a line now and then; nil: none.
	progress io.Writer
}

func run() int {
	o := options{progress: os.Stderr}
	var asJSON bool
	flag.StringVar(&o.egressd, "egressd", "bin/egressd", "the `binary` to try")
	flag.DurationVar(&o.time, "for", 15*time.Minute, "how long")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "the order of the disturbances; times differ all the same")
	flag.BoolVar(&asJSON, "json", false, "the result as JSON, with all samples")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if o.self, err = os.Executable(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	res, err := soakFor(ctx, o, disturbances)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 2
	}
	if asJSON {
		err = json.NewEncoder(os.Stdout).Encode(res)
	} else {
		err = res.print(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if len(res.Faults) > 0 {
		return 1
	}
	return 0
}

// result is what is said at the end.
type result struct {
	Seed         uint64            `json:"seed"`
	Seconds      float64           `json:"seconds"`
	Kinds        []tally           `json:"kinds"`
	Disturbances []string          `json:"disturbances"`
	Packets      int               `json:"packets"` // that left the node
	Astray       int               `json:"astray"`  // of these, to where nothing may go
	Samples      []sample          `json:"samples"`
	Faults       map[string]*fault `json:"faults"`
}

func (r *result) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "attempts\tgood\texcused\tfailed\tslowest\t")
	for _, t := range r.Kinds {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%v\t\n", t.Kind, t.Good, t.Excused, t.Failed, t.Slowest.Round(time.Millisecond))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\ndisturbances: %v\n", r.Disturbances)
	fmt.Fprintf(out, "packets that left the node: %d, astray: %d\n", r.Packets, r.Astray)
	if n := len(r.Samples); n > 0 {
		first, last := r.Samples[0], r.Samples[n-1]
		for _, row := range []struct {
			what string
			of   func(sample) float64
		}{
			{"resident memory, MB", func(s sample) float64 { return s.RSS }},
			{"descriptors", func(s sample) float64 { return s.FDs }},
			{"goroutines", func(s sample) float64 { return s.Goroutines }},
			{"entries of kernel tables", func(s sample) (sum float64) {
				for _, v := range s.Entries {
					sum += v
				}
				return sum
			}},
		} {
			fmt.Fprintf(out, "%s: %.0f at first, %.0f at most, %.0f at last\n", row.what, row.of(first), peak(r.Samples, row.of), row.of(last))
		}
	}
	for about, f := range r.Faults {
		fmt.Fprintf(out, "FAULT %s: %d\n", about, f.Count)
		for _, text := range f.First {
			fmt.Fprintf(out, "    %s\n", text)
		}
	}
	verdict := "egressd held"
	if len(r.Faults) > 0 {
		verdict = "egressd did NOT hold"
	}
	_, err := fmt.Fprintf(out, "%s for %.0f s (seed %d)\n", verdict, r.Seconds, r.Seed)
	return err
}
