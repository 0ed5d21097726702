// SPDX-License-Identifier: Apache-2.0

// Command bench measures egressd against no proxy at all, nginx with and without
// keep-alive to the origin, HAProxy and sniproxy, side by side in one run on one machine: the same client, the same origin
// and the same wire, the subjects taking turns round by round. Only the
// ratios mean something; the numbers behind them are this machine's.
//
// Then it measures egressd alone with a big policy: loading it, changing it,
// its memory, and that connect() costs what it does with a small one.
//
// It needs root and wrk and nginx (for the origin). Of the
// subjects, those that are not installed are left out.
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
	what     string
	conns    int
	shared   bool
	profile  string
}

func main() {
	var o options
	flag.DurationVar(&o.duration, "duration", 2*time.Second, "length of one measurement")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each is measured; the median counts")
	flag.StringVar(&o.output, "o", "text", "output format: text or json")
	flag.StringVar(&o.egressd, "egressd", "", "the egressd binary; built from ./cmd/egressd if empty. Several, separated by commas, take turns with all others as egressd, egressd-2 and so on")
	flag.StringVar(&o.only, "only", "", "comma-separated subjects; all if empty")
	flag.IntVar(&o.conns, "c", 32, "concurrent connections of the HTTP client")
	flag.BoolVar(&o.shared, "shared", false, "a DestinationRule lets egressd share connections to the origin, as nginx with keepalive does")
	flag.StringVar(&o.profile, "profile", "", "directory to write profiles of egressd's processor time to")
	flag.StringVar(&o.what, "what", "", "comma-separated measurements, of "+strings.Join(keys(), ", ")+"; all if empty")
	if len(os.Args) > 1 && verbs[os.Args[1]] != nil {
		if err := verbs[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	if flag.NArg() > 0 || o.rounds < 1 || o.duration < time.Second || (o.output != "text" && o.output != "json") ||
		slices.ContainsFunc(split(o.what), func(w string) bool { return !slices.Contains(keys(), w) }) {
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
	for _, tool := range []string{"wrk", "nginx"} {
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
	res := newResult(o)
	if err := measureSubjects(ctx, o, res); err != nil {
		return err
	}
	if err := measureExec(ctx, o, res); err != nil {
		return err
	}
	if err := measureScale(ctx, o, res); err != nil {
		return err
	}
	if o.output == "json" {
		return res.writeJSON(os.Stdout)
	}
	return res.writeText(os.Stdout)
}

// measureSubjects compares egressd with the others.
func measureSubjects(ctx context.Context, o options, res *result) (err error) {
	if len(o.benchmarks()) == 0 {
		return nil
	}
	binaries := split(o.egressd)
	o.egressd = binaries[0]
	b, err := newBench(ctx, o, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	for i, binary := range binaries[1:] {
		other, err := b.another(ctx, binary, fmt.Sprintf("egressd-%d", i+2))
		if err != nil {
			return err
		}
		defer other.close()
	}
	return b.measure(ctx, res)
}

// verbs are what this program does for itself in namespaces and cgroups.
var verbs = map[string]func(args []string) error{
	dialVerb:   func(a []string) error { return dialMany(a[0], a[1]) },
	streamVerb: func(a []string) error { return stream(a[0], a[1], a[2]) },
	sinkVerb:   func(a []string) error { return sink(a[0]) },
	lookupVerb: func(a []string) error { return lookup(a[0], a[1]) },
	loadVerb:   func(a []string) error { return loadOnce(a) },

	floorVerb: func(a []string) error { return floorProxy(a[0], a[1]) },

	requestsVerb: runPlan,
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

// keys are the names of all measurements.
func keys() []string {
	var out []string
	for _, d := range benchmarks() {
		out = append(out, d.key)
	}
	return append(append(out, execKey), scaleKeys...)
}

// benchmarks are those that were asked for.
func (o options) benchmarks() []benchmark {
	return slices.DeleteFunc(benchmarks(), func(d benchmark) bool { return !o.measures(d.key) })
}

// measures says whether a measurement was asked for.
func (o options) measures(key string) bool {
	return o.what == "" || slices.Contains(split(o.what), key)
}

// wanted says whether a subject was asked for.
func (o options) wanted(name string) bool {
	return o.only == "" || slices.Contains(split(o.only), name)
}
