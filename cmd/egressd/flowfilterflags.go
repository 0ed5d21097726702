// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/flowfilter"
	"github.com/egressd/egressd/policy"
)

// flowFilterFlags say which events are wanted.
type flowFilterFlags struct {
	since, until                                            string
	workload, host, address, port, verdict, reason, process string
	pods                                                    podFilter
}

func (f *flowFilterFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.since, "since", "", "only what came later: so long ago (90m, 12h, 7d), or a time (2026-01-02T15:04:05Z, 2026-01-02)")
	fs.StringVar(&f.until, "until", "", "only what came until then, as for --since")
	fs.StringVar(&f.workload, "workload", "", "only of these workloads, NAME or NAMESPACE/NAME; * stands for any text")
	fs.StringVar(&f.host, "host", "", "only about these names; * stands for any text, as in *.example.com")
	fs.StringVar(&f.address, "address", "", "only to these addresses or networks, as in 10.0.0.0/8,2001:db8::1")
	fs.StringVar(&f.port, "port", "", "only to these ports")
	fs.StringVar(&f.verdict, "verdict", "", "only deny (with what audit mode would deny), would-deny, allow, direct, inspect or proxy")
	fs.StringVar(&f.reason, "reason", "", "only for these reasons, as in no-rule,name-not-allowed")
	fs.StringVar(&f.process, "process", "", "only of these processes: a command, with * for any text, or a pid")
	f.pods.register(cmd, "only this pod or workload, NAMESPACE/NAME, or NAME in --namespace", "only pods and workloads of this namespace")
}

// given says whether anything is asked for.
func (f *flowFilterFlags) given() bool { return *f != (flowFilterFlags{}) }

// read is the filter, as parameters for a daemon and by itself.
func (f *flowFilterFlags) read() (url.Values, flowfilter.Filter, error) {
	pod, err := f.pods.workload()
	if err != nil {
		return nil, flowfilter.Filter{}, err
	}
	if pod != "" && f.workload != "" {
		return nil, flowfilter.Filter{}, usageError{errors.New("--pod and --workload: name one of them")}
	}
	if err := oneOfThem(flowfilter.Verdict, f.verdict, flowfilter.Verdicts, ""); err != nil {
		return nil, flowfilter.Filter{}, err
	}
	if err := oneOfThem(flowfilter.Reason, f.reason, reasons(), "docs/REASONS.md has the reasons"); err != nil {
		return nil, flowfilter.Filter{}, err
	}
	now := time.Now()
	q := url.Values{}
	for name, text := range map[string]string{flowfilter.Since: f.since, flowfilter.Until: f.until} {
		if text == "" {
			continue
		}
		t, err := moment(text, now)
		if err != nil {
			return nil, flowfilter.Filter{}, usageError{fmt.Errorf("--%s: %w", name, err)}
		}
		q.Set(name, t.Format(time.RFC3339Nano))
	}
	for name, text := range map[string]string{
		flowfilter.Workload: pod + f.workload, flowfilter.Namespace: f.pods.namespace, flowfilter.Host: f.host, flowfilter.Address: f.address,
		flowfilter.Port: f.port, flowfilter.Verdict: f.verdict, flowfilter.Reason: f.reason, flowfilter.Process: f.process,
	} {
		q.Set(name, text)
	}
	wanted, err := flowfilter.Parse(q)
	if err != nil {
		return nil, wanted, usageError{fmt.Errorf("--%w", err)}
	}
	return q, wanted, nil
}

// reasons are those that this egressd knows.
func reasons() (out []string) {
	for _, r := range policy.Reasons() {
		out = append(out, string(r))
	}
	return out
}

// moment reads a time: so long before now, or one of a calendar. A day begins as it does
// here.
func moment(text string, now time.Time) (time.Time, error) {
	days, isDays := strings.CutSuffix(text, "d")
	if n, err := strconv.ParseUint(days, 10, 16); err == nil && isDays {
		return now.Add(-time.Duration(n) * 24 * time.Hour), nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		if d < 0 {
			return now, fmt.Errorf("%q is a time to come; write how long ago it was, as in 1h", text)
		}
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return t, nil
	}
	return now, fmt.Errorf("%q is no time: write how long ago it was (90m, 12h, 7d), or when (2026-01-02T15:04:05Z, 2026-01-02)", text)
}
