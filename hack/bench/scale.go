// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/egressd/egressd/policy/load"
)

// scaleKeys are what -what calls the measurements of this file.
var scaleKeys = []string{"load", "change", "memory", "flat"}

// scale is what egressd costs with one policy. Durations are in milliseconds,
// sizes in MiB.
type scale struct {
	Policy string `json:"policy"`
	// Ready is from the start of the process until it is ready; Read, Decode
	// and Compile are the steps of loading the policy alone.
	Ready   float64 `json:"readyMs,omitempty"`
	Read    float64 `json:"readMs,omitempty"`
	Decode  float64 `json:"decodeMs,omitempty"`
	Compile float64 `json:"compileMs,omitempty"`
	// CPU is the processor time of a process that loads and ends.
	CPU    float64 `json:"cpuMs,omitempty"`
	Change *change `json:"change,omitempty"`
	Memory *memory `json:"memory,omitempty"`
	Flat   *flat   `json:"flat,omitempty"`
}

// flat is the median cost of a connect() in microseconds, and its relation to
// the same connect() without egressd.
type flat struct {
	Refused      float64 `json:"refusedMicros"`
	Allowed      float64 `json:"allowedMicros"`
	RefusedRatio float64 `json:"refusedRatio"`
	AllowedRatio float64 `json:"allowedRatio"`
	// ToSmall are the ratios to egressd with the smallest policy, measured in
	// turns with it.
	RefusedToSmall float64 `json:"refusedToSmall"`
	AllowedToSmall float64 `json:"allowedToSmall"`
}

// measureScale measures egressd alone, with policies of several shapes.
func measureScale(ctx context.Context, o options, res *result) (err error) {
	wanted := false
	for _, k := range scaleKeys {
		wanted = wanted || o.measures(k)
	}
	if !wanted || !o.wanted("egressd") {
		return nil
	}
	o.only, o.duration = "egressd", time.Second
	var small *bench
	defer func() {
		if small != nil {
			err = errors.Join(err, small.close())
		}
	}()
	for _, s := range shapes() {
		fmt.Fprintln(os.Stderr, "policy:", s.name)
		b, err := newBench(ctx, o, s.files())
		if err != nil {
			return err
		}
		sc, err := b.scale(ctx, s, cmp.Or(small, b))
		if small == nil {
			small = b
		} else {
			err = errors.Join(err, b.close())
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		res.Scale = append(res.Scale, sc)
	}
	return nil
}

// scale measures the daemon of b, which has just started.
func (b *bench) scale(ctx context.Context, s shape, small *bench) (*scale, error) {
	sc := &scale{Policy: s.name}
	var err error
	if b.measures("load") {
		sc.Ready = float64(b.started.Milliseconds())
		if err := b.loadAlone(ctx, sc); err != nil {
			return nil, err
		}
	}
	if b.measures("memory") {
		if sc.Memory, err = b.memory(ctx); err != nil {
			return nil, err
		}
	}
	if b.measures("flat") && s.addresses > 0 {
		if sc.Flat, err = b.flat(ctx, small); err != nil {
			return nil, err
		}
	}
	if b.measures("change") {
		if sc.Change, err = b.changes(ctx); err != nil {
			return nil, err
		}
	}
	return sc, nil
}

// loadVerb lets this program load a policy in a process of its own.
const loadVerb = "load-policy"

// loadOnce reads a policy as the daemon does and prints what the steps took.
func loadOnce(paths []string) error {
	l, err := load.Paths(paths, nil)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(l.Took)
}

// loadAlone measures loading without starting.
func (b *bench) loadAlone(ctx context.Context, sc *scale) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var reads, decodes, compiles, cpus []float64
	for range b.rounds {
		cmd := exec.CommandContext(ctx, self, loadVerb, b.daemon.ConfigDir())
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("loading the policy: %w: %s", err, out)
		}
		var took load.Took
		if err := json.Unmarshal(out, &took); err != nil {
			return err
		}
		reads = append(reads, ms(took.Read))
		decodes = append(decodes, ms(took.Decode))
		compiles = append(compiles, ms(took.Compile))
		cpus = append(cpus, ms(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()))
	}
	sc.Read, sc.Decode, sc.Compile, sc.CPU = median(reads), median(decodes), median(compiles), median(cpus)
	return nil
}

// flat measures connect() in turns: without egressd, with the small policy,
// with this one.
func (b *bench) flat(ctx context.Context, small *bench) (*flat, error) {
	var medians [2][3]float64 // by port, then by subject
	for p, port := range []uint16{closedPort, tcpPort} {
		var values [3][]float64
		for round := range 2*b.rounds + 1 {
			for i := range values {
				turn := (i + round) % len(values)
				on := [3]*bench{b, small, b}[turn]
				s, err := on.dial(ctx, on.subjects[min(turn, 1)], "", port)
				if err != nil {
					return nil, err
				}
				values[turn] = append(values[turn], s.value)
			}
		}
		for i := range values {
			medians[p][i] = median(values[i])
		}
	}
	r, a := medians[0], medians[1]
	return &flat{
		Refused: r[2], Allowed: a[2], RefusedRatio: r[2] / r[0], AllowedRatio: a[2] / a[0],
		RefusedToSmall: r[2] / r[1], AllowedToSmall: a[2] / a[1],
	}, nil
}

// stage writes a file beside the configuration directory, on its file system.
func (b *bench) stage(content []byte) (string, error) {
	path := filepath.Join(filepath.Dir(b.daemon.ConfigDir()), "staged")
	return path, os.WriteFile(path, content, 0o644)
}
