// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/egressd/egressd/policy/source/kube"
)

// measureRestart lets nodes start at once, and the API server restart under them.
func measureRestart(ctx context.Context, o options) (err error) {
	c, err := startCluster(ctx, o.size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	kinds := []string{sources}
	if o.twin {
		kinds = append(kinds, informers)
	}
	for _, count := range o.nodes {
		for _, kind := range kinds {
			if err := c.restart(ctx, o, kind, count); err != nil {
				return fmt.Errorf("%d nodes with %s: %w", count, kind, err)
			}
		}
	}
	return nil
}

// crowd says how nodes are simulated.
func (c *cluster) crowd(o options, kind string, count int) (crowd, error) {
	config, err := c.account()
	if err != nil {
		return crowd{}, err
	}
	spread := o.spread
	if spread < 0 {
		spread = kube.DefaultSpread
	}
	return crowd{
		Host: config.Host, Token: config.BearerToken, CA: config.CAData,
		Kind: kind, Count: count, Spread: spread, Profile: o.profile,
	}, nil
}

// restart measures one crowd.
func (c *cluster) restart(ctx context.Context, o options, kind string, count int) (err error) {
	ctx, cancel := context.WithTimeout(ctx, restartWait)
	defer cancel()
	of, err := c.crowd(o, kind, count)
	if err != nil {
		return err
	}
	before, err := c.metrics()
	if err != nil {
		return err
	}
	s := c.sample()
	n, err := of.simulated(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.end()) }()
	t, err := n.await(ctx, func(t tally) bool { return t.Synced == count })
	peaks := s.peak()
	if err != nil {
		return err
	}
	after, err := c.metrics()
	if err != nil {
		return err
	}
	fmt.Printf("\n%d nodes with %s start at once\n", count, kind)
	c.report(before, after, peaks, tally{}, t)
	fmt.Printf("  a node has read everything: p50 %v, p99 %v, last %v\n", percentile(t.Took, 0.5), percentile(t.Took, 0.99), percentile(t.Took, 1))
	if t, err = n.ask("collect"); err != nil {
		return err
	}
	fmt.Printf("  the process of the simulated nodes: %.0f MiB, %.1f a node\n", t.RSS, t.RSS/float64(count))

	if !o.crash {
		return nil
	}
	c.KillAPI()
	began := time.Now()
	if err := c.startAgain(ctx); err != nil {
		return err
	}
	fmt.Printf("the API server is ready %v after it was killed\n", time.Since(began).Round(100*time.Millisecond))
	before, err = c.metrics()
	if err != nil {
		return err
	}
	s = c.sample()
	was := t
	wanted := int(after.sum("apiserver_longrunning_requests", `verb="WATCH"`))
	t, err = c.settled(ctx, n, wanted, was)
	peaks = s.peak()
	if err != nil {
		return err
	}
	if after, err = c.metrics(); err != nil {
		return err
	}
	fmt.Printf("%d nodes with %s when the API server is killed and starts again; all watch again after %v\n", count, kind, time.Since(began).Round(100*time.Millisecond))
	c.report(before, after, peaks, was, t)
	return nil
}

// startAgain starts the API server, which takes its time with many nodes that ask.
func (c *cluster) startAgain(ctx context.Context) error {
	err := c.StartAPI()
	for err != nil {
		if werr := wait(ctx, time.Second); werr != nil {
			return errors.Join(err, werr)
		}
		if _, gerr := c.Get("/readyz"); gerr == nil {
			return nil
		}
	}
	return nil
}

// settled waits until as many watches are open as before.
func (c *cluster) settled(ctx context.Context, n *nodes, watches int, was tally) (tally, error) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		m, err := c.metrics()
		if err == nil && int(m.sum("apiserver_longrunning_requests", `verb="WATCH"`)) >= watches {
			return n.ask("")
		}
		select {
		case <-ctx.Done():
			return was, fmt.Errorf("%v of %d watches are open again: %w", m.sum("apiserver_longrunning_requests", `verb="WATCH"`), watches, ctx.Err())
		case <-tick.C:
		}
	}
}

// report prints what happened between two looks.
func (c *cluster) report(before, after metrics, peaks map[string]float64, was, now tally) {
	diff := func(name string, labels ...string) float64 {
		return after.sum(name, labels...) - before.sum(name, labels...)
	}
	fmt.Printf("  requests of the nodes:")
	for _, k := range slices.Sorted(maps.Keys(now.Requests)) {
		if n := now.Requests[k] - was.Requests[k]; n > 0 {
			fmt.Printf(" %s %d", k, n)
		}
	}
	seconds := now.Seconds[min(len(now.Seconds), len(was.Seconds)):]
	fmt.Printf("; begun to read a kind, at most in a second: %d; 429: %d; received: %.0f MiB\n", slices.Max(append(seconds, 0)), now.Refused-was.Refused, float64(now.Received-was.Received)/mib)
	fmt.Printf("  API server: LIST %0.f (200: %0.f), watches open %0.f; ", diff("apiserver_request_total", `verb="LIST"`), diff("apiserver_request_total", `verb="LIST"`, `code="200"`), after.sum("apiserver_longrunning_requests", `verb="WATCH"`))
	fmt.Printf("reads from etcd %0.f (of %.0f objects), lists from the watch cache %0.f; initial events %0.f\n", diff("apiserver_storage_list_total"), diff("apiserver_storage_list_fetched_objects_total"), diff("apiserver_cache_list_total"), diff("apiserver_init_events_total"))
	fmt.Printf("  API server: CPU %.1f s, resident at most %.0f MiB, goroutines %.0f\n", diff("process_cpu_seconds_total"), peaks["process_resident_memory_bytes"]/mib, peaks["go_goroutines"])
	fmt.Printf("  at most in flight %0.f, queued by Priority and Fairness %0.f, seats taken %0.f; refused by it %0.f\n",
		peaks["apiserver_current_inflight_requests"], peaks["apiserver_flowcontrol_current_inqueue_requests"],
		peaks["apiserver_flowcontrol_current_executing_seats"], diff("apiserver_flowcontrol_rejected_requests_total"))
	fmt.Printf("  a streamed list took p50 %s, p99 %s; a LIST p50 %s, p99 %s; waiting in Priority and Fairness p99 %s\n",
		after.quantile(before, 0.5, "apiserver_watch_list_duration_seconds"), after.quantile(before, 0.99, "apiserver_watch_list_duration_seconds"),
		after.quantile(before, 0.5, "apiserver_request_duration_seconds", `verb="LIST"`), after.quantile(before, 0.99, "apiserver_request_duration_seconds", `verb="LIST"`),
		after.quantile(before, 0.99, "apiserver_flowcontrol_request_wait_duration_seconds", `execute="true"`))
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Printf("  load average: %s", text)
	}
}
