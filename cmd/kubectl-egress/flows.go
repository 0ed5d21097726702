// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/quote"
)

func flowsCommand(c *cluster) *cobra.Command {
	var f filter
	var out, verdict string
	var follow bool
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "Show what was decided on all nodes, by time",
		Long: `flows shows what "egressd flows" shows on each node: what was denied, each kind once
with how often, and the newest of what was allowed. With -f it goes on.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := isJSON(out)
			if err != nil {
				return err
			}
			p := &flowPrinter{out: c.stdout, filter: f, asJSON: asJSON}
			var nodes []node
			if f.pod != "" {
				if !strings.Contains(f.pod, "/") && f.namespace != "" {
					p.filter.pod = f.namespace + "/" + f.pod
				}
				var n node
				n, err = c.nodeOf(cmd.Context(), p.filter.pod)
				nodes = []node{n}
			} else {
				nodes, err = c.nodes(cmd.Context())
			}
			if err != nil {
				return err
			}
			ask := []string{"flows", "-o", "json"}
			if verdict != "" {
				ask = append(ask, "--verdict", verdict)
			}
			if follow {
				return c.follow(cmd.Context(), nodes, p, append(ask, "-f")...)
			}
			answers := c.each(cmd.Context(), nodes, ask...)
			p.sorted(answers)
			return c.complain(answers)
		},
	}
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "", "only pods of this namespace")
	cmd.Flags().StringVar(&f.pod, "pod", "", "only this pod, as NAMESPACE/NAME, or NAME with -n")
	cmd.Flags().StringVar(&verdict, "verdict", "", "only deny (with what audit mode would deny), direct, inspect or proxy")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new events")
	registerOutput(cmd, &out)
	return cmd
}

// filter says which events are shown.
type filter struct{ namespace, pod string }

func (f filter) has(workload string) bool {
	if f.pod != "" {
		return workload == f.pod
	}
	return f.namespace == "" || strings.HasPrefix(workload, f.namespace+"/")
}

// event is the part of one of egressd's events that a line has.
type event struct {
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"`
	Workload string    `json:"workload"`
	Process  struct {
		Command string `json:"command"`
	} `json:"process"`
	Proto     string    `json:"proto"`
	Dst       string    `json:"dst"`
	Name      string    `json:"name"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	Allowed   bool      `json:"allowed"`
	WouldDeny bool      `json:"wouldDeny"`
	Reason    string    `json:"reason"`
	Count     int       `json:"count"`
	First     time.Time `json:"first"`

	node string
	line []byte // as egressd wrote it
}

// flowPrinter prints events of all nodes.
type flowPrinter struct {
	filter filter
	asJSON bool

	mu  sync.Mutex
	out io.Writer
}

// read reads an event. ok: it is one that is shown.
func (p *flowPrinter) read(n node, line []byte) (e event, ok bool, err error) {
	if err := json.Unmarshal(line, &e); err != nil {
		return e, false, fmt.Errorf("read the daemon's answer: %w", err)
	}
	e.node, e.line = n.Name, bytes.Clone(line)
	return e, p.filter.has(e.Workload), nil
}

// sorted prints the events of all answers by time. What cannot be read is the error of
// the answer.
func (p *flowPrinter) sorted(answers []answer) {
	var all []event
	for i, a := range answers {
		for line := range bytes.Lines(a.out) {
			e, ok, err := p.read(a.node, bytes.TrimSpace(line))
			if err != nil {
				answers[i].err = cmp.Or(a.err, err)
				break
			}
			if ok {
				all = append(all, e)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b event) int { return a.Time.Compare(b.Time) })
	for _, e := range all {
		p.print(e)
	}
}

// print prints one event.
func (p *flowPrinter) print(e event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asJSON {
		node, _ := json.Marshal(e.node) // a string has no errors
		fmt.Fprintf(p.out, "{\"node\":%s,\"event\":%s}\n", node, e.line)
		return
	}
	result := "DENY"
	switch {
	case e.WouldDeny:
		result = "AUDIT"
	case e.Allowed:
		result = "ALLOW"
	}
	what := e.Name
	if e.Method != "" {
		what = e.Method + " " + e.Name + e.Path
	}
	words := []string{e.Time.Local().Format("15:04:05.000"), result, e.node, cmp.Or(e.Workload, "-"), cmp.Or(e.Process.Command, "-"), e.Proto, what, e.Dst}
	if e.Reason != "" {
		words = append(words, "("+e.Reason+")")
	}
	if e.Count > 1 {
		words = append(words, fmt.Sprintf("%d times since %s", e.Count, e.First.Local().Format("15:04:05.000")))
	}
	fmt.Fprintln(p.out, quote.Line(strings.Join(slices.DeleteFunc(words, func(s string) bool { return s == "" }), " ")))
}

// follow prints the events of the nodes as they come, until ctx is done. A node that
// ends, as when its pod is replaced, is named; the others go on.
func (c *cluster) follow(ctx context.Context, nodes []node, p *flowPrinter, args ...string) error {
	answers := make([]answer, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			answers[i] = answer{node: n, err: c.stream(ctx, n, p, args...)}
			if err := answers[i].err; err != nil && ctx.Err() == nil {
				p.mu.Lock()
				defer p.mu.Unlock()
				fmt.Fprintf(c.stderr, "node %s (pod %s): %s; no more is shown of it\n", n.Name, n.Pod, quote.Lines(err.Error()))
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return errSaid
}

// stream prints the events of one node as they come.
func (c *cluster) stream(ctx context.Context, n node, p *flowPrinter, args ...string) error {
	r, w := io.Pipe()
	var said bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		err := failure(c.kubectl(ctx, call{c.egressd(n, args...), nil, w, &said}), said.String())
		ended <- cmp.Or(err, io.EOF)
		_ = w.Close()
	}()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	var bad error
	for lines.Scan() {
		e, ok, err := p.read(n, lines.Bytes())
		if err != nil {
			bad = err
			break
		}
		if ok {
			p.print(e)
		}
	}
	_ = r.Close() // the writer fails then, and kubectl ends
	err := <-ended
	switch {
	case bad != nil:
		return bad
	case errors.Is(err, io.EOF):
		return fmt.Errorf("it has ended")
	}
	return err
}
