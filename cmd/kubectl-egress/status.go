// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/quote"
)

func statusCommand(c *cluster) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "status [NODE]",
		Short: "Show the state of egressd on every node, or all of it on one",
		Args:  usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := isJSON(out)
			if err != nil {
				return err
			}
			nodes, err := c.nodes(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) > 0 {
				if nodes, err = only(nodes, args[0]); err != nil {
					return err
				}
				if !asJSON {
					a := c.each(cmd.Context(), nodes, "status")
					_, _ = c.stdout.Write(a[0].out)
					return c.complain(a)
				}
			}
			answers := c.each(cmd.Context(), nodes, "status", "-o", "json")
			if asJSON {
				return c.statusJSON(answers)
			}
			return c.statusTable(answers)
		},
	}
	registerOutput(cmd, &out)
	return cmd
}

// only is the node of that name.
func only(nodes []node, name string) ([]node, error) {
	for _, n := range nodes {
		if n.Name == name {
			return []node{n}, nil
		}
	}
	return nil, fmt.Errorf("%w on a node %q", errNone, name)
}

// state is the part of a node's status that the table has.
type state struct {
	Version string `json:"version"`
	Ready   bool   `json:"ready"`
	Mode    string `json:"mode"`
	Policy  struct {
		Hash    string `json:"hash"`
		Error   string `json:"error"`
		Cluster struct {
			Problem string `json:"problem"`
		} `json:"cluster"`
	} `json:"policy"`
	Capture struct {
		Error string `json:"error"`
	} `json:"capture"`
	Unbound string `json:"unbound"`
}

// statusTable prints a line for each node.
func (c *cluster) statusTable(answers []answer) error {
	tw := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NODE\tREADY\tVERSION\tMODE\tPOLICY\tPROBLEM")
	for i, a := range answers {
		if a.err != nil {
			fmt.Fprintf(tw, "%s\tunknown\t-\t-\t-\tno answer\n", a.Name)
			continue
		}
		var s state
		if err := json.Unmarshal(a.out, &s); err != nil {
			answers[i].err = fmt.Errorf("read the daemon's answer: %w", err)
			fmt.Fprintf(tw, "%s\tunknown\t-\t-\t-\tnot understood\n", a.Name)
			continue
		}
		problem := cmp.Or(s.Capture.Error, s.Policy.Error, s.Unbound, s.Policy.Cluster.Problem, "-")
		fmt.Fprintf(tw, "%s\t%t\t%s\t%s\t%.12s\t%s\n", a.Name, s.Ready, quote.Line(cmp.Or(s.Version, "-")), quote.Line(cmp.Or(s.Mode, "-")),
			cmp.Or(s.Policy.Hash, "-"), quote.Line(problem))
	}
	_ = tw.Flush() // standard output
	return c.complain(answers)
}

// statusJSON prints one document for all nodes.
func (c *cluster) statusJSON(answers []answer) error {
	type one struct {
		node
		Status json.RawMessage `json:"status,omitempty"`
		Error  string          `json:"error,omitempty"`
	}
	all := []one{}
	for i, a := range answers {
		o := one{node: a.node}
		switch {
		case a.err != nil:
			o.Error = a.err.Error()
		case !json.Valid(a.out):
			answers[i].err = fmt.Errorf("the daemon's answer is no JSON")
			o.Error = answers[i].err.Error()
		default:
			o.Status = a.out
		}
		all = append(all, o)
	}
	enc := json.NewEncoder(c.stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(map[string]any{"nodes": all}); err != nil {
		return err
	}
	return c.complain(answers)
}
