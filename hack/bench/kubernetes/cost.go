// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// idleFor is how long nothing changes, to see what that costs.
const idleFor = 20 * time.Second

// changes are what is changed, by kind: each call changes one object.
func (c *cluster) changes(ctx context.Context) []struct {
	kind string
	do   func(i int) error
} {
	patch := func(text string, i int) []byte {
		return fmt.Appendf(nil, text, fmt.Sprint(time.Now().UnixNano(), "-", i))
	}
	return []struct {
		kind string
		do   func(i int) error
	}{
		{"ServiceEntry", func(i int) error {
			i %= c.size.entries
			_, err := c.entries.Namespace(c.namespace(i)).Patch(ctx, entryName(i), types.MergePatchType, patch(`{"metadata":{"labels":{"version":%q}}}`, i), meta.PatchOptions{})
			return err
		}},
		{"Service", func(i int) error {
			i %= c.size.services
			_, err := c.client.CoreV1().Services(c.namespace(i)).Patch(ctx, fmt.Sprintf("service-%04d", i), types.MergePatchType, patch(`{"metadata":{"labels":{"version":%q}}}`, i), meta.PatchOptions{})
			return err
		}},
		{"EndpointSlice", func(i int) error {
			at := i % c.size.services
			c.fewer[at] = !c.fewer[at] // each is a change
			n := sliceEndpoints
			if c.fewer[at] {
				n--
			}
			_, err := c.client.DiscoveryV1().EndpointSlices(c.namespace(at)).Update(ctx, c.slice(at, n), meta.UpdateOptions{})
			return err
		}},
		{"Pod of one node", func(i int) error {
			i = c.size.own + i%podsOfANode // of node-1
			_, err := c.client.CoreV1().Pods(c.podNamespace(i)).Patch(ctx, podName(i), types.MergePatchType, patch(`{"metadata":{"labels":{"version":%q}}}`, i), meta.PatchOptions{})
			return err
		}},
	}
}

// measureCost measures what nodes cost the API server while they are there, and what a
// change costs with them.
func measureCost(ctx context.Context, o options) (err error) {
	c, err := startCluster(ctx, o.size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	rows := [][]string{{"nodes", "watches", "heap and stacks, MiB", "goroutines", "resident, MiB", "idle CPU, ms/s"}}
	for _, one := range c.changes(ctx) {
		rows[0] = append(rows[0], one.kind+": CPU, ms", "KiB")
	}
	for _, count := range append([]int{0}, o.nodes...) {
		row, err := c.cost(ctx, o, count)
		if err != nil {
			return fmt.Errorf("%d nodes: %w", count, err)
		}
		rows = append(rows, row)
		table(os.Stdout, rows)
	}
	return nil
}

// cost measures one crowd.
func (c *cluster) cost(ctx context.Context, o options, count int) (row []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, restartWait)
	defer cancel()
	received := func() (int64, error) { return 0, nil }
	if count > 0 {
		of, err := c.crowd(o, sources, count)
		if err != nil {
			return nil, err
		}
		n, err := of.simulated(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, n.end()) }()
		if _, err := n.await(ctx, func(t tally) bool { return t.Synced == count }); err != nil {
			return nil, err
		}
		received = func() (int64, error) { t, err := n.ask(""); return t.Received, err }
	}
	if _, err := quiet(ctx, count, received); err != nil {
		return nil, err
	}
	if _, err := c.patientGet("/debug/pprof/heap?gc=1"); err != nil {
		return nil, err
	}
	before, err := c.metrics()
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, idleFor); err != nil {
		return nil, err
	}
	after, err := c.metrics()
	if err != nil {
		return nil, err
	}
	const cpu = "process_cpu_seconds_total"
	row = []string{
		fmt.Sprint(count), fmt.Sprint(before.sum("apiserver_longrunning_requests", `verb="WATCH"`)),
		fmt.Sprintf("%.0f", (before.sum("go_memstats_heap_inuse_bytes")+before.sum("go_memstats_stack_inuse_bytes"))/mib),
		fmt.Sprint(before.sum("go_goroutines")), fmt.Sprintf("%.0f", before.sum("process_resident_memory_bytes")/mib),
		fmt.Sprintf("%.0f", (after.sum(cpu)-before.sum(cpu))/idleFor.Seconds()*1e3),
	}
	for _, one := range c.changes(ctx) {
		began, err := quiet(ctx, count, received)
		if err != nil {
			return nil, err
		}
		if before, err = c.metrics(); err != nil {
			return nil, err
		}
		for i := range o.changes {
			if err := one.do(i); err != nil {
				return nil, err
			}
		}
		ended, err := quiet(ctx, count, received)
		if err != nil {
			return nil, err
		}
		if after, err = c.metrics(); err != nil {
			return nil, err
		}
		n := float64(o.changes)
		row = append(row, fmt.Sprintf("%.2f", (after.sum(cpu)-before.sum(cpu))/n*1e3), fmt.Sprintf("%.1f", float64(ended-began)/n/1024))
	}
	return row, nil
}

const (
	quietEvery = 2 * time.Second
	// bookmarks is what a node gets in that time when nothing changes, at most: each of
	// its watches has a bookmark a minute, and some come together.
	bookmarks = 1 << 10
	little    = 64 << 10
	// quietLooks bounds how often is looked: on a busy machine it is never quiet.
	quietLooks = 30
)

// quiet waits until nodes receive next to nothing any more.
func quiet(ctx context.Context, nodes int, received func() (int64, error)) (now int64, err error) {
	was := int64(-1 << 30)
	for range quietLooks {
		if now, err = received(); err != nil || now-was < little+bookmarks*int64(nodes) {
			return now, err
		}
		was = now
		if err := wait(ctx, quietEvery); err != nil {
			return now, err
		}
	}
	return now, nil
}
