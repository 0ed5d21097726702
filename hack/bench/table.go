// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// writeScale prints what egressd costs with big policies.
func (res *result) writeScale(w io.Writer) error {
	if len(res.Scale) == 0 {
		return nil
	}
	tables := []struct {
		title, columns string
		line           func(*scale) []any
	}{
		{"load a policy, ms", "start to ready\tload\tof it read\tdecode\tcompile\tprocessor time", func(s *scale) []any {
			if s.Ready == 0 {
				return nil
			}
			return []any{s.Ready, s.Read + s.Decode + s.Compile, s.Read, s.Decode, s.Compile, s.CPU}
		}},
		{"add one host, ms", "rename to lookup\tof it waiting\tread\tdecode\tcompile\tapply", func(s *scale) []any {
			if s.Change == nil {
				return nil
			}
			return []any{s.Change.Effective, s.Change.Notice, s.Change.Read, s.Change.Decode, s.Change.Compile, s.Change.Apply}
		}},
		{"memory, MiB", "RSS\tGo heap\tkernel maps", func(s *scale) []any {
			if s.Memory == nil {
				return nil
			}
			return []any{s.Memory.RSS, s.Memory.Heap, s.Memory.Kernel}
		}},
		{"connect(), µs, and its ratios", "refused\tof direct\tof 10 rules\tallowed\tof direct\tof 10 rules", func(s *scale) []any {
			if s.Flat == nil {
				return nil
			}
			f := s.Flat
			return []any{f.Refused, ratio(f.RefusedRatio), ratio(f.RefusedToSmall), f.Allowed, ratio(f.AllowedRatio), ratio(f.AllowedToSmall)}
		}},
	}
	for _, t := range tables {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		lines := 0
		for _, s := range res.Scale {
			values := t.line(s)
			if values == nil {
				continue
			}
			if lines == 0 {
				fmt.Fprintf(tw, "\n%s\t%s\t\n", t.title, t.columns)
			}
			lines++
			fmt.Fprint(tw, s.Policy)
			for _, v := range values {
				if f, ok := v.(float64); ok {
					v = number(f)
				}
				fmt.Fprintf(tw, "\t%v", v)
			}
			fmt.Fprint(tw, "\t\n")
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	return res.writeMaps(w)
}

// ratio prints two digits behind the point.
type ratio float64

func (r ratio) String() string { return fmt.Sprintf("%.2f", float64(r)) }

// writeMaps prints the kernel's memory for each map: that of the smallest and
// the biggest policy.
func (res *result) writeMaps(w io.Writer) error {
	first, last := res.Scale[0].Memory, res.Scale[len(res.Scale)-1].Memory
	if first == nil || last == nil {
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "\nkernel maps, MiB\t%s\t%s\t\n", res.Scale[0].Policy, res.Scale[len(res.Scale)-1].Policy)
	for _, name := range slices.Sorted(maps.Keys(last.Maps)) {
		fmt.Fprintf(tw, "%s\t%.2f\t%.2f\t\n", name, first.Maps[name], last.Maps[name])
	}
	return tw.Flush()
}
