// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

const mib = 1 << 20

// metrics are the API server's, by their names with labels.
type metrics map[string]float64

// metrics asks the API server for its own.
func (c *cluster) metrics() (metrics, error) {
	text, err := c.patientGet("/metrics")
	if err != nil {
		return nil, err
	}
	m := metrics{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			m[line[:at]] = v
		}
	}
	return m, nil
}

// getTries is how often a busy API server is asked, and getAgain how long after it did
// not answer.
const (
	getTries = 20
	getAgain = time.Second
)

// patientGet asks the API server for what is no object, again where it has no time.
func (c *cluster) patientGet(path string) (text string, err error) {
	for range getTries {
		if text, err = c.Get(path); err == nil {
			return text, nil
		}
		time.Sleep(getAgain)
	}
	return "", err
}

// sum adds up what has a name and all of some labels, as in verb="LIST".
func (m metrics) sum(name string, labels ...string) (sum float64) {
	for key, v := range m {
		of, rest, _ := strings.Cut(key, "{")
		if of == name && !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			sum += v
		}
	}
	return sum
}

// quantile is a quantile of a histogram's difference to before, by its upper bound.
func (m metrics) quantile(before metrics, q float64, name string, labels ...string) string {
	counts := map[float64]float64{}
	for key, v := range m {
		of, rest, _ := strings.Cut(key, "{")
		_, le, ok := strings.Cut(rest, `le="`)
		if of != name+"_bucket" || !ok || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			continue
		}
		le, _, _ = strings.Cut(le, `"`)
		bound, err := strconv.ParseFloat(le, 64)
		if err == nil {
			counts[bound] += v - before[key]
		}
	}
	bounds := slices.Sorted(maps.Keys(counts))
	if len(bounds) == 0 || counts[bounds[len(bounds)-1]] == 0 {
		return "-"
	}
	for _, b := range bounds {
		if counts[b] >= q*counts[bounds[len(bounds)-1]] {
			return fmt.Sprintf("<= %g s", b)
		}
	}
	return "-"
}

// sampler asks the API server for what only a look at the moment tells.
type sampler struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	peaks   map[string]float64
}

// sampled are gauges of which the highest value counts.
var sampled = []string{
	"apiserver_current_inflight_requests", "apiserver_flowcontrol_current_inqueue_requests",
	"apiserver_flowcontrol_current_executing_seats", "process_resident_memory_bytes", "go_goroutines",
}

// sample looks every half second until its result's peak is called.
func (c *cluster) sample() *sampler {
	ctx, stop := context.WithCancel(context.Background())
	s := &sampler{stop: stop, peaks: map[string]float64{}}
	s.running.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			if m, err := c.metrics(); err == nil { // it may be too busy to answer
				for _, name := range sampled {
					s.peaks[name] = max(s.peaks[name], m.sum(name))
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return s
}

// peak ends sampling.
func (s *sampler) peak() map[string]float64 {
	s.stop()
	s.running.Wait()
	return s.peaks
}

// table prints rows, the first of which is the head.
func table(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t")+"\t")
	}
	_ = t.Flush() // to the terminal
}

// percentile of a list, by the nearest rank.
func percentile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[max(0, int(math.Ceil(q*float64(len(s))))-1)]
}
