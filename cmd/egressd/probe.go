// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent/selfprobe"
	"github.com/egressd/egressd/internal/probe"
	"github.com/egressd/egressd/internal/quote"
)

// probeVerb is what the daemon calls itself with to be used as by a workload.
const probeVerb = "self-probe"

// probeOptions are for a daemon that is this program, whatever stands at its path
// by now (proc(5), /proc/pid/exe).
func probeOptions(interval time.Duration) (selfprobe.Options, error) {
	if interval < 0 {
		return selfprobe.Options{}, usageError{fmt.Errorf("--probe-interval is a time such as 5s, or 0, not %s", interval)}
	}
	return selfprobe.Options{Interval: interval, Command: []string{"/proc/self/exe", probeVerb}}, nil
}

func probeCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:    probeVerb + " ipv4|ipv6...",
		Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			var families []probe.Family
			for _, a := range args {
				f := probe.Family(a)
				if f != probe.IPv4 && f != probe.IPv6 {
					return usageError{fmt.Errorf("%q is no address family", a)}
				}
				families = append(families, f)
			}
			return probe.Main(families, probe.Timeout, e.stdout)
		},
	}
}

// printProbe adds what the daemon's probe of itself sees.
func printProbe(w io.Writer, p *selfprobe.ProbeStatus) {
	if p == nil {
		fmt.Fprintln(w, "probe\toff")
		return
	}
	how := "by a captured process"
	if !p.Captured {
		how = "of the listeners only: " + p.Uncaptured
	}
	var good []string
	for _, s := range p.Paths {
		since := s.Since.Local().Format(time.TimeOnly)
		switch name := fmt.Sprintf("%s over %s", s.Path, s.Family); {
		case s.OK:
			good = append(good, fmt.Sprintf("%s in %.1f ms", name, s.Seconds*1000))
		case s.Failing():
			fmt.Fprintf(w, "NO ANSWER\t%s\n", quote.Line(fmt.Sprintf("%s, since %s: %s", name, since, s.Error)))
		default:
			fmt.Fprintf(w, "probe\t%s\n", quote.Line(fmt.Sprintf("%s failed %d times since %s: %s", name, s.Failures, since, s.Error)))
		}
	}
	switch {
	case p.Rounds == 0:
		fmt.Fprintln(w, "probe\tis under way")
	case len(good) > 0:
		fmt.Fprintf(w, "probe\t%s\n", quote.Line(fmt.Sprintf("%s, each %s, answered: %s", how, p.Interval, strings.Join(good, ", "))))
	}
}
