// SPDX-License-Identifier: Apache-2.0

// Command bench measures egressd against no proxy at all, nginx and HAProxy,
// side by side in one run on one machine: the same client, the same origin
// and the same wire, the contestants taking turns round by round. Only the
// ratios mean something; the numbers behind them are this machine's.
//
// It needs root and wrk, iperf3 and nginx (for the origin). Of the
// contestants, those that are not installed are left out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// options are the command line.
type options struct {
	duration time.Duration
	rounds   int
	output   string
	egressd  string
	only     string
	conns    int
	rules    int
}

func main() {
	var o options
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "length of one measurement")
	flag.IntVar(&o.rounds, "rounds", 5, "how often each is measured; the median counts")
	flag.StringVar(&o.output, "o", "text", "output format: text or json")
	flag.StringVar(&o.egressd, "egressd", "", "the egressd binary; built from ./cmd/egressd if empty")
	flag.StringVar(&o.only, "only", "", "comma-separated contestants; all if empty")
	flag.IntVar(&o.conns, "c", 32, "concurrent connections of the HTTP client")
	flag.IntVar(&o.rules, "rules", 0, "further addresses in egressd's policy: what a decision costs should not depend on them")
	if len(os.Args) == 4 && os.Args[1] == dialVerb {
		if err := dialMany(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	if flag.NArg() > 0 || o.rounds < 1 || o.duration < time.Second || (o.output != "text" && o.output != "json") {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures and prints.
func run(ctx context.Context, o options) (err error) {
	for _, tool := range []string{"wrk", "iperf3", "nginx"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("needs %s: %w", tool, err)
		}
	}
	if o.egressd == "" {
		dir, derr := os.MkdirTemp("", "egressd-bench-*")
		if derr != nil {
			return derr
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		o.egressd = filepath.Join(dir, "egressd")
		out, berr := exec.CommandContext(ctx, "go", "build", "-o", o.egressd, "github.com/egressd/egressd/cmd/egressd").CombinedOutput()
		if berr != nil {
			return fmt.Errorf("building egressd: %w\n%s", berr, out)
		}
	}
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	res, err := b.measure(ctx)
	if err != nil {
		return err
	}
	if o.output == "json" {
		return res.writeJSON(os.Stdout)
	}
	return res.writeText(os.Stdout)
}

// wanted says whether a contestant was asked for.
func (o options) wanted(name string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), name)
}
