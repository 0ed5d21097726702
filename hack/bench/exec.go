// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// execKey is how -what calls the measurement of this file, execRounds how often it
// is made for each of -rounds.
const (
	execKey    = "exec"
	execRounds = 10
)

// execCost is what a command costs that does nothing, and the same under
// "egressd exec": medians of wall clock and processor time, in milliseconds.
type execCost struct {
	Bare    float64 `json:"bareMs"`
	Exec    float64 `json:"execMs"`
	BareCPU float64 `json:"bareCpuMs"`
	ExecCPU float64 `json:"execCpuMs"`
}

// measureExec runs both in turns.
func measureExec(ctx context.Context, o options, res *result) error {
	if !o.measures(execKey) || !o.wanted("egressd") {
		return nil
	}
	var bare, under, bareCPU, underCPU []float64
	run := func(wall, cpu *[]float64, args ...string) error {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		start := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
		*wall = append(*wall, ms(time.Since(start)))
		*cpu = append(*cpu, ms(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()))
		return nil
	}
	for range o.rounds * execRounds {
		if err := run(&bare, &bareCPU, "true"); err != nil {
			return err
		}
		if err := run(&under, &underCPU, o.egressd, "exec", "--allow", "example.com", "--", "true"); err != nil {
			return err
		}
	}
	res.Exec = &execCost{Bare: median(bare), Exec: median(under), BareCPU: median(bareCPU), ExecCPU: median(underCPU)}
	return nil
}

func (c *execCost) writeText(w io.Writer) {
	if c != nil {
		fmt.Fprintf(w, "\na command that does nothing: %.1f ms; under \"egressd exec\": %.1f ms more, and %.1f ms more of processor time\n", c.Bare, c.Exec-c.Bare, c.ExecCPU-c.BareCPU)
	}
}
